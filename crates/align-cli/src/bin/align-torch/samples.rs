//! `completions.jsonl`: what the model answers before and after training.

use std::{fs::OpenOptions, io::Write, path::Path};

use align_cli::{Error, Result};
use align_core::align_types::{PromptGroup, config::SamplingConfig};
use align_data::Tokenizer;
use align_lm::Model;
use serde_json::json;

use crate::{generate, train::Rows};

/// Most tokens of a sample: enough to see a change of tone, few enough to cost nothing.
const TOKENS: usize = 32;

/// The prompts that are answered, and where the answers go.
pub struct Samples {
    prompts: Vec<PromptGroup>,
    file: std::path::PathBuf,
}

impl Samples {
    /// Takes the first prompts of the held-out rows, or of the training rows where there are none; prompts that fill
    /// the context are passed over.
    pub fn new(count: usize, rows: &Rows, context: usize, run: &Path) -> Self {
        let source = if rows.eval.is_empty() { &rows.train } else { &rows.eval };
        let fits = |group: &&PromptGroup| group.prompt.len() + TOKENS <= context;
        let bare = |group: &PromptGroup| PromptGroup { completions: Vec::new(), ..group.clone() };
        let prompts = source.iter().filter(fits).take(count).map(bare).collect();
        Self { prompts, file: run.join("completions.jsonl") }
    }

    /// Writes the greedy answers of the model after `step` steps; those after step 0 begin the file.
    ///
    /// # Errors
    /// The model fails, or [`Error::Write`].
    pub fn write(&self, model: &Model, tokenizer: &Tokenizer, step: u64) -> Result<()> {
        if self.prompts.is_empty() {
            return Ok(());
        }
        let config = SamplingConfig { max_new_tokens: TOKENS, greedy: true, ..SamplingConfig::default() };
        let answered = generate::draw(model, tokenizer, 0, &self.prompts, &config)?;
        let mut text = String::new();
        for (prompt, answers) in self.prompts.iter().zip(&answered) {
            let source = prompt.source.as_ref();
            let answer = answers.completions.first();
            let line = json!({
                "step": step,
                "file": source.map(|source| &source.file),
                "row": source.map(|source| source.row),
                "prompt": tokenizer.decode(&prompt.prompt, true)?,
                "completion": answer.and_then(|answer| answer.text.as_ref()),
                "finish_reason": answer.and_then(|answer| answer.finish_reason),
            });
            text.push_str(&format!("{line}\n"));
        }
        let mut options = OpenOptions::new();
        options.create(true).write(true);
        if step == 0 {
            options.truncate(true)
        } else {
            options.append(true)
        };
        let written = options.open(&self.file).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(Error::write(&self.file))
    }
}
