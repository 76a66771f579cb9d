//! `.cargo/libtorch.toml`, which tells cargo where libtorch is, and the variables with which a user overrides it.

use std::fs;
use std::path::{Path, PathBuf};

use super::wheels::VERSION;
use crate::{Error, Result, Workspace};

fn file(workspace: &Workspace) -> PathBuf {
    workspace.root().join(".cargo/libtorch.toml")
}

/// Writes the file unless it says so already; a new time stamp would make cargo look at everything again.
pub(super) fn write(workspace: &Workspace, torch: &Path) -> Result<()> {
    let path = file(workspace);
    let text = text(torch);
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let beside = path.with_extension(format!("toml.{}", std::process::id()));
    fs::write(&beside, text).map_err(Error::io("write", &beside))?;
    fs::rename(&beside, &path).map_err(Error::io("rename into place", &path))
}

fn text(torch: &Path) -> String {
    // A JSON string is a valid TOML basic string.
    let value = serde_json::Value::from(torch.to_string_lossy());
    format!(
        "# Written by `cargo xtask setup`. A LIBTORCH variable of yours wins over it.\n[env]\nLIBTORCH = {value}\n"
    )
}

/// The variable with which the user chose a libtorch, as NAME=VALUE.
pub(super) fn users_choice(workspace: &Workspace) -> Option<String> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(value) = var("LIBTORCH_USE_PYTORCH") {
        return Some(format!("LIBTORCH_USE_PYTORCH={value}"));
    }
    if workspace.libtorch_comes_from_cargo() {
        return None;
    }
    var("LIBTORCH").map(|value| format!("LIBTORCH={value}"))
}

/// Refuses a choice that would only fail later, with C++ errors.
pub(super) fn check_users_choice(variable: &str) -> Result<()> {
    let Some(dir) = variable.strip_prefix("LIBTORCH=").map(Path::new) else { return Ok(()) };
    let hint = || ["unset LIBTORCH to let setup install one".to_owned()];
    let library = dir.join("lib").join(format!(
        "{}torch_cpu{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    ));
    let library_elsewhere = std::env::var_os("LIBTORCH_LIB").is_some();
    if !library.is_file() && !library_elsewhere {
        return Err(Error::environment(format!("{variable}: {} is missing", library.display()), hint()));
    }
    // Builds are marked like 2.13.0+cpu.
    let found = fs::read_to_string(dir.join("build-version")).unwrap_or_default();
    let found = found.trim().split('+').next().unwrap_or_default();
    let unchecked = std::env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_some();
    if !found.is_empty() && found != VERSION && !unchecked {
        return Err(Error::environment(
            format!("{variable} holds libtorch {found}, {VERSION} is needed"),
            hint(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_for_toml() {
        assert!(text(Path::new("/a b/\"c\"")).ends_with("[env]\nLIBTORCH = \"/a b/\\\"c\\\"\"\n"));
    }

    #[test]
    fn a_wrong_libtorch_of_the_user_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let variable = format!("LIBTORCH={}", dir.path().display());
        let error = check_users_choice(&variable).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains("torch_cpu"), "{error}");

        fs::create_dir(dir.path().join("lib")).unwrap();
        for name in ["libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"] {
            fs::write(dir.path().join("lib").join(name), "").unwrap();
        }
        assert!(check_users_choice(&variable).is_ok(), "a wheel has no build-version");
        fs::write(dir.path().join("build-version"), "2.13.0+cpu\n").unwrap();
        assert!(check_users_choice(&variable).is_ok());
        fs::write(dir.path().join("build-version"), "2.9.1\n").unwrap();
        assert!(check_users_choice(&variable).unwrap_err().to_string().contains("2.9.1"));
    }
}
