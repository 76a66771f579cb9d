//! Shows how a preference pair lies in the flat stream, and which rows see which.
//!
//! ```text
//! cargo run --release -p align-core --example packed_pair
//! ```
//! prints the tokens with their positions and the tree mask.

use align_core::{
    PackedBatch,
    align_types::{Completion, PromptGroup},
    tch::Device,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let chosen = Completion::named("chosen", vec![20, 21, 2]);
    let rejected = Completion::named("rejected", vec![30, 2]);
    let batch = PackedBatch::new(&[PromptGroup::new(vec![10, 11], vec![chosen, rejected])])?;
    println!("tokens    {:?}", batch.ids());
    println!("positions {:?}", batch.positions());
    println!("predicted {:?} by rows {:?}", batch.targets(), batch.predict_rows());
    for span in batch.groups() {
        let mask = Vec::<Vec<bool>>::try_from(span.tree_mask(Device::Cpu)?)?;
        for row in mask {
            println!("{}", row.iter().map(|sees| if *sees { '#' } else { '.' }).collect::<String>());
        }
    }
    Ok(())
}
