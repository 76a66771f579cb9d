//! An evaluation that is broken off is made up for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use align_core::{BatchReport, BoxError, Evaluation, StepAt, StepError, Stepped, Steps};
use align_train::{Error, Hooks, OpenMode, Outcome, RunFolder, RunJob, Start, Unit, run};

use crate::common::{Setup, summary, timeless_metrics};

/// Counts its steps, and is the better on held-out rows the fewer it has done.
struct Counter {
    done: u64,
    /// The step whose evaluation fails, and the flag that it sets before.
    fails: Option<(u64, Option<Arc<AtomicBool>>)>,
}

impl Steps for Counter {
    fn step(&mut self, at: &StepAt<'_>) -> Result<Stepped, StepError> {
        self.done += 1;
        assert_eq!(self.done, at.step);
        // Decimal digits of thirds do not come back as they were from every reader.
        let metrics = vec![("thirds".to_owned(), self.done as f64 / 3.0), ("none".to_owned(), f64::NAN)];
        Ok(Stepped::Done(BatchReport { loss: 1.0 / self.done as f64, metrics, ..BatchReport::default() }))
    }

    fn save(&self, folder: &Path) -> Result<(), BoxError> {
        Ok(std::fs::write(folder.join("counter"), self.done.to_string())?)
    }

    fn load(&mut self, folder: &Path) -> Result<(), BoxError> {
        self.done = std::fs::read_to_string(folder.join("counter"))?.parse()?;
        Ok(())
    }

    fn evaluation_metrics(&mut self) -> Result<Option<Vec<String>>, BoxError> {
        Ok(Some(Vec::new()))
    }

    fn evaluate(&mut self, _: &StepAt<'_>) -> Result<Option<Evaluation>, BoxError> {
        if let Some((_, flag)) = self.fails.as_ref().filter(|(step, _)| *step == self.done) {
            flag.iter().for_each(|flag| flag.store(true, Ordering::SeqCst));
            return Err("the reward program is gone".into());
        }
        let report = BatchReport { loss: self.done as f64, ..BatchReport::default() };
        Ok(Some(Evaluation { report, warning: None }))
    }
}

/// Runs as far as it goes; `fails` as in [`Counter`], with the flag of Ctrl-C if `stops`.
fn run_in(path: &Path, fails: Option<u64>, stops: bool) -> align_train::Result<Outcome> {
    let setup = Setup { steps: 10, ..Setup::default() };
    let stop = Arc::new(AtomicBool::new(false));
    let mut steps = Counter { done: 0, fails: fails.map(|step| (step, stops.then(|| Arc::clone(&stop)))) };
    let opened = RunFolder::open(path, OpenMode::Resume, &setup.toml())?;
    let start = match opened.start {
        Start::Checkpoint(checkpoint) => Some(*checkpoint),
        _ => None,
    };
    let job = RunJob {
        folder: &opened.folder,
        start,
        steps: &mut steps,
        keep_best: Some("loss".into()),
        total_steps: setup.steps,
        config: &setup.config,
        optimizer: &setup.optimizer,
        unit: Unit::Pairs,
        threads: 1,
        inputs: String::new(),
        summary: serde_json::Map::new(),
    };
    let save = |folder: &Path| -> Result<(), BoxError> { Ok(std::fs::write(folder.join("model"), "m")?) };
    let mut hooks = Hooks::new(&save);
    hooks.stop = stop;
    run(job, hooks)
}

#[test]
fn an_evaluation_that_ctrl_c_broke_off_comes_first_when_the_run_goes_on() {
    let straight = tempfile::tempdir().unwrap();
    run_in(straight.path(), None, false).unwrap();
    // Evaluations are after steps 4 and 8 and at the end.
    for step in [4, 8, 10] {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let outcome = run_in(folder.path(), Some(step), true).unwrap();
            let checkpoint = folder.path().join(format!("checkpoints/step-{step}"));
            assert_eq!(outcome, Outcome::Interrupted { step, checkpoint: Some(checkpoint) });
            let last = timeless_metrics(folder.path()).pop().unwrap();
            assert_eq!((&last["step"], last.get("eval/loss")), (&step.into(), None));
        }
        assert!(matches!(run_in(folder.path(), None, false).unwrap(), Outcome::Finished(_)));
        assert_eq!(timeless_metrics(folder.path()), timeless_metrics(straight.path()), "step {step}");
        assert_eq!(summary(folder.path())["best"], summary(straight.path())["best"], "step {step}");
    }
}

/// Rows that cannot be measured do not keep a run from its end.
#[test]
fn an_evaluation_that_fails_by_itself_when_it_is_made_up_for_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    run_in(folder.path(), Some(8), true).unwrap();
    let error = run_in(folder.path(), Some(8), false).unwrap_err();
    assert!(matches!(&error, Error::Step { step: 8, saved: Some(saved), .. } if saved.step == 8), "{error}");
    assert!(matches!(run_in(folder.path(), Some(8), false).unwrap(), Outcome::Finished(_)));
    let evaluated: Vec<u64> = timeless_metrics(folder.path())
        .iter()
        .filter(|line| line.contains_key("eval/loss"))
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(evaluated, [4, 10]);
}
