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
    /// Of the last batch.
    mean: Option<f64>,
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
        let part = |(weight, reward)| Part { weight, reward, abstentions: 0, mean: None };
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

    /// Names the parts, each with its mean over the last batch before its weight; `None` where it abstained throughout.
    pub fn means(&self) -> impl Iterator<Item = (&str, Option<f64>)> {
        self.parts.iter().map(|part| (part.reward.name(), part.mean))
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
            part.abstentions += scores.abstentions() as u64;
            part.mean = scores.mean();
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
