//! Rewards of text without a model: rules by name, programs that score, and weighted sums of them.
//!
//! * [`rule`] finds a rule by its name among [`RULES`] and makes it a [`Reward`](align_types::Reward); a [`Registry`]
//!   knows these and what other crates add;
//! * [`Program`] asks a child process;
//! * [`WeightedSum`] adds rewards up.
//!
//! A reward gives every completion one finite number, or abstains. An abstention is never a 0. Rewards are asked through
//! [`align_types::score`], which holds them to that.
//!
//! ```
//! use align_rules::rule;
//! use align_types::{Columns, RewardItem, score};
//!
//! let mut polite = rule("rule:contains=please")?;
//! let columns = Columns::new();
//! let item = |completion| RewardItem { prompt: "Pass the salt", messages: None, completion, columns: &columns, source: None };
//! let scores = score(&mut polite, &[item("Now, please."), item("Now.")])?;
//! assert_eq!(scores.values(), [Some(1.0), Some(0.0)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod error;
mod process;
mod program;
mod registry;
mod rules;
mod sum;
mod words;

pub use error::{Error, Result};
pub use program::{Notice, Program, TIME_LIMIT};
pub use registry::{Argument, RULES, Registry, RuleEntry, rule};
pub use rules::{
    Contains, Distinct, EndsWith, ExactMatch, Finished, Format, Grams, Json, Length, Matches, MathAnswer,
    OneOf, Overlong, Repetition, Rule, RuleReward, StartsWith, Tags, Template, Words,
};
pub use sum::WeightedSum;
