//! What a trained reward model says of held-out comparisons, next to what their lengths say.

use std::collections::BTreeMap;

use align_cli::Result;
use align_core::{
    align_types::{Completion, PromptGroup},
    evaluation::{PairAgreement, PairMargin, Prompts},
    intervals::Estimate,
};
use align_data::Rows;
use serde_json::{Value, json};

use super::{
    rows::{is_pair, order_of_pair},
    scorer::Scorer,
};
use crate::failure;

/// Figures of held-out comparisons.
pub struct HeldOut {
    comparisons: usize,
    prompts: usize,
    agreement: PairAgreement,
    /// The data type in which the weights are saved, where it is less than the float32 that was measured.
    saved: Option<&'static str>,
}

/// Measures a model on the comparisons of some rows; `None` where rows compare nothing.
///
/// Every two answers of a ranking with different ranks are a comparison, and every two scored or labelled ones to the same
/// prompt with different scores; intervals are over prompts, because those of one prompt depend on each other. `saved` names the data type of the weights that are written, where it is not float32.
///
/// # Errors
/// A model that fails, a reward that is not finite, rows on a disk that fails.
pub fn measure(
    rows: &Rows,
    scorer: &mut Scorer,
    seed: u64,
    saved: Option<&'static str>,
) -> Result<Option<HeldOut>> {
    let rows = rows.clone().into_vec()?;
    let rewards = scorer.rewards(&rows)?;
    let prompts = Prompts::of(&rows);
    let within = rows.iter().zip(&rewards).enumerate();
    let within = within.flat_map(|(index, (row, rewards))| comparisons(index, row, rewards));
    let margins: Vec<PairMargin> = within.chain(across(&rows, &rewards, &prompts)).collect();
    if margins.is_empty() {
        return Ok(None);
    }
    let agreement = PairAgreement::of(&margins, &prompts, seed).map_err(failure::of)?;
    Ok(Some(HeldOut { comparisons: margins.len(), prompts: prompts.count, agreement, saved }))
}

/// Lists the comparisons of a row: better less worse.
fn comparisons(index: usize, row: &PromptGroup, rewards: &[f64]) -> Vec<PairMargin> {
    let order: Vec<u32> = match is_pair(row) {
        true => order_of_pair(row).to_vec(),
        false => row.completions.iter().filter_map(|answer| answer.rank).collect(),
    };
    if order.len() != row.completions.len() {
        return Vec::new();
    }
    let lengths = row.completions.iter().map(|answer| answer.token_ids.len() as f64);
    let ranked = order.into_iter().zip(rewards).zip(lengths);
    // The first rank is the best.
    let answers = ranked.map(|((rank, reward), length)| Answer {
        row: index,
        worth: -f64::from(rank),
        reward: *reward,
        length,
    });
    better_less_worse(&answers.collect::<Vec<_>>())
}

/// An answer that can be compared with others.
struct Answer {
    row: usize,
    /// What feedback says; more is better.
    worth: f64,
    /// What the model says.
    reward: f64,
    /// Tokens.
    length: f64,
}

fn better_less_worse(answers: &[Answer]) -> Vec<PairMargin> {
    let pairs = answers.iter().flat_map(|better| answers.iter().map(move |worse| (better, worse)));
    pairs
        .filter(|(better, worse)| better.worth > worse.worth)
        .map(|(better, worse)| PairMargin {
            row: better.row,
            margin: better.reward - worse.reward,
            difference: better.length - worse.length,
        })
        .collect()
}

/// Lists the comparisons between rows: answers to the same prompt, each with a score or a label.
fn across(rows: &[PromptGroup], rewards: &[Vec<f64>], prompts: &Prompts) -> Vec<PairMargin> {
    // A label and a score are not on one scale.
    let mut answers: BTreeMap<(usize, bool), Vec<Answer>> = BTreeMap::new();
    for (row, ((group, rewards), prompt)) in rows.iter().zip(rewards).zip(&prompts.of_rows).enumerate() {
        for (answer, reward) in group.completions.iter().zip(rewards) {
            if let Some(worth) = told(answer) {
                let length = answer.token_ids.len() as f64;
                let place = (*prompt, answer.reward.is_some());
                answers.entry(place).or_default().push(Answer { row, worth, reward: *reward, length });
            }
        }
    }
    answers.values().flat_map(|answers| better_less_worse(answers)).collect()
}

/// What a row says of its answer by itself.
fn told(answer: &Completion) -> Option<f64> {
    answer.reward.or(answer.label.map(|label| f64::from(u8::from(label))))
}

