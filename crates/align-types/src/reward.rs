//! What scores completions, and the one door through which everybody asks it.

use crate::{Columns, Error, Result, Source};

/// One completion to be scored, as text without special tokens.
#[derive(Debug, Clone, Copy)]
pub struct RewardItem<'a> {
    /// The prompt; of a conversation what its template makes of it, without special tokens.
    pub prompt: &'a str,
    /// The messages of the prompt, where it is a conversation: for rewards with a template of their own.
    pub messages: Option<&'a [serde_json::Value]>,
    /// The completion.
    pub completion: &'a str,
    /// The other columns of the prompt's row.
    pub columns: &'a Columns,
    /// Where the prompt's row came from, for messages.
    pub source: Option<&'a Source>,
}

impl RewardItem<'_> {
    /// Names the item in messages: `file:row`, or its position where there is no source.
    pub fn describe(&self, index: usize) -> String {
        self.source.map_or_else(|| format!("completion {index}"), ToString::to_string)
    }
}

/// Scores completions.
///
/// Callers do not call [`Reward::score`] themselves, but [`score`], which holds it to its promise.
pub trait Reward: Send {
    /// Names the reward in messages and metrics.
    fn name(&self) -> &str;

    /// Scores a batch: one finite number for each item in order, or `None` where the reward abstains.
    ///
    /// The number of an item depends on that item alone, not on the others of the batch.
    ///
    /// # Errors
    /// Anything that is neither a score nor an abstention; the message names the item.
    fn score(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>>;

    /// Ends the reward: nothing more is asked. A reward outside of this process is let go, and what it still had to say is
    /// looked at; nothing happens unless written. Callers call it once, behind the last [`score`].
    ///
    /// # Errors
    /// More was answered than was asked.
    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<R: Reward + ?Sized> Reward for &mut R {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>> {
        (**self).score(items)
    }

    fn finish(&mut self) -> Result<()> {
        (**self).finish()
    }
}

impl<R: Reward + ?Sized> Reward for Box<R> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>> {
        (**self).score(items)
    }

    fn finish(&mut self) -> Result<()> {
        (**self).finish()
    }
}

/// The scores of a batch: as many as items were asked for, in their order, and every one of them finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    values: Vec<Option<f64>>,
    abstentions: usize,
}

impl Scores {
    /// Returns the scores in the order of the items; `None` is an abstention and never a 0.
    pub fn values(&self) -> &[Option<f64>] {
        &self.values
    }

    /// Hands the scores over.
    pub fn into_values(self) -> Vec<Option<f64>> {
        self.values
    }

    /// Counts the items for which the reward abstained.
    pub fn abstentions(&self) -> usize {
        self.abstentions
    }

    /// Says whether the reward abstained for every item of a batch that has some: there is nothing to learn from it
    /// and nothing to average.
    pub fn all_abstained(&self) -> bool {
        !self.values.is_empty() && self.abstentions == self.values.len()
    }

    /// Averages the scores; `None` where there is none.
    pub fn mean(&self) -> Option<f64> {
        let count = self.values.len() - self.abstentions;
        // Each is divided before it is added, so that large scores do not become infinite on the way.
        (count > 0).then(|| self.values.iter().flatten().map(|value| value / count as f64).sum())
    }
}

