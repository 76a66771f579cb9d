//! `cargo xtask setup`: libtorch in a per-user cache, checked, and proven by running it.

mod cache;
mod config;
mod download;
mod proof;
mod unpack;
mod wheels;

use std::path::PathBuf;
use std::process::Command;

use crate::{Error, Result, Workspace};
use cache::{Cache, Entry};
use wheels::Platform;

/// The libtorch version that the workspace is built with.
pub use wheels::VERSION;

/// The flags of `cargo xtask setup`.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Take the wheels from this folder (or from the folder of this file) instead of the network
    #[arg(long, value_name = "FILE|DIR")]
    from: Option<PathBuf>,
    /// Never use the network: take the cache or fail with the list of files to bring
    #[arg(long)]
    offline: bool,
    /// Install again even if the cache is good, and prove it again
    #[arg(long)]
    force: bool,
}

impl Options {
    fn is_offline(&self) -> bool {
        self.offline || std::env::var("CARGO_NET_OFFLINE").is_ok_and(|v| v == "true" || v == "1")
    }
}

/// The libtorch that builds will use.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Libtorch {
    /// The user chose one by an environment variable, which is written here as NAME=VALUE.
    Users(String),
    /// The entry of our cache.
    Cached(Entry),
}

impl Libtorch {
    /// A text that changes whenever another libtorch is used.
    fn identity(&self) -> String {
        match self {
            Self::Users(variable) => variable.clone(),
            Self::Cached(entry) => format!("{} {}", entry.dir.display(), entry.stamp.wheels_text()),
        }
    }
}

/// Runs `cargo xtask setup` and ends with the next thing to type.
///
/// # Errors
/// Everything that keeps libtorch from working here; see [`Error`].
pub fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let libtorch = install(workspace, options)?;
    if !proof::prove(workspace, &libtorch, &["--package", "align-cli"], options.force)? {
        eprintln!("setup: already proven in this checkout (--force repeats it)");
    }
    eprintln!("setup: ready. Next: cargo xtask test, or cargo build --release -p align-cli");
    Ok(())
}

/// Makes sure that libtorch is there before something else is run; says nothing when it is.
///
/// `build` are the flags with which that something will be built; they have to include `align-cli`.
///
/// # Errors
/// As [`run`].
pub fn ensure(workspace: &Workspace, build: &[&str]) -> Result<()> {
    let libtorch = install(workspace, &Options::default())?;
    proof::prove(workspace, &libtorch, build, false).map(drop)
}

fn install(workspace: &Workspace, options: &Options) -> Result<Libtorch> {
    if let Some(variable) = config::users_choice(workspace) {
        return accept_users_choice(variable, options);
    }
    let platform = Platform::current()?;
    let cache = Cache::locate(platform)?;
    let entry = match cache.entry() {
        Ok(entry) if !options.force => {
            cache.tidy_up();
            entry
        }
        _ => fill(&cache, options)?,
    };
    config::write(workspace, &entry.torch())?;
    Ok(Libtorch::Cached(entry))
}

fn accept_users_choice(variable: String, options: &Options) -> Result<Libtorch> {
    if options.from.is_some() || options.force {
        let hint = format!("unset {} to install libtorch into the cache", variable_name(&variable));
        return Err(Error::usage(format!("{variable} is set, so there is nothing to install"), [hint]));
    }
    config::check_users_choice(&variable)?;
    eprintln!("setup: using your {variable}; keep it set for plain cargo commands");
    Ok(Libtorch::Users(variable))
}

fn variable_name(variable: &str) -> &str {
    variable.split('=').next().unwrap_or(variable)
}

/// Fills the cache under its lock.
fn fill(cache: &Cache, options: &Options) -> Result<Entry> {
    let _lock = cache.lock()?;
    // Another run may have filled it while this one waited for the lock.
    match cache.entry() {
        Ok(entry) if !options.force => return Ok(entry),
        Ok(_) => eprintln!("setup: replacing {} (--force)", cache.dir().display()),
        Err(why) => eprintln!("setup: {}: {why}", cache.dir().display()),
    }
    require_compiler()?;
    cache.remove_leftovers();
    let staging = cache.staging()?;
    let wheels = download::obtain(cache, &staging, options.from.as_deref(), options.is_offline())?;
    let tree = unpack::unpack_all(cache.platform(), &wheels, &staging)?;
    let entry = cache.commit(&tree)?;
    drop(staging);
    cache.remove_downloads();
    eprintln!("setup: libtorch {} is in {}", VERSION, entry.dir.display());
    Ok(entry)
}

/// Tells a user without a C++ compiler before half a gigabyte is fetched, not after.
fn require_compiler() -> Result<()> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    // CXX may hold a wrapper and flags ("ccache g++"); the first word is what has to start.
    let program = compiler.split_whitespace().next().unwrap_or("c++");
    if cfg!(windows) || crate::process::succeeds(Command::new(program).arg("--version")) {
        return Ok(());
    }
    Err(Error::environment(
        format!("no C++ compiler: `{program} --version` does not run, and tch needs one to build"),
        ["install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
            .to_owned()],
    ))
}