impl HeldOut {
    /// Says in one line how good the model is and how good length alone is.
    pub fn text(&self) -> String {
        let PairAgreement { accuracy, chosen_longer, above_length, .. } = &self.agreement;
        let rounded = match self.saved {
            Some(dtype) => format!("; with the float32 weights, which are saved in {dtype}"),
            None => String::new(),
        };
        format!(
            "held out: accuracy {} of {} comparisons; preferring the longer answer has {}, the difference is {}{rounded}",
            percent(accuracy),
            self.comparisons,
            percent(chosen_longer),
            percent(above_length)
        )
    }

    /// Makes the entry of `summary.json`.
    ///
    /// # Errors
    /// Figures that are no numbers.
    pub fn summary(&self) -> Result<Value> {
        Ok(json!({
            "comparisons": self.comparisons,
            "prompts": self.prompts,
            "agreement": self.agreement,
            "measured_weights": "float32",
            "saved_weights": self.saved.unwrap_or("float32"),
        }))
    }
}

fn percent(estimate: &Estimate) -> String {
    let shown = |value: f64| format!("{:.1}", 100.0 * value);
    match estimate.interval {
        Some((low, high)) => format!("{} % [{}, {}]", shown(estimate.mean), shown(low), shown(high)),
        None => format!("{} %", shown(estimate.mean)),
    }
}

#[cfg(test)]
mod tests {
    use align_core::align_types::Completion;

    use super::*;

    fn answer(rank: Option<u32>, tokens: usize) -> Completion {
        Completion { rank, ..Completion::new(vec![1; tokens]) }
    }

    /// Ranks 2, 1, 2 with rewards 5, 3, 4: the second answer is better than the first (3 − 5) and the third (3 − 4).
    #[test]
    fn rankings_give_each_comparison_that_is_no_tie() {
        let row = PromptGroup::new(vec![0], vec![answer(Some(2), 1), answer(Some(1), 4), answer(Some(2), 2)]);
        let found: Vec<_> = comparisons(7, &row, &[5.0, 3.0, 4.0])
            .iter()
            .map(|it| (it.row, it.margin, it.difference))
            .collect();
        assert_eq!(found, [(7, -2.0, 3.0), (7, -1.0, 2.0)]);
    }

    #[test]
    fn pairs_have_one_comparison_and_single_answers_none() {
        let pair = PromptGroup::new(vec![0], vec![answer(None, 3), answer(None, 5)]);
        let found = comparisons(0, &pair, &[1.0, 0.25]);
        assert_eq!(found, [PairMargin { row: 0, margin: 0.75, difference: -2.0 }]);
        // A column may say that the rejected answer is more probably the better one, or that neither is.
        let preferred = |p: f64| {
            let mut pair = pair.clone();
            pair.columns.insert("preference".into(), p.into());
            comparisons(0, &pair, &[1.0, 0.25])
        };
        assert_eq!(preferred(0.9), found);
        assert_eq!(preferred(0.1), [PairMargin { row: 0, margin: -0.75, difference: 2.0 }]);
        assert_eq!(preferred(0.5), []);
    }

    /// To prompt 0 scores 0.2, 0.9 and 0.2, to prompt 1 labels false and true, to prompt 2 a score and a label.
    #[test]
    fn scores_and_labels_are_compared_among_the_answers_to_one_prompt() {
        let row = |prompt: u32, answer: Completion| PromptGroup::new(vec![7, prompt], vec![answer]);
        let scored =
            |prompt, score, tokens| row(prompt, Completion { reward: Some(score), ..answer(None, tokens) });
        let labelled = |prompt, label| row(prompt, Completion { label: Some(label), ..answer(None, 3) });
        let rows = [
            scored(0, 0.2, 4),
            labelled(1, false),
            scored(0, 0.9, 6),
            labelled(1, true),
            scored(0, 0.2, 9),
            scored(2, 1.0, 1),
            labelled(2, false),
        ];
        let rewards: Vec<Vec<f64>> = (0..7).map(|row| vec![f64::from(row)]).collect();
        let found: Vec<_> = across(&rows, &rewards, &Prompts::of(&rows))
            .iter()
            .map(|it| (it.row, it.margin, it.difference))
            .collect();
        assert_eq!(found, [(2, 2.0, 2.0), (2, -2.0, -3.0), (3, 2.0, 0.0)]);
        assert!(rows.iter().all(|row| comparisons(0, row, &[1.0]).is_empty()));
    }
}
