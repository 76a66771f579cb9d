use crate::{Error, Result, whiten::Moments};

/// Running mean and variance by exponential averages with debiasing, for critics that predict normalised returns
/// (2404.10719's released code: weight 0.99995 of the past, ε = 10⁻⁵).
///
/// Values are turned into units of the reward before advantages are estimated. What the critic is trained on is in its own
/// units, standard deviations of the returns so far: its goals, normalised with the moments that have just seen them; the
/// values of the rollout, as the critic gave them; the bound on how far a value may move; and so its loss, `loss/value_avg`.
/// The weights of its last layer do not follow the moments (they do in PopArt, 1602.07714): these move as
/// a mean over all batches does, by half at the second and by 1/n at the n-th, and the critic learns the rest.
///
/// Before anything was seen it changes nothing.
///
/// ```
/// let mut normalizer = align_ppo::RunningNormalizer::default();
/// assert_eq!(normalizer.denormalize(3.0), 3.0);
/// normalizer.update([1.0, 5.0].into_iter())?;
/// assert!((normalizer.denormalize(normalizer.normalize(3.5)) - 3.5).abs() < 1e-12);
/// assert!((normalizer.mean() - 3.0).abs() < 1e-9);
/// # Ok::<(), align_ppo::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RunningNormalizer {
    decay: f64,
    /// Averages of x and x² that begin at 0, and that of 1, which removes the bias.
    mean: f64,
    square: f64,
    weight: f64,
}

/// Smallest standard deviation that is divided by.
const SMALLEST_DEVIATION: f64 = 1e-5;

impl Default for RunningNormalizer {
    fn default() -> Self {
        Self { decay: 0.99995, mean: 0.0, square: 0.0, weight: 0.0 }
    }
}

impl RunningNormalizer {
    /// Makes a normaliser with this weight of the past, in [0, 1).
    ///
    /// # Errors
    /// [`Error::Input`] for another weight.
    pub fn new(decay: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&decay) {
            return Err(Error::input("weight of the past", format!("{decay} is not in [0, 1)")));
        }
        Ok(Self { decay, ..Self::default() })
    }

    /// Takes the numbers of a batch into account, once for the whole batch.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a number that is none; nothing changes then.
    pub fn update(&mut self, values: impl Iterator<Item = f64> + Clone) -> Result<()> {
        let moments = Moments::of(values);
        let square = moments.variance + moments.mean * moments.mean;
        if !square.is_finite() {
            return Err(Error::NonFinite { what: "the mean square of the returns".into(), value: square });
        }
        if moments.count > 0 {
            let mix = |past: f64, new: f64| self.decay * past + (1.0 - self.decay) * new;
            (self.mean, self.square, self.weight) =
                (mix(self.mean, moments.mean), mix(self.square, square), mix(self.weight, 1.0));
        }
        Ok(())
    }

    /// Returns the mean; 0 before anything was seen.
    pub fn mean(&self) -> f64 {
        if self.weight > 0.0 { self.mean / self.weight } else { 0.0 }
    }

    /// Returns the standard deviation; 1 before anything was seen, and at least 10⁻⁵.
    pub fn std(&self) -> f64 {
        if self.weight == 0.0 {
            return 1.0;
        }
        (self.square / self.weight - self.mean().powi(2)).max(0.0).sqrt().max(SMALLEST_DEVIATION)
    }

    /// Computes (x − mean) / std.
    pub fn normalize(&self, value: f64) -> f64 {
        (value - self.mean()) / self.std()
    }

    /// Computes x · std + mean.
    pub fn denormalize(&self, value: f64) -> f64 {
        value * self.std() + self.mean()
    }

    /// Returns what a checkpoint needs.
    pub fn state(&self) -> Vec<f64> {
        vec![self.mean, self.square, self.weight]
    }

    /// Takes a state that [`Self::state`] returned.
    ///
    /// # Errors
    /// [`Error::Input`] for another one.
    pub fn restore(&mut self, state: &[f64]) -> Result<()> {
        let [mean, square, weight] = three("the normaliser of values", state)?;
        (self.mean, self.square, self.weight) = (mean, square, weight);
        Ok(())
    }
}

/// The standard deviation of all scores so far (2307.04964, "reward scaling"): scores are divided by it.
///
/// Scores that were all equal so far are left as they are.
///
/// ```
/// let mut scale = align_ppo::RunningScale::default();
/// scale.update([1.0, 5.0].into_iter())?;
/// assert_eq!(scale.scale(3.0), 1.5);
/// # Ok::<(), align_ppo::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunningScale {
    count: f64,
    mean: f64,
    /// Σ (x − mean)².
    squares: f64,
}

impl RunningScale {
    /// Takes the scores of a batch into account (the parallel form of Welford's recurrence).
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a score that is no number; nothing changes then.
    pub fn update(&mut self, scores: impl Iterator<Item = f64> + Clone) -> Result<()> {
        let new = Moments::of(scores);
        if !new.variance.is_finite() {
            return Err(Error::NonFinite { what: "the variance of the scores".into(), value: new.variance });
        }
        let count = new.count as f64;
        if count > 0.0 {
            let total = self.count + count;
            let apart = new.mean - self.mean;
            self.squares += new.variance * count + apart * apart * self.count * count / total;
            self.mean += apart * count / total;
            self.count = total;
        }
        Ok(())
    }

    /// Divides a score by the standard deviation (divisor n).
    pub fn scale(&self, score: f64) -> f64 {
        let variance = self.squares / self.count.max(1.0);
        if variance > 0.0 { score / variance.sqrt() } else { score }
    }

    /// Returns what a checkpoint needs.
    pub fn state(&self) -> Vec<f64> {
        vec![self.count, self.mean, self.squares]
    }

    /// Takes a state that [`Self::state`] returned.
    ///
    /// # Errors
    /// [`Error::Input`] for another one.
    pub fn restore(&mut self, state: &[f64]) -> Result<()> {
        let [count, mean, squares] = three("the scale of rewards", state)?;
        (self.count, self.mean, self.squares) = (count, mean, squares);
        Ok(())
    }
}

fn three(what: &str, state: &[f64]) -> Result<[f64; 3]> {
    match <[f64; 3]>::try_from(state) {
        Ok(numbers) if numbers.iter().all(|number| number.is_finite()) => Ok(numbers),
        _ => Err(Error::input(format!("state of {what}"), format!("{state:?} is not three finite numbers"))),
    }
}
