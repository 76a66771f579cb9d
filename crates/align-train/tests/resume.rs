//! Runs that are interrupted, damaged or mistaken, in one process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use align_train::{Error, OpenMode, Outcome, Position, Progress, SavedStep};
use common::{PairLoss, Setup, final_weights, timeless_metrics};

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
    let summary = std::fs::read(folder.path().join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&summary).unwrap();
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
