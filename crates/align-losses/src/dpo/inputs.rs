use align_core::{
    expect_shape,
    tch::{Kind, Tensor},
};

use super::divergence::scores;
use crate::{DpoConfig, Error, Result};

/// Summed log-probabilities of the answers of B pairs, each `[B]`.
///
/// The roles have names because four tensors of one shape in a row can be swapped without anybody noticing.
#[derive(Debug, Clone, Copy)]
pub struct DpoInputs<'a> {
    /// log π(chosen), with gradient.
    pub chosen: &'a Tensor,
    /// log π(rejected), with gradient.
    pub rejected: &'a Tensor,
    /// log π_ref(chosen); `None` exactly when no loss uses a reference ([`DpoConfig::uses_reference`]).
    pub ref_chosen: Option<&'a Tensor>,
    /// log π_ref(rejected); `None` exactly when no loss uses a reference.
    pub ref_rejected: Option<&'a Tensor>,
    /// Numbers of tokens, which some losses average over ([`DpoConfig::uses_lengths`]).
    pub lengths: Option<PairLengths<'a>>,
    /// log π(chosen) over all tokens, for a likelihood term beside sums that weight tokens (LD-DPO); `None`: the
    /// same as `chosen`.
    pub chosen_likelihood: Option<&'a Tensor>,
    /// Weight of each pair (WPO, [`super::policy_weights`]), a constant; given exactly when the configuration says
    /// so.
    pub weights: Option<&'a Tensor>,
}

/// Numbers of tokens of the answers of B pairs, each `[B]` of any number type; at least 1.
#[derive(Debug, Clone, Copy)]
pub struct PairLengths<'a> {
    /// Tokens of the chosen answers.
    pub chosen: &'a Tensor,
    /// Tokens of the rejected answers.
    pub rejected: &'a Tensor,
}

impl<'a> DpoInputs<'a> {
    /// Takes the policy's side and leaves the rest out, to be filled in by `DpoInputs { …, ..DpoInputs::new(…) }`.
    pub fn new(chosen: &'a Tensor, rejected: &'a Tensor) -> Self {
        Self {
            chosen,
            rejected,
            ref_chosen: None,
            ref_rejected: None,
            lengths: None,
            chosen_likelihood: None,
            weights: None,
        }
    }
}

/// A number of each side of B pairs, `[B]` each.
#[derive(Debug)]
pub(super) struct Sides {
    pub chosen: Tensor,
    pub rejected: Tensor,
}

impl Sides {
    fn constants(chosen: &Tensor, rejected: &Tensor) -> Result<Self> {
        // A graph behind a constant would train it.
        let constant = |t: &Tensor| -> Result<Tensor> { Ok(t.f_detach()?.f_to_kind(Kind::Double)?) };
        Ok(Self { chosen: constant(chosen)?, rejected: constant(rejected)? })
    }

    /// Computes chosen − rejected.
    pub fn difference(&self) -> Result<Tensor> {
        Ok(self.chosen.f_sub(&self.rejected)?)
    }

    /// Applies a function to both sides.
    pub fn map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Ok(Self { chosen: f(&self.chosen)?, rejected: f(&self.rejected)? })
    }

    /// Multiplies both sides by a number.
    pub fn scale(&self, factor: f64) -> Result<Self> {
        self.map(|side| Ok(side.f_mul_scalar(factor)?))
    }

    fn minus(&self, other: &Self) -> Result<Self> {
        Ok(Self {
            chosen: self.chosen.f_sub(&other.chosen)?,
            rejected: self.rejected.f_sub(&other.rejected)?,
        })
    }

    /// Divides both sides by their numbers of tokens.
    pub fn per_token(&self, lengths: &Self) -> Result<Self> {
        Ok(Self {
            chosen: self.chosen.f_div(&lengths.chosen)?,
            rejected: self.rejected.f_div(&lengths.rejected)?,
        })
    }
}

