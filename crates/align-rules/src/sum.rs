use align_types::{Reward, RewardItem, score};

use crate::{Error, Result};

/// Rewards added up with weights.
///
/// The sum abstains where one of its parts does: a part that says nothing is not a part that says 0, and the other parts
/// alone, their weights renormalised or not, would be another reward than that of the rows around it. Every part is
/// asked for every completion, and counted where it abstains.
///
/// ```
/// use align_rules::{WeightedSum, rule};
/// use align_types::{Columns, Reward, RewardItem};
///
/// let parts: Vec<Box<dyn Reward>> = vec![Box::new(rule("rule:length")?), Box::new(rule("rule:contains=!")?)];
/// let mut sum = WeightedSum::new(parts, &[0.5, -2.0])?;
/// let columns = Columns::new();
/// let item = RewardItem { prompt: "", messages: None, completion: "Hey!", columns: &columns, source: None };
/// assert_eq!(sum.score(&[item])?, [Some(0.5 * 4.0 - 2.0)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct WeightedSum {
    name: String,
    parts: Vec<Part>,
}

/// A reward of the sum.
struct Part {
    weight: f64,
    reward: Box<dyn Reward>,
    abstentions: u64,
    last: LastBatch,
}

/// What a reward gave to the last batch.
#[derive(Debug, Clone, Copy, Default)]
struct LastBatch {
    mean: Option<f64>,
    scored: usize,
    abstentions: u64,
}

impl std::fmt::Debug for WeightedSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("WeightedSum").field(&self.name).finish()
    }
}

impl WeightedSum {
    /// Takes the parts and their weights in the same order; without weights each counts once.
    ///
    /// # Errors
    /// [`Error::Weights`] without a part, for another number of weights, or one that is not finite.
    pub fn new(parts: Vec<Box<dyn Reward>>, weights: &[f64]) -> Result<Self> {
        let wrong = |why: String| Err(Error::Weights { why });
        if parts.is_empty() {
            return wrong("there is no reward".into());
        }
        if !weights.is_empty() && weights.len() != parts.len() {
            return wrong(format!("{} of them for {} rewards", weights.len(), parts.len()));
        }
        if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
            return wrong(format!("{weight} is no finite number"));
        }
        let weights = weights.iter().copied().chain(std::iter::repeat(1.0));
        let part = |(weight, reward)| Part { weight, reward, abstentions: 0, last: LastBatch::default() };
        let parts: Vec<Part> = weights.zip(parts).map(part).collect();
        let name = match parts.as_slice() {
            [one] if one.weight == 1.0 => one.reward.name().to_owned(),
            parts => {
                let term = |part: &Part| format!("{} {}", part.weight, part.reward.name());
                parts.iter().map(term).collect::<Vec<_>>().join(" + ")
            }
        };
        Ok(Self { name, parts })
    }

    /// Names the parts, each with the number of completions for which it abstained so far.
    pub fn abstentions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.parts.iter().map(|part| (part.reward.name(), part.abstentions))
    }

    /// As [`Self::abstentions`], of the last batch alone.
    pub fn last_abstentions(&self) -> impl Iterator<Item = (&str, u64)> {
        self.parts.iter().map(|part| (part.reward.name(), part.last.abstentions))
    }

    /// Names the parts that scored something in the last batch, each with its mean before its weight and the completions
    /// that it is over.
    pub fn last_means(&self) -> impl Iterator<Item = (&str, f64, usize)> {
        self.parts.iter().filter_map(|part| Some((part.reward.name(), part.last.mean?, part.last.scored)))
    }
}

impl Reward for WeightedSum {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        let mut sums = vec![Some(0.0); items.len()];
        for part in &mut self.parts {
            let scores = score(&mut part.reward, items)?;
            let (abstained, mean) = (scores.abstentions(), scores.mean());
            let scored = scores.values().len() - abstained;
            part.last = LastBatch { mean, scored, abstentions: abstained as u64 };
            part.abstentions += part.last.abstentions;
            for (sum, score) in sums.iter_mut().zip(scores.into_values()) {
                *sum = sum.zip(score).map(|(sum, score)| sum + part.weight * score);
            }
        }
        Ok(sums)
    }

    /// Ends every part, also where an earlier one complains: each may hold a process.
    fn finish(&mut self) -> align_types::Result<()> {
        let ends: Vec<_> = self.parts.iter_mut().map(|part| part.reward.finish()).collect();
        ends.into_iter().collect()
    }
}
