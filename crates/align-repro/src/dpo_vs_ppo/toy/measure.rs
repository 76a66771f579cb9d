use align_core::tch::{Kind, Tensor};
use serde::{Deserialize, Serialize};

use super::{Instance, SIZE, train::Data};
use crate::{
    Error, Result,
    dpo_vs_ppo::exact::{expected, kl},
    interval::half_width,
};

/// Steps between kept points of a curve.
const KEEP_EVERY: usize = 25;

/// One kept point of a path, over the seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PathPoint {
    /// Updates so far.
    pub step: usize,
    /// Mean KL to the reference.
    pub kl: f64,
    /// Mean mass outside the data.
    pub ood: f64,
    /// Half the length of its 95 % interval.
    pub ood_half: f64,
}

/// Where a method went: figures at the end for every seed, and the mean path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathResult {
    /// Mass on cells that no pair shows, mean over prompts.
    pub ood: Vec<f64>,
    /// KL to the reference, mean over prompts.
    pub kl: Vec<f64>,
    /// Expected true utility, mean over prompts.
    pub gold: Vec<f64>,
    /// The mean path.
    pub path: Vec<PathPoint>,
}

/// The cells of one seed, for looking at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Whether a pair shows the cell.
    pub covered: Vec<Vec<bool>>,
    /// The reference policy.
    pub reference: Vec<Vec<f64>>,
    /// The policy of DPO.
    pub dpo: Vec<Vec<f64>>,
    /// The policy of PPO.
    pub ppo: Vec<Vec<f64>>,
    /// The learned reward, normalised.
    pub reward: Vec<Vec<f64>>,
}

/// What one row leads to; lists have one entry per seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToyResult {
    /// Mass of the reference on cells that no pair shows.
    pub reference_ood: Vec<f64>,
    /// DPO.
    pub dpo: PathResult,
    /// PPO.
    pub ppo: PathResult,
    /// Mass of DPO minus mass of PPO where both are equally far from the reference.
    pub matched: Vec<f64>,
    /// Share of pairs that DPO's implicit reward orders as the true utility does.
    pub ordered: Vec<f64>,
    /// The cells of the first seed, whatever they show.
    pub example: Example,
}

/// Measures of every step, `[steps][seeds]`.
#[derive(Debug, Default)]
pub struct Recorder {
    ood: Vec<Vec<f64>>,
    kl: Vec<Vec<f64>>,
    gold: Vec<f64>,
}

/// Averages `[S, 8]` over prompts.
fn over_prompts(values: &Tensor) -> Result<Vec<f64>> {
    let means = values.f_to_kind(Kind::Double)?.f_mean_dim(-1i64, false, Kind::Double)?;
    Ok(Vec::<f64>::try_from(&means)?)
}

impl Recorder {
    /// Computes the mass outside the data of every seed.
    pub(super) fn ood(policy: &Tensor, uncovered: &Tensor) -> Result<Vec<f64>> {
        over_prompts(&expected(policy, uncovered)?)
    }

    pub(super) fn record(&mut self, policy: &Tensor, reference: &Tensor, data: &Data) -> Result<()> {
        self.ood.push(Self::ood(policy, &data.uncovered)?);
        self.kl.push(over_prompts(&kl(policy, reference)?)?);
        self.gold = over_prompts(&expected(policy, &data.gold)?)?;
        Ok(())
    }

    pub(super) fn finish(self, who: &str) -> Result<PathResult> {
        let last = |steps: &[Vec<f64>]| steps.last().cloned().unwrap_or_default();
        let (ood, kl) = (last(&self.ood), last(&self.kl));
        for (what, values) in [("mass outside the data", &ood), ("KL", &kl), ("utility", &self.gold)] {
            if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                return Err(Error::NonFinite { what: format!("{what} of {who}"), value: *value });
            }
        }
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let path = self.ood.iter().zip(&self.kl).enumerate().step_by(KEEP_EVERY);
        let path = path.map(|(step, (ood, kl))| PathPoint {
            step,
            kl: mean(kl),
            ood: mean(ood),
            ood_half: half_width(ood).unwrap_or(0.0),
        });
        Ok(PathResult { ood, kl, gold: self.gold, path: path.collect() })
    }
}

