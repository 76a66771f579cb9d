//! Prompts at the edge of ability: those that the policy sometimes solves.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
};

use align_types::{PromptGroup, PromptSource, Purpose, RngStream, TokenId, config::CurriculumConfig};

use crate::{
    Error, Result, Rows,
    order::{check, unreadable},
};

/// What is known of a prompt that was never sampled: success and failure are as likely.
const UNKNOWN: f64 = 0.5;
/// The first number of a state: its layout.
const LAYOUT: f64 = 1.0;
/// Numbers of a state before the first prompt, and of each prompt.
const HEAD: usize = 2;
const EACH: usize = 3;

/// What is known of a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Known {
    /// The moving average of its success.
    rate: f64,
    /// How many answers it comes from; 0 for a prompt that was not sampled and has no estimate from before.
    answers: f64,
}

const NOTHING: Known = Known { rate: UNKNOWN, answers: 0.0 };

/// Why a prompt is in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// It was never sampled.
    Unseen,
    /// Its success rate is inside the range.
    Edge,
    /// It is outside the range and looked at again.
    Replay,
    /// It is outside the range, and too few are inside to fill the batch.
    Fallback,
}

/// Chooses prompts by how often the policy solves them.
///
/// Every batch is full. Of its places, the configured shares go to prompts that were never sampled and to prompts outside
/// the range, where a share of 0.8 places is one place in four steps of five; the others go to prompts inside the range,
/// drawn without replacement with the weight p (1 − p) + floor. Where too few are inside, unseen prompts take the places,
/// then prompts outside the range by the same weight, which the metric `curriculum/fallback` tells. No prompt comes twice
/// into a batch before all have come once.
///
/// A sampled group belongs to the prompt with the same source (file and row); a group without a source to the prompts
/// without one that have the same tokens. Groups of other prompts, and answers without a finite reward, are ignored.
/// Batches are a pure function of (rows, configuration, seed, step, what it was told); [`state`](PromptSource::state) is
/// what it was told.
///
/// ```
/// use align_data::{Curriculum, PromptGroup, PromptSource};
/// use align_types::{Completion, config::CurriculumConfig};
///
/// let prompts: Vec<_> = (0..8).map(|i| PromptGroup::new(vec![i], vec![])).collect();
/// let mut source = Curriculum::new(prompts, CurriculumConfig::default(), 4, 0, 100)?;
/// let mut sampled = source.batch(0)?;
/// for group in &mut sampled {
///     let reward = Some(f64::from(group.prompt[0] % 2));
///     group.completions = vec![Completion { reward, ..Completion::new(vec![1]) }; 8];
/// }
/// source.learn(&sampled);
/// assert!(source.rate(0).is_none_or(|rate| rate < 0.2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Curriculum {
    rows: Rows,
    config: CurriculumConfig,
    batch_size: usize,
    seed: u64,
    steps: u64,
    index: Index,
    /// What the run began with.
    first: Vec<Known>,
    known: Vec<Known>,
    metrics: Vec<(String, f64)>,
}

impl Curriculum {
    /// Takes the prompts of a run with `steps` iterations of `batch_size` prompts.
    ///
    /// # Errors
    /// No rows, a row that cannot be read, a batch of size 0, a configuration that is not valid.
    pub fn new(
        rows: impl Into<Rows>,
        config: CurriculumConfig,
        batch_size: usize,
        seed: u64,
        steps: u64,
    ) -> Result<Self> {
        let rows = rows.into();
        check(&rows, batch_size)?;
        config.validate().map_err(|error| match error {
            align_types::Error::Config { key, value, expected } => {
                Error::Config { key: key.into(), value, expected: expected.into() }
            }
            other => {
                Error::Config { key: "curriculum".into(), value: "on".into(), expected: other.to_string() }
            }
        })?;
        let index = Index::of(&rows)?;
        let first = vec![NOTHING; rows.len()];
        Ok(Self {
            rows,
            config,
            batch_size,
            seed,
            steps,
            index,
            known: first.clone(),
            first,
            metrics: Vec::new(),
        })
    }

