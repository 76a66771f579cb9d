//! Eight prompts, eight responses, networks with shared parameters, and no sampling: how much probability do
//! DPO and PPO put on responses that no preference pair shows?
//!
//! After section 4.2 and figure 1 of 2404.10719, which shows one example; here the mean over prompts is
//! measured over many seeds, at the end and at equal KL, with two controls.

mod instance;
mod measure;
mod nets;
mod show;
mod train;

use serde::{Deserialize, Serialize};

pub use instance::Instance;
pub use measure::{Example, PathResult, ToyResult, at_equal_kl};
pub use show::show;
pub use train::run;

/// Prompts and responses.
pub const SIZE: usize = 8;

/// Where the reference policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceKind {
    /// Cross-entropy to the uniform distribution over the covered cells.
    Sft,
    /// A network as it is initialised: near uniform.
    Random,
}

/// One row of the study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToyArm {
    /// Width of the hidden layer.
    pub hidden: usize,
    /// Preference pairs per prompt.
    pub pairs: usize,
    /// Where the reference comes from.
    pub reference: ReferenceKind,
}

/// Settings of all rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToySettings {
    /// Steps of supervised fine-tuning.
    pub sft_steps: usize,
    /// Steps of the reward network.
    pub reward_steps: usize,
    /// Steps of DPO and of PPO.
    pub policy_steps: usize,
    /// Adam's rate, constant.
    pub learning_rate: f64,
    /// Beta of both methods.
    pub beta: f64,
    /// Standard deviation of the input weights.
    pub input_deviation: f64,
    /// The utility of cells off the diagonal is uniform below this; on the diagonal it is 1.
    pub gold_below: f64,
    /// Share of the smaller of the two largest KL values at which paths are compared.
    pub matched_share: f64,
    /// The rows by the names of their arms.
    pub arms: std::collections::BTreeMap<String, ToyArm>,
}
