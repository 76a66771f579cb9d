//! What rows must be for a reward model, and what the model must be for its rows.

use std::collections::HashSet;

use align_cli::{Error, Result, talk};
use align_core::{
    Objective, ScoreModel,
    align_types::{PromptGroup, TokenId, config::RewardConfig},
};
use align_data::Rows as DataRows;
use align_lm::SequenceClassifier;
use align_rm::{PREFERENCE, RewardModelObjective};

use crate::{failure, feedback, model::Folder, rows::Rows};

/// Refuses rows that the loss cannot take, and rows of which none teaches anything.
///
/// # Errors
/// [`Error::Data`] with the row; rows on a disk that fails.
pub fn check(config: RewardConfig, rows: &Rows) -> Result<()> {
    for set in [&rows.train, &rows.eval] {
        if let Some((smallest, largest)) = feedback::scores(set)? {
            config.check_range(smallest, largest).map_err(feedback::out_of_range)?;
        }
    }
    let objective = RewardModelObjective::new(config.clone()).map_err(failure::of)?;
    let objective: &dyn Objective<dyn ScoreModel> = &objective;
    let mut kinds = Kinds::default();
    for group in rows.train.iter() {
        kinds.add(&objective.denominators(&[group?.into_owned()]).map_err(failure::of)?);
    }
    for group in rows.eval.iter() {
        objective.denominators(&[group?.into_owned()]).map_err(failure::of)?;
    }
    kinds.without_weight(&config)?.iter().for_each(|text| talk::warn(text));
    feedback::differs(rows)
}

/// How many items of each kind there are to train on.
#[derive(Debug, Default)]
struct Kinds {
    compared: f64,
    labelled: f64,
    scored: f64,
}

impl Kinds {
    /// Adds the denominators of a group: prompts with comparisons first, labelled and scored answers last.
    fn add(&mut self, denominators: &[f64]) {
        if let [compared, .., labelled, scored] = denominators {
            self.compared += compared;
            self.labelled += labelled;
            self.scored += scored;
        }
    }

    /// Says of which kinds nothing is learned because their loss has weight 0.
    ///
    /// # Errors
    /// [`Error::Usage`] where that is all of them.
    fn without_weight(&self, config: &RewardConfig) -> Result<Vec<String>> {
        let kinds = [
            (self.compared, config.pair_weight, "comparisons", "--pair-weight"),
            (self.labelled, config.binary_weight, "labelled answers", "--binary-weight"),
            (self.scored, config.score_weight, "scored answers", "--score-weight"),
        ];
        let there = || kinds.iter().filter(|(count, ..)| *count > 0.0);
        let silent: Vec<_> = there().filter(|(_, weight, ..)| *weight == 0.0).collect();
        let said = |(count, _, what, flag): &&(f64, f64, &str, &str)| {
            format!("{count} {what} teach nothing: {flag} is 0")
        };
        let texts: Vec<String> = silent.iter().map(said).collect();
        match !texts.is_empty() && silent.len() == there().count() {
            true => Err(Error::usage(
                texts.join("; "),
                ["give the kind of rows that is there a weight".to_owned()],
            )),
            false => Ok(texts),
        }
    }
}

/// Says whether a row is a chosen and a rejected answer.
pub fn is_pair(row: &PromptGroup) -> bool {
    let plain =
        row.completions.iter().filter(|it| it.rank.is_none() && it.label.is_none() && it.reward.is_none());
    row.completions.len() == 2 && plain.count() == 2
}

/// Ranks the two answers of a pair: the chosen one first, unless a column says that the other is more probably the better
/// one; equal where it says that neither is.
pub fn order_of_pair(row: &PromptGroup) -> [u32; 2] {
    match row.columns.get(PREFERENCE).and_then(serde_json::Value::as_f64) {
        Some(p) if p < 0.5 => [2, 1],
        Some(0.5) => [1, 1],
        _ => [1, 2],
    }
}

