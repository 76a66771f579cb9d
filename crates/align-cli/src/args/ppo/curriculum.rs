//! Which prompts an iteration takes.

use align_types::config::{CurriculumConfig, CurriculumKind};
use clap::Args;

use super::values;
use crate::{Error, Result};

/// Which prompts an iteration takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Curriculum")]
pub struct CurriculumArgs {
    /// How prompts are chosen
    #[arg(long, value_name = "CHOICE", default_value = "off", value_parser = values::choice::<CurriculumKind>(KINDS))]
    pub curriculum: CurriculumKind,
    /// Success rates of a prompt that is at the edge of ability [default: 0.2,0.8]
    #[arg(long, value_name = "LO,HI", value_delimiter = ',', value_parser = values::number, allow_hyphen_values = true)]
    pub curriculum_range: Vec<f64>,
    /// What the weight of a prompt has beside p (1 - p) [default: 0.01]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub curriculum_floor: Option<f64>,
    /// What one answer leaves of the old estimate of a prompt's success rate [default: 0.8]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub curriculum_decay: Option<f64>,
    /// Reward above which an answer is a success [default: the reward itself, clipped to 0..1]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub curriculum_threshold: Option<f64>,
    /// Share of a batch for prompts that were never sampled [default: 0.25]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub curriculum_explore: Option<f64>,
    /// Share of a batch for prompts outside the range [default: 0.1]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub curriculum_replay: Option<f64>,
}

/// Values of `--curriculum`.
const KINDS: &[(&str, &str)] = &[
    ("off", "all in turn, in a new order each epoch"),
    ("edge", "those at the edge of ability, which the policy sometimes solves"),
];

impl CurriculumArgs {
    /// Makes the configuration of the choice; `None` where prompts come in turn.
    pub fn config(&self) -> Option<CurriculumConfig> {
        if self.curriculum == CurriculumKind::Off {
            return None;
        }
        let usual = CurriculumConfig::default();
        let range = match self.curriculum_range.as_slice() {
            &[low, high] => (low, high),
            _ => usual.range,
        };
        Some(CurriculumConfig {
            range,
            floor: self.curriculum_floor.unwrap_or(usual.floor),
            decay: self.curriculum_decay.unwrap_or(usual.decay),
            threshold: self.curriculum_threshold,
            explore: self.curriculum_explore.unwrap_or(usual.explore),
            replay: self.curriculum_replay.unwrap_or(usual.replay),
        })
    }

    pub(super) fn check(&self) -> Result<()> {
        let Some(config) = self.config() else {
            return match self.first_detail() {
                Some(flag) => Err(Error::usage(format!("{flag}: needs --curriculum edge"), [])),
                None => Ok(()),
            };
        };
        let numbers = self.curriculum_range.len();
        if numbers != 0 && numbers != 2 {
            return Err(Error::usage(
                format!("--curriculum-range: expected two numbers LO,HI, not {numbers}"),
                [],
            ));
        }
        Ok(config.validate()?)
    }

    fn first_detail(&self) -> Option<&'static str> {
        let details = [
            ("--curriculum-range", !self.curriculum_range.is_empty()),
            ("--curriculum-floor", self.curriculum_floor.is_some()),
            ("--curriculum-decay", self.curriculum_decay.is_some()),
            ("--curriculum-threshold", self.curriculum_threshold.is_some()),
            ("--curriculum-explore", self.curriculum_explore.is_some()),
            ("--curriculum-replay", self.curriculum_replay.is_some()),
        ];
        details.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }
}
