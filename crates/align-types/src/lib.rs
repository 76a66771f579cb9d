//! Plain data and tensor-free seams of the `align` workspace.
//!
//! Everything in alignment compares several answers to the same prompt, so one shape runs through the whole
//! workspace: a [`PromptGroup`] is one prompt and its [`Completion`]s. The crates that read text, sample,
//! score and train exchange this shape and nothing else. It holds no tensors, is `Send` and serialisable,
//! and this crate links no numerical library.
//!
//! ```
//! use align_types::{Completion, PromptGroup};
//!
//! let pair = PromptGroup::new(vec![1, 5, 9], vec![
//!     Completion::named("chosen", vec![7, 2]),
//!     Completion::named("rejected", vec![8, 8, 2]),
//! ]);
//! assert_eq!(pair.flat_tokens(), 3 + 2 + 3);
//! ```

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod calendar;
mod completion;
pub mod config;
mod error;
pub mod exact;
mod health;
mod reward;
mod rng;
mod traits;
mod trajectory;

pub use calendar::civil_date;
pub use completion::{Columns, Completion, FinishReason, PromptGroup, Source, TokenId};
pub use error::{Error, Result};
pub use health::{Amount, HealthCheck, Move, Rule};
pub use reward::{Reward, RewardFn, RewardItem, Scores, score};
pub use rng::{Purpose, RngStream};
pub use traits::{Generator, MetricSink, PromptSource};
pub use trajectory::Trajectory;
