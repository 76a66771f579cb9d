//! "Training language models to follow instructions with human feedback" (2203.02155): its three stages in one run on a
//! small task, with and without the language-modelling term of its last stage.

mod run;

pub use run::Rlhf;

use crate::{
    outcome::Outcome,
    study::Texts,
    style::words::{controls, say},
};

/// The experiment's name, plan and words.
pub const TEXTS: Texts =
    Texts { name: "rlhf", plan: include_str!("../../plans/rlhf.toml"), answer, deviations: DEVIATIONS };

const DEVIATIONS: &[&str] = &[
    "The paper trains models of 1.3 to 175 billion parameters and asks people; here a policy of some thirty thousand parameters \
     writes 20 tokens for a reward that is known, and rankings come from that reward with noise, rounded so that answers tie: \
     direction only.",
    "There is no pretraining: the earlier data, whose loss shows forgetting and whose rows are the term ptx, are texts of the \
     writers of all skills, as the demonstrations were; those that are measured are of held-out requests.",
    "The reward model begins with the transformer of the fine-tuned policy and is as large as it; its scores are shifted and scaled \
     to mean 0 and variance 1 over the answers that were ranked.",
    "The gold reward is read by the rankings alone, and by the test. The settings were written down before the first \
     run that counts; one pilot run, with seed 1000, is not reported, and nothing was tuned.",
    "No correction for the number of comparisons was made.",
];

/// Says in three sentences what the verdicts mean; every word depends on them.
fn answer(outcome: &Outcome) -> Vec<String> {
    let gold = say(
        outcome,
        "ppo-over-sft",
        "PPO on a reward model of noisy rankings writes better answers than the demonstrations taught",
        "PPO on a reward model of noisy rankings writes worse answers than the demonstrations taught",
    );
    let forgets = say(
        outcome,
        "ppo-forgets",
        "PPO forgets: earlier texts cost more nats per token",
        "earlier texts cost fewer nats per token after PPO",
    );
    let ptx = say(
        outcome,
        "ptx-remembers",
        "with the language-modelling term it forgets less",
        "with the language-modelling term it forgets more",
    );
    vec![format!("{gold}."), format!("{forgets}; {ptx}."), controls(outcome)]
}
