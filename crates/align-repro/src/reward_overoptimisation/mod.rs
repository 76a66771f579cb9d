use crate::{outcome::Outcome, study::Texts, style::words::controls};

/// The experiment's name, plan and words.
pub const TEXTS: Texts = Texts {
    name: "reward-overoptimisation",
    plan: include_str!("../../plans/reward-overoptimisation.toml"),
    answer,
    deviations: DEVIATIONS,
};

const DEVIATIONS: &[&str] = &[];

fn answer(outcome: &Outcome) -> Vec<String> {
    vec![controls(outcome)]
}
