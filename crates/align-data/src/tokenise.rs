//! From text to token ids: where the prompt ends and the answers begin, and what the limits cut.

use align_types::{Completion, PromptGroup, TokenId};
use serde_json::Value;

use crate::{
    ChatTemplate, DataConfig, RenderOptions, Rendered, Tokenizer, TrainOn, Truncation,
    example::{Answer, Content, Example},
    masks,
};

/// A row as token ids, and what is worth telling of it.
pub(crate) struct Encoded {
    pub group: PromptGroup,
    /// The prompt before it became tokens.
    pub prompt: Option<Content>,
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
    pub train_on: TrainOn,
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
        let (prompt, mut completions, merged) = split(prompt, wholes);
        if !answers.is_empty() && prompt.is_empty() {
            return Err("the prompt and the answers share no token at their beginning, so the first token has nothing before it; use a tokenizer with a beginning token, or end the prompt on a token boundary".into());
        }
        for (answer, completion) in answers.iter().zip(&mut completions) {
            settle(answer, completion)?;
        }
        let ends =
            |answer: &Completion| answer.token_ids.iter().any(|id| self.tokenizer.eos_ids().contains(id));
        let without_eos = !completions.iter().all(ends);
        let merged = match merged {
            Some(tail) => Some(self.tokenizer.decode(&tail, false).map_err(|e| e.to_string())?),
            None => None,
        };
        let group =
            PromptGroup { prompt, completions, source: Some(example.source), columns: example.columns };
        Ok(Encoded { group, prompt: example.prompt, language, merged, without_eos })
    }

    /// The tokens of a prompt alone, with the generation prompt where there are turns.
    fn prompt(&self, prompt: &Content, example: &Example) -> Result<Vec<TokenId>, String> {
        match prompt {
            Content::Text(text) => self.tokenizer.encode_prompt(text).map_err(|e| e.to_string()),
            Content::Messages(messages) => {
                let rendered = self.render(messages, example, true)?;
                self.tokenizer.encode(&rendered.text, false).map_err(|e| e.to_string())
            }
        }
    }

    /// The tokens of a prompt and an answer together, and which of them are trained on.
    fn whole(
        &self,
        prompt: Option<&Content>,
        answer: &Content,
        example: &Example,
    ) -> Result<Completion, String> {
        match (prompt, answer) {
            (Some(Content::Messages(turns)), Content::Messages(answer)) => {
                self.conversation(&[turns.as_slice(), answer.as_slice()].concat(), turns.len(), example)
            }
            (None, Content::Messages(answer)) => self.conversation(answer, 0, example),
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
                self.tokenizer.encode_plain(&text).map(Completion::new).map_err(|e| e.to_string())
            }
            (Some(Content::Text(_)), Content::Messages(_)) => {
                Err("the prompt is text but the answer a message list".into())
            }
        }
    }

    /// Language modelling has no prompt, but nothing predicts the first token: it becomes the prompt.
    fn language(&self, example: &Example) -> Result<(Vec<TokenId>, Vec<Completion>), String> {
        let Some(answer) = example.answers.first() else { return Ok((vec![], vec![])) };
        let whole = self.whole(None, &answer.content, example)?;
        if whole.token_ids.len() < 2 {
            return Err("the text is a single token, which leaves nothing to predict".into());
        }
        Ok((whole.token_ids.iter().take(1).copied().collect(), vec![whole]))
    }

    /// The tokens of a conversation; of the assistant's turns those from turn `first` on are the answer.
    fn conversation(
        &self,
        messages: &[Value],
        first: usize,
        example: &Example,
    ) -> Result<Completion, String> {
        let rendered = self.render(messages, example, false)?;
        if self.train_on != TrainOn::Assistant {
            let ids = self.tokenizer.encode(&rendered.text, false).map_err(|e| e.to_string())?;
            return Ok(Completion::new(ids));
        }
        let marks = self.template.is_some_and(ChatTemplate::marks);
        let prefix = |turns: &[Value], header: bool| self.render(turns, example, header);
        let spans = masks::assistant_spans(messages, first, &rendered, marks, &prefix)?;
        let (ids, offsets) = self.tokenizer.encode_with_offsets(&rendered.text).map_err(|e| e.to_string())?;
        Ok(Completion { trained: Some(masks::tokens_of(&spans, &offsets)), ..Completion::new(ids) })
    }

    fn render(&self, messages: &[Value], example: &Example, generation: bool) -> Result<Rendered, String> {
        let Some(template) = self.template else {
            return Err("the row holds messages, and the model has no chat template".into());
        };
        let options = RenderOptions {
            add_generation_prompt: generation,
            tools: example.tools.clone(),
            variables: example.template_kwargs.clone(),
        };
        template.render(messages, &options).map_err(|e| e.to_string())
    }
}

/// Writes into an answer's tokens what the row says of it, and refuses those that teach nothing.
fn settle(answer: &Answer, completion: &mut Completion) -> Result<(), String> {
    completion.name = answer.name.into();
    completion.label = answer.label;
    completion.reward = answer.score;
    completion.rank = answer.rank;
    completion.finish_reason = answer.finish_reason;
    match completion.token_ids.len() {
        0 => Err(format!("`{}` adds no token to the prompt", answer.name)),
        all => match completion.trained_tokens() {
            0 => Err("no token is trained on: none of its turns is the assistant's, or the template marks \
                      nothing of them with {% generation %}"
                .into()),
            trained => {
                // A mask that leaves nothing out is none.
                completion.trained.take_if(|_| trained == all);
                Ok(())
            }
        },
    }
}

