//! The prompts of a run, as tokens and as text.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use align_cli::{Error, Result, args::PpoArgs, talk};
use align_core::align_types::{PromptGroup, PromptSource, Source};
use align_data::{Curriculum, DataConfig, DataReport, PromptOrder, TextPrompt, Tokenizer};
use align_ppo::PromptText;
use serde_json::{Map, Value, json};

use crate::{
    inputs,
    model::Folder,
    rewards,
    rows::{self, Reports, Rows},
    sft,
};

/// What was read.
pub struct Prompts {
    /// The prompts to train on and those held out.
    pub rows: Rows,
    /// Rows of language modelling, and those of earlier data that are held out.
    pub ptx: Rows,
    pub reports: Reports,
    /// What was found in the files of those, by entry of `summary.json`.
    ptx_reports: Vec<(&'static str, DataReport)>,
    /// By file and row.
    texts: HashMap<(PathBuf, usize), PromptText>,
    /// Names of all columns that rewards may read.
    columns: Vec<String>,
}

/// Reads `--data`, `--eval-data`, `--ptx-data` and `--ptx-eval-data`. `context` is what all models that are trained or
/// compared with take, `longest` the most tokens of a prompt with its answer.
///
/// # Errors
/// Rows that cannot be used, no row that can.
pub fn read(flags: &PpoArgs, folder: &Folder, context: usize, longest: usize) -> Result<Prompts> {
    let train = &flags.train;
    let config = prompt_config(flags, longest)?;
    let mut prompts = Prompts {
        rows: Rows { train: Vec::new().into(), eval: Vec::new().into(), files: Vec::new(), mixed: false },
        ptx: Rows { train: Vec::new().into(), eval: Vec::new().into(), files: Vec::new(), mixed: false },
        reports: Reports { train: DataReport::default(), eval: None },
        ptx_reports: Vec::new(),
        texts: HashMap::new(),
        columns: Vec::new(),
    };
    let (groups, report) = prompts.take(&train.data, folder, &config)?;
    prompts.rows.files = rows::parts(&train.data, &report, std::iter::repeat(1.0));
    (prompts.rows.train, prompts.reports.train) = (groups.into(), report);
    if !train.watch.eval_data.is_empty() {
        let (groups, report) = prompts.take(&train.watch.eval_data, folder, &config)?;
        (prompts.rows.eval, prompts.reports.eval) = (groups.into(), Some(report));
    }
    let config = DataConfig { max_length: Some(train.rows.max_length.min(context)), ..train.data_config() };
    prompts.ptx.train = prompts.take_texts("ptx_data", &flags.ptx.ptx_data, folder, &config)?;
    prompts.ptx.eval = prompts.take_texts("ptx_eval_data", &flags.ptx.ptx_eval_data, folder, &config)?;
    Ok(prompts)
}

/// How prompts are read: `--max-length` is that of a prompt with its answer.
fn prompt_config(flags: &PpoArgs, context: usize) -> Result<DataConfig> {
    let config = flags.train.data_config();
    let given = flags.train.rows.max_length;
    if given > context {
        talk::warn(&format!("--max-length is lowered to {context} tokens, which is what the models take"));
    }
    let new = flags.draw.max_new_tokens;
    let most = given.min(context);
    let Some(room) = most.checked_sub(new).filter(|room| *room > 1) else {
        return Err(Error::usage(
            format!(
                "--max-new-tokens {new}: {most} tokens for a prompt with its answer leave no room for a prompt"
            ),
            ["--max-length and the contexts of the models bound them".to_owned()],
        ));
    };
    Ok(DataConfig { max_length: Some(room), ..config })
}

impl Prompts {
    fn take(
        &mut self,
        files: &[PathBuf],
        folder: &Folder,
        config: &DataConfig,
    ) -> Result<(Vec<PromptGroup>, DataReport)> {
        let (tokenizer, template) = (&folder.tokenizer, folder.template.as_ref());
        let (read, mut report) = align_data::load_text_prompts(files, tokenizer, template, config)?;
        // Rewards read them all.
        self.columns.append(&mut report.ignored_columns);
        rows::tell(&report);
        let mut groups = Vec::with_capacity(read.len());
        for prompt in read {
            let text = prompt_text(&prompt, tokenizer)?;
            if let Some(source) = &prompt.group.source {
                self.texts.insert(place(source), text);
            }
            groups.push(prompt.group);
        }
        Ok((groups, report))
    }

    fn take_texts(
        &mut self,
        name: &'static str,
        files: &[PathBuf],
        folder: &Folder,
        config: &DataConfig,
    ) -> Result<align_data::Rows> {
        if files.is_empty() {
            return Ok(Vec::new().into());
        }
        let (tokenizer, template) = (&folder.tokenizer, folder.template.as_ref());
        let (groups, report) = align_data::load_rows(files, sft::KINDS, tokenizer, template, config)?;
        rows::tell(&report);
        self.ptx_reports.push((name, report));
        Ok(groups.into())
    }

    /// Makes the entries of `summary.json`.
    pub fn summary(&self) -> Map<String, Value> {
        let mut summary = self.reports.summary();
        summary.extend(self.ptx_reports.iter().map(|(name, report)| ((*name).to_owned(), json!(report))));
        summary
    }

    /// Finds the text of a prompt.
    pub fn text(&self, group: &PromptGroup) -> Option<&PromptText> {
        self.texts.get(&place(group.source.as_ref()?))
    }

    /// Makes the source of a run of `steps` iterations.
    ///
    /// # Errors
    /// A curriculum that is out of range.
    pub fn source(&self, flags: &PpoArgs, steps: u64) -> Result<Box<dyn PromptSource>> {
        let (rows, seed, batch) = (self.rows.train.clone(), flags.train.seed, flags.train.batch.batch_size);
        Ok(match flags.curriculum.config() {
            Some(config) => Box::new(Curriculum::new(rows, config, batch, seed, steps)?),
            None => Box::new(PromptOrder::new(rows, batch, seed, steps)?),
        })
    }

    /// Makes the source of rows of language modelling, where there are any.
    ///
    /// # Errors
    /// A batch of size 0.
    pub fn ptx_source(&self, flags: &PpoArgs, steps: u64) -> Result<Option<PromptOrder>> {
        if self.ptx.train.is_empty() {
            return Ok(None);
        }
        let (batch, seed) = (flags.ptx_batch_size(), flags.train.seed);
        Ok(Some(PromptOrder::new(self.ptx.train.clone(), batch, seed, steps)?))
    }

    /// Computes a digest of all that rows and these folders decide.
    ///
    /// # Errors
    /// As [`inputs::fingerprint`].
    pub fn fingerprint(&self, folders: &[&Path]) -> Result<String> {
        let columns: Vec<&str> = self.columns.iter().map(String::as_str).collect();
        let prompts = inputs::fingerprint(&self.rows, folders, &columns)?;
        if self.ptx.train.is_empty() && self.ptx.eval.is_empty() {
            return Ok(prompts);
        }
        Ok(prompts + &inputs::fingerprint(&self.ptx, &[], &[])?)
    }
}

fn place(source: &Source) -> (PathBuf, usize) {
    (source.file.clone(), source.row)
}

fn prompt_text(prompt: &TextPrompt, tokenizer: &Tokenizer) -> Result<PromptText> {
    let text = rewards::text(prompt, tokenizer)?;
    Ok(PromptText { text, messages: prompt.messages.clone() })
}
