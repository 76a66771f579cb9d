//! Where the rewards of sampled answers come from, for every command that asks for some.

use std::{path::PathBuf, time::Duration};

use align_cli::{
    Error, Result,
    args::{ModelArgs, RewardArgs, registry},
    talk,
};
use align_core::{
    align_types::{self, Reward},
    tch::Device,
};
use align_data::{TextPrompt, Tokenizer};
use align_rm::ModelReward;
use align_rules::{Program, WeightedSum};

use crate::{
    failure,
    reward_model::{self, Machine},
};

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
    let rule = reward_model::rule(&flags.several);
    if models > 1 && !flags.normalize {
        talk::warn(&format!(
            "the scores of {models} reward models are added as they are, each in units of its own; --normalize brings \
             them to mean 0 and variance 1"
        ));
    }
    let machine = Machine { flags: machine, device, micro_batch_tokens };
    let load = |folder: &PathBuf| reward_model::reward(folder, flags.normalize, machine);
    let models: Vec<ModelReward> = flags.reward_model.iter().map(load).collect::<Result<_>>()?;
    let mut parts: Vec<Box<dyn Reward>> = Vec::with_capacity(flags.count());
    match rule {
        Some(rule) => parts.push(Box::new(reward_model::ensemble(models, rule)?)),
        None => parts.extend(models.into_iter().map(|model| Box::new(model) as Box<dyn Reward>)),
    }
    for rule in &flags.reward {
        parts.push(registry().reward(rule).map_err(wrong)?);
    }
    let limit = Duration::from_secs_f64(flags.reward_timeout);
    for command in &flags.reward_command {
        let program = Program::start(command, limit).map_err(wrong)?;
        parts.push(Box::new(program.with_notice(Box::new(talk::warn))));
    }
    WeightedSum::new(parts, &flags.reward_weights).map_err(wrong)
}

/// Names who left completions without a reward.
pub fn silence<'a>(abstentions: impl Iterator<Item = (&'a str, u64)>) -> String {
    let silent = abstentions.filter(|(_, count)| *count > 0);
    let parts: Vec<String> = silent.map(|(name, count)| format!("{name} ({count} times)")).collect();
    format!("these abstained: {}", parts.join(", "))
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
        // A rule or a program, which names itself.
        align_types::Error::Seam { what, why, .. } if what == "reward" => Error::data(why, []),
        other => failure::of(other),
    }
}

/// Lets the rewards of a command go, once everything is scored.
///
/// # Errors
/// [`Error::Data`] for a program that answered more than it was asked.
pub fn finish(sum: &mut WeightedSum) -> Result<()> {
    sum.finish().map_err(failed)
}
