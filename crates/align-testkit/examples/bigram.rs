//! The toy model of the tests: log-probabilities that can be checked with a pencil.
//!
//! ```text
//! cargo run --release -p align-testkit --example bigram
//! ```
//! prints the log-probabilities of two tokens under a uniform table of four: ln(1/4) each.

use align_core::{
    CausalLm, PackedBatch,
    align_types::{Completion, PromptGroup},
};
use align_testkit::BigramLm;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batch = PackedBatch::new(&[PromptGroup::new(vec![0], vec![Completion::new(vec![1, 2])])])?;
    println!("{:?}", BigramLm::uniform(4).token_log_probs(&batch, 1.0)?.to_vecs()?);
    Ok(())
}
