use align_types::{Reward, RewardItem};

use crate::{Error, Result};

/// Rewards added up with weights.
///
/// The sum abstains where one of its parts does: a part that says nothing is not a part that says 0.
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
    parts: Vec<(f64, Box<dyn Reward>)>,
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
        let parts: Vec<(f64, Box<dyn Reward>)> = weights.zip(parts).collect();
        let name = match parts.as_slice() {
            [(weight, part)] if *weight == 1.0 => part.name().to_owned(),
            parts => {
                let terms: Vec<String> =
                    parts.iter().map(|(weight, part)| format!("{weight} {}", part.name())).collect();
                terms.join(" + ")
            }
        };
        Ok(Self { name, parts })
    }
}

impl Reward for WeightedSum {
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        let mut sums = vec![Some(0.0); items.len()];
        for (weight, part) in &mut self.parts {
            let scores = checked(part.as_mut(), items)?;
            for (sum, score) in sums.iter_mut().zip(scores) {
                *sum = sum.zip(score).map(|(sum, score)| sum + *weight * score);
            }
        }
        check(&self.name, items, &sums)?;
        Ok(sums)
    }
}

/// Scores with a reward, and holds it to what it promises.
fn checked(part: &mut dyn Reward, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
    let scores = part.score(items)?;
    check(part.name(), items, &scores)?;
    Ok(scores)
}

fn check(name: &str, items: &[RewardItem<'_>], scores: &[Option<f64>]) -> Result<()> {
    if scores.len() != items.len() {
        return Err(Error::Count { reward: name.into(), expected: items.len(), got: scores.len() });
    }
    let not_finite = |score: &Option<f64>| score.is_some_and(|value| !value.is_finite());
    match items.iter().zip(scores).enumerate().find(|(_, (_, score))| not_finite(score)) {
        None => Ok(()),
        Some((index, (item, score))) => Err(Error::NonFinite {
            row: item.describe(index),
            reward: name.into(),
            value: score.unwrap_or(f64::NAN),
        }),
    }
}
