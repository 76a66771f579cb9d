//! The data doctor: what is in files, before anybody trains on them.

mod collect;

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use align_types::{Completion, PromptGroup, Source, TokenId};
use serde::{Deserialize, Serialize};

use crate::{
    BadRows, ChatTemplate, DataConfig, DataReport, Error, Kind, Result, SpecialTokens, Tokenizer, TrainOn,
    loader::Loader, tokenise::Encoder,
};
use collect::{Collector, Known};

/// Bad rows that are listed for one file; the others are counted.
const LISTED: usize = 10_000;

/// Renders messages where there is no model to say how: only their lengths are looked at.
const PLAIN_TEMPLATE: &str = "{% for message in messages %}{{ message.content }}\n{% endfor %}";

/// What the doctor looks at.
#[derive(Debug, Clone, Copy)]
pub struct Inspection<'a> {
    /// The files to train on.
    pub files: &'a [PathBuf],
    /// The files to evaluate on; rows that the first ones hold too are reported.
    pub eval_files: &'a [PathBuf],
    /// The tokenizer and the chat template of a model: lengths are in tokens then, otherwise in bytes of text.
    pub model: Option<(&'a Tokenizer, Option<&'a ChatTemplate>)>,
    /// Names of columns, and the limits whose effect is counted where a model is given.
    pub config: &'a DataConfig,
    /// How many rows of each file are shown as the model reads them, where one is given.
    pub shown: usize,
}

/// What the doctor found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// What lengths are counted in.
    pub unit: Unit,
    /// The files to train on.
    pub files: Vec<FileFindings>,
    /// The files to evaluate on.
    pub eval_files: Vec<FileFindings>,
    /// What both have, where there are files to evaluate on.
    pub overlap: Option<Overlap>,
}

impl DoctorReport {
    /// Says whether every file has rows that can be used.
    pub fn trainable(&self) -> bool {
        self.all_files().all(|file| file.trouble.is_none())
    }

    /// Goes through the findings of all files.
    pub fn all_files(&self) -> impl Iterator<Item = &FileFindings> {
        self.files.iter().chain(&self.eval_files)
    }
}

/// What lengths are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Unit {
    /// Tokens of the model.
    Tokens,
    /// Bytes of text, where no model is given.
    Bytes,
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tokens => "tokens",
            Self::Bytes => "bytes",
        })
    }
}

/// What was found in one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileFindings {
    /// The file.
    pub path: PathBuf,
    /// Why nothing can be trained on it; `None` where something can.
    pub trouble: Option<Trouble>,
    /// What its rows can be used for.
    pub serves: Option<String>,
    /// Layout, counts, bad rows and lengths; nothing has been cut.
    pub report: DataReport,
    /// Good rows by the length of the prompt with its longest answer.
    pub histogram: Vec<Bin>,
    /// What the limits would cut, where a model is given and there is a limit.
    pub cuts: Option<Cuts>,
    /// Rows whose answers are all the same.
    pub identical_answers: Vec<usize>,
    /// Rankings whose answers all have the same rank.
    pub all_tied: Vec<usize>,
    /// Rows that are the same as an earlier one of these files.
    pub duplicates: Vec<Repeat>,
    /// Thumbs up and down, where the rows have them.
    pub labels: Option<Labels>,
    /// The scores, where the rows have them.
    pub scores: Option<Scores>,
    /// The first rows as the model reads them.
    pub examples: Vec<Shown>,
}

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Where, and what is wrong.
    pub message: String,
    /// The nearest format, what is missing and what to do, where that is known.
    pub hint: Option<String>,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::WrongFormat { row, found, hint } => {
                Self { message: format!("{row}: {found}"), hint: Some(hint) }
            }
            other => Self { message: other.to_string(), hint: None },
        }
    }
}

/// Rows of about the same length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    /// The least length.
    pub from: usize,
    /// One more than the greatest length.
    pub below: usize,
    /// How many rows.
    pub rows: usize,
}

/// What the limits of a configuration would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cuts {
    /// The limit on a prompt with an answer.
    pub max_length: Option<usize>,
    /// The limit on a prompt.
    pub max_prompt_length: Option<usize>,
    /// Rows that would lose tokens.
    pub cut: usize,
    /// Tokens that these would lose.
    pub tokens: usize,
    /// Rows that would be dropped, because nothing to train on is left of them.
    pub dropped: usize,
    /// Rows that would be refused, because nothing may be cut.
    pub refused: usize,
}

/// A row that was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeat {
    /// The row.
    pub row: Source,
    /// The first row that is the same.
    pub of: Source,
}

/// How many answers have which label.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Thumbs up.
    pub good: usize,
    /// Thumbs down.
    pub bad: usize,
}

/// The range of scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// How many answers have one.
    pub count: usize,
    /// The lowest.
    pub min: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The highest.
    pub max: f64,
}

