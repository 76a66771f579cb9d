//! Tokenizers of folders that ship a SentencePiece `tokenizer.model` without `tokenizer.json`.
//!
//! The model file is turned into a tokenizer of the `tokenizers` crate, whose unigram and BPE models, special
//! tokens and decoders do the work, so that everything else here knows one tokenizer; only reading the file and
//! SentencePiece's normalisation are written here. `kitoken`, which reads such files itself, would bring a second
//! tokenizer beside it, without the rules by which Python's classes treat prefix spaces and special tokens.
//!
//! Texts become the ids that the family's Python tokenizer gives: for Llama's class those of transformers 5 (a
//! prefix space before the text only, or with `legacy` before every part between special tokens, and none where
//! there is a space already), for all others those of SentencePiece for every part between special tokens.

use std::path::Path;

use align_types::TokenId;
use tokenizers::{
    AddedToken, SplitDelimiterBehavior,
    decoders::{
        DecoderWrapper, byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip,
    },
    models::{bpe::BPE, unigram::Unigram},
    normalizers::Replace,
    pre_tokenizers::{
        metaspace::{Metaspace, PrependScheme},
        split::{Split, SplitPattern},
    },
};

use super::{
    Inner, failed,
    folder::{Declared, Folder, Special, Vocabulary, surround},
    model_proto::{Algorithm, Kind, ModelFile, Piece},
    normaliser::{Normaliser, SPACE, SpaceNormaliser, Symbols},
};
use crate::Result;

/// The families whose Python classes differ in more than the model file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Gemma,
    ChatGlm,
    Other,
}

impl Family {
    fn of(folder: &Folder) -> Self {
        match folder.class() {
            "LlamaTokenizer" | "LLaMATokenizer" | "CodeLlamaTokenizer" => return Self::Llama,
            "GemmaTokenizer" => return Self::Gemma,
            "ChatGLMTokenizer" => return Self::ChatGlm,
            "BaichuanTokenizer" => return Self::Other,
            _ => {}
        }
        match folder.model_type() {
            "llama" | "mistral" | "mixtral" => Self::Llama,
            "gemma" | "gemma2" | "gemma3" | "gemma3_text" => Self::Gemma,
            "chatglm" => Self::ChatGlm,
            _ => Self::Other,
        }
    }

    /// Tells whether texts begin with BOS where `add_bos_token` does not say.
    fn begins(self) -> bool {
        matches!(self, Self::Llama | Self::Gemma)
    }
}

/// The tokens that ChatGLM's tokenizers keep outside their model file, in the order of their ids.
const CHATGLM: [&str; 9] = [
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
];
/// How many of them ChatGLM2 has.
const CHATGLM2: usize = 5;
/// What every text begins with.
const CHATGLM_PREFIX: [&str; 2] = ["[gMASK]", "sop"];

/// Builds the tokenizer of a folder from its `tokenizer.model`.
pub(super) fn build(path: &Path, folder: &Folder) -> Result<(Inner, Special)> {
    let mut file = ModelFile::read(path)?;
    let family = Family::of(folder);
    let mut vocabulary = Vocabulary::new((0..).zip(file.pieces.iter().map(|piece| piece.text.clone())));
    let mut special = folder.special(|id| vocabulary.tokens.get(&id).cloned())?;
    let unknown = file.pieces.get(file.unknown).map(|piece| piece.text.clone());
    for (name, piece) in [("bos_token", &file.bos), ("eos_token", &file.eos), ("unk_token", &unknown)] {
        if let (false, Some(piece)) = (special.contains_key(name), piece) {
            special.insert(name.to_owned(), piece.clone());
        }
    }
    let mut declared = folder.declared(&special)?;
    if family == Family::ChatGlm {
        declared = chatglm(folder, file.pieces.len(), declared);
    }
    vocabulary.place(&declared);
    for (id, piece) in (0..).zip(&mut file.pieces) {
        if vocabulary.tokens.get(&id).is_some_and(|text| *text != piece.text) {
            // A placeholder that the folder gave another name: found as an added token, not as a piece.
            *piece = Piece {
                text: vocabulary.tokens.get(&id).cloned().unwrap_or_default(),
                kind: Kind::Control,
                ..*piece
            };
        }
    }
    let mut inner = assemble(path, &file, &vocabulary, family, folder)?;
    let tokens = declared.into_iter().map(|declared| declared.token);
    inner.add_tokens(tokens).map_err(|e| failed(path.display(), e))?;

    let find = |text: &str| Some((*vocabulary.ids.get(text)?, text.to_owned()));
    let named = |name: &str| special.get(name).and_then(|text| find(text));
    let (mut before, mut after) = (vec![], vec![]);
    if family == Family::ChatGlm {
        before.extend(CHATGLM_PREFIX.iter().filter_map(|text| find(text)));
    } else if folder.flag("add_bos_token").unwrap_or(family.begins()) {
        before.extend(named("bos_token"));
    }
    if folder.flag("add_eos_token").unwrap_or_default() {
        after.extend(named("eos_token"));
    }
    inner.with_post_processor(Some(surround(&before, &after)?));
    Ok((inner, special))
}

