use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::ReferenceSync;
use crate::Columns;

mod checks;
mod choices;

pub use choices::{
    AdvantageKind, CriticKind, KlEstimator, KlPlacement, OverlongPenalty, PolicyAggregation, RewardBaseline,
    RewardScaling, Truncated,
};

/// PPO and its relatives, with the names of TRL where TRL has them.
///
/// The defaults are those of [`Self::for_advantage`]; what is read from a file begins with those of its `advantage`:
///
/// ```
/// use align_types::config::{AdvantageKind, KlPlacement, PpoConfig};
///
/// let read: PpoConfig = serde_json::from_str(r#"{"advantage": "grpo", "num_ppo_epochs": 2}"#)?;
/// assert_eq!((read.kl_placement, read.kl_coef), (KlPlacement::Loss, 0.04));
/// assert_eq!(read, PpoConfig { num_ppo_epochs: 2, ..PpoConfig::for_advantage(AdvantageKind::Grpo) });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct PpoConfig {
    /// Where advantages come from.
    pub advantage: AdvantageKind,
    /// Weight β of the KL divergence to the reference; >= 0.
    pub kl_coef: f64,
    /// How the divergence is estimated: k1 or k3 in the reward, k2 or k3 in the loss.
    pub kl_estimator: KlEstimator,
    /// Whether the divergence is part of the reward or of the loss.
    pub kl_placement: KlPlacement,
    /// KL per answer, in nats, that an adaptive β is steered to (1909.08593, section 2.2); `None`: β is fixed.
    pub kl_target: Option<f64>,
    /// Episodes over which an adaptive β follows; > 0.
    pub kl_horizon: f64,
    /// Passes over the samples of an iteration; at least 1.
    pub num_ppo_epochs: usize,
    /// Updates per pass; at least 1.
    pub num_mini_batches: usize,
    /// ε: the ratio is clipped to [1 − ε, 1 + ε]; in (0, 1).
    pub cliprange: f64,
    /// Another ε for the upper bound (DAPO's "clip-higher"); > 0.
    pub cliprange_high: Option<f64>,
    /// How far a value may move from that of the rollout before its loss is clipped, in the critic's units; > 0.
    pub cliprange_value: f64,
    /// Weight of the value loss beside the policy's, for a critic that shares the policy's transformer; >= 0. A critic of
    /// its own has its own rate instead.
    pub vf_coef: f64,
    /// Weight of the entropy bonus; >= 0.
    pub entropy_coef: f64,
    /// Discount γ; in [0, 1].
    pub gamma: f64,
    /// λ of generalised advantage estimation; in [0, 1]. A2C has 1 whatever it says.
    pub lam: f64,
    /// Scales the rewards of tokens to variance 1 and keeps their mean.
    pub whiten_rewards: bool,
    /// Scales advantages to mean 0 and variance 1 over all tokens of the iteration.
    pub whiten_advantages: bool,
    /// Subtracted from the score of an answer that reached the token limit; >= 0.
    pub missing_eos_penalty: Option<f64>,
    /// What becomes of an answer that reached the token limit, where a critic is trained.
    pub truncated: Truncated,
    /// What scores are divided by.
    pub reward_scaling: RewardScaling,
    /// Largest absolute score, after scaling; > 0.
    pub reward_clip: Option<f64>,
    /// What is subtracted from scores.
    pub reward_baseline: RewardBaseline,
    /// Penalty of long answers.
    pub overlong_penalty: Option<OverlongPenalty>,
    /// Leaves answers that reached the token limit out of the loss ("overlong filtering").
    pub mask_truncated: bool,
    /// Replaces groups whose answers all have the same score by others.
    pub dynamic_sampling: bool,
    /// Weight of the language-modelling loss (PPO-ptx, 2203.02155 eq. 2); >= 0.
    pub ptx_coef: f64,
    /// Weight of the *policy* in the reference, which follows it once per iteration (2404.10719); in (0, 1].
    pub ref_ema: Option<f64>,
    /// Ends the updates of an iteration once `policy/approxkl_avg` of a minibatch is above it; > 0.
    pub target_kl: Option<f64>,
    /// Skips a minibatch whose mean importance ratio is above it (2404.10719 has 5); > 1.
    pub max_ratio: Option<f64>,
    /// Where the critic lives.
    pub critic: CriticKind,
    /// Peak learning rate of a separate critic; > 0 and at most 1000.
    pub critic_learning_rate: f64,
    /// Iterations in which the critic alone is trained.
    pub critic_warmup: u64,
    /// Lets the critic predict returns of mean 0 and variance 1 (2404.10719).
    pub normalize_values: bool,
    /// Over what token terms are averaged; `None`: [`Self::aggregation`].
    pub aggregation: Option<PolicyAggregation>,
    /// β of online DPO; > 0 and at most a million.
    pub beta: f64,
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            advantage: AdvantageKind::Ppo,
            kl_coef: 0.05,
            kl_estimator: KlEstimator::K1,
            kl_placement: KlPlacement::Reward,
            kl_target: None,
            kl_horizon: 10_000.0,
            num_ppo_epochs: 4,
            num_mini_batches: 1,
            cliprange: 0.2,
            cliprange_high: None,
            cliprange_value: 0.2,
            vf_coef: 0.1,
            entropy_coef: 0.0,
            gamma: 1.0,
            lam: 0.95,
            whiten_rewards: false,
            whiten_advantages: true,
            missing_eos_penalty: None,
            truncated: Truncated::Bootstrap,
            reward_scaling: RewardScaling::None,
            reward_clip: None,
            reward_baseline: RewardBaseline::None,
            overlong_penalty: None,
            mask_truncated: false,
            dynamic_sampling: false,
            ptx_coef: 0.0,
            ref_ema: None,
            target_kl: None,
            max_ratio: None,
            critic: CriticKind::Separate,
            critic_learning_rate: 1e-5,
            critic_warmup: 0,
            normalize_values: false,
            aggregation: None,
            beta: 0.1,
        }
    }
}

