//! `cargo run --release -p align-data --example stored [MEGABYTES]` makes a file of preference rows (5 MB unless
//! told), stores its token ids on disk, shuffles them, and prints the memory that took.

use std::io::Write;

use align_data::{
    DataConfig, Kind, PromptSource, ShuffledRows, SpecialTokens, Tokenizer, load_pairs, store_rows,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let megabytes: usize = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let in_memory = std::env::args().nth(2).is_some_and(|word| word == "memory");
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("pairs.jsonl");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file)?);
    let answer = "a word and another ".repeat(40);
    let mut written = 0;
    for row in 0.. {
        let line = format!(
            "{{\"prompt\": \"Question {row}?\", \"chosen\": \" {answer}\", \"rejected\": \" no, {answer}\"}}\n"
        );
        written += line.len();
        out.write_all(line.as_bytes())?;
        if written >= megabytes << 20 {
            break;
        }
    }
    out.into_inner()?;

    let special = SpecialTokens { eos: Some("</s>".into()), ..Default::default() };
    let tokenizer = Tokenizer::train_byte_level(&[answer.as_str(), "Question"], 400, &special)?;
    let config = DataConfig { max_length: None, ..Default::default() };
    let before = peak();
    let (mut rows, report) = if in_memory {
        let (rows, report) = load_pairs(&[file], &tokenizer, None, &config)?;
        (ShuffledRows::new(rows, 8, 0, 1000)?, report)
    } else {
        let (store, report) =
            store_rows(folder.path(), &[file], &[Kind::Preference], &tokenizer, None, &config)?;
        println!("{} MB of token ids on disk", store.bytes() >> 20);
        (ShuffledRows::new(store, 8, 0, 1000)?, report)
    };
    let mut tokens = 0;
    for step in 0..100 {
        tokens += rows.batch(step)?.iter().map(|group| group.flat_tokens()).sum::<usize>();
    }
    println!("{} rows from {} MB of text, {tokens} tokens in 100 steps", report.kept, written >> 20);
    match (before, peak()) {
        (Some(before), Some(after)) => {
            println!("peak memory {after} MB, {before} MB before the rows were read")
        }
        _ => println!("peak memory is only known on Linux"),
    }
    Ok(())
}

/// The greatest memory that the process has had, in MB.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<usize>().ok()? / 1024)
}
