//! From text to token ids: where the prompt ends and the answers begin, and what the limits cut.

use align_types::{Completion, PromptGroup, TokenId};
use serde_json::Value;

use crate::{
    ChatTemplate, DataConfig, RenderOptions, Tokenizer, Truncation,
    example::{Answer, Content, Example},
};

/// A row as token ids, and what is worth telling of it.
pub(crate) struct Encoded {
    pub group: PromptGroup,
    /// Whether the row is one text without a prompt of its own.
    pub language: bool,
    /// The end of the prompt that the answer's tokens replace, where they do.
    pub merged: Option<String>,
    pub without_eos: bool,
}

/// What the limits did to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Whole,
    Cut,
    NoRoom,
    /// Its length in tokens and the limit.
    TooLong(usize, usize),
}

/// Turns examples into token ids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub template: Option<&'a ChatTemplate>,
}

impl Encoder<'_> {
    pub(crate) fn encode(&self, example: Example) -> Result<Encoded, String> {
        let answers = &example.answers;
        let language = example.prompt.is_none();
        let (prompt, wholes) = match &example.prompt {
            Some(prompt) => {
                let wholes = answers
                    .iter()
                    .map(|a| self.whole(Some(prompt), &a.content, &example))
                    .collect::<Result<_, _>>()?;
                (self.prompt(prompt, &example)?, wholes)
            }
            None => self.language(&example)?,
        };
        let (prompt, completions, merged) = split(prompt, wholes);
        if !answers.is_empty() && prompt.is_empty() {
            return Err("the prompt and the answers share no token at their beginning, so the first token has nothing before it; use a tokenizer with a beginning token, or end the prompt on a token boundary".into());
        }
        if let Some(empty) = completions.iter().position(Vec::is_empty) {
            let name = answers.get(empty).map_or("completion", |a| a.name);
            return Err(format!("`{name}` adds no token to the prompt"));
        }
        let ends = |ids: &Vec<TokenId>| ids.iter().any(|id| self.tokenizer.eos_ids().contains(id));
        let without_eos = !completions.iter().all(ends);
        let merged = match merged {
            Some(tail) => Some(self.tokenizer.decode(&tail, false).map_err(|e| e.to_string())?),
            None => None,
        };
        let completions =
            answers.iter().zip(completions).map(|(answer, ids)| completion(answer, ids)).collect();
        let group =
            PromptGroup { prompt, completions, source: Some(example.source), columns: example.columns };
        Ok(Encoded { group, language, merged, without_eos })
    }

    /// The tokens of a prompt alone, with the generation prompt where there are turns.
    fn prompt(&self, prompt: &Content, example: &Example) -> Result<Vec<TokenId>, String> {
        match prompt {
            Content::Text(text) => self.tokenizer.encode_prompt(text).map_err(|e| e.to_string()),
            Content::Messages(messages) => self.render(messages, example, true),
        }
    }

    /// The tokens of a prompt and an answer together.
    fn whole(
        &self,
        prompt: Option<&Content>,
        answer: &Content,
        example: &Example,
    ) -> Result<Vec<TokenId>, String> {
        match (prompt, answer) {
            (Some(Content::Messages(turns)), Content::Messages(answer)) => {
                self.render(&[turns.as_slice(), answer.as_slice()].concat(), example, false)
            }
            (None, Content::Messages(answer)) => self.render(answer, example, false),
            (prompt, Content::Text(answer)) => {
                let mut text = match prompt {
                    Some(Content::Text(prompt)) => prompt.clone(),
                    _ => String::new(),
                };
                text.push_str(answer);
                match self.tokenizer.eos_token() {
                    Some(eos) if !answer.ends_with(eos) && !self.tokenizer.adds_eos() => text.push_str(eos),
                    _ => {}
                }
                self.tokenizer.encode_plain(&text).map_err(|e| e.to_string())
            }
            (Some(Content::Text(_)), Content::Messages(_)) => {
                Err("the prompt is text but the answer a message list".into())
            }
        }
    }

    /// Language modelling has no prompt, but nothing predicts the first token: it becomes the prompt.
    fn language(&self, example: &Example) -> Result<(Vec<TokenId>, Vec<Vec<TokenId>>), String> {
        let Some(answer) = example.answers.first() else { return Ok((vec![], vec![])) };
        let whole = self.whole(None, &answer.content, example)?;
        if whole.len() < 2 {
            return Err("the text is a single token, which leaves nothing to predict".into());
        }
        Ok((whole.iter().take(1).copied().collect(), vec![whole]))
    }

    fn render(
        &self,
        messages: &[Value],
        example: &Example,
        generation: bool,
    ) -> Result<Vec<TokenId>, String> {
        let Some(template) = self.template else {
            return Err("the row holds messages, and the model has no chat template".into());
        };
        let options = RenderOptions {
            add_generation_prompt: generation,
            tools: example.tools.clone(),
            variables: example.template_kwargs.clone(),
        };
        let rendered = template.render(messages, &options).map_err(|e| e.to_string())?;
        self.tokenizer.encode(&rendered.text, false).map_err(|e| e.to_string())
    }
}

