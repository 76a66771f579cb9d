//! One arm: every learning rate and beta of the grid, the choice among them on validation requests, and the
//! reading on test requests.

use align_core::{CausalLm, Objective};
use align_lm::Model;
use align_losses::{
    Dpo, DpoConfig, Kto, KtoConfig, KtoLossType, Reference, ScoreTransform, Una, UnaConfig, UnaLossType,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    baseline::ClampedRatios,
    feedback::Rows,
    policy::{Descent, Job, Requests, Work, Worth, measure},
};
use crate::{Error, Result, progress::UnitProgress};

/// What an arm minimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// DPO on pairs.
    Dpo,
    /// KTO on labels.
    Kto,
    /// KTO on labels without its baseline: z0 = 0.
    KtoNoBaseline,
    /// KTO on labels with a wrong baseline: mismatched ratios clamped before their mean, not after it.
    KtoWrongBaseline,
    /// UNA on pairs, labels or scores: squared error.
    UnaMse,
    /// UNA on labels or scores: cross-entropy.
    UnaBce,
    /// QRPO on scores, with the scores of the request's answers as rewards of the reference.
    Qrpo,
}

/// Weights of KTO for classes of unequal size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// λ_D = λ_U = 1.
    #[default]
    None,
    /// λ_D n_D = 4/3 λ_U n_U with λ_U = 1, the upper end of the authors' range (2402.01306 v1).
    Rule,
}

/// The grid and what is measured on it, the same for all arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepSettings {
    /// Learning rates of the grid.
    pub rates: Vec<f64>,
    /// Betas of the grid.
    pub betas: Vec<f64>,
    /// Answers of one update.
    pub batch: usize,
    /// Updates.
    pub updates: u64,
    /// Checkpoints that are measured on the way, the end included.
    pub checkpoints: u64,
    /// KL at which arms are compared, in nats per answer; see [`frontier`].
    pub matched_kl: f64,
    /// Samples for each validation request.
    pub validation_samples: usize,
    /// Samples for each test request.
    pub test_samples: usize,
}

/// A checkpoint on validation requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Updates so far.
    pub updates: u64,
    /// What it is worth.
    pub worth: Worth,
}

/// One setting of the grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Path {
    /// Learning rate.
    pub rate: f64,
    /// Beta.
    pub beta: f64,
    /// Its checkpoints; the first is the reference.
    pub points: Vec<Point>,
}

/// A policy on test requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Learning rate.
    pub rate: f64,
    /// Beta.
    pub beta: f64,
    /// Updates.
    pub updates: u64,
    /// Share of the answers that this policy writes, the reference the others; 1 but for a reading at equal KL.
    pub share: f64,
    /// What it is worth; for a mixture the KL is the bound of the mixture.
    pub worth: Worth,
}

/// What an arm leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmResult {
    /// The grid on validation requests.
    pub paths: Vec<Path>,
    /// The checkpoint with the most gold on validation requests.
    pub best: Reading,
    /// The reading at the KL of the plan; none for arms that take their setting from another.
    pub matched: Option<Reading>,
    /// SHA-256 of the weights of `best`.
    pub digest: String,
    /// What the setting of `best` took.
    pub work: Work,
    /// Desirable and undesirable rows, where there are labels.
    pub labels: (usize, usize),
}

/// What a sweep works on.
pub(super) struct Sweep<'a> {
    pub settings: &'a SweepSettings,
    pub loss: Loss,
    pub balance: Balance,
    pub reference: &'a Model,
    /// What the reference is worth on test requests.
    pub start: Worth,
    pub rows: &'a Rows,
    pub requests: &'a Requests,
    pub seed: u64,
    pub progress: &'a UnitProgress<'a>,
}

/// Weights at a checkpoint.
struct Snapshot {
    updates: u64,
    model: Model,
    digest: String,
}

