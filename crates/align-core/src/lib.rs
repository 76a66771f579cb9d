//! The tensor side of the `align` workspace: what alignment algorithms share.
//!
//! * [`PackedBatch`] lays prompt groups out as one flat stream of tokens, each prompt once, without padding.
//! * [`TokenLogProbs`] holds the log-probabilities of completion tokens with offsets per completion.
//! * [`CausalLm`], [`CachedLm`] and [`Objective`] are the seams between models, losses and the training loop;
//!   [`ScoreModel`] and [`ValueModel`] those of reward models and critics.
//! * [`Learn`] is a model that an algorithm trains over planned batches ([`Packs`]), [`Steps`] what a run repeats.
//! * [`Coupling`] is how a loss whose rows depend on each other sees the whole batch however it is cut.
//! * [`passes`] sends many rows through replicas of a model, in batches by tokens.
//! * [`mix_weights`] is every average of weights.
//! * [`kl`] and [`stats`] hold the estimators that every algorithm needs, [`intervals`] what a figure is worth.
//! * [`evaluation`] turns numbers of held-out rows and of samples into win rates, accuracies and divergences.
//!
//! A model from another project that only knows padded `[B, T]` input is served by [`PaddedBatch`].
//!
//! `tch` is re-exported, so that a user can always name the version this crate was built with.

mod averages;
mod coupled;
mod error;
pub mod evaluation;
mod grad;
pub mod intervals;
pub mod kl;
mod learn;
mod logprobs;
mod model;
mod objective;
mod packed;
mod packs;
mod padded;
pub mod parallel;
pub mod passes;
pub mod stats;
mod steps;
pub mod storage;
pub mod threads;
mod trainable;
mod values;

pub use align_types;
pub use averages::{check_mixable, mix_weights};
pub use coupled::{Coupling, couple_batch, linear_terms, linearise};
pub use error::{Error, Result, expect_shape};
pub use grad::{clear_gradients, no_grad, records_gradients};
pub use learn::{BatchReport, BoxError, Learn};
pub use logprobs::{TokenLogProbs, gather_log_probs, log_collision_probs};
pub use model::{CachedLm, CausalLm, KvCache, LayerCache, Parameter};
pub use objective::{LossComponent, LossOutput, MetricTerm, Objective};
pub use packed::{GroupSpan, PackedBatch};
pub use packs::{Packs, Part};
pub use padded::PaddedBatch;
pub use steps::{Concluded, Evaluation, StepAt, StepError, Stepped, Steps};
pub use tch;
pub use trainable::Trainable;
pub use values::{ActorCritic, ScoreModel, TokenValues, ValueModel};
