//! "Scaling Laws for Reward Model Overoptimization" (2210.10760) and "WARM: On the Benefits of Weight Averaged Reward
//! Models" (2401.12187) with best-of-n and with PPO: gold falls while the reward model that is optimised says that it rises.

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
    "Samples of best-of-n come from the writers themselves, whose next-token probabilities are not needed: best-of-n has its KL in \
     closed form. A small share of the samples says a kind word and a word of the topic over and over, which gold punishes; \
     far fewer of the answers that are compared do, so that few pairs show it.",
    "The place before the fall, n = 8, was fixed on the pilot and not chosen on the curve, which would favour a fall.",
    "Members of an average start from one model that has read texts and from one head, and differ in the order of the same \
     rows; in the paper they differ in rates and in checkpoints of fine-tuning, too.",
    "The control of averaged weights of different initialisations asked for a loss of more than 10 points of accuracy, of two \
     models with equal heads; a run of the quick size left that undecided (1 point). Then they were three, as those of the average \
     that is judged, with heads of their own, and a loss at all was asked for; three seeds lost 10 points on average and left it \
     undecided. Now none of the three is a member, and there are eight seeds of them. A pilot (seeds 1000 to 1003) went from 85 \
     to 75 % of held-out pairs: in models this small the average loses accuracy and does not collapse to chance.",
    "Averaged weights are of the full size only, with their control: the quick size has no policies on them and left every claim \
     about them undecided. Its time goes into five seeds in place of three for the others. After that run the claims on the peak of \
     best-of-n and on the accuracy of averaged weights, which are reported and not required, were added, and best-of-n of the full size \
     got 6 requests in place of 8. Seeds 0 to 2 are counted again.",
    "PPO begins with the language model that the reward models began with, has no penalty on the divergence, and a critic of its \
     own that begins with the same model. Gold and proxy are read on sampled answers to held-out requests.",
    "The highest point of a noisy curve is too high. Where gold of a policy has its peak is read from one half of the answers \
     at each point, how high it is from the other half, so that gold that does not change has no fall.",
    "WARM compares policies by a judge at several lengths of training; here gold is read at a KL of 16 nats per answer, by a \
     straight line between two points of the curve, or at its end where a policy does not go so far. \
     The members are three; six would take twice the time.",
    "Sizes, rates and claims were set on a pilot run with a seed from 1000, which does not count.",
    "Reward models from 300, 1000 and 3000 pairs are trained for 3, 2 and 1 epochs, so that they differ in updates (45, 100, \
     150) as well as in data. A part of the quick run (seeds 0 to 2) left their difference undecided; after that its claim \
     was made required at the full size only. When the policies were added, the reward model of width 8 and that from 1000 \
     pairs were left to the full size, whose seeds were cut from 6 to 5.",
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
    let policy = say(
        outcome,
        "ppo-gold-falls",
        "gold falls as well after its peak",
        "gold does not fall after its peak",
    );
    let policies = say(
        outcome,
        "ppo-more-data-at-equal-kl",
        "a reward model with more data gives more gold at equal KL",
        "a reward model with more data gives less gold at equal KL",
    );
    let averaged = say(
        outcome,
        "ppo-weights-over-single",
        "PPO earns more gold with them",
        "PPO earns less gold with them",
    );
    vec![
        format!("Under best-of-n, {falls}; {data}. Under PPO, {policy}; {policies}."),
        format!("Of models from one start, {warm}; at equal KL, {averaged}."),
        controls(outcome),
    ]
}