impl Sweep<'_> {
    /// Runs the whole grid, chooses on validation requests and reads the test requests once.
    pub fn run(&self, fresh: impl Fn() -> Result<Model>) -> Result<ArmResult> {
        let grid = self.settings.betas.iter().flat_map(|b| self.settings.rates.iter().map(move |r| (*r, *b)));
        let grid: Vec<(f64, f64)> = grid.collect();
        let start = self.validate(self.reference, 0)?;
        let mut paths = Vec::new();
        let mut snapshots = Vec::new();
        let mut works = Vec::new();
        for (index, (rate, beta)) in grid.iter().enumerate() {
            self.progress.share(index as f64 / (grid.len() + 1) as f64);
            let (points, kept, done) = self.train(&fresh()?, *rate, *beta)?;
            paths.push(Path {
                rate: *rate,
                beta: *beta,
                points: std::iter::once(start).chain(points).collect(),
            });
            snapshots.push(kept);
            works.push(done);
        }
        let (path, point) = best(&paths).ok_or_else(|| empty("the grid has no settings"))?;
        let place =
            frontier(&paths, self.settings.matched_kl).ok_or_else(|| empty("the grid has no settings"))?;
        let best = self.read(&paths, path, point, &snapshots)?;
        // A checkpoint is read once.
        let same = (place.path, place.point) == (path, point);
        let there = if same { best } else { self.read(&paths, place.path, place.point, &snapshots)? };
        let matched = self.mixed(there, place.share);
        let digest = snapshot(&snapshots, path, point)?.digest.clone();
        let work = works.get(path).copied().unwrap_or_default();
        Ok(ArmResult { paths, best, matched: Some(matched), digest, work, labels: self.rows.labels })
    }

    /// Trains at the setting that another arm chose, for as many updates, and reads the test requests.
    pub fn run_like(&self, other: &ArmResult, fresh: impl Fn() -> Result<Model>) -> Result<ArmResult> {
        let chosen = &other.best;
        let (points, kept, work) = self.train(&fresh()?, chosen.rate, chosen.beta)?;
        let snapshot = kept.iter().find(|s| s.updates >= chosen.updates);
        let snapshot = snapshot.ok_or_else(|| empty("the arm that is followed has no checkpoint"))?;
        let worth = self.test(&snapshot.model)?;
        let best = Reading { worth, ..*chosen };
        let paths = vec![Path { rate: chosen.rate, beta: chosen.beta, points }];
        let digest = snapshot.digest.clone();
        Ok(ArmResult { paths, best, matched: None, digest, work, labels: self.rows.labels })
    }

    fn train(&self, model: &Model, rate: f64, beta: f64) -> Result<(Vec<Point>, Vec<Snapshot>, Work)> {
        let settings = self.settings;
        let width = self.rows.groups.first().map_or(1, |group| group.completions.len()).max(1);
        let job = Job {
            objective: self.objective(beta)?,
            rows: self.rows.groups.clone(),
            batch: (settings.batch / width).max(1),
            steps: settings.updates,
            descent: Descent::usual(rate, settings.updates),
            seed: self.seed,
        };
        let every = (settings.updates / settings.checkpoints.max(1)).max(1);
        let (mut points, mut kept) = (Vec::new(), Vec::new());
        let work = job.run(CausalLm::replicate(model)?, self.progress, |updates| {
            if updates.is_multiple_of(every) || updates == settings.updates {
                points.push(self.validate(model, updates)?);
                kept.push(Snapshot { updates, model: model.frozen_copy()?, digest: digest(model)? });
            }
            Ok(())
        })?;
        Ok((points, kept, work))
    }

    fn objective(&self, beta: f64) -> Result<Box<dyn Objective>> {
        let reference = Reference::Precomputed;
        let una = |loss_type, scaled: bool| {
            let (low, high) = self.rows.score_range;
            let config = UnaConfig {
                beta,
                loss_type,
                score_min: scaled.then_some(low),
                score_max: scaled.then_some(high),
                score_transform: ScoreTransform::Linear,
                ..Default::default()
            };
            Una::new(config, Reference::Precomputed).map(Una::starting_at_reference)
        };
        Ok(match self.loss {
            Loss::Dpo => {
                let dpo = Dpo::new(DpoConfig { beta, ..Default::default() }, reference)?;
                Box::new(dpo.starting_at_reference())
            }
            Loss::UnaMse => Box::new(una(UnaLossType::Mse, true)?),
            Loss::UnaBce => Box::new(una(UnaLossType::Bce, true)?),
            Loss::Qrpo => Box::new(una(UnaLossType::Qrpo, false)?),
            Loss::Kto => Box::new(self.kto(beta, KtoLossType::Kto)?),
            Loss::KtoNoBaseline => Box::new(self.kto(beta, KtoLossType::ApoZeroUnpaired)?),
            Loss::KtoWrongBaseline => Box::new(ClampedRatios::new(self.kto(beta, KtoLossType::Kto)?)),
        })
    }

    fn kto(&self, beta: f64, loss_type: KtoLossType) -> Result<Kto> {
        let (up, down) = self.rows.labels;
        let desirable_weight = match self.balance {
            Balance::None => 1.0,
            Balance::Rule => 4.0 / 3.0 * down as f64 / up.max(1) as f64,
        };
        let config = KtoConfig { beta, loss_type, desirable_weight, ..Default::default() };
        let baseline = Box::new(self.reference.frozen_copy()?) as Box<dyn CausalLm>;
        let kto = Kto::new(config, Reference::Precomputed)?;
        Ok(kto.with_baseline_model(baseline).starting_at_reference())
    }

    fn validate(&self, model: &Model, updates: u64) -> Result<Point> {
        let requests = &self.requests.validation;
        let worth = measure(
            model,
            self.reference,
            requests,
            self.settings.validation_samples,
            self.seed ^ (1 << 32),
        )?;
        Ok(Point { updates, worth })
    }

    fn test(&self, model: &Model) -> Result<Worth> {
        measure_on_test(model, self.reference, self.requests, self.settings, self.seed)
    }

    /// Reads a checkpoint on test requests.
    fn read(
        &self,
        paths: &[Path],
        path: usize,
        point: usize,
        snapshots: &[Vec<Snapshot>],
    ) -> Result<Reading> {
        let kept = snapshot(snapshots, path, point)?;
        let path = paths.get(path).ok_or_else(|| empty("a path is missing"))?;
        let worth = self.test(&kept.model)?;
        Ok(Reading { rate: path.rate, beta: path.beta, updates: kept.updates, share: 1.0, worth })
    }

    /// Mixes a policy with the reference.
    fn mixed(&self, policy: Reading, share: f64) -> Reading {
        if share >= 1.0 {
            return policy;
        }
        let mix = |start: f64, end: f64| start + share * (end - start);
        let worth = Worth {
            gold: mix(self.start.gold, policy.worth.gold),
            kl: share * policy.worth.kl,
            distinct: mix(self.start.distinct, policy.worth.distinct),
        };
        Reading { share, worth, ..policy }
    }
}

