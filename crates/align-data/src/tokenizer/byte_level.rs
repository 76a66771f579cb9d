//! Tokenizers of folders that ship `vocab.json` and `merges.txt`, as GPT-2 and Qwen2 do.

use std::path::Path;

use align_types::TokenId;
use tokenizers::{
    NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    decoders::byte_level::ByteLevel as ByteLevelDecoder,
    models::bpe::{BPE, Merges, Vocab},
    normalizers::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::{
    Inner, failed,
    folder::{Folder, Special, Vocabulary, surround},
    normaliser::Normaliser,
    read_json,
};
use crate::{Error, Result};

/// Where Qwen2 cuts a text before it merges bytes: contractions, words, single digits, signs, white space.
const QWEN2: &str = r"(?i:'(?:s|t|re|ve|m|ll|d))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Builds a byte-level BPE from the two files.
pub(super) fn build(vocab: &Path, merges: &Path, folder: &Folder) -> Result<(Inner, Special)> {
    let mut vocabulary = read_vocabulary(vocab)?;
    let merges = read_merges(merges, &vocabulary)?;
    let mut special = folder.special(|id| vocabulary.tokens.get(&id).cloned())?;
    if let (false, Some((token, _))) =
        (special.contains_key("eos_token"), vocabulary.ids.get_key_value("<|endoftext|>"))
    {
        special.insert("eos_token".into(), token.clone());
    }
    let declared = folder.declared(&special)?;
    vocabulary.place(&declared);

    let fail = |e| failed(vocab.display(), e);
    let ids: Vocab = vocabulary.ids.iter().map(|(text, id)| (text.clone(), *id)).collect();
    let model = BPE::builder().vocab_and_merges(ids, merges).build().map_err(fail)?;
    let mut inner = Inner::new(model.into());
    let space = folder.flag("add_prefix_space").unwrap_or_default();
    let qwen = folder.class().starts_with("Qwen2")
        || folder.class().is_empty() && folder.model_type().starts_with("qwen");
    let cut: PreTokenizerWrapper = if qwen {
        inner.with_normalizer(Some(Normaliser::Library(NormalizerWrapper::NFC(NFC)))).map_err(fail)?;
        let pattern = SplitPattern::Regex(QWEN2.into());
        let words = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(fail)?;
        Sequence::new(vec![words.into(), ByteLevel::new(space, true, false).into()]).into()
    } else {
        ByteLevel::new(space, true, true).into()
    };
    inner.with_pre_tokenizer(Some(cut));
    inner.with_decoder(Some(ByteLevelDecoder::default()));
    inner.add_tokens(declared.into_iter().map(|declared| declared.token)).map_err(fail)?;

    let added = |flag: &str, name: &str| -> Vec<(TokenId, String)> {
        let token = special.get(name).filter(|_| folder.flag(flag) == Some(true));
        token.and_then(|text| Some((*vocabulary.ids.get(text)?, text.clone()))).into_iter().collect()
    };
    let post = surround(&added("add_bos_token", "bos_token"), &added("add_eos_token", "eos_token"))?;
    inner.with_post_processor(Some(post));
    Ok((inner, special))
}

fn read_vocabulary(path: &Path) -> Result<Vocabulary> {
    let mut entries = vec![];
    for (token, id) in read_json(path)?.unwrap_or_default() {
        let Some(id) = id.as_u64().and_then(|id| TokenId::try_from(id).ok()) else {
            return Err(failed(path.display(), format!("{token:?} has no token id").into()));
        };
        entries.push((id, token));
    }
    Ok(Vocabulary::new(entries))
}

/// Reads pairs of tokens, one a line, and checks what the library takes for granted.
fn read_merges(path: &Path, vocabulary: &Vocabulary) -> Result<Merges> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let mut merges = vec![];
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with("#version") {
            continue;
        }
        let pair = line.split_once(' ').filter(|(left, right)| {
            [(*left).to_owned(), (*right).to_owned(), format!("{left}{right}")]
                .iter()
                .all(|token| vocabulary.ids.contains_key(token))
        });
        let Some((left, right)) = pair else {
            let message =
                format!("line {number}: {line:?} is not a pair of tokens of vocab.json that make a third");
            return Err(failed(path.display(), message.into()));
        };
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}
