//! Kills a training process with signal 9 at random moments and resumes it until the run is finished.
//!
//! This program is its own child: started with `ALIGN_TRAIN_KILL_TEST` it trains in the folder named there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

#[allow(dead_code, reason = "each program uses its part")]
#[path = "all/common/mod.rs"]
mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use align_core::align_types::{Purpose, RngStream};
use common::{Setup, events, final_weights, timeless_metrics};

const FOLDER: &str = "ALIGN_TRAIN_KILL_TEST";
const THREADS: &str = "ALIGN_TRAIN_KILL_TEST_THREADS";
const KILLS: usize = 12;

fn main() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let threads = std::env::var(THREADS).unwrap().parse().unwrap();
        setup(threads).run(Path::new(&folder), |_| {}).unwrap();
        return;
    }
    if cfg!(not(unix)) {
        println!("note: skipped, there is no signal 9 on this system");
        return;
    }
    for threads in [1, 2] {
        killed_runs_end_with_the_bits_of_an_uninterrupted_one(threads);
    }
}

/// Many checkpoints and lines for little work, so that kills hit every stage.
fn setup(threads: usize) -> Setup {
    let mut setup = Setup { steps: 150, keep_best: Some("margins".into()), ..Setup::default() };
    setup.config.threads = threads;
    setup.config.save_every = 3;
    setup.config.eval_every = 7;
    setup.config.log_every = 2;
    setup
}

fn killed_runs_end_with_the_bits_of_an_uninterrupted_one(threads: usize) {
    let straight = tempfile::tempdir().unwrap();
    let began = Instant::now();
    assert!(start(straight.path(), threads).wait().unwrap().success());
    let mut whole = began.elapsed();

    let mut moments = RngStream::new(threads as u64, Purpose::Bootstrap, 0, 0);
    let mut kills = 0;
    let mut rounds = 0;
    // A run that is killed often enough is finished at last; then another is begun, until enough were killed.
    while kills < KILLS {
        rounds += 1;
        assert!(rounds < 20, "the runs finish before they can be killed");
        let folder = tempfile::tempdir().unwrap();
        loop {
            let mut child = start(folder.path(), threads);
            std::thread::sleep(whole.mul_f64(0.9 * moments.uniform()));
            if child.try_wait().unwrap().is_some() {
                // It took less than the straight one, which was measured beside other programs.
                whole = whole.mul_f64(0.7);
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            if kills >= KILLS {
                break;
            }
        }
        assert!(start(folder.path(), threads).wait().unwrap().success());
        assert_eq!(final_weights(folder.path()), final_weights(straight.path()), "{threads} threads");
        assert_eq!(timeless_metrics(folder.path()), timeless_metrics(straight.path()), "{threads} threads");
        let steps = |folder: &Path| -> Vec<u64> { events::of_run(folder).iter().map(|it| it.0).collect() };
        assert_eq!(steps(folder.path()), steps(straight.path()), "{threads} threads");
    }
    println!("{threads} thread(s): {kills} kills in {rounds} runs, the bits are those of the straight run");
}

fn start(folder: &Path, threads: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .env(FOLDER, folder)
        .env(THREADS, threads.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