/// Measures a policy on the test requests; every arm with the same random numbers.
pub(super) fn measure_on_test(
    model: &Model,
    reference: &Model,
    requests: &Requests,
    settings: &SweepSettings,
    seed: u64,
) -> Result<Worth> {
    measure(model, reference, &requests.test, settings.test_samples, seed ^ (2 << 32))
}

/// Returns the checkpoint of a point after the reference, which is point 0 of every path.
fn snapshot(snapshots: &[Vec<Snapshot>], path: usize, point: usize) -> Result<&Snapshot> {
    let found = snapshots.get(path).zip(point.checked_sub(1)).and_then(|(kept, index)| kept.get(index));
    found.ok_or_else(|| empty("a checkpoint is missing"))
}

fn empty(why: &str) -> Error {
    Error::input("sweep", why)
}

/// Finds path and point with the most gold; the first of equals, and never the reference itself.
fn best(paths: &[Path]) -> Option<(usize, usize)> {
    let mut found: Option<(f64, usize, usize)> = None;
    for (index, path) in paths.iter().enumerate() {
        for (place, point) in path.points.iter().enumerate().skip(1) {
            if found.is_none_or(|(gold, ..)| point.worth.gold > gold) {
                found = Some((point.worth.gold, index, place));
            }
        }
    }
    found.map(|(_, path, point)| (path, point))
}

