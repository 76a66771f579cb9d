//! What is measured on sampled answers: rewards, win rate, divergence from the reference.

use std::ops::ControlFlow;

use align_cli::{Error, Result, args::Measure, talk};
use align_core::{
    align_types::{Completion, FinishReason, PromptGroup},
    evaluation::{Divergence, Prompts, Samples, SequenceDivergence, WinRate, sequence_divergences},
};
use align_data::{TextPrompt, Tokenizer};
use align_lm::Model;
use serde_json::{Value, json};

use super::{
    Bench, RowNumbers, go_on,
    rewards::Rewards,
    show::{Report, RewardReport, SamplesReport},
};
use crate::{failure, generate, interrupt, logprobs::row_number, model, passes, progress::Progress};

/// The numbers of the streams that model and reference draw from: with one stream for both, equal models would give equal
/// samples, and the win rate of nearly equal ones would be that of coupled samples.
const STREAMS: [u64; 2] = [0, 1];

/// The answers of one model, by prompt.
type Answers = Vec<Vec<Completion>>;

/// Samples, and measures what is to be measured on samples.
///
/// # Errors
/// The models or the rewards fail; [`Error::Interrupted`].
pub fn measure(
    bench: &Bench<'_>,
    tokenizer: &Tokenizer,
    prompts: &[TextPrompt],
    rewards: Option<&mut Rewards>,
    report: &mut Report,
    rows: &mut RowNumbers,
) -> Result<()> {
    let flags = bench.flags;
    let groups: Vec<PromptGroup> = prompts.iter().map(|prompt| prompt.group.clone()).collect();
    let numbers = Prompts::of(&groups);
    let [stream, other_stream] = STREAMS;
    talk::say(&format!("sampling from {}", flags.model.display()));
    let answers = bench.sample(&bench.model, tokenizer, &groups, stream)?;
    let mut samples = SamplesReport::new(&answers, &numbers, flags.sampling.seed)?;
    add_samples(rows, "samples", prompts, tokenizer, &answers)?;
    if let Some(rewards) = rewards {
        let silent = flags.machine.no_progress;
        let scored = rewards.score(prompts, &answers, tokenizer, silent)?;
        samples.reward = Some(RewardReport::new(rewards.name(), &scored, &numbers, flags.sampling.seed)?);
        add_rewards(rows, "rewards", prompts, &scored);
        if let (Some(reference), Some(folder)) = (&bench.reference, &flags.reference) {
            talk::say(&format!("sampling from {}", folder.display()));
            let others = bench.sample(reference, tokenizer, &groups, other_stream)?;
            let against = rewards.score(prompts, &others, tokenizer, silent)?;
            let mut theirs = SamplesReport::new(&others, &numbers, flags.sampling.seed)?;
            theirs.reward = Some(RewardReport::new(rewards.name(), &against, &numbers, flags.sampling.seed)?);
            add_samples(rows, "reference_samples", prompts, tokenizer, &others)?;
            add_rewards(rows, "reference_rewards", prompts, &against);
            report.reference_samples = Some(theirs);
            report.win_rate = Some(
                WinRate::of(&merge(&scored, &numbers), &merge(&against, &numbers), flags.sampling.seed)
                    .map_err(failure::of)?,
            );
        }
    }
    report.samples = Some(samples);
    if let (true, None, Some(reference)) = (flags.wants(Measure::Kl), flags.off_policy(), &bench.reference) {
        let divergences = bench.divergences(reference, &groups, &answers)?;
        let flat: Vec<SequenceDivergence> = divergences.iter().flatten().copied().collect();
        let of_rows = divergences
            .iter()
            .zip(&numbers.of_rows)
            .flat_map(|(list, prompt)| std::iter::repeat_n(*prompt, list.len()))
            .collect();
        let prompts_of_samples = Prompts { of_rows, count: numbers.count };
        report.kl =
            Some(Divergence::of(&flat, &prompts_of_samples, flags.sampling.seed).map_err(failure::of)?);
        for (prompt, list) in prompts.iter().zip(&divergences) {
            rows.entry(row_number(&prompt.group)).or_default().insert("kl".into(), json!(list));
        }
    }
    Ok(())
}

/// Puts the samples of rows with the same prompt together.
fn merge(samples: &[Samples], numbers: &Prompts) -> Vec<Samples> {
    let mut merged = vec![Samples::default(); numbers.count];
    for (one, prompt) in samples.iter().zip(&numbers.of_rows) {
        if let Some(all) = merged.get_mut(*prompt) {
            all.rewards.extend(&one.rewards);
            all.lengths.extend(&one.lengths);
        }
    }
    merged
}