/// The inputs after the checks at the door, in float64: sums of long answers lose digits in float32 that the
/// losses see, and squares or exponentials of them overflow there.
#[derive(Debug)]
pub(super) struct Pairs {
    /// log π.
    pub policy: Sides,
    /// log π_ref, where a loss uses it.
    pub reference: Option<Sides>,
    /// h = log π − log π_ref, or log π without a reference.
    pub ratios: Sides,
    /// What the differences are taken of: f′(π / π_ref) of the divergence; h for the reverse KL.
    pub scores: Sides,
    /// log π(chosen) over all tokens.
    pub likelihood: Tensor,
    /// The constant weight of each pair, where asked for.
    pub weights: Option<Tensor>,
    lengths: Option<Sides>,
}

impl Pairs {
    pub fn new(inputs: &DpoInputs<'_>, config: &DpoConfig) -> Result<Self> {
        let shape = inputs.chosen.size();
        expect_shape("chosen log-probabilities", inputs.chosen, &[-1])?;
        expect_shape("rejected log-probabilities", inputs.rejected, &shape)?;
        let wide = |t: &Tensor| -> Result<Tensor> { Ok(t.f_to_kind(Kind::Double)?) };
        let policy = Sides { chosen: wide(inputs.chosen)?, rejected: wide(inputs.rejected)? };
        let reference = reference(inputs, config, &shape)?;
        let ratios = match &reference {
            Some(reference) => policy.minus(reference)?,
            None => policy.map(|side| Ok(side.shallow_clone()))?,
        };
        let scores = ratios.map(|side| scores(side, config))?;
        let likelihood = match inputs.chosen_likelihood {
            Some(sums) => {
                expect_shape("log-probabilities of all chosen tokens", sums, &shape)?;
                wide(sums)?
            }
            None => policy.chosen.shallow_clone(),
        };
        let lengths = match inputs.lengths {
            Some(lengths) => {
                expect_shape("lengths of chosen answers", lengths.chosen, &shape)?;
                expect_shape("lengths of rejected answers", lengths.rejected, &shape)?;
                let counts = Sides::constants(lengths.chosen, lengths.rejected)?;
                Some(counts.map(|side| Ok(side.f_clamp_min(1.0)?))?)
            }
            None => None,
        };
        Ok(Self {
            policy,
            reference,
            ratios,
            scores,
            likelihood,
            lengths,
            weights: weights(inputs, config, &shape)?,
        })
    }

    /// Counts the pairs.
    pub fn count(&self) -> f64 {
        self.policy.chosen.numel() as f64
    }

    /// Returns the numbers of tokens.
    pub fn lengths(&self) -> Result<&Sides> {
        self.lengths.as_ref().ok_or_else(|| {
            Error::input("lengths of the answers", "missing; one of the losses averages over tokens")
        })
    }
}

fn reference(inputs: &DpoInputs<'_>, config: &DpoConfig, shape: &[i64]) -> Result<Option<Sides>> {
    match (inputs.ref_chosen, inputs.ref_rejected, config.uses_reference()) {
        (None, None, false) => Ok(None),
        (Some(chosen), Some(rejected), true) => {
            expect_shape("reference log-probabilities of chosen", chosen, shape)?;
            expect_shape("reference log-probabilities of rejected", rejected, shape)?;
            Ok(Some(Sides::constants(chosen, rejected)?))
        }
        (_, _, false) => {
            Err(Error::input("reference log-probabilities", "given to a loss that is reference-free"))
        }
        (_, _, true) => {
            let why = "missing; give both sides, or set reference_free";
            Err(Error::input("reference log-probabilities", why))
        }
    }
}

fn weights(inputs: &DpoInputs<'_>, config: &DpoConfig, shape: &[i64]) -> Result<Option<Tensor>> {
    match (inputs.weights, config.use_weighting) {
        (Some(weights), true) => {
            expect_shape("weights of the pairs", weights, shape)?;
            Ok(Some(weights.f_detach()?.f_to_kind(Kind::Double)?))
        }
        (None, false) => Ok(None),
        (Some(_), false) => Err(Error::input("weights of the pairs", "given without use_weighting")),
        (None, true) => Err(Error::input("weights of the pairs", "missing, as use_weighting is set")),
    }
}
