//! Reference log-probabilities on disk, so that they are computed once for the same reference and the same rows.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use align_types::{PromptGroup, TokenId};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// Begins every entry; the last byte is the version of the format.
const MAGIC: &[u8; 8] = b"alignrl\x01";
/// Extension of entries.
const EXTENSION: &str = "logps";
/// Begins the names of entries that are being written.
const DRAFT: &str = ".tmp-";
/// A draft that is older than this was left by a process that ended.
const LEFTOVER: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a SHA-256.
const DIGEST: usize = 32;
/// Bytes before the numbers: magic, key, count.
const HEADER: usize = MAGIC.len() + DIGEST + 8;

/// A folder of reference log-probabilities, one number for each answer of some rows.
///
/// An entry is found again by what its numbers depend on: the settings given to [`Self::open`] and the tokens of the
/// rows, those that are trained on marked. Whatever else is in the folder is never taken for one: an entry holds its
/// key and a digest of itself, and one that does not fit is [`Lookup::Damaged`]. Entries are written beside and renamed,
/// so that several processes can share the folder, and all of it can be deleted at any time.
///
/// Layout of an entry, numbers little-endian: 8 bytes that name format and version, the key (32 bytes, SHA-256), the
/// count (8 bytes), as many float64, the SHA-256 of all before (32 bytes).
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use align_data::{Lookup, PromptGroup, ReferenceCache};
/// use align_types::Completion;
/// # let folder = tempfile::tempdir()?;
/// let rows = [PromptGroup::new(vec![1, 2], vec![Completion::new(vec![3])])];
/// let cache = ReferenceCache::open(folder.path(), &[("weights", "5f2a"), ("max_length", "1024")])?;
/// assert_eq!(cache.get(&rows), Lookup::Absent);
/// cache.put(&rows, &[-1.5])?;
/// assert_eq!(cache.get(&rows), Lookup::Found(vec![-1.5]));
/// let shorter = ReferenceCache::open(folder.path(), &[("weights", "5f2a"), ("max_length", "512")])?;
/// assert_eq!(shorter.get(&rows), Lookup::Absent);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ReferenceCache {
    folder: PathBuf,
    /// Of the settings.
    settings: Sha256,
}

/// What a cache has for some rows.
#[derive(Debug, Clone, PartialEq)]
pub enum Lookup {
    /// One number per answer, in the order of rows and answers; all are finite.
    Found(Vec<f64>),
    /// Nothing.
    Absent,
    /// A file that cannot be trusted; the text names it and says why.
    Damaged(String),
}

