//! Tokenizers from model folders, and small ones trained here.

use std::{collections::BTreeMap, ops::Range, path::Path};

mod byte_level;
mod folder;
mod model_proto;
mod normaliser;
mod sentencepiece;

use align_types::TokenId;
use serde_json::{Value, json};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    decoders::byte_level::ByteLevel as ByteLevelDecoder,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::byte_level::ByteLevel,
    processors::template::TemplateProcessing,
};

use self::{folder::Folder, normaliser::Normaliser};
use crate::{Error, Result};

/// The one tokenizer of this crate: that of the library, with one more kind of normaliser.
type Inner = tokenizers::TokenizerImpl<
    ModelWrapper,
    Normaliser,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// The special tokens of a tokenizer that is trained here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins every text, when given.
    pub bos: Option<String>,
    /// Ends an answer.
    pub eos: Option<String>,
    /// Fills batches in other tools; nothing here pads.
    pub pad: Option<String>,
    /// Further ones, for chat templates.
    pub extra: Vec<String>,
}

/// Turns text into token ids and back.
///
/// It is a `tokenizer.json`, a SentencePiece model, or a byte-level vocabulary with its merges, together with what
/// the folder's other files say of special tokens.
///
/// ```
/// # fn main() -> align_data::Result<()> {
/// use align_data::{SpecialTokens, Tokenizer};
/// let special = SpecialTokens { eos: Some("</s>".into()), ..Default::default() };
/// let tokenizer = Tokenizer::train_byte_level(&["low lower lowest"], 260, &special)?;
/// let ids = tokenizer.encode("low</s>", true)?;
/// assert_eq!(tokenizer.decode(&ids, true)?, "low");
/// assert_eq!(ids.last().copied(), tokenizer.eos_id());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Inner,
    special: BTreeMap<String, String>,
    eos_ids: Vec<TokenId>,
    /// What the post-processor puts before a text: BOS, or the tokens that stand for it.
    before: Vec<TokenId>,
    /// Whether the post-processor puts EOS after a text.
    adds_eos: bool,
}

impl Tokenizer {
    /// Reads the tokenizer of a model folder.
    ///
    /// It is made from `tokenizer.json`, else from SentencePiece's `tokenizer.model`, else from `vocab.json` and
    /// `merges.txt`. `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` name the special and
    /// added tokens; `generation_config.json` and `config.json` may name more tokens that end an answer. Special
    /// tokens are added to plain text as the post-processor of `tokenizer.json` does, else as `add_bos_token` and
    /// `add_eos_token` say or the family's Python tokenizer does.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`], or a file that cannot be read or parsed.
    pub fn from_folder(dir: &Path) -> Result<Self> {
        let folder = Folder::read(dir)?;
        let (inner, special) = if let Some(path) = folder.file("tokenizer.json") {
            let bytes = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
            let inner = Inner::from_bytes(bytes).map_err(|e| failed(path.display(), e))?;
            let special = folder.special(|id| inner.id_to_token(id))?;
            (inner, special)
        } else if let Some(path) = folder.file("tokenizer.model") {
            sentencepiece::build(&path, &folder)?
        } else if let (Some(vocab), Some(merges)) = (folder.file("vocab.json"), folder.file("merges.txt")) {
            byte_level::build(&vocab, &merges, &folder)?
        } else {
            let hint = if dir.is_dir() { "" } else { "; the folder does not exist" };
            let looked_for = "tokenizer.json, tokenizer.model (SentencePiece), or vocab.json with merges.txt";
            return Err(Error::NoTokenizer { folder: dir.into(), looked_for, hint: hint.into() });
        };
        Self::new(inner, special, &folder.eos_ids()?)
    }

