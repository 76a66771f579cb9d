use std::path::PathBuf;

use align_types::config::ReferenceSync;
use clap::{ArgAction, Args, ValueHint};

use super::values;

/// The reference policy of the offline methods.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reference")]
pub struct ReferenceArgs {
    /// Reference policy [default: the model itself before the first step]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub ref_model: Option<PathBuf>,
    /// Compute the reference's log-probabilities once, before the first step, and keep them for other runs
    #[arg(long, action = ArgAction::SetTrue)]
    pub precompute_ref_log_probs: bool,
    /// Let the reference follow the policy (TR-DPO)
    #[arg(long, action = ArgAction::SetTrue)]
    pub sync_ref_model: bool,
    /// Share of the policy in the reference that follows it, the rest is the reference before [default: 0.6]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub ref_model_mixup_alpha: Option<f64>,
    /// Steps from one move of the reference to the next [default: 512]
    #[arg(long, value_name = "N")]
    pub ref_model_sync_steps: Option<u64>,
}

impl ReferenceArgs {
    /// Makes the schedule of a reference that follows the policy; `None` where it stays.
    pub fn sync(&self) -> Option<ReferenceSync> {
        let usual = ReferenceSync::default();
        self.sync_ref_model.then(|| ReferenceSync {
            ref_model_mixup_alpha: self.ref_model_mixup_alpha.unwrap_or(usual.ref_model_mixup_alpha),
            ref_model_sync_steps: self.ref_model_sync_steps.unwrap_or(usual.ref_model_sync_steps),
        })
    }

    /// Names the first setting that means nothing without `--sync-ref-model`.
    pub(crate) fn first_detail_of_sync(&self) -> Option<&'static str> {
        let details = [
            ("--ref-model-mixup-alpha", self.ref_model_mixup_alpha.is_some()),
            ("--ref-model-sync-steps", self.ref_model_sync_steps.is_some()),
        ];
        details.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}
