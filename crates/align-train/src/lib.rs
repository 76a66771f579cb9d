//! The training loop of the `align` workspace: optimiser, schedule, accumulation by token budget, clipping,
//! data-parallel threads, checkpoints with exact resume, and the run folder.
//!
//! It does not know which algorithm runs: a loss comes in as an [`align_core::Objective`], a model as an
//! [`align_core::CausalLm`], rows as an [`align_core::align_types::PromptSource`].
//!
//! * [`train`] runs a whole job over batches of rows in a [`RunFolder`], [`run`] anything that is an
//!   [`align_core::Steps`].
//! * [`Engine`] does single optimiser steps without any file.
//! * [`AdamW`], [`learning_rate`], [`gradient_norm`] are the parts it is made of.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod adamw;
mod checkpoint;
mod clip;
mod coupled;
mod engine;
mod environment;
mod error;
mod eval_rows;
mod events;
mod files;
mod fingerprint;
mod gradients;
mod health;
mod keep_best;
mod learner;
mod meter;
mod metrics;
mod moments;
mod optimizer_file;
mod overlap;
mod pace;
pub mod parallel;
mod progress;
mod run;
mod run_folder;
mod schedule;
mod settings;
mod totals;
mod train;
mod weights_file;

pub use adamw::{AdamW, Update};
pub use align_core::{BatchReport, BoxError};
pub use checkpoint::{Best, Checkpoint, SaveModel, TrainerState, Unevaluated, WallTime};
pub use clip::{clip_factor, gradient_norm};
pub use engine::{Compute, Engine, EvalBatch};
pub use environment::{Environment, peak_rss_mb};
pub use error::{Difference, Error, Result, SavedStep};
pub use events::EventsFile;
pub use files::write_atomic;
pub use health::{Health, Seen, Warning};
pub use meter::Meter;
pub use metrics::MetricsFile;
pub use pace::Unit;
pub use progress::{Position, Progress, Silent, Terminal};
pub use run::{BeforeFinish, Hooks, Outcome, RunJob, run};
pub use run_folder::{OpenMode, Opened, RunFolder, Start};
pub use schedule::learning_rate;
pub use train::{TrainJob, train};