fn completion(answer: &Answer, token_ids: Vec<TokenId>) -> Completion {
    Completion {
        label: answer.label,
        reward: answer.score,
        rank: answer.rank,
        ..Completion::named(answer.name, token_ids)
    }
}

/// Lets the answers begin where the tokens of the prompt and of prompt + answer diverge, at the smallest such
/// place over the answers. Returns the prompt, the answers, and the end of the prompt that was given up.
fn split(
    mut prompt: Vec<TokenId>,
    wholes: Vec<Vec<TokenId>>,
) -> (Vec<TokenId>, Vec<Vec<TokenId>>, Option<Vec<TokenId>>) {
    let common = |whole: &Vec<TokenId>| whole.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
    let at = wholes.iter().map(common).min().unwrap_or(prompt.len());
    let given_up = prompt.split_off(at.min(prompt.len()));
    let answers = wholes.into_iter().map(|mut whole| whole.split_off(at.min(whole.len()))).collect();
    (prompt, answers, (!given_up.is_empty()).then_some(given_up))
}

/// Cuts a row to the limits of the configuration. At least one token of every answer is always left.
pub(crate) fn fit(group: &mut PromptGroup, language: bool, config: &DataConfig) -> Fit {
    let mut cut = false;
    if let Some(limit) = config.max_prompt_length
        && group.prompt.len() > limit
    {
        if config.truncation == Truncation::Error {
            return Fit::TooLong(group.prompt.len(), limit);
        }
        keep_last(&mut group.prompt, limit);
        cut = true;
    }
    let longest = group.completions.iter().map(|c| c.token_ids.len()).max().unwrap_or(0);
    let total = group.prompt.len() + longest;
    match config.max_length {
        Some(limit) if total > limit => match config.truncation {
            Truncation::Error => Fit::TooLong(total, limit),
            Truncation::KeepStart if group.prompt.len() >= limit => Fit::NoRoom,
            Truncation::KeepStart => {
                let room = limit - group.prompt.len();
                group.completions.iter_mut().for_each(|c| c.token_ids.truncate(room));
                Fit::Cut
            }
            Truncation::KeepEnd => {
                keep_end(group, language, limit, longest);
                Fit::Cut
            }
        },
        _ if cut => Fit::Cut,
        _ => Fit::Whole,
    }
}