    fn new(mut inner: Inner, special: BTreeMap<String, String>, eos: &[TokenId]) -> Result<Self> {
        // A limit or padding left in the file by an earlier user of it would silently change texts.
        inner.with_truncation(None).map_err(|e| failed("truncation", e))?;
        inner.with_padding(None);
        let mut tokenizer = Self { inner, special, eos_ids: vec![], before: vec![], adds_eos: false };
        tokenizer.eos_ids = tokenizer.eos_id().into_iter().collect();
        for id in eos {
            if !tokenizer.eos_ids.contains(id) {
                tokenizer.eos_ids.push(*id);
            }
        }
        let (with, without) = (tokenizer.encode("a", true)?, tokenizer.encode("a", false)?);
        let start = with.windows(without.len().max(1)).position(|part| part == without).unwrap_or_default();
        let eos = tokenizer.eos_id();
        tokenizer.adds_eos = eos.is_some() && with.last() == eos.as_ref() && with.last() != without.last();
        tokenizer.before = with.into_iter().take(start).collect();
        Ok(tokenizer)
    }

    /// Trains a byte-level BPE: every text can be encoded, none is lost. The same texts give the same tokenizer.
    ///
    /// With a BOS token every text begins with it. `vocab_size` includes the special tokens and the 256 bytes;
    /// short texts may give a smaller vocabulary.
    ///
    /// # Errors
    /// A vocabulary too small for the bytes and the special tokens.
    pub fn train_byte_level<S: AsRef<str>>(
        texts: &[S],
        vocab_size: usize,
        special: &SpecialTokens,
    ) -> Result<Self> {
        let named = [("bos_token", &special.bos), ("eos_token", &special.eos), ("pad_token", &special.pad)];
        let names: BTreeMap<_, _> =
            named.into_iter().filter_map(|(name, token)| Some((name.to_owned(), token.clone()?))).collect();
        let mut tokens: Vec<&String> = named.into_iter().filter_map(|(_, token)| token.as_ref()).collect();
        tokens.extend(&special.extra);
        // The same text may serve as EOS and padding.
        let mut seen = std::collections::BTreeSet::new();
        tokens.retain(|token| seen.insert(*token));
        if vocab_size < 256 + tokens.len() {
            return Err(Error::Config {
                key: "vocab-size".into(),
                value: vocab_size.to_string(),
                expected: format!("at least {} (256 bytes and the special tokens)", 256 + tokens.len()),
            });
        }
        let fail = |e| failed("training", e);
        let mut inner = Inner::new(BPE::default().into());
        inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        inner.with_decoder(Some(ByteLevelDecoder::default()));
        let trainer = BpeTrainer::builder()
            .vocab_size(vocab_size)
            .min_frequency(2)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .special_tokens(tokens.iter().map(|t| AddedToken::from(t.as_str(), true)).collect())
            .build();
        let mut trainer = TrainerWrapper::BpeTrainer(trainer);
        inner
            .train(&mut trainer, texts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().into_iter())
            .map_err(fail)?;
        if let Some(bos) = &special.bos {
            let id = inner.token_to_id(bos).unwrap_or_default();
            let processor = TemplateProcessing::builder()
                .try_single(format!("{bos} $A"))
                .map_err(|e| failed("training", e.into()))?
                .special_tokens(vec![(bos.clone(), id)])
                .build()
                .map_err(|e| failed("training", e.into()))?;
            inner.with_post_processor(Some(processor));
        }
        Self::new(inner, names, &[])
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a folder, as `AutoTokenizer` reads them.
    ///
    /// # Errors
    /// A folder that cannot be made or written.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let write = |name: &str, text: String| {
            let path = dir.join(name);
            std::fs::write(&path, text).map_err(|source| Error::Write { path, source })
        };
        std::fs::create_dir_all(dir).map_err(|source| Error::Write { path: dir.into(), source })?;
        write("tokenizer.json", self.inner.to_string(true).map_err(|e| failed("saving", e))?)?;
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        if let Value::Object(fields) = &mut config {
            fields.extend(
                self.special.iter().map(|(name, token)| (name.clone(), Value::String(token.clone()))),
            );
        }
        write("tokenizer_config.json", format!("{config:#}\n"))
    }

    /// Encodes a text; with `add_special` the post-processor adds its special tokens.
    ///
    /// Special tokens that are written out in the text become their ids in either case.
    ///
    /// # Errors
    /// A text that the tokenizer has no tokens for.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(|e| failed("encoding", e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Encodes text without adding special tokens; with the bytes of the text that each token stands for.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub(crate) fn encode_with_offsets(&self, text: &str) -> Result<(Vec<TokenId>, Vec<Range<usize>>)> {
        let encoding = self.inner.encode(text, false).map_err(|e| failed("encoding", e))?;
        let offsets = encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok((encoding.get_ids().to_vec(), offsets))
    }

    /// Encodes plain text with its special tokens, BOS and EOS once even when they are also written in the text.
    pub(crate) fn encode_plain(&self, text: &str) -> Result<Vec<TokenId>> {
        let mut ids = self.encode(text, true)?;
        let (before, text) = ids.split_at_checked(self.before.len()).unwrap_or_default();
        if text.starts_with(before) {
            ids.drain(..self.before.len());
        }
        if let (true, [.., before, last]) = (self.adds_eos, ids.as_slice())
            && before == last
        {
            ids.pop();
        }
        Ok(ids)
    }

    /// Encodes a prompt: like plain text, but open at its end.
    pub(crate) fn encode_prompt(&self, text: &str) -> Result<Vec<TokenId>> {
        let mut ids = self.encode_plain(text)?;
        if self.adds_eos {
            ids.pop();
        }
        Ok(ids)
    }

    /// Tells whether the tokenizer itself ends a text with EOS.
    pub(crate) fn adds_eos(&self) -> bool {
        self.adds_eos
    }

    /// Decodes token ids; with `skip_special` special tokens are left out.
    ///
    /// # Errors
    /// Ids that the decoder cannot put together.
    pub fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| failed("decoding", e))
    }

    /// Counts the tokens, added ones included; where added tokens leave ids out, those count too.
    pub fn vocab_size(&self) -> usize {
        let last = self.inner.get_added_vocabulary().get_added_tokens_decoder().keys().max().copied();
        let ids = last.and_then(|id| usize::try_from(id).ok()).map_or(0, |id| id.saturating_add(1));
        self.inner.get_vocab_size(true).max(ids)
    }

    /// Looks up a token's id.
    pub fn token_to_id(&self, token: &str) -> Option<TokenId> {
        self.inner.token_to_id(token)
    }

    /// Looks up the token of an id.
    pub fn id_to_token(&self, id: TokenId) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Returns the special tokens by name (`bos_token`, ...), as chat templates want them.
    pub fn special_tokens(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.special.iter().map(|(name, token)| (name.clone(), token.clone()))
    }

    fn special(&self, name: &str) -> Option<&str> {
        self.special.get(name).map(String::as_str)
    }

    /// Returns the end-of-sequence token's text.
    pub fn eos_token(&self) -> Option<&str> {
        self.special("eos_token")
    }

    /// Returns the end-of-sequence token's id.
    pub fn eos_id(&self) -> Option<TokenId> {
        self.token_to_id(self.eos_token()?)
    }

    /// Returns every token that ends an answer: the tokenizer's, `generation_config.json`'s and `config.json`'s.
    pub fn eos_ids(&self) -> &[TokenId] {
        &self.eos_ids
    }

    /// Returns the beginning-of-sequence token's text.
    pub fn bos_token(&self) -> Option<&str> {
        self.special("bos_token")
    }

    /// Returns the beginning-of-sequence token's id.
    pub fn bos_id(&self) -> Option<TokenId> {
        self.token_to_id(self.bos_token()?)
    }

    /// Returns the padding token's id; nothing here pads, but generation configurations name it.
    pub fn pad_id(&self) -> Option<TokenId> {
        self.token_to_id(self.special("pad_token")?)
    }
}

/// Reads a JSON object from a file; `None` where there is no file.
pub(crate) fn read_json(path: &Path) -> Result<Option<serde_json::Map<String, Value>>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Read { path: path.into(), source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(failed(path.display(), "the file is not a JSON object".into())),
        Err(error) => Err(failed(path.display(), error.into())),
    }
}

fn failed(what: impl std::fmt::Display, error: tokenizers::Error) -> Error {
    Error::Tokenizer { what: what.to_string(), message: error.to_string() }
}
