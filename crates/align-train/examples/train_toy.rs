//! Trains a bigram model on sequences that count upwards, interrupts the run, and resumes it.
//!
//! `cargo run --release -p align-train --example train_toy`
//!
//! Prints the step at which the run was interrupted, the loss of the first and the last step (ln 8 = 2.079 to
//! below 0.1), and the files of the run folder.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use align_core::align_types::config::{OptimizerConfig, TrainConfig};
use align_core::align_types::{self, Completion, PromptGroup, PromptSource, Purpose, RngStream};
use align_core::tch::{Kind, Tensor};
use align_core::{CausalLm, LossComponent, LossOutput, Objective, PackedBatch};
use align_testkit::BigramLm;
use align_train::{
    BoxError, Hooks, OpenMode, Outcome, Position, Progress, RunFolder, Start, TrainJob, Unit, train,
};

const VOCAB: u32 = 8;

/// Sequences that count upwards from a random token; a pure function of the step.
struct Counting;

impl PromptSource for Counting {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        let mut rng = RngStream::new(0, Purpose::Synthetic, step, 0);
        let mut row = || {
            let first = rng.below(VOCAB as usize) as u32;
            let answer = (1..6).map(|i| (first + i) % VOCAB).collect();
            PromptGroup::new(vec![first], vec![Completion::new(answer)])
        };
        Ok((0..16).map(|_| row()).collect())
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

/// The mean negative log-probability of completion tokens.
struct TokenMean;

impl Objective for TokenMean {
    fn denominators(&self, groups: &[PromptGroup]) -> align_core::Result<Vec<f64>> {
        Ok(vec![groups.iter().map(PromptGroup::completion_tokens).sum::<usize>() as f64])
    }

    fn loss(
        &self,
        model: &dyn CausalLm,
        batch: &PackedBatch,
        groups: &[PromptGroup],
    ) -> align_core::Result<LossOutput> {
        let terms = model.token_log_probs(batch, 1.0)?.values().f_neg()?;
        let denominator = groups.iter().map(PromptGroup::completion_tokens).sum::<usize>() as f64;
        let component = LossComponent { name: "nll", weight: 1.0, terms, denominator };
        Ok(LossOutput { components: vec![component], metrics: Vec::new() })
    }

    fn replicate(&self) -> align_core::Result<Box<dyn Objective>> {
        Ok(Box::new(Self))
    }
}

/// Stands in for Ctrl-C.
struct StopAt(u64, Arc<AtomicBool>);

impl Progress for StopAt {
    fn step(&mut self, at: &Position) {
        self.1.fetch_or(at.step == self.0, Ordering::SeqCst);
    }
}

fn run(path: &Path, stop_at: u64) -> Result<Outcome, BoxError> {
    let config = TrainConfig { batch_size: 16, save_every: 50, threads: 2, ..TrainConfig::default() };
    let optimizer = OptimizerConfig { learning_rate: 0.1, ..OptimizerConfig::default() };
    let opened = RunFolder::open(path, OpenMode::Resume, "batch_size = 16\nlearning_rate = 0.1\n")?;
    let (model, start) = match opened.start {
        Start::Finished(summary) => return Ok(Outcome::Finished(summary)),
        Start::Beginning => (BigramLm::uniform(i64::from(VOCAB)), None),
        Start::Checkpoint(checkpoint) => {
            let table = Tensor::read_npy(checkpoint.model_dir().join("table.npy"))?;
            (BigramLm::new(&table.to_kind(Kind::Float)), Some(*checkpoint))
        }
    };
    let save = |folder: &Path| Ok(model.table().detach().write_npy(folder.join("table.npy"))?);
    let mut hooks = Hooks::new(&save);
    hooks.progress = Box::new(StopAt(stop_at, hooks.stop.clone()));
    let job = TrainJob {
        folder: &opened.folder,
        start,
        // A replica: it shares the weights with `model`, which `save` reads.
        model: model.replicate()?,
        objective: Box::new(TokenMean),
        source: &mut Counting,
        eval: Vec::new(),
        keep_best: None,
        total_steps: 200,
        config: &config,
        optimizer: &optimizer,
        unit: Unit::Groups,
        inputs: String::new(),
        summary: serde_json::Map::new(),
    };
    Ok(train(job, hooks)?)
}

fn main() -> Result<(), BoxError> {
    let folder = std::env::temp_dir().join(format!("align-train-toy-{}", std::process::id()));
    if let Outcome::Interrupted { step, .. } = run(&folder, 70)? {
        println!("interrupted after step {step}");
    }
    run(&folder, u64::MAX)?;
    let metrics = std::fs::read_to_string(folder.join("metrics.jsonl"))?;
    for line in metrics.lines().take(1).chain(metrics.lines().last()) {
        let record: serde_json::Value = serde_json::from_str(line)?;
        println!("step {:>3}  loss {:.3}", record["step"], record["loss"].as_f64().unwrap_or(f64::NAN));
    }
    let mut names: Vec<_> =
        std::fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    names.sort();
    println!("{names:?}");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
