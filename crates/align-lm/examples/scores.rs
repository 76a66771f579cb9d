//! Scores of completions under a reward model folder.
//!
//!     cargo run --release -p align-lm --example scores [-- MODEL_DIR [SAVE_DIR]]
//!
//! prints one line of JSON per prompt group (`{"row":1,"prompt_tokens":[...],"completions":[{"token_ids":[...],
//! "score":0.7},...]}`) for the tiny fixture or the folder given, and writes the model to SAVE_DIR if there is one. A
//! folder of a causal language model gets a fresh score head. `fixtures/classifiers/check_saved.py` compares both with
//! transformers.

use std::path::{Path, PathBuf};

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream};
use align_core::{PackedBatch, ScoreModel};
use align_lm::{Error, LoadOptions, SaveDtype, SequenceClassifier, Trainable};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/classifiers/llama");
    let dir = arguments.next().unwrap_or(fixture);
    let options = LoadOptions { trainable: Trainable::No, ..LoadOptions::default() };
    let model = match SequenceClassifier::load(&dir, &options) {
        Err(Error::Contradiction { why, .. }) if why.starts_with("missing score.weight") => {
            eprintln!("note: {why}");
            SequenceClassifier::from_causal_lm(&dir, 0, &options)?
        }
        other => other?,
    };
    model.notes().iter().for_each(|note| eprintln!("note: {note}"));

    let mut rng = RngStream::new(0, Purpose::Synthetic, 0, 0);
    let mut tokens = |n| (0..n).map(|_| rng.below(model.vocab_size()) as u32).collect::<Vec<_>>();
    let groups = [(3, [2, 4]), (20, [12, 7]), (1, [1, 30])].map(|(prompt, completions)| {
        PromptGroup::new(tokens(prompt), completions.map(|n| Completion::new(tokens(n))).to_vec())
    });
    for (index, group) in groups.iter().enumerate() {
        let scores = Vec::<f32>::try_from(model.scores(&PackedBatch::new(std::slice::from_ref(group))?)?)?;
        let completions = group.completions.iter().zip(scores);
        let completions: Vec<_> =
            completions.map(|(c, score)| json!({"token_ids": c.token_ids, "score": score})).collect();
        println!("{}", json!({"row": index + 1, "prompt_tokens": group.prompt, "completions": completions}));
    }
    if let Some(out) = arguments.next() {
        model.save_with_tokenizer(&out, SaveDtype::F32, &dir)?;
        eprintln!("saved to {}", out.display());
    }
    Ok(())
}
