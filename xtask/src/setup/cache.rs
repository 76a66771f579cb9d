//! The per-user cache: one folder per version and platform that is either whole or absent.
//!
//! Everything is prepared in a sibling folder and renamed at the end, under a lock, so that a run that is killed
//! at any moment leaves nothing under the final name, and what it leaves beside it is removed by the next run.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::wheels::{Platform, VERSION};
use crate::{Error, Result};

mod stamp;
pub(super) use stamp::Stamp;

/// The place of one libtorch in the cache.
#[derive(Debug)]
pub(super) struct Cache {
    platform: &'static Platform,
    /// Holds all versions.
    parent: PathBuf,
}

/// A libtorch that passed its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub dir: PathBuf,
    pub stamp: Stamp,
}

impl Entry {
    /// What `LIBTORCH` has to name.
    pub fn torch(&self) -> PathBuf {
        self.dir.join("torch")
    }
}

/// A folder that is removed when it goes out of scope.
#[derive(Debug)]
pub(super) struct Staging(PathBuf);

impl Staging {
    pub fn path(&self) -> &Path {
        &self.0
    }

    #[cfg(test)]
    pub fn for_test(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nothing is lost when this fails: the next run removes it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Cache {
    /// The cache of this user, by `ALIGN_CACHE_DIR` or the rules of the operating system.
    pub fn locate(platform: &'static Platform) -> Result<Self> {
        let base = base_dir(|name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from));
        let base = base.ok_or_else(|| {
            Error::environment(
                "no folder for a cache: neither ALIGN_CACHE_DIR nor a home folder is set",
                ["set ALIGN_CACHE_DIR to a folder with 2 GB of free space".to_owned()],
            )
        })?;
        // libtorch's path ends up in programs as their loader path, so a relative one would break them.
        let base = std::path::absolute(&base).map_err(Error::io("resolve", &base))?;
        Ok(Self { platform, parent: base.join("libtorch") })
    }

    pub fn platform(&self) -> &'static Platform {
        self.platform
    }

    /// The folder of the entry, whether it exists or not.
    pub fn dir(&self) -> PathBuf {
        self.parent.join(self.platform.key)
    }

    /// Verified wheels wait here, so that an interrupted run does not fetch them again.
    pub fn downloads(&self) -> PathBuf {
        self.beside(".wheels")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.parent.join(format!("{}{suffix}", self.platform.key))
    }

    /// Checks the entry without running anything; the error says what is wrong with it.
    pub fn entry(&self) -> std::result::Result<Entry, String> {
        let dir = self.dir();
        if !dir.exists() {
            return Err("not there yet".to_owned());
        }
        let stamp = Stamp::read(&dir)?;
        if stamp.wheels != Stamp::wheels_of(self.platform) {
            return Err("made from other files than this version needs".to_owned());
        }
        check_tree(self.platform, &dir)?;
        stamp.check_contents(&dir)?;
        Ok(Entry { dir, stamp })
    }

    /// Waits until no other run works on this entry. The lock ends with the returned file, or with the process.
    pub fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.parent).map_err(Error::io("create", &self.parent))?;
        let path = self.beside(".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                eprintln!("setup: waiting for another run that fills {}", self.dir().display());
                file.lock().map_err(Error::io("lock", &path))?;
            }
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", &path)(source)),
        }
        Ok(file)
    }

    /// A fresh folder beside the entry, on the same file system.
    pub fn staging(&self) -> Result<Staging> {
        let path = self.beside(&format!(".partial-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(Staging(path))
    }

    /// Removes the half-made folders that killed runs left. Call it under the lock.
    pub fn remove_leftovers(&self) {
        for path in self.siblings(&[".partial-", ".old-"]) {
            eprintln!("setup: removing {}, left by an interrupted run", path.display());
            // The orphan of a killed run may still be writing there; the run after this one tries again.
            let _ = fs::remove_dir_all(&path);
        }
    }

    /// Removes the wheels once they are unpacked.
    pub fn remove_downloads(&self) {
        let _ = fs::remove_dir_all(self.downloads());
    }

    /// Beside a good entry: removes what a killed replacement left, unless a run is at work there just now.
    pub fn tidy_up(&self) {
        if self.siblings(&[".partial-", ".old-", ".wheels"]).is_empty() {
            return;
        }
        let lock = File::options().write(true).open(self.beside(".lock"));
        if lock.as_ref().is_ok_and(|file| file.try_lock().is_ok()) {
            self.remove_leftovers();
            self.remove_downloads();
        }
    }

    fn siblings(&self, suffixes: &[&str]) -> Vec<PathBuf> {
        let starts: Vec<_> = suffixes.iter().map(|suffix| format!("{}{suffix}", self.platform.key)).collect();
        let folders = fs::read_dir(&self.parent).into_iter().flatten().flatten().map(|child| child.path());
        let is_ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            starts.iter().any(|start| name.starts_with(start.as_str()))
        };
        folders.filter(is_ours).collect()
    }

    /// Stamps a prepared tree and makes it the entry.
    pub fn commit(&self, tree: &Path) -> Result<Entry> {
        let marker = tree.join("torch/build-version");
        fs::write(&marker, format!("{VERSION}\n")).map_err(Error::io("write", &marker))?;
        check_tree(self.platform, tree).map_err(|why| Error::environment(why, []))?;
        Stamp::of(self.platform, tree)?.write(tree)?;
        sync_dir(tree)?;

        let dir = self.dir();
        let old = self.beside(&format!(".old-{}", std::process::id()));
        if dir.exists() {
            fs::rename(&dir, &old).map_err(Error::io("move away", &dir))?;
        }
        fs::rename(tree, &dir).map_err(Error::io("rename into place", &dir))?;
        sync_dir(&self.parent)?;
        let _ = fs::remove_dir_all(&old);
        self.entry().map_err(|why| Error::environment(format!("{}: {why}", dir.display()), []))
    }
}

/// The files without which nothing builds or runs, and the version that torch-sys reads.
fn check_tree(platform: &Platform, dir: &Path) -> std::result::Result<(), String> {
    if let Some(missing) = platform.needed.iter().find(|file| !dir.join(file).is_file()) {
        return Err(format!("{missing} is missing"));
    }
    let version = fs::read_to_string(dir.join("torch/build-version")).unwrap_or_default();
    if version.trim() != VERSION {
        return Err(format!("torch/build-version says {:?}, expected {VERSION}", version.trim()));
    }
    Ok(())
}

/// The cache folder of this user; `var` reads an environment variable.
fn base_dir(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    if let Some(dir) = var("ALIGN_CACHE_DIR") {
        return Some(dir);
    }
    let cache = if cfg!(target_os = "macos") {
        var("HOME")?.join("Library/Caches")
    } else if cfg!(windows) {
        var("LOCALAPPDATA")?
    } else {
        // The XDG specification: a relative path is to be ignored.
        var("XDG_CACHE_HOME").filter(|dir| dir.is_absolute()).or_else(|| Some(var("HOME")?.join(".cache")))?
    };
    Some(cache.join("align"))
}

/// Makes renames inside a folder survive a power failure.
fn sync_dir(dir: &Path) -> Result<()> {
    // Only Unix can open a folder as a file.
    if cfg!(unix) {
        File::open(dir).and_then(|file| file.sync_all()).map_err(Error::io("sync", dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
