//! The normalisation of SentencePiece: characters by the model's map, white space by its settings.
//!
//! The library's own reader of these maps looks at whole grapheme clusters, takes the shortest match and may panic
//! on a map from a broken file; SentencePiece takes the longest match at every place, as is done here.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

/// The mark that stands for a space in SentencePiece's vocabularies.
pub(super) const SPACE: &str = "\u{2581}";

/// The normaliser of a tokenizer: one of the library's, or that of a SentencePiece model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Normaliser {
    Library(NormalizerWrapper),
    #[serde(skip)]
    SentencePiece(Arc<SpaceNormaliser>),
}

impl Normalizer for Normaliser {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        match self {
            Self::Library(inner) => inner.normalize(text),
            Self::SentencePiece(inner) => {
                let steps = inner.aligned(text.get());
                let count = text.get().chars().count();
                let begin = steps.first().map_or(0, |(_, from)| *from);
                // Changed in place: offsets of tokens then speak of the text that was given.
                text.transform(changes(&steps, count), begin);
                Ok(())
            }
        }
    }
}

/// What a SentencePiece model does to a text before it is cut into pieces.
#[derive(Debug)]
pub(super) struct SpaceNormaliser {
    charsmap: Option<CharsMap>,
    symbols: Symbols,
    prefix: bool,
    remove_extra: bool,
}

impl SpaceNormaliser {
    /// Takes the model's settings; `symbols` are left as they are wherever they stand in a text.
    pub(super) fn new(
        charsmap: &[u8],
        symbols: Symbols,
        prefix: bool,
        remove_extra: bool,
    ) -> Result<Self, String> {
        let charsmap = if charsmap.is_empty() { None } else { Some(CharsMap::parse(charsmap)?) };
        Ok(Self { charsmap, symbols, prefix, remove_extra })
    }

    /// Normalises a text: the result has no spaces but those in `▁`.
    #[cfg(test)]
    pub(super) fn normalise(&self, text: &str) -> String {
        self.aligned(text).into_iter().map(|(c, _)| c).collect()
    }

    /// Normalises a text; says of each character which character of the text its step began with. A prefix belongs to
    /// the character that it stands before.
    fn aligned(&self, text: &str) -> Vec<(char, usize)> {
        let (mut rest, mut from) = (text, 0);
        while self.remove_extra && !rest.is_empty() {
            let (" ", length) = self.first(rest) else { break };
            (rest, from) = step(rest, from, length);
        }
        let mut out = Vec::with_capacity(text.len() + SPACE.len());
        if rest.is_empty() {
            return out;
        }
        let mut put = |part: &str, from: usize| out.extend(part.chars().map(|c| (c, from)));
        if self.prefix {
            put(SPACE, from);
        }
        let mut after_space = self.remove_extra;
        while !rest.is_empty() {
            let (mut piece, length) = self.first(rest);
            if after_space {
                piece = piece.trim_start_matches(' ');
            }
            if !piece.is_empty() {
                for (place, part) in piece.split(' ').enumerate() {
                    if place > 0 {
                        put(SPACE, from);
                    }
                    put(part, from);
                }
                after_space = self.remove_extra && piece.ends_with(' ');
            }
            (rest, from) = step(rest, from, length);
        }
        if self.remove_extra {
            let kept = out.iter().rposition(|(c, _)| !SPACE.contains(*c)).map_or(0, |last| last + 1);
            out.truncate(kept);
        }
        out
    }

    /// Normalises the beginning of a text that is not empty; returns how many bytes of it were used.
    fn first<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some(symbol) = self.symbols.at_start(text) {
            return (symbol, symbol.len());
        }
        if let Some((length, replacement)) = self.charsmap.as_ref().and_then(|map| map.longest(text)) {
            return (replacement, length);
        }
        let length = text.chars().next().map_or(text.len(), char::len_utf8);
        (text.get(..length).unwrap_or(text), length)
    }
}

/// Goes on by some bytes of a text; returns the rest and the number of its first character.
fn step(text: &str, from: usize, length: usize) -> (&str, usize) {
    let (used, rest) = text.split_at_checked(length).unwrap_or((text, ""));
    (rest, from + used.chars().count())
}

/// Says of each character how it changes a text of `count` characters, in the words of the library: 1 is new, 0 and
/// below replaces one and removes so many after it.
fn changes(steps: &[(char, usize)], count: usize) -> Vec<(char, isize)> {
    let runs: Vec<&[(char, usize)]> = steps.chunk_by(|a, b| a.1 == b.1).collect();
    let ends = runs.iter().skip(1).filter_map(|run| run.first()).map(|(_, from)| *from).chain([count]);
    let mut changes = Vec::with_capacity(steps.len());
    for (run, end) in runs.iter().zip(ends) {
        for (place, (c, from)) in run.iter().enumerate() {
            let replaced = end.saturating_sub(*from) as isize;
            changes.push((*c, if place == 0 { 1 - replaced } else { 1 }));
        }
    }
    changes
}