impl PpoConfig {
    /// The metrics of answers to held-out prompts.
    pub const HELD_OUT: [&'static str; 5] = [
        "objective/scores",
        "val/num_eos_tokens",
        "completions/mean_length",
        "completions/most_frequent_share",
        "completions/abstained",
    ];

    /// Fewest answers over which rewards are whitened: over fewer the scale is noise (lm-human-preferences).
    pub const FEWEST_TO_WHITEN: usize = 8;

    /// The metric of rows of language modelling, in training and held out.
    pub const PTX_LOSS: &'static str = "loss/ptx_avg";

    /// Returns the defaults of a choice: those of [`Self::default`] but for
    ///
    /// | advantage | differs in | source |
    /// | --- | --- | --- |
    /// | `ppo` | nothing | TRL, 2403.17031 |
    /// | `a2c` | one pass, λ = 1, advantages as they are | 1602.01783 |
    /// | `reinforce` | one pass, advantages as they are | Williams, 1992 |
    /// | `rloo` | one pass, advantages as they are | 2402.14740 |
    /// | `grpo` | one pass, k3 in the loss with β = 0.04 | 2402.03300 |
    /// | `dr-grpo` | one pass, no KL | 2503.20783 |
    /// | `dapo` | one pass, no KL, upper clip 0.28, groups without signal replaced | 2503.14476 |
    /// | `online-dpo` | one pass, no KL beside that of DPO (`beta`) | 2402.04792 |
    pub fn for_advantage(advantage: AdvantageKind) -> Self {
        let ppo = Self::default();
        if advantage == AdvantageKind::Ppo {
            return ppo;
        }
        let once = Self { advantage, num_ppo_epochs: 1, whiten_advantages: false, ..ppo };
        let in_loss = Self {
            kl_estimator: KlEstimator::K3,
            kl_placement: KlPlacement::Loss,
            kl_coef: 0.0,
            ..once.clone()
        };
        match advantage {
            AdvantageKind::Ppo | AdvantageKind::Reinforce | AdvantageKind::Rloo => once,
            AdvantageKind::A2c => Self { lam: 1.0, ..once },
            AdvantageKind::Grpo => Self { kl_coef: 0.04, ..in_loss },
            AdvantageKind::DrGrpo => in_loss,
            AdvantageKind::Dapo => Self { cliprange_high: Some(0.28), dynamic_sampling: true, ..in_loss },
            AdvantageKind::OnlineDpo => Self { kl_coef: 0.0, ..once },
        }
    }

    /// Returns over what token terms are averaged: what the configuration says, else `seq_mean_mean` for GRPO,
    /// `seq_sum_const` for Dr. GRPO and `token_mean` for the others.
    pub fn aggregation(&self) -> PolicyAggregation {
        self.aggregation.unwrap_or(match self.advantage {
            AdvantageKind::Grpo => PolicyAggregation::SeqMeanMean,
            AdvantageKind::DrGrpo => PolicyAggregation::SeqSumConst,
            _ => PolicyAggregation::TokenMean,
        })
    }

    /// Returns the weight of the KL estimate in the reward of tokens at the start; 0 where it is part of the loss.
    pub fn reward_kl_coef(&self) -> f64 {
        if self.kl_placement == KlPlacement::Reward { self.kl_coef } else { 0.0 }
    }

    /// Returns the weight of the KL estimate in the loss; 0 where it is part of the reward.
    pub fn loss_kl_coef(&self) -> f64 {
        if self.kl_placement == KlPlacement::Loss { self.kl_coef } else { 0.0 }
    }

    /// Says whether training reads a reference; without one the KL is not reported.
    pub fn needs_reference(&self) -> bool {
        self.kl_coef > 0.0
            || self.ref_ema.is_some()
            || self.advantage == AdvantageKind::OnlineDpo
            || self.reward_baseline == RewardBaseline::Reference
    }

    /// Returns how the reference follows the policy: by `ref_ema`, once per iteration.
    pub fn reference_sync(&self) -> Option<ReferenceSync> {
        self.ref_ema.map(|share| ReferenceSync { ref_model_mixup_alpha: share, ref_model_sync_steps: 1 })
    }
}

impl Serialize for PpoConfig {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for PpoConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let given = Columns::deserialize(from)?;
        let advantage = match given.get("advantage") {
            Some(kind) => AdvantageKind::deserialize(kind).map_err(D::Error::custom)?,
            None => AdvantageKind::default(),
        };
        let defaults = Self::for_advantage(advantage);
        let mut all = Self::serialize(&defaults, serde_json::value::Serializer).map_err(D::Error::custom)?;
        let Some(keys) = all.as_object_mut() else { return Err(D::Error::custom("a table is expected")) };
        keys.extend(given);
        Self::deserialize(all).map_err(D::Error::custom)
    }
}
