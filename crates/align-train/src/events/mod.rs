//! TensorBoard's event files: scalars only.

mod message;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use align_core::align_types::{self, MetricSink};

use crate::{Error, Result, files};

/// How names of event files begin; TensorBoard knows them by it.
pub(crate) const PREFIX: &str = "events.out.tfevents";
/// How names of our own end: files that something else writes into a run folder are not cut.
const SUFFIX: &str = ".align";

/// The TensorBoard event files of a run: one event per logged step, with the numbers of its line in `metrics.jsonl`.
///
/// Each process of a run writes a file of its own, because a TensorBoard that is looking on takes a file to grow only.
/// All of them together hold each step once. Numbers are rounded to 32-bit floats; those that are not finite, `null`
/// in `metrics.jsonl`, are written as they are.
///
/// ```
/// use align_train::EventsFile;
///
/// let folder = tempfile::tempdir()?;
/// let mut events = EventsFile::open(folder.path(), 0)?;
/// events.append(1, &[("loss".into(), 0.69), ("rewards/margins".into(), 0.0)])?;
/// // Continued after step 1 and, once more, from the beginning.
/// EventsFile::open(folder.path(), 1)?.append(2, &[("loss".into(), 0.68)])?;
/// assert_eq!(std::fs::read_dir(folder.path())?.count(), 2);
/// EventsFile::open(folder.path(), 0)?;
/// assert_eq!(std::fs::read_dir(folder.path())?.count(), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct EventsFile {
    path: PathBuf,
    /// Made with the first event, so that a process that logs nothing leaves no file.
    file: Option<File>,
}

impl EventsFile {
    /// Cuts the event files of a folder back to events whose step is at most `step`, and names the one to write.
    ///
    /// A torn last event goes too, so that a run that was killed and resumed has every step once. Files of which
    /// nothing is left are deleted.
    ///
    /// # Errors
    /// A file cannot be read, cut or deleted.
    pub fn open(folder: &Path, step: u64) -> Result<Self> {
        let mut newest = 0u64;
        for name in files::names_in(folder)?.iter().filter(|name| is_ours(name)) {
            let kept = cut(&folder.join(name), step)?;
            if kept {
                newest = newest.max(time_of(name).unwrap_or(0));
            }
        }
        // TensorBoard reads files in the order of their names, whatever the clock did meanwhile.
        let time = (seconds_since_1970() as u64).max(newest.saturating_add(1));
        let name = format!("{PREFIX}.{time:010}.{}.{}{SUFFIX}", host(), std::process::id());
        Ok(Self { path: folder.join(name), file: None })
    }

    /// Appends the metrics of a step as one event, at the time of now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, step: u64, metrics: &[(String, f64)]) -> Result<()> {
        self.append_at(seconds_since_1970(), step, metrics)
    }

    /// Appends the metrics of a step as one event; `wall_time` in seconds since 1970.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append_at(&mut self, wall_time: f64, step: u64, metrics: &[(String, f64)]) -> Result<()> {
        let mut bytes = Vec::new();
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                bytes = record::frame(&message::version(wall_time));
                let file = OpenOptions::new().create(true).append(true).open(&self.path);
                let file = file.map_err(Error::io("create", &self.path))?;
                files::sync_parent(&self.path)?;
                none.insert(file)
            }
        };
        bytes.extend(record::frame(&message::scalars(wall_time, step, metrics)));
        // One write for the event: a kill leaves it whole or torn at the very end of the file.
        file.write_all(&bytes).map_err(Error::io("write", &self.path))
    }

    /// Makes what was appended durable.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sync(&self) -> Result<()> {
        match &self.file {
            Some(file) => file.sync_all().map_err(Error::io("sync", &self.path)),
            None => Ok(()),
        }
    }

    /// Returns the file that this process writes; it is made with the first event.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl MetricSink for EventsFile {
    fn record(&mut self, step: u64, metrics: &[(String, f64)]) -> align_types::Result<()> {
        self.append(step, metrics).map_err(|error| align_types::Error::Seam {
            what: "TensorBoard's event file".into(),
            why: error.to_string(),
            source: Some(Box::new(error)),
        })
    }
}

/// Cuts a file behind its last whole event of a step up to `step`; says whether there is one, and else deletes it.
fn cut(path: &Path, step: u64) -> Result<bool> {
    let bytes = fs::read(path).map_err(Error::io("read", path))?;
    let (mut rest, mut any) = (bytes.as_slice(), false);
    while let Some((event, after)) = record::split(rest) {
        match message::step_of(event) {
            Some(found) if found <= step => any |= found > 0,
            _ => break,
        }
        rest = after;
    }
    if !any {
        files::delete(path)?;
    } else if !rest.is_empty() {
        let file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
        let kept = (bytes.len() - rest.len()) as u64;
        file.set_len(kept).and_then(|()| file.sync_all()).map_err(Error::io("cut", path))?;
    }
    Ok(any)
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

fn time_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.strip_prefix('.')?.split('.').next()?.parse().ok()
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The name of this machine, as far as a file name can have it.
fn host() -> String {
    let named =
        fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let host: String = named.unwrap_or_default().trim().chars().map(clean).take(64).collect();
    if host.is_empty() { "localhost".into() } else { host }
}
