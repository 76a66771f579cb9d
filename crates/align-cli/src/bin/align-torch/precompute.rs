//! `--precompute-ref-log-probs`: what the reference gives for every answer, found in the cache or computed once.

use std::{path::Path, sync::atomic::Ordering};

use align_cli::{Error, Result, cache, talk};
use align_core::align_types::PromptGroup;
use align_data::{Lookup, ReferenceCache};
use align_lm::Model;

use crate::{
    computer, doctor, inputs, interrupt, logprobs, model, progress::Progress, rows::Rows, train::Setup,
};

/// Rows of one entry of the cache: few enough for memory where the rows are on disk, and what is lost at most when the
/// program is killed.
const AT_ONCE: usize = 1024;

/// The folder of the cache, below that of the program.
const FOLDER: &str = "ref-log-probs";

/// Writes the log-probability under the reference into every answer of the rows.
///
/// `folders` hold the reference's weights; `load` makes it, once, where an answer has to be computed.
///
/// # Errors
/// A reference that cannot be loaded or run, or gives an answer no finite log-probability. A cache that cannot be used is
/// none: it is said, and the numbers are computed.
pub fn run(
    setup: &Setup<'_>,
    folders: &[&Path],
    load: impl FnOnce() -> Result<Model>,
    rows: &mut Rows,
) -> Result<()> {
    let cache = open(setup, folders)?;
    let mut load = Some(load);
    let mut replicas: Vec<Model> = Vec::new();
    let mut source = Source { cache, found: 0, computed: 0 };
    let all = rows.train.len() + rows.eval.len();
    let mut progress = Progress::new(all, 0, setup.train.machine.no_progress);
    for set in [&mut rows.train, &mut rows.eval] {
        let taken = std::mem::replace(set, Vec::new().into());
        *set = taken.update::<Error>(AT_ONCE, |groups| {
            let sums = source.sums(groups, |groups| {
                if let Some(load) = load.take() {
                    replicas = model::replicas(load()?, setup.threads)?;
                }
                let tokens = setup.micro_batch_tokens;
                let sums = logprobs::sums(&mut replicas, groups, tokens, &mut progress, go_on)?;
                Ok(sums.into_iter().map(|(sum, _)| sum).collect())
            })?;
            let answers = groups.iter_mut().flat_map(|group| &mut group.completions);
            answers.zip(sums).for_each(|(answer, sum)| answer.ref_logprob = Some(sum));
            Ok(())
        })?;
    }
    progress.finish();
    source.tell();
    Ok(())
}

/// Opens the cache for this reference; `None`, with a note, where there can be none.
fn open(setup: &Setup<'_>, folders: &[&Path]) -> Result<Option<ReferenceCache>> {
    let Some(folder) = cache::folder() else {
        talk::say("reference log-probabilities are not kept: neither XDG_CACHE_HOME nor HOME is set");
        return Ok(None);
    };
    let weights: Vec<String> = folders.iter().map(|folder| inputs::weights(folder)).collect::<Result<_>>()?;
    let data = setup.train.data_config();
    let reference = &setup.reference;
    let settings = [
        ("program", env!("CARGO_PKG_VERSION").to_owned()),
        ("libtorch", doctor::libtorch()),
        ("weights", weights.join("+")),
        ("template", setup.folder.template.as_ref().map(|it| it.source().to_owned()).unwrap_or_default()),
        ("length", format!("{} {:?} {:?}", setup.max_length, data.max_prompt_length, data.truncation)),
        ("dtype", format!("{:?} {:?}", reference.compute, reference.frozen)),
        // How sums are cut decides their last bit, and a run must not end differently for what the cache holds.
        ("device", computer::device_name(reference.device)),
        ("micro_batch_tokens", setup.micro_batch_tokens.to_string()),
    ];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    match ReferenceCache::open(&folder.join(FOLDER), &settings) {
        Ok(cache) => Ok(Some(cache)),
        Err(error) => {
            talk::say(&not_kept(&error));
            Ok(None)
        }
    }
}

