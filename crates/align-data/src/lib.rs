//! From files of text to token ids: readers, format detection, chat templates, tokenisation, order.
//!
//! Rows in the formats of TRL become [`PromptGroup`]s: one prompt and its completions, as token ids. Everything
//! that cannot be used is named with file and row, counted, or refused; nothing is dropped silently. This crate
//! links no numerical library.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use align_data::{DataConfig, SpecialTokens, Tokenizer, load_pairs};
//! # let dir = tempfile::tempdir()?;
//! # let file = dir.path().join("pairs.jsonl");
//! std::fs::write(&file, r#"{"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5"}"#)?;
//! let special = SpecialTokens { eos: Some("</s>".into()), ..Default::default() };
//! let tokenizer = Tokenizer::train_byte_level(&["2 + 2 = 4"], 300, &special)?;
//! let (pairs, report) = load_pairs(&[file], &tokenizer, None, &DataConfig::default())?;
//! assert_eq!((report.rows, report.kept), (1, 1));
//! let chosen = &pairs[0].completions[0];
//! assert_eq!(tokenizer.decode(&chosen.token_ids, false)?, " 4</s>");
//! # Ok(())
//! # }
//! ```

mod codec;
mod config;
mod csv;
mod curriculum;
mod doctor;
mod error;
mod example;
mod format;
mod implicit;
mod json;
mod layout;
mod load;
mod loader;
mod masks;
mod mix;
mod order;
#[cfg(feature = "parquet")]
mod parquet;
mod pyjson;
mod reader;
mod reference_cache;
mod report;
mod rows;
mod sniff;
mod store;
mod strftime;
mod template;
mod tokenise;
mod tokenizer;

pub use align_types::{PromptGroup, PromptSource};
pub use config::{BadRows, DataConfig, TrainOn, Truncation};
pub use curriculum::Curriculum;
pub use doctor::{
    Bin, Cuts, DoctorReport, FileFindings, Inspection, Labels, Overlap, Repeat, Scores, Shown, Span, Trouble,
    Unit, inspect,
};
pub use error::{Error, Result};
pub use format::{Format, Kind, Misfit, detect, nearest};
pub use load::{
    TextPrompt, encode_item, load_language, load_pairs, load_prompts, load_rankings, load_rows, load_scored,
    load_text_prompts, load_unpaired, store_rows,
};
pub use mix::MixedRows;
pub use order::{PromptOrder, ShuffledRows, hold_out};
pub use reader::{Row, RowReader};
pub use reference_cache::{Lookup, ReferenceCache};
pub use report::{BadRow, Counted, DataReport, FileReport, LengthBins, LengthStats, Lengths};
pub use rows::Rows;
pub use store::RowStore;
pub use template::{ChatTemplate, RenderOptions, Rendered};
pub use tokenizer::{SpecialTokens, Tokenizer};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
