//! Pairs at the decision boundary of the present reward model against random and easiest pairs, at the same number of
//! labels: uncertainty sampling ("A Sequential Algorithm for Training Text Classifiers", 1994) for comparisons.

use crate::{
    outcome::Outcome,
    study::Texts,
    style::words::{controls, say},
};

/// The experiment's name, plan and words.
pub const TEXTS: Texts = Texts {
    name: "reward-boundary",
    plan: include_str!("../../plans/reward-boundary.toml"),
    answer,
    deviations: DEVIATIONS,
};

const DEVIATIONS: &[&str] = &[
    "The papers' reward models have millions to billions of parameters and learn from people. Here some thousand parameters \
     learn from a rule on 20 tokens: direction only, no statement about the size of any effect in a language model.",
    "The paper chooses texts for a classifier in several rounds; here pairs are chosen once, and the model is trained anew \
     on the present model's pairs and the chosen ones.",
    "Labels are gold's order. The controls turn an exact share of those that were chosen, whichever pairs these are.",
    "Pilots (seeds 1000 and 1001, 500 + 500 pairs) had boundary pairs worth less than random ones on hard pairs, and the \
     control of the easiest pairs failed. The sizes were changed after that and have no pilot; no claim is required.",
    "No correction for the number of comparisons was made.",
];

/// Says in three sentences what the verdicts mean; every word depends on them.
fn answer(outcome: &Outcome) -> Vec<String> {
    let random = say(
        outcome,
        "boundary-over-random",
        "labels at the decision boundary teach more than as many random ones",
        "labels at the decision boundary teach less than as many random ones",
    );
    let all = say(
        outcome,
        "boundary-over-random-all",
        "they do on all fresh pairs, too",
        "on all fresh pairs they teach less",
    );
    vec![format!("On fresh hard pairs, {random}."), format!("And {all}."), controls(outcome)]
}
