use serde::{Deserialize, Serialize};

use super::{LengthControl, Outcome, average};
use crate::{
    Error, Result,
    intervals::{Estimate, standard_error},
};

/// The sampled answers of one model to one prompt: reward (none where it abstained) and length of each.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    /// The rewards.
    pub rewards: Vec<Option<f64>>,
    /// The lengths.
    pub lengths: Vec<f64>,
}

impl Samples {
    /// Returns the answers that have a reward, with their lengths.
    fn judged(&self) -> impl Iterator<Item = (f64, f64)> + Clone + '_ {
        self.rewards.iter().zip(&self.lengths).filter_map(|(reward, length)| Some(((*reward)?, *length)))
    }

    fn mean_reward(&self) -> Option<f64> {
        let count = self.judged().count();
        (count > 0).then(|| self.judged().map(|(reward, _)| reward).sum::<f64>() / count as f64)
    }
}

/// Decides between two rewards: 1 where the first is larger, 0 where it is smaller, 0.5 for a tie.
pub fn verdict(first: f64, second: f64) -> f64 {
    match first.total_cmp(&second) {
        // −0 and 0 are one reward.
        _ if first == second => 0.5,
        std::cmp::Ordering::Greater => 1.0,
        _ => 0.0,
    }
}

/// How often the answers of one model have the larger reward than those of another to the same prompts.
///
/// Of each prompt every answer of the one is compared with every answer of the other; the prompt's score is the average
/// over these comparisons, the rate the average over prompts: W = (wins + ties / 2) / comparisons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// The rate W in [0, 1]; 0.5 for equal models.
    pub rate: Estimate,
    /// sd(score of a prompt) / √prompts.
    pub standard_error: Option<f64>,
    /// Comparisons won.
    pub wins: usize,
    /// Comparisons with equal rewards.
    pub ties: usize,
    /// Comparisons lost.
    pub losses: usize,
    /// Prompts of which no comparison has two rewards.
    pub prompts_without: usize,
    /// Average over prompts of the difference of mean rewards, paired by prompt.
    pub reward_difference: Estimate,
    /// The rate as a function of the length difference.
    pub length_control: LengthControl,
}