/// Asks a reward for the scores of a batch, and holds it to what it promises. Everybody who wants rewards asks here.
///
/// ```
/// use align_types::{Columns, RewardFn, RewardItem, score};
///
/// let columns = Columns::new();
/// let item = |completion| RewardItem { prompt: "1 + 1 =", messages: None, completion, columns: &columns, source: None };
/// let mut inverse = RewardFn::new("inverse", |item: &RewardItem<'_>| Some(1.0 / item.completion.parse::<f64>().ok()?));
/// let scores = score(&mut inverse, &[item("2"), item("two")])?;
/// assert_eq!((scores.values(), scores.abstentions()), ([Some(0.5), None].as_slice(), 1));
/// assert!(score(&mut inverse, &[item("0")]).is_err());
/// # Ok::<(), align_types::Error>(())
/// ```
///
/// # Errors
/// The reward's own; [`Error::RewardCount`] for more or fewer values than items, [`Error::RewardNotFinite`] for NaN and
/// infinities. Both name the row and the reward.
pub fn score<R: Reward + ?Sized>(reward: &mut R, items: &[RewardItem<'_>]) -> Result<Scores> {
    let values = reward.score(items)?;
    if values.len() != items.len() {
        let index = values.len().min(items.len().saturating_sub(1));
        let row = items.get(index).map_or_else(|| "no completion".to_owned(), |item| item.describe(index));
        let (reward, expected, got) = (reward.name().to_owned(), items.len(), values.len());
        return Err(Error::RewardCount { row, reward, expected, got });
    }
    for (index, (item, value)) in items.iter().zip(&values).enumerate() {
        if let Some(value) = value.filter(|value| !value.is_finite()) {
            let (row, reward) = (item.describe(index), reward.name().to_owned());
            return Err(Error::RewardNotFinite { row, reward, value });
        }
    }
    let abstentions = values.iter().filter(|value| value.is_none()).count();
    Ok(Scores { values, abstentions })
}

/// A closure as a [`Reward`]: it looks at one completion and gives a number, or `None` where it abstains.
///
/// ```
/// use align_types::{Columns, RewardFn, RewardItem, score};
///
/// let mut short = RewardFn::new("short", |item: &RewardItem<'_>| -(item.completion.len() as f64));
/// let columns = Columns::new();
/// let item = RewardItem { prompt: "Hello", messages: None, completion: "Hi!", columns: &columns, source: None };
/// assert_eq!(score(&mut short, &[item])?.values(), [Some(-3.0)]);
/// # Ok::<(), align_types::Error>(())
/// ```
#[derive(Clone)]
pub struct RewardFn<F> {
    name: String,
    function: F,
}

impl<F, V> RewardFn<F>
where
    F: FnMut(&RewardItem<'_>) -> V + Send,
    V: Into<Option<f64>>,
{
    /// Names a closure. It may give an `f64`, or an `Option<f64>` to be able to abstain.
    pub fn new(name: impl Into<String>, function: F) -> Self {
        Self { name: name.into(), function }
    }
}

impl<F> std::fmt::Debug for RewardFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RewardFn").field(&self.name).finish()
    }
}

