use std::path::PathBuf;

use clap::{Args, ValueHint};

/// `align report`.
#[derive(Debug, Args)]
#[command(after_help = "\
The page needs no network, no script and no font: curves of all runs laid over each other, distributions of margins and
lengths, samples before and after, configuration and environment. A run that is under way can be reported too.
The path of the page is written to stdout.

Examples:
  align report runs/dpo
  align report runs/dpo-* --output compare.html")]
pub struct ReportArgs {
    /// Run folders: what training commands have as --output-dir
    #[arg(required = true, value_name = "RUN", value_hint = ValueHint::DirPath)]
    pub runs: Vec<PathBuf>,
    /// File to write; an existing one is replaced [default: report.html in the folder of the run; of several runs in the current folder]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Write the numbers behind the page as one JSON object to stdout, in place of its path
    #[arg(long)]
    pub json: bool,
}
