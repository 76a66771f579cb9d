//! On-policy alignment: PPO as the papers practise it, RLOO, GRPO and their relatives.
//!
//! The phases between samples and updates are functions over plain data ([`align_core::align_types::PromptGroup`]), each
//! callable alone:
//!
//! 1. [`begin_trajectories`] marks what was sampled; the objectives' `measure` gives log-probabilities and values, and
//!    [`read_measures`] writes them down;
//! 2. [`shape_rewards`] turns scores and the KL divergence into rewards of tokens ([`KlController`] has its weight);
//! 3. [`estimate_advantages`] makes advantages of them: [`gae`] with a critic, or [`leave_one_out`], [`group_normalised`],
//!    [`centred`] by group; [`keep_signal`] and [`pair_samples`] choose what is learned from;
//! 4. [`PolicyObjective`], [`CriticObjective`], [`ActorCriticObjective`] and [`OnlineDpoObjective`] are the losses that a
//!    training loop minimises, over the pure functions [`policy_loss`] and [`value_loss`].
//!
//! [`Ppo`] is the iteration that puts them together, over seams: [`sample`] and [`score`] are its first phases.
//!
//! An answer whose reward abstains has no advantage, and losses leave it out; it is never taken for a reward of 0. It still
//! counts in the divergence, entropy and lengths that are reported, because the policy wrote it.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod advantages;
mod aggregation;
mod answers;
mod clipped;
mod config;
mod controller;
mod entropy;
mod error;
mod gae;
mod groups;
mod iteration;
mod measures;
mod minibatches;
mod normalizer;
mod objective;
mod report;
mod rollout;
mod sampling;
mod scorer;
mod shaping;
mod update;
mod whiten;

pub use advantages::{AdvantageReport, estimate_advantages};
pub use aggregation::Averaging;
pub use clipped::{PolicyInputs, PolicyLoss, ValueInputs, policy_loss, value_loss};
pub use config::{
    AdvantageKind, CriticKind, KlEstimator, KlPlacement, OverlongPenalty, PolicyAggregation, PpoConfig,
    RewardBaseline, RewardScaling, Truncated,
};
pub use controller::KlController;
pub use entropy::entropies;
pub use error::{Error, IterationError, Result};
pub use gae::{Gae, GaeInputs, gae};
pub use groups::{GROUP_EPSILON, centred, group_normalised, leave_one_out};
pub use iteration::{Figure, Observer, Parts, Ppo, Sampler, Settings};
pub use measures::{MeasureLayout, MeasureReport, begin_trajectories, read_measures};
pub use minibatches::deal;
pub use normalizer::{RunningNormalizer, RunningScale};
pub use objective::{ActorCriticObjective, CriticObjective, OnlineDpoObjective, PolicyObjective, References};
pub use report::{check_first_ratio, objective_metrics};
pub use rollout::{sample, score};
pub use sampling::{Pairs, has_signal, keep_signal, pair_samples};
pub use scorer::{FindText, PromptText, Scorer, TextScorer};
pub use shaping::{ShapingInputs, ShapingReport, kl_estimate, overlong_penalty, shape_rewards};
pub use whiten::{Moments, whiten};