impl ReferenceCache {
    /// Opens a folder, which is made if it is not there; `settings` are names and values of everything that the numbers
    /// depend on beside the tokens of the rows.
    ///
    /// # Errors
    /// [`Error::Write`] for a folder that cannot be made.
    pub fn open(folder: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let write = |source| Error::Write { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(write)?;
        sweep(folder);
        let mut hash = Sha256::new();
        for (name, value) in settings {
            text(&mut hash, name);
            text(&mut hash, value);
        }
        Ok(Self { folder: folder.to_owned(), settings: hash })
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks rows up.
    pub fn get(&self, rows: &[PromptGroup]) -> Lookup {
        let key = self.key(rows);
        let path = self.path(&key);
        match read(&path, &key, answers(rows)) {
            Ok(values) => Lookup::Found(values),
            Err(Unread::Absent) => Lookup::Absent,
            Err(Unread::Damaged(why)) => Lookup::Damaged(format!("{}: {why}", path.display())),
        }
    }

    /// Keeps the numbers of rows, one per answer; an entry that is there is replaced.
    ///
    /// # Errors
    /// [`Error::Config`] for numbers that are not finite, too few or too many; [`Error::Write`].
    pub fn put(&self, rows: &[PromptGroup], values: &[f64]) -> Result<()> {
        let refused = |value: String, expected: String| {
            Err(Error::Config { key: "reference log-probabilities".into(), value, expected })
        };
        if values.len() != answers(rows) {
            return refused(
                format!("{} numbers", values.len()),
                format!("one of each of {} answers", answers(rows)),
            );
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return refused(value.to_string(), "finite numbers".into());
        }
        let key = self.key(rows);
        let path = self.path(&key);
        self.write(&path, &entry(&key, values)).map_err(|source| Error::Write { path, source })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        let mut draft = tempfile::Builder::new().prefix(DRAFT).tempfile_in(&self.folder)?;
        draft.write_all(bytes)?;
        // Otherwise a crash could leave the name without the content; the digest would tell, but too late.
        draft.as_file().sync_all()?;
        draft.persist(path).map(|_| ()).map_err(|error| error.error)
    }

    fn path(&self, key: &[u8; DIGEST]) -> PathBuf {
        let name: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        self.folder.join(name).with_extension(EXTENSION)
    }

    /// Computes what an entry is known by. Labels, scores and names are not in it: methods that train on the same
    /// tokens share entries.
    fn key(&self, rows: &[PromptGroup]) -> [u8; DIGEST] {
        let mut hash = self.settings.clone();
        number(&mut hash, rows.len());
        for group in rows {
            ids(&mut hash, &group.prompt);
            number(&mut hash, group.completions.len());
            for answer in &group.completions {
                ids(&mut hash, &answer.token_ids);
                for range in answer.trained_ranges() {
                    number(&mut hash, range.start);
                    number(&mut hash, range.end);
                }
                // No range begins here.
                number(&mut hash, usize::MAX);
            }
        }
        hash.finalize().into()
    }
}

fn answers(rows: &[PromptGroup]) -> usize {
    rows.iter().map(|group| group.completions.len()).sum()
}

fn number(hash: &mut Sha256, n: usize) {
    hash.update((n as u64).to_le_bytes());
}

fn text(hash: &mut Sha256, text: &str) {
    number(hash, text.len());
    hash.update(text);
}

fn ids(hash: &mut Sha256, ids: &[TokenId]) {
    number(hash, ids.len());
    ids.iter().for_each(|id| hash.update(id.to_le_bytes()));
}

fn entry(key: &[u8; DIGEST], values: &[f64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + 8 * values.len() + DIGEST);
    bytes.extend(MAGIC);
    bytes.extend(key);
    bytes.extend((values.len() as u64).to_le_bytes());
    values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    let digest = Sha256::digest(&bytes);
    bytes.extend(digest);
    bytes
}

/// Why there are no numbers.
enum Unread {
    Absent,
    Damaged(String),
}

impl From<&str> for Unread {
    fn from(why: &str) -> Self {
        Self::Damaged(why.to_owned())
    }
}

/// Reads an entry and believes nothing of it.
fn read(path: &Path, key: &[u8; DIGEST], count: usize) -> Result<Vec<f64>, Unread> {
    let failed = |error: std::io::Error| Unread::Damaged(format!("it cannot be read: {error}"));
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Unread::Absent),
        other => other.map_err(failed)?,
    };
    // Before anything is read: a file of another size is not worth its memory.
    let size = file.metadata().map_err(failed)?.len();
    let expected = HEADER + 8 * count + DIGEST;
    if size != expected as u64 {
        return Err(Unread::Damaged(format!("it has {size} bytes instead of {expected}")));
    }
    let mut bytes = Vec::with_capacity(expected);
    file.read_to_end(&mut bytes).map_err(failed)?;
    let torn = "it ends too early";
    let (content, digest) = bytes.split_last_chunk::<DIGEST>().ok_or(torn)?;
    let (magic, rest) = content.split_first_chunk::<8>().ok_or(torn)?;
    if magic != MAGIC {
        return Err("it is not an entry of this version".into());
    }
    let (its_key, rest) = rest.split_first_chunk::<DIGEST>().ok_or(torn)?;
    if its_key != key {
        return Err("it was made of another model, other settings or other rows".into());
    }
    if <[u8; DIGEST]>::from(Sha256::digest(content)) != *digest {
        return Err("it was changed or damaged after it was written".into());
    }
    let (its_count, numbers) = rest.split_first_chunk::<8>().ok_or(torn)?;
    let (numbers, odd) = numbers.as_chunks::<8>();
    if u64::from_le_bytes(*its_count) != count as u64 || numbers.len() != count || !odd.is_empty() {
        return Err("it has numbers of other answers".into());
    }
    let values: Vec<f64> = numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err("a number is not finite".into())
    }
}

