//! Goes through files row by row, and keeps the books.

use std::path::Path;

use align_types::Source;
use rayon::prelude::*;

use crate::{
    BadRow, BadRows, DataConfig, DataReport, Error, FileReport, Kind, Result, Row, RowReader, TrainOn,
    Truncation, csv,
    example::Example,
    format::{self, Misfit},
    layout::Layout,
    report::{LengthLists, SHOWN, all_tied, identical_answers},
    tokenise::{Encoded, Encoder, Fit, fit},
};

/// Rows that are tokenised in parallel before the next are read.
const CHUNK: usize = 512;

/// Where rows go.
pub(crate) trait Sink {
    fn push(&mut self, row: Encoded) -> Result<()>;
}

/// Reads the rows of files, tokenises them and hands them on.
pub(crate) struct Loader<'a> {
    encoder: Encoder<'a>,
    wanted: &'a [Kind],
    config: &'a DataConfig,
    pub report: DataReport,
    /// How many bad rows are listed; the others are counted.
    pub shown: usize,
    sink: &'a mut dyn Sink,
    lengths: LengthLists,
    bad_here: FileBad,
    /// The first row over the limit with its length and the limit, and how many there are.
    too_long: Option<(String, usize, usize, usize)>,
}

/// The bad rows of the file at hand.
#[derive(Debug, Default)]
struct FileBad {
    count: usize,
    first: Option<BadRow>,
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
            bad_here: FileBad::default(),
            too_long: None,
        }
    }

    pub(crate) fn file(&mut self, path: &Path) -> Result<()> {
        let mut layout = None;
        let mut misfit: Option<(Source, Misfit)> = None;
        let mut chunk = Vec::with_capacity(CHUNK);
        let (before, kept) = (self.report.rows, self.report.kept);
        self.bad_here = FileBad::default();
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
                Err(bad) => self.bad(bad),
            }
            if let Some(layout) = &layout {
                layout.check(path, self.wanted, self.encoder.template.is_some())?;
            }
            if chunk.len() == CHUNK {
                self.tokenise(std::mem::take(&mut chunk))?;
            }
        }
        self.tokenise(chunk)?;
        let rows = self.report.rows - before;
        let FileBad { count: bad, first: first_bad } = std::mem::take(&mut self.bad_here);
        // To skip bad rows is not to leave out a file: it may have been meant for other column names.
        if let (BadRows::Skip, Some(first)) = (self.config.bad_rows, &first_bad)
            && bad == rows
            && misfit.is_none()
        {
            return Err(Error::NoGoodRow { path: path.into(), rows, first: first.clone() });
        }
        match (layout, misfit) {
            (Some(layout), _) => {
                layout.notices(&self.encoder).into_iter().for_each(|notice| self.report.notice(notice));
                let conversational = layout.conversational.unwrap_or(false);
                self.report.files.push(FileReport {
                    path: path.into(),
                    format: layout.format,
                    conversational,
                    rows,
                    bad,
                    first_bad,
                    kept: self.report.kept - kept,
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

    fn bad(&mut self, bad: BadRow) {
        self.bad_here.count += 1;
        self.bad_here.first.get_or_insert_with(|| bad.clone());
        self.report.add_bad(bad, self.shown);
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
            (Some(layout), found) => return Err(bad(layout.differs(found, &row.value))),
            (empty @ None, Ok(format)) => {
                empty.insert(Layout::decide(format, row.source.row, self.wanted, self.config))
            }
            (None, Err(problem)) => {
                let text = format!("{}; {}", problem.found(), problem.hint());
                misfit.get_or_insert((source.clone(), problem));
                return Err(bad(text));
            }
        };
        let all = (layout.kind == Kind::Prompt).then(|| row.value.clone());
        let example =
            Example::parse(row, layout.format, layout.kind, self.encoder.template.is_some()).map_err(bad)?;
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
        if self.config.all_ties_are_bad && example.all_tied() {
            let answers = example.answers.len();
            let problem = format!(
                "its {answers} answers all have the same rank, and ties are skipped: nothing is compared"
            );
            return Err(BadRow { source, problem });
        }
        let narrowed = match self.config.train_on {
            TrainOn::All => Ok(example),
            TrainOn::Assistant => example.with_turns(),
            TrainOn::LastAnswer => example.with_turns().and_then(Example::last_answer),
        };
        example = narrowed.map_err(|problem| BadRow { source: source.clone(), problem })?;
        if let Some(mut columns) = all {
            columns.retain(|name, _| name != "prompt");
            example.columns = columns;
        }
        Ok(Some(example))
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
                Err(bad) => self.bad(bad),
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
            Fit::TooLong(tokens, limit) if self.config.truncation == Truncation::Drop => {
                let example = || format!("{at} has {tokens} tokens, the limit is {limit}");
                report.dropped_too_long.add(example);
                return Ok(());
            }
            Fit::TooLong(tokens, limit) => {
                self.too_long.get_or_insert((at, tokens, limit, 0)).3 += 1;
                return Ok(());
            }
            Fit::Cut => {
                report.cut += 1;
                report.cut_rows.push(report.kept);
            }
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

    /// Closes the report of rows that may be used.
    pub(crate) fn finish(self) -> Result<DataReport> {
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
                too_long: report.dropped_too_long.count,
                example: report.bad.first().map(ToString::to_string).or(report.dropped_too_long.example),
            });
        }
        report.answer_lengths = lengths.bins();
        report.lengths = lengths.finish();
        Ok(report)
    }

    /// Closes the report whatever it says.
    pub(crate) fn findings(self) -> DataReport {
        DataReport { answer_lengths: self.lengths.bins(), lengths: self.lengths.finish(), ..self.report }
    }
}
