//! Scores two answers with every rule.
//!
//! ```text
//! cargo run --release -p align-rules --example score_texts
//! ```
//! prints one line per rule: its name, and the reward of each answer.

use align_rules::rule;
use align_types::{Columns, Reward, RewardItem};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let columns = Columns::new();
    let item = |completion| RewardItem {
        prompt: "What is 2 + 2?",
        messages: None,
        completion,
        columns: &columns,
        source: None,
    };
    let answers = [item("It is 4."), item("I would say: four, most probably.")];
    for name in ["rule:length", "rule:length=10", "rule:contains=four", "rule:regex=\\b[0-9]+\\b"] {
        println!("{name:24} {:?}", rule(name)?.score(&answers)?);
    }
    Ok(())
}
