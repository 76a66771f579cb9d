//! `completions.jsonl`: what the model answers before and after training.

use std::path::Path;

use align_cli::Result;
use align_core::align_types::{PromptGroup, config::SamplingConfig};
use align_data::Tokenizer;
use align_lm::Model;
use serde_json::{Value, json};

use crate::{failure, generate, rows::Rows};

/// Most tokens of a sample: enough to see a change of tone, few enough to cost nothing.
const TOKENS: usize = 32;

/// The prompts that are answered, and where the answers go.
pub struct Samples {
    prompts: Vec<PromptGroup>,
    file: std::path::PathBuf,
    threads: usize,
}

impl Samples {
    /// Takes the first prompts of the held-out rows, or of the training rows where there are none; prompts that fill
    /// the context are passed over.
    ///
    /// # Errors
    /// Rows on a disk that fails.
    pub fn new(count: usize, rows: &Rows, context: usize, run: &Path, threads: usize) -> Result<Self> {
        let source = if rows.eval.is_empty() { &rows.train } else { &rows.eval };
        let mut prompts = Vec::with_capacity(count);
        let mut groups = source.iter();
        while prompts.len() < count
            && let Some(group) = groups.next()
        {
            let group = group?;
            if group.prompt.len() + TOKENS <= context {
                prompts.push(PromptGroup { completions: Vec::new(), ..group.into_owned() });
            }
        }
        Ok(Self { prompts, file: run.join("completions.jsonl"), threads })
    }

    /// Writes the greedy answers of the model after `step` steps behind those of earlier steps; what the file holds
    /// of this step and later ones, from a run that was killed, goes.
    ///
    /// The file is written whole, so that a kill on the way leaves the one before.
    ///
    /// # Errors
    /// The model fails, or the file cannot be written.
    pub fn write(&self, model: &Model, tokenizer: &Tokenizer, step: u64) -> Result<()> {
        if self.prompts.is_empty() {
            return Ok(());
        }
        let config = SamplingConfig { max_new_tokens: TOKENS, greedy: true, ..SamplingConfig::default() };
        let answered = generate::draw(model, tokenizer, &self.prompts, &config, self.threads)?;
        let mut text = earlier(&self.file, step);
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
        align_train::write_atomic(&self.file, text.as_bytes()).map_err(failure::of)
    }
}

/// Reads the lines of steps before `step`; a file that is not there has none.
pub fn earlier(file: &Path, step: u64) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let is_earlier = |line: &&str| {
        let value: Option<Value> = serde_json::from_str(line).ok();
        value.and_then(|value| value.get("step")?.as_u64()).is_some_and(|found| found < step)
    };
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).filter(is_earlier).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_of_earlier_steps_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("completions.jsonl");
        assert_eq!(earlier(&file, 5), "");
        std::fs::write(&file, "{\"step\":0}\nnothing\n{\"step\":5}\n{\"step\":0}\n{\"step\":3}").unwrap();
        assert_eq!(earlier(&file, 5), "{\"step\":0}\n{\"step\":0}\n");
        assert_eq!(earlier(&file, 0), "");
    }
}
