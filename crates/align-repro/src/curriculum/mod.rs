//! Prompts at the edge of ability against all prompts, hard ones and the rest, at the same number of sampled answers:
//! sums by column, which a policy begins with solving nearly always, now and then or almost never.

pub mod columns;
mod run;

pub use run::Curriculum;

use crate::{
    outcome::Outcome,
    study::Texts,
    style::words::{controls, say},
};

/// The experiment's name, plan and words.
pub const TEXTS: Texts = Texts {
    name: "curriculum",
    plan: include_str!("../../plans/curriculum.toml"),
    answer,
    deviations: DEVIATIONS,
};

const DEVIATIONS: &[&str] = &[
    "The paper trains models of 3 billion parameters and more on questions of mathematics; here a policy of some twenty thousand \
     parameters adds digits by column: direction only.",
    "Success rates are first estimated from answers of the start that are used for nothing else, and all of them count; after that \
     they follow the answers that are trained on, which are other ones than those that a problem was chosen by.",
    "Problems inside the range are drawn by weight, p (1 - p) + floor, as `align ppo` draws them; with the floor of the plan \
     this differs little from an even draw between 0.2 and 0.8, and prefers the least hard ones of only hard problems.",
    "The reversed filter is the same one whose every place is given to problems outside the range.",
    "Steps are in proportion to gradients (Adam with an epsilon of 1), as in the bound p (1 - p) on what a problem can teach. With Adam's \
     usual epsilon the size of a step does not depend on how much a batch teaches; a reckoning with one number for each column gave \
     the filter no advantage then, before anything was run.",
    "The full size was run before, on the same seeds: with rewards by lot of estimates and of training from one stream, and \
     with the shares of a batch rounded down. Neither change moved a verdict.",
    "Dropping groups that are all right or all wrong after they were sampled (DAPO) is no arm.",
    "No correction for the number of comparisons was made.",
];

/// Says in three sentences what the verdicts mean; every word depends on them.
fn answer(outcome: &Outcome) -> Vec<String> {
    let all = say(
        outcome,
        "edge-over-all",
        "at the same number of sampled answers, those for estimates included, problems at the edge of ability teach more than all \
         problems",
        "at the same number of sampled answers, those for estimates included, problems at the edge of ability teach less than all \
         problems",
    );
    let hard = say(
        outcome,
        "edge-over-hard",
        "they teach more than hard problems alone",
        "they teach less than hard problems alone",
    );
    let run = say(
        outcome,
        "edge-over-all-run",
        "over the whole run the policy is better with the filter",
        "over the whole run the policy is worse with the filter",
    );
    vec![format!("{all}; {hard}."), format!("{run}."), controls(outcome)]
}
