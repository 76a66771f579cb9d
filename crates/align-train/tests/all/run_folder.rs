//! Which folders are opened, refused, emptied; what two processes may do; what configuration may change.

use std::path::Path;

use align_train::{Environment, Error, OpenMode, RunFolder, Start};

const CONFIG: &str = "seed = 1\nbatch_size = 4\nthreads = 1\nlog_every = 10\n";

fn open(path: &Path, mode: OpenMode) -> align_train::Result<align_train::Opened> {
    RunFolder::open(path, mode, CONFIG)
}

/// A folder in which a run of ours was finished.
fn finished() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), OpenMode::New).unwrap();
    assert_eq!(opened.start, Start::Beginning);
    opened.folder.write_environment(&Environment::collect("0.1.0", "2.13.0", "cpu", 1)).unwrap();
    let save = |model: &Path| Ok(std::fs::write(model.join("weights"), "w")?);
    opened.folder.finish(&save, serde_json::Map::new()).unwrap();
    folder
}

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_new_run_needs_an_empty_folder() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep/run");
    drop(open(&path, OpenMode::New).unwrap());
    assert_eq!(std::fs::read_to_string(path.join("config.toml")).unwrap(), CONFIG);
    let error = open(&path, OpenMode::New).unwrap_err();
    assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
    let file = parent.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(open(&file, OpenMode::Resume).unwrap_err().to_string().contains("file"));
}

#[test]
fn a_finished_run_is_left_as_it_is() {
    let folder = finished();
    let before = std::fs::read(folder.path().join("summary.json")).unwrap();
    let opened = open(folder.path(), OpenMode::Resume).unwrap();
    assert!(matches!(opened.start, Start::Finished(_)));
    assert_eq!(std::fs::read(folder.path().join("summary.json")).unwrap(), before);
    drop(opened);
    // Without the model it is not finished.
    std::fs::remove_dir_all(folder.path().join("model")).unwrap();
    assert_eq!(open(folder.path(), OpenMode::Resume).unwrap().start, Start::Beginning);
}

#[test]
fn overwriting_leaves_nothing_of_the_old_run() {
    let folder = finished();
    std::fs::write(folder.path().join("events.out.tfevents.1.host"), "x").unwrap();
    std::fs::create_dir_all(folder.path().join("checkpoints/step-5")).unwrap();
    let opened = open(folder.path(), OpenMode::Overwrite).unwrap();
    assert_eq!(opened.start, Start::Beginning);
    assert_eq!(names(folder.path()), [".align-run.lock", "config.toml"]);
}

#[test]
fn folders_that_are_not_ours_are_never_touched() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("model")).unwrap();
    std::fs::write(folder.path().join("model/thesis.tex"), "years of work").unwrap();
    for mode in [OpenMode::New, OpenMode::Resume, OpenMode::Overwrite] {
        let error = open(folder.path(), mode).unwrap_err();
        assert!(matches!(error, Error::NotEmpty { .. } | Error::NotARunFolder { .. }), "{error}");
        assert_eq!(names(folder.path()), ["model"]);
    }
    let ours = finished();
    std::fs::write(ours.path().join("notes.txt"), "x").unwrap();
    let error = open(ours.path(), OpenMode::Overwrite).unwrap_err().to_string();
    assert!(error.contains("notes.txt") && error.contains("nothing was touched"), "{error}");
    assert!(ours.path().join("model/weights").exists());
    // A stray file does not stop a run from being continued.
    assert!(matches!(open(ours.path(), OpenMode::Resume).unwrap().start, Start::Finished(_)));
}

#[test]
fn a_copy_without_hidden_files_is_still_a_run_folder() {
    let folder = finished();
    std::fs::remove_file(folder.path().join(".align-run.lock")).unwrap();
    assert!(matches!(open(folder.path(), OpenMode::Resume).unwrap().start, Start::Finished(_)));
}

#[test]
fn two_processes_do_not_write_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path(), OpenMode::New).unwrap();
    for mode in [OpenMode::Resume, OpenMode::Overwrite] {
        let error = open(folder.path(), mode).unwrap_err();
        assert!(matches!(error, Error::Locked { .. }), "{error}");
    }
    drop(first);
    open(folder.path(), OpenMode::Resume).unwrap();
}

