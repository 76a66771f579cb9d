//! How far a command is, in rows.

use align_train::Meter;

/// Rows done out of rows to do.
pub struct Progress {
    /// Where nothing is to be shown there is none.
    meter: Option<Meter>,
    total: u64,
    done: u64,
}

impl Progress {
    /// Begins with `done` of `total` rows done.
    pub fn new(total: usize, done: usize, silent: bool) -> Self {
        let (total, done) = (total as u64, done as u64);
        let meter = (!silent).then(|| {
            let mut meter = Meter::new("{bar:30} {pos}/{len} rows, {eta} left");
            meter.begin(done, total);
            meter
        });
        Self { meter, total, done }
    }

    /// Counts rows as done.
    pub fn add(&mut self, rows: usize) {
        self.done += rows as u64;
        let (done, total) = (self.done, self.total);
        if let Some(meter) = &mut self.meter {
            meter.advance(done, "", false, |gone| {
                format!("{done} of {total} rows, {:.0} s", gone.as_secs_f64())
            });
        }
    }

    /// Takes the bar away.
    pub fn finish(self) {
        if let Some(meter) = self.meter {
            meter.finish();
        }
    }
}
