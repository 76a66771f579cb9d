use align_types::PromptGroup;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Prompts, average};
use crate::{
    CausalLm, Error, PackedBatch, Result, TokenLogProbs, expect_shape, gather_log_probs,
    intervals::{Estimate, standard_error},
    kl, no_grad,
};

/// Rows of logits that are compared over the whole vocabulary at once: bounds the memory of the float64 copies.
const ROWS_AT_ONCE: i64 = 128;

/// What one sampled sequence says of KL(π ‖ π_ref), as sums over its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SequenceDivergence {
    /// Tokens of the sequence.
    pub tokens: usize,
    /// Σ k1 = log π(y | x) − log π_ref(y | x).
    pub k1: f64,
    /// Σ k3 over the tokens.
    pub k3: f64,
    /// Σ KL(π(· | s_i) ‖ π_ref(· | s_i)) over the states that the sequence visits, by summing over the vocabulary.
    pub full: f64,
}

/// Measures sampled completions: how far their policy is from a reference at the states they visit.
///
/// The completions must be samples of `policy` at this temperature, from the whole vocabulary: log-probabilities of
/// both models are taken at it. Over such samples the mean of each of the three sums is an unbiased estimate of the KL
/// of whole sequences; `full` has the smallest variance, because at each state it averages over the token that could have
/// come instead of looking at the one that came (2504.10637). Answers from data say nothing of this divergence.
///
/// Returns one entry per completion, in order. No gradient is recorded.
///
/// # Errors
/// [`Error::Input`] for models of different vocabularies; a sequence that is longer than a context; libtorch refuses.
pub fn sequence_divergences(
    policy: &dyn CausalLm,
    reference: &dyn CausalLm,
    samples: &[PromptGroup],
    temperature: f64,
) -> Result<Vec<SequenceDivergence>> {
    if policy.vocab_size() != reference.vocab_size() {
        let why = format!("{} tokens, and the policy has {}", reference.vocab_size(), policy.vocab_size());
        return Err(Error::input("vocabulary of the reference", why));
    }
    let _guard = no_grad();
    let batch = PackedBatch::new(samples)?;
    let ours = policy.logits(&batch)?;
    let theirs = reference.logits(&batch)?.f_to_device(ours.device())?;
    let targets = PackedBatch::index_tensor(batch.targets(), ours.device())?;
    let log_probs = |logits: &Tensor| -> Result<Tensor> {
        Ok(gather_log_probs(logits, &targets, temperature)?.f_to_kind(Kind::Double)?)
    };
    let (ours_at, theirs_at) = (log_probs(&ours)?, log_probs(&theirs)?);
    let lens = batch.completion_lens();
    let sums = |values: Tensor| -> Result<Vec<f64>> {
        Ok(Vec::<f64>::try_from(TokenLogProbs::new(values, lens.to_vec())?.sums()?.f_contiguous()?)?)
    };
    let k1 = sums(kl::k1(&ours_at, &theirs_at)?)?;
    let k3 = sums(kl::k3(&ours_at, &theirs_at)?)?;
    let full = sums(state_divergences(&ours, &theirs, temperature)?)?;
    let sequences = lens.iter().zip(k1).zip(k3).zip(full);
    Ok(sequences
        .map(|(((tokens, k1), k3), full)| SequenceDivergence { tokens: *tokens, k1, k3, full })
        .collect())
}

/// Computes KL(π ‖ π_ref) of each row of logits `[N, V]`; returns `[N]` in float64.
fn state_divergences(policy: &Tensor, reference: &Tensor, temperature: f64) -> Result<Tensor> {
    expect_shape("reference logits", reference, &policy.size())?;
    let pieces = |logits: &Tensor| -> Result<Vec<Tensor>> { Ok(logits.f_split(ROWS_AT_ONCE, 0)?) };
    let log_softmax = |logits: &Tensor| -> Result<Tensor> {
        Ok(logits.f_to_kind(Kind::Double)?.f_div_scalar(temperature)?.f_log_softmax(1, Kind::Double)?)
    };
    let divergences = pieces(policy)?
        .iter()
        .zip(&pieces(reference)?)
        .map(|(ours, theirs)| {
            let (ours, theirs) = (log_softmax(ours)?, log_softmax(theirs)?);
            Ok(ours.f_exp()?.f_mul(&ours.f_sub(&theirs)?)?.f_sum_dim_intlist(1i64, false, Kind::Double)?)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_cat(&divergences, 0)?)
}

/// An estimate of KL(π ‖ π_ref) from one of the sums of [`SequenceDivergence`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DivergenceMean {
    /// KL of whole sequences, in nats: the mean over sequences, with the interval over prompts.
    pub sequence: Estimate,
    /// Its standard error over sequences.
    pub standard_error: Option<f64>,
    /// KL per token, in nats: the mean over sequences divided by their mean length.
    pub per_token: Estimate,
}

/// The three estimates of KL(π ‖ π_ref) from the same samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// From k1, which may be negative.
    pub k1: DivergenceMean,
    /// From k3, which is never negative, and has a heavy tail where the reference finds a sample much likelier.
    pub k3: DivergenceMean,
    /// From the whole vocabulary at the visited states: the one to read.
    pub full: DivergenceMean,
}

impl Divergence {
    /// Averages what sequences say; `prompts` has the prompt of each sequence.
    ///
    /// ```
    /// use align_core::evaluation::{Divergence, Prompts, SequenceDivergence};
    ///
    /// let of = |tokens, kl| SequenceDivergence { tokens, k1: kl, k3: kl, full: kl };
    /// let prompts = Prompts { of_rows: vec![0, 1], count: 2 };
    /// let mean = Divergence::of(&[of(1, 0.5), of(3, 0.1)], &prompts, 0)?.full;
    /// assert!((mean.sequence.mean - 0.3).abs() < 1e-12 && (mean.per_token.mean - 0.15).abs() < 1e-12);
    /// # Ok::<(), align_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] without a sequence, [`Error::NonFinite`] for a sum that is not finite.
    pub fn of(sequences: &[SequenceDivergence], prompts: &Prompts, seed: u64) -> Result<Self> {
        let mean = |what: &str, of: fn(&SequenceDivergence) -> f64| -> Result<DivergenceMean> {
            let (mut by_sequence, mut by_token) =
                (vec![(0.0, 0.0); prompts.count], vec![(0.0, 0.0); prompts.count]);
            for (sequence, prompt) in sequences.iter().zip(&prompts.of_rows) {
                for (sums, weight) in [(&mut by_sequence, 1.0), (&mut by_token, sequence.tokens as f64)] {
                    if let Some((over, under)) = sums.get_mut(*prompt) {
                        *over += of(sequence);
                        *under += weight;
                    }
                }
            }
            let none = || Error::input(what, "there is no sampled sequence");
            let values: Vec<f64> = sequences.iter().map(of).collect();
            Ok(DivergenceMean {
                sequence: average(what, &by_sequence, seed)?.ok_or_else(none)?,
                standard_error: standard_error(&values),
                per_token: average(what, &by_token, seed)?.ok_or_else(none)?,
            })
        };
        Ok(Self {
            k1: mean("k1", |sequence| sequence.k1)?,
            k3: mean("k3", |sequence| sequence.k3)?,
            full: mean("KL over the vocabulary", |sequence| sequence.full)?,
        })
    }
}