    /// Begins with success rates that were estimated before the run, one for each prompt in the order of the rows; `None`
    /// for a prompt without one. With a decay of 1 they stay as they are.
    ///
    /// # Errors
    /// Another number of rates than of rows, or a rate outside [0, 1].
    pub fn with_estimates(mut self, rates: &[Option<f64>]) -> Result<Self> {
        let wrong = |value: String, expected: String| {
            Err(Error::Config { key: "curriculum estimates".into(), value, expected })
        };
        if rates.len() != self.rows.len() {
            return wrong(
                rates.len().to_string(),
                format!("one for each of the {} prompts", self.rows.len()),
            );
        }
        if let Some(rate) = rates.iter().flatten().find(|rate| !(0.0..=1.0).contains(*rate)) {
            return wrong(rate.to_string(), "success rates in [0, 1]".into());
        }
        self.first =
            rates.iter().map(|rate| rate.map_or(NOTHING, |rate| Known { rate, answers: 1.0 })).collect();
        self.known.clone_from(&self.first);
        Ok(self)
    }

    /// Returns the estimated success rate of a prompt (from 0); `None` for one that was never sampled.
    pub fn rate(&self, row: usize) -> Option<f64> {
        self.known.get(row).filter(|known| known.answers > 0.0).map(|known| known.rate)
    }

    /// Returns the rows of a step (from 0).
    pub fn indices(&mut self, step: u64) -> Vec<usize> {
        self.indices_beside(step, HashSet::new())
    }

    /// As [`Self::indices`], for a step that has taken some rows already: they come again after all others.
    fn indices_beside(&mut self, step: u64, mut taken: HashSet<usize>) -> Vec<usize> {
        let mut stream = RngStream::new(self.seed, Purpose::Curriculum, step, 0);
        let mut chosen = Vec::with_capacity(self.batch_size);
        // A batch that is larger than the data set goes round it.
        while chosen.len() < self.batch_size && !self.known.is_empty() {
            let wanted = (self.batch_size - chosen.len()).min(self.known.len() - taken.len());
            chosen.extend(self.draw(wanted, &taken, step, &mut stream));
            taken.clear();
        }
        stream.shuffle(&mut chosen);
        self.metrics = self.describe(&chosen);
        chosen.into_iter().map(|(row, _)| row).collect()
    }

    /// Draws different prompts, at most as many as there are.
    fn draw(
        &self,
        wanted: usize,
        taken: &HashSet<usize>,
        step: u64,
        stream: &mut RngStream,
    ) -> Vec<(usize, Reason)> {
        let mut pools = self.pools(stream);
        pools.iter_mut().for_each(|pool| pool.retain(|drawn| !taken.contains(&drawn.row)));
        let [unseen, inside, outside] = pools;
        // Half a place apart, so that two shares of half a place do not always want the same one.
        let new = unseen.len().min(places(self.config.explore * wanted as f64, 0.0, step)).min(wanted);
        let again = places(self.config.replay * wanted as f64, 0.5, step);
        let again = outside.len().min(again).min(wanted - new);
        let edge = inside.len().min(wanted - new - again);
        let missing = wanted - new - again - edge;
        let more = missing.min(unseen.len() - new);
        // Places that nothing else can take: none of them is left, because there are as many prompts as places.
        let fallback = missing - more;
        // Replay is drawn by chance alone, so that what is far outside the range comes too.
        let mut by_chance = outside.clone();
        by_chance.sort_by(|a, b| b.chance.total_cmp(&a.chance));
        let replayed: HashSet<usize> = by_chance.iter().take(again).map(|drawn| drawn.row).collect();
        let others = outside.iter().filter(|drawn| !replayed.contains(&drawn.row)).take(fallback);
        let of = |reason| move |drawn: &Drawn| (drawn.row, reason);
        unseen
            .iter()
            .take(new + more)
            .map(of(Reason::Unseen))
            .chain(inside.iter().take(edge).map(of(Reason::Edge)))
            .chain(by_chance.iter().take(again).map(of(Reason::Replay)))
            .chain(others.map(of(Reason::Fallback)))
            .collect()
    }

