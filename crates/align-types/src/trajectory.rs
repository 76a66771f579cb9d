use serde::{Deserialize, Serialize};

/// What on-policy training knows of a sampled completion, token by token.
///
/// Every list that is there has one number per token of the completion, stop token included; an empty list is not
/// known (yet). Phases fill one after the other: log-probabilities and values, then rewards, then advantages and
/// returns. Log-probabilities are natural logarithms at the sampling temperature. Values and returns are in the critic's
/// units: those of the reward, unless the critic predicts normalised returns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trajectory {
    /// Log-probability of each token under the policy before the first update of the iteration, as the training
    /// forward computes it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub old: Vec<f32>,
    /// Log-probability of each token under the reference policy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reference: Vec<f32>,
    /// Log-probability of each token under the first reference, where the reference moves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub first_reference: Vec<f32>,
    /// The critic's value of the state before each token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<f32>,
    /// The critic's value of the state after the last token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_after: Option<f32>,
    /// The reward of each token, penalties included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<f64>,
    /// The advantage of each token, normalised where that is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advantages: Vec<f64>,
    /// What the critic learns to predict at each token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub returns: Vec<f64>,
}