/// Lets the answers begin where the tokens of the prompt and of prompt + answer diverge, at the smallest such
/// place over the answers. Returns the prompt, the answers, and the end of the prompt that was given up.
fn split(
    mut prompt: Vec<TokenId>,
    mut wholes: Vec<Completion>,
) -> (Vec<TokenId>, Vec<Completion>, Option<Vec<TokenId>>) {
    let common = |whole: &Completion| whole.token_ids.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
    let at = wholes.iter().map(common).min().unwrap_or(prompt.len());
    let given_up = prompt.split_off(at.min(prompt.len()));
    wholes.iter_mut().for_each(|whole| whole.keep(at..usize::MAX));
    (prompt, wholes, (!given_up.is_empty()).then_some(given_up))
}

/// Cuts a row to the limits of the configuration. At least one token of every answer that is trained on is always
/// left: there is no room for a row of which none would be.
pub(crate) fn fit(group: &mut PromptGroup, language: bool, config: &DataConfig) -> Fit {
    match cut_to(group, language, config) {
        Fit::Cut if group.completions.iter().any(|answer| answer.trained_tokens() == 0) => Fit::NoRoom,
        fitted => fitted,
    }
}

fn cut_to(group: &mut PromptGroup, language: bool, config: &DataConfig) -> Fit {
    let mut cut = false;
    if let Some(limit) = config.max_prompt_length
        && group.prompt.len() > limit
    {
        if matches!(config.truncation, Truncation::Error | Truncation::Drop) {
            return Fit::TooLong(group.prompt.len(), limit);
        }
        keep_last(&mut group.prompt, limit);
        cut = true;
    }
    let longest = group.completions.iter().map(|c| c.token_ids.len()).max().unwrap_or(0);
    let total = group.prompt.len() + longest;
    match config.max_length {
        Some(limit) if total > limit => match config.truncation {
            Truncation::Error | Truncation::Drop => Fit::TooLong(total, limit),
            Truncation::KeepStart if group.prompt.len() >= limit => Fit::NoRoom,
            Truncation::KeepStart => {
                let room = limit - group.prompt.len();
                group.completions.iter_mut().for_each(|c| c.keep(0..room));
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
        keep_end_of(one, limit);
        prompt.clear();
        prompt.extend(one.token_ids.first());
        one.keep(1..usize::MAX);
        return;
    }
    keep_last(prompt, limit.saturating_sub(longest).max(1));
    let room = limit.saturating_sub(prompt.len());
    completions.iter_mut().for_each(|c| keep_end_of(c, room));
}

fn keep_end_of(completion: &mut Completion, limit: usize) {
    completion.keep(completion.token_ids.len().saturating_sub(limit)..usize::MAX);
}

fn keep_last(ids: &mut Vec<TokenId>, limit: usize) {
    ids.drain(..ids.len().saturating_sub(limit));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "a mask of one range")]

    use super::*;

    fn group(prompt: &[TokenId], answers: &[&[TokenId]]) -> PromptGroup {
        PromptGroup::new(prompt.to_vec(), answers.iter().map(|a| Completion::new(a.to_vec())).collect())
    }

    fn config(max_length: usize, truncation: Truncation) -> DataConfig {
        DataConfig { max_length: Some(max_length), truncation, ..Default::default() }
    }

    #[test]
    fn answers_begin_where_the_first_of_them_diverges() {
        let cut = |prompt: &[TokenId], wholes: &[&[TokenId]]| {
            let wholes = wholes.iter().map(|ids| Completion::new(ids.to_vec())).collect();
            let (prompt, answers, given_up) = split(prompt.to_vec(), wholes);
            (prompt, answers.into_iter().map(|answer| answer.token_ids).collect::<Vec<_>>(), given_up)
        };
        let (prompt, answers, given_up) = cut(&[1, 2, 3], &[&[1, 2, 3, 4], &[1, 2, 9, 5]]);
        assert_eq!((prompt, answers), (vec![1, 2], vec![vec![3, 4], vec![9, 5]]));
        assert_eq!(given_up, Some(vec![3]));
        assert_eq!(cut(&[1], &[&[1, 2]]), (vec![1], vec![vec![2]], None));
        assert_eq!(cut(&[1, 2], &[]), (vec![1, 2], vec![], None));
    }

    #[test]
    fn cutting_takes_the_mask_along_and_drops_rows_of_which_nothing_is_trained() {
        let masked = |trained: &[std::ops::Range<usize>]| {
            let mut row = group(&[1], &[&[2, 3, 4, 5]]);
            row.completions[0].trained = Some(trained.to_vec());
            row
        };
        let mut row = masked(&[1..2, 3..4]);
        assert_eq!(fit(&mut row, true, &config(4, Truncation::KeepStart)), Fit::Cut);
        assert_eq!((row.flat_tokens(), row.completions[0].trained.clone()), (4, Some(vec![1..2])));
        let mut row = masked(&[1..2, 3..4]);
        assert_eq!(fit(&mut row, true, &config(3, Truncation::KeepEnd)), Fit::Cut);
        assert_eq!((row.prompt.clone(), row.completions[0].trained.clone()), (vec![3], Some(vec![1..2])));
        let cut = |limits| fit(&mut masked(&[3..4]), true, &limits);
        assert_eq!(cut(config(4, Truncation::KeepStart)), Fit::NoRoom);
        assert_eq!(cut(config(5, Truncation::KeepStart)), Fit::Whole);
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
