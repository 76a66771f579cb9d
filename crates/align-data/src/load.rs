//! From files to prompt groups.

use std::path::{Path, PathBuf};

use align_types::{Columns, PromptGroup, Source};
use rayon::prelude::*;

use crate::{
    BadRow, BadRows, ChatTemplate, DataConfig, DataReport, Error, FileReport, Format, Kind, Result, Row,
    RowReader, RowStore, Tokenizer, TrainOn, csv,
    example::Example,
    format::{self, Misfit},
    report::{LengthLists, SHOWN, all_tied, identical_answers},
    store::StoreWriter,
    tokenise::{Encoded, Encoder, Fit, fit},
};

/// Rows that are tokenised in parallel before the next are read.
const CHUNK: usize = 512;

/// Reads preference rows: `chosen` and `rejected` after one prompt.
///
/// # Errors
/// As [`load_rows`].
pub fn load_pairs(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Preference], tokenizer, template, config)
}

/// Reads rows for supervised fine-tuning: texts, conversations, and prompts with their completion.
///
/// A text has no prompt, but nothing can predict its first token: that becomes the prompt. With
/// [`DataConfig::sft_on_chosen`] preference rows are read too, as prompt and chosen answer.
///
/// # Errors
/// As [`load_rows`].
pub fn load_language(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Language, Kind::PromptCompletion], tokenizer, template, config)
}

/// Reads answers with thumbs up or down: [`Completion::label`](align_types::Completion) is set.
///
/// A preference row is read as one group of a good and a bad answer; its other columns stay.
///
/// # Errors
/// As [`load_rows`].
pub fn load_unpaired(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Unpaired], tokenizer, template, config)
}

/// Reads answers with a finite score: [`Completion::reward`](align_types::Completion) is set.
///
/// # Errors
/// As [`load_rows`].
pub fn load_scored(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Scored], tokenizer, template, config)
}

/// Reads several answers to each prompt with their ranks: [`Completion::rank`](align_types::Completion) is set,
/// 1 is best, equal ranks are ties.
///
/// A preference row is read as a ranking of two.
///
/// # Errors
/// As [`load_rows`].
pub fn load_rankings(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Ranking], tokenizer, template, config)
}

/// Reads prompts for sampling, from rows of every kind that has one; they have no completions, and all other
/// columns travel along.
///
/// # Errors
/// As [`load_rows`].
pub fn load_prompts(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Prompt], tokenizer, template, config)
}

/// Reads rows of the wanted kinds and tokenises them, in the files' order.
///
/// The layout of a file is that of its first row that has one; a later row of another layout is bad. Plain
/// text is tokenised with the tokenizer's own special-token rule, prompt and answer together, and ended with
/// EOS; messages are rendered by the template. Answers begin where the tokens of the prompt and of prompt with
/// answer diverge, at the smallest such place over the answers of the row.
///
/// # Errors
/// Files that cannot be read or are no rows, rows of another kind (with the nearest format and what is
/// missing), bad rows unless they are skipped, rows over the limit where nothing may be cut, no row left.
pub fn load_rows(
    files: &[PathBuf],
    wanted: &[Kind],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    let mut kept = vec![];
    let report = load_into(&mut kept, files, wanted, tokenizer, template, config)?;
    Ok((kept, report))
}

