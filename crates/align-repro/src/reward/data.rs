//! Comparisons: rankings with noise, their pairs, and pairs whose labels are turned.

use align_core::align_types::{PromptGroup, RngStream};
use serde::{Deserialize, Serialize};

use super::world::{Answers, Stream, WorldSettings};
use crate::style::policy::Requests;

/// How comparisons come to a reward model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Rankings of several answers by their noisy scores; all comparisons of a request are one row.
    Rankings,
    /// The comparisons of the same rankings, each a row of its own among all others.
    Apart,
    /// Pairs, of which an exact share has its label turned.
    Pairs,
}

/// What is done to the labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scramble {
    /// Nothing.
    #[default]
    None,
    /// Labels say nothing: the noisy scores of each request are dealt out anew; of pairs a half is turned.
    Shuffle,
    /// All labels are turned. No arm of a plan has it; tests break an experiment with it.
    Reverse,
}

/// The comparisons of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// How they come.
    pub form: Form,
    /// Rankings, or pairs.
    pub count: usize,
    /// Answers of a ranking.
    #[serde(default = "two")]
    pub width: usize,
    /// Share of pairs whose label is turned.
    #[serde(default)]
    pub flip: f64,
    /// What else is done to the labels.
    #[serde(default)]
    pub scramble: Scramble,
}

fn two() -> usize {
    2
}

impl Recipe {
    /// Writes the answers of the training requests; arms with the same count have the same ones.
    pub fn answers(&self, world: &WorldSettings, requests: &Requests, seed: u64) -> Vec<Answers> {
        world.answers(&requests.train, self.count, self.width, &mut Stream::Train.random(seed, 0))
    }

    /// Labels answers and makes them the rows of a training run.
    pub fn rows(&self, world: &WorldSettings, answers: &[Answers], seed: u64) -> Vec<PromptGroup> {
        let mut random = Stream::Labels.random(seed, 0);
        match self.form {
            Form::Pairs => self.pairs(answers, &mut random),
            Form::Rankings => self.rankings(world, answers, &mut random),
            Form::Apart => self.rankings(world, answers, &mut random).iter().flat_map(apart).collect(),
        }
    }

    fn rankings(
        &self,
        world: &WorldSettings,
        answers: &[Answers],
        random: &mut RngStream,
    ) -> Vec<PromptGroup> {
        let sign = if self.scramble == Scramble::Reverse { -1.0 } else { 1.0 };
        let ranking = |answers: &Answers| {
            let noisy = |gold: f64, random: &mut RngStream| sign * (gold + world.noise * random.normal());
            let mut scores: Vec<f64> = answers.answers.iter().map(|a| noisy(a.gold, random)).collect();
            if self.scramble == Scramble::Shuffle {
                random.shuffle(&mut scores);
            }
            let mut group = answers.group();
            for (answer, score) in group.completions.iter_mut().zip(&scores) {
                answer.rank = Some(1 + scores.iter().filter(|other| *other > score).count() as u32);
            }
            group.completions.sort_by_key(|answer| answer.rank);
            group
        };
        answers.iter().map(ranking).collect()
    }

    fn pairs(&self, answers: &[Answers], random: &mut RngStream) -> Vec<PromptGroup> {
        let share = match self.scramble {
            Scramble::None => self.flip,
            Scramble::Shuffle => 0.5,
            Scramble::Reverse => 1.0,
        };
        let turned = (answers.len() as f64 * share).round() as usize;
        let mut turn: Vec<bool> = (0..answers.len()).map(|index| index < turned).collect();
        random.shuffle(&mut turn);
        answers.iter().zip(turn).map(|(pair, turn)| labelled(pair, turn)).collect()
    }
}

/// Puts the better answer first, or second where the label is turned.
fn labelled(pair: &Answers, turned: bool) -> PromptGroup {
    let mut group = pair.group();
    if (pair.gold_difference() < 0.0) != turned {
        group.completions.reverse();
    }
    for (answer, rank) in group.completions.iter_mut().zip(1..) {
        answer.rank = Some(rank);
    }
    group
}

/// Takes a ranking apart into its comparisons.
fn apart(ranking: &PromptGroup) -> Vec<PromptGroup> {
    let mut pairs = Vec::new();
    for (place, better) in ranking.completions.iter().enumerate() {
        for worse in ranking.completions.iter().skip(place + 1) {
            let mut pair = PromptGroup::new(ranking.prompt.clone(), vec![better.clone(), worse.clone()]);
            for (answer, rank) in pair.completions.iter_mut().zip(1..) {
                answer.rank = Some(rank);
            }
            pairs.push(pair);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> WorldSettings {
        WorldSettings {
            stuck: 0.02,
            stuck_in_pairs: 0.02,
            skills: (0.0, 1.0),
            noise: 1.5,
            test_pairs: 1,
            hard_below: 1.0,
        }
    }

    fn recipe(form: Form, width: usize) -> Recipe {
        Recipe { form, count: 40, width, flip: 0.0, scramble: Scramble::None }
    }

    fn gold_of(requests: &Requests, group: &PromptGroup, place: usize) -> f64 {
        let request = requests.train.iter().find(|r| r.prompt() == group.prompt).unwrap();
        let tokens = &group.completions[place].token_ids;
        request.gold(&tokens[..tokens.len() - 1])
    }

    #[test]
    fn apart_and_together_are_the_same_comparisons() {
        let requests = Requests::split(0);
        let answers = recipe(Form::Rankings, 5).answers(&world(), &requests, 3);
        let together = recipe(Form::Rankings, 5).rows(&world(), &answers, 3);
        let apart = recipe(Form::Apart, 5).rows(&world(), &answers, 3);
        // 5 x 4 / 2 comparisons of each of 40 rankings.
        assert_eq!((together.len(), apart.len()), (40, 400));
        for (group, pairs) in together.iter().zip(apart.chunks(10)) {
            let ranks: Vec<_> = group.completions.iter().map(|c| c.rank.unwrap()).collect();
            assert_eq!(ranks, [1, 2, 3, 4, 5]);
            for pair in pairs {
                let rank = |place: usize| {
                    group.completions.iter().position(|c| c.token_ids == pair.completions[place].token_ids)
                };
                assert!(rank(0) < rank(1));
            }
        }
    }

    #[test]
    fn the_stated_share_of_pairs_is_turned() {
        let requests = Requests::split(0);
        for (flip, scramble, right) in [
            (0.0, Scramble::None, 40),
            (0.2, Scramble::None, 32),
            (0.2, Scramble::Shuffle, 20),
            (0.0, Scramble::Reverse, 0),
        ] {
            let recipe = Recipe { flip, scramble, ..recipe(Form::Pairs, 2) };
            let rows = recipe.rows(&world(), &recipe.answers(&world(), &requests, 5), 5);
            let count = rows.iter().filter(|g| gold_of(&requests, g, 0) > gold_of(&requests, g, 1)).count();
            assert_eq!(count, right);
        }
    }
}
