use std::time::Instant;

use crate::checkpoint::WallTime;

/// What a prompt group is called where its rate is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unit {
    /// `groups_per_second`.
    #[default]
    Groups,
    /// `pairs_per_second`: every group is a preference pair.
    Pairs,
}

impl Unit {
    pub(crate) fn rate_name(self) -> &'static str {
        match self {
            Self::Groups => "groups_per_second",
            Self::Pairs => "pairs_per_second",
        }
    }
}

/// Wall time by phase, and rates over the steps since the last line.
#[derive(Debug)]
pub(crate) struct Pace {
    before: WallTime,
    eval: f64,
    save: f64,
    began: Instant,
    last_line: Instant,
    groups: usize,
    tokens: usize,
    all_tokens: usize,
}

impl Pace {
    /// Begins; `before` is what earlier processes of the run took.
    pub fn new(before: WallTime) -> Self {
        let now = Instant::now();
        Self { before, eval: 0.0, save: 0.0, began: now, last_line: now, groups: 0, tokens: 0, all_tokens: 0 }
    }

    pub fn eval(&mut self, since: Instant) {
        self.eval += since.elapsed().as_secs_f64();
    }

    pub fn save(&mut self, since: Instant) {
        self.save += since.elapsed().as_secs_f64();
    }

    pub fn count(&mut self, groups: usize, tokens: usize) {
        self.groups += groups;
        self.tokens += tokens;
        self.all_tokens += tokens;
    }

    /// Returns seconds since the start of the run, earlier processes included.
    pub fn total(&self) -> f64 {
        self.before.total + self.began.elapsed().as_secs_f64()
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.all_tokens as f64 / self.began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Returns groups and tokens per second since the last call.
    pub fn since_last_line(&mut self) -> (f64, f64) {
        let seconds = self.last_line.elapsed().as_secs_f64().max(1e-9);
        let rates = (self.groups as f64 / seconds, self.tokens as f64 / seconds);
        (self.last_line, self.groups, self.tokens) = (Instant::now(), 0, 0);
        rates
    }

    /// Returns the wall time over all processes; `phases` are those of the steps of this one.
    pub fn wall_time(&self, phases: Vec<(&'static str, f64)>) -> WallTime {
        let mut all = self.before.phases.clone();
        for (name, seconds) in phases {
            *all.entry(name.to_owned()).or_default() += seconds;
        }
        WallTime {
            phases: all,
            eval: self.before.eval + self.eval,
            save: self.before.save + self.save,
            total: self.total(),
        }
    }
}
