//! The workspace as cargo sees it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Error, Result};

/// The flags that choose every crate that may use libtorch.
///
/// Tests, examples, benches, lints and documentation all choose exactly these, so that features of shared
/// dependencies are the same everywhere and nothing is compiled twice. This program is left out: it is built
/// before, for itself.
pub const ALL_CRATES: [&str; 3] = ["--workspace", "--exclude", "xtask"];

/// The flags to build all that a test run uses, programs and examples, with the features that tests have.
pub const ALL_PROGRAMS: [&str; 5] = ["--workspace", "--exclude", "xtask", "--bins", "--examples"];

/// The folder of the workspace and how to call cargo in it.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    libtorch_comes_from_cargo: bool,
}

impl Workspace {
    /// Finds the workspace from the manifest that cargo names when it runs this program.
    ///
    /// # Errors
    /// [`Error::Environment`] when no workspace is there, for instance because the program was copied elsewhere.
    pub fn locate() -> Result<Self> {
        let manifest_dir =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        match Path::new(&manifest_dir).parent() {
            Some(root) if root.join("Cargo.toml").is_file() => Ok(Self {
                root: root.to_path_buf(),
                libtorch_comes_from_cargo: libtorch_comes_from_cargo(root),
            }),
            _ => Err(Error::environment(
                "the workspace was not found",
                ["start this program as `cargo xtask` inside the repository".into()],
            )),
        }
    }

    /// The top folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// True when the `LIBTORCH` of this process was set by cargo from `.cargo/libtorch.toml`, not by the user.
    pub fn libtorch_comes_from_cargo(&self) -> bool {
        self.libtorch_comes_from_cargo
    }

    /// A cargo command that runs in the top folder, with the thread environment every child gets.
    pub fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.arg(subcommand).current_dir(&self.root);
        // Cargo sets it anew; what it set for this process may be out of date since setup ran.
        if self.libtorch_comes_from_cargo {
            command.env_remove("LIBTORCH");
        }
        // libtorch's OpenMP threads otherwise spin between two operations and take the cores from each other.
        if std::env::var_os("OMP_WAIT_POLICY").is_none() {
            command.env("OMP_WAIT_POLICY", "PASSIVE");
        }
        command
    }

    /// Asks cargo for the packages of the workspace.
    ///
    /// # Errors
    /// [`Error::Start`] or [`Error::Child`] when cargo fails, [`Error::Environment`] when its answer is not understood.
    pub fn metadata(&self) -> Result<Metadata> {
        let mut command = self.cargo("metadata");
        command.args(["--no-deps", "--format-version", "1"]).stderr(Stdio::inherit());
        let program = crate::process::shown(&command);
        let output = command.output().map_err(|source| Error::Start { program: program.clone(), source })?;
        crate::process::check(program, output.status)?;
        let value: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::environment(format!("cargo metadata wrote no JSON: {error}"), []))?;
        Metadata::from_json(&value)
            .ok_or_else(|| Error::environment("cargo metadata has another layout than expected", []))
    }
}

fn libtorch_comes_from_cargo(root: &Path) -> bool {
    let (Ok(value), Ok(text)) =
        (std::env::var("LIBTORCH"), std::fs::read_to_string(root.join(".cargo/libtorch.toml")))
    else {
        return false;
    };
    text.lines().any(|line| {
        line.split_once('=').is_some_and(|(key, written)| {
            let written = serde_json::from_str::<String>(written.trim());
            key.trim() == "LIBTORCH" && written.is_ok_and(|written| written == value)
        })
    })
}

/// The answer of `cargo metadata --no-deps`, as far as it is used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Where cargo puts what it builds.
    pub target_directory: PathBuf,
    /// The members of the workspace.
    pub packages: Vec<Package>,
}

/// One crate of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// The folder of its manifest.
    pub dir: PathBuf,
    /// False for `publish = false`.
    pub published: bool,
    /// What it depends on directly.
    pub dependencies: Vec<Dependency>,
    /// What can be built from it.
    pub targets: Vec<Target>,
}

