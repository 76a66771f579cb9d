//! Where the rewards of sampled answers come from, for every command that asks for some.

use std::time::Duration;

use align_cli::{
    Error, Result,
    args::{ModelArgs, RewardArgs},
    talk,
};
use align_core::{
    align_types::{self, Reward},
    tch::Device,
};
use align_data::{TextPrompt, Tokenizer};
use align_rules::{Program, WeightedSum};

use crate::reward_model::RewardModel;

/// Loads reward models, makes rules and starts programs, and adds them up.
///
/// # Errors
/// A folder that is no reward model, a program that cannot be started.
pub fn load(
    flags: &RewardArgs,
    machine: &ModelArgs,
    device: Device,
    micro_batch_tokens: usize,
) -> Result<WeightedSum> {
    let models = flags.reward_model.len();
    if models > 1 && !flags.normalize {
        talk::warn(&format!(
            "the scores of {models} reward models are added as they are, each in units of its own; --normalize brings \
             them to mean 0 and variance 1"
        ));
    }
    let mut parts: Vec<Box<dyn Reward>> = Vec::with_capacity(flags.count());
    for folder in &flags.reward_model {
        let model = RewardModel::load(folder, machine, device, micro_batch_tokens)?;
        parts.push(Box::new(if flags.normalize { model.normalized()? } else { model }));
    }
    for rule in &flags.reward {
        parts.push(Box::new(align_rules::rule(rule).map_err(wrong)?));
    }
    let limit = Duration::from_secs_f64(flags.reward_timeout);
    for command in &flags.reward_command {
        let program = Program::start(command, limit).map_err(wrong)?;
        parts.push(Box::new(program.with_notice(Box::new(talk::warn))));
    }
    WeightedSum::new(parts, &flags.reward_weights).map_err(wrong)
}

/// Says that there is no reward at all, and whose fault that is.
pub fn silence(sum: &WeightedSum) -> String {
    let silent = sum.abstentions().filter(|(_, count)| *count > 0);
    let parts: Vec<String> = silent.map(|(name, count)| format!("{name} ({count} times)")).collect();
    format!("there is no reward for any completion, because these abstained: {}", parts.join(", "))
}

/// The prompt as text: as the data has it, or of a conversation what the template makes of it.
///
/// # Errors
/// The tokenizer fails.
pub fn text(prompt: &TextPrompt, tokenizer: &Tokenizer) -> Result<String> {
    match &prompt.text {
        Some(text) => Ok(text.clone()),
        None => Ok(tokenizer.decode(&prompt.group.prompt, true)?),
    }
}

/// A reward whose description is wrong.
fn wrong(error: align_rules::Error) -> Error {
    match error {
        align_rules::Error::Start { .. } => Error::environment(
            error.to_string(),
            ["give the whole path of the program, or a name that the shell finds, too".to_owned()],
        ),
        other => Error::usage(other.to_string(), []),
    }
}

/// A reward that failed at a row; an error of this program that went through it comes out again as it was.
pub fn failed(error: align_types::Error) -> Error {
    match error {
        align_types::Error::Seam { source: Some(source), what, why } => match source.downcast::<Error>() {
            Ok(own) => *own,
            Err(_) if what == "reward" => Error::data(why, []),
            Err(_) => Error::data(format!("{what}: {why}"), []),
        },
        other => other.into(),
    }
}
