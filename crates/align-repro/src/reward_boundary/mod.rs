use crate::{outcome::Outcome, study::Texts, style::words::controls};

/// The experiment's name, plan and words.
pub const TEXTS: Texts = Texts {
    name: "reward-boundary",
    plan: include_str!("../../plans/reward-boundary.toml"),
    answer,
    deviations: DEVIATIONS,
};

const DEVIATIONS: &[&str] = &[];

fn answer(outcome: &Outcome) -> Vec<String> {
    vec![controls(outcome)]
}