/// Declares ChatGLM's special tokens, unless the folder does.
///
/// The two that are letters are found only where they stand alone, so that words with those letters stay whole.
fn chatglm(folder: &Folder, pieces: usize, mut declared: Vec<Declared>) -> Vec<Declared> {
    // ChatGLM2 and 3 have the same class name; the code that both ship tells which tokens there are.
    let code = folder.file("tokenization_chatglm.py").and_then(|path| std::fs::read_to_string(path).ok());
    let all = code.is_none_or(|code| code.contains("<|user|>") || code.contains("<|system|>"));
    let count = if all { CHATGLM.len() } else { CHATGLM2 };
    for (id, text) in (pieces..).zip(CHATGLM).take(count) {
        if !declared.iter().any(|declared| declared.token.content == text) {
            let letters = text.bytes().all(|byte| byte.is_ascii_lowercase());
            let token = AddedToken::from(text, true).single_word(letters);
            declared.push(Declared { id: TokenId::try_from(id).ok(), token });
        }
    }
    declared.sort_by_key(|declared| declared.id.unwrap_or(TokenId::MAX));
    declared
}

/// Puts normaliser, model and decoder together, and finds the model's own special tokens in texts.
fn assemble(
    path: &Path,
    file: &ModelFile,
    vocabulary: &Vocabulary,
    family: Family,
    folder: &Folder,
) -> Result<Inner> {
    let fail = |e| failed(path.display(), e);
    let plain = file.charsmap.is_empty() && !file.remove_extra_whitespaces;
    let llama = family == Family::Llama && plain;
    let prefix = file.add_dummy_prefix && !(llama && folder.flag("add_prefix_space") == Some(false));
    // Where the parts of a text are normalised on their own anyway, symbols can be cut out before; else they belong
    // to the normalised text, whose spaces at their sides depend on them.
    let cut_before = llama || !(prefix || file.remove_extra_whitespaces);
    let symbols =
        || file.pieces.iter().filter(|piece| piece.kind == Kind::UserDefined).map(|p| p.text.clone());
    let isolated = if cut_before { None } else { isolate(symbols().collect()).map_err(fail)? };

    let mut inner = match file.algorithm {
        Algorithm::Bpe => Inner::new(bpe(file, vocabulary, isolated.is_some()).map_err(fail)?.into()),
        Algorithm::Unigram => Inner::new(unigram(file, vocabulary).map_err(fail)?.into()),
    };
    if llama {
        let scheme = match folder.flag("legacy") {
            _ if !prefix => PrependScheme::Never,
            Some(true) => PrependScheme::Always,
            _ => PrependScheme::First,
        };
        inner.with_pre_tokenizer(Some(Metaspace::new('\u{2581}', scheme, false)));
    } else {
        let normaliser = SpaceNormaliser::new(
            &file.charsmap,
            Symbols::new(symbols()),
            prefix,
            file.remove_extra_whitespaces,
        );
        let normaliser = normaliser.map_err(|why| fail(why.into()))?;
        inner.with_normalizer(Some(Normaliser::SentencePiece(normaliser.into()))).map_err(fail)?;
        if file.algorithm == Algorithm::Bpe {
            inner.with_pre_tokenizer(isolated);
        }
    }
    inner.with_decoder(Some(decoder(file, prefix).map_err(fail)?));
    let own = file.pieces.iter().filter_map(|piece| match piece.kind {
        Kind::Control | Kind::Unknown => Some(AddedToken::from(piece.text.as_str(), true)),
        Kind::UserDefined if cut_before => {
            Some(AddedToken::from(piece.text.as_str(), false).normalized(false))
        }
        _ => None,
    });
    inner.add_tokens(own).map_err(fail)?;
    Ok(inner)
}

