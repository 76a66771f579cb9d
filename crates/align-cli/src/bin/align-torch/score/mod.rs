//! `align score`: rewards of answers under a reward model, and how far they can be trusted.

mod members;
mod rows;
mod sink;

use std::path::Path;

use align_cli::{Error, Result, args::ScoreArgs, talk};
use serde_json::json;

use crate::{computer, interrupt, logprobs::resumable, origin::Origin, output::Output, progress::Progress};
use members::Members;
use rows::Reading;
use sink::Sink;

/// Rows that are in memory at once.
const WINDOW: usize = 512;

pub fn run(flags: &ScoreArgs, settings: &toml::Table) -> Result<()> {
    let device = computer::set_up(&flags.machine)?;
    let mut members = Members::load(flags, device)?;
    let reading = members.read(flags)?;
    reading.tell(flags);
    let stop = interrupt::flag()?;
    let output = match &flags.output {
        None => None,
        Some(path) => Some(Output::begin(path, &origin(flags, settings)?, &reading.numbers, flags.resume)?),
    };
    let kept = output.as_ref().map_or(0, Output::kept);
    let progress = Progress::new(reading.numbers.len(), kept, flags.machine.no_progress);
    let mut sink = Sink::new(flags, output, progress);
    sink.take_kept(&members)?;
    for start in (0..reading.numbers.len()).step_by(WINDOW) {
        let window = start..(start + WINDOW).min(reading.numbers.len());
        if window.end <= kept {
            continue;
        }
        members.score(
            window,
            kept.saturating_sub(start),
            || resumable(&stop),
            |rows, rewards| sink.take(rows, rewards),
        )?;
    }
    finish(flags, &reading, sink)
}

fn finish(flags: &ScoreArgs, reading: &Reading, sink: Sink<'_>) -> Result<()> {
    let kept = sink.kept();
    let found = sink.finish()?;
    let rewards = if flags.scale.normalize { "normalized" } else { "raw" };
    if flags.machine.json {
        let mut summary = json!({
            "rows": reading.numbers.len(),
            "kept": kept,
            "bad_rows": reading.bad,
            "cut": reading.cut,
            "dropped": reading.dropped,
            "unfinished": reading.unfinished,
            "rewards": rewards,
            "output": flags.output,
        });
        if let (Some(summary), Some(margins)) = (summary.as_object_mut(), &found.margins) {
            summary.insert("margins".into(), json!(margins));
        }
        return talk::data(&format!("{summary}\n"));
    }
    if let Some(output) = &flags.output {
        let before = if kept > 0 { format!(", {kept} of them from before") } else { String::new() };
        let scale = match flags.scale.normalize {
            true => "normalized",
            false => "raw logits: only their differences within a prompt mean something",
        };
        talk::say(&format!(
            "{} rows in {}{before}; rewards are {scale}",
            reading.numbers.len(),
            output.display()
        ));
    }
    if found.table.text.is_empty() { Ok(()) } else { talk::data(&found.table.text) }
}

fn origin(flags: &ScoreArgs, settings: &toml::Table) -> Result<Origin> {
    let Some((first, others)) = flags.model.split_first() else {
        return Err(Error::usage("--model DIR is missing", []));
    };
    let mut origin = Origin::new("score", settings, first, None, &flags.data)?;
    for (index, folder) in others.iter().enumerate() {
        origin = origin.with_folder(&format!("model_{}", index + 2), folder)?;
    }
    Ok(origin)
}

/// The folder in which tokens wait: that of the output, or the system's for temporary files.
fn waiting_room(flags: &ScoreArgs) -> std::path::PathBuf {
    let beside = flags.output.as_deref().and_then(Path::parent);
    match beside {
        Some(folder) if folder.as_os_str().is_empty() => ".".into(),
        Some(folder) => folder.to_owned(),
        None => std::env::temp_dir(),
    }
}
