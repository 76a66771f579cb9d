//! Where the program keeps what can be computed again.

use std::{ffi::OsString, path::PathBuf};

/// Returns the folder for what can be computed again: `$XDG_CACHE_HOME/align`, otherwise `~/.cache/align`; `None` where
/// there is neither.
///
/// Everything in it can be deleted at any time.
pub fn folder() -> Option<PathBuf> {
    folder_for(|name| std::env::var_os(name))
}

fn folder_for(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // The XDG base directory specification: a path that is not absolute is to be ignored.
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
    Some(caches.join("align"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_follows_the_environment() {
        let folder = |xdg: Option<&str>, home: Option<&str>| {
            folder_for(|name| match name {
                "XDG_CACHE_HOME" => xdg.map(OsString::from),
                "HOME" => home.map(OsString::from),
                other => panic!("{other}"),
            })
        };
        assert_eq!(folder(Some("/c"), Some("/h")), Some("/c/align".into()));
        assert_eq!(folder(None, Some("/h")), Some("/h/.cache/align".into()));
        assert_eq!(folder(Some("relative"), Some("/h")), Some("/h/.cache/align".into()));
        assert_eq!(folder(Some(""), Some("")), None);
        assert_eq!(folder(None, None), None);
    }
}
