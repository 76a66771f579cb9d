//! Losses of single answers: a label, or a score.

use align_core::{
    LossComponent, LossOutput, expect_shape,
    tch::{Kind, Tensor},
};

use crate::{
    Error, Result, RewardConfig, ScoreLoss,
    comparisons::{constant, expect_finite, masked},
};

/// Computes the loss of N labelled answers: −log σ(r) for a good one, −log σ(−r) for a bad one.
///
/// The component is `loss/binary` with terms `[N]` in float64 and the weight `binary_weight`; the metrics
/// `rewards/chosen` and `rewards/rejected` are the average scores of the good and of the bad answers.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_rm::{RewardConfig, label_loss};
///
/// let scores = Tensor::from_slice(&[0.0, 0.0]);
/// let loss = label_loss(&scores, &[true, false], &RewardConfig::default())?.mean()?;
/// assert!((loss.f_double_value(&[])? - std::f64::consts::LN_2).abs() < 1e-12);
/// # Ok::<(), align_rm::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] when lengths differ; [`Error::NonFinite`] for a score that is not finite; a configuration outside
/// its range.
pub fn label_loss(scores: &Tensor, labels: &[bool], config: &RewardConfig) -> Result<LossOutput> {
    config.validate()?;
    expect_finite(scores)?;
    expect_shape("scores of labelled answers", scores, &[labels.len() as i64])?;
    let good = Tensor::f_from_slice(labels)?.f_to_device(scores.device())?;
    let scores = scores.f_to_kind(Kind::Double)?;
    let terms = cross_entropy(&scores, &good.f_to_kind(Kind::Double)?)?;
    let values = scores.f_detach()?;
    let metrics = vec![
        masked("rewards/chosen", &values, &good)?,
        masked("rewards/rejected", &values, &good.f_logical_not()?)?,
    ];
    Ok(LossOutput { components: vec![component("loss/binary", config.binary_weight, terms)], metrics })
}

/// Computes the loss of N scored answers against the scores t of the data, brought into the scale of the loss by
/// [`RewardConfig::scale`]: (r − t)² under `mse`, −t log σ(r) − (1 − t) log σ(−r) under `bce`.
///
/// The component is `loss/scored` with terms `[N]` in float64 and the weight `score_weight`. Unlike the loss of
/// comparisons it fixes the scale and the zero of the scores, so that they may be compared across prompts.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_rm::{RewardConfig, regression_loss};
///
/// let loss = regression_loss(&Tensor::from_slice(&[1.5, 4.0]), &[1.0, 2.0], &RewardConfig::default())?;
/// assert_eq!(loss.mean()?.f_double_value(&[])?, (0.25 + 4.0) / 2.0);
/// # Ok::<(), align_rm::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] when lengths differ; [`Error::NonFinite`] for a score of the model that is not finite;
/// [`Error::Input`] names a score of the data that does not fit; a configuration outside its range.
pub fn regression_loss(scores: &Tensor, targets: &[f64], config: &RewardConfig) -> Result<LossOutput> {
    config.validate()?;
    expect_finite(scores)?;
    expect_shape("scores of scored answers", scores, &[targets.len() as i64])?;
    let scaled = targets
        .iter()
        .enumerate()
        .map(|(row, target)| {
            let fits =
                || config.check_range(*target, *target).err().map_or_else(String::new, |e| e.to_string());
            config.scale(*target).ok_or_else(|| Error::input(format!("score of row {row}"), fits()))
        })
        .collect::<Result<Vec<f64>>>()?;
    let targets = constant(&scaled, scores.device())?;
    let scores = scores.f_to_kind(Kind::Double)?;
    let terms = match config.score_loss {
        ScoreLoss::Bce => cross_entropy(&scores, &targets)?,
        _ => scores.f_sub(&targets)?.f_square()?,
    };
    Ok(LossOutput {
        components: vec![component("loss/scored", config.score_weight, terms)],
        metrics: Vec::new(),
    })
}

/// Computes −t log σ(r) − (1 − t) log σ(−r).
fn cross_entropy(scores: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let opposite = targets.f_neg()?.f_add_scalar(1.0)?;
    let good = scores.f_log_sigmoid()?.f_mul(targets)?;
    Ok(good.f_add(&scores.f_neg()?.f_log_sigmoid()?.f_mul(&opposite)?)?.f_neg()?)
}

fn component(name: &'static str, weight: f64, terms: Tensor) -> LossComponent {
    let denominator = terms.numel() as f64;
    LossComponent { name, weight, terms, denominator }
}
