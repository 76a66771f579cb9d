//! Several reward models as one: their scores, or their weights, averaged.

use std::collections::BTreeMap;

use align_core::{
    Parameter, mix_weights, no_grad,
    tch::{Kind, Tensor},
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, RewardNormalization};

/// How the normalised scores of several models become one (2310.02743, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EnsembleRule {
    /// Their average.
    #[default]
    Mean,
    /// The lowest: an answer is as good as the model that likes it least says.
    Worst,
    /// Their average less k times their variance (divisor: the number of models).
    MeanMinusVariance {
        /// How much disagreement costs; finite and >= 0.
        k: f64,
    },
}

impl EnsembleRule {
    /// Names the rule in messages: `mean`, `worst`, `mean less 0.5 variances`.
    pub fn describe(&self) -> String {
        match self {
            Self::Mean => "mean".to_owned(),
            Self::Worst => "worst".to_owned(),
            Self::MeanMinusVariance { k } => format!("mean less {k} variances"),
        }
    }
}

/// The scores that one model of an ensemble gives to the same answers as the others.
#[derive(Debug, Clone, Copy)]
pub struct EnsembleMember<'a> {
    /// Its name in messages.
    pub name: &'a str,
    /// Raw scores, one per answer.
    pub scores: &'a [f64],
    /// What brings them to mean 0 and variance 1; required.
    pub normalization: Option<&'a RewardNormalization>,
}

