//! `--output FILE`: rows are written beside, the name is given at the end; `--resume` keeps whole rows.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use align_cli::{Error, Result};
use serde_json::Value;

use crate::origin::Origin;

/// An output file on its way: `FILE.partial` with `FILE.partial.origin.json` beside it, which become `FILE` and
/// `FILE.origin.json`.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    /// Whole rows that were there.
    kept: usize,
}

impl Output {
    /// Begins the file, or continues it with `resume`; `rows` are the numbers of the rows that it will have.
    ///
    /// # Errors
    /// [`Error::Usage`] for a folder, a link or a device, for a name under which an input would be replaced, for rows that were made with
    /// other settings or are not the first of these, [`Error::Write`] for a place that cannot be written.
    pub fn begin(path: &Path, origin: &Origin, rows: &[usize], resume: bool) -> Result<Self> {
        let partial = with(path, ".partial");
        if path.is_dir() {
            return Err(Error::usage(
                format!("--output {}: this is a folder", path.display()),
                ["name a file; one that is there is replaced".to_owned()],
            ));
        }
        // The rows are renamed into place, which would put a file where a device or a link was.
        if fs::symlink_metadata(path).is_ok_and(|about| !about.is_file()) {
            return Err(Error::usage(
                format!("--output {}: this is a link or a device, not a file", path.display()),
                ["name a file; one that is there is replaced".to_owned()],
            ));
        }
        origin.outlives(&[path, &origin_of(path), &partial, &origin_of(&partial)])?;
        if resume {
            settle(path, &partial)?;
            if !partial.exists() && path.exists() {
                let before = Origin::read(&origin_of(path))?.ok_or_else(|| foreign(path))?;
                origin.check(&before, path)?;
                fs::copy(path, &partial).map_err(Error::write(&partial))?;
            } else if partial.exists() {
                let before = Origin::read(&origin_of(&partial))?.ok_or_else(|| foreign(&partial))?;
                origin.check(&before, path)?;
            }
        } else {
            remove(&partial)?;
        }
        let (kept, bytes) = whole_rows(&partial, rows)?;
        write_synced(&origin_of(&partial), &origin.text())?;
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&partial)
            .and_then(|file| file.set_len(bytes).map(|()| file))
            .map_err(Error::write(&partial))?;
        Ok(Self { path: path.to_owned(), partial, file, kept })
    }

    /// Counts the rows that were there and are kept.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Reads the rows that were there and are kept.
    ///
    /// # Errors
    /// A file that cannot be read; each row likewise.
    pub fn kept_rows(&self) -> Result<impl Iterator<Item = Result<Value>> + use<>> {
        let path = self.partial.clone();
        let unreadable = move |why: String| Error::data(format!("cannot read {}: {why}", path.display()), []);
        let file = File::open(&self.partial).map_err(|error| unreadable(error.to_string()))?;
        let lines = BufReader::new(file).lines().take(self.kept);
        Ok(lines.map(move |line| {
            let line = line.map_err(|error| unreadable(error.to_string()))?;
            serde_json::from_str(&line).map_err(|error| unreadable(error.to_string()))
        }))
    }

    /// Appends rows.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn append(&mut self, rows: &[Value]) -> Result<()> {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        self.file.write_all(text.as_bytes()).map_err(Error::write(&self.partial))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn finish(self) -> Result<()> {
        self.file.sync_all().map_err(Error::write(&self.partial))?;
        fs::rename(&self.partial, &self.path).map_err(Error::write(&self.path))?;
        settle(&self.path, &self.partial)
    }
}

/// Finishes what a kill between the two renamings left: the rows have their name, their origin does not.
fn settle(path: &Path, partial: &Path) -> Result<()> {
    if partial.exists() || !origin_of(partial).exists() {
        return Ok(());
    }
    fs::rename(origin_of(partial), origin_of(path)).map_err(Error::write(origin_of(path)))
}

/// Counts the whole rows at the beginning of a file, and their bytes; a torn last line is not one.
fn whole_rows(path: &Path, rows: &[usize]) -> Result<(usize, u64)> {
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((0, 0)),
        other => other.map_err(Error::write(path))?,
    };
    let (mut kept, mut bytes) = (0, 0);
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(Error::write(path))?;
        let row: Option<Value> = serde_json::from_slice(&line).ok();
        let Some(number) = row.as_ref().and_then(|row| row.get("row")).and_then(Value::as_u64) else { break };
        if rows.get(kept).map(|row| *row as u64) != Some(number) {
            return Err(foreign(path));
        }
        kept += 1;
        bytes += line.len() as u64 + 1;
    }
    let size = fs::metadata(path).map_err(Error::write(path))?.len();
    // A last line without its end may look whole.
    if bytes > size { Ok((kept - 1, last_end(path, kept - 1)?)) } else { Ok((kept, bytes)) }
}

fn last_end(path: &Path, lines: usize) -> Result<u64> {
    let file = BufReader::new(File::open(path).map_err(Error::write(path))?);
    let lengths = file.split(b'\n').take(lines).map(|line| line.map(|line| line.len() as u64 + 1));
    lengths.sum::<std::io::Result<u64>>().map_err(Error::write(path))
}

fn foreign(path: &Path) -> Error {
    Error::usage(
        format!("{} cannot be continued: its rows are not those of this command", path.display()),
        ["leave --resume out to replace the file, or name another --output".to_owned()],
    )
}

fn origin_of(path: &Path) -> PathBuf {
    with(path, ".origin.json")
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::write(path)(error)),
        _ => Ok(()),
    }
}

fn write_synced(path: &Path, text: &str) -> Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(Error::write(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Result<(usize, u64)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, text).unwrap();
        whole_rows(&path, &[1, 2, 5])
    }

    #[test]
    fn torn_rows_are_cut_and_foreign_rows_are_refused() {
        let whole = "{\"row\":1}\n{\"row\":2}\n";
        assert_eq!(lines("").unwrap(), (0, 0));
        assert_eq!(lines(whole).unwrap(), (2, 20));
        assert_eq!(lines(&format!("{whole}{{\"row\":")).unwrap(), (2, 20));
        assert_eq!(lines(&format!("{whole}{{\"row\":5}}")).unwrap(), (2, 20));
        assert!(lines(&format!("{whole}{{\"row\":3}}\n")).is_err());
        assert!(lines(&format!("{whole}{{\"row\":5}}\n{{\"row\":6}}\n")).is_err());
    }
}
