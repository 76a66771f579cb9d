//! "UNA: Unifying Alignments of RLHF/PPO, DPO and KTO by a Generalized Implicit Reward Function" (2408.15339): pairs,
//! labels and scores of the same answers, and what the missing partition function costs.

use crate::{
    outcome::Outcome,
    study::Texts,
    style::words::{controls, say},
};

/// The experiment's name, plan and words.
pub const TEXTS: Texts =
    Texts { name: "una", plan: include_str!("../../plans/una.toml"), answer, deviations: DEVIATIONS };

const DEVIATIONS: &[&str] = &[
    "The paper aligns Mistral 7B and judges it by leaderboards, MT-Bench and AlpacaEval; the differences between its arms are \
     small there. Here a policy of some thirty thousand parameters writes 20 tokens for a reward that is known: direction \
     only, no statement about the size of any effect in a language model.",
    "All arms see the same answers in the same batches and make the same number of updates; pairs, labels and scores come \
     from one noisy score per answer. A label is a score above the median of all scores. Scores are scaled to [0, 1] by their \
     smallest and largest value.",
    "Gold is compared at equal KL, which the paper does not do. A checkpoint beyond that KL counts as its mixture with the \
     fine-tuned policy, whose gold is exact and whose KL is at most the share times its own.",
    "QRPO ranks a score among the scores of all answers to the request, its own included, which the fine-tuned policy has \
     sampled: no arm has more answers or labels than another.",
    "The control with permuted scores takes the setting that was chosen for the sound arm: a choice of its own on validation \
     requests would be learning from gold. The arm with an offset sweeps the whole grid.",
    "The offset is added to the scores of a random half of the requests and subtracted from the others; scaling to [0, 1] \
     then also makes differences within a request smaller. The arm score-wide has that range without the offset.",
    "UNA online is not part of this experiment.",
    "Sizes, grid and claims were set on pilot runs with seeds from 1000, which are not reported.",
    "No correction for the number of comparisons was made.",
];

/// Says in three sentences what the verdicts mean; every word depends on them.
fn answer(outcome: &Outcome) -> Vec<String> {
    let pairs = say(
        outcome,
        "score-over-pairs",
        "UNA learns more from scores than DPO from pairs of the same answers",
        "UNA learns less from scores than DPO from pairs of the same answers",
    );
    let labels = say(
        outcome,
        "score-over-binary",
        "scores teach UNA more than labels made of them",
        "scores teach UNA less than labels made of them",
    );
    let binary =
        say(outcome, "binary-over-pairs", "labels teach more than pairs", "labels teach less than pairs");
    vec![format!("At equal KL {pairs}."), format!("Within UNA {labels}; {binary}."), controls(outcome)]
}