#[test]
fn another_configuration_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), OpenMode::New).unwrap());
    let changed = CONFIG.replace("seed = 1", "seed = 2").replace("batch_size = 4", "batch_size = 8");
    let error = RunFolder::open(folder.path(), OpenMode::Resume, &changed).unwrap_err();
    match &error {
        Error::ConfigMismatch { differences, .. } => {
            let keys: Vec<&str> = differences.iter().map(|d| d.key.as_str()).collect();
            assert_eq!(keys, ["batch_size", "seed"]);
        }
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("seed (1 in the run, 2 now)"), "{error}");
    let aside = CONFIG.replace("log_every = 10", "log_every = 1").replace("threads = 1", "threads = 2");
    let opened = RunFolder::open(folder.path(), OpenMode::Resume, &aside).unwrap();
    assert_eq!(opened.notices.len(), 1);
    assert!(opened.notices[0].contains("bits may differ"), "{:?}", opened.notices);
    assert_eq!(std::fs::read_to_string(folder.path().join("config.toml")).unwrap(), aside);
    drop(opened);
    assert!(RunFolder::open(folder.path(), OpenMode::Resume, "seed = ").is_err());
}

#[test]
fn every_process_of_a_run_is_in_its_environment() {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::collect("0.1.0", "2.13.0", "cpu", 2);
    for _ in 0..3 {
        let opened = open(folder.path(), OpenMode::Resume).unwrap();
        opened.folder.write_environment(&environment).unwrap();
    }
    let text = std::fs::read(folder.path().join("environment.json")).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(value["program"], "align");
    assert_eq!(value["threads"], 2);
    assert_eq!(value["resumed"].as_array().unwrap().len(), 2);
}

#[test]
fn what_a_kill_left_half_done_is_swept() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), OpenMode::New).unwrap());
    std::fs::create_dir_all(folder.path().join("checkpoints/.tmp-step-5/model")).unwrap();
    std::fs::create_dir_all(folder.path().join("checkpoints/.old-step-1")).unwrap();
    std::fs::create_dir(folder.path().join(".tmp-model")).unwrap();
    std::fs::write(folder.path().join(".tmp-summary.json"), "{").unwrap();
    open(folder.path(), OpenMode::Resume).unwrap();
    assert_eq!(names(folder.path()), [".align-run.lock", "checkpoints", "config.toml"]);
    assert!(names(&folder.path().join("checkpoints")).is_empty());
}

#[test]
fn strangers_with_names_like_leftovers_are_not_swept() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path(), OpenMode::New).unwrap());
    let checkpoints = folder.path().join("checkpoints");
    std::fs::create_dir_all(checkpoints.join(".old-step-5")).unwrap();
    std::fs::create_dir(checkpoints.join(".old-step-of-mine")).unwrap();
    std::fs::write(folder.path().join(".tmp-thesis.tex"), "years of work").unwrap();
    std::fs::write(folder.path().join(".tmp-events.out.tfevents.1.host"), "x").unwrap();
    drop(open(folder.path(), OpenMode::Resume).unwrap());
    let expected = [".align-run.lock", ".tmp-thesis.tex", "checkpoints", "config.toml"];
    assert_eq!(names(folder.path()), expected);
    assert_eq!(names(&checkpoints), [".old-step-of-mine"]);
    let error = open(folder.path(), OpenMode::Overwrite).unwrap_err().to_string();
    assert!(error.contains(".tmp-thesis.tex") && error.contains("nothing was touched"), "{error}");
}

#[test]
fn a_model_that_cannot_be_written_leaves_the_run_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path(), OpenMode::New).unwrap();
    let full = |model: &Path| {
        std::fs::write(model.join("half"), "w")?;
        Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into())
    };
    let error = opened.folder.finish(&full, serde_json::Map::new()).unwrap_err();
    assert!(matches!(error, Error::DiskFull { .. }), "{error}");
    assert_eq!(names(folder.path()), [".align-run.lock", "config.toml"]);
}
