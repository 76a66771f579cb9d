//! `align score`: rewards of answers under a reward model, and how far they can be trusted.

mod members;
mod report;
mod rows;
mod sink;

use std::path::{Path, PathBuf};

use align_cli::{
    Error, Result,
    args::{AnswersName, ScoreArgs},
    talk,
};
use align_rm::RewardNormalization;
use serde_json::{Map, Value, json};

use crate::{
    computer, failure, interrupt,
    logprobs::resumable,
    origin::{Origin, model_files},
    output::Output,
    progress::Progress,
    scale,
    table::Table,
};
use members::Members;
use report::Report;
use rows::Reading;
use sink::Sink;

/// Rows that are in memory at once.
const WINDOW: usize = 512;

pub fn run(flags: &ScoreArgs, settings: &toml::Table) -> Result<()> {
    check_report(flags)?;
    let device = computer::set_up(&flags.machine)?;
    let mut members = Members::load(flags, device)?;
    let reading = members.read(flags)?;
    reading.tell(flags);
    reading.refuse_cut(flags)?;
    let stop = interrupt::flag()?;
    let output = match &flags.output {
        None => None,
        Some(path) => Some(Output::begin(path, &origin(flags, settings)?, &reading.numbers, flags.resume)?),
    };
    let kept = output.as_ref().map_or(0, Output::kept);
    let progress = Progress::new(reading.numbers.len(), kept, flags.machine.no_progress);
    let mut sink = Sink::new(flags, &reading.cut, output, progress);
    sink.take_kept(&members)?;
    for start in (0..reading.numbers.len()).step_by(WINDOW) {
        let window = start..(start + WINDOW).min(reading.numbers.len());
        if window.end > kept {
            let take = |rows: &[_], rewards| sink.take(rows, rewards);
            members.score(window, kept.saturating_sub(start), || resumable(&stop), take)?;
        }
    }
    let (report, rewards) = sink.finish()?;
    let fitted = flags.scale.fit_normalization.map(|answers| fit(flags, &rewards, answers));
    let done = Done { flags, reading, kept, report, fitted: fitted.transpose()?.flatten() };
    done.write_report()?;
    done.tell()
}

/// Measures the scale of the model, and writes it into its folder, or that of its adapter.
fn fit(
    flags: &ScoreArgs,
    rewards: &[f64],
    answers: AnswersName,
) -> Result<Option<(RewardNormalization, PathBuf)>> {
    let Some(model) = flags.model.first() else { return Ok(None) };
    let adapter = flags.machine.adapter.as_deref();
    let scale = scale::bind(scale::of(rewards, answers)?, model, adapter)?;
    let path = scale::write(adapter.unwrap_or(model), &scale)?;
    Ok(Some((scale, path)))
}

/// What a command did.
struct Done<'a> {
    flags: &'a ScoreArgs,
    reading: Reading,
    kept: usize,
    report: Option<Report>,
    fitted: Option<(RewardNormalization, PathBuf)>,
}

