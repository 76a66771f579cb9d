use align_types::config::{RewardConfig, ScoreLoss, TieRule};
use clap::{Args, ValueEnum};

use super::{TrainArgs, values};
use crate::{Error, Result};

/// Steps between two looks at which pairs are near the boundary, unless told.
const BAND_EVERY: u64 = 100;

/// `align reward`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  align reward --model models/sft --data pairs.jsonl --eval-data held-out.jsonl --output-dir runs/reward
  align reward --model models/sft --data rankings.jsonl --ties rao-kupper --tie-margin 0.5 --output-dir runs/reward
  align reward --model models/sft --data scores.jsonl --score-min 1 --score-max 5 --output-dir runs/reward
  align reward --model models/rm --data pairs.jsonl --pair-band 0,1 --pair-band-every 50 --output-dir runs/boundary")]
pub struct RewardModelArgs {
    /// What every training command has.
    #[command(flatten)]
    pub train: TrainArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub method: RewardMethodArgs,
}

/// The loss of each kind of rows, and which pairs are trained on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Method")]
pub struct RewardMethodArgs {
    /// What becomes of answers with equal ranks
    #[arg(long, value_enum, value_name = "CHOICE", default_value = "skip")]
    pub ties: TiesName,
    /// Margin of ties, η = log θ of rao-kupper: ln((1 + t) / (1 - t)) where answers of equal worth tie with probability t
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub tie_margin: Option<f64>,
    /// Probability that a comparison is the wrong way round
    #[arg(long, value_name = "X", default_value = "0", value_parser = values::number, allow_hyphen_values = true)]
    pub label_smoothing: f64,
    /// Weight of the squared sum of a pair's scores, which keeps scores around 0; 0.01 is usual
    #[arg(long, value_name = "X", default_value = "0", value_parser = values::number, allow_hyphen_values = true)]
    pub center_rewards_coefficient: f64,
    /// Loss of rows with a score
    #[arg(long, value_name = "CHOICE", default_value = "mse", value_parser = values::choice::<ScoreLoss>(SCORE_LOSSES))]
    pub score_loss: ScoreLoss,
    /// Weight of the mean over prompts with pairs or rankings
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub pair_weight: f64,
    /// Weight of the mean over labelled answers
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub binary_weight: f64,
    /// Weight of the mean over scored answers
    #[arg(long, value_name = "X", default_value = "1", value_parser = values::number, allow_hyphen_values = true)]
    pub score_weight: f64,
    /// Score of the data that becomes 0
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub score_min: Option<f64>,
    /// Score of the data that becomes 1
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub score_max: Option<f64>,
    /// Train on the pairs whose scores are now at least LO and at most HI apart, whichever is higher; rows that are no
    /// pairs stay
    #[arg(long, value_name = "LO,HI", value_delimiter = ',', value_parser = values::number, allow_hyphen_values = true)]
    pub pair_band: Vec<f64>,
    /// Steps after which the pairs are chosen again, with the weights of then [default: 100]
    #[arg(long, value_name = "N", value_parser = values::count, allow_hyphen_values = true)]
    pub pair_band_every: Option<u64>,
}

/// Values of `--ties`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TiesName {
    /// They are not compared; a ranking of nothing but ties is a bad row
    Skip,
    /// The model has a probability for ties (Rao and Kupper 1967); needs --tie-margin
    RaoKupper,
    /// Each is the better one with probability 1/2
    Half,
}

/// Values of `--score-loss`.
const SCORE_LOSSES: &[(&str, &str)] =
    &[("mse", "squared error of the score"), ("bce", "cross-entropy of σ(score) against a number in [0, 1]")];

/// Which pairs are trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairBand {
    /// Smallest distance of the two scores.
    pub low: f64,
    /// Largest distance.
    pub high: f64,
    /// Steps between two choices.
    pub every: u64,
}

impl RewardModelArgs {
    /// Makes the configuration of the loss.
    pub fn reward_config(&self) -> RewardConfig {
        let method = &self.method;
        RewardConfig {
            ties: match method.ties {
                TiesName::Skip => TieRule::Skip,
                TiesName::RaoKupper => TieRule::RaoKupper,
                TiesName::Half => TieRule::Half,
            },
            tie_margin: method.tie_margin,
            label_smoothing: method.label_smoothing,
            center_rewards_coefficient: method.center_rewards_coefficient,
            score_loss: method.score_loss,
            pair_weight: method.pair_weight,
            binary_weight: method.binary_weight,
            score_weight: method.score_weight,
            score_min: method.score_min,
            score_max: method.score_max,
        }
    }

    /// Returns the band of `--pair-band`, where it is given.
    pub fn band(&self) -> Option<PairBand> {
        let &[low, high] = self.method.pair_band.as_slice() else { return None };
        Some(PairBand { low, high, every: self.method.pair_band_every.unwrap_or(BAND_EVERY) })
    }

    /// Checks what the configuration of the loss does not know.
    ///
    /// # Errors
    /// [`Error::Usage`] with the flag.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_rows()?;
        if self.train.watch.samples > 0 {
            let message = format!("--samples {}: a reward model answers nothing", self.train.watch.samples);
            return Err(Error::usage(message, []));
        }
        self.check_band()
    }

    /// A score is read at the last token: rows that are cut have another.
    fn check_rows(&self) -> Result<()> {
        use super::TruncationName::{KeepEnd, KeepStart};
        let hint = "leave --truncation out: rows over --max-length are dropped and counted".to_owned();
        match self.train.rows.truncation {
            KeepStart | KeepEnd => {
                let why = "a reward is read at the end of the answer, so that no row may be cut; drop and error are there";
                Err(Error::usage(format!("--truncation: {why}"), [hint]))
            }
            _ => Ok(()),
        }
    }

    fn check_band(&self) -> Result<()> {
        let given = &self.method.pair_band;
        let shown = given.iter().map(f64::to_string).collect::<Vec<_>>().join(",");
        if given.is_empty() {
            return match self.method.pair_band_every {
                Some(every) => {
                    Err(Error::usage(format!("--pair-band-every {every}: needs --pair-band LO,HI"), []))
                }
                None => Ok(()),
            };
        }
        let Some(band) = self.band().filter(|band| band.low >= 0.0 && band.high > band.low) else {
            let expected = "expected two numbers LO,HI with 0 <= LO < HI";
            let hint = "they bound the distance of a pair's two scores, such as 0,1".to_owned();
            return Err(Error::usage(format!("--pair-band {shown}: {expected}"), [hint]));
        };
        if band.every == 0 {
            return Err(Error::usage("--pair-band-every 0: expected at least 1", []));
        }
        if !self.train.rows.data_weights.is_empty() {
            let why =
                "an epoch has fixed shares with the first, and whatever is near the boundary with the second";
            return Err(Error::usage("--data-weights and --pair-band exclude each other", [why.to_owned()]));
        }
        Ok(())
    }
}