/// Keeps the last tokens. The answers share one prompt, so it is cut for the longest of them; one token of it
/// stays, because something must come before the first token of an answer.
fn keep_end(group: &mut PromptGroup, language: bool, limit: usize, longest: usize) {
    let PromptGroup { prompt, completions, .. } = group;
    if let (true, [one]) = (language, completions.as_mut_slice()) {
        // The first token that is left takes the place of the prompt.
        keep_last(&mut one.token_ids, limit);
        prompt.clear();
        prompt.extend(one.token_ids.drain(..1.min(one.token_ids.len())));
        return;
    }
    keep_last(prompt, limit.saturating_sub(longest).max(1));
    let room = limit.saturating_sub(prompt.len());
    completions.iter_mut().for_each(|c| keep_last(&mut c.token_ids, room));
}

fn keep_last(ids: &mut Vec<TokenId>, limit: usize) {
    ids.drain(..ids.len().saturating_sub(limit));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(prompt: &[TokenId], answers: &[&[TokenId]]) -> PromptGroup {
        PromptGroup::new(prompt.to_vec(), answers.iter().map(|a| Completion::new(a.to_vec())).collect())
    }

    fn config(max_length: usize, truncation: Truncation) -> DataConfig {
        DataConfig { max_length: Some(max_length), truncation, ..Default::default() }
    }

    #[test]
    fn answers_begin_where_the_first_of_them_diverges() {
        let (prompt, answers, given_up) = split(vec![1, 2, 3], vec![vec![1, 2, 3, 4], vec![1, 2, 9, 5]]);
        assert_eq!((prompt, answers), (vec![1, 2], vec![vec![3, 4], vec![9, 5]]));
        assert_eq!(given_up, Some(vec![3]));
        assert_eq!(split(vec![1], vec![vec![1, 2]]), (vec![1], vec![vec![2]], None));
        assert_eq!(split(vec![1, 2], vec![]), (vec![1, 2], vec![], None));
    }

    #[test]
    fn keep_start_cuts_the_end_of_the_answers() {
        let mut row = group(&[1, 2, 3], &[&[4, 5, 6], &[7]]);
        assert_eq!(fit(&mut row, false, &config(5, Truncation::KeepStart)), Fit::Cut);
        assert_eq!(row, group(&[1, 2, 3], &[&[4, 5], &[7]]));
        assert_eq!(fit(&mut row, false, &config(5, Truncation::KeepStart)), Fit::Whole);
        assert_eq!(fit(&mut row, false, &config(3, Truncation::KeepStart)), Fit::NoRoom);
    }

    #[test]
    fn keep_end_cuts_the_beginning_of_the_prompt() {
        let mut row = group(&[1, 2, 3], &[&[4, 5, 6], &[7]]);
        assert_eq!(fit(&mut row, false, &config(5, Truncation::KeepEnd)), Fit::Cut);
        assert_eq!(row, group(&[2, 3], &[&[4, 5, 6], &[7]]));
        // An answer over the limit keeps its end and one token of the prompt.
        assert_eq!(fit(&mut row, false, &config(3, Truncation::KeepEnd)), Fit::Cut);
        assert_eq!(row, group(&[3], &[&[5, 6], &[7]]));
        let mut text = group(&[1], &[&[2, 3, 4, 5]]);
        assert_eq!(fit(&mut text, true, &config(3, Truncation::KeepEnd)), Fit::Cut);
        assert_eq!(text, group(&[3], &[&[4, 5]]));
    }

    #[test]
    fn long_prompts_keep_their_end_and_errors_cut_nothing() {
        let mut row = group(&[1, 2, 3], &[&[4]]);
        let mut limits = DataConfig { max_prompt_length: Some(2), ..Default::default() };
        assert_eq!(
            fit(&mut row.clone(), false, &DataConfig { truncation: Truncation::Error, ..limits.clone() }),
            Fit::TooLong(3, 2)
        );
        assert_eq!(fit(&mut row, false, &limits), Fit::Cut);
        assert_eq!(row, group(&[2, 3], &[&[4]]));
        limits = config(2, Truncation::Error);
        assert_eq!(fit(&mut row, false, &limits), Fit::TooLong(3, 2));
    }
}
