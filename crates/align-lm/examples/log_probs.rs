//! Log-probabilities of completions under a model folder, in the file format of `align logprobs`.
//!
//!     cargo run --release -p align-lm --example log_probs [-- MODEL_DIR [SAVE_DIR]]
//!
//! prints one line of JSON per prompt group (`{"row":1,"prompt_tokens":[...],"completions":[{"name":"","token_ids":
//! [...],"logprobs":[...],"sum":-12.3},...]}`) for the tiny fixture or the folder given, and writes the model to
//! SAVE_DIR if there is one. `fixtures/models/check_saved.py` compares both with transformers.

use std::path::{Path, PathBuf};

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream};
use align_core::{CausalLm, PackedBatch};
use align_lm::{LoadOptions, Model, SaveDtype, Trainable};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models/tiny-llama");
    let dir = arguments.next().unwrap_or(fixture);
    let model = Model::load(&dir, &LoadOptions { trainable: Trainable::No, ..LoadOptions::default() })?;
    model.notes().iter().for_each(|note| eprintln!("note: {note}"));

    let mut rng = RngStream::new(0, Purpose::Synthetic, 0, 0);
    let mut tokens = |n| (0..n).map(|_| rng.below(model.vocab_size()) as u32).collect::<Vec<_>>();
    let groups = [(3, [2, 4]), (20, [12, 7]), (1, [1, 30])].map(|(prompt, completions)| {
        PromptGroup::new(tokens(prompt), completions.map(|n| Completion::new(tokens(n))).to_vec())
    });
    for (index, group) in groups.iter().enumerate() {
        let values =
            model.token_log_probs(&PackedBatch::new(std::slice::from_ref(group))?, 1.0)?.to_vecs()?;
        let completions = group.completions.iter().zip(values).map(|(completion, logprobs)| {
            let sum: f64 = logprobs.iter().map(|x| f64::from(*x)).sum();
            json!({"name": completion.name, "token_ids": completion.token_ids, "logprobs": logprobs, "sum": sum})
        });
        let completions: Vec<_> = completions.collect();
        println!("{}", json!({"row": index + 1, "prompt_tokens": group.prompt, "completions": completions}));
    }
    if let Some(out) = arguments.next() {
        model.save_with_tokenizer(&out, SaveDtype::Source, &dir)?;
        eprintln!("saved to {}", out.display());
    }
    Ok(())
}
