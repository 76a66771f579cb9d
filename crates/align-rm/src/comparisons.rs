//! Comparisons of answers to one prompt: who is compared with whom, and the loss of it.

use align_core::{
    LossComponent, LossOutput, MetricTerm, PackedBatch, expect_shape,
    tch::{Device, Kind, Tensor},
};

use crate::{Error, Result, RewardConfig, TieRule};

/// Two answers of one prompt, by their places in a list of scores, and what is known of their order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The answer that is called the better one.
    pub better: usize,
    /// The other answer.
    pub worse: usize,
    /// Probability that the answer called better is the better one; in [0, 1], 1 for a plain pair. Not read of a tie.
    pub preference: f64,
    /// Subtracted from the difference of the scores (2307.09288 eq. 2); 0 for a plain pair. Not read of a tie.
    pub margin: f64,
    /// Whether the two are known to be equally good.
    pub tie: bool,
}

impl Comparison {
    /// Makes a plain comparison: the first answer is better.
    pub fn new(better: usize, worse: usize) -> Self {
        Self { better, worse, preference: 1.0, margin: 0.0, tie: false }
    }

    /// Makes a comparison of two equally good answers.
    pub fn tie(first: usize, second: usize) -> Self {
        Self { tie: true, ..Self::new(first, second) }
    }

    /// Lists all comparisons of the answers of one prompt, whose ranks are given (1 is best) and whose scores begin at
    /// place `first`: K (K − 1) / 2 of them, less the ties under [`TieRule::Skip`].
    ///
    /// ```
    /// use align_rm::{Comparison, TieRule};
    ///
    /// let skipped = Comparison::of_ranks(&[2, 1, 2], 0, TieRule::Skip);
    /// assert_eq!(skipped, [Comparison::new(1, 0), Comparison::new(1, 2)]);
    /// assert_eq!(Comparison::of_ranks(&[2, 1, 2], 0, TieRule::Half).len(), 3);
    /// ```
    pub fn of_ranks(ranks: &[u32], first: usize, ties: TieRule) -> Vec<Self> {
        let mut list = Vec::new();
        for (i, one) in ranks.iter().enumerate() {
            for (j, other) in ranks.iter().enumerate().skip(i + 1) {
                let (i, j) = (first + i, first + j);
                match one.cmp(other) {
                    std::cmp::Ordering::Less => list.push(Self::new(i, j)),
                    std::cmp::Ordering::Greater => list.push(Self::new(j, i)),
                    std::cmp::Ordering::Equal if ties == TieRule::Skip => {}
                    std::cmp::Ordering::Equal => list.push(Self::tie(i, j)),
                }
            }
        }
        list
    }
}

/// Computes the loss of the comparisons of P prompts (Bradley-Terry; 2203.02155 eq. 1).
///
/// `scores` is `[N]`, with gradient; each prompt has a list S of comparisons of places in it, one for a pair and up to
/// K (K − 1) / 2 for a ranking of K answers. With d the difference of two scores, m the margin, p the preference, ε the
/// label smoothing, q = p (1 − ε) + (1 − p) ε and η the margin of ties (0 but for `rao_kupper`), the loss of a comparison
/// is
///
/// | comparison | loss | source |
/// | --- | --- | --- |
/// | better and worse | −q log σ(d − m − η) − (1 − q) log σ(m − d − η) | 2203.02155 eq. 1; m: 2307.09288 eq. 2; q: 2309.00267 |
/// | tie, `rao_kupper` | −log(θ² − 1) − log σ(d − η) − log σ(−d − η), θ = exp η | Rao and Kupper (1967) |
/// | tie, `half` | −½ log σ(d) − ½ log σ(−d) | |
///
/// and the term of a prompt the average over its S. All comparisons of a prompt are thus one item, and a ranking weighs
/// as much as a pair. The divisor is the number |S| of comparisons that there are: where ties are skipped the paper does
/// not say whether it stays K (K − 1) / 2, which would make a prompt with ties weigh less.
///
/// The component is `loss/pairs` with terms `[P]` in float64; with `center_rewards_coefficient` c > 0 a second one,
/// `loss/centering` of weight c, has the average of (r_i + r_j)² over the same comparisons (2312.09244 eq. 2). Both are
/// multiplied by `pair_weight`.
///
/// Metrics, over comparisons that have a better answer (q ≠ 1/2): `rewards/chosen`, `rewards/rejected`,
/// `rewards/margins` = their difference, `rewards/accuracies` = share of positive differences where a difference of 0
/// counts 1/2, and `rewards/ties` = share of differences of 0.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_rm::{Comparison, RewardConfig, TieRule, comparison_loss};
///
/// let scores = Tensor::from_slice(&[1.2, 0.3, -0.5, 0.9]);
/// let ranking = Comparison::of_ranks(&[1, 2, 3, 4], 0, TieRule::Skip);
/// let loss = comparison_loss(&scores, &[ranking], &RewardConfig::default())?.mean()?;
/// assert!((loss.f_double_value(&[])? - 0.68205020).abs() < 1e-8);
/// # Ok::<(), align_rm::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] for scores that are not `[N]`; [`Error::NonFinite`] for a score that is not finite; [`Error::Input`]
/// names a prompt without comparisons, with a place that is not in the list, with a preference outside [0, 1], a margin
/// that is not finite, or a tie where the rule skips ties; a configuration outside its range.
pub fn comparison_loss(
    scores: &Tensor,
    prompts: &[Vec<Comparison>],
    config: &RewardConfig,
) -> Result<LossOutput> {
    config.validate()?;
    expect_finite(scores)?;
    let flat = Flat::new(scores, prompts, config)?;
    let mut components = vec![flat.component("loss/pairs", config.pair_weight, &flat.losses(config)?)?];
    let centering = config.center_rewards_coefficient;
    if centering > 0.0 {
        let squares = flat.better.f_add(&flat.worse)?.f_square()?;
        components.push(flat.component("loss/centering", config.pair_weight * centering, &squares)?);
    }
    Ok(LossOutput { components, metrics: flat.metrics()? })
}

