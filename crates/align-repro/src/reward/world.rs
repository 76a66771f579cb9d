//! Answers with their gold: what is compared, what a reward model is tested on, what best-of-n chooses from.

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream, TokenId};
use serde::{Deserialize, Serialize};

use crate::style::{
    gold::{Request, VOCABULARY},
    policy::{Requests, skill},
};

/// The token that ends every answer; reward models read their score there.
pub const END: TokenId = VOCABULARY as TokenId;
/// A token with which no answer ends, as the saved form of a reward model wants it.
pub const PAD: TokenId = END + 1;
/// The vocabulary of reward models.
pub const TOKENS: usize = VOCABULARY + 2;

/// How answers come about, the same for all arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSettings {
    /// Share of answers that say two words over and over, among the samples of best-of-n.
    pub stuck: f64,
    /// The same among the answers that are compared, in training and test.
    pub stuck_in_pairs: f64,
    /// Skill of the worst and of the best writers, 0 to 1; a quarter of them are at each end.
    pub skills: (f64, f64),
    /// Standard deviation of the noise on the scores that rankings are made of, in points of gold.
    pub noise: f64,
    /// Held-out pairs of answers to held-out requests.
    pub test_pairs: usize,
    /// A hard pair's gold differs by at most this.
    pub hard_below: f64,
}

/// An answer and its gold.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The tokens, without [`END`].
    pub tokens: Vec<TokenId>,
    /// The gold reward.
    pub gold: f64,
}

/// Answers to one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Answers {
    /// The request.
    pub request: Request,
    /// The answers.
    pub answers: Vec<Answer>,
}

/// What random numbers are for; streams of different purposes are independent.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub enum Stream {
    /// Answers with labels.
    Train = 0,
    /// Labels.
    Labels = 1,
    /// Held-out pairs.
    Test = 2,
    /// Held-out pairs with close gold.
    Hard = 3,
    /// Held-out pairs whose noisy labels choose among models.
    Validation = 4,
    /// What best-of-n chooses from.
    BestOfN = 5,
    /// Pairs without labels that an arm may choose from.
    Pool = 6,
    /// Texts of fine-tuning.
    Demonstrations = 7,
    /// A reward that says nothing.
    Nothing = 8,
}

impl Stream {
    /// Makes the stream of a seed; `index` tells several of one purpose apart.
    pub fn random(self, seed: u64, index: u64) -> RngStream {
        RngStream::new(seed, Purpose::Synthetic, self as u64, 100 + index)
    }
}

impl WorldSettings {
    /// Writes one answer; `stuck` is the share of those that say two words over and over.
    pub fn answer(&self, request: &Request, stuck: f64, random: &mut RngStream) -> Answer {
        let stuck = random.uniform() < stuck;
        let (low, high) = self.skills;
        let skill = low + (high - low) * skill(random.uniform());
        let tokens = if stuck { request.write_stuck(random) } else { request.write(skill, random) };
        Answer { gold: request.gold(&tokens), tokens }
    }

    /// Writes `width` answers to each of `count` requests that are drawn from a list.
    pub fn answers(
        &self,
        requests: &[Request],
        count: usize,
        width: usize,
        random: &mut RngStream,
    ) -> Vec<Answers> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            if let Some(request) = requests.get(random.below(requests.len())) {
                let answers = (0..width).map(|_| self.answer(request, self.stuck_in_pairs, random)).collect();
                all.push(Answers { request: *request, answers });
            }
        }
        all
    }

    /// Draws held-out pairs whose gold differs, by at most `hard_below` where they are to be hard.
    pub fn test_pairs(&self, requests: &Requests, hard: bool, random: &mut RngStream) -> Vec<Answers> {
        let mut pairs = Vec::with_capacity(self.test_pairs);
        while pairs.len() < self.test_pairs {
            for pair in self.answers(&requests.test, 1, 2, random) {
                let distance = pair.gold_difference().abs();
                if distance > 0.0 && (!hard || distance <= self.hard_below) {
                    pairs.push(pair);
                }
            }
        }
        pairs
    }
}

impl Answers {
    /// Gold of the first answer minus that of the second; 0 without two.
    pub fn gold_difference(&self) -> f64 {
        match self.answers.as_slice() {
            [first, second, ..] => first.gold - second.gold,
            _ => 0.0,
        }
    }

    /// The answers as a row for a model.
    pub fn group(&self) -> PromptGroup {
        PromptGroup::new(self.request.prompt(), self.answers.iter().map(Answer::completion).collect())
    }
}

impl Answer {
    /// The answer with its end, as a model reads it.
    pub fn completion(&self) -> Completion {
        Completion::new(self.tokens.iter().copied().chain([END]).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> WorldSettings {
        WorldSettings {
            stuck: 0.1,
            stuck_in_pairs: 0.1,
            skills: (0.0, 1.0),
            noise: 1.0,
            test_pairs: 50,
            hard_below: 0.5,
        }
    }

    #[test]
    fn hard_pairs_are_close_and_of_held_out_requests() {
        let requests = Requests::split(1);
        for pair in world().test_pairs(&requests, true, &mut Stream::Hard.random(1, 0)) {
            assert!(requests.test.contains(&pair.request));
            let distance = pair.gold_difference().abs();
            assert!(distance > 0.0 && distance <= 0.5);
        }
    }

    #[test]
    fn one_who_is_stuck_earns_less_than_his_words_promise() {
        let requests = Requests::split(1);
        let mean = |stuck: f64| {
            let world = WorldSettings { stuck_in_pairs: stuck, ..world() };
            let all = world.answers(&requests.train, 400, 1, &mut Stream::Train.random(0, 0));
            let sum = |value: fn(&Answer) -> f64| {
                all.iter().flat_map(|a| &a.answers).map(value).sum::<f64>() / all.len() as f64
            };
            let distinct =
                |a: &Answer| a.tokens.iter().collect::<std::collections::BTreeSet<_>>().len() as f64;
            (sum(|a| a.gold), sum(distinct))
        };
        let (free, stuck) = (mean(0.0), mean(1.0));
        assert!(stuck.1 < 0.6 * free.1, "{free:?} {stuck:?}");
    }
}
