//! The fields of a SentencePiece model file that encoding needs, read from its protocol buffer.

use std::path::Path;

use crate::{Error, Result};

/// What a piece is for (`ModelProto.SentencePiece.Type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// One entry of the vocabulary; its id is its place in the file.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) score: f32,
    pub(super) kind: Kind,
}

/// The two algorithms that language models use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
}

/// What a `tokenizer.model` says.
#[derive(Debug)]
pub(super) struct ModelFile {
    pub(super) pieces: Vec<Piece>,
    pub(super) algorithm: Algorithm,
    pub(super) byte_fallback: bool,
    /// The id of the piece for characters that have none.
    pub(super) unknown: usize,
    pub(super) bos: Option<String>,
    pub(super) eos: Option<String>,
    pub(super) charsmap: Vec<u8>,
    pub(super) add_dummy_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
}

impl ModelFile {
    /// Reads a file and checks what encoding relies on.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let failed = |message| Error::Tokenizer { what: path.display().to_string(), message };
        Self::parse(&bytes).map_err(|why| {
            failed(if is_rank_list(&bytes) {
                "the file is a list of tiktoken ranks, not a SentencePiece model; load the folder with \
                 transformers' AutoTokenizer and save it again to get a tokenizer.json"
                    .into()
            } else {
                format!("the file is not a usable SentencePiece model: {why}")
            })
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut raw = Raw::default();
        for field in Fields(bytes) {
            match field? {
                (1, Wire::Bytes(piece)) => raw.pieces.push(parse_piece(piece, raw.pieces.len())?),
                (2, Wire::Bytes(spec)) => raw.trainer_spec(spec)?,
                (3, Wire::Bytes(spec)) => raw.normalizer_spec(spec)?,
                _ => {}
            }
        }
        raw.check()
    }
}

/// The file's fields with the defaults of the format.
struct Raw {
    pieces: Vec<Piece>,
    model_type: u64,
    byte_fallback: bool,
    whitespace_as_suffix: bool,
    bos: (bool, String),
    eos: (bool, String),
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            pieces: vec![],
            model_type: 1,
            byte_fallback: false,
            whitespace_as_suffix: false,
            bos: (true, "<s>".into()),
            eos: (true, "</s>".into()),
            charsmap: vec![],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

impl Raw {
    fn trainer_spec(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (3, Wire::Varint(value)) => self.model_type = value,
                (24, Wire::Varint(value)) => self.whitespace_as_suffix = value != 0,
                (35, Wire::Varint(value)) => self.byte_fallback = value != 0,
                // A negative id, which says that there is no such token, is a varint of 64 bits.
                (41, Wire::Varint(id)) => self.bos.0 = id.cast_signed() >= 0,
                (42, Wire::Varint(id)) => self.eos.0 = id.cast_signed() >= 0,
                (46, Wire::Bytes(piece)) => self.bos.1 = text(piece, "bos_piece")?,
                (47, Wire::Bytes(piece)) => self.eos.1 = text(piece, "eos_piece")?,
                _ => {}
            }
        }
        Ok(())
    }

    fn normalizer_spec(&mut self, bytes: &[u8]) -> Result<(), String> {
        for field in Fields(bytes) {
            match field? {
                (2, Wire::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Wire::Varint(value)) => self.add_dummy_prefix = value != 0,
                (4, Wire::Varint(value)) => self.remove_extra_whitespaces = value != 0,
                (5, Wire::Varint(value)) => self.escape_whitespaces = value != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses what SentencePiece refuses itself, and what is not implemented here.
    fn check(self) -> Result<ModelFile, String> {
        if self.pieces.is_empty() {
            return Err("it has no pieces".into());
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = self.pieces.iter().find(|piece| !seen.insert(piece.text.as_str())) {
            return Err(format!("the piece {:?} is there twice", twice.text));
        }
        let mut unknowns = (0..).zip(&self.pieces).filter(|(_, piece)| piece.kind == Kind::Unknown);
        let (Some((unknown, _)), None) = (unknowns.next(), unknowns.next()) else {
            return Err("it needs exactly one piece for unknown characters".into());
        };
        let bytes = self.pieces.iter().filter(|piece| piece.kind == Kind::Byte).count();
        if self.byte_fallback && bytes != 256 {
            return Err(format!("byte_fallback is set, and it has {bytes} of the 256 bytes"));
        }
        if self.whitespace_as_suffix || !self.escape_whitespaces {
            return Err(
                "white space as a suffix (treat_whitespace_as_suffix) or not escaped is not read".into()
            );
        }
        let algorithm = match self.model_type {
            1 => Algorithm::Unigram,
            2 => Algorithm::Bpe,
            other => return Err(format!("model_type {other} is not read, only unigram (1) and BPE (2)")),
        };
        let control = |(wanted, name): (bool, String)| {
            let there = self.pieces.iter().any(|piece| piece.kind == Kind::Control && piece.text == name);
            (wanted && there).then_some(name)
        };
        let (bos, eos) = (control(self.bos), control(self.eos));
        Ok(ModelFile {
            pieces: self.pieces,
            algorithm,
            byte_fallback: self.byte_fallback,
            unknown,
            bos,
            eos,
            charsmap: self.charsmap,
            add_dummy_prefix: self.add_dummy_prefix,
            remove_extra_whitespaces: self.remove_extra_whitespaces,
        })
    }
}

fn parse_piece(bytes: &[u8], id: usize) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(value)) => piece.text = text(value, &format!("piece {id}"))?,
            (2, Wire::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Varint(kind)) => {
                piece.kind = match kind {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("piece {id} is of the unknown type {other}")),
                };
            }
            _ => {}
        }
    }
    if piece.text.is_empty() || !piece.score.is_finite() {
        return Err(format!("piece {id} is empty, or its score is not a number"));
    }
    Ok(piece)
}

fn text(bytes: &[u8], what: &str) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("{what} is not UTF-8"))
}

/// Tells a list of `BASE64 RANK` lines, which some folders have under the same name, from a broken model.
fn is_rank_list(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().and_then(|line| str::from_utf8(line).ok());
    let parts = line.and_then(|line| line.trim_end().split_once(' '));
    parts.is_some_and(|(token, rank)| {
        rank.parse::<u32>().is_ok()
            && !token.is_empty()
            && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
    })
}

/// The value of a field, by its kind on the wire.
enum Wire<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// Walks over the fields of a message; after an error it ends.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or_else(|| {
            self.0 = &[];
            "a field is cut off or malformed".to_owned()
        });
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Fixed64
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        (key >> 3 > 0).then_some((key >> 3, value))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for place in 0..10 {
            let byte = *self.take(1)?.first()?;
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}