/// A place on the frontier of gold and KL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Index of the path.
    pub path: usize,
    /// Index of its point.
    pub point: usize,
    /// Share of the answers that the policy of the point writes.
    pub share: f64,
    /// Gold at that place.
    pub gold: f64,
}

/// Finds the most gold that checkpoints reach with at most this KL.
///
/// A checkpoint with more KL counts as its mixture with the reference, which the first point of its path is: a policy
/// that answers with share s as the checkpoint and otherwise as the reference has the gold g₀ + s (g − g₀) and, as KL is
/// convex, at most s times the KL.
pub fn frontier(paths: &[Path], kl: f64) -> Option<Place> {
    let mut found: Option<Place> = None;
    for (path, of) in paths.iter().enumerate() {
        let start = of.points.first()?.worth.gold;
        for (point, at) in of.points.iter().enumerate().skip(1) {
            let share = if at.worth.kl <= kl { 1.0 } else { kl / at.worth.kl };
            let gold = start + share * (at.worth.gold - start);
            if found.is_none_or(|place| gold > place.gold) {
                found = Some(Place { path, point, share, gold });
            }
        }
    }
    found
}

/// Hashes the weights of a policy.
fn digest(model: &Model) -> Result<String> {
    let mut hasher = Sha256::new();
    for parameter in model.parameters() {
        hasher.update(parameter.name.as_bytes());
        let values = Vec::<f32>::try_from(parameter.tensor.f_detach()?.f_flatten(0, -1)?)?;
        values.iter().for_each(|value| hasher.update(value.to_le_bytes()));
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(points: &[(f64, f64)]) -> Path {
        let point = |(updates, (kl, gold)): (usize, &(f64, f64))| Point {
            updates: updates as u64,
            worth: Worth { gold: *gold, kl: *kl, distinct: 1.0 },
        };
        Path { rate: 1.0, beta: 1.0, points: points.iter().enumerate().map(point).collect() }
    }

    #[test]
    fn the_setting_is_the_one_with_the_most_gold_and_never_the_reference() {
        let paths =
            [path(&[(0.0, 9.0), (1.0, 2.0), (2.0, 1.0)]), path(&[(0.0, 9.0), (1.0, 3.0), (4.0, 3.0)])];
        assert_eq!(best(&paths), Some((1, 1)));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn the_frontier_holds_checkpoints_and_their_mixtures_with_the_reference() {
        let paths =
            [path(&[(0.0, 1.0), (1.0, 2.0), (8.0, 9.0)]), path(&[(0.0, 1.0), (2.0, 4.0), (4.0, 2.0)])];
        // KL 1: an eighth of the last point of the first path gives 1 + 8/8 = 2 as its middle point does; half of
        // the middle point of the second gives 1 + 3/2.
        let place = frontier(&paths, 1.0).unwrap();
        assert_eq!((place.path, place.point, place.share, place.gold), (1, 1, 0.5, 2.5));
        // KL 4: 4 without a mixture; half of the last point of the first path gives 5.
        let place = frontier(&paths, 4.0).unwrap();
        assert_eq!((place.path, place.point, place.share, place.gold), (0, 2, 0.5, 5.0));
        let place = frontier(&paths, 8.0).unwrap();
        assert_eq!((place.point, place.share, place.gold), (2, 1.0, 9.0));
        assert_eq!(frontier(&[], 1.0), None);
    }
}