    /// Lays out all prompts as they would be drawn: never sampled, inside the range, outside.
    fn pools(&self, stream: &mut RngStream) -> [Vec<Drawn>; 3] {
        let mut pools = [const { Vec::new() }; 3];
        let [unseen, inside, outside] = &mut pools;
        for (row, known) in self.known.iter().enumerate() {
            let chance = stream.uniform();
            let weight = if known.answers > 0.0 { self.config.weight(known.rate) } else { 1.0 };
            // The largest of ln(u) / w are a weighted sample without replacement (Efraimidis and Spirakis 2006, algorithm
            // A); 1 - u is in (0, 1]. A weight of 0 comes behind all others, in the order of chance.
            let key = (1.0 - chance).ln() / weight.max(f64::MIN_POSITIVE);
            let drawn = Drawn { row, key, chance };
            match known.answers > 0.0 {
                false => unseen.push(drawn),
                true if self.config.is_inside(known.rate) => inside.push(drawn),
                true => outside.push(drawn),
            }
        }
        for pool in &mut pools {
            pool.sort_by(|a, b| b.key.total_cmp(&a.key).then(b.chance.total_cmp(&a.chance)));
        }
        pools
    }

    fn describe(&self, chosen: &[(usize, Reason)]) -> Vec<(String, f64)> {
        let share =
            |reason| chosen.iter().filter(|(_, why)| *why == reason).count() as f64 / chosen.len() as f64;
        let rates: Vec<f64> = chosen.iter().filter_map(|(row, _)| self.rate(*row)).collect();
        let seen: Vec<f64> = (0..self.known.len()).filter_map(|row| self.rate(row)).collect();
        let filtered = seen.iter().filter(|rate| !self.config.is_inside(**rate)).count();
        let mean = |sum: f64, count: usize| (count > 0).then(|| sum / count as f64);
        let numbers = [
            ("success", mean(rates.iter().sum(), rates.len())),
            ("unseen", Some(share(Reason::Unseen))),
            ("replayed", Some(share(Reason::Replay))),
            ("fallback", Some(share(Reason::Fallback))),
            ("filtered", mean(filtered as f64, seen.len())),
        ];
        numbers.into_iter().filter_map(|(name, value)| Some((format!("curriculum/{name}"), value?))).collect()
    }
}

