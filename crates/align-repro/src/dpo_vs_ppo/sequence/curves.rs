//! Learning curves on validation prompts.

use std::collections::BTreeMap;

use align_core::align_types::TokenId;
use align_lm::Model;

use super::{
    policy::{Use, greedy, sampled},
    task::Task,
};
use crate::{Result, on_policy::study::Chart};

const GREEDY: &str = "Greedy pass@1 on validation prompts";
const SAMPLED: &str = "Sampled pass@1 on validation prompts";

/// Points of a curve.
pub(super) const POINTS: u64 = 6;

/// The charts of all arms that sample while they learn.
pub const CHARTS: &[Chart] = &[
    Chart { title: GREEDY, x: "answers sampled", y: "share of prompts" },
    Chart { title: SAMPLED, x: "answers sampled", y: "share of prompts" },
];

/// The curves of an arm with a seed.
#[derive(Debug)]
pub struct Curves<'a> {
    task: &'a Task,
    prompts: &'a [Vec<TokenId>],
    seed: u64,
    points: Vec<(f64, [f64; 2])>,
}

impl<'a> Curves<'a> {
    /// Makes curves without points over some of the validation prompts.
    pub fn new(task: &'a Task, prompts: usize, seed: u64) -> Self {
        let prompts = task.validation.get(..prompts).unwrap_or(&task.validation);
        Self { task, prompts, seed: Use::Validation.seed(seed), points: Vec::new() }
    }

    /// Adds what the policy is worth after so many sampled answers.
    ///
    /// # Errors
    /// A failure of the sampling engine.
    pub fn add(&mut self, model: &Model, answers: usize) -> Result<()> {
        let worth =
            [greedy(model, self.task, self.prompts)?, sampled(model, self.task, self.prompts, self.seed)?];
        self.points.push((answers as f64, worth));
        Ok(())
    }

    /// Returns the curves by the titles of their charts; none without a point.
    pub fn finish(self) -> BTreeMap<String, Vec<(f64, f64)>> {
        let curve = |which: fn(&[f64; 2]) -> f64| {
            self.points.iter().map(|(at, worth)| (*at, which(worth))).collect::<Vec<_>>()
        };
        let curves = [(GREEDY, curve(|[greedy, _]| *greedy)), (SAMPLED, curve(|[_, sampled]| *sampled))];
        let drawn = curves.into_iter().filter(|(_, points)| !points.is_empty());
        drawn.map(|(title, points)| (title.to_owned(), points)).collect()
    }
}
