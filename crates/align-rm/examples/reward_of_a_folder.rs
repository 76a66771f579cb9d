//! A reward model folder with a tokenizer of its own becomes a reward of texts, alone and in an ensemble.
//!
//! ```text
//! cargo run --release -p align-rm --example reward_of_a_folder
//! ```
//! prints raw and normalised rewards of three answers, and the worst of two models. The models are the small ones of the
//! workspace's fixtures, so that the numbers mean nothing; give a folder of `align reward` instead.

use align_core::align_types::{Columns, Reward, RewardItem, score};
use align_data::{ChatTemplate, Tokenizer, encode_item};
use align_lm::{LoadOptions, SequenceClassifier};
use align_rm::{
    EnsembleReward, EnsembleRule, ModelReward, NormalizedOn, RewardNormalization, RowScorer, Spread,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let items = ["Blue.", "It is blue, because air scatters short waves more.", "No."];
    let columns = Columns::new();
    let items = items.map(|completion| RewardItem {
        prompt: "Why is the sky blue?",
        messages: None,
        completion,
        columns: &columns,
        source: None,
    });
    let mut raw = open("one")?;
    let scores = raw.raw_scores(&items)?;
    println!("{:<24} {scores:.3?}", raw.name());

    // `RewardNormalization::read` reads what `align score --fit-normalization` wrote beside a model.
    let scale = RewardNormalization::fit(&scores, NormalizedOn::Samples, Spread::Unit)?;
    let mut normalized = raw.normalized(scale.clone())?;
    let scores = score(&mut normalized, &items)?;
    println!("{:<24} {:.3?}", normalized.name(), scores.values());

    let members = vec![normalized, open("two")?.normalized(scale)?];
    let mut worst = EnsembleReward::new(members, EnsembleRule::Worst)?;
    let scores = score(&mut worst, &items)?;
    println!("{:<24} {:.3?}", worst.name(), scores.values());
    Ok(())
}

/// Opens a folder with the weights and one with the tokenizer, which may be the same.
fn open(name: &str) -> Result<ModelReward, Box<dyn std::error::Error>> {
    let weights = align_testkit::fixture("classifiers/llama");
    let own = align_testkit::fixture("models/tiny-llama");
    let tokenizer = Tokenizer::from_folder(&own)?;
    let template = ChatTemplate::from_folder(&own, tokenizer.special_tokens())?;
    let model = SequenceClassifier::load(&weights, &LoadOptions::default())?;
    let scorer = RowScorer::new(name, Box::new(model)).with_threads(2)?;
    Ok(ModelReward::new(scorer, move |item, index| {
        Ok(encode_item(item, index, &tokenizer, template.as_ref())?)
    }))
}
