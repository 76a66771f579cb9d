//! Peak memory of one training step, by how a model computes and is stored.
//!
//!     cargo run --release -p align-lm --example memory [-- TOKENS]
//!
//! prints a table. That of 256 tokens (three minutes on one core) was, on Linux with libtorch 2.13:
//!
//! ```text
//! f32                                  1886 MB   weights 180 MB
//! f32, activations again                988 MB   weights 180 MB
//! bf16                                 1593 MB   weights 180 MB
//! bf16, activations again               720 MB   weights 180 MB
//! adapter on f32                       1948 MB   weights 180 MB
//! adapter on bf16, computed in bf16    1679 MB   weights  90 MB
//! adapter on 4 bits, computed in f32    573 MB   weights  37 MB
//! adapter on 4 bits, computed in bf16   585 MB   weights  29 MB
//! ```
//!
//! It is for a random Llama of 45 million parameters, 8 pairs of TOKENS tokens each (if absent 32, and only
//! the first two lines) and the gradient of
//! their log-probabilities; each line is the highest resident memory of a process of its own, libtorch included.
//! Adapters have rank 8.

use std::path::Path;
use std::process::Command;

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream, config::LoraConfig};
use align_core::tch::Kind;
use align_core::{CausalLm, PackedBatch};
use align_lm::{FrozenStorage, LlamaConfig, LoadOptions, Model, ModelConfig, SaveDtype, Trainable};

const PAIRS: usize = 8;

type Failure = Box<dyn std::error::Error>;

/// What is measured: its name, how the model is loaded, whether an adapter is trained on top.
fn cases() -> Vec<(&'static str, LoadOptions, bool)> {
    let full = LoadOptions::default();
    let again = LoadOptions { recompute: true, ..full };
    let bf16 = LoadOptions { compute: Kind::BFloat16, ..full };
    let frozen = |frozen, compute| LoadOptions { trainable: Trainable::No, frozen, compute, ..full };
    vec![
        ("f32", full, false),
        ("f32, activations again", again, false),
        ("bf16", bf16, false),
        ("bf16, activations again", LoadOptions { recompute: true, ..bf16 }, false),
        ("adapter on f32", frozen(FrozenStorage::Float, Kind::Float), true),
        ("adapter on bf16, computed in bf16", frozen(FrozenStorage::Half, Kind::BFloat16), true),
        ("adapter on 4 bits, computed in f32", frozen(FrozenStorage::Nf4, Kind::Float), true),
        ("adapter on 4 bits, computed in bf16", frozen(FrozenStorage::Nf4, Kind::BFloat16), true),
    ]
}

fn main() -> Result<(), Failure> {
    align_core::threads::prepare_compute_thread();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [case, folder, tokens] = arguments.as_slice() {
        return step(case.parse()?, Path::new(folder), tokens.parse()?);
    }
    // All cases take minutes: without a number the first two show the way.
    let (tokens, shown) = arguments.first().map_or(("32", 2), |tokens| (tokens.as_str(), cases().len()));
    let folder = tempfile::tempdir()?;
    let config = LlamaConfig {
        vocab_size: 8192,
        hidden_size: 512,
        intermediate_size: 1536,
        num_hidden_layers: 12,
        num_attention_heads: 8,
        num_key_value_heads: 8,
        head_dim: 64,
        tie_word_embeddings: true,
        ..LlamaConfig::default()
    };
    Model::init(&ModelConfig::llama(config)?, 0)?.save(&folder.path().join("model"), SaveDtype::Bf16)?;
    for (case, (name, _, _)) in cases().iter().enumerate().take(shown) {
        let mut child = Command::new(std::env::current_exe()?);
        let output = child.arg(case.to_string()).arg(folder.path().join("model")).arg(tokens).output()?;
        println!("{name:<36} {}", String::from_utf8_lossy(&output.stdout).trim());
    }
    Ok(())
}

fn step(case: usize, folder: &Path, tokens: usize) -> Result<(), Failure> {
    let Some((_, options, adapted)) = cases().get(case).copied() else { return Err("no such case".into()) };
    let mut model = Model::load(folder, &options)?;
    if adapted {
        model.add_adapter(&LoraConfig { rank: 8, alpha: 16.0, ..LoraConfig::default() }, 0)?;
    }
    let mut rng = RngStream::new(0, Purpose::Synthetic, 0, 0);
    let mut draw = |n| (0..n).map(|_| rng.below(model.vocab_size()) as u32).collect::<Vec<_>>();
    let mut answer = || Completion::new(draw(tokens / 4));
    let answers: Vec<[Completion; 2]> = (0..PAIRS).map(|_| [answer(), answer()]).collect();
    let pairs: Vec<PromptGroup> =
        answers.into_iter().map(|pair| PromptGroup::new(draw(tokens / 2), pair.to_vec())).collect();
    let loss = model.token_log_probs(&PackedBatch::new(&pairs)?, 1.0)?.values().f_mean(Kind::Float)?;
    model.backward(&loss)?;
    println!("{:5} MB   weights {:3} MB", peak_bytes() / 1_000_000, model.weight_bytes() / 1_000_000);
    Ok(())
}

/// The highest resident memory of this process.
fn peak_bytes() -> usize {
    // SAFETY: an all-zero `rusage` is one, and `getrusage` writes the one it is given.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    // macOS counts bytes, all others kilobytes.
    usage.ru_maxrss as usize * if cfg!(target_os = "macos") { 1 } else { 1024 }
}
