use std::path::PathBuf;

use clap::{ArgAction, Args, ValueHint};

/// The reference policy of the offline methods.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reference")]
pub struct ReferenceArgs {
    /// Reference policy [default: the model itself before the first step]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub ref_model: Option<PathBuf>,
    /// Compute the reference's log-probabilities once, before the first step
    #[arg(long, action = ArgAction::SetTrue)]
    pub precompute_ref_log_probs: bool,
}