/// Compares two paths at equal KL, seed by seed: at the first step at which each reaches `share` times the
/// smaller of their two largest KL values. Returns mass of the first minus mass of the second.
pub fn at_equal_kl(first: &Recorder, second: &Recorder, share: f64) -> Vec<f64> {
    let seeds = first.kl.first().map_or(0, Vec::len);
    (0..seeds)
        .map(|seed| {
            let at = |steps: &[Vec<f64>]| -> Vec<f64> {
                steps.iter().map(|s| s.get(seed).copied().unwrap_or(f64::NAN)).collect()
            };
            let largest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
            let (kl_a, kl_b) = (at(&first.kl), at(&second.kl));
            let target = share * largest(&kl_a).min(largest(&kl_b));
            let mass = |kl: &[f64], ood: &[Vec<f64>]| {
                let step = kl.iter().position(|k| *k >= target).unwrap_or(0);
                ood.get(step).and_then(|s| s.get(seed)).copied().unwrap_or(f64::NAN)
            };
            mass(&kl_a, &first.ood) - mass(&kl_b, &second.ood)
        })
        .collect()
}

/// Computes the share of each seed's pairs whose two responses the implicit reward log π − log π_ref orders as the
/// true utility does, whatever their labels say.
pub(super) fn ordered(instances: &[Instance], policy: &Tensor, reference: &Tensor) -> Result<Vec<f64>> {
    let reward = policy.f_sub(reference)?.f_reshape([-1])?.f_to_kind(Kind::Double)?;
    let reward = Vec::<f64>::try_from(&reward)?;
    let share = |(instance, reward): (&Instance, &[f64])| {
        let right = instance.preferences.iter().filter(|p| {
            let row = instance.gold.get(p.prompt);
            let gold = |response: usize| row.and_then(|r| r.get(response)).copied().unwrap_or(0.0);
            let learned = |response: usize| reward.get(p.prompt * SIZE + response).copied().unwrap_or(0.0);
            (gold(p.chosen) > gold(p.rejected)) == (learned(p.chosen) > learned(p.rejected))
        });
        right.count() as f64 / instance.preferences.len().max(1) as f64
    };
    Ok(instances.iter().zip(reward.chunks(SIZE * SIZE)).map(share).collect())
}

impl Example {
    pub(super) fn of(
        instances: &[Instance],
        reference: &Tensor,
        dpo: &Tensor,
        ppo: &Tensor,
        reward: &Tensor,
    ) -> Result<Self> {
        let rows = |cells: &Tensor| -> Result<Vec<Vec<f64>>> {
            let flat =
                Vec::<f64>::try_from(&cells.f_select(0, 0)?.f_reshape([-1])?.f_to_kind(Kind::Double)?)?;
            Ok(flat.chunks(SIZE).map(<[f64]>::to_vec).collect())
        };
        let covered = instances.first().map(|i| i.covered.iter().map(|row| row.to_vec()).collect());
        Ok(Self {
            covered: covered.unwrap_or_default(),
            reference: rows(&reference.f_exp()?)?,
            dpo: rows(&dpo.f_exp()?)?,
            ppo: rows(&ppo.f_exp()?)?,
            reward: rows(reward)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(kl: &[f64], ood: &[f64]) -> Recorder {
        let steps = |values: &[f64]| values.iter().map(|v| vec![*v]).collect();
        Recorder { ood: steps(ood), kl: steps(kl), gold: vec![] }
    }

    #[test]
    fn paths_are_compared_where_both_are_equally_far() {
        // Largest KL 4 and 2, so both are read at the first step with KL >= 1.8: 0.3 and 0.25.
        let far = path(&[0.0, 1.0, 2.0, 4.0], &[0.1, 0.2, 0.3, 0.9]);
        let near = path(&[0.0, 1.9, 2.0, 1.0], &[0.1, 0.25, 0.4, 0.5]);
        let difference = at_equal_kl(&far, &near, 0.9);
        assert!((difference[0] - 0.05).abs() < 1e-12, "{difference:?}");
    }

    #[test]
    fn figures_that_are_not_finite_are_refused() {
        let mut broken = path(&[0.0], &[f64::NAN]);
        broken.gold = vec![0.0];
        assert!(matches!(broken.finish("DPO"), Err(Error::NonFinite { .. })));
    }
}