/// Reads rows as [`load_rows`] does, into a file in `folder` instead of memory.
///
/// # Errors
/// As [`load_rows`], and a folder that cannot be written.
pub fn store_rows(
    folder: &Path,
    files: &[PathBuf],
    wanted: &[Kind],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(RowStore, DataReport)> {
    let mut store = StoreWriter::new(folder)?;
    let report = load_into(&mut store, files, wanted, tokenizer, template, config)?;
    Ok((store.finish()?, report))
}

fn load_into(
    sink: &mut dyn Sink,
    files: &[PathBuf],
    wanted: &[Kind],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<DataReport> {
    config.validate()?;
    if files.is_empty() {
        return Err(Error::Config {
            key: "data".into(),
            value: String::new(),
            expected: "at least one file".into(),
        });
    }
    let encoder = Encoder { tokenizer, template, train_on: config.train_on };
    let mut loader = Loader::new(encoder, wanted, config, sink);
    for file in files {
        loader.file(file)?;
    }
    loader.finish()
}

/// Where rows go.
pub(crate) trait Sink {
    fn push(&mut self, row: Encoded) -> Result<()>;
}

impl Sink for Vec<PromptGroup> {
    fn push(&mut self, row: Encoded) -> Result<()> {
        Vec::push(self, row.group);
        Ok(())
    }
}

impl Sink for StoreWriter {
    fn push(&mut self, row: Encoded) -> Result<()> {
        StoreWriter::push(self, &row.group)
    }
}

pub(crate) struct Loader<'a> {
    encoder: Encoder<'a>,
    wanted: &'a [Kind],
    config: &'a DataConfig,
    pub report: DataReport,
    /// How many bad rows are listed; the others are counted.
    pub shown: usize,
    sink: &'a mut dyn Sink,
    lengths: LengthLists,
    /// The first row over the limit with its length and the limit, and how many there are.
    too_long: Option<(String, usize, usize, usize)>,
}

/// What the first usable row of a file decided for all of them.
#[derive(Debug, Clone)]
struct Layout {
    format: Format,
    /// What the rows are read as.
    kind: Kind,
    conversational: Option<bool>,
    decided_by: usize,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(
        encoder: Encoder<'a>,
        wanted: &'a [Kind],
        config: &'a DataConfig,
        sink: &'a mut dyn Sink,
    ) -> Self {
        Self {
            encoder,
            wanted,
            config,
            report: DataReport::default(),
            shown: SHOWN,
            sink,
            lengths: LengthLists::default(),
            too_long: None,
        }
    }

    pub(crate) fn file(&mut self, path: &Path) -> Result<()> {
        let mut layout = None;
        let mut misfit: Option<(Source, Misfit)> = None;
        let mut chunk = Vec::with_capacity(CHUNK);
        let before = self.report.rows;
        let reader = RowReader::open(path)?;
        let text_only = reader.text_only();
        for row in reader {
            self.report.rows += 1;
            let mut row = row?.and_then(|row| self.rename(row));
            if let (true, Ok(row)) = (text_only, &mut row) {
                csv::typed(&mut row.value);
            }
            match row.and_then(|row| self.understand(row, &mut layout, &mut misfit)) {
                Ok(Some(example)) => chunk.push(example),
                Ok(None) => {}
                Err(bad) => self.report.add_bad(bad, self.shown),
            }
            if let Some(layout) = &layout {
                self.check_wanted(path, layout)?;
            }
            if chunk.len() == CHUNK {
                self.tokenise(std::mem::take(&mut chunk))?;
            }
        }
        self.tokenise(chunk)?;
        let rows = self.report.rows - before;
        match (layout, misfit) {
            (Some(layout), _) => {
                self.note(&layout);
                let conversational = layout.conversational.unwrap_or(false);
                self.report.files.push(FileReport {
                    path: path.into(),
                    format: layout.format,
                    conversational,
                    rows,
                });
                Ok(())
            }
            (None, Some((row, misfit))) => {
                Err(Error::WrongFormat { row, found: misfit.found(), hint: misfit.hint() })
            }
            // Only rows that are no JSON objects: they are reported as bad rows.
            (None, None) if rows > 0 => Ok(()),
            (None, None) => Err(Error::Empty { path: path.into() }),
        }
    }

    /// Gives columns the names that are read.
    fn rename(&self, mut row: Row) -> Result<Row, BadRow> {
        if let Some((name, column)) =
            self.config.columns.iter().find(|(_, column)| !row.value.contains_key(*column))
        {
            let keys: Vec<_> = row.value.keys().map(|key| format!("`{key}`")).collect();
            let problem =
                format!("no column `{column}` (mapped to `{name}`); the row has {}", keys.join(", "));
            return Err(BadRow { source: row.source, problem });
        }
        // All are taken out before any is put back, so that two columns can change places.
        let taken: Vec<_> = self
            .config
            .columns
            .iter()
            .filter_map(|(name, column)| Some((name.clone(), row.value.shift_remove(column)?)))
            .collect();
        row.value.extend(taken);
        Ok(row)
    }

    /// Finds out what a row is and takes it apart. `None` where a misfit was noted for the end of the file.
    fn understand(
        &self,
        row: Row,
        layout: &mut Option<Layout>,
        misfit: &mut Option<(Source, Misfit)>,
    ) -> Result<Option<Example>, BadRow> {
        let source = row.source.clone();
        let bad = |problem: String| BadRow { source: source.clone(), problem };
        let found = format::detect_for(&row.value, self.wanted);
        let layout = match (&mut *layout, found) {
            (Some(layout), Ok(format)) if format == layout.format => layout,
            (Some(layout), found) => return Err(bad(differs(layout, found, &row.value))),
            (empty @ None, Ok(format)) => empty.insert(self.layout(format, &row)),
            (None, Err(problem)) => {
                let text = format!("{}; {}", problem.found(), problem.hint());
                misfit.get_or_insert((source.clone(), problem));
                return Err(bad(text));
            }
        };
        let all = (layout.kind == Kind::Prompt).then(|| row.value.clone());
        let example = Example::parse(row, layout.format, self.encoder.template.is_some()).map_err(bad)?;
        let conversational = example.conversational();
        if *layout.conversational.get_or_insert(conversational) != conversational {
            let name = |chat| if chat { "message lists" } else { "text" };
            return Err(BadRow {
                source,
                problem: format!(
                    "this row holds {}, row {} holds {}",
                    name(conversational),
                    layout.decided_by,
                    name(!conversational)
                ),
            });
        }
        let mut example = example.adapt(layout.format.kind(), layout.kind);
        let narrowed = match self.config.train_on {
            TrainOn::All => Ok(example),
            TrainOn::Assistant => example.with_turns(),
            TrainOn::LastAnswer => example.with_turns().and_then(Example::last_answer),
        };
        example = narrowed.map_err(|problem| BadRow { source: source.clone(), problem })?;
        if let Some(mut columns) = all {
            columns.retain(|name, _| name != "prompt" && name != "tools");
            example.columns = columns;
        }
        Ok(Some(example))
    }

    /// Decides what rows of a layout are read as.
    fn layout(&self, format: Format, row: &Row) -> Layout {
        let own = format.kind();
        let wants = |kind| self.wanted.contains(&kind);
        let kind = match own {
            _ if wants(own) => own,
            Kind::Preference if wants(Kind::PromptCompletion) && self.config.sft_on_chosen => {
                Kind::PromptCompletion
            }
            Kind::Preference if wants(Kind::Unpaired) => Kind::Unpaired,
            Kind::Preference if wants(Kind::Ranking) => Kind::Ranking,
            Kind::Scored if wants(Kind::PromptCompletion) => Kind::PromptCompletion,
            _ if wants(Kind::Prompt) && own != Kind::Language => Kind::Prompt,
            _ => own,
        };
        Layout { format, kind, conversational: None, decided_by: row.source.row }
    }

    fn check_wanted(&self, path: &Path, layout: &Layout) -> Result<()> {
        let row = Source { file: path.into(), row: layout.decided_by };
        if !self.wanted.contains(&layout.kind) {
            let wanted: Vec<_> = self.wanted.iter().map(|kind| kind.describe()).collect();
            let chosen = match layout.kind {
                Kind::Preference if self.wanted.contains(&Kind::PromptCompletion) => {
                    "; set sft-on-chosen to train on the chosen answers"
                }
                _ => "",
            };
            return Err(Error::WrongFormat {
                row,
                found: format!("the rows are {}", layout.format.describe()),
                hint: format!("expected {}{chosen}", wanted.join(" or ")),
            });
        }
        if layout.conversational == Some(true) && self.encoder.template.is_none() {
            return Err(Error::WrongFormat {
                row,
                found: "the rows hold message lists, and the model has no chat template".into(),
                hint: "put a chat_template.jinja into the model's folder, or give rows of plain text".into(),
            });
        }
        Ok(())
    }

    fn tokenise(&mut self, chunk: Vec<Example>) -> Result<()> {
        let (encoder, config) = (self.encoder, self.config);
        let encode = |example: Example| {
            let source = example.source.clone();
            let mut encoded = encoder.encode(example).map_err(|problem| BadRow { source, problem })?;
            let fitted = fit(&mut encoded.group, encoded.language, config);
            Ok((encoded, fitted))
        };
        let done: Vec<Result<(Encoded, Fit), BadRow>> = chunk.into_par_iter().map(encode).collect();
        for row in done {
            match row {
                Ok((encoded, fitted)) => self.take(encoded, fitted)?,
                Err(bad) => self.report.add_bad(bad, self.shown),
            }
        }
        Ok(())
    }

    fn take(&mut self, encoded: Encoded, fitted: Fit) -> Result<()> {
        let at = encoded.group.describe(self.report.kept);
        let report = &mut self.report;
        match fitted {
            Fit::NoRoom => {
                report.dropped_no_room += 1;
                return Ok(());
            }
            Fit::TooLong(tokens, limit) => {
                self.too_long.get_or_insert((at, tokens, limit, 0)).3 += 1;
                return Ok(());
            }
            Fit::Cut => report.cut += 1,
            Fit::Whole => {}
        }
        if let Some(tail) = &encoded.merged {
            report
                .merged_boundary
                .add(|| format!("{at}: the answer's tokens begin before the end {tail:?} of the prompt"));
        }
        if encoded.without_eos {
            report.without_eos.add(|| at.clone());
        }
        if identical_answers(&encoded.group) {
            report.identical_answers.add(|| at.clone());
        }
        if all_tied(&encoded.group) {
            report.all_tied.add(|| at.clone());
        }
        for column in encoded.group.columns.keys() {
            if !report.ignored_columns.contains(column) {
                report.ignored_columns.push(column.clone());
            }
        }
        report.kept += 1;
        self.lengths.add(&encoded.group);
        self.sink.push(encoded)
    }

    fn note(&mut self, layout: &Layout) {
        let chat = self.encoder.template.is_some();
        match layout.format {
            Format::Alpaca | Format::AlpacaPreference if chat => self.report.notice(
                "Alpaca rows are read as a user's turn (instruction, line end, input) and an assistant's turn".into(),
            ),
            Format::Alpaca | Format::AlpacaPreference => self.report.notice(
                "Alpaca rows are read as plain text: instruction, line end, input, empty line, answer".into(),
            ),
            Format::ShareGpt | Format::ShareGptPreference => self.report.notice(
                "ShareGPT turns are read as messages: human is user, gpt is assistant, observation is tool".into(),
            ),
            _ => {}
        }
        let read_as = match layout.kind {
            kind if kind == layout.format.kind() => None,
            Kind::PromptCompletion => Some("prompt and completion"),
            Kind::Unpaired => Some("a good and a bad answer each"),
            Kind::Ranking => Some("rankings of two"),
            _ => None,
        };
        if let Some(read_as) = read_as {
            self.report.notice(format!("{} rows are read as {read_as}", layout.format.describe()));
        }
        if self.encoder.tokenizer.eos_token().is_none() {
            self.report.notice("the tokenizer names no end-of-sequence token, so texts are not ended".into());
        }
    }

    /// Closes the report of rows that may be used.
    fn finish(self) -> Result<DataReport> {
        let Self { mut report, lengths, too_long, config, .. } = self;
        if config.bad_rows == BadRows::Refuse && report.bad_count > 0 {
            return Err(Error::BadRows { shown: report.bad, count: report.bad_count, rows: report.rows });
        }
        if let Some((row, tokens, limit, count)) = too_long {
            return Err(Error::TooLong { row, tokens, limit, count });
        }
        if report.kept == 0 {
            return Err(Error::NothingLeft {
                rows: report.rows,
                bad: report.bad_count,
                no_room: report.dropped_no_room,
                example: report.bad.first().map(ToString::to_string),
            });
        }
        report.lengths = lengths.finish();
        Ok(report)
    }

    /// Closes the report whatever it says.
    pub(crate) fn findings(self) -> DataReport {
        DataReport { lengths: self.lengths.finish(), ..self.report }
    }
}

/// Says how a row differs from the layout of its file.
fn differs(layout: &Layout, found: Result<Format, Misfit>, row: &Columns) -> String {
    let (required, columns) = layout.format.columns();
    let missing: Vec<_> = columns
        .iter()
        .take(required)
        .filter(|name| !row.contains_key(**name))
        .map(|c| format!("`{c}`"))
        .collect();
    let first = format!("row {} is {}", layout.decided_by, layout.format.describe());
    match found {
        Ok(format) if missing.is_empty() => format!("this row is {}, {first}", format.describe()),
        Ok(format) => {
            format!("{} is missing: this row is {}, {first}", missing.join(" and "), format.describe())
        }
        Err(misfit) => format!("{} is missing: {}, {first}", missing.join(" and "), misfit.found()),
    }
}