impl PromptSource for Curriculum {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        self.batch_beside(step, &[])
    }

    fn batch_beside(&mut self, step: u64, taken: &[PromptGroup]) -> align_types::Result<Vec<PromptGroup>> {
        let taken = taken.iter().flat_map(|group| self.index.rows_of(group)).copied().collect();
        let indices = self.indices_beside(step, taken);
        indices.into_iter().map(|row| self.rows.get(row).map_err(unreadable)).collect()
    }

    fn steps(&self) -> Option<u64> {
        Some(self.steps)
    }

    fn metrics(&self) -> Vec<(String, f64)> {
        self.metrics.clone()
    }

    fn learn(&mut self, sampled: &[PromptGroup]) {
        for group in sampled {
            let rewards =
                group.completions.iter().filter_map(|answer| answer.reward).filter(|r| r.is_finite());
            let successes: Vec<f64> = rewards.map(|reward| self.config.success(reward)).collect();
            if successes.is_empty() {
                continue;
            }
            let answers = successes.len() as f64;
            let mean = successes.iter().sum::<f64>() / answers;
            // What so many answers leave of the old estimate; one mean for all, so that their order does not matter.
            let kept = self.config.decay.powf(answers);
            for row in self.index.rows_of(group) {
                if let Some(known) = self.known.get_mut(*row) {
                    known.rate = (kept * known.rate + (1.0 - kept) * mean).clamp(0.0, 1.0);
                    known.answers += answers;
                }
            }
        }
    }

    /// The layout, the number of prompts, and of each prompt that was sampled its row, success rate and answers.
    fn state(&self) -> Vec<f64> {
        let changed = self.known.iter().zip(&self.first).enumerate().filter(|(_, (now, first))| now != first);
        let each = changed.flat_map(|(row, (now, _))| [row as f64, now.rate, now.answers]);
        [LAYOUT, self.known.len() as f64].into_iter().chain(each).collect()
    }

    fn restore(&mut self, state: &[f64]) -> align_types::Result<()> {
        let wrong = |why: String| {
            Err(align_types::Error::Seam { what: "the state of the curriculum".into(), why, source: None })
        };
        let (Some([layout, prompts]), Some(each)) = (state.get(..HEAD), state.get(HEAD..)) else {
            return wrong(format!("it has {} numbers, and at least {HEAD} were expected", state.len()));
        };
        if *layout != LAYOUT {
            return wrong(format!("it has the layout {layout}, and {LAYOUT} was expected"));
        }
        if *prompts != self.known.len() as f64 {
            return wrong(format!("it is of {prompts} prompts, and the data have {}", self.known.len()));
        }
        let (entries, rest) = each.as_chunks::<EACH>();
        if !rest.is_empty() {
            return wrong(format!("its {} numbers do not come in groups of {EACH}", each.len()));
        }
        let mut known = self.first.clone();
        let mut next = 0.0;
        for [row, rate, answers] in entries {
            let whole = |number: f64| number.is_finite() && number.fract() == 0.0;
            let place = known.get_mut(*row as usize).filter(|_| whole(*row) && *row >= next);
            let Some(place) = place else {
                return wrong(format!("row {row} is none of {prompts}, or comes out of order"));
            };
            if !(0.0..=1.0).contains(rate) || !whole(*answers) || *answers < 1.0 {
                return wrong(format!("row {row} has the success rate {rate} of {answers} answers"));
            }
            *place = Known { rate: *rate, answers: *answers };
            next = row + 1.0;
        }
        self.known = known;
        Ok(())
    }
}

/// Counts the whole places that so many a step come to at a step (from 0), of which a part was there before the first: over
/// many steps neither more nor fewer.
fn places(each: f64, first: f64, step: u64) -> usize {
    // 0.29 of 100 places is a little below 29 in binary.
    let before = |steps: u64| (first + each * steps as f64 + 1e-9).floor();
    (before(step + 1) - before(step)) as usize
}

/// A prompt with the chance that it has in one draw.
#[derive(Debug, Clone, Copy)]
struct Drawn {
    row: usize,
    /// The larger, the earlier: by weight.
    key: f64,
    /// The same without the weight.
    chance: f64,
}

/// Finds the rows that a sampled group belongs to.
#[derive(Debug, Clone, Default)]
struct Index {
    by_source: HashMap<PathBuf, HashMap<usize, Vec<usize>>>,
    by_tokens: HashMap<Vec<TokenId>, Vec<usize>>,
}

impl Index {
    fn of(rows: &Rows) -> Result<Self> {
        let mut index = Self::default();
        for (at, row) in rows.iter().enumerate() {
            let row = row?;
            let place = match &row.source {
                Some(source) => {
                    // The name of the file is copied once, not for each of its rows.
                    if !index.by_source.contains_key(&source.file) {
                        index.by_source.insert(source.file.clone(), HashMap::new());
                    }
                    index.by_source.get_mut(&source.file).map(|file| file.entry(source.row).or_default())
                }
                None => Some(index.by_tokens.entry(row.prompt.clone()).or_default()),
            };
            place.into_iter().for_each(|rows| rows.push(at));
        }
        Ok(index)
    }

    fn rows_of(&self, group: &PromptGroup) -> &[usize] {
        let found = match &group.source {
            Some(source) => self.by_source.get(&source.file).and_then(|file| file.get(&source.row)),
            None => self.by_tokens.get(&group.prompt),
        };
        found.map_or(&[], Vec::as_slice)
    }
}