fn not_kept(why: &dyn std::fmt::Display) -> String {
    format!("reference log-probabilities are not kept: {why}")
}

/// The cache, and what it was good for.
struct Source {
    cache: Option<ReferenceCache>,
    found: usize,
    computed: usize,
}

impl Source {
    fn sums(
        &mut self,
        groups: &[PromptGroup],
        compute: impl FnOnce(&[PromptGroup]) -> Result<Vec<f64>>,
    ) -> Result<Vec<f64>> {
        match self.cache.as_ref().map_or(Lookup::Absent, |cache| cache.get(groups)) {
            Lookup::Found(sums) => {
                self.found += groups.len();
                return Ok(sums);
            }
            Lookup::Absent => {}
            Lookup::Damaged(why) => {
                talk::warn(&format!("reference log-probabilities are computed again: {why}"));
            }
        }
        let sums = compute(groups)?;
        check_finite(groups, &sums)?;
        self.computed += groups.len();
        if let Some(Err(error)) = self.cache.as_ref().map(|cache| cache.put(groups, &sums)) {
            talk::say(&not_kept(&error));
            self.cache = None;
        }
        Ok(sums)
    }

    fn tell(&self) {
        let place = match &self.cache {
            Some(cache) => format!("in {}", cache.folder().display()),
            None => "in memory".to_owned(),
        };
        let Self { found, computed, .. } = self;
        talk::say(&format!("reference log-probabilities: {found} rows found, {computed} computed, {place}"));
    }
}

fn check_finite(groups: &[PromptGroup], sums: &[f64]) -> Result<()> {
    let mut sums = sums.iter();
    for (index, group) in groups.iter().enumerate() {
        if let Some(sum) = sums.by_ref().take(group.completions.len()).find(|sum| !sum.is_finite()) {
            return Err(Error::data(
                format!("{}: its log-probability under the reference is {sum}", group.describe(index)),
                ["the weights of the reference are damaged, or its training diverged".to_owned()],
            ));
        }
    }
    Ok(())
}

/// Stops between two pieces of work where the user asked for it.
fn go_on() -> Result<()> {
    if interrupt::flag()?.load(Ordering::SeqCst) {
        let hints = vec!["what the reference gave so far is kept; repeat the command to go on".to_owned()];
        return Err(Error::Interrupted { step: 0, hints });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use align_core::align_types::Completion;

    use super::*;

    fn groups() -> Vec<PromptGroup> {
        let answers = || vec![Completion::new(vec![2]), Completion::new(vec![3])];
        (0..2).map(|token| PromptGroup::new(vec![token], answers())).collect()
    }

    #[test]
    fn a_row_without_a_finite_log_probability_is_named() {
        check_finite(&groups(), &[-1.0; 4]).unwrap();
        let error = check_finite(&groups(), &[-1.0, -1.0, -1.0, f64::NEG_INFINITY]).unwrap_err().to_string();
        assert!(error.starts_with(&groups()[1].describe(1)) && error.contains("-inf"), "{error}");
    }

    #[test]
    fn what_is_found_is_not_computed_again_and_a_cache_that_fails_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let cache = ReferenceCache::open(&folder.path().join("c"), &[]).unwrap();
        let mut source = Source { cache: Some(cache), found: 0, computed: 0 };
        let numbers = [-1.0, -2.0, -3.0, -4.0];
        assert_eq!(source.sums(&groups(), |_| Ok(numbers.to_vec())).unwrap(), numbers);
        assert_eq!(source.sums(&groups(), |_| panic!("it is there")).unwrap(), numbers);
        assert_eq!((source.found, source.computed), (2, 2));
        std::fs::remove_dir_all(folder.path().join("c")).unwrap();
        assert_eq!(source.sums(&groups(), |_| Ok(numbers.to_vec())).unwrap(), numbers);
        assert!(source.cache.is_none());
    }
}
