//! What reading, rendering and ordering rows takes from the allocator: numbers that, unlike times, are the same on a
//! busy machine.
//!
//!     cargo bench -p align-data --bench counts
//!
//! prints a JSON line with the allocations and bytes of each piece of work. `-- --only ID --repeat N` does one of them N
//! times after its preparation and prints nothing: `cargo xtask bench` runs that in valgrind with two values of N, and
//! the difference is the instructions of one repetition.
#![allow(missing_docs, reason = "a program")]

use std::{alloc::System, error::Error, fmt::Write as _, hint::black_box};

use align_data::{
    ChatTemplate, DataConfig, PromptGroup, PromptSource, RenderOptions, ShuffledRows, SpecialTokens,
    Tokenizer, load_pairs,
};
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROWS: usize = 256;

type Work = Box<dyn FnMut() -> Result<(), Box<dyn Error>>>;

fn main() -> Result<(), Box<dyn Error>> {
    // More threads would take turns at random.
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let flag = |name: &str| {
        let mut words = std::env::args().skip_while(|word| word != name);
        words.nth(1)
    };
    let (only, repeat) = (flag("--only"), flag("--repeat"));
    for (id, prepare) in work() {
        if only.as_deref().is_some_and(|only| only != id) {
            continue;
        }
        let mut work = prepare()?;
        // What is made once, on first use, is no part of it.
        work()?;
        if let Some(times) = &repeat {
            for _ in 0..times.parse()? {
                work()?;
            }
            continue;
        }
        let region = Region::new(HEAP);
        work()?;
        let taken = region.change();
        let line = json!({
            "id": id,
            "allocations": taken.allocations + taken.reallocations,
            "bytes": taken.bytes_allocated,
        });
        println!("{line}");
    }
    Ok(())
}

type Prepare = fn() -> Result<Work, Box<dyn Error>>;

fn work() -> [(&'static str, Prepare); 3] {
    [("data/pairs_from_jsonl", pairs), ("data/chat_template", template), ("data/shuffled_batches", order)]
}

/// Reads pairs from JSON Lines and makes token ids of them.
fn pairs() -> Result<Work, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("pairs.jsonl");
    let mut text = String::new();
    for row in 0..ROWS {
        let answer = "one word after another ".repeat(1 + row % 7);
        writeln!(
            text,
            "{{\"prompt\": \"Question {row}?\", \"chosen\": \" {answer}\", \"rejected\": \" no, {answer}\"}}"
        )?;
    }
    std::fs::write(&file, text)?;
    let special = SpecialTokens { eos: Some("</s>".into()), ..Default::default() };
    let tokenizer = Tokenizer::train_byte_level(&["Question one word after another no"], 320, &special)?;
    Ok(Box::new(move || {
        // Keeps the folder as long as the work.
        let _ = folder.path();
        let (pairs, _) = load_pairs(std::slice::from_ref(&file), &tokenizer, None, &DataConfig::default())?;
        assert_eq!(black_box(pairs).len(), ROWS);
        Ok(())
    }))
}

/// Renders conversations of eight turns.
fn template() -> Result<Work, Box<dyn Error>> {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}{% endfor %}";
    let template = ChatTemplate::new(source, [("eos_token".to_owned(), "</s>".to_owned())])?;
    let turn = |turn: usize| {
        let role = if turn.is_multiple_of(2) { "user" } else { "assistant" };
        json!({ "role": role, "content": format!(" turn {turn} of a conversation ") })
    };
    let messages: Vec<Value> = (0..8).map(turn).collect();
    Ok(Box::new(move || {
        for _ in 0..ROWS {
            black_box(template.render(&messages, &RenderOptions::default())?);
        }
        Ok(())
    }))
}

/// Draws shuffled batches over several passes.
fn order() -> Result<Work, Box<dyn Error>> {
    let rows: Vec<PromptGroup> =
        (0..ROWS).map(|row| PromptGroup::new(vec![row as u32; 32], vec![])).collect();
    Ok(Box::new(move || {
        let mut rows = ShuffledRows::new(rows.clone(), 8, 0, 128)?;
        for step in 0..128 {
            black_box(rows.batch(step)?);
        }
        Ok(())
    }))
}
