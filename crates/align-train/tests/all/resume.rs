//! Runs that are interrupted, damaged or mistaken, in one process.

use crate::common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use align_train::{Error, OpenMode, Outcome, Position, Progress, SavedStep};
use common::{PairLoss, Setup, final_weights, summary, timeless_metrics};

/// Sets the stop flag after a step.
struct StopAfter {
    step: u64,
    stop: Arc<AtomicBool>,
}

impl Progress for StopAfter {
    fn step(&mut self, at: &Position) {
        if at.step == self.step {
            self.stop.store(true, Ordering::SeqCst);
        }
    }
}

/// Runs to the end through stops after the given steps; returns the outcomes.
fn run_with_stops(setup: &Setup, path: &Path, stops: &[u64]) -> Vec<Outcome> {
    let mut outcomes: Vec<Outcome> = stops
        .iter()
        .map(|step| {
            let stop = |hooks: &mut align_train::Hooks<'_>| {
                hooks.progress = Box::new(StopAfter { step: *step, stop: hooks.stop.clone() });
            };
            setup.run(path, stop).unwrap().0
        })
        .collect();
    outcomes.push(setup.run(path, |_| {}).unwrap().0);
    outcomes
}

fn with_threads(threads: usize) -> Setup {
    let mut setup = Setup { keep_best: Some("margins".into()), ..Setup::default() };
    setup.config.threads = threads;
    setup
}

#[test]
fn interrupted_runs_end_with_the_same_bits_and_the_same_lines() {
    for threads in [1, 2] {
        let setup = with_threads(threads);
        let straight = tempfile::tempdir().unwrap();
        run_with_stops(&setup, straight.path(), &[]);
        for stops in [vec![1], vec![7], vec![5, 6, 13], vec![19], (1..20).collect()] {
            let folder = tempfile::tempdir().unwrap();
            let outcomes = run_with_stops(&setup, folder.path(), &stops);
            for (outcome, stop) in outcomes.iter().zip(&stops) {
                let checkpoint = folder.path().join(format!("checkpoints/step-{stop}"));
                assert_eq!(*outcome, Outcome::Interrupted { step: *stop, checkpoint: Some(checkpoint) });
            }
            assert_eq!(final_weights(folder.path()), final_weights(straight.path()), "{stops:?}");
            assert_eq!(timeless_metrics(folder.path()), timeless_metrics(straight.path()), "{stops:?}");
        }
    }
}

