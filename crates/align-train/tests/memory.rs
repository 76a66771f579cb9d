//! Memory of many steps, in a process of its own: what other tests allocate would show.

use std::fs;

use align_core::align_types::config::OptimizerConfig;
use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream};
use align_lm::{LlamaConfig, Model, ModelConfig};
use align_losses::{Dpo, DpoConfig, Reference};
use align_train::{Compute, Engine};

const VOCABULARY: usize = 64;

/// Bytes of this process that are in memory, where the system says so.
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()? * 1024)
}

fn pairs() -> Vec<PromptGroup> {
    let mut rng = RngStream::new(0, Purpose::Synthetic, 0, 0);
    let mut tokens = |n| (0..n).map(|_| rng.below(VOCABULARY) as u32).collect::<Vec<_>>();
    (0..4)
        .map(|_| {
            let answers =
                [5, 8].map(|n| Completion { ref_logprob: Some(-4.0), ..Completion::new(tokens(n)) });
            PromptGroup::new(tokens(12), answers.to_vec())
        })
        .collect()
}

/// A pass over these 100 rows keeps about 270 kB for its backward pass (the formula of `MemoryEstimate`: 3 · 2 · 32 + 3 ·
/// 32 + 4 · 32 + 4 · 64 = 672 numbers per row, 4 bytes each), so that 200 steps which kept it would take 50 MB more.
#[test]
fn steps_leave_nothing_behind() {
    let Some(_) = resident() else {
        println!("skipped: this system does not say how much memory a process has");
        return;
    };
    let shape = LlamaConfig {
        vocab_size: VOCABULARY,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        head_dim: 16,
        ..LlamaConfig::default()
    };
    let model = Model::init(&ModelConfig::llama(shape).unwrap(), 0).unwrap();
    let objective = Dpo::new(DpoConfig::default(), Reference::Precomputed).unwrap();
    let compute = Compute { threads: 2, micro_batch_tokens: 40 };
    let mut engine =
        Engine::new(Box::new(model), Box::new(objective), &OptimizerConfig::default(), compute).unwrap();
    let mut steps = |n| {
        for _ in 0..n {
            engine.compute(pairs()).unwrap();
            engine.apply(1e-4).unwrap();
        }
        resident().unwrap()
    };
    let before = steps(50);
    let after = steps(200);
    let grown = after.saturating_sub(before);
    assert!(grown < 12 << 20, "200 steps took {grown} bytes more than the {before} before them");
}
