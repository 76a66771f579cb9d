//! The rows of a run: read and tokenised, in memory or on disk, mixed with weights.

use std::path::{Path, PathBuf};

use align_cli::{
    Error, Result,
    args::{RowStoreName, TrainArgs},
    talk,
};
use align_core::align_types::PromptSource;
use align_data::{DataConfig, DataReport, MixedRows, ShuffledRows, load_rows, store_rows};
use serde_json::{Map, Value, json};

use crate::{model::Folder, train::Method};

/// Data files of more bytes than this are tokenised into a file: their tokens take about as much memory.
const STORED_FROM: u64 = 512 << 20;

/// How much larger the content of a compressed file is, about.
const COMPRESSION: u64 = 4;

/// The rows of a run.
pub struct Rows {
    /// Those to train on.
    pub train: align_data::Rows,
    /// Those held out, always in memory.
    pub eval: align_data::Rows,
    /// The files that `train` comes from, in order; empty for rows that come from elsewhere.
    pub files: Vec<Part>,
    /// Whether the files are mixed with their weights.
    pub mixed: bool,
}

/// The rows of one data file.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The file.
    pub file: PathBuf,
    /// Its rows that are trained on.
    pub rows: usize,
    /// Its weight; that of all rows alike where none is given.
    pub weight: f64,
}

/// What was found in the files.
pub struct Reports {
    /// Those of `--data`.
    pub train: DataReport,
    /// Those of `--eval-data`.
    pub eval: Option<DataReport>,
}

impl Reports {
    /// Makes the entries of `summary.json`.
    pub fn summary(&self) -> Map<String, Value> {
        let mut summary = Map::new();
        summary.insert("rows_cut".into(), self.train.cut.into());
        summary.insert("rows_skipped".into(), self.train.bad_count.into());
        summary.insert(
            "rows_dropped".into(),
            (self.train.dropped_no_room + self.train.dropped_too_long.count).into(),
        );
        summary.insert("data".into(), json!(self.train));
        if let Some(eval) = &self.eval {
            summary.insert("eval_data".into(), json!(eval));
        }
        summary
    }
}

impl Rows {
    /// Makes the source of batches for a run of `steps` steps, and the share of each file in an epoch.
    ///
    /// # Errors
    /// [`Error::Data`] for a file with a weight and no rows, [`Error::Usage`] for weights of which an epoch would
    /// have no row.
    pub fn source(
        &self,
        batch_size: usize,
        seed: u64,
        steps: u64,
    ) -> Result<(Box<dyn PromptSource>, Vec<Value>)> {
        if !self.mixed {
            let shares = self.shares(self.files.iter().map(|part| part.rows));
            return Ok((Box::new(ShuffledRows::new(self.train.clone(), batch_size, seed, steps)?), shares));
        }
        let mut at = 0;
        let mut sets = Vec::with_capacity(self.files.len());
        for part in &self.files {
            if part.rows == 0 {
                let message =
                    format!("{}: it has a weight, and no row that can be used", part.file.display());
                return Err(Error::data(message, ["look at it with `align data check`".to_owned()]));
            }
            sets.push((self.train.part(at..at + part.rows), part.weight));
            at += part.rows;
        }
        let source = MixedRows::new(sets, batch_size, seed, steps)?;
        let shares = self.shares(source.shares().iter().copied());
        Ok((Box::new(source), shares))
    }

    fn shares(&self, per_epoch: impl Iterator<Item = usize>) -> Vec<Value> {
        let share = |(part, per_epoch): (&Part, usize)| {
            json!({
                "file": part.file,
                "rows": part.rows,
                "weight": self.mixed.then_some(part.weight),
                "rows_per_epoch": per_epoch,
            })
        };
        self.files.iter().zip(per_epoch).map(share).collect()
    }
}

/// Reads the rows of `--data` and `--eval-data`, and says what happened to them.
///
/// # Errors
/// As [`load_rows`] and [`store_rows`].
pub fn read(train: &TrainArgs, method: &dyn Method, folder: &Folder) -> Result<(Rows, Reports)> {
    let context = folder.config.context_length();
    let mut config = method.data_config(train.data_config());
    if config.max_length.is_some_and(|given| given > context) {
        talk::warn(&format!("--max-length is lowered to the model's context of {context} tokens"));
        config.max_length = Some(context);
    }
    let (rows, report) = read_files(&train.data, method, folder, &config, store_folder(train).as_deref())?;
    tell(&report);
    let (eval, eval_report) = match train.watch.eval_data.as_slice() {
        [] => (Vec::new().into(), None),
        files => {
            let (rows, report) = read_files(files, method, folder, &config, None)?;
            tell(&report);
            (rows, Some(report))
        }
    };
    let weights = train.rows.data_weights.iter().copied().chain(std::iter::repeat(1.0));
    let files = parts(&train.data, &report, weights);
    let mixed = !train.rows.data_weights.is_empty();
    Ok((Rows { train: rows, eval, files, mixed }, Reports { train: report, eval: eval_report }))
}