/// A source that gives up because the run is to end, and an end of the run that does: what was done is kept.
#[test]
fn what_gives_up_when_the_run_is_to_end_is_no_failure() {
    let setup = with_threads(1);
    let straight = tempfile::tempdir().unwrap();
    run_with_stops(&setup, straight.path(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let stopped_after = |setup: &Setup, step: u64, change: &dyn Fn(&mut align_train::Hooks<'_>)| {
        let outcome = setup.run(folder.path(), change).unwrap().0;
        let checkpoint = folder.path().join(format!("checkpoints/step-{step}"));
        assert_eq!(outcome, Outcome::Interrupted { step, checkpoint: Some(checkpoint) });
    };
    let stop = Arc::new(AtomicBool::new(false));
    let giving_up = Setup { gives_up: Some((7, Arc::clone(&stop))), ..setup.clone() };
    stopped_after(&giving_up, 7, &|hooks| hooks.stop = Arc::clone(&stop));
    // Without the flag the same error ends the run.
    let error = giving_up.run(folder.path(), |_| {}).unwrap_err();
    assert!(error.to_string().contains("given up"), "{error}");
    let stop = Arc::new(AtomicBool::new(false));
    let end = |_: u64| -> Result<_, align_core::BoxError> {
        stop.store(true, Ordering::SeqCst);
        Err("given up".into())
    };
    let outcome = setup.run(folder.path(), |hooks| {
        hooks.stop = Arc::clone(&stop);
        hooks.before_finish = Some(&end);
    });
    assert!(matches!(outcome.unwrap().0, Outcome::Interrupted { step: 20, .. }));
    setup.run(folder.path(), |_| {}).unwrap();
    assert_eq!(final_weights(folder.path()), final_weights(straight.path()));
    assert_eq!(timeless_metrics(folder.path()), timeless_metrics(straight.path()));
}

#[test]
fn the_lines_have_the_keys_of_the_contract_in_order() {
    let setup = with_threads(1);
    let folder = tempfile::tempdir().unwrap();
    run_with_stops(&setup, folder.path(), &[]);
    let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
    let records: Vec<serde_json::Map<String, serde_json::Value>> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = records.iter().map(|r| r["step"].as_u64().unwrap()).collect();
    // The first, the last, every third, and every fourth for its evaluation.
    assert_eq!(steps, [1, 3, 4, 6, 8, 9, 12, 15, 16, 18, 20]);
    let keys: Vec<&str> = records[0].keys().map(String::as_str).collect();
    let expected = [
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "pairs_per_second",
        "peak_rss_mb",
        "time",
        "loss/pairs",
        "loss/nll",
        "margins",
    ];
    assert_eq!(keys, expected);
    let keys: Vec<&str> = records[2].keys().map(String::as_str).collect();
    assert_eq!(keys[..12], expected);
    assert_eq!(keys[12..], ["eval/loss", "eval/loss/pairs", "eval/loss/nll", "eval/margins"]);
    // With a warm-up of three steps the first has the rate 0.
    assert_eq!(records[0]["learning_rate"], 0.0);
    let loss = |r: &serde_json::Map<String, serde_json::Value>| r["eval/loss"].as_f64().unwrap();
    assert!(loss(records.last().unwrap()) < loss(&records[2]), "nothing was learned");
    let summary = common::summary(folder.path());
    assert_eq!(summary["steps"], 20);
    assert_eq!(summary["rows"], 120);
    assert_eq!(summary["final"]["step"], 20);
    assert!(summary["wall_time"]["total"].as_f64().unwrap() > 0.0);
    // The best checkpoint is kept beside the last ones.
    let best = summary["best"]["checkpoint"].as_str().unwrap();
    assert!(folder.path().join(best).join("model/weights.bin").exists());
    assert_eq!(summary["best"]["metric"], "eval/margins");
}

#[test]
fn a_finished_run_does_nothing_more() {
    let setup = Setup::default();
    let folder = tempfile::tempdir().unwrap();
    run_with_stops(&setup, folder.path(), &[]);
    let files = ["model/weights.bin", "summary.json", "metrics.jsonl", "config.toml"];
    let state = || files.map(|name| std::fs::metadata(folder.path().join(name)).unwrap().modified().unwrap());
    let written = state();
    match run_with_stops(&setup, folder.path(), &[]).remove(0) {
        Outcome::Finished(summary) => assert_eq!(summary["steps"], 20),
        other => panic!("{other:?}"),
    }
    assert_eq!(state(), written);
}

/// Turns the folder of a finished run into one that a kill left behind.
type Damage = fn(&Path);

/// What a run folder can look like after a kill between two renames, made by hand.
#[test]
fn every_state_that_a_kill_can_leave_is_continued() {
    let setup = Setup::default();
    let straight = tempfile::tempdir().unwrap();
    run_with_stops(&setup, straight.path(), &[]);
    let damages: [(&str, Damage); 8] = [
        ("before the summary", |run| std::fs::remove_file(run.join("summary.json")).unwrap()),
        ("before the model", |run| {
            std::fs::remove_file(run.join("summary.json")).unwrap();
            std::fs::rename(run.join("model"), run.join(".tmp-model")).unwrap();
        }),
        ("while the model is replaced", |run| {
            std::fs::remove_file(run.join("summary.json")).unwrap();
            std::fs::create_dir(run.join(".tmp-model")).unwrap();
            std::fs::rename(run.join("model"), run.join(".old-model")).unwrap();
        }),
        ("before the last checkpoint", |run| {
            std::fs::remove_file(run.join("summary.json")).unwrap();
            std::fs::remove_dir_all(run.join("model")).unwrap();
            let checkpoints = run.join("checkpoints");
            std::fs::rename(checkpoints.join("step-20"), checkpoints.join(".tmp-step-20")).unwrap();
        }),
        ("while an old checkpoint is removed", |run| {
            std::fs::remove_file(run.join("summary.json")).unwrap();
            let checkpoints = run.join("checkpoints");
            std::fs::remove_dir_all(checkpoints.join("step-20")).unwrap();
            std::fs::create_dir(checkpoints.join(".old-step-10")).unwrap();
        }),
        ("in a line of the metrics", |run| {
            std::fs::remove_file(run.join("summary.json")).unwrap();
            std::fs::remove_dir_all(run.join("checkpoints/step-20")).unwrap();
            let path = run.join("metrics.jsonl");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(path, &text[..text.len() - 9]).unwrap();
        }),
        ("before the first checkpoint", |run| {
            std::fs::remove_file(run.join("summary.json")).unwrap();
            std::fs::remove_dir_all(run.join("model")).unwrap();
            std::fs::remove_dir_all(run.join("checkpoints")).unwrap();
        }),
        ("before the configuration", |run| {
            std::fs::remove_dir_all(run).unwrap();
            std::fs::create_dir(run).unwrap();
            std::fs::write(run.join(".align-run.lock"), "").unwrap();
            std::fs::write(run.join(".tmp-config.toml"), "see").unwrap();
        }),
    ];
    for (name, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        run_with_stops(&setup, folder.path(), &[]);
        damage(folder.path());
        let outcome = run_with_stops(&setup, folder.path(), &[]).remove(0);
        assert!(matches!(outcome, Outcome::Finished(_)));
        assert_eq!(final_weights(folder.path()), final_weights(straight.path()), "{name}");
        assert_eq!(timeless_metrics(folder.path()), timeless_metrics(straight.path()), "{name}");
    }
}

#[test]
fn a_torn_checkpoint_is_passed_over_with_a_notice() {
    let setup = Setup::default();
    let straight = tempfile::tempdir().unwrap();
    run_with_stops(&setup, straight.path(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let stop = |hooks: &mut align_train::Hooks<'_>| {
        hooks.progress = Box::new(StopAfter { step: 12, stop: hooks.stop.clone() });
    };
    setup.run(folder.path(), stop).unwrap();
    let torn = folder.path().join("checkpoints/step-12/optimizer.safetensors");
    std::fs::write(&torn, &std::fs::read(&torn).unwrap()[..50]).unwrap();
    let (_, notices) = setup.run(folder.path(), |_| {}).unwrap();
    assert_eq!(notices.len(), 1);
    assert!(notices[0].contains("step-12") && notices[0].contains("50 bytes"), "{notices:?}");
    assert_eq!(final_weights(folder.path()), final_weights(straight.path()));
    assert_eq!(timeless_metrics(folder.path()), timeless_metrics(straight.path()));
}

#[test]
fn a_checkpoint_of_other_weights_is_refused() {
    let setup = Setup::default();
    let folder = tempfile::tempdir().unwrap();
    let stop = |hooks: &mut align_train::Hooks<'_>| {
        hooks.progress = Box::new(StopAfter { step: 7, stop: hooks.stop.clone() });
    };
    setup.run(folder.path(), stop).unwrap();
    let weights = folder.path().join("checkpoints/step-7/model/weights.bin");
    let mut bytes = std::fs::read(&weights).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let error = setup.run(folder.path(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Checkpoint { .. }), "{error}");
    assert!(error.to_string().contains("does not hold the weights"), "{error}");
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_after_a_checkpoint() {
    let objective = PairLoss { poison: Some(0), ..Default::default() };
    let setup = Setup { objective, poisoned_step: Some(7), ..Setup::default() };
    let folder = tempfile::tempdir().unwrap();
    let error = setup.run(folder.path(), |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("step 8: the loss is not finite") && text.contains("step7.jsonl:1"), "{text}");
    let checkpoint = folder.path().join("checkpoints/step-7");
    match error {
        Error::Step { step: 8, saved: Some(saved), .. } => {
            assert_eq!(saved, SavedStep { step: 7, folder: checkpoint });
        }
        other => panic!("{other:?}"),
    }
    // Without the bad row the run goes on from there to the bits of a run that never had it.
    let healthy = Setup { poisoned_step: None, ..setup };
    healthy.run(folder.path(), |_| {}).unwrap();
    let straight = tempfile::tempdir().unwrap();
    healthy.run(straight.path(), |_| {}).unwrap();
    assert_eq!(final_weights(folder.path()), final_weights(straight.path()));
}

#[test]
fn the_first_step_is_checked_before_anything_is_written() {
    let objective = PairLoss { first_loss: Some(0.5), ..Default::default() };
    let setup = Setup { objective, ..Setup::default() };
    let folder = tempfile::tempdir().unwrap();
    let text = setup.run(folder.path(), |_| {}).unwrap_err().to_string();
    assert!(text.contains("the first loss") && text.contains("nothing was trained yet"), "{text}");
    assert!(!folder.path().join("checkpoints").exists());
}

#[test]
fn a_full_disk_leaves_the_checkpoint_before_and_the_run_goes_on_when_there_is_room() {
    let setup = Setup::default();
    let straight = tempfile::tempdir().unwrap();
    setup.run(straight.path(), |_| {}).unwrap();
    // The third time the model is written there is no room: checkpoints of step 5 and 10 are whole.
    let folder = tempfile::tempdir().unwrap();
    let times = AtomicU64::new(0);
    let save = |model: &common::TinyLm, folder: &Path| {
        model.save(folder)?;
        if times.fetch_add(1, Ordering::SeqCst) == 2 {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        }
        Ok(())
    };
    let error = setup.run_with(folder.path(), save, |_| {}).unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("the disk is full"), "{error}");
    let mut left: Vec<_> = std::fs::read_dir(folder.path().join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["step-10", "step-5"]);
    setup.run(folder.path(), |_| {}).unwrap();
    assert_eq!(final_weights(folder.path()), final_weights(straight.path()));
}

#[test]
fn a_metric_to_keep_the_best_by_must_exist_before_the_first_step() {
    let setup = Setup { keep_best: Some("rewards/margins".into()), ..Setup::default() };
    let folder = tempfile::tempdir().unwrap();
    let error = setup.run(folder.path(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::UnknownMetric { .. }), "{error}");
    assert!(error.to_string().contains("eval/margins"), "{error}");
}

#[test]
fn other_settings_of_logging_and_saving_do_not_change_the_weights() {
    let setup = Setup { mode: OpenMode::Overwrite, ..Setup::default() };
    let folder = tempfile::tempdir().unwrap();
    setup.run(folder.path(), |_| {}).unwrap();
    let expected = final_weights(folder.path());
    for (save_every, keep_checkpoints, log_every, eval_every) in [(0, 1, 1, 0), (1, 1, 7, 1), (6, 9, 99, 5)] {
        let mut setup = setup.clone();
        setup.config.save_every = save_every;
        setup.config.keep_checkpoints = keep_checkpoints;
        setup.config.log_every = log_every;
        setup.config.eval_every = eval_every;
        setup.run(folder.path(), |_| {}).unwrap();
        assert_eq!(final_weights(folder.path()), expected);
        let kept = std::fs::read_dir(folder.path().join("checkpoints")).unwrap().count();
        let written = if save_every == 0 { 1 } else { 20usize.div_ceil(save_every as usize) };
        assert_eq!(kept, written.min(keep_checkpoints));
    }
}

#[test]
fn the_best_checkpoint_is_that_of_an_uninterrupted_run() {
    // With this rate the margin is best at the first evaluation and falls after, so that a run which forgets its
    // best on the way takes a later one.
    let mut setup = with_threads(1);
    setup.optimizer.learning_rate = 0.1;
    let best = |path: &Path| {
        let best = summary(path)["best"].clone();
        let weights = path.join(best["checkpoint"].as_str().unwrap()).join("model/weights.bin");
        (best, std::fs::read(weights).unwrap())
    };
    let straight = tempfile::tempdir().unwrap();
    run_with_stops(&setup, straight.path(), &[]);
    let expected = best(straight.path());
    assert!(expected.0["step"].as_u64().unwrap() < 8, "{}: the test shows nothing", expected.0);
    for stops in [vec![3], vec![4], vec![9], vec![5, 6, 13, 19]] {
        let folder = tempfile::tempdir().unwrap();
        run_with_stops(&setup, folder.path(), &stops);
        assert_eq!(best(folder.path()), expected, "{stops:?}");
    }
}

#[test]
fn other_inputs_are_refused_and_nothing_is_lost() {
    let setup = Setup::default();
    let straight = tempfile::tempdir().unwrap();
    run_with_stops(&setup, straight.path(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let stop = |hooks: &mut align_train::Hooks<'_>| {
        hooks.progress = Box::new(StopAfter { step: 7, stop: hooks.stop.clone() });
    };
    setup.run(folder.path(), stop).unwrap();
    let other = Setup { inputs: "other rows".into(), ..setup.clone() };
    let error = other.run(folder.path(), |_| {}).unwrap_err();
    match &error {
        Error::InputsMismatch { path } => assert_eq!(*path, folder.path().join("checkpoints/step-7")),
        other => panic!("{other}"),
    }
    for word in ["data files", "tokenizer", "reference", "start a new run"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    setup.run(folder.path(), |_| {}).unwrap();
    assert_eq!(final_weights(folder.path()), final_weights(straight.path()));
    assert_eq!(timeless_metrics(folder.path()), timeless_metrics(straight.path()));
}

/// Keeps what is said.
struct Notes(Arc<Mutex<Vec<String>>>);

impl Progress for Notes {
    fn warn(&mut self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

#[test]
fn a_held_out_loss_that_is_no_number_does_not_end_the_run() {
    let objective = PairLoss { poison: Some(0), ..Default::default() };
    let setup =
        Setup { objective, poisoned_held_out: true, keep_best: Some("loss".into()), ..Setup::default() };
    let folder = tempfile::tempdir().unwrap();
    let notes = Arc::new(Mutex::new(Vec::new()));
    let listen = |hooks: &mut align_train::Hooks<'_>| hooks.progress = Box::new(Notes(notes.clone()));
    let outcome = setup.run(folder.path(), listen).unwrap().0;
    assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
    let lines = timeless_metrics(folder.path());
    let evaluations: Vec<_> = lines.iter().filter_map(|line| line.get("eval/loss")).collect();
    assert_eq!(evaluations.len(), 5);
    assert!(evaluations.iter().all(|value| value.is_null()), "{evaluations:?}");
    // What is finite is there all the same, and a best that is none is not kept.
    assert!(lines.last().unwrap()["eval/margins"].is_f64());
    assert!(summary(folder.path()).get("best").is_none());
    let notes = notes.lock().unwrap();
    assert_eq!(notes.len(), 5);
    assert!(notes[0].contains("after step 4") && notes[0].contains("step1000000.jsonl:1"), "{notes:?}");
}

#[test]
fn an_evaluation_that_fails_loses_no_step() {
    let setup = Setup::default();
    let straight = tempfile::tempdir().unwrap();
    run_with_stops(&setup, straight.path(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let refuse = setup.objective.refuse_held_out.clone();
    refuse.store(true, Ordering::SeqCst);
    let error = setup.run(folder.path(), |_| {}).unwrap_err();
    let expected = SavedStep { step: 4, folder: folder.path().join("checkpoints/step-4") };
    let text = error.to_string();
    assert!(text.contains("they are refused") && text.contains("the state after it is in"), "{text}");
    match error {
        Error::Step { step: 4, saved, .. } => assert_eq!(saved, Some(expected)),
        other => panic!("{other:?}"),
    }
    refuse.store(false, Ordering::SeqCst);
    setup.run(folder.path(), |_| {}).unwrap();
    assert_eq!(final_weights(folder.path()), final_weights(straight.path()));
    // Step 4 has a line for its evaluation only.
    let mut expected = timeless_metrics(straight.path());
    expected.retain(|line| line["step"] != 4);
    assert_eq!(timeless_metrics(folder.path()), expected);
}

#[test]
fn a_run_whose_last_evaluation_fails_can_be_finished() {
    let setup = Setup::default();
    let folder = tempfile::tempdir().unwrap();
    let stop = |hooks: &mut align_train::Hooks<'_>| {
        hooks.progress = Box::new(StopAfter { step: 17, stop: hooks.stop.clone() });
    };
    setup.run(folder.path(), stop).unwrap();
    setup.objective.refuse_held_out.store(true, Ordering::SeqCst);
    let error = setup.run(folder.path(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::Step { step: 20, .. }), "{error}");
    // The rows are as bad as before, but every step is done.
    let outcome = setup.run(folder.path(), |_| {}).unwrap().0;
    assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
    assert_eq!(summary(folder.path())["final"]["step"], 20);
}

#[test]
fn a_failed_step_whose_state_cannot_be_saved_names_the_checkpoint_there_is() {
    let objective = PairLoss { poison: Some(0), ..Default::default() };
    let setup = Setup { objective, poisoned_step: Some(7), ..Setup::default() };
    let folder = tempfile::tempdir().unwrap();
    // The second time is that of the state before the step that fails.
    let times = AtomicU64::new(0);
    let save = |model: &common::TinyLm, folder: &Path| match times.fetch_add(1, Ordering::SeqCst) {
        0 => model.save(folder),
        _ => Err("no".into()),
    };
    let error = setup.run_with(folder.path(), save, |_| {}).unwrap_err();
    let text = error.to_string();
    let expected = SavedStep { step: 5, folder: folder.path().join("checkpoints/step-5") };
    match error {
        Error::Step { step: 8, saved, .. } => assert_eq!(saved, Some(expected)),
        other => panic!("{other:?}"),
    }
    assert!(text.contains("the last whole checkpoint is that of step 5"), "{text}");
}

#[test]
fn the_hook_before_the_end_is_called_until_it_succeeds() {
    let setup = Setup::default();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().to_owned();
    let said = serde_json::Map::from_iter([("printed".to_owned(), 3.into())]);
    let answers = Mutex::new(vec![Ok(said), Err("the printer is on fire".to_owned())]);
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    // Lives as long as the process, because the closure that sets it works with hooks of any lifetime.
    let hook: align_train::BeforeFinish<'static> = Box::leak(Box::new(move |step| {
        counted.fetch_add(1, Ordering::SeqCst);
        assert_eq!(step, 20);
        assert!(run.join("checkpoints/step-20/trainer.json").exists());
        assert!(!run.join("summary.json").exists() && !run.join("model").exists());
        answers.lock().unwrap().pop().unwrap().map_err(Into::into)
    }));
    let error = setup.run(folder.path(), |hooks| hooks.before_finish = Some(hook)).unwrap_err();
    assert!(matches!(error, Error::BeforeFinish(_)), "{error}");
    assert!(error.to_string().contains("the printer is on fire"), "{error}");
    for _ in 0..2 {
        let outcome = setup.run(folder.path(), |hooks| hooks.before_finish = Some(hook)).unwrap().0;
        let Outcome::Finished(summary) = outcome else { panic!("{outcome:?}") };
        assert_eq!(summary["printed"], 3);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2, "a finished run has nothing left to do");
}

/// The mean over rows that were evaluated alone is that of the whole, and a run that was stopped writes the same file.
#[test]
fn held_out_rows_are_written_one_by_one_at_the_end() {
    for threads in [1, 2] {
        let setup = with_threads(threads);
        let straight = tempfile::tempdir().unwrap();
        run_with_stops(&setup, straight.path(), &[]);
        let text = std::fs::read_to_string(straight.path().join("eval.jsonl")).unwrap();
        let rows: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let held_out = setup.held_out();
        assert_eq!(rows.len(), held_out.len());
        for (row, group) in rows.iter().zip(&held_out) {
            let source = group.source.as_ref().unwrap();
            assert_eq!((&row["step"], &row["row"]), (&20.into(), &source.row.into()));
            assert_eq!(row["file"], source.file.to_str().unwrap());
            assert_eq!(row["completions"][0]["tokens"], group.completions[0].token_ids.len());
        }
        let sum: f64 = rows.iter().map(|row| row["margins"].as_f64().unwrap()).sum();
        let whole = summary(straight.path())["final"]["eval/margins"].as_f64().unwrap();
        assert!((sum / rows.len() as f64 - whole).abs() < 1e-5 * whole.abs().max(1.0), "{sum} {whole}");
        let stopped = tempfile::tempdir().unwrap();
        run_with_stops(&setup, stopped.path(), &[7, 19, 20]);
        assert_eq!(std::fs::read_to_string(stopped.path().join("eval.jsonl")).unwrap(), text);
    }
}

/// Begins a countdown of held-out evaluations after the last step.
struct CountAfter {
    step: u64,
    rows: i64,
    left: Arc<AtomicI64>,
}

impl Progress for CountAfter {
    fn step(&mut self, at: &Position) {
        if at.step == self.step {
            self.left.store(self.rows, Ordering::SeqCst);
        }
    }
}

/// Ctrl-C while held-out rows are written one by one, or just before, ends the run as interrupted; nothing of the file is
/// left, and the resumed run is the uninterrupted one.
#[test]
fn the_pass_over_held_out_rows_stops_at_the_flag() {
    let setup = with_threads(1);
    let straight = tempfile::tempdir().unwrap();
    run_with_stops(&setup, straight.path(), &[]);
    for rows in [1, 3, 8] {
        let folder = tempfile::tempdir().unwrap();
        let (left, stop) = (Arc::new(AtomicI64::new(i64::MAX)), Arc::new(AtomicBool::new(false)));
        let mut stopping = setup.clone();
        stopping.objective.countdown = Some((left.clone(), stop.clone()));
        let (outcome, _) = stopping
            .run(folder.path(), |hooks| {
                hooks.stop = stop.clone();
                hooks.progress = Box::new(CountAfter { step: 20, rows, left: left.clone() });
            })
            .unwrap();
        let checkpoint = Some(folder.path().join("checkpoints/step-20"));
        assert_eq!(outcome, Outcome::Interrupted { step: 20, checkpoint });
        assert_eq!(left.load(Ordering::SeqCst), 0, "rows were evaluated after the flag was set");
        assert!(!folder.path().join("eval.jsonl").exists() && !folder.path().join("summary.json").exists());
        let (outcome, _) = setup.run(folder.path(), |_| {}).unwrap();
        assert!(matches!(outcome, Outcome::Finished(_)));
        let lines = |path: &Path| std::fs::read_to_string(path.join("eval.jsonl")).unwrap();
        assert_eq!(lines(folder.path()), lines(straight.path()));
        assert_eq!(final_weights(folder.path()), final_weights(straight.path()));
    }
    let folder = tempfile::tempdir().unwrap();
    let outcomes = run_with_stops(&setup, folder.path(), &[20]);
    assert!(matches!(outcomes[0], Outcome::Interrupted { step: 20, .. }));
    assert!(matches!(outcomes[1], Outcome::Finished(_)));
}
