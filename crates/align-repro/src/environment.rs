use serde::Serialize;

/// The machine and the cost of a run: everything that may differ between two runs with the same result.
#[derive(Debug, Clone, Serialize)]
pub struct Environment {
    /// The command line that runs it again.
    pub command: String,
    /// Machine and versions.
    pub machine: align_train::Environment,
    /// Units that ran at the same time, one thread each.
    pub workers: usize,
    /// Seconds from start to end of this invocation.
    pub seconds: f64,
    /// Largest resident memory in MB; 0 where it is not known.
    pub peak_rss_mb: f64,
}

/// The libtorch that tch 0.26 is generated for.
const LIBTORCH: &str = "2.13";

impl Environment {
    /// Describes this machine.
    pub fn here(command: String, workers: usize, seconds: f64) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let machine = align_train::Environment::collect(version, LIBTORCH, "cpu", workers);
        Self { command, machine, workers, seconds, peak_rss_mb: align_train::peak_rss_mb() }
    }

    /// Returns what a reader of a report wants to know of it.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let machine = &self.machine;
        vec![
            ("command", self.command.clone()),
            ("align", machine.version.clone()),
            ("libtorch", machine.libtorch.clone()),
            ("machine", format!("{}, {} cores, {}", machine.cpu, machine.cores, machine.platform)),
            ("threads", format!("{} units at a time, one thread each", self.workers)),
            ("started", machine.start_time.clone()),
            ("time of this run", crate::progress::in_words(self.seconds)),
            ("peak memory", format!("{:.0} MB", self.peak_rss_mb)),
        ]
    }
}