impl Done<'_> {
    /// Writes the report to its file.
    fn write_report(&self) -> Result<()> {
        let (Some(path), Some(_)) = (&self.flags.trust.report, &self.report) else { return Ok(()) };
        let text = format!("{:#}\n", Value::Object(self.findings()));
        align_train::write_atomic(path, text.as_bytes()).map_err(failure::of)?;
        talk::say(&format!("the report is in {}", path.display()));
        Ok(())
    }

    /// What was read, made and found.
    fn findings(&self) -> Map<String, Value> {
        let Reading { numbers, bad, cut, dropped, unfinished, padded, .. } = &self.reading;
        let mut map = Map::from_iter([
            ("model".to_owned(), json!(self.flags.model)),
            ("data".into(), json!(self.flags.data)),
            ("rewards".into(), json!(if self.flags.scale.normalize { "normalized" } else { "raw" })),
            ("rows".into(), json!(numbers.len())),
            ("bad_rows".into(), json!(bad)),
            ("cut".into(), json!(cut.len())),
            ("dropped".into(), json!(dropped)),
            ("unfinished".into(), json!(unfinished)),
            ("padded".into(), json!(padded)),
        ]);
        map.extend(self.report.as_ref().map(|report| ("agreement".to_owned(), json!(report))));
        map
    }

    /// Says what was done: on stdout what was found, or with `--json` everything.
    fn tell(&self) -> Result<()> {
        let flags = self.flags;
        if flags.machine.json {
            let mut summary = self.findings();
            summary.insert("kept".into(), json!(self.kept));
            summary.insert("output".into(), json!(flags.output));
            summary.extend(self.fitted.as_ref().map(|(scale, _)| ("normalization".to_owned(), json!(scale))));
            return talk::data(&format!("{}\n", Value::Object(summary)));
        }
        let rows = self.reading.numbers.len();
        let scale = match flags.scale.normalize {
            true => "rewards are normalized",
            false => "rewards are raw logits, of which only differences within a prompt mean something",
        };
        let before =
            if self.kept > 0 { format!(", {} of them from before", self.kept) } else { String::new() };
        match &flags.output {
            Some(output) => talk::say(&format!("{rows} rows in {}{before}; {scale}", output.display())),
            None => talk::say(&format!("{rows} rows; {scale}")),
        }
        if let Some((RewardNormalization { mean, std, rows, .. }, path)) = &self.fitted {
            talk::say(&format!(
                "rewards of {rows} answers have mean {mean:.4} and deviation {std:.4}: written to {}",
                path.display()
            ));
        }
        let Some(report) = &self.report else { return Ok(()) };
        let mut table = Table::default();
        report.show(&mut table);
        talk::data(&table.text)
    }
}

fn origin(flags: &ScoreArgs, settings: &toml::Table) -> Result<Origin> {
    let Some((first, others)) = flags.model.split_first() else {
        return Err(Error::usage("--model DIR is missing", []));
    };
    let mut origin = Origin::new("score", settings, first, flags.machine.adapter.as_deref(), &flags.data)?;
    for (index, folder) in others.iter().enumerate() {
        origin = origin.with_folder(&format!("model_{}", index + 2), folder)?;
    }
    Ok(origin)
}

/// Refuses a report that would replace what is read or written beside it; before anything that takes long.
///
/// # Errors
/// [`Error::Usage`] says what is there.
fn check_report(flags: &ScoreArgs) -> Result<()> {
    let Some(report) = &flags.trust.report else { return Ok(()) };
    let refuse = |why: String| {
        let hint = "name another file for the report, outside the folder of the model".to_owned();
        Err(Error::usage(format!("--report {}: {why}", report.display()), [hint]))
    };
    if report.is_dir() {
        return refuse("this is a folder".to_owned());
    }
    // The report is renamed into place, which would put a file where a device or a link was.
    if report.symlink_metadata().is_ok_and(|about| !about.is_file()) {
        return refuse("this is a link or a device, not a file".to_owned());
    }
    let place = whole_path(report);
    if place == whole_path(&flags.data) || flags.data.canonicalize().is_ok_and(|data| data == place) {
        return refuse("it would replace --data, which this command reads".to_owned());
    }
    if let Some(output) = &flags.output {
        for suffix in ["", ".origin.json", ".partial", ".partial.origin.json"] {
            let mut name = output.as_os_str().to_owned();
            name.push(suffix);
            if place == whole_path(Path::new(&name)) {
                return refuse("it would replace --output, or what is written beside it".to_owned());
            }
        }
    }
    for folder in flags.model.iter().chain(&flags.machine.adapter) {
        let within = folder.canonicalize().is_ok_and(|folder| place.starts_with(folder));
        // A file of a model may be a link to one elsewhere, as in the cache of the Hub.
        let files = model_files(folder).unwrap_or_default();
        let is_read = |file: &PathBuf| file.canonicalize().is_ok_and(|file| file == place);
        if within || files.iter().any(is_read) {
            return refuse(format!("it is in the folder of a model that is read, {}", folder.display()));
        }
    }
    Ok(())
}

/// Returns the one path by which a file is known that need not be there yet; a link stays a link.
fn whole_path(path: &Path) -> PathBuf {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return path.to_owned(),
    };
    match (parent.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// The folder in which tokens wait: that of the output, or the system's for temporary files.
fn waiting_room(flags: &ScoreArgs) -> PathBuf {
    match flags.output.as_deref().and_then(Path::parent) {
        Some(folder) if folder.as_os_str().is_empty() => ".".into(),
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir(),
    }
}
