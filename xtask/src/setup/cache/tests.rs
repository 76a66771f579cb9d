//! The promises of the cache: whole or absent, one writer at a time, damage noticed.

use super::*;
use crate::setup::wheels::PLATFORMS;

fn cache(dir: &Path) -> Cache {
    Cache { platform: &PLATFORMS[0], parent: dir.to_path_buf() }
}

/// A tree with every needed file, as small as possible.
fn tree(cache: &Cache, staging: &Staging) -> PathBuf {
    let tree = staging.path().join("tree");
    for file in cache.platform.needed {
        let path = tree.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    tree
}

fn filled(dir: &Path) -> (Cache, Entry) {
    let cache = cache(dir);
    let staging = cache.staging().unwrap();
    let entry = cache.commit(&tree(&cache, &staging)).unwrap();
    (cache, entry)
}

#[test]
fn a_committed_tree_is_a_good_entry() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(cache(dir.path()).entry().unwrap_err(), "not there yet");
    let (cache, entry) = filled(dir.path());
    assert_eq!(cache.entry().unwrap(), entry);
    assert_eq!(fs::read_to_string(entry.torch().join("build-version")).unwrap(), "2.13.0\n");
    // Only the entry remains: the staging folder is gone.
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [cache.platform.key]);
}

#[test]
fn a_tree_without_a_needed_file_never_becomes_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let staging = cache.staging().unwrap();
    let tree = tree(&cache, &staging);
    fs::remove_file(tree.join("nvidia/cu13/lib/libcupti.so.13")).unwrap();
    let error = cache.commit(&tree).unwrap_err();
    assert!(error.to_string().contains("libcupti.so.13 is missing"), "{error}");
    assert!(!cache.dir().exists());
}

#[test]
fn damage_is_noticed() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("build-version", |dir| fs::write(dir.join("torch/build-version"), "2.12.0").unwrap()),
        ("libc10.so is missing", |dir| fs::remove_file(dir.join("torch/lib/libc10.so")).unwrap()),
        ("torch/lib has", |dir| fs::write(dir.join("torch/lib/libtorch_cpu.so"), "").unwrap()),
        ("torch/include has", |dir| fs::write(dir.join("torch/include/new.h"), "").unwrap()),
        ("align-stamp.json", |dir| fs::remove_file(dir.join("align-stamp.json")).unwrap()),
    ];
    for (message, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let (cache, entry) = filled(dir.path());
        damage(&entry.dir);
        let why = cache.entry().unwrap_err();
        assert!(why.contains(message), "{why}");
    }
}

#[test]
fn an_entry_of_other_wheels_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, entry) = filled(dir.path());
    let mut stamp = entry.stamp.clone();
    stamp.wheels.values_mut().next().unwrap().replace_range(0..1, "x");
    stamp.write(&entry.dir).unwrap();
    assert!(cache.entry().unwrap_err().contains("other files"));
}

#[test]
fn a_damaged_entry_is_replaced_and_leftovers_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, entry) = filled(dir.path());
    fs::write(entry.dir.join("torch/lib/libc10.so"), "damaged").unwrap();
    for leftover in [".partial-1", ".old-2"] {
        fs::create_dir_all(cache.beside(leftover).join("torch")).unwrap();
    }
    fs::create_dir(cache.downloads()).unwrap();

    cache.remove_leftovers();
    assert!(!cache.beside(".partial-1").exists() && !cache.beside(".old-2").exists());
    assert!(cache.downloads().exists() && cache.dir().exists(), "wheels and the entry stay");

    let staging = cache.staging().unwrap();
    assert_eq!(cache.commit(&tree(&cache, &staging)).unwrap(), entry);
}

#[test]
fn leftovers_beside_a_good_entry_go_unless_a_run_is_at_work() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, entry) = filled(dir.path());
    fs::create_dir(cache.beside(".partial-1")).unwrap();
    fs::create_dir(cache.downloads()).unwrap();
    let at_work = cache.lock().unwrap();
    cache.tidy_up();
    assert!(cache.beside(".partial-1").exists() && cache.downloads().exists());
    drop(at_work);
    cache.tidy_up();
    assert!(!cache.beside(".partial-1").exists() && !cache.downloads().exists());
    assert_eq!(cache.entry().unwrap(), entry);
}

#[test]
fn the_lock_lets_one_run_in_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path());
    let first = cache.lock().unwrap();
    let second = File::options().write(true).open(cache.beside(".lock")).unwrap();
    assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
    drop(first);
    assert!(second.try_lock().is_ok());
}

#[test]
fn the_variable_of_the_user_names_the_cache() {
    let var = |name: &str| match name {
        "ALIGN_CACHE_DIR" => Some(PathBuf::from("/elsewhere")),
        _ => Some(PathBuf::from("/home/u")),
    };
    assert_eq!(base_dir(var), Some("/elsewhere".into()));
    assert_eq!(base_dir(|_| None), None);
}

#[cfg(target_os = "linux")]
#[test]
fn linux_follows_xdg() {
    let with = |xdg: Option<&'static str>| {
        base_dir(move |name| match name {
            "XDG_CACHE_HOME" => xdg.map(PathBuf::from),
            "HOME" => Some("/home/u".into()),
            _ => None,
        })
    };
    assert_eq!(with(None), Some("/home/u/.cache/align".into()));
    assert_eq!(with(Some("/xdg")), Some("/xdg/align".into()));
    assert_eq!(with(Some("relative")), Some("/home/u/.cache/align".into()));
}