impl<F, V> Reward for RewardFn<F>
where
    F: FnMut(&RewardItem<'_>) -> V + Send,
    V: Into<Option<f64>>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>> {
        Ok(items.iter().map(|item| (self.function)(item).into()).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Says what it was told to say, whatever it is asked.
    struct Scripted(Vec<Option<f64>>);

    impl Reward for Scripted {
        fn name(&self) -> &str {
            "scripted"
        }

        fn score(&mut self, _: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>> {
            Ok(self.0.clone())
        }
    }

    /// Asks for `count` completions of rows 1, 2, … of a file.
    fn ask(reward: &mut dyn Reward, count: usize) -> Result<Scores> {
        let columns = Columns::new();
        let sources: Vec<Source> = (1..=count).map(|row| Source { file: "rows.jsonl".into(), row }).collect();
        let items: Vec<_> = sources
            .iter()
            .map(|source| RewardItem {
                prompt: "p",
                messages: None,
                completion: "c",
                columns: &columns,
                source: Some(source),
            })
            .collect();
        score(reward, &items)
    }

    fn values() -> impl Strategy<Value = Vec<Option<f64>>> {
        prop::collection::vec(prop::option::of(prop::num::f64::ANY), 0..6)
    }

    proptest! {
        /// Whatever a reward says, it comes out as it is, or as an error that names the first row that is wrong.
        #[test]
        fn nothing_but_promised_scores_comes_through(said in values(), count in 0_usize..6) {
            let outcome = ask(&mut Scripted(said.clone()), count);
            let bad = said.iter().position(|value| value.is_some_and(|value| !value.is_finite()));
            match (said.len() == count, bad) {
                (true, None) => {
                    let scores = outcome.unwrap();
                    prop_assert_eq!(scores.values(), said.as_slice());
                    let none = said.iter().filter(|value| value.is_none()).count();
                    prop_assert_eq!(scores.abstentions(), none);
                    prop_assert_eq!(scores.all_abstained(), count > 0 && none == count);
                    prop_assert_eq!(scores.mean().is_some(), none < count);
                }
                (true, Some(index)) => {
                    let error = outcome.unwrap_err().to_string();
                    prop_assert!(error.starts_with(&format!("rows.jsonl:{}: the reward scripted is ", index + 1)), "{}", error);
                }
                (false, _) => {
                    let error = outcome.unwrap_err();
                    let same = matches!(error, Error::RewardCount { expected, got, .. }
                        if expected == count && got == said.len());
                    prop_assert!(same, "{}", error);
                    let named = error.to_string();
                    prop_assert!(count == 0 || named.starts_with("rows.jsonl:"), "{}", named);
                }
            }
        }
    }

    #[test]
    fn too_few_values_name_the_first_row_without_one() {
        let error = ask(&mut Scripted(vec![Some(1.0), None]), 4).unwrap_err().to_string();
        assert!(error.starts_with("rows.jsonl:3: the reward scripted gave 2 values for 4"), "{error}");
        let error = ask(&mut Scripted(vec![Some(1.0); 3]), 2).unwrap_err().to_string();
        assert!(error.starts_with("rows.jsonl:2: the reward scripted gave 3 values for 2"), "{error}");
    }

    #[test]
    fn abstentions_are_not_zeros() {
        let scores = ask(&mut Scripted(vec![Some(3.0), None, Some(1.0)]), 3).unwrap();
        assert_eq!(scores.mean(), Some(2.0));
        assert_eq!(ask(&mut Scripted(vec![None; 2]), 2).unwrap().mean(), None);
        let huge = ask(&mut Scripted(vec![Some(f64::MAX); 4]), 4).unwrap();
        assert_eq!(huge.mean(), Some(f64::MAX));
    }

    /// Has something left to say.
    struct Talkative;

    impl Reward for Talkative {
        fn name(&self) -> &str {
            "talkative"
        }

        fn score(&mut self, items: &[RewardItem<'_>]) -> Result<Vec<Option<f64>>> {
            Ok(vec![None; items.len()])
        }

        fn finish(&mut self) -> Result<()> {
            Err(Error::Seam { what: "talkative".into(), why: "one more".into(), source: None })
        }
    }

    #[test]
    fn an_end_goes_through_boxes_and_borrows() {
        fn end(mut reward: impl Reward) -> String {
            reward.finish().unwrap_err().to_string()
        }
        let mut boxed: Box<dyn Reward> = Box::new(Talkative);
        assert!(end(&mut boxed).contains("one more") && end(boxed).contains("one more"));
        RewardFn::new("silent", |_: &RewardItem<'_>| None::<f64>).finish().unwrap();
    }

    #[test]
    fn closures_boxes_and_borrows_are_rewards() {
        let mut calls = 0;
        let mut counting = RewardFn::new("counting", |_: &RewardItem<'_>| {
            calls += 1;
            f64::from(calls)
        });
        assert_eq!(ask(&mut &mut counting, 2).unwrap().values(), [Some(1.0), Some(2.0)]);
        let mut boxed: Box<dyn Reward> = Box::new(RewardFn::new("never", |_: &RewardItem<'_>| None::<f64>));
        assert_eq!(boxed.name(), "never");
        boxed.finish().unwrap();
        // A reward may be moved to the thread that scores.
        let scores = std::thread::spawn(move || ask(&mut boxed, 3)).join().unwrap().unwrap();
        assert!(scores.all_abstained());
    }
}
