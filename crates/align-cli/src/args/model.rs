use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum, ValueHint};

use super::values;

/// Where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The first GPU where there is one, otherwise the processor.
    Auto,
    /// The processor.
    Cpu,
    /// The GPU of that index.
    Cuda(usize),
}

impl std::str::FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => {
                index.parse().map(Self::Cuda).map_err(|_| "expected cuda:N, such as cuda:0".to_owned())
            }
            _ => Err("expected auto, cpu, cuda or cuda:N".to_owned()),
        }
    }
}

/// The number format that is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32-bit floats
    F32,
    /// bfloat16: half the memory of activations, fast on GPUs. Norms, softmax and log-probabilities stay f32, and so do
    /// weights that are trained; weights that are not are kept in 16 bits
    Bf16,
}

/// The flags of every command that loads a model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub struct ModelArgs {
    /// Adapter that goes onto the model: a folder as PEFT has it; a training command goes on training it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Adapter")]
    pub adapter: Option<PathBuf>,
    /// Compute threads [default: the processor's cores, at most 8]
    #[arg(long, value_name = "N", value_parser = values::size)]
    pub threads: Option<usize>,
    /// Device: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = parse_device)]
    pub device: DeviceName,
    /// Number format that is computed with
    #[arg(long, value_enum, value_name = "TYPE", default_value = "f32")]
    pub dtype: Dtype,
    /// Keep the layers of models that are not trained in 4 bits per weight (NF4 with double quantisation, 2305.14314);
    /// a trained model needs an adapter on top
    #[arg(long = "load-in-4bit", action = ArgAction::SetTrue)]
    pub load_in_4bit: bool,
    /// Write what a program reads to stdout as JSON
    #[arg(long, action = ArgAction::SetTrue)]
    pub json: bool,
    /// Show no progress
    #[arg(long, action = ArgAction::SetTrue)]
    pub no_progress: bool,
}

impl ModelArgs {
    /// Counts the compute threads: as told, or the cores of the processor, at most 8.
    ///
    /// Each thread of a training run holds gradients of its own, so that on a machine of many cores more
    /// threads are a choice and not a default.
    pub fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or_else(|| cores().min(8))
    }
}

fn parse_device(text: &str) -> Result<DeviceName, String> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read() {
        assert_eq!("auto".parse(), Ok(DeviceName::Auto));
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        assert_eq!("cuda:3".parse(), Ok(DeviceName::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:x", "cpu:0"] {
            assert!(wrong.parse::<DeviceName>().is_err(), "{wrong}");
        }
    }
}
