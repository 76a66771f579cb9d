//! Rewards of sampled answers.

use std::time::Duration;

use align_cli::{Error, Result, talk};
use align_core::align_types::{self, Completion, Reward, RewardItem};
use align_core::evaluation::Samples;
use align_data::{TextPrompt, Tokenizer};
use align_rules::{Program, WeightedSum};

use super::{Bench, go_on};
use crate::{progress::Progress, reward_model::RewardModel};

/// Prompts whose answers are scored before progress is told.
const AT_ONCE: usize = 32;

/// The rewards of a command, added up.
pub struct Rewards {
    sum: WeightedSum,
}

impl Rewards {
    /// Loads reward models, makes rules and starts programs.
    ///
    /// # Errors
    /// A folder that is no reward model, a program that cannot be started.
    pub fn load(bench: &Bench<'_>) -> Result<Self> {
        let (flags, machine) = (&bench.flags.rewards, &bench.flags.machine);
        let mut parts: Vec<Box<dyn Reward>> = Vec::with_capacity(flags.count());
        for folder in &flags.reward_model {
            let tokens = bench.flags.micro_batch_tokens;
            let model = RewardModel::load(folder, machine, bench.device, tokens)?;
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
        Ok(Self { sum: WeightedSum::new(parts, &flags.reward_weights).map_err(wrong)? })
    }

    /// Names what is added up.
    pub fn name(&self) -> &str {
        self.sum.name()
    }

    /// Scores the answers to prompts, one list of answers per prompt. Lengths are tokens of the model that sampled.
    ///
    /// # Errors
    /// A reward that fails; [`Error::Interrupted`].
    pub fn score(
        &mut self,
        prompts: &[TextPrompt],
        answers: &[Vec<Completion>],
        tokenizer: &Tokenizer,
        silent: bool,
    ) -> Result<Vec<Samples>> {
        let mut progress = Progress::new(prompts.len(), 0, silent);
        let mut scored = Vec::with_capacity(prompts.len());
        for (prompts, answers) in prompts.chunks(AT_ONCE).zip(answers.chunks(AT_ONCE)) {
            go_on()?;
            let some = self.some(prompts, answers, tokenizer);
            // Ctrl-C reaches a program that scores too, which then fails.
            go_on()?;
            scored.extend(some?);
            progress.add(prompts.len());
        }
        progress.finish();
        let mut all = scored.iter().flat_map(|samples: &Samples| &samples.rewards).peekable();
        if all.peek().is_some() && all.all(Option::is_none) {
            talk::warn(&self.silence());
        }
        Ok(scored)
    }

    /// Says that there is no reward at all, and whose fault that is.
    fn silence(&self) -> String {
        let silent = self.sum.abstentions().filter(|(_, count)| *count > 0);
        let parts: Vec<String> = silent.map(|(name, count)| format!("{name} ({count} times)")).collect();
        format!("there is no reward for any completion, because these abstained: {}", parts.join(", "))
    }

    fn some(
        &mut self,
        prompts: &[TextPrompt],
        answers: &[Vec<Completion>],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Samples>> {
        let texts = prompts.iter().map(|prompt| text(prompt, tokenizer)).collect::<Result<Vec<String>>>()?;
        let mut items = Vec::new();
        for ((prompt, text), answers) in prompts.iter().zip(&texts).zip(answers) {
            items.extend(answers.iter().map(|answer| RewardItem {
                prompt: text,
                messages: prompt.messages.as_deref(),
                completion: answer.text.as_deref().unwrap_or_default(),
                columns: &prompt.group.columns,
                source: prompt.group.source.as_ref(),
            }));
        }
        let scores = align_types::score(&mut self.sum, &items).map_err(failed)?;
        let mut rewards = scores.into_values().into_iter();
        let samples = |answers: &Vec<Completion>| Samples {
            rewards: rewards.by_ref().take(answers.len()).collect(),
            lengths: answers.iter().map(|answer| answer.token_ids.len() as f64).collect(),
        };
        Ok(answers.iter().map(samples).collect())
    }
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
fn failed(error: align_types::Error) -> Error {
    match error {
        align_types::Error::Seam { source: Some(source), what, why } => match source.downcast::<Error>() {
            Ok(own) => *own,
            Err(_) if what == "reward" => Error::data(why, []),
            Err(_) => Error::data(format!("{what}: {why}"), []),
        },
        other => other.into(),
    }
}
