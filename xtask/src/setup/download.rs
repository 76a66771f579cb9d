//! Getting the wheels: from an interrupted run, from a folder of the user, or through pip.
//!
//! pip rather than an own client, because it knows the user's mirrors, proxies and certificates.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::cache::{Cache, Staging};
use super::wheels::{Platform, Wheel};
use crate::process;
use crate::{Error, Result};

/// Returns the verified file of every wheel, in the order of the table.
pub(super) fn obtain(
    cache: &Cache,
    staging: &Staging,
    from: Option<&Path>,
    offline: bool,
) -> Result<Vec<PathBuf>> {
    let given = from.map(given_dir).transpose()?;
    let places: Vec<&Path> = given.iter().map(PathBuf::as_path).collect();
    let downloads = cache.downloads();
    let found = find(cache.platform(), &places, &downloads)?;
    if found.iter().all(Option::is_some) {
        return Ok(found.into_iter().flatten().collect());
    }
    if offline {
        return Err(refuse_offline(cache.platform(), &found));
    }
    let mut pip = None;
    let mut files = Vec::new();
    for (wheel, found) in cache.platform().wheels.iter().zip(found) {
        files.push(match found {
            Some(file) => file,
            None => {
                let pip = match &mut pip {
                    Some(pip) => pip,
                    None => pip.insert(Pip::find(cache.platform(), staging)?),
                };
                fetch(pip, wheel, cache, staging)?
            }
        });
    }
    Ok(files)
}

/// The folder that `--from` means.
fn given_dir(from: &Path) -> Result<PathBuf> {
    let metadata = fs::metadata(from).map_err(Error::io("read", from))?;
    if metadata.is_dir() {
        return Ok(from.to_path_buf());
    }
    // A bare file name has the empty path as its parent.
    Ok(from.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf())
}

/// Looks for each wheel in the user's folder, then among earlier downloads.
///
/// A damaged file of the user is an error; a damaged earlier download is fetched again.
fn find(platform: &Platform, given: &[&Path], downloads: &Path) -> Result<Vec<Option<PathBuf>>> {
    let mut found = Vec::new();
    for wheel in platform.wheels {
        let mut file = None;
        for path in given.iter().map(|dir| dir.join(wheel.file)).filter(|path| path.is_file()) {
            verify(&path, wheel)?;
            file = Some(path);
        }
        let kept = downloads.join(wheel.file);
        if file.is_none() && kept.is_file() && verify(&kept, wheel).is_ok() {
            file = Some(kept);
        }
        if let Some(path) = &file {
            eprintln!("setup: {} is the right file", path.display());
        }
        found.push(file);
    }
    Ok(found)
}

fn refuse_offline(platform: &Platform, found: &[Option<PathBuf>]) -> Error {
    let missing: Vec<_> =
        platform.wheels.iter().zip(found).filter(|(_, found)| found.is_none()).map(|(w, _)| w.file).collect();
    Error::environment(
        format!("libtorch is not in the cache and the network is off; missing: {}", missing.join(", ")),
        platform.shopping_list(),
    )
}

fn fetch(pip: &Pip, wheel: &Wheel, cache: &Cache, staging: &Staging) -> Result<PathBuf> {
    eprintln!("setup: fetching {} ({} MB) with {}", wheel.file, wheel.megabytes, pip.program.join(" "));
    let incoming = staging.path().join("incoming");
    let requirements = staging.path().join("requirements.txt");
    fs::create_dir_all(&incoming).map_err(Error::io("create", &incoming))?;
    fs::write(&requirements, wheel.requirement_line()).map_err(Error::io("write", &requirements))?;

    let mut command = pip.command();
    command.args(["download", "--no-deps", "--no-input", "--disable-pip-version-check", "--require-hashes"]);
    command.args(wheel.pip_tags()).arg("--dest").arg(&incoming).arg("--requirement").arg(&requirements);
    // pip first writes to its temporary folder; a small /tmp would be full with half a gigabyte.
    command.env("TMPDIR", staging.path());
    process::run_talking(&mut command).map_err(|error| {
        Error::environment(
            format!("{} could not be fetched: {error}", wheel.file),
            cache.platform().shopping_list(),
        )
    })?;

    let file = incoming.join(wheel.file);
    if !file.is_file() {
        return Err(Error::environment(
            format!("pip fetched another file than {}", wheel.file),
            cache.platform().shopping_list(),
        ));
    }
    verify(&file, wheel)?;
    let downloads = cache.downloads();
    let kept = downloads.join(wheel.file);
    fs::create_dir_all(&downloads).map_err(Error::io("create", &downloads))?;
    fs::rename(&file, &kept).map_err(Error::io("rename into place", &kept))?;
    Ok(kept)
}

