//! Draws three completions for each of two prompts from a hand-made bigram model.
//!
//! `cargo run --release -p align-rollout --example sample` prints six lines such as
//! `do -> "re mi" (stop, log-probability -2.08)`.

use align_core::{
    align_types::{Generator, config::SamplingConfig},
    tch::Tensor,
};
use align_rollout::TensorGenerator;
use align_testkit::BigramLm;

const WORDS: [&str; 5] = ["do", "re", "mi", "fa", "."];
const END: u32 = 4;

fn main() -> Result<(), align_rollout::BoxError> {
    align_core::threads::prepare_compute_thread();
    // Each word is followed by the next one or by the end; row = the word before, column = the word after.
    let logits: Vec<f32> = (0..25)
        .map(|entry| match (entry / 5, entry % 5) {
            (before, after) if after == before + 1 => 1.5,
            (_, 4) => 0.5,
            _ => 0.0,
        })
        .collect();
    let model = BigramLm::new(&Tensor::from_slice(&logits).f_reshape([5, 5])?);
    let text = |tokens: &[u32]| {
        let words: Option<Vec<&str>> = tokens.iter().map(|t| WORDS.get(*t as usize).copied()).collect();
        Ok(words.ok_or("a token without a word")?.join(" "))
    };
    let mut generator = TensorGenerator::new(&model, vec![END]).with_decoder(text);
    let config = SamplingConfig { num_completions: 3, max_new_tokens: 12, ..SamplingConfig::default() };
    for group in generator.generate(&[vec![0], vec![1, 2]], &config, 0)? {
        let prompt = text(&group.prompt)?;
        for completion in group.completions {
            let sum: f32 = completion.logprobs.iter().flatten().sum();
            let reason =
                completion.finish_reason.map(|r| format!("{r:?}").to_lowercase()).unwrap_or_default();
            println!(
                "{prompt} -> {:?} ({reason}, log-probability {sum:.2})",
                completion.text.unwrap_or_default()
            );
        }
    }
    Ok(())
}