/// What files to train on and files to evaluate on have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// Rows to evaluate on that are also trained on.
    pub rows: Vec<Repeat>,
    /// Rows to evaluate on, of which only the prompt is also trained on.
    pub prompts: Vec<Repeat>,
}

/// A row as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The row.
    pub row: Source,
    /// The prompt, special tokens included.
    pub prompt: String,
    /// The answers.
    pub answers: Vec<Vec<Span>>,
}

/// Tokens of an answer that are all trained on, or all not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The tokens as text, special tokens included.
    pub text: String,
    /// Whether they are trained on.
    pub trained: bool,
}

/// Looks at files: format, counts, lengths, and everything that is wrong with their rows.
///
/// A file that cannot be used is a finding, not an error. The files are streamed; memory holds some 50 bytes for
/// each row.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use align_data::{DataConfig, Inspection, inspect};
/// # let dir = tempfile::tempdir()?;
/// # let file = dir.path().join("pairs.jsonl");
/// std::fs::write(&file, "{\"question\": \"2 + 2 =\", \"chosen\": \"4\", \"rejected\": \"5\"}\n")?;
/// let config = DataConfig::default();
/// let files = [file];
/// let report =
///     inspect(&Inspection { files: &files, eval_files: &[], model: None, config: &config, shown: 3 })?;
/// assert!(!report.trainable());
/// let hint = report.files[0].trouble.as_ref().and_then(|trouble| trouble.hint.clone());
/// assert!(hint.is_some_and(|hint| hint.contains("prompt=question")));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A configuration that is of no use.
pub fn inspect(what: &Inspection<'_>) -> Result<DoctorReport> {
    what.config.validate()?;
    let (bytes, plain);
    let (unit, tokenizer, template) = match what.model {
        Some((tokenizer, template)) => (Unit::Tokens, tokenizer, template),
        None => {
            bytes = Tokenizer::train_byte_level::<&str>(&[], 256, &SpecialTokens::default())?;
            plain = ChatTemplate::new(PLAIN_TEMPLATE, [])?;
            (Unit::Bytes, &bytes, Some(&plain))
        }
    };
    // Without a model nothing says how turns are written.
    let train_on = what.model.map_or(TrainOn::All, |_| what.config.train_on);
    let doctor = Doctor { what, encoder: Encoder { tokenizer, template, train_on } };
    let mut known = Known::default();
    let files = what.files.iter().map(|file| doctor.file(file, &mut known)).collect();
    let mut held_out = known.evaluated();
    let eval_files = what.eval_files.iter().map(|file| doctor.file(file, &mut held_out)).collect();
    let overlap = (!what.eval_files.is_empty()).then_some(held_out.overlap);
    Ok(DoctorReport { unit, files, eval_files, overlap })
}

struct Doctor<'a> {
    what: &'a Inspection<'a>,
    encoder: Encoder<'a>,
}

impl Doctor<'_> {
    fn file(&self, path: &Path, known: &mut Known) -> FileFindings {
        let limits = self.what.model.map(|_| self.what.config);
        let show = self.what.model.map_or(0, |_| self.what.shown);
        let unlimited = DataConfig {
            max_length: None,
            max_prompt_length: None,
            bad_rows: BadRows::Skip,
            ..self.what.config.clone()
        };
        let mut collector = Collector::new(path, limits, known);
        let mut loader = Loader::new(self.encoder, Kind::ALL, &unlimited, &mut collector);
        loader.shown = LISTED;
        let read = loader.file(path);
        let report = loader.findings();
        let trouble = read.err().map(Trouble::from);
        let serves = report.files.first().map(|file| file.format.kind().serves().to_owned());
        collector.finish(trouble, serves, report, |groups| self.show(groups), show)
    }

    /// Decodes rows, the trained tokens apart from the others.
    fn show(&self, groups: &[PromptGroup]) -> Vec<Shown> {
        // Tokens of a known vocabulary always decode; a failure would show as an empty text.
        let text = |ids: &[TokenId]| self.encoder.tokenizer.decode(ids, false).unwrap_or_default();
        let one = |group: &PromptGroup| {
            let spans = |answer: &Completion| {
                let span = |(range, trained)| Span {
                    text: text(answer.token_ids.get(range).unwrap_or_default()),
                    trained,
                };
                pieces(answer).into_iter().map(span).collect()
            };
            Some(Shown {
                row: group.source.clone()?,
                prompt: text(&group.prompt),
                answers: group.completions.iter().map(spans).collect(),
            })
        };
        groups.iter().filter_map(one).collect()
    }
}

/// Cuts an answer where it begins or ends to be trained on: ranges of its tokens, and whether they are.
fn pieces(answer: &Completion) -> Vec<(Range<usize>, bool)> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for range in answer.trained_ranges() {
        pieces.push((at..range.start, false));
        at = range.end;
        pieces.push((range, true));
    }
    pieces.push((at..answer.token_ids.len(), false));
    pieces.retain(|(range, _)| !range.is_empty());
    pieces
}
