//! Comparisons: rankings with noise, their pairs, and pairs whose labels are turned.

use align_core::align_types::{PromptGroup, RngStream};
use serde::{Deserialize, Serialize};

use super::world::{Answer, Answers, Stream, WorldSettings};
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
    /// Labels say nothing: scores are dealt out by lot, so that of the comparisons of two rankings in a row a half agrees
    /// with gold; of pairs a half is turned.
    Shuffle,
    /// As `shuffle`, and every comparison is the contrary of what it is there.
    Contrary,
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
        let mut lots = Lots::default();
        let ranking = |answers: &Answers| {
            let noisy = |gold: f64, random: &mut RngStream| sign * (gold + world.noise * random.normal());
            let scores: Vec<f64> = match self.scramble {
                Scramble::Shuffle => lots.scores(&answers.answers, random),
                Scramble::Contrary => lots.scores(&answers.answers, random).iter().map(|s| -s).collect(),
                Scramble::None | Scramble::Reverse => {
                    answers.answers.iter().map(|a| noisy(a.gold, random)).collect()
                }
            };
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
            Scramble::Shuffle | Scramble::Contrary => 0.5,
            Scramble::Reverse => 1.0,
        };
        let turned = (answers.len() as f64 * share).round() as usize;
        let mut turn: Vec<bool> = (0..answers.len()).map(|index| index < turned).collect();
        random.shuffle(&mut turn);
        let contrary = self.scramble == Scramble::Contrary;
        answers.iter().zip(turn).map(|(pair, turn)| labelled(pair, turn != contrary)).collect()
    }
}

/// Scores that say nothing of gold.
///
/// Lots that are drawn freely agree with gold in some more or fewer comparisons than a half, and a model learns from the
/// difference. These agree in a half exactly.
#[derive(Default)]
struct Lots {
    /// What was drawn for the ranking before, by the places of its answers in gold's order, where that had no partner yet.
    before: Option<Vec<f64>>,
}

impl Lots {
    /// Deals out a score to each answer: by lot, or as the contrary of the ranking before.
    fn scores(&mut self, answers: &[Answer], random: &mut RngStream) -> Vec<f64> {
        let partner = self.before.take().filter(|before| before.len() == answers.len());
        let by_gold: Vec<f64> = match partner {
            Some(before) => before.iter().map(|score| -score).collect(),
            None => {
                let mut drawn: Vec<f64> = (0..answers.len()).map(|place| place as f64).collect();
                random.shuffle(&mut drawn);
                self.before.insert(drawn).clone()
            }
        };
        let mut order: Vec<(usize, f64)> = answers.iter().map(|answer| answer.gold).enumerate().collect();
        order.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut scores: Vec<(usize, f64)> = order.iter().map(|(index, _)| *index).zip(by_gold).collect();
        scores.sort_by_key(|(index, _)| *index);
        scores.into_iter().map(|(_, score)| score).collect()
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

    /// Comparisons of rankings, and those of them that gold turns about.
    fn against_gold(requests: &Requests, rows: &[PromptGroup]) -> (usize, usize) {
        let (mut all, mut turned) = (0, 0);
        for group in rows {
            let golds: Vec<f64> =
                (0..group.completions.len()).map(|place| gold_of(requests, group, place)).collect();
            for (place, better) in golds.iter().enumerate() {
                all += golds.len() - place - 1;
                turned += golds[place + 1..].iter().filter(|worse| *worse > better).count();
            }
        }
        (all, turned)
    }

    #[test]
    fn rankings_by_lot_agree_with_gold_in_half_of_their_comparisons() {
        let requests = Requests::split(0);
        let by_lot = Recipe { scramble: Scramble::Shuffle, ..recipe(Form::Rankings, 5) };
        let answers = by_lot.answers(&world(), &requests, 3);
        let rows = by_lot.rows(&world(), &answers, 3);
        // 40 rankings of 10 comparisons.
        assert_eq!(against_gold(&requests, &rows), (400, 200));
        for two in rows.chunks(2) {
            assert_eq!(against_gold(&requests, two), (20, 10));
        }
        // Their contrary has each ranking from its end.
        let contrary = Recipe { scramble: Scramble::Contrary, ..by_lot }.rows(&world(), &answers, 3);
        for (group, other) in rows.iter().zip(&contrary) {
            let tokens = |group: &PromptGroup| -> Vec<_> {
                group.completions.iter().map(|answer| answer.token_ids.clone()).collect()
            };
            let mut turned = tokens(other);
            turned.reverse();
            assert_eq!(tokens(group), turned);
        }
    }

    /// The noise of the plan of reward-ranking turns about 15 of 100 comparisons.
    #[test]
    fn noise_turns_about_fifteen_of_a_hundred_comparisons() {
        let requests = Requests::split(0);
        let world = WorldSettings { stuck_in_pairs: 0.003, skills: (0.3, 0.9), ..world() };
        let recipe = Recipe { count: 1000, ..recipe(Form::Rankings, 5) };
        let rows = recipe.rows(&world, &recipe.answers(&world, &requests, 4), 4);
        let (all, turned) = against_gold(&requests, &rows);
        let share = turned as f64 / all as f64;
        assert!((0.13..0.17).contains(&share), "{share}");
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
