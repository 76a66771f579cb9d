//! Event files: TensorBoard's bytes, every step once, whatever a kill left.

use crate::common;

use std::path::{Path, PathBuf};

use align_train::EventsFile;
use common::{Setup, events, timeless_metrics};
use proptest::prelude::*;

type Metrics = Vec<(String, f64)>;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn steps(folder: &Path) -> Vec<u64> {
    events::of_run(folder).iter().map(|(step, _)| *step).collect()
}

/// The bytes are those that TensorBoard's own classes write (fixtures/tensorboard/make.py).
#[test]
fn the_bytes_are_those_of_tensorboard() {
    #[derive(serde::Deserialize)]
    struct Step {
        step: u64,
        wall_time: f64,
        metrics: Vec<(String, String)>,
    }
    let text = std::fs::read(align_testkit::fixture("tensorboard/scalars.json")).unwrap();
    let content: Vec<Step> = serde_json::from_slice(&text).unwrap();
    assert!(content.len() > 3);
    let folder = tempfile::tempdir().unwrap();
    let mut file = EventsFile::open(folder.path(), 0).unwrap();
    for Step { step, wall_time, metrics } in content {
        let metrics: Metrics =
            metrics.into_iter().map(|(tag, value)| (tag, value.parse().unwrap())).collect();
        file.append_at(wall_time, step, &metrics).unwrap();
    }
    let expected = std::fs::read(align_testkit::fixture("tensorboard/scalars.tfevents")).unwrap();
    assert!(std::fs::read(file.path()).unwrap() == expected);
}

/// The reader of these tests checks checksums by itself: 32 zero bytes and 32 of 0xff have those of RFC 3720, appendix B.4.
#[test]
fn the_reader_knows_the_checksums_of_the_standard() {
    assert_eq!(events::crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(events::crc32c(&[0xff; 32]), 0x62a8_ab43);
}

/// The names are such that TensorBoard finds the files and reads them in the order in which they were written.
#[test]
fn names_are_those_tensorboard_looks_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for step in 1..=3 {
        let mut file = EventsFile::open(folder.path(), step - 1).unwrap();
        file.append(step, &[("loss".into(), 1.0)]).unwrap();
        paths.push(file.path().to_owned());
    }
    assert_eq!(files(folder.path()), paths, "a later process has a later name, even within a second");
    for path in &paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        let parts: Vec<&str> = name.split('.').collect();
        let ["events", "out", "tfevents", time, _, pid, "align"] = parts.as_slice() else { panic!("{name}") };
        assert_eq!(time.len(), 10, "{name}");
        assert_eq!(*pid, std::process::id().to_string());
    }
    assert_eq!(steps(folder.path()), [1, 2, 3]);
}

#[test]
fn later_steps_are_cut_and_files_of_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("events.out.tfevents.1700000000.host.1.0");
    let run = |from: u64, to: u64| {
        let mut file = EventsFile::open(folder.path(), from).unwrap();
        (from + 1..=to).for_each(|step| file.append(step, &[("loss".into(), step as f64)]).unwrap());
    };
    run(0, 6);
    run(4, 9);
    run(9, 9);
    assert_eq!(steps(folder.path()), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(files(folder.path()).len(), 2, "a process that logs nothing leaves no file");
    run(3, 5);
    assert_eq!(steps(folder.path()), [1, 2, 3, 4, 5]);
    std::fs::write(&theirs, "theirs").unwrap();
    EventsFile::open(folder.path(), 0).unwrap();
    assert_eq!(files(folder.path()), std::slice::from_ref(&theirs));
    assert_eq!(std::fs::read(theirs).unwrap(), b"theirs");
}

