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

#[cfg(test)]
mod tests {
    use align_testkit::BigramLm;
    use align_types::{Completion, Purpose, RngStream, TokenId};

    use super::*;

    const VOCABULARY: usize = 3;

    fn table(seed: u64) -> Vec<f32> {
        let mut random = RngStream::new(seed, Purpose::Init, 0, 0);
        (0..VOCABULARY * VOCABULARY).map(|_| random.normal() as f32).collect()
    }

    fn model(table: &[f32]) -> BigramLm {
        BigramLm::new(&Tensor::from_slice(table).reshape([VOCABULARY as i64, VOCABULARY as i64]))
    }

    /// The row of probabilities after a token, at a temperature, in plain arithmetic.
    fn after(table: &[f32], token: usize, temperature: f64) -> Vec<f64> {
        let row: Vec<f64> = table[token * VOCABULARY..][..VOCABULARY]
            .iter()
            .map(|z| (f64::from(*z) / temperature).exp())
            .collect();
        let sum: f64 = row.iter().sum();
        row.iter().map(|p| p / sum).collect()
    }

    /// KL of sequences of two tokens after token 0, by enumerating all nine of them.
    fn enumerated(policy: &[f32], reference: &[f32], temperature: f64) -> f64 {
        let (p0, r0) = (after(policy, 0, temperature), after(reference, 0, temperature));
        let mut kl = 0.0;
        for first in 0..VOCABULARY {
            let (p1, r1) = (after(policy, first, temperature), after(reference, first, temperature));
            for second in 0..VOCABULARY {
                let (p, r) = (p0[first] * p1[second], r0[first] * r1[second]);
                kl += p * (p / r).ln();
            }
        }
        kl
    }

    fn pick(random: &mut RngStream, row: &[f64]) -> usize {
        let mut left = random.uniform();
        row.iter()
            .position(|p| {
                left -= p;
                left < 0.0
            })
            .unwrap_or(VOCABULARY - 1)
    }

    fn sample(policy: &[f32], count: usize, temperature: f64) -> Vec<PromptGroup> {
        let mut random = RngStream::new(9, Purpose::Sampling, 0, 0);
        (0..count)
            .map(|_| {
                let first = pick(&mut random, &after(policy, 0, temperature));
                let second = pick(&mut random, &after(policy, first, temperature));
                PromptGroup::new(vec![0], vec![Completion::new(vec![first as TokenId, second as TokenId])])
            })
            .collect()
    }

    #[test]
    fn estimates_agree_with_the_enumerated_divergence() {
        let (policy, reference) = (table(1), table(2));
        for temperature in [1.0, 0.5] {
            let exact = enumerated(&policy, &reference, temperature);
            assert!(exact > 0.05, "{exact}");
            let samples = sample(&policy, 4000, temperature);
            let sums =
                sequence_divergences(&model(&policy), &model(&reference), &samples, temperature).unwrap();
            let prompts = Prompts { of_rows: (0..sums.len()).collect(), count: sums.len() };
            let means = Divergence::of(&sums, &prompts, 0).unwrap();
            for (name, mean) in [("k1", &means.k1), ("k3", &means.k3), ("full", &means.full)] {
                let (got, error) = (mean.sequence.mean, mean.standard_error.unwrap());
                assert!((got - exact).abs() < 3.0 * error + 1e-9, "{name}: {got} ± {error}, exactly {exact}");
                assert!((mean.per_token.mean - got / 2.0).abs() < 1e-9, "two tokens each");
            }
            let error = |mean: &DivergenceMean| mean.standard_error.unwrap();
            assert!(error(&means.full) < error(&means.k1), "averaging over the vocabulary removes variance");
        }
    }

    /// Identities: all are 0 for equal models; k1 is the difference of log-probabilities; k3 = e^(−k1) − 1 + k1 for a
    /// sequence of one token; k3 and the full sum are never negative.
    #[test]
    fn identities_of_the_estimators() {
        let (policy, reference) = (table(3), table(4));
        let samples = sample(&policy, 50, 1.0);
        let same = sequence_divergences(&model(&policy), &model(&policy), &samples, 1.0).unwrap();
        assert!(same.iter().all(|s| s.k1 == 0.0 && s.k3 == 0.0 && s.full.abs() < 1e-12));
        let (ours, theirs) = (model(&policy), model(&reference));
        let single: Vec<PromptGroup> =
            (0..3).map(|token| PromptGroup::new(vec![1], vec![Completion::new(vec![token])])).collect();
        for (token, sum) in sequence_divergences(&ours, &theirs, &single, 1.0).unwrap().iter().enumerate() {
            let k1 = (after(&policy, 1, 1.0)[token] / after(&reference, 1, 1.0)[token]).ln();
            assert!((sum.k1 - k1).abs() < 1e-6 && (sum.k3 - ((-k1).exp() - 1.0 + k1)).abs() < 1e-6);
            assert!(sum.k3 >= 0.0 && sum.full > 0.0 && sum.tokens == 1);
        }
    }

    #[test]
    fn models_of_different_vocabularies_are_refused() {
        let samples = sample(&table(1), 1, 1.0);
        let error =
            sequence_divergences(&BigramLm::uniform(3), &BigramLm::uniform(4), &samples, 1.0).unwrap_err();
        assert!(error.to_string().contains("4 tokens"), "{error}");
    }
}
