//! Writing that survives a kill at any moment: beside, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Names that begin so are half-written files and folders; they are removed when a run folder is opened.
const UNFINISHED: &str = ".tmp-";
/// Names that begin so are folders on their way out.
const DOOMED: &str = ".old-";

fn beside(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!("{prefix}{name}"))
}

/// Names the place where a file or folder is made before it gets its final name.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    beside(path, UNFINISHED)
}

/// Replaces a file so that after a kill at any moment either the old or the new content is there, whole.
///
/// The new content is written to `.tmp-NAME` beside it, synced and renamed; a leftover of that name in a run folder is
/// swept away when the folder is opened.
///
/// # Errors
/// [`Error::DiskFull`] or [`Error::Io`] with the file.
pub fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    let draft = unfinished(path);
    let written = (|| {
        let mut file = File::create(&draft)?;
        file.write_all(content)?;
        file.sync_all()
    })();
    if let Err(error) = written {
        // Best effort: on a full disk the draft only takes room.
        let _ = fs::remove_file(&draft);
        return Err(Error::io("write", path)(error));
    }
    fs::rename(&draft, path).map_err(Error::io("write", path))?;
    sync_parent(path)
}

/// Makes the directory entry of a path durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync(parent)
}

fn sync(path: &Path) -> Result<()> {
    // Windows cannot open a folder as a file; its file system orders renames by itself.
    if cfg!(windows) && path.is_dir() {
        return Ok(());
    }
    // Windows syncs only what is open for writing.
    OpenOptions::new()
        .read(true)
        .write(cfg!(windows))
        .open(path)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("sync", path))
}

/// Lists the files below a folder with their sizes, sorted, with `/` between the parts of a path.
pub(crate) fn list_files(folder: &Path) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    walk(folder, "", &mut |path, name, size| {
        if path.is_file() {
            files.push((name.to_owned(), size));
        }
        Ok(())
    })?;
    files.sort();
    Ok(files)
}

/// Makes a folder and everything in it durable.
pub(crate) fn sync_tree(folder: &Path) -> Result<()> {
    walk(folder, "", &mut |path, _, _| sync(path))?;
    sync(folder)
}

fn walk(folder: &Path, prefix: &str, visit: &mut impl FnMut(&Path, &str, u64) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let entry = entry.map_err(Error::io("list", folder))?;
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let about = entry.metadata().map_err(Error::io("inspect", &path))?;
        if about.is_dir() {
            walk(&path, &format!("{name}/"), visit)?;
        }
        visit(&path, &name, about.len())?;
    }
    Ok(())
}

/// Gives a finished, synced folder its final name; a folder of that name goes away first.
pub(crate) fn publish_folder(draft: &Path, path: &Path) -> Result<()> {
    let old = move_away(path)?;
    fs::rename(draft, path).map_err(Error::io("rename", path))?;
    sync_parent(path)?;
    old.map_or(Ok(()), |old| delete(&old))
}

/// Deletes a folder so that a kill on the way never leaves half of it under its name.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match move_away(path)? {
        None => Ok(()),
        Some(old) => {
            sync_parent(path)?;
            delete(&old)
        }
    }
}

fn move_away(path: &Path) -> Result<Option<PathBuf>> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(None);
    }
    let old = beside(path, DOOMED);
    delete(&old)?;
    fs::rename(path, &old).map_err(Error::io("rename", path))?;
    Ok(Some(old))
}

/// Deletes a file or folder; one that is not there is fine.
pub(crate) fn delete(path: &Path) -> Result<()> {
    let Ok(about) = fs::symlink_metadata(path) else { return Ok(()) };
    let gone = if about.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    gone.map_err(Error::io("delete", path))
}

/// Lists the names in a folder, sorted; a folder that is not there has none.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("list", folder))?,
    };
    let mut names = entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(Error::io("list", folder))?;
    names.sort();
    Ok(names)
}

/// Returns the name that a half-written or half-deleted file or folder was to have or had.
pub(crate) fn leftover_of(name: &str) -> Option<&str> {
    [UNFINISHED, DOOMED].iter().find_map(|prefix| name.strip_prefix(prefix))
}

/// Deletes what a kill left half-written or half-deleted of the names that are `ours` in a folder.
pub(crate) fn sweep(folder: &Path, ours: impl Fn(&str) -> bool) -> Result<()> {
    names_in(folder)?
        .iter()
        .filter(|name| leftover_of(name).is_some_and(&ours))
        .try_for_each(|name| delete(&folder.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names_in(folder.path()).unwrap(), ["a.json"]);
    }

    #[test]
    fn a_folder_is_published_over_an_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        for content in ["one", "two"] {
            let draft = unfinished(&path);
            fs::create_dir_all(draft.join("deep")).unwrap();
            fs::write(draft.join("deep/file"), content).unwrap();
            sync_tree(&draft).unwrap();
            publish_folder(&draft, &path).unwrap();
        }
        assert_eq!(fs::read_to_string(path.join("deep/file")).unwrap(), "two");
        assert_eq!(list_files(&path).unwrap(), [("deep/file".to_owned(), 3)]);
        assert_eq!(names_in(folder.path()).unwrap(), ["model"]);
        remove_folder(&path).unwrap();
        assert!(names_in(folder.path()).unwrap().is_empty());
    }

    #[test]
    fn sweeping_takes_only_what_is_unfinished_and_ours() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join(".tmp-step-3")).unwrap();
        for name in [".old-x", ".hidden", ".tmp-thesis", "x"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        sweep(folder.path(), |name| name == "x" || name.starts_with("step-")).unwrap();
        assert_eq!(names_in(folder.path()).unwrap(), [".hidden", ".tmp-thesis", "x"]);
    }
}