/// Wherever a kill cut the last file, and whatever stands behind, whole events stay and the run goes on behind them.
#[test]
fn a_torn_end_is_cut_at_the_last_whole_event() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = EventsFile::open(folder.path(), 0).unwrap();
    let mut ends = Vec::new();
    for step in 1..=3 {
        file.append(step, &[("loss".into(), f64::NAN), ("a/b".into(), step as f64)]).unwrap();
        ends.push(std::fs::metadata(file.path()).unwrap().len() as usize);
    }
    let path = file.path().to_owned();
    let whole = std::fs::read(&path).unwrap();
    for torn in 0..=whole.len() {
        for (behind, junk) in [(&b""[..], false), (&[0; 40], true)] {
            files(folder.path()).iter().for_each(|path| std::fs::remove_file(path).unwrap());
            let found = [&whole[..torn], behind].concat();
            std::fs::write(&path, &found).unwrap();
            // An event whose checksum happens to end in a zero is whole again with a zero behind its torn end.
            let kept = ends.iter().filter(|end| found.get(..**end) == Some(&whole[..**end])).count() as u64;
            let mut file = EventsFile::open(folder.path(), 3).unwrap();
            assert_eq!(steps(folder.path()), (1..=kept).collect::<Vec<_>>(), "{torn} bytes, junk: {junk}");
            file.append(4, &[]).unwrap();
            assert_eq!(steps(folder.path()).last(), Some(&4));
        }
    }
}

/// All numbers of every logged line, once, in the order of the file, in a run that was interrupted as in one that was
/// not.
#[test]
fn a_run_writes_what_is_in_its_metrics() {
    let straight = tempfile::tempdir().unwrap();
    let setup = Setup::default();
    setup.run(straight.path(), |_| {}).unwrap();
    assert_same_as_metrics(straight.path());

    let torn = tempfile::tempdir().unwrap();
    let save = |model: &common::TinyLm, folder: &Path| {
        let late = folder.ends_with(".tmp-step-15/model");
        if late { Err("no more".into()) } else { model.save(folder) }
    };
    setup.run_with(torn.path(), save, |_| {}).unwrap_err();
    assert_eq!(steps(torn.path()).last(), Some(&15), "written up to the end, a checkpoint is of step 10");
    setup.run(torn.path(), |_| {}).unwrap();
    assert_same_as_metrics(torn.path());
    let timeless = |folder: &Path| -> Vec<_> {
        let clock = ["tokens_per_second", "pairs_per_second", "peak_rss_mb", "time"];
        let mut all = events::of_run(folder);
        all.iter_mut().for_each(|(_, metrics)| metrics.retain(|(name, _)| !clock.contains(&name.as_str())));
        all
    };
    assert_eq!(timeless(torn.path()), timeless(straight.path()));
}

fn assert_same_as_metrics(run: &Path) {
    let lines = timeless_metrics(run);
    let events = events::of_run(run);
    assert_eq!(events.len(), lines.len());
    for (line, (step, numbers)) in lines.iter().zip(&events) {
        assert_eq!(line["step"], *step);
        for (name, value) in line.iter().filter(|(name, _)| *name != "step") {
            let shown = numbers.iter().find(|(tag, _)| tag == name).unwrap().1;
            assert_eq!(shown, value.as_f64().unwrap() as f32, "{name} of step {step}");
        }
        // The four that depend on the clock and the memory are not in these lines.
        assert_eq!(numbers.len(), line.len() - 1 + 4);
    }
}

fn metrics() -> impl Strategy<Value = Metrics> {
    let value = prop_oneof![any::<f64>(), Just(f64::NAN), Just(f64::NEG_INFINITY), Just(-0.0)];
    proptest::collection::vec(("[a-zβ/_]{0,200}", value), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_written_is_read(lines in proptest::collection::vec(metrics(), 1..6), gap in 1u64..1 << 60) {
        let folder = tempfile::tempdir().unwrap();
        let mut file = EventsFile::open(folder.path(), 0).unwrap();
        for (line, metrics) in (1..).zip(&lines) {
            file.append(line * gap, metrics).unwrap();
        }
        let read = events::of_run(folder.path());
        prop_assert_eq!(read.len(), lines.len());
        for ((line, expected), (step, found)) in (1..).zip(&lines).zip(read) {
            prop_assert_eq!(step, line * gap);
            let bits = |name: &str, value: f32| (name.to_owned(), value.to_bits());
            let expected: Vec<_> = expected.iter().map(|(name, value)| bits(name, *value as f32)).collect();
            let found: Vec<_> = found.iter().map(|(name, value)| bits(name, *value)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
