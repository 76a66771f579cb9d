use align_types::config::{LoraConfig, LoraTargets};
use clap::{ArgAction, Args};

use super::values;

/// The value of `--lora-targets` that means every linear layer but the output layer.
const ALL_LINEAR: &str = "all-linear";

/// A new adapter, which is then all that is trained.
#[derive(Debug, Args)]
#[command(next_help_heading = "Adapter")]
pub struct LoraArgs {
    /// Train a new low-rank adapter (LoRA) of this rank instead of the weights; the run's model is the adapter's folder,
    /// as PEFT has it
    #[arg(long, value_name = "R", value_parser = values::size, allow_hyphen_values = true)]
    pub lora_rank: Option<usize>,
    /// Numerator of the adapter's scale alpha / rank [default: twice the rank]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub lora_alpha: Option<f64>,
    /// Probability that an input of the adapter is dropped in training [default: 0]
    #[arg(long, value_name = "X", value_parser = values::number, allow_hyphen_values = true)]
    pub lora_dropout: Option<f64>,
    /// Layers that get an adapter, by name or end of name such as q_proj (repeatable, or with commas) [default:
    /// all-linear: all but the output layer]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub lora_targets: Vec<String>,
    /// Scale by alpha / sqrt(rank) (rsLoRA)
    #[arg(long, action = ArgAction::SetTrue)]
    pub lora_rslora: bool,
}

impl LoraArgs {
    /// Makes the configuration of the adapter; `None` where all weights are trained.
    pub fn config(&self) -> Option<LoraConfig> {
        let rank = self.lora_rank?;
        Some(LoraConfig {
            rank,
            alpha: self.lora_alpha.unwrap_or(2.0 * rank as f64),
            dropout: self.lora_dropout.unwrap_or(0.0),
            use_rslora: self.lora_rslora,
            targets: match self.lora_targets.as_slice() {
                [] => LoraTargets::AllLinear,
                [one] if one == ALL_LINEAR => LoraTargets::AllLinear,
                names => LoraTargets::Names(names.to_vec()),
            },
        })
    }

    /// Returns the first flag that was given, and its value, beside the rank.
    pub(crate) fn first_detail(&self) -> Option<(&'static str, String)> {
        let number = |flag, value: Option<f64>| Some((flag, value?.to_string()));
        number("--lora-alpha", self.lora_alpha)
            .or_else(|| number("--lora-dropout", self.lora_dropout))
            .or_else(|| self.lora_targets.first().map(|name| ("--lora-targets", name.clone())))
            .or_else(|| self.lora_rslora.then(|| ("--lora-rslora", "true".to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_follows_from_the_rank() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let args = |targets: &[&str]| LoraArgs {
            lora_rank: Some(4),
            lora_alpha: None,
            lora_dropout: None,
            lora_targets: names(targets),
            lora_rslora: false,
        };
        let expected = LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() };
        assert_eq!(args(&[]).config(), Some(expected.clone()));
        assert_eq!(args(&["all-linear"]).config(), Some(expected));
        let targets = args(&["q_proj", "v_proj"]).config().map(|config| config.targets);
        assert_eq!(targets, Some(LoraTargets::Names(names(&["q_proj", "v_proj"]))));
        assert_eq!(LoraArgs { lora_rank: None, ..args(&[]) }.config(), None);
    }
}