/// Combines the scores of at least two models into one per answer.
///
/// Each model is normalised first, to mean 0 and variance 1 on the same kind of reference answers: scores that come from
/// comparisons have no zero and no scale of their own, and an average of raw ones would be that of the model with the
/// largest scale.
///
/// ```
/// use align_rm::{EnsembleMember, EnsembleRule, NormalizedOn, RewardNormalization, Spread, combine_scores};
///
/// let fit = |scores: &[f64]| RewardNormalization::fit(scores, NormalizedOn::Samples, Spread::Unit);
/// // Mean 0 and deviation 2; mean 1 and deviation 4.
/// let (first, second) = (fit(&[-2.0, 2.0])?, fit(&[-3.0, 5.0])?);
/// let members = [
///     EnsembleMember { name: "a", scores: &[2.0], normalization: Some(&first) },
///     EnsembleMember { name: "b", scores: &[13.0], normalization: Some(&second) },
/// ];
/// assert_eq!(combine_scores(&members, EnsembleRule::Mean)?, [2.0]);
/// assert_eq!(combine_scores(&members, EnsembleRule::Worst)?, [1.0]);
/// // Mean 2, variance 1.
/// assert_eq!(combine_scores(&members, EnsembleRule::MeanMinusVariance { k: 0.5 })?, [1.5]);
/// # Ok::<(), align_rm::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] for fewer than two models, another number of scores than the first has, a model that is not
/// normalised or on other answers, a k that is negative; [`Error::NonFinite`] names model and answer.
pub fn combine_scores(members: &[EnsembleMember<'_>], rule: EnsembleRule) -> Result<Vec<f64>> {
    let normalised = normalised(members)?;
    if let EnsembleRule::MeanMinusVariance { k } = rule
        && !(k >= 0.0 && k.is_finite())
    {
        return Err(Error::input("variance penalty", format!("{k} is no finite number of at least 0")));
    }
    let answers = members.first().map_or(0, |member| member.scores.len());
    let of_answer = |answer: usize| {
        let scores = || normalised.iter().filter_map(move |list| list.get(answer).copied());
        let count = members.len() as f64;
        let mean = scores().sum::<f64>() / count;
        match rule {
            EnsembleRule::Mean => mean,
            EnsembleRule::Worst => scores().fold(f64::INFINITY, f64::min),
            EnsembleRule::MeanMinusVariance { k } => {
                mean - k * scores().map(|score| (score - mean).powi(2)).sum::<f64>() / count
            }
        }
    };
    let finite = |answer: usize| match of_answer(answer) {
        score if score.is_finite() => Ok(score),
        value => Err(Error::NonFinite { what: format!("{} for answer {answer}", rule.describe()), value }),
    };
    (0..answers).map(finite).collect()
}

/// Checks the members against each other and normalises their scores.
fn normalised(members: &[EnsembleMember<'_>]) -> Result<Vec<Vec<f64>>> {
    let [first, _, ..] = members else {
        return Err(Error::input("ensemble", format!("{} models, it takes at least two", members.len())));
    };
    let mut lists = Vec::with_capacity(members.len());
    let mut reference = None;
    for member in members {
        let wrong = |why: String| Err(Error::input(format!("model {}", member.name), why));
        let (expected, got) = (first.scores.len(), member.scores.len());
        if expected != got {
            return wrong(format!("{got} scores, model {} has {expected}", first.name));
        }
        let Some(normalization) = member.normalization else {
            return wrong(
                "its scores are not normalised; raw scores have no common zero and scale, so an average would follow the \
                 model with the largest scale: normalise every model on the same answers first"
                    .into(),
            );
        };
        normalization.validate()?;
        if normalization.keeps_spread() {
            return wrong(
                "only its mean was removed; the scales of models differ: normalise it to variance 1".into(),
            );
        }
        let of = *reference.get_or_insert(normalization.of);
        if of != normalization.of {
            return wrong(format!(
                "it is normalised on {:?}, model {} on {of:?}: zero means something else in each",
                normalization.of, first.name
            ));
        }
        if let Some((answer, value)) = member.scores.iter().enumerate().find(|(_, score)| !score.is_finite())
        {
            let what = format!("score of model {} for answer {answer}", member.name);
            return Err(Error::NonFinite { what, value: *value });
        }
        lists.push(member.scores.iter().map(|score| normalization.apply(*score)).collect());
    }
    Ok(lists)
}

/// The weights of one model of an average of weights.
#[derive(Debug, Clone, Copy)]
pub struct WeightedMember<'a> {
    /// Its name in messages.
    pub name: &'a str,
    /// All weights that its training changed, in float32 or float64.
    pub parameters: &'a [Parameter],
    /// [`head_fingerprint`] of its head before training, where it is known.
    pub initial_head: Option<&'a str>,
}

/// Averages the weights of several reward models, in place, into those of the first (WARM, 2401.12187).
///
/// The average of weights is a model of its own that costs one forward pass, and needs no normalisation. It works where
/// the runs stay in one basin: all begin with the same pre-trained weights **and the same head**, and differ in the order
/// of data, learning rate, dropout, or the checkpoint they began with. Heads drawn with different random numbers average
/// to nothing: the accuracy collapses.
///
/// Parameters are matched by name. Where the fingerprints of initial heads are known they are compared; where they are
/// not, [`check_common_beginning`] tells.
///
/// ```
/// use align_core::{Parameter, tch::Tensor};
/// use align_rm::{WeightedMember, average_weights};
///
/// let head = |x: f32| [Parameter { name: "score.weight".into(), tensor: Tensor::from_slice(&[x]), decay: true }];
/// let (first, second) = (head(1.0), head(4.0));
/// let member = |name, parameters| WeightedMember { name, parameters, initial_head: None };
/// average_weights(&[member("a", &first), member("b", &second)])?;
/// assert_eq!(first[0].tensor.f_double_value(&[0])?, 2.5);
/// # Ok::<(), align_rm::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] for fewer than two models, and names the model and the parameter that the first lacks, or that has
/// another shape, kind or device there, or whose head began elsewhere. Nothing is changed then.
pub fn average_weights(members: &[WeightedMember<'_>]) -> Result<()> {
    let [first, others @ ..] = members else { return Err(too_few(0)) };
    if others.is_empty() {
        return Err(too_few(1));
    }
    check_heads(members)?;
    let matched = others.iter().map(|other| matched(first, other)).collect::<Result<Vec<_>>>()?;
    for (index, weights) in matched.iter().enumerate() {
        mix_weights(first.parameters, weights, 1.0 / (index + 2) as f64)?;
    }
    Ok(())
}

fn too_few(models: usize) -> Error {
    Error::input("average of weights", format!("{models} models, it takes at least two"))
}

/// Compares the fingerprints of initial heads that are known.
fn check_heads(members: &[WeightedMember<'_>]) -> Result<()> {
    let mut known = members.iter().filter_map(|member| Some((member.name, member.initial_head?)));
    let Some((first, head)) = known.next() else { return Ok(()) };
    match known.find(|(_, other)| *other != head) {
        Some((name, other)) => {
            let why = format!(
                "its head began as {other}, that of model {first} as {head}: the average of heads that were drawn \
                 differently means nothing; train all from one initial model"
            );
            Err(Error::input(format!("model {name}"), why))
        }
        None => Ok(()),
    }
}

/// Returns the parameters of another model in the order of the first, after all checks.
fn matched(first: &WeightedMember<'_>, other: &WeightedMember<'_>) -> Result<Vec<Parameter>> {
    let wrong = |why: String| Err(Error::input(format!("model {}", other.name), why));
    let mut by_name: BTreeMap<&str, &Parameter> =
        other.parameters.iter().map(|parameter| (parameter.name.as_str(), parameter)).collect();
    let mut list = Vec::with_capacity(first.parameters.len());
    for parameter in first.parameters {
        let Some(found) = by_name.remove(parameter.name.as_str()) else {
            return wrong(format!("it has no parameter {}, which model {} has", parameter.name, first.name));
        };
        list.push(Parameter {
            name: found.name.clone(),
            tensor: found.tensor.shallow_clone(),
            decay: found.decay,
        });
    }
    if let Some(name) = by_name.keys().next() {
        return wrong(format!("it has a parameter {name}, which model {} has not", first.name));
    }
    align_core::check_mixable(first.parameters, &list)
        .map_err(|error| Error::input(format!("model {}", other.name), error.to_string()))?;
    Ok(list)
}

/// The cosine of two sets of weights above which they are taken for descendants of one. Those of weights that were drawn
/// apart have a standard deviation of 1 / √d in d dimensions: 0.02 for a head of 2048.
const LEAST_COSINE: f64 = 0.5;

/// Refuses models that did not begin as one: after training, weights of one beginning still point nearly the same way,
/// and those of two are at right angles.
///
/// The heads, which are called `head`, are held against each other, and all other matrices together: another base with the
/// same head is no common beginning either. It finds out from the weights alone, so that it also knows folders of which
/// nothing else is known; fingerprints of heads ([`WeightedMember::initial_head`]) are exact where they were kept.
///
/// # Errors
/// [`Error::Input`] names both models, and says which weights are apart.
pub fn check_common_beginning(members: &[WeightedMember<'_>], head: &str) -> Result<()> {
    let Some((first, others)) = members.split_first() else { return Ok(()) };
    for other in others {
        let own = matched(first, other)?;
        for (what, of_head) in [("heads", true), ("weights below the heads", false)] {
            let pairs = first.parameters.iter().zip(&own);
            let wanted = pairs.filter(|(one, _)| one.tensor.dim() > 1 && (one.name == head) == of_head);
            let why = match cosine(wanted)? {
                Angle::Cosine(cosine) if cosine < LEAST_COSINE => format!(
                    "their {what} have a cosine of {cosine:.2}: they did not begin as one, and the average of such weights \
                     means nothing"
                ),
                Angle::NoDirection => format!(
                    "the {what} of one of them are all zeros, or not finite: such weights have no direction, and no average"
                ),
                Angle::Cosine(_) | Angle::NoWeights => continue,
            };
            return Err(Error::input(format!("models {} and {}", first.name, other.name), why));
        }
    }
    Ok(())
}

/// What two lists of weights have between them.
enum Angle {
    Cosine(f64),
    /// One is all zeros, or not finite.
    NoDirection,
    NoWeights,
}

fn cosine<'a>(pairs: impl Iterator<Item = (&'a Parameter, &'a Parameter)>) -> Result<Angle> {
    let _guard = no_grad();
    let mut sums = None;
    let dot = |a: &Tensor, b: &Tensor| -> Result<f64> { Ok(a.f_dot(b)?.f_double_value(&[])?) };
    for (one, other) in pairs {
        let (one, other) = (one.tensor.f_flatten(0, -1)?, other.tensor.f_flatten(0, -1)?);
        let (product, first, second) = sums.get_or_insert((0.0, 0.0, 0.0));
        *product += dot(&one, &other)?;
        *first += dot(&one, &one)?;
        *second += dot(&other, &other)?;
    }
    let Some((product, first, second)) = sums else { return Ok(Angle::NoWeights) };
    let norms = f64::sqrt(first * second);
    let has_direction = norms > 0.0 && norms.is_finite();
    Ok(if has_direction { Angle::Cosine(product / norms) } else { Angle::NoDirection })
}

/// Computes a fingerprint of a head (FNV-1a of its shape and float32 bits, 16 hexadecimal digits), to be kept from before
/// training.
///
/// # Errors
/// libtorch refuses.
pub fn head_fingerprint(head: &Tensor) -> Result<String> {
    let values =
        Vec::<f32>::try_from(head.f_detach()?.f_to_kind(Kind::Float)?.f_flatten(0, -1)?.f_contiguous()?)?;
    let shape = head.size().into_iter().flat_map(i64::to_le_bytes);
    let bytes = shape.chain(values.into_iter().flat_map(f32::to_le_bytes));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    Ok(format!("{hash:016x}"))
}
