use align_core::{LossOutput, expect_shape, tch::Tensor};

use crate::{Comparison, Error, Result, RewardConfig, comparison_loss};

/// Scores of the two answers of B prompts, and what is known of each pair.
#[derive(Debug, Clone, Copy)]
pub struct PairInputs<'a> {
    /// Scores of the chosen answers, `[B]`, with gradient.
    pub chosen: &'a Tensor,
    /// Scores of the rejected answers, `[B]`, with gradient.
    pub rejected: &'a Tensor,
    /// [`Comparison::margin`] of each pair; none for margins of 0.
    pub margins: Option<&'a [f64]>,
    /// [`Comparison::preference`] of each pair; none for certain pairs.
    pub preferences: Option<&'a [f64]>,
}

impl<'a> PairInputs<'a> {
    /// Takes plain pairs.
    pub fn new(chosen: &'a Tensor, rejected: &'a Tensor) -> Self {
        Self { chosen, rejected, margins: None, preferences: None }
    }
}

/// Computes [`comparison_loss`] of pairs.
///
/// ```
/// use align_core::tch::Tensor;
/// use align_rm::{PairInputs, RewardConfig, pair_loss};
///
/// let (chosen, rejected) = (Tensor::from_slice(&[1.2]), Tensor::from_slice(&[0.3]));
/// let inputs = PairInputs { margins: Some(&[1.0]), ..PairInputs::new(&chosen, &rejected) };
/// let loss = pair_loss(&inputs, &RewardConfig::default())?.mean()?.f_double_value(&[])?;
/// assert!((loss - 0.74439666).abs() < 1e-8);
/// # Ok::<(), align_rm::Error>(())
/// ```
///
/// # Errors
/// As [`comparison_loss`]; [`Error::Shape`] or [`Error::Input`] for lists of different length.
pub fn pair_loss(inputs: &PairInputs<'_>, config: &RewardConfig) -> Result<LossOutput> {
    expect_shape("scores of chosen answers", inputs.chosen, &[-1])?;
    expect_shape("scores of rejected answers", inputs.rejected, &inputs.chosen.size())?;
    let count = inputs.chosen.numel();
    let lists = [("margins", inputs.margins), ("preferences", inputs.preferences)];
    if let Some((what, list)) = lists.iter().find(|(_, list)| list.is_some_and(|list| list.len() != count)) {
        let why = format!("{} for {count} pairs", list.map_or(0, <[f64]>::len));
        return Err(Error::input(*what, why));
    }
    let of = |list: Option<&[f64]>, pair: usize, none| {
        list.and_then(|list| list.get(pair).copied()).unwrap_or(none)
    };
    let pair = |index| {
        vec![Comparison {
            margin: of(inputs.margins, index, 0.0),
            preference: of(inputs.preferences, index, 1.0),
            ..Comparison::new(index, count + index)
        }]
    };
    let prompts: Vec<Vec<Comparison>> = (0..count).map(pair).collect();
    comparison_loss(&Tensor::f_cat(&[inputs.chosen, inputs.rejected], 0)?, &prompts, config)
}