/// Texts that are found whole, the longest first.
#[derive(Debug, Default)]
pub(super) struct Symbols(HashMap<u8, Vec<String>>);

impl Symbols {
    pub(super) fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut by_first: HashMap<u8, Vec<String>> = HashMap::new();
        for text in texts {
            if let Some(first) = text.as_bytes().first() {
                by_first.entry(*first).or_default().push(text);
            }
        }
        for list in by_first.values_mut() {
            list.sort_by_key(|text| std::cmp::Reverse(text.len()));
        }
        Self(by_first)
    }

    fn at_start(&self, text: &str) -> Option<&str> {
        let list = self.0.get(text.as_bytes().first()?)?;
        list.iter().map(String::as_str).find(|symbol| text.starts_with(symbol))
    }
}

/// A map from character sequences to their replacements: a double-array trie and the replacements, each ended by
/// a zero byte.
#[derive(Debug)]
struct CharsMap {
    trie: Vec<u32>,
    replacements: String,
}

impl CharsMap {
    fn parse(blob: &[u8]) -> Result<Self, String> {
        let wrong = || "its map of characters (precompiled_charsmap) is malformed".to_owned();
        let (size, rest) = blob.split_first_chunk::<4>().ok_or_else(wrong)?;
        let size = usize::try_from(u32::from_le_bytes(*size)).map_err(|_| wrong())?;
        let (trie, replacements) = rest.split_at_checked(size).ok_or_else(wrong)?;
        let (units, []) = trie.as_chunks::<4>() else { return Err(wrong()) };
        let replacements = String::from_utf8(replacements.to_vec()).map_err(|_| wrong())?;
        Ok(Self { trie: units.iter().map(|unit| u32::from_le_bytes(*unit)).collect(), replacements })
    }

    /// Finds the longest entry that the text begins with: its length in bytes, and what replaces it.
    fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let unit = |place: u32| self.trie.get(usize::try_from(place).ok()?).copied();
        let mut place = offset(unit(0)?);
        let mut found = None;
        for (length, byte) in (1..).zip(text.bytes()) {
            place ^= u32::from(byte);
            let Some(node) = unit(place).filter(|node| node & LABEL == u32::from(byte)) else { break };
            place ^= offset(node);
            if node & HAS_VALUE != 0 && text.is_char_boundary(length) {
                found = unit(place).map(|value| (length, value & VALUE)).or(found);
            }
        }
        let (length, start) = found?;
        let replacement = self.replacements.get(usize::try_from(start).ok()?..)?;
        Some((length, replacement.split('\0').next().unwrap_or_default()))
    }
}

// The bits of a unit of the trie.
const LABEL: u32 = 1 << 31 | 0xff;
const HAS_VALUE: u32 = 1 << 8;
const VALUE: u32 = (1 << 31) - 1;

fn offset(unit: u32) -> u32 {
    let far = unit & (1 << 9) != 0;
    (unit >> 10) << if far { 8 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spaces(prefix: bool, remove_extra: bool) -> SpaceNormaliser {
        let symbols = Symbols::new(["<a>".to_owned(), "<a>b".to_owned()]);
        SpaceNormaliser::new(&[], symbols, prefix, remove_extra).unwrap()
    }

    #[test]
    fn white_space_follows_the_settings() {
        assert_eq!(spaces(true, true).normalise("  a   b  "), "▁a▁b");
        assert_eq!(spaces(true, false).normalise(" a  b "), "▁▁a▁▁b▁");
        assert_eq!(spaces(false, false).normalise(" a"), "▁a");
        assert_eq!(spaces(true, true).normalise("   "), "");
        assert_eq!(spaces(true, false).normalise(""), "");
    }

    #[test]
    fn the_longest_symbol_is_found() {
        let symbols = Symbols::new(["<a>".to_owned(), "<a>b".to_owned()]);
        assert_eq!(symbols.at_start("<a>bc"), Some("<a>b"));
        assert_eq!(symbols.at_start("<a>c"), Some("<a>"));
        assert_eq!(symbols.at_start("a"), None);
    }

    proptest! {
        #[test]
        fn a_broken_map_never_panics(blob: Vec<u8>, size in 0u32..64, text: String) {
            let mut blob = [&size.to_le_bytes()[..], &blob].concat();
            blob.resize(blob.len().max(64), 0);
            if let Ok(map) = SpaceNormaliser::new(&blob, Symbols::default(), true, true) {
                map.normalise(&text);
            }
        }
    }
}
