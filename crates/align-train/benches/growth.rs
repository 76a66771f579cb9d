//! By how much the process grows over a thousand steps of training.
//!
//!     cargo bench -p align-train --bench growth
//!
//! prints a JSON line with the resident bytes after [`STEPS`] steps less those after the first [`WARM`], for each of three
//! methods: with a reference that runs beside the policy, with rows that are surveyed before the step, and with a reference
//! that follows the policy. Nothing is printed where the system does not say how large a process is.
#![allow(missing_docs, reason = "a program")]

use align_core::align_types::config::OptimizerConfig;
use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream};
use align_core::{CausalLm, Objective};
use align_lm::{LlamaConfig, Model, ModelConfig};
use align_losses::{
    Dpo, DpoConfig, Kto, KtoConfig, MovingReference, Reference, ReferenceSync, Una, UnaConfig,
};
use align_train::{Compute, Engine};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

const STEPS: u64 = 1000;
/// Steps in which the allocators take what they keep.
const WARM: u64 = 100;
const PAIRS: usize = 4;
const VOCABULARY: usize = 128;

fn main() -> Result<(), Failure> {
    // Under `cargo test` it only shows that it runs.
    let tiny = std::env::args().any(|word| word == "--test");
    // A filter names criterion's benches; this is one of them by its file alone.
    if std::env::args().skip(1).any(|word| !word.starts_with('-') && !"growth".contains(&word)) {
        return Ok(());
    }
    for (id, objective) in methods() {
        if let Some(bytes) = growth(objective, if tiny { WARM + 1 } else { STEPS })? {
            println!("{}", json!({ "id": id, "bytes": bytes }));
        }
    }
    Ok(())
}

type Method = fn(&Model) -> Result<Box<dyn Objective>, Failure>;

fn methods() -> [(&'static str, Method); 3] {
    [
        ("train/dpo, 1000 steps", |model| {
            let reference = Reference::Model(Box::new(model.frozen_copy()?));
            Ok(Box::new(Dpo::new(DpoConfig::default(), reference)?))
        }),
        ("train/kto, 1000 steps", |model| {
            let reference = Reference::Model(Box::new(model.frozen_copy()?));
            Ok(Box::new(Kto::new(KtoConfig::default(), reference)?))
        }),
        ("train/una with a moving reference, 1000 steps", |model| {
            let sync = ReferenceSync { ref_model_mixup_alpha: 0.1, ref_model_sync_steps: 1 };
            let start = Box::new(Model::init(model.config(), 0)?);
            let reference = MovingReference::new(start, sync, &model.parameters())?;
            Ok(Box::new(Una::new(UnaConfig::default(), Reference::Moving(reference))?))
        }),
    ]
}

fn growth(method: Method, steps: u64) -> Result<Option<u64>, Failure> {
    let shape = LlamaConfig {
        vocab_size: VOCABULARY,
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_dim: 16,
        ..LlamaConfig::default()
    };
    let model = Model::init(&ModelConfig::llama(shape)?, 0)?;
    let objective = method(&model)?;
    let compute = Compute { threads: 2, micro_batch_tokens: 128 };
    let mut engine = Engine::new(Box::new(model), objective, &OptimizerConfig::default(), compute)?;
    let mut warm = None;
    for step in 0..steps {
        engine.compute(rows(step))?;
        engine.apply(1e-4)?;
        if step + 1 == WARM {
            warm = resident();
        }
    }
    Ok(warm.and_then(|warm| Some(resident()?.saturating_sub(warm))))
}

/// Pairs of different lengths, labelled for methods that read labels.
fn rows(step: u64) -> Vec<PromptGroup> {
    let mut rng = RngStream::new(0, Purpose::Synthetic, step, 0);
    let mut tokens =
        |most: usize| -> Vec<u32> { (0..=rng.below(most)).map(|_| rng.below(VOCABULARY) as u32).collect() };
    let mut pair = |_| {
        let answers =
            [true, false].map(|good| Completion { label: Some(good), ..Completion::new(tokens(24)) });
        PromptGroup::new(tokens(24), answers.into())
    };
    (0..PAIRS).map(&mut pair).collect()
}

/// Resident bytes of this process.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    // SAFETY: asks for a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(size).ok()?)
}