/// Checks that scores are `[N]` and finite.
pub(crate) fn expect_finite(scores: &Tensor) -> Result<()> {
    expect_shape("scores", scores, &[-1])?;
    let values = Vec::<f64>::try_from(scores.f_detach()?.f_to_kind(Kind::Double)?.f_contiguous()?)?;
    match values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        Some((place, value)) => Err(Error::NonFinite { what: format!("score {place}"), value: *value }),
        None => Ok(()),
    }
}

/// All comparisons of all prompts, `[M]` each, in float64.
struct Flat {
    better: Tensor,
    worse: Tensor,
    /// q of each comparison.
    preference: Tensor,
    margin: Tensor,
    tie: Tensor,
    any_tie: bool,
    /// 1 / |S| of its prompt.
    share: Tensor,
    /// Number of its prompt.
    prompt: Tensor,
    prompts: usize,
}

impl Flat {
    fn new(scores: &Tensor, prompts: &[Vec<Comparison>], config: &RewardConfig) -> Result<Self> {
        let device = scores.device();
        let (mut better, mut worse, mut prompt) = (Vec::new(), Vec::new(), Vec::new());
        let (mut preference, mut margin, mut tie, mut share) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (index, list) in prompts.iter().enumerate() {
            check_prompt(list, scores.size1()? as usize, config.ties)
                .map_err(|why| Error::input(format!("prompt {index}"), why))?;
            for comparison in list {
                let p = comparison.preference;
                better.push(comparison.better as i64);
                worse.push(comparison.worse as i64);
                preference.push(if comparison.tie { 0.5 } else { smooth(p, config.label_smoothing) });
                margin.push(if comparison.tie { 0.0 } else { comparison.margin });
                tie.push(comparison.tie);
                share.push(1.0 / list.len() as f64);
                prompt.push(index as i64);
            }
        }
        let scores = scores.f_to_kind(Kind::Double)?;
        let at = |places: &[i64]| -> Result<Tensor> {
            Ok(scores.f_index_select(0, &PackedBatch::index_tensor(places, device)?)?)
        };
        Ok(Self {
            better: at(&better)?,
            worse: at(&worse)?,
            preference: constant(&preference, device)?,
            margin: constant(&margin, device)?,
            any_tie: tie.contains(&true),
            tie: Tensor::f_from_slice(&tie)?.f_to_device(device)?,
            share: constant(&share, device)?,
            prompt: PackedBatch::index_tensor(&prompt, device)?,
            prompts: prompts.len(),
        })
    }

    fn difference(&self) -> Result<Tensor> {
        Ok(self.better.f_sub(&self.worse)?)
    }