/// Refuses rows without a pair, where pairs are chosen among.
///
/// # Errors
/// [`Error::Data`]; rows on a disk that fails.
pub fn has_pairs(rows: &Rows) -> Result<()> {
    for row in rows.train.iter() {
        if is_pair(row?.as_ref()) {
            return Ok(());
        }
    }
    let message = format!("--pair-band: none of the {} rows of --data is a pair", rows.train.len());
    Err(Error::data(
        message,
        ["rankings, labels and scores have no margin: leave --pair-band out".to_owned()],
    ))
}

/// Gives a model a `pad_token_id` with which no answer ends. The score is read at the last token that is not this one,
/// here and in transformers, so that an answer that ends with it would be read one token early.
///
/// An adapter's folder has no configuration to say so in: with one, such a model is refused.
///
/// # Errors
/// Rows on a disk that fails, or rows that end with every token of the vocabulary.
pub fn fit_pad_token(
    model: SequenceClassifier,
    folder: &Folder,
    rows: &Rows,
    adapted: bool,
) -> Result<SequenceClassifier> {
    let mut ends = last_tokens(&rows.train)?;
    ends.extend(last_tokens(&rows.eval)?);
    ends.extend(folder.tokenizer.eos_ids());
    let now = model.pad_token_id();
    if now.is_some_and(|pad| !ends.contains(&pad)) {
        return Ok(model);
    }
    let tokenizer = &folder.tokenizer;
    let named = [tokenizer.pad_id(), tokenizer.bos_id()].into_iter().flatten();
    let size = TokenId::try_from(folder.config.vocab_size()).unwrap_or(TokenId::MAX);
    let Some(pad) = named.chain((0..size).rev()).find(|id| *id < size && !ends.contains(id)) else {
        return Err(Error::data(
            "--data: some answer ends with each token of the vocabulary, so that none can pad",
            [],
        ));
    };
    if adapted {
        let why = match now {
            Some(now) => format!("pad_token_id {now} of --model ends answers"),
            None => "--model has no pad_token_id".to_owned(),
        };
        let message =
            format!("{why}: a score is read before it, and an adapter's folder cannot say otherwise");
        let hint = format!("write \"pad_token_id\": {pad} into config.json of --model, or train all weights");
        return Err(Error::data(message, [hint]));
    }
    let shown = tokenizer.decode(&[pad], false).unwrap_or_default();
    let before = now.map_or("none".to_owned(), |now| format!("{now}, with which answers end"));
    talk::say(&format!("pad_token_id is {pad} ({shown:?}) in the reward model; in --model it is {before}"));
    model.with_pad_token_id(pad).map_err(failure::of)
}

fn last_tokens(rows: &DataRows) -> Result<HashSet<TokenId>> {
    let mut ends = HashSet::new();
    for row in rows.iter() {
        ends.extend(row?.completions.iter().filter_map(|answer| answer.token_ids.last().copied()));
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_weight_are_counted_and_all_of_them_are_refused() {
        let mut kinds = Kinds::default();
        // With centering there is one denominator more.
        kinds.add(&[1.0, 1.0, 0.0, 0.0]);
        kinds.add(&[0.0, 2.0, 0.0]);
        let config = RewardConfig::default();
        assert!(kinds.without_weight(&config).unwrap().is_empty());
        let no_labels = RewardConfig { binary_weight: 0.0, ..config };
        let said = kinds.without_weight(&no_labels).unwrap();
        assert_eq!(said, ["2 labelled answers teach nothing: --binary-weight is 0"]);
        // Scores have a weight, but there are none.
        let nothing = RewardConfig { pair_weight: 0.0, ..no_labels };
        let error = kinds.without_weight(&nothing).unwrap_err().to_string();
        assert!(error.contains("1 comparisons") && error.contains("--binary-weight"), "{error}");
    }
}
