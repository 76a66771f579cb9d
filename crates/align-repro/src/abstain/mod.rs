//! "I do not know": a model that knows half of a set of facts, fine-tuned, given preferences, or rewarded for what its
//! answers are worth. Refusing is a question of what the model knows, which only its own answers show.

pub mod facts;
mod run;

pub use run::Abstain;

use crate::{
    outcome::Outcome,
    study::Texts,
    style::words::{controls, say},
};

/// The experiment's name, plan and words.
pub const TEXTS: Texts =
    Texts { name: "abstain", plan: include_str!("../../plans/abstain.toml"), answer, deviations: DEVIATIONS };

const DEVIATIONS: &[&str] = &[
    "The model has a third of a million parameters and its facts are pairs of made tokens: direction only, no statement about \
     the size of any effect in a language model.",
    "Facts that are known to the model have been taught to it in every phrasing; of the others it has read the question only. \
     Half of each kind is asked about while policies are aligned, the other half in the test only: what is learned must be \
     when to refuse, not which questions.",
    "The writers of demonstrations do not know what the model knows: a share of the questions is left unanswered by lot. The arm \
     with rows where the model is wrong knows it, as PPO does.",
    "The settings were written down before the first run and have not been tuned for any arm: the claims against the arms beside \
     PPO are reported, not required.",
    "Five pilots with seed 1000, four of them with other settings of PPO, were run after the quick size and before the full one; \
     none was taken over.",
    "No correction for the number of comparisons was made.",
];

/// Says in three sentences what the verdicts mean; every word depends on them.
fn answer(outcome: &Outcome) -> Vec<String> {
    let wrong = say(
        outcome,
        "ppo-less-wrong",
        "PPO with +1, 0 and -4 for right, 'I do not know' and wrong gives fewer wrong answers to what the model does not know \
         than fine-tuning",
        "PPO gives more wrong answers to what the model does not know than fine-tuning",
    );
    let keeps = say(
        outcome,
        "ppo-keeps-known",
        "it keeps what the model knows to within 5 points",
        "it loses more than 5 points of what the model knows",
    );
    let dpo = say(
        outcome,
        "ppo-over-dpo",
        "PPO answers better than DPO on 'I do not know' over a wrong answer, by the same scores",
        "DPO on 'I do not know' over a wrong answer does better than PPO, by the same scores",
    );
    vec![format!("{wrong}; {keeps}."), format!("{dpo}."), controls(outcome)]
}