impl WinRate {
    /// Compares answers prompt by prompt; the two lists have one entry per prompt, in the same order.
    ///
    /// ```
    /// use align_core::evaluation::{Samples, WinRate};
    ///
    /// let of = |rewards: &[f64]| Samples { rewards: rewards.iter().map(|r| Some(*r)).collect(), lengths: vec![1.0; 2] };
    /// let wins = WinRate::of(&[of(&[3.0, 1.0])], &[of(&[2.0, 1.0])], 0)?;
    /// // 3 beats 2 and 1; 1 loses against 2 and ties with 1.
    /// assert_eq!((wins.wins, wins.ties, wins.losses), (2, 1, 1));
    /// assert_eq!(wins.rate.mean, 2.5 / 4.0);
    /// # Ok::<(), align_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] for lists of different length, or where no comparison has two rewards;
    /// [`Error::NonFinite`] for a reward that is not finite.
    pub fn of(first: &[Samples], second: &[Samples], seed: u64) -> Result<Self> {
        if first.len() != second.len() {
            let why = format!("{} prompts of one model, {} of the other", first.len(), second.len());
            return Err(Error::input("win rate", why));
        }
        let mut outcomes = Vec::new();
        let (mut scores, mut differences) = (Vec::new(), Vec::new());
        for (prompt, (one, other)) in first.iter().zip(second).enumerate() {
            let Some((mine, theirs)) = one.mean_reward().zip(other.mean_reward()) else { continue };
            let weight = 1.0 / (one.judged().count() * other.judged().count()) as f64;
            let before = outcomes.len();
            for (reward, length) in one.judged() {
                outcomes.extend(other.judged().map(|(against, other_length)| Outcome {
                    prompt,
                    score: verdict(reward, against),
                    difference: length - other_length,
                    weight,
                }));
            }
            scores.push(outcomes.iter().skip(before).map(|outcome| outcome.score * weight).sum::<f64>());
            differences.push((mine - theirs, 1.0));
        }
        let none = || Error::input("win rate", "no prompt has a reward for both models");
        let reward_difference = average("difference of rewards", &differences, seed)?.ok_or_else(none)?;
        let per_prompt: Vec<(f64, f64)> = scores.iter().map(|score| (*score, 1.0)).collect();
        let rate = average("win rate", &per_prompt, seed)?.ok_or_else(none)?;
        let count = |score: f64| outcomes.iter().filter(|outcome| outcome.score == score).count();
        Ok(Self {
            rate,
            standard_error: standard_error(&scores),
            wins: count(1.0),
            ties: count(0.5),
            losses: count(0.0),
            prompts_without: first.len() - scores.len(),
            reward_difference,
            length_control: LengthControl::of("win rate", &outcomes, first.len(), seed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use align_types::{Purpose, RngStream};

    use super::*;

    fn samples(rewards: &[Option<f64>]) -> Samples {
        Samples { rewards: rewards.to_vec(), lengths: vec![1.0; rewards.len()] }
    }

    /// 3 prompts with scores 1, 1/2, 0: mean 1/2, sample variance 1/4, standard error (1/2) / √3.
    #[test]
    fn ties_count_half_and_the_error_is_that_of_prompts() {
        let first = [samples(&[Some(2.0)]), samples(&[Some(0.0)]), samples(&[Some(-1.0)])];
        let second = [samples(&[Some(1.0)]), samples(&[Some(-0.0)]), samples(&[Some(4.0)])];
        let wins = WinRate::of(&first, &second, 0).unwrap();
        assert_eq!((wins.rate.mean, wins.wins, wins.ties, wins.losses), (0.5, 1, 1, 1));
        assert!((wins.standard_error.unwrap() - 0.5 / 3f64.sqrt()).abs() < 1e-12);
        assert!((wins.reward_difference.mean - (1.0 + 0.0 - 5.0) / 3.0).abs() < 1e-12);
        let back = WinRate::of(&second, &first, 0).unwrap();
        assert!((back.rate.mean + wins.rate.mean - 1.0).abs() < 1e-12);
    }

    #[test]
    fn an_abstention_takes_no_part_and_is_no_zero() {
        let first = [samples(&[Some(-1.0), None]), samples(&[None])];
        let second = [samples(&[Some(-2.0), None]), samples(&[Some(0.0)])];
        let wins = WinRate::of(&first, &second, 0).unwrap();
        assert_eq!((wins.rate.mean, wins.wins + wins.ties + wins.losses, wins.prompts_without), (1.0, 1, 1));
        assert!(WinRate::of(&[samples(&[None])], &second[..1], 0).is_err());
        assert!(WinRate::of(&first, &second[..1], 0).is_err());
        assert!(WinRate::of(&[samples(&[Some(f64::NAN)])], &second[..1], 0).is_err());
    }

    /// Answers of one model against others of the same: 1/2 within the interval, and the interval covers 1/2 about as
    /// often as it says.
    #[test]
    fn a_model_against_itself_wins_half_the_time() {
        let draw = |run: u64, side: u64| -> Vec<Samples> {
            let mut random = RngStream::new(run, Purpose::Synthetic, side, 0);
            let reward = |random: &mut RngStream| Some((random.uniform() * 4.0).floor());
            (0..60)
                .map(|_| Samples {
                    rewards: (0..3).map(|_| reward(&mut random)).collect(),
                    lengths: (0..3).map(|_| (random.uniform() * 50.0).floor()).collect(),
                })
                .collect()
        };
        let covered = |run: &u64| {
            let wins = WinRate::of(&draw(*run, 0), &draw(*run, 1), *run).unwrap();
            let (low, high) = wins.rate.interval.unwrap();
            low <= 0.5 && 0.5 <= high
        };
        // 40 runs at 95 %: eight misses or more have a chance of about 1 in 1,000 (binomial).
        assert!((0..40u64).filter(covered).count() > 32);
    }
}