/// One direct dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The name of the package.
    pub name: String,
    /// The table of the manifest it is listed in.
    pub kind: DependencyKind,
}

/// The tables of a manifest that list dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependencyKind {
    /// `[dependencies]`
    Normal,
    /// `[dev-dependencies]`
    Dev,
    /// `[build-dependencies]`
    Build,
}

/// One thing that cargo can build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Cargo's word for it: `lib`, `bin`, `example`, `bench`, `test`, ...
    pub kind: String,
}

impl Metadata {
    /// Reads cargo's JSON; `None` if a field is missing.
    pub fn from_json(value: &Value) -> Option<Self> {
        let packages = value.get("packages")?.as_array()?.iter().map(package).collect::<Option<Vec<_>>>()?;
        Some(Self { target_directory: value.get("target_directory")?.as_str()?.into(), packages })
    }

    /// The names of all targets of a kind, with the package they belong to, in cargo's order.
    pub fn targets<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a Package, &'a str)> {
        self.packages.iter().flat_map(move |package| {
            package.targets.iter().filter(move |t| t.kind == kind).map(move |t| (package, t.name.as_str()))
        })
    }

    /// The file that cargo makes of a program in the release profile.
    pub fn release_program(&self, folder: &str, name: &str) -> PathBuf {
        let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
        self.target_directory.join("release").join(folder).join(file)
    }
}

fn package(value: &Value) -> Option<Package> {
    let manifest = Path::new(value.get("manifest_path")?.as_str()?);
    Some(Package {
        name: value.get("name")?.as_str()?.to_owned(),
        dir: manifest.parent()?.to_path_buf(),
        // `publish = false` is an empty list of registries, no restriction is null.
        published: value.get("publish").and_then(Value::as_array).is_none_or(|list| !list.is_empty()),
        dependencies: value.get("dependencies")?.as_array()?.iter().map(dependency).collect::<Option<_>>()?,
        targets: value.get("targets")?.as_array()?.iter().map(target).collect::<Option<_>>()?,
    })
}

fn dependency(value: &Value) -> Option<Dependency> {
    let kind = match value.get("kind")?.as_str() {
        None => DependencyKind::Normal,
        Some("dev") => DependencyKind::Dev,
        Some("build") => DependencyKind::Build,
        Some(_) => return None,
    };
    Some(Dependency { name: value.get("name")?.as_str()?.to_owned(), kind })
}

fn target(value: &Value) -> Option<Target> {
    let kind = value.get("kind")?.as_array()?.first()?.as_str()?;
    Some(Target { name: value.get("name")?.as_str()?.to_owned(), kind: kind.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_from_cargos_json() {
        let json = serde_json::json!({
            "target_directory": "/w/target",
            "packages": [{
                "name": "align-x", "manifest_path": "/w/crates/align-x/Cargo.toml", "publish": [],
                "dependencies": [{ "name": "tch", "kind": null }, { "name": "proptest", "kind": "dev" }],
                "targets": [{ "name": "align_x", "kind": ["lib"] }, { "name": "tiny", "kind": ["example"] }],
            }],
        });
        let metadata = Metadata::from_json(&json).unwrap();
        let package = &metadata.packages[0];
        assert_eq!(package.dir, Path::new("/w/crates/align-x"));
        assert!(!package.published);
        assert_eq!(package.dependencies[0].kind, DependencyKind::Normal);
        assert_eq!(package.dependencies[1].kind, DependencyKind::Dev);
        assert_eq!(metadata.targets("example").map(|(_, name)| name).collect::<Vec<_>>(), ["tiny"]);
        assert!(metadata.release_program("examples", "tiny").starts_with("/w/target/release/examples"));
    }

    #[test]
    fn a_missing_field_is_not_a_panic() {
        assert_eq!(Metadata::from_json(&serde_json::json!({ "packages": [{}] })), None);
        assert_eq!(Metadata::from_json(&serde_json::json!([])), None);
    }
}
