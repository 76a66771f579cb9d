//! `align generate`: completions of prompts.

use std::sync::atomic::Ordering;

use align_cli::{Error, Result, args, args::GenerateArgs};
use align_core::align_types::{PromptGroup, config::SamplingConfig};
use align_data::{DataConfig, Tokenizer};
use align_lm::Model;
use align_rollout::TensorGenerator;
use serde_json::{Value, json};

use crate::{
    computer, failure, interrupt,
    logprobs::{done, row_number},
    model,
    origin::Origin,
    output::Output,
    progress::Progress,
};

/// Prompts that one thread samples before their rows are written.
const CHUNK: usize = 16;

pub fn run(flags: &GenerateArgs, settings: &toml::Table) -> Result<()> {
    let device = computer::set_up(&flags.machine)?;
    let folder = model::open(&flags.model)?;
    let config =
        DataConfig { max_length: None, columns: args::columns(&flags.columns), ..DataConfig::default() };
    let (prompts, _) = align_data::load_prompts(
        std::slice::from_ref(&flags.prompts),
        &folder.tokenizer,
        folder.template.as_ref(),
        &config,
    )?;
    check_room(&prompts, folder.config.context_length())?;
    let rows: Vec<usize> = prompts.iter().map(row_number).collect();
    let mut replicas = model::load_replicas(&flags.model, device, flags.machine.threads())?;
    let origin = Origin::new("generate", settings, &flags.model, &flags.prompts)?;
    let stop = interrupt::flag()?;
    let mut output = Output::begin(&flags.output, &origin, &rows, flags.resume)?;
    let kept = output.kept();
    let mut progress = Progress::new(prompts.len(), kept, flags.machine.no_progress);
    let sampling = flags.sampling.config();

    let chunks: Vec<(usize, &[PromptGroup])> = prompts
        .get(kept..)
        .unwrap_or_default()
        .chunks(CHUNK)
        .enumerate()
        .map(|(index, chunk)| (kept + index * CHUNK, chunk))
        .collect();
    for round in chunks.chunks(replicas.len()) {
        if stop.load(Ordering::SeqCst) {
            progress.finish();
            return Err(Error::Interrupted {
                step: 0,
                hints: vec!["--resume continues after the last whole row".into()],
            });
        }
        let results =
            computer::in_parallel(&mut replicas, round.iter().copied(), |model, (first, chunk)| {
                sample(model, &folder.tokenizer, first, chunk, &sampling)
            })?;
        for lines in results {
            output.append(&lines)?;
            progress.add(lines.len());
        }
    }
    progress.finish();
    output.finish()?;
    done(flags.machine.json, prompts.len(), kept, &flags.output)
}

/// Refuses prompts that leave no room for a completion, before anything is sampled.
///
/// # Errors
/// [`Error::Data`] with the row.
fn check_room(prompts: &[PromptGroup], context: usize) -> Result<()> {
    match prompts.iter().enumerate().find(|(_, group)| group.prompt.len() >= context) {
        None => Ok(()),
        Some((index, group)) => Err(Error::data(
            format!(
                "{}: the prompt has {} tokens and the model's context {context}: no room for a completion",
                group.describe(index),
                group.prompt.len()
            ),
            ["shorten the prompt".to_owned()],
        )),
    }
}

/// Samples prompts that are number `first`, `first + 1`, ... of the file.
///
/// # Errors
/// As [`TensorGenerator::generate_from`].
pub fn draw(
    model: &Model,
    tokenizer: &Tokenizer,
    first: usize,
    prompts: &[PromptGroup],
    config: &SamplingConfig,
) -> Result<Vec<PromptGroup>> {
    let prompts: Vec<_> = prompts.iter().map(|group| group.prompt.clone()).collect();
    TensorGenerator::new(model, tokenizer.eos_ids().to_vec())
        .with_decoder(|ids| Ok(tokenizer.decode(ids, true)?))
        .generate_from(first as u64, &prompts, config, 0)
        .map_err(failure::of)
}

fn sample(
    model: &Model,
    tokenizer: &Tokenizer,
    first: usize,
    prompts: &[PromptGroup],
    config: &SamplingConfig,
) -> Result<Vec<Value>> {
    let answered = draw(model, tokenizer, first, prompts, config)?;
    prompts.iter().zip(&answered).map(|(prompt, answers)| line(tokenizer, prompt, answers)).collect()
}

fn line(tokenizer: &Tokenizer, prompt: &PromptGroup, answers: &PromptGroup) -> Result<Value> {
    let completions: Vec<Value> = answers
        .completions
        .iter()
        .map(|answer| {
            json!({
                "text": answer.text,
                "token_ids": answer.token_ids,
                "logprobs": answer.logprobs,
                "finish_reason": answer.finish_reason,
            })
        })
        .collect();
    let text = tokenizer.decode(&prompt.prompt, true)?;
    Ok(json!({"row": row_number(prompt), "prompt": text, "completions": completions}))
}