fn read_files(
    files: &[PathBuf],
    method: &dyn Method,
    folder: &Folder,
    config: &DataConfig,
    store: Option<&Path>,
) -> Result<(align_data::Rows, DataReport)> {
    let (kinds, tokenizer, template) = (method.kinds(), &folder.tokenizer, folder.template.as_ref());
    let (rows, mut report) = match store {
        None => {
            let (rows, report) = load_rows(files, kinds, tokenizer, template, config)?;
            (rows.into(), report)
        }
        Some(store) => {
            let (rows, report) = store_rows(store, files, kinds, tokenizer, template, config)?;
            talk::say(&format!("token ids: {} MB on disk, in {}", rows.bytes() / 1_000_000, store.display()));
            (rows.into(), report)
        }
    };
    report.ignored_columns.retain(|column| !method.columns().contains(&column.as_str()));
    Ok((rows, report))
}

/// Chooses the folder for tokenised rows, on the disk that the run is written to; `None` where they stay in memory.
fn store_folder(train: &TrainArgs) -> Option<PathBuf> {
    let stored = match train.rows.row_store {
        RowStoreName::Memory => false,
        RowStoreName::Disk => true,
        RowStoreName::Auto => train.data.iter().map(|file| content_bytes(file)).sum::<u64>() > STORED_FROM,
    };
    if !stored {
        return None;
    }
    let output = train.output_dir.as_deref().and_then(|output| std::path::absolute(output).ok());
    let existing = output.as_deref().and_then(|path| path.ancestors().find(|folder| folder.is_dir()));
    Some(existing.map_or_else(std::env::temp_dir, Path::to_path_buf))
}

fn content_bytes(file: &Path) -> u64 {
    let bytes = std::fs::metadata(file).map_or(0, |found| found.len());
    let compressed = file.extension().is_some_and(|e| e == "gz" || e == "parquet");
    if compressed { bytes.saturating_mul(COMPRESSION) } else { bytes }
}

/// Counts the kept rows of each file; of a file of which nothing could be read the report says nothing.
pub fn parts(files: &[PathBuf], report: &DataReport, weights: impl Iterator<Item = f64>) -> Vec<Part> {
    let mut reports = report.files.iter().peekable();
    let part = |(file, weight): (&PathBuf, f64)| {
        let rows = reports.next_if(|found| found.path == *file).map_or(0, |found| found.kept);
        Part { file: file.clone(), rows, weight }
    };
    files.iter().zip(weights).map(part).collect()
}

/// Says what happened to rows, if anything did.
pub fn tell(report: &DataReport) {
    let files: Vec<_> = report.files.iter().map(|file| file.path.display().to_string()).collect();
    let files = files.join(", ");
    let count = |count: usize, what: &str, example: Option<&String>| {
        if count > 0 {
            let example = example.map(|example| format!(", the first: {example}")).unwrap_or_default();
            talk::warn(&format!("{files}: {count} {what}{example}"));
        }
    };
    for file in report.files.iter().filter(|file| file.bad > 0) {
        let first = file.first_bad.as_ref().map(|bad| format!(", the first: {bad}")).unwrap_or_default();
        let (path, bad, rows) = (file.path.display(), file.bad, file.rows);
        talk::warn(&format!("{path}: {bad} of {rows} rows are bad and were skipped{first}"));
    }
    count(report.cut, "rows were cut to --max-length or --max-prompt-length", None);
    count(
        report.dropped_no_room,
        "rows were dropped: the limits leave nothing of an answer to train on",
        None,
    );
    let long = &report.dropped_too_long;
    count(
        long.count,
        "rows were dropped: they are over the limit, and nothing is cut",
        long.example.as_ref(),
    );
    let merged = &report.merged_boundary;
    count(merged.count, "answers begin inside the last token of the prompt", merged.example.as_ref());
    let endless = &report.without_eos;
    count(endless.count, "answers have no end-of-sequence token", endless.example.as_ref());
    let same = &report.identical_answers;
    count(same.count, "rows have answers that are all the same", same.example.as_ref());
    if !report.ignored_columns.is_empty() {
        talk::say(&format!(
            "{files}: columns that training does not read: {}",
            report.ignored_columns.join(", ")
        ));
    }
    report.notices.iter().for_each(|notice| talk::say(&format!("{files}: {notice}")));
}