/// Makes the pre-tokenizer that cuts out user-defined symbols, the longest first.
fn isolate(mut symbols: Vec<String>) -> tokenizers::Result<Option<Split>> {
    if symbols.is_empty() {
        return Ok(None);
    }
    symbols.sort_by_key(|symbol| std::cmp::Reverse(symbol.len()));
    let escaped: Vec<String> = symbols
        .iter()
        .map(|symbol| {
            symbol
                .chars()
                .flat_map(|c| r"\.+*?()|[]{}^$".contains(c).then_some('\\').into_iter().chain([c]))
                .collect()
        })
        .collect();
    let pattern = SplitPattern::Regex(escaped.join("|"));
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map(Some)
}

/// Makes the BPE model: SentencePiece joins the two neighbours whose union has the best score, so that every pair of
/// pieces whose union is a piece becomes a merge, in the order of the unions' scores.
fn bpe(file: &ModelFile, vocabulary: &Vocabulary, whole: bool) -> tokenizers::Result<BPE> {
    let normal: std::collections::HashSet<&str> = file
        .pieces
        .iter()
        .filter(|piece| piece.kind == Kind::Normal)
        .map(|piece| piece.text.as_str())
        .collect();
    let mut order: Vec<&Piece> = file.pieces.iter().filter(|piece| piece.kind == Kind::Normal).collect();
    order.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut merges = vec![];
    for piece in order {
        for (cut, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(cut);
            if normal.contains(left) && normal.contains(right) {
                merges.push((left.to_owned(), right.to_owned()));
            }
        }
    }
    let unknown = file.pieces.get(file.unknown).map(|piece| piece.text.clone()).unwrap_or_default();
    let vocabulary: tokenizers::models::bpe::Vocab =
        vocabulary.ids.iter().map(|(text, id)| (text.clone(), *id)).collect();
    BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .unk_token(unknown)
        .fuse_unk(true)
        .byte_fallback(file.byte_fallback)
        // Words are then parts between symbols, and the symbols, which no merge makes.
        .ignore_merges(whole)
        .build()
}

/// Makes the unigram model. Pieces that stand for no text are the least likely ones, because the library keeps them
/// in one list with the others.
fn unigram(file: &ModelFile, vocabulary: &Vocabulary) -> tokenizers::Result<Unigram> {
    let scores =
        || file.pieces.iter().filter(|piece| piece.kind == Kind::Normal).map(|piece| f64::from(piece.score));
    let least = scores().fold(f64::INFINITY, f64::min);
    let least = if least.is_finite() { least } else { 0.0 };
    let most = scores().fold(f64::NEG_INFINITY, f64::max).max(least);
    let mut entries = Vec::with_capacity(vocabulary.tokens.len());
    for (place, (id, text)) in (0..).zip(&vocabulary.tokens) {
        if *id != place {
            return Err(format!("no token has the id {place}, and an added token has {id}").into());
        }
        let piece = usize::try_from(*id).ok().and_then(|id| file.pieces.get(id));
        let score = match piece.map(|piece| (piece.kind, piece.score)) {
            Some((Kind::Normal, score)) => f64::from(score),
            // SentencePiece's own rule for them, which makes any other cut of the same text less likely.
            Some((Kind::UserDefined, _)) => (text.len() as f64 * most - 0.1).max(least),
            _ => least,
        };
        entries.push((text.clone(), score));
    }
    Unigram::from(entries, Some(file.unknown), file.byte_fallback)
}

fn decoder(file: &ModelFile, prefix: bool) -> tokenizers::Result<Decoders> {
    let mut steps: Vec<DecoderWrapper> = vec![Replace::new(SPACE, " ")?.into()];
    if file.byte_fallback {
        steps.push(ByteFallback::default().into());
    }
    steps.push(Fuse::default().into());
    if prefix || file.remove_extra_whitespaces {
        let most = if file.remove_extra_whitespaces { usize::MAX } else { 1 };
        steps.push(Strip::new(' ', most, 0).into());
    }
    Ok(Decoders::new(steps))
}
