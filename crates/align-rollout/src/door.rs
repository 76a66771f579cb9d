//! What is checked before anything is computed.

use align_core::align_types::{TokenId, config::SamplingConfig};

use crate::{Error, Result};

/// Checks the settings and the prompts; returns the most tokens of a completion of each prompt, at least 1.
pub(crate) fn limits(
    vocabulary: usize,
    context: Option<usize>,
    decodes: bool,
    prompts: &[Vec<TokenId>],
    config: &SamplingConfig,
) -> Result<Vec<usize>> {
    config.validate()?;
    if !decodes && !config.stop.is_empty() {
        return Err(Error::NoDecoder);
    }
    let limit = |(index, prompt): (usize, &Vec<TokenId>)| {
        let room = room(prompt, vocabulary, context).map_err(|why| Error::Prompt { index, why })?;
        Ok(room.min(config.max_new_tokens))
    };
    prompts.iter().enumerate().map(limit).collect()
}

/// Counts the positions of the longest sequence: the last token of a completion is never fed back, so it needs no
/// place in the cache. `None` without prompts.
pub(crate) fn capacity(prompts: &[Vec<TokenId>], limits: &[usize]) -> Option<usize> {
    prompts.iter().zip(limits).map(|(prompt, limit)| prompt.len().saturating_add(limit - 1)).max()
}

/// Counts the tokens that the context leaves for a completion, at least 1, or says why there is none.
fn room(prompt: &[TokenId], vocabulary: usize, context: Option<usize>) -> Result<usize, String> {
    if prompt.is_empty() {
        return Err("is empty: there is no token to continue from; begin it with the BOS token".to_owned());
    }
    if let Some(token) = prompt.iter().find(|token| **token as usize >= vocabulary) {
        return Err(format!(
            "has token {token}, but the model's vocabulary has {vocabulary} tokens; tokenizer and model do \
             not belong together"
        ));
    }
    match context {
        None => Ok(usize::MAX),
        Some(context) if prompt.len() < context => Ok(context - prompt.len()),
        Some(context) => Err(format!(
            "has {} tokens and the model's context {context}: no room for a completion; shorten the prompt",
            prompt.len()
        )),
    }
}
