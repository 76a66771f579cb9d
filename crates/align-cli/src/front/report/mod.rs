//! `align report`: run folders as one page that needs nothing else.

mod costs;
mod curves;
mod definition;
mod histograms;
mod lines;
mod numbers;
mod overview;
mod phases;
mod run;
mod samples;
mod settings;

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use crate::{Error, Result, args::ReportArgs, talk};
use run::Run;

const STYLE: &str = include_str!("report.css");

pub(super) fn run(report: &ReportArgs) -> Result<()> {
    let runs = run::read_all(&report.runs)?;
    let output = output(report)?;
    write(&output, &page(&runs))?;
    if report.json {
        return talk::data(&format!("{:#}\n", numbers::json(&runs, &output)));
    }
    talk::data(&format!("{}\n", output.display()))
}

fn page(runs: &[Run]) -> String {
    let parts: [fn(&[Run]) -> String; 7] = [
        overview::html,
        costs::html,
        curves::html,
        phases::html,
        histograms::html,
        samples::html,
        settings::html,
    ];
    let body: String = parts.iter().map(|part| part(runs)).collect();
    align_report::page(&overview::title(runs), STYLE, &body)
}

/// Finds where the page goes: beside what it is about for one run, here for several.
fn output(report: &ReportArgs) -> Result<PathBuf> {
    let name = Path::new("report.html");
    let path = match (&report.output, report.runs.as_slice()) {
        (Some(path), _) => path.clone(),
        (None, [run]) => run.join(name),
        (None, _) => name.to_owned(),
    };
    // A run folder holds what the run is resumed from; of its files only pages are made here.
    let is_page = path.extension().is_some_and(|extension| extension == "html");
    let folder = path.parent().and_then(|folder| fs::canonicalize(folder).ok());
    let inside = |run: &PathBuf| {
        let run = fs::canonicalize(run).ok();
        folder.as_ref().zip(run).is_some_and(|(folder, run)| folder.starts_with(run))
    };
    if !is_page && report.runs.iter().any(inside) {
        let message = format!("--output {}: this would be a file of the run itself", path.display());
        return Err(Error::usage(message, ["in a run folder the page is a .html file".to_owned()]));
    }
    // The page is renamed into place, which would put a file where a device or a link was.
    match fs::symlink_metadata(&path) {
        Ok(about) if !about.is_file() => {
            let what = if about.is_dir() { "a folder" } else { "a link or a device" };
            let message = format!("--output {}: this is {what}, not a file", path.display());
            Err(Error::usage(message, ["name a file; one that is there is replaced".to_owned()]))
        }
        _ => Ok(path),
    }
}

/// Writes a file beside and renames it, so that nobody ever sees half of it.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(name);
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)
    });
    if written.is_err() {
        // Best effort: what could not be written whole is of no use.
        let _ = fs::remove_file(&partial);
    }
    written.map_err(Error::write(path))
}
