use crate::{Error, Result};

/// Estimates, for one prompt, the expected gold reward of the best of n samples by a proxy reward, from N >= n samples
/// that were drawn once.
///
/// With the samples in ascending order of the proxy, every set of n of the N samples is equally likely and the i-th is
/// the best of C(i − 1, n − 1) of them: Σ_{i=n}^{N} C(i − 1, n − 1) / C(N, n) · g_(i) (2112.09332, appendix I; 2210.10760).
/// Samples of equal proxy are drawn among with equal chance, which is the average of their golds.
///
/// `samples` has (proxy, gold) of each sample. For a curve call it with several n; average over prompts.
///
/// ```
/// use align_core::evaluation::best_of_n;
///
/// // The proxy says a < b < c < d, the gold rewards are 3, 1, 2, 0: the best of four is the worst.
/// let samples = [(0.1, 3.0), (0.2, 1.0), (0.3, 2.0), (0.4, 0.0)];
/// assert_eq!(best_of_n(&samples, 1)?, 1.5);
/// assert_eq!(best_of_n(&samples, 4)?, 0.0);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] unless 1 <= n <= N; [`Error::NonFinite`] for a reward that is not finite.
pub fn best_of_n(samples: &[(f64, f64)], n: usize) -> Result<f64> {
    let total = samples.len();
    if n == 0 || n > total {
        return Err(Error::input("best of n", format!("n is {n}, and there are {total} samples")));
    }
    if let Some(value) = samples.iter().flat_map(|(proxy, gold)| [*proxy, *gold]).find(|v| !v.is_finite()) {
        return Err(Error::NonFinite { what: "reward of a sample".into(), value });
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    // From the top: a block that ends at place `end` holds the best of the sets that lie below it, less those that lie
    // below the block: C(end, n) − C(start, n) of C(N, n).
    let (mut estimate, mut end, mut below) = (0.0, total, 1.0);
    for block in sorted.chunk_by(|a, b| a.0 == b.0).rev() {
        let start = end - block.len();
        let next = (start..end).rev().fold(below, |share, size| share * kept(size + 1, n));
        let gold = block.iter().map(|(_, gold)| gold).sum::<f64>() / block.len() as f64;
        estimate += (below - next) * gold;
        (end, below) = (start, next);
    }
    Ok(estimate)
}

/// Returns C(size − 1, n) / C(size, n) = (size − n) / size, 0 where there are fewer than n left.
fn kept(size: usize, n: usize) -> f64 {
    size.saturating_sub(n) as f64 / size as f64
}

/// Computes KL(best of n ‖ one sample) = log n − (n − 1) / n in nats (2112.09332, appendix I).
///
/// It is exact where no two samples have the same reward, and an upper bound otherwise (2401.01879). `None` for n = 0.
///
/// ```
/// use align_core::evaluation::best_of_n_divergence;
///
/// assert_eq!(best_of_n_divergence(1), Some(0.0));
/// assert!((best_of_n_divergence(4).unwrap() - 0.63629436).abs() < 1e-8);
/// ```
pub fn best_of_n_divergence(n: usize) -> Option<f64> {
    let n = n as f64;
    (n > 0.0).then(|| n.ln() - (n - 1.0) / n)
}

/// Estimates, for one problem, the probability that at least one of k samples is correct, from n >= k samples of which c
/// are: 1 − C(n − c, k) / C(n, k) (2107.03374 eq. 1, unbiased; 1 − (1 − c / n)^k is biased low).
///
/// Average over problems.
///
/// ```
/// use align_core::evaluation::pass_at_k;
///
/// assert!((pass_at_k(10, 3, 2)? - 8.0 / 15.0).abs() < 1e-12);
/// # Ok::<(), align_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Input`] unless 1 <= k <= n and c <= n.
pub fn pass_at_k(n: usize, c: usize, k: usize) -> Result<f64> {
    if k == 0 || k > n || c > n {
        return Err(Error::input("pass at k", format!("k is {k}, with {c} correct of {n} samples")));
    }
    // All k samples are wrong ones: Π over the correct samples of (i − k) / i.
    Ok(1.0 - (n - c + 1..=n).fold(1.0, |product, size| product * kept(size, k)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The average over all sets of n samples of the gold of the best by proxy, ties averaged: the definition.
    fn by_enumeration(samples: &[(f64, f64)], n: usize) -> f64 {
        let (mut sum, mut sets) = (0.0, 0.0);
        for mask in 0..1u32 << samples.len() {
            if mask.count_ones() as usize != n {
                continue;
            }
            let set: Vec<_> = (0..samples.len()).filter(|i| mask >> i & 1 == 1).map(|i| samples[i]).collect();
            let top = set.iter().map(|s| s.0).fold(f64::MIN, f64::max);
            let best: Vec<f64> = set.iter().filter(|s| s.0 == top).map(|s| s.1).collect();
            sum += best.iter().sum::<f64>() / best.len() as f64;
            sets += 1.0;
        }
        sum / sets
    }

    /// G13.
    #[test]
    fn curves_are_those_of_the_golden_vector() {
        let samples = [(2.0, 2.0), (0.0, 3.0), (3.0, 0.0), (1.0, 1.0)];
        for (n, expected) in [(1, 1.5), (2, 0.83333333), (3, 0.5), (4, 0.0)] {
            let got = best_of_n(&samples, n).unwrap();
            assert!((got - expected).abs() < 5e-9, "{n}: {got}");
        }
        for (n, expected) in [(2, 0.19314718), (4, 0.63629436), (16, 1.83508872), (64, 3.17450808)] {
            assert!((best_of_n_divergence(n).unwrap() - expected).abs() < 5e-9);
        }
        for ((n, c, k), expected) in
            [((10, 3, 1), 0.3), ((10, 3, 2), 0.53333333), ((10, 3, 5), 0.91666667), ((10, 6, 5), 1.0)]
        {
            assert!((pass_at_k(n, c, k).unwrap() - expected).abs() < 5e-9);
        }
        assert_eq!(pass_at_k(10, 0, 5).unwrap(), 0.0);
    }

    /// G13: 1 − (1 − c / n)^k is .83193 for 3 of 10 and k = 5. That is the true chance where .3 of all answers are correct,
    /// and the estimate over samples of 10 answers has it as its mean; the formula with c / n put in lies below.
    #[test]
    fn the_estimate_has_no_bias_and_the_plug_in_has() {
        let (n, k, p) = (10, 5, 0.3f64);
        let plug_in = |c: usize| 1.0 - (1.0 - c as f64 / n as f64).powi(k as i32);
        assert!((plug_in(3) - 0.83193).abs() < 5e-9);
        let (mut estimate, mut plugged, mut chance) = (0.0, 0.0, (1.0 - p).powi(n as i32));
        for c in 0..=n {
            estimate += chance * pass_at_k(n, c, k).unwrap();
            plugged += chance * plug_in(c);
            // From C(n, c) p^c (1 − p)^(n − c) to that of c + 1.
            chance *= (n - c) as f64 / (c as f64 + 1.0) * p / (1.0 - p);
        }
        assert!((estimate - 0.83193).abs() < 5e-9, "{estimate}");
        assert!(plugged < 0.8, "{plugged}");
    }

    #[test]
    fn large_numbers_do_not_overflow() {
        // Gold equal to the proxy, 0 to 59999: the best of n of N without replacement is n (N + 1) / (n + 1) − 1 on average.
        let samples: Vec<(f64, f64)> = (0..60_000).map(|i| (f64::from(i), f64::from(i))).collect();
        for n in [1, 4096, 30_000, 60_000] {
            let expected = n as f64 * 60_001.0 / (n as f64 + 1.0) - 1.0;
            assert!((best_of_n(&samples, n).unwrap() / expected - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn what_has_no_answer_is_refused() {
        assert!(best_of_n(&[], 1).is_err() && best_of_n(&[(0.0, 0.0)], 0).is_err());
        assert!(best_of_n(&[(0.0, 0.0)], 2).unwrap_err().to_string().contains("n is 2"));
        assert!(best_of_n(&[(f64::NAN, 0.0)], 1).is_err() && best_of_n(&[(0.0, f64::INFINITY)], 1).is_err());
        assert!(pass_at_k(3, 4, 1).is_err() && pass_at_k(3, 1, 4).is_err() && pass_at_k(3, 1, 0).is_err());
        assert_eq!(best_of_n_divergence(0), None);
    }

    proptest! {
        /// Few distinct proxies, so that ties are the rule; in an enumeration of all sets a tie is averaged within each set.
        #[test]
        fn the_estimate_is_the_average_over_all_sets(
            samples in prop::collection::vec((0u8..4, -3.0f64..3.0), 1..9), n in 1usize..9,
        ) {
            let samples: Vec<(f64, f64)> = samples.into_iter().map(|(p, g)| (f64::from(p), g)).collect();
            let n = n.min(samples.len());
            let got = best_of_n(&samples, n).unwrap();
            prop_assert!((got - by_enumeration(&samples, n)).abs() < 1e-9);
        }

        #[test]
        fn passing_is_having_a_correct_one_among_the_best_of_k(n in 1usize..9, c in 0usize..9, k in 1usize..9) {
            let (c, k) = (c.min(n), k.min(n));
            let samples: Vec<(f64, f64)> = (0..n).map(|i| { let right = f64::from(u8::from(i < c)); (right, right) }).collect();
            prop_assert!((pass_at_k(n, c, k).unwrap() - best_of_n(&samples, k).unwrap()).abs() < 1e-9);
        }
    }
}