    /// Computes the loss of every comparison, `[M]`.
    fn losses(&self, config: &RewardConfig) -> Result<Tensor> {
        let eta = config.tie_margin.unwrap_or(0.0);
        let shifted = self.difference()?.f_sub(&self.margin)?;
        let forward = log_sigmoid(&shifted, eta)?;
        let backward = log_sigmoid(&shifted.f_neg()?, eta)?;
        let opposite = self.preference.f_neg()?.f_add_scalar(1.0)?;
        // The margin of a tie is 0 and its preference 1/2: under `half` this is its loss too.
        let ordered = forward.f_mul(&self.preference)?.f_add(&backward.f_mul(&opposite)?)?.f_neg()?;
        if !self.any_tie || config.ties != TieRule::RaoKupper {
            return Ok(ordered);
        }
        let tied = forward.f_add(&backward)?.f_add_scalar(log_expm1(2.0 * eta))?.f_neg()?;
        Ok(tied.f_where_self(&self.tie, &ordered)?)
    }

    /// Averages values of comparisons over those of each prompt.
    fn component(&self, name: &'static str, weight: f64, values: &Tensor) -> Result<LossComponent> {
        let zeros = Tensor::f_zeros([self.prompts as i64], (Kind::Double, values.device()))?;
        let terms = zeros.f_index_add(0, &self.prompt, &values.f_mul(&self.share)?)?;
        Ok(LossComponent { name, weight, terms, denominator: self.prompts as f64 })
    }

    fn metrics(&self) -> Result<Vec<MetricTerm>> {
        let (better, worse) = (self.better.f_detach()?, self.worse.f_detach()?);
        let first = self.preference.f_gt(0.5)?;
        let decided = self.preference.f_ne(0.5)?;
        let chosen = better.f_where_self(&first, &worse)?;
        let rejected = worse.f_where_self(&first, &better)?;
        let margins = chosen.f_sub(&rejected)?;
        let equal = margins.f_eq(0.0)?.f_to_kind(Kind::Double)?;
        let right = margins.f_gt(0.0)?.f_to_kind(Kind::Double)?.f_add(&equal.f_mul_scalar(0.5)?)?;
        [
            ("rewards/chosen", &chosen),
            ("rewards/rejected", &rejected),
            ("rewards/margins", &margins),
            ("rewards/accuracies", &right),
            ("rewards/ties", &equal),
        ]
        .into_iter()
        .map(|(name, values)| masked(name, values, &decided))
        .collect()
    }
}

/// Says what is wrong with the comparisons of a prompt.
fn check_prompt(list: &[Comparison], scores: usize, ties: TieRule) -> Result<(), String> {
    if list.is_empty() {
        return Err("it has nothing to compare: one answer, or ties alone where ties are skipped".into());
    }
    for (index, comparison) in list.iter().enumerate() {
        let Comparison { better, worse, preference, margin, tie } = comparison;
        if *better.max(worse) >= scores || better == worse {
            return Err(format!("comparison {index} is of answers {better} and {worse} of {scores} scores"));
        }
        if !(0.0..=1.0).contains(preference) {
            return Err(format!(
                "comparison {index} has preference {preference}, a probability is in [0, 1]"
            ));
        }
        if !margin.is_finite() {
            return Err(format!("comparison {index} has margin {margin}, which is no finite number"));
        }
        if *tie && ties == TieRule::Skip {
            return Err(format!("comparison {index} is a tie, and the rule skips ties"));
        }
    }
    Ok(())
}

/// Mixes the preference with its opposite; exact at ε = 0.
fn smooth(preference: f64, epsilon: f64) -> f64 {
    preference * (1.0 - epsilon) + (1.0 - preference) * epsilon
}

/// Computes log σ(z − η).
fn log_sigmoid(z: &Tensor, eta: f64) -> Result<Tensor> {
    Ok(if eta == 0.0 { z.f_log_sigmoid()? } else { z.f_sub_scalar(eta)?.f_log_sigmoid()? })
}

/// Computes log(exp(x) − 1) for x > 0 without overflow.
fn log_expm1(x: f64) -> f64 {
    x + (-(-x).exp_m1()).ln()
}

pub(crate) fn constant(values: &[f64], device: Device) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(values)?.f_to_device(device)?)
}

/// Sums the values where the mask holds.
pub(crate) fn masked(name: &'static str, values: &Tensor, mask: &Tensor) -> Result<MetricTerm> {
    let count = mask.f_sum(Kind::Int64)?.f_int64_value(&[])? as f64;
    let kept = values.f_where_self(mask, &values.f_zeros_like()?)?;
    Ok(MetricTerm { count, ..MetricTerm::of(name, &kept)? })
}
