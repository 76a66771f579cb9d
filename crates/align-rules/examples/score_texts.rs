//! Scores answers to a sum with several rules, and with a reward of its own.
//!
//! ```text
//! cargo run --release -p align-rules --example score_texts
//! ```
//! prints one line per reward: its name, and what it gives for each answer.

use align_rules::{Argument, Registry};
use align_types::{Columns, RewardFn, RewardItem, score};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let columns = Columns::from_iter([("answer".to_owned(), "2 + 2 = 4\n#### 4".into())]);
    let item = |completion| RewardItem {
        prompt: "What is 2 + 2?",
        messages: None,
        completion,
        columns: &columns,
        source: None,
    };
    let answers = [
        item("<think>2 and 2 more</think><answer>It is 4.</answer>"),
        item("I would say: four, four, most probably four."),
        item("\\boxed{5}"),
    ];
    let mut registry = Registry::new();
    registry.add("own:modest", Argument::None, "minus the number of capital letters", |_| {
        Ok(Box::new(RewardFn::new("own:modest", |item: &RewardItem<'_>| {
            -(item.completion.chars().filter(|c| c.is_uppercase()).count() as f64)
        })))
    })?;
    for name in [
        "rule:math-answer",
        "rule:format",
        "rule:repetition=1",
        "rule:words=8",
        "rule:finished",
        "own:modest",
    ] {
        let scores = score(&mut registry.reward(name)?, &answers)?;
        println!("{name:20} {:?}", scores.values());
    }
    Ok(())
}
