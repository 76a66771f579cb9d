//! cargo run --release -p align-data --example tokenise [FILE]
//!
//! Trains a small tokenizer on a file of preference pairs (without one, on a few that are made here), reads the
//! pairs, and prints what happened to them and the first one with its boundaries.

use std::path::PathBuf;

use align_data::{
    BadRows, DataConfig, Error, PromptSource, RowReader, ShuffledRows, SpecialTokens, Tokenizer, load_pairs,
};

const PAIRS: &str = r#"{"prompt": "What is 2 + 2?", "chosen": " It is 4.", "rejected": " It is 5."}
{"prompt": "What is 3 + 3?", "chosen": " It is 6.", "rejected": "   "}
{"prompt": "What is 4 + 4?", "chosen": " It is 8.", "rejected": " I will not say."}
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = match std::env::args().nth(1) {
        Some(path) => PathBuf::from(path),
        None => {
            let path = std::env::temp_dir().join(format!("align-data-example-{}.jsonl", std::process::id()));
            std::fs::write(&path, PAIRS)?;
            path
        }
    };
    let rows: Vec<_> = RowReader::open(&file)?.collect::<Result<_, Error>>()?;
    let texts: Vec<String> = rows
        .iter()
        .flatten()
        .flat_map(|row| row.value.values().filter_map(|v| v.as_str()).map(str::to_owned))
        .collect();
    let special = SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..Default::default() };
    let tokenizer = Tokenizer::train_byte_level(&texts, 1000, &special)?;

    let config = DataConfig { bad_rows: BadRows::Skip, ..Default::default() };
    let (pairs, report) = load_pairs(&[file], &tokenizer, None, &config)?;
    println!("{}", serde_json::to_string_pretty(&report)?);

    let mut source = ShuffledRows::new(pairs, 1, 0, 4)?;
    for pair in source.batch(0)? {
        let show = |ids: &[u32]| tokenizer.decode(ids, false);
        println!("{}", pair.describe(0));
        println!("  prompt   {:?}", show(&pair.prompt)?);
        for completion in &pair.completions {
            println!("  {:8} {:?}", completion.name, show(&completion.token_ids)?);
        }
    }
    Ok(())
}
