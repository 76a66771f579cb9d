use std::path::{Path, PathBuf};

/// Returns the root of the workspace.
pub fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/align-testkit").to_owned()
}

/// Returns the path of a committed fixture, which must be there.
pub fn fixture(name: &str) -> PathBuf {
    let path = workspace_root().join("fixtures").join(name);
    assert!(path.exists(), "fixture {} is missing", path.display());
    path
}

/// Returns the path of a real data file, or `None` with a printed note where the data are absent.
///
/// The data cannot be shipped (licences). They are looked for in `ALIGN_TEST_DATA`, then in `../shared/data`
/// beside the workspace.
pub fn real_data(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("ALIGN_TEST_DATA")
        .map_or_else(|| workspace_root().join("../shared/data"), PathBuf::from);
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("note: skipped, {} is not there (set ALIGN_TEST_DATA)", path.display());
    None
}
