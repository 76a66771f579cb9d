//! Rewards of sampled answers.

use align_cli::{Result, talk};
use align_core::align_types::{self, Completion, Reward, RewardItem};
use align_core::evaluation::Samples;
use align_data::{TextPrompt, Tokenizer};
use align_rules::WeightedSum;

use super::{Bench, go_on};
use crate::{
    progress::Progress,
    rewards::{self, failed, silence, text},
};

/// Prompts whose answers are scored before progress is told.
const AT_ONCE: usize = 32;

/// The rewards of a command, added up.
pub struct Rewards {
    sum: WeightedSum,
}

impl Rewards {
    /// Loads what the flags name.
    ///
    /// # Errors
    /// As [`rewards::load`].
    pub fn load(bench: &Bench<'_>) -> Result<Self> {
        let flags = bench.flags;
        let sum = rewards::load(&flags.rewards, &flags.machine, bench.device, flags.micro_batch_tokens)?;
        Ok(Self { sum })
    }

    /// Names what is added up.
    pub fn name(&self) -> &str {
        self.sum.name()
    }

    /// Lets the rewards go, once everything is scored.
    ///
    /// # Errors
    /// As [`rewards::finish`].
    pub fn finish(&mut self) -> Result<()> {
        rewards::finish(&mut self.sum)
    }

    /// Scores the answers to prompts, one list of answers per prompt. Lengths are tokens of the model that sampled.
    ///
    /// # Errors
    /// A reward that fails; [`align_cli::Error::Interrupted`].
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
            talk::warn(&format!("no completion has a reward; {}", silence(self.sum.abstentions())));
        }
        Ok(scored)
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
