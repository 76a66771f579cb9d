use serde::{Deserialize, Serialize};

/// Where the advantages of on-policy training come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AdvantageKind {
    /// Generalised advantage estimation with a critic and the clipped objective (1707.06347, 1506.02438).
    #[default]
    Ppo,
    /// Rewards-to-go less the critic's value, without clipping (1602.01783).
    A2c,
    /// The return of the whole answer less the mean of the other answers of the batch, without clipping (Williams, 1992).
    Reinforce,
    /// The return less the mean of the other answers to the same prompt (2402.14740).
    Rloo,
    /// The return less the mean over the answers to the prompt, divided by their standard deviation (2402.03300).
    Grpo,
    /// The return less the mean over the answers to the prompt, and nothing else (2503.20783).
    DrGrpo,
    /// As GRPO, with a wider upper clip, a mean over tokens and groups without signal replaced (2503.14476).
    Dapo,
    /// DPO on the best and the worst answer to each prompt (2402.04792).
    OnlineDpo,
}

impl AdvantageKind {
    /// Every choice, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Ppo,
        Self::A2c,
        Self::Reinforce,
        Self::Rloo,
        Self::Grpo,
        Self::DrGrpo,
        Self::Dapo,
        Self::OnlineDpo,
    ];

    /// Returns the name in configurations.
    ///
    /// ```
    /// assert_eq!(align_types::config::AdvantageKind::DrGrpo.name(), "dr-grpo");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Self::Ppo => "ppo",
            Self::A2c => "a2c",
            Self::Reinforce => "reinforce",
            Self::Rloo => "rloo",
            Self::Grpo => "grpo",
            Self::DrGrpo => "dr-grpo",
            Self::Dapo => "dapo",
            Self::OnlineDpo => "online-dpo",
        }
    }

    /// Says whether a critic is trained.
    pub fn uses_critic(self) -> bool {
        matches!(self, Self::Ppo | Self::A2c)
    }

    /// Says whether an answer is compared with the other answers to its prompt, so that one answer is not enough.
    pub fn uses_groups(self) -> bool {
        matches!(self, Self::Rloo | Self::Grpo | Self::DrGrpo | Self::Dapo | Self::OnlineDpo)
    }

    /// Says whether the importance ratio is clipped; the others are for one update per batch of samples.
    pub fn clips(self) -> bool {
        !matches!(self, Self::A2c | Self::Reinforce | Self::OnlineDpo)
    }
}

/// How the KL divergence to the reference is estimated at a sampled token, with d = log π − log π_ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// d: unbiased; may be negative.
    #[default]
    K1,
    /// d² / 2: biased, but the gradient of its mean is that of KL(π ‖ π_ref).
    K2,
    /// exp(−d) − 1 + d: unbiased, at least 0; the gradient of its mean is that of KL(π_ref ‖ π).
    K3,
}

/// What the KL estimate is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlPlacement {
    /// The reward of each token, a constant (1909.08593).
    #[default]
    Reward,
    /// The loss, with gradient (2402.03300).
    Loss,
}

/// What becomes of an answer that reached the token limit, where a critic is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncated {
    /// It has no score: its return goes on with the critic's value of the state where it was cut (2404.10719). Its score
    /// and that value would count the same thing twice.
    #[default]
    Bootstrap,
    /// It is over, and its score counts, as in TRL: right where the limit belongs to the task.
    Score,
}

/// What scores are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardScaling {
    /// Nothing.
    #[default]
    None,
    /// The standard deviation of all scores of the run so far (2307.04964, "reward scaling").
    Running,
}

/// What is subtracted from the score of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardBaseline {
    /// Nothing.
    #[default]
    None,
    /// The score of the reference model's own answer to the same prompt.
    Reference,
}

/// Where the critic lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriticKind {
    /// A network of its own, with its own optimiser.
    #[default]
    Separate,
    /// A head on the policy's transformer.
    Shared,
}

/// Over what the terms of tokens are averaged; denominators are those of the whole optimiser batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyAggregation {
    /// Sum over all tokens / number of tokens (2503.14476 eq. 12; TRL's PPO).
    #[default]
    TokenMean,
    /// Mean over answers of each answer's mean (GRPO as published).
    SeqMeanMean,
    /// Mean over answers of each answer's sum.
    SeqSumMean,
    /// Sum over all tokens / (number of answers × the token limit) (Dr. GRPO).
    SeqSumConst,
}

/// The soft penalty of long answers (2503.14476 eq. 13), from 0 down to −1, added to the score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlongPenalty {
    /// Tokens from which on the penalty is −1; at least `cache`.
    pub max: usize,
    /// Tokens over which the penalty grows, the last ones before `max`; at least 1.
    pub cache: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_files() {
        for kind in AdvantageKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        assert_eq!(serde_json::to_value(PolicyAggregation::SeqSumConst).unwrap(), "seq_sum_const");
        assert_eq!(serde_json::to_value(KlEstimator::K3).unwrap(), "k3");
    }
}
