//! `align generate`: completions of prompts.

use std::{ops::ControlFlow, sync::atomic::Ordering};

use align_cli::{Error, Result, args, args::GenerateArgs, talk};
use align_core::{
    align_types::{PromptGroup, config::SamplingConfig},
    tch::{Device, Kind},
};
use align_data::{DataConfig, Tokenizer};
use align_lm::Model;
use align_rollout::{AutoGenerator, auto_generator};
use serde_json::{Value, json};

use crate::{
    computer, failure, interrupt,
    logprobs::{done, interrupted, row_number},
    model,
    origin::Origin,
    output::Output,
    progress::Progress,
};

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
    let adapter = flags.machine.adapter.as_deref();
    let model = model::load_adapted(&flags.model, adapter, &model::frozen(&flags.machine, device))?;
    let origin = Origin::new("generate", settings, &flags.model, adapter, &flags.prompts)?;
    let stop = interrupt::flag()?;
    let mut output = Output::begin(&flags.output, &origin, &rows, flags.resume)?;
    let kept = output.kept();
    let mut progress = Progress::new(prompts.len(), kept, flags.machine.no_progress);
    let sampling = flags.sampling.config();

    let waiting = prompts.get(kept..).unwrap_or_default();
    let tokens: Vec<_> = waiting.iter().map(|group| group.prompt.clone()).collect();
    let mut sampler = sampler(&model, &folder.tokenizer)?.with_threads(flags.machine.threads());
    if device == Device::Cpu && matches!(sampler, AutoGenerator::Tensor(_)) {
        let why = "with the forward pass of training; the faster engine, for Llama-like models, is float32";
        match (model.options().compute, flags.machine.load_in_4bit) {
            (Kind::Float, false) => {}
            (Kind::Float, true) => talk::say(&format!("sampling over 4-bit weights {why}")),
            _ => talk::say(&format!("sampling in bfloat16 {why}")),
        }
    }
    let mut next = waiting.iter();
    let mut written = Ok(());
    let mut write = |answers: &PromptGroup| -> Result<()> {
        let Some(prompt) = next.next() else { return Ok(()) };
        output.append(&[line(&folder.tokenizer, prompt, answers)?])?;
        progress.add(1);
        Ok(())
    };
    let drawn = sampler.generate_each(kept as u64, &tokens, &sampling, 0, |answers| {
        written = write(&answers);
        match written.is_err() || stop.load(Ordering::SeqCst) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    written?;
    drawn.map_err(|error| refused(error, waiting))?;
    progress.finish();
    if next.len() > 0 {
        return Err(interrupted());
    }
    output.finish()?;
    done(flags.machine.json, prompts.len(), kept, &flags.output)
}

/// Refuses prompts that leave no room for a completion, before anything is sampled.
///
/// # Errors
/// [`Error::Data`] with the row.
pub fn check_room(prompts: &[PromptGroup], context: usize) -> Result<()> {
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

/// Chooses the sampler of a model and gives it the tokenizer's end tokens and text.
///
/// # Errors
/// A failure of libtorch.
pub fn sampler<'a>(model: &'a Model, tokenizer: &'a Tokenizer) -> Result<AutoGenerator<'a>> {
    let sampler = auto_generator(model, tokenizer.eos_ids().to_vec()).map_err(failure::of)?;
    Ok(sampler.with_decoder(|ids| Ok(tokenizer.decode(ids, true)?)))
}

/// Names the row that an error of sampling is about.
pub fn refused(error: align_rollout::Error, prompts: &[PromptGroup]) -> Error {
    match error.prompt().and_then(|index| Some((index, prompts.get(index)?))) {
        Some((index, group)) => {
            let why = format!("{}: {}", group.describe(index), error.reason());
            failure::of(error).with_message(|_| why)
        }
        None => failure::of(error),
    }
}

/// Samples prompts.
///
/// # Errors
/// As [`AutoGenerator::generate_from`].
pub fn draw(
    model: &Model,
    tokenizer: &Tokenizer,
    prompts: &[PromptGroup],
    config: &SamplingConfig,
    threads: usize,
) -> Result<Vec<PromptGroup>> {
    let tokens: Vec<_> = prompts.iter().map(|group| group.prompt.clone()).collect();
    let drawn = sampler(model, tokenizer)?.with_threads(threads).generate_from(0, &tokens, config, 0);
    drawn.map_err(|error| refused(error, prompts))
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