/// Compares the SHA-256 of a file with the table.
fn verify(path: &Path, wheel: &Wheel) -> Result<()> {
    let found = sha256(path).map_err(Error::io("read", path))?;
    if found == wheel.sha256 {
        return Ok(());
    }
    Err(Error::environment(
        format!("{} has SHA-256 {found}, expected {}", path.display(), wheel.sha256),
        ["the file is damaged or is another build: fetch it again".to_owned()],
    ))
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        match buffer.get(..count) {
            None | Some([]) => break,
            Some(bytes) => hasher.update(bytes),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A way to call pip.
#[derive(Debug)]
struct Pip {
    program: Vec<String>,
}

impl Pip {
    /// Finds a pip of any interpreter; failing that, makes one in a throw-away virtual environment.
    fn find(platform: &Platform, staging: &Staging) -> Result<Self> {
        let candidates: [&[&str]; 6] = [
            &["python3", "-m", "pip"],
            &["python", "-m", "pip"],
            &["py", "-m", "pip"],
            &["pip3"],
            &["pip"],
            &["uv", "tool", "run", "pip"],
        ];
        for candidate in candidates {
            let pip = Self { program: candidate.iter().map(|&word| word.to_owned()).collect() };
            if process::succeeds(pip.command().arg("--version")) {
                return Ok(pip);
            }
        }
        let pythons = ["python3", "python", "py"];
        let pythons: Vec<_> = pythons
            .into_iter()
            .filter(|name| process::succeeds(Command::new(name).arg("--version")))
            .collect();
        pythons.iter().find_map(|python| Self::in_new_environment(python, staging)).ok_or_else(|| {
            let (what, install) = match pythons.first() {
                Some(python) => (format!("{python} has no pip"), "python3-pip"),
                None => ("neither python3 nor pip was found".to_owned(), "python3 python3-pip"),
            };
            let mut hints = vec![format!(
                "install it (Debian, Ubuntu: apt install {install}; Fedora: dnf install {install}; \
                 macOS: xcode-select --install), then repeat the command; or without it:"
            )];
            hints.extend(platform.shopping_list());
            Error::environment(format!("libtorch is fetched with pip, but {what}"), hints)
        })
    }

    /// An interpreter without pip can often still make an environment that has it.
    fn in_new_environment(python: &str, staging: &Staging) -> Option<Self> {
        let dir = staging.path().join("environment");
        if !process::succeeds(Command::new(python).args(["-m", "venv", "--clear"]).arg(&dir)) {
            return None;
        }
        let inner = dir.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
        let pip = Self { program: vec![inner.to_string_lossy().into_owned(), "-m".into(), "pip".into()] };
        process::succeeds(pip.command().arg("--version")).then_some(pip)
    }

    fn command(&self) -> Command {
        let mut words = self.program.iter();
        let mut command = Command::new(words.next().map_or("pip", String::as_str));
        command.args(words);
        // This download installs nothing, so the rule "only inside an environment" does not apply.
        command.env("PIP_REQUIRE_VIRTUALENV", "0");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHEEL: Wheel = Wheel {
        requirement: "abc==1",
        file: "abc-1-py3-none-any.whl",
        // FIPS 180-2, appendix B.1: the digest of the three letters "abc".
        sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        megabytes: 0,
    };
    const PLATFORM: Platform = Platform { os: "os", arch: "arch", key: "key", wheels: &[WHEEL], needed: &[] };

    #[test]
    fn a_file_of_the_user_is_verified() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("none");
        let path = dir.path().join(WHEEL.file);
        assert_eq!(find(&PLATFORM, &[dir.path()], &nowhere).unwrap(), [None]);
        fs::write(&path, "abc").unwrap();
        assert_eq!(find(&PLATFORM, &[dir.path()], &nowhere).unwrap(), [Some(path.clone())]);
        fs::write(&path, "abd").unwrap();
        let error = find(&PLATFORM, &[dir.path()], &nowhere).unwrap_err();
        assert!(error.exit_code() == 3 && error.to_string().contains(WHEEL.sha256), "{error}");
    }

    #[test]
    fn a_damaged_download_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(WHEEL.file);
        fs::write(&path, "half").unwrap();
        assert_eq!(find(&PLATFORM, &[], dir.path()).unwrap(), [None]);
        fs::write(&path, "abc").unwrap();
        assert_eq!(find(&PLATFORM, &[], dir.path()).unwrap(), [Some(path)]);
    }

    #[test]
    fn offline_says_what_to_bring() {
        let error = refuse_offline(&PLATFORM, &[None]);
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(WHEEL.file));
        assert!(error.hints().iter().any(|hint| hint.contains(WHEEL.sha256)));
    }

    #[test]
    fn from_takes_a_folder_or_a_file_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("some.whl");
        fs::write(&file, "").unwrap();
        assert_eq!(given_dir(dir.path()).unwrap(), dir.path());
        assert_eq!(given_dir(&file).unwrap(), dir.path());
        assert_eq!(given_dir(&dir.path().join("missing")).unwrap_err().exit_code(), 3);
    }

    #[test]
    fn pip_is_told_the_hash() {
        assert_eq!(WHEEL.requirement_line(), format!("abc==1 --hash=sha256:{}\n", WHEEL.sha256));
    }
}
