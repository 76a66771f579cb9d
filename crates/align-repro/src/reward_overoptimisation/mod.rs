//! "Scaling Laws for Reward Model Overoptimization" (2210.10760) and "WARM: On the Benefits of Weight Averaged Reward
//! Models" (2401.12187) with best-of-n: gold falls while the reward model that chooses says that it rises.

use crate::{
    outcome::Outcome,
    study::Texts,
    style::words::{controls, say},
};

/// The experiment's name, plan and words.
pub const TEXTS: Texts = Texts {
    name: "reward-overoptimisation",
    plan: include_str!("../../plans/reward-overoptimisation.toml"),
    answer,
    deviations: DEVIATIONS,
};

const DEVIATIONS: &[&str] = &[
    "The papers' reward models have millions to billions of parameters and learn from people. Here some thousand parameters \
     learn from a rule on 20 tokens: direction only, no statement about the size of any effect in a language model.",
    "Only best-of-n: policies trained on a reward model are not part of this experiment.",
    "Samples come from the writers themselves, whose next-token probabilities are not needed: best-of-n has its KL in \
     closed form. A small share of the samples says a kind word and a word of the topic over and over, which gold punishes; \
     far fewer of the answers that are compared do, so that few pairs show it.",
    "The place before the fall, n = 8, was fixed on the pilot and not chosen on the curve, which would favour a fall.",
    "Members of an average start from one model that has read texts and from one head, and differ in the order of the same \
     rows; in the paper they differ in rates and in checkpoints of fine-tuning, too.",
    "WARM's claims are about policies trained on a reward; here best-of-n chooses by it, at the same n and thus KL.",
    "Sizes, rates and claims were set on a pilot run with a seed from 1000, which does not count.",
    "Reward models from 300, 1000 and 3000 pairs are trained for 3, 2 and 1 epochs, so that they differ in updates (45, 100, \
     150) as well as in data. A part of the quick run (seeds 0 to 2) left their difference undecided; after that its claim \
     was made required at the full size only.",
    "No correction for the number of comparisons was made.",
];

/// Says in three sentences what the verdicts mean; every word depends on them.
fn answer(outcome: &Outcome) -> Vec<String> {
    let falls = say(
        outcome,
        "gold-falls",
        "gold falls while the reward model says that it rises",
        "gold does not fall while the reward model says that it rises",
    );
    let data = say(
        outcome,
        "more-data-falls-less",
        "it falls less under a reward model with more data",
        "it falls more under a reward model with more data",
    );
    let warm = say(
        outcome,
        "warm-over-single",
        "averaged weights earn more gold than the best single model at equal KL",
        "averaged weights earn less gold than the best single model at equal KL",
    );
    vec![
        format!("Under best-of-n, {falls}; {data}."),
        format!("Of models from one start, {warm}."),
        controls(outcome),
    ]
}
