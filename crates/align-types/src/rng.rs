use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

/// What random numbers are drawn for; each purpose has its own streams.
///
/// The numbers are part of the exact-resume contract: they never change, new purposes get new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u64)]
pub enum Purpose {
    /// The order of data rows.
    DataOrder = 1,
    /// Sampling of tokens.
    Sampling = 2,
    /// Initial weights.
    Init = 3,
    /// Dropout masks.
    Dropout = 4,
    /// Making of synthetic data.
    Synthetic = 5,
    /// Resampling for intervals.
    Bootstrap = 6,
    /// Splitting rows into parts.
    Split = 7,
    /// The order of minibatches within an iteration.
    Minibatches = 8,
    /// Which prompts a curriculum takes.
    Curriculum = 9,
}

/// A stream of random numbers that is a pure function of (seed, purpose, step, rank).
///
/// Nothing is ever saved: a resumed run makes the stream again from the same four numbers. They are the key
/// of a ChaCha8 generator, so streams with different numbers are independent.
///
/// ```
/// use align_types::{Purpose, RngStream};
/// let mut a = RngStream::new(0, Purpose::Sampling, 3, 0);
/// let mut b = RngStream::new(0, Purpose::Sampling, 3, 0);
/// assert_eq!(a.uniform(), b.uniform());
/// ```
#[derive(Debug, Clone)]
pub struct RngStream(ChaCha8Rng);

impl RngStream {
    /// Makes the stream of these four numbers. `rank` is any index below a step: worker, row or sample.
    pub fn new(seed: u64, purpose: Purpose, step: u64, rank: u64) -> Self {
        let mut key = [0u8; 32];
        for (bytes, number) in key.chunks_exact_mut(8).zip([seed, purpose as u64, step, rank]) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Draws 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Draws uniformly from [0, 1) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Draws uniformly from 0..n without bias; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        // Lemire's multiply-shift with rejection of the biased remainder.
        let n = n as u64;
        if n == 0 {
            return 0;
        }
        let threshold = n.wrapping_neg() % n;
        loop {
            let wide = u128::from(self.bits()) * u128::from(n);
            if wide as u64 >= threshold {
                return (wide >> 64) as usize;
            }
        }
    }

    /// Draws from the standard normal distribution (Box-Muller, one of the two values is dropped).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Shuffles a slice in place, every order being equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_of_the_key_makes_another_stream() {
        let draw = |s, p, t, r| RngStream::new(s, p, t, r).bits();
        let base = draw(1, Purpose::Sampling, 2, 3);
        assert_eq!(base, draw(1, Purpose::Sampling, 2, 3));
        assert_ne!(base, draw(2, Purpose::Sampling, 2, 3));
        assert_ne!(base, draw(1, Purpose::DataOrder, 2, 3));
        assert_ne!(base, draw(1, Purpose::Sampling, 3, 3));
        assert_ne!(base, draw(1, Purpose::Sampling, 2, 4));
    }

    #[test]
    fn draws_have_the_moments_they_promise() {
        let mut rng = RngStream::new(7, Purpose::Synthetic, 0, 0);
        let n = 40_000;
        let uniform: f64 = (0..n).map(|_| rng.uniform()).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 0.01, "{uniform}");
        let normals: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        let mean = normals.iter().sum::<f64>() / f64::from(n);
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / f64::from(n) - mean * mean;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        let mut counts = [0; 3];
        (0..n).for_each(|_| counts[rng.below(3)] += 1);
        assert!(counts.iter().all(|c| (f64::from(*c) / f64::from(n) - 1.0 / 3.0).abs() < 0.01), "{counts:?}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn shuffling_reaches_every_order() {
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..200 {
            let mut items = [0, 1, 2];
            RngStream::new(0, Purpose::DataOrder, step, 0).shuffle(&mut items);
            seen.insert(items);
        }
        assert_eq!(seen.len(), 6);
    }
}