impl Bench<'_> {
    /// Samples answers to all prompts.
    fn sample(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        prompts: &[PromptGroup],
        stream: u64,
    ) -> Result<Answers> {
        let machine = &self.flags.machine;
        let stop = interrupt::flag()?;
        let mut progress = Progress::new(prompts.len(), 0, machine.no_progress);
        let tokens: Vec<_> = prompts.iter().map(|group| group.prompt.clone()).collect();
        let mut answers: Answers = Vec::with_capacity(prompts.len());
        let config = self.flags.sampling.config();
        let mut sampler = generate::sampler(model, tokenizer)?.with_threads(machine.threads());
        let drawn = sampler.generate_each(0, &tokens, &config, stream, |group| {
            answers.push(group.completions);
            progress.add(1);
            match stop.load(std::sync::atomic::Ordering::SeqCst) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        drawn.map_err(|error| generate::refused(error, prompts))?;
        progress.finish();
        go_on()?;
        Ok(answers)
    }

    /// Measures the divergence from the reference on the model's own samples.
    fn divergences(
        &self,
        reference: &Model,
        prompts: &[PromptGroup],
        answers: &Answers,
    ) -> Result<Vec<Vec<SequenceDivergence>>> {
        let sampled: Vec<PromptGroup> = prompts
            .iter()
            .zip(answers)
            .map(|(prompt, answers)| PromptGroup {
                completions: answers.clone(),
                source: prompt.source.clone(),
                ..PromptGroup::new(prompt.prompt.clone(), Vec::new())
            })
            .collect();
        let machine = &self.flags.machine;
        let copies = |model: &Model| -> Result<Vec<Model>> {
            model::replicas(model.replica().map_err(failure::of)?, machine.threads())
        };
        let mut pairs: Vec<(Model, Model)> =
            copies(&self.model)?.into_iter().zip(copies(reference)?).collect();
        let temperature = self.flags.sampling.draw.temperature;
        let mut progress = Progress::new(sampled.len(), 0, machine.no_progress);
        let mut found = Vec::with_capacity(sampled.len());
        passes::over_rows(
            &mut pairs,
            &sampled,
            self.flags.micro_batch_tokens,
            0,
            go_on,
            |(policy, reference), samples| {
                let sums = sequence_divergences(policy, reference, samples, temperature);
                let mut sums = sums.map_err(failure::of)?.into_iter();
                let own = |group: &PromptGroup| sums.by_ref().take(group.completions.len()).collect();
                Ok(samples.iter().map(own).collect::<Vec<Vec<SequenceDivergence>>>())
            },
            |batch, divergences| {
                found.extend(divergences);
                progress.add(batch.len());
                Ok(())
            },
        )?;
        progress.finish();
        match found.iter().flatten().position(|sums: &SequenceDivergence| !sums.full.is_finite()) {
            None => Ok(found),
            Some(_) => Err(Error::data(
                "a divergence from the reference is not finite",
                ["the weights of one of the models are damaged, or its training diverged".to_owned()],
            )),
        }
    }
}

fn add_samples(
    rows: &mut RowNumbers,
    key: &str,
    prompts: &[TextPrompt],
    tokenizer: &Tokenizer,
    answers: &Answers,
) -> Result<()> {
    for (prompt, answers) in prompts.iter().zip(answers) {
        let list: Vec<Value> = answers
            .iter()
            .map(|answer| {
                let logp: Option<f64> =
                    answer.logprobs.as_ref().map(|list| list.iter().map(|value| f64::from(*value)).sum());
                json!({
                    "text": answer.text,
                    "tokens": answer.token_ids.len(),
                    "finish_reason": answer.finish_reason,
                    "logp": logp,
                })
            })
            .collect();
        let entry = rows.entry(row_number(&prompt.group)).or_default();
        entry.insert("prompt".into(), json!(crate::rewards::text(prompt, tokenizer)?));
        entry.insert(key.into(), json!(list));
    }
    Ok(())
}

fn add_rewards(rows: &mut RowNumbers, key: &str, prompts: &[TextPrompt], samples: &[Samples]) {
    for (prompt, samples) in prompts.iter().zip(samples) {
        let entry = rows.entry(row_number(&prompt.group)).or_default();
        entry.insert(key.into(), json!(samples.rewards));
    }
}

/// Says whether an answer ended by itself.
pub fn stopped(answer: &Completion) -> bool {
    answer.finish_reason == Some(FinishReason::Stop)
}