/// Deletes what processes that were killed left half-written. Best effort: it only takes room.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let draft = entry.file_name().to_string_lossy().starts_with(DRAFT);
        let changed = entry.metadata().and_then(|found| found.modified()).ok();
        if draft && changed.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > LEFTOVER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "a mask of one range")]

    use std::time::SystemTime;

    use align_types::Completion;

    use super::*;

    const SETTINGS: [(&str, &str); 3] = [("weights", "w"), ("template", "t"), ("dtype", "f32")];

    fn group(prompt: &[TokenId], answers: &[&[TokenId]]) -> PromptGroup {
        let answers = answers.iter().map(|ids| Completion::named("a", ids.to_vec())).collect();
        PromptGroup::new(prompt.to_vec(), answers)
    }

    fn rows() -> Vec<PromptGroup> {
        vec![group(&[1, 2], &[&[3], &[4, 5]]), group(&[6], &[&[7, 8]])]
    }

    const VALUES: [f64; 3] = [-0.1, -f64::MIN_POSITIVE, -1234.567];

    fn only_entry(folder: &Path) -> PathBuf {
        let paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(paths.len(), 1, "{paths:?}");
        paths[0].clone()
    }

    #[test]
    fn numbers_come_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ReferenceCache::open(&folder.path().join("deep/er"), &SETTINGS).unwrap();
        assert_eq!(cache.get(&rows()), Lookup::Absent);
        cache.put(&rows(), &VALUES).unwrap();
        let Lookup::Found(found) = cache.get(&rows()) else { panic!("not found") };
        assert_eq!(found.map_bits(), VALUES.to_vec().map_bits());
        let again = ReferenceCache::open(cache.folder(), &SETTINGS).unwrap();
        assert_eq!(again.get(&rows()), Lookup::Found(VALUES.to_vec()));
        // No row at all is a thing to look up, too.
        assert_eq!(cache.get(&[]), Lookup::Absent);
        cache.put(&[], &[]).unwrap();
        assert_eq!(cache.get(&[]), Lookup::Found(vec![]));
    }

    trait Bits {
        fn map_bits(&self) -> Vec<u64>;
    }

    impl Bits for Vec<f64> {
        fn map_bits(&self) -> Vec<u64> {
            self.iter().map(|value| value.to_bits()).collect()
        }
    }

    #[test]
    fn every_setting_and_every_token_counts() {
        let folder = tempfile::tempdir().unwrap();
        let cache = |settings: &[(&str, &str)]| ReferenceCache::open(folder.path(), settings).unwrap();
        cache(&SETTINGS).put(&rows(), &VALUES).unwrap();
        for place in 0..SETTINGS.len() {
            let mut other = SETTINGS;
            other[place].1 = "other";
            assert_eq!(cache(&other).get(&rows()), Lookup::Absent, "{}", SETTINGS[place].0);
        }
        // Where one value ends and the next name begins.
        let moved = [("weights", "wt"), ("emplate", "t"), ("dtype", "f32")];
        assert_eq!(cache(&moved).get(&rows()), Lookup::Absent);
        assert_eq!(cache(&SETTINGS[..2]).get(&rows()), Lookup::Absent);
        let mut masked = rows();
        masked[0].completions[1].trained = Some(vec![1..2]);
        let mut fewer = rows();
        fewer.pop();
        let mut swapped = rows();
        swapped.reverse();
        for other in [
            vec![group(&[1, 2], &[&[3], &[4, 6]]), group(&[6], &[&[7, 8]])],
            vec![group(&[1], &[&[2, 3], &[4, 5]]), group(&[6], &[&[7, 8]])],
            vec![group(&[1, 2], &[&[3, 4], &[5]]), group(&[6], &[&[7, 8]])],
            vec![group(&[1, 2], &[&[3]]), group(&[6], &[&[4, 5], &[7, 8]])],
            masked,
            fewer,
            swapped,
        ] {
            assert_eq!(cache(&SETTINGS).get(&other), Lookup::Absent, "{other:?}");
        }
        // What the model does not read does not count.
        let mut labelled = rows();
        labelled[0].completions[0].label = Some(true);
        labelled[0].completions[0].name = "chosen".into();
        labelled[1].completions[0].reward = Some(0.5);
        labelled[1].completions[0].trained = Some(vec![0..2]);
        assert_eq!(cache(&SETTINGS).get(&labelled), Lookup::Found(VALUES.to_vec()));
    }

    #[test]
    fn no_bit_of_an_entry_can_change_unseen() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ReferenceCache::open(folder.path(), &SETTINGS).unwrap();
        cache.put(&rows(), &VALUES).unwrap();
        let path = only_entry(folder.path());
        let whole = fs::read(&path).unwrap();
        for place in 0..whole.len() {
            for bit in [1, 0x80] {
                let mut changed = whole.clone();
                changed[place] ^= bit;
                fs::write(&path, changed).unwrap();
                assert!(matches!(cache.get(&rows()), Lookup::Damaged(_)), "byte {place}");
            }
        }
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(matches!(cache.get(&rows()), Lookup::Damaged(_)), "{len} bytes");
        }
        fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
        let Lookup::Damaged(why) = cache.get(&rows()) else { panic!("a longer file is taken") };
        assert!(why.contains(".logps") && why.contains("bytes instead of"), "{why}");
        // It is replaced like any other.
        cache.put(&rows(), &VALUES).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert_eq!(cache.get(&rows()), Lookup::Found(VALUES.to_vec()));
    }

    #[test]
    fn an_entry_under_another_name_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let cache = ReferenceCache::open(folder.path(), &SETTINGS).unwrap();
        cache.put(&rows(), &VALUES).unwrap();
        let other_model = ReferenceCache::open(other.path(), &[("weights", "others")]).unwrap();
        other_model.put(&rows(), &VALUES).unwrap();
        fs::copy(only_entry(other.path()), only_entry(folder.path())).unwrap();
        let Lookup::Damaged(why) = cache.get(&rows()) else { panic!("a cache of another model is taken") };
        assert!(why.contains("another model"), "{why}");
        // A folder in its place is no entry, either.
        let path = only_entry(folder.path());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(cache.get(&rows()), Lookup::Damaged(_)));
        assert!(cache.put(&rows(), &VALUES).is_err());
    }

    #[test]
    fn numbers_that_are_none_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ReferenceCache::open(folder.path(), &SETTINGS).unwrap();
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let error = cache.put(&rows(), &[-1.0, value, -1.0]).unwrap_err().to_string();
            assert!(error.contains("finite"), "{error}");
        }
        for values in [&VALUES[..2], &[-1.0; 4]] {
            assert!(cache.put(&rows(), values).unwrap_err().to_string().contains("3 answers"));
        }
        // Nor are they taken from an entry that is otherwise in order.
        let key = cache.key(&rows());
        fs::write(cache.path(&key), entry(&key, &[-1.0, f64::NAN, -1.0])).unwrap();
        assert!(matches!(cache.get(&rows()), Lookup::Damaged(why) if why.contains("not finite")));
    }

    #[test]
    fn several_writers_and_readers_never_see_half_an_entry() {
        let folder = tempfile::tempdir().unwrap();
        let rows: Vec<PromptGroup> = (0..500).map(|i| group(&[i], &[&[i + 1]])).collect();
        let values: Vec<f64> = (0..500).map(|i| -f64::from(i)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cache = ReferenceCache::open(folder.path(), &SETTINGS).unwrap();
                    for _ in 0..25 {
                        cache.put(&rows, &values).unwrap();
                        assert_eq!(cache.get(&rows), Lookup::Found(values.clone()));
                    }
                });
            }
        });
        only_entry(folder.path());
    }

    #[test]
    fn old_drafts_are_swept_and_young_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for (name, age) in [(".tmp-old", 2), (".tmp-young", 0), ("other", 2)] {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age * 24 * 3600)).unwrap();
        }
        ReferenceCache::open(folder.path(), &SETTINGS).unwrap();
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".tmp-young", "other"]);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = ReferenceCache::open(&file.join("cache"), &SETTINGS).unwrap_err().to_string();
        assert!(error.contains("file/cache"), "{error}");
    }
}
