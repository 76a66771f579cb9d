use crate::{Error, PpoConfig, Result};

/// Largest relative step of an adaptive weight per `kl_horizon` episodes (lm-human-preferences).
const LARGEST_ERROR: f64 = 0.2;

/// The weight β of the KL divergence in the reward.
///
/// Adaptive (1909.08593 section 2.2): with e = clip(KL / target − 1, ±0.2), β ← β (1 + e n / horizon), n the number of
/// *episodes* since the last update, and KL the sum over tokens averaged over episodes.
///
/// ```
/// use align_ppo::{KlController, PpoConfig};
///
/// let config = PpoConfig { kl_coef: 0.15, kl_target: Some(6.0), ..Default::default() };
/// let mut controller = KlController::new(&config);
/// controller.update(9.0, 64)?;
/// assert!((controller.coef() - 0.150192).abs() < 1e-12);
/// # Ok::<(), align_ppo::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct KlController {
    coef: f64,
    target: Option<f64>,
    horizon: f64,
}

impl KlController {
    /// Makes the controller of a configuration; without a target β stays as it is.
    pub fn new(config: &PpoConfig) -> Self {
        Self { coef: config.reward_kl_coef(), target: config.kl_target, horizon: config.kl_horizon }
    }

    /// Returns β.
    pub fn coef(&self) -> f64 {
        self.coef
    }

    /// Takes the KL per answer of a batch of this many answers into account.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a KL that is no number.
    pub fn update(&mut self, kl: f64, episodes: usize) -> Result<()> {
        if !kl.is_finite() {
            return Err(Error::NonFinite { what: "the KL divergence of the batch".into(), value: kl });
        }
        if let Some(target) = self.target {
            let error = (kl / target - 1.0).clamp(-LARGEST_ERROR, LARGEST_ERROR);
            // A horizon shorter than a batch counts as one: β must not become 0, where it would stay.
            self.coef *= 1.0 + error * (episodes as f64 / self.horizon).min(1.0);
        }
        Ok(())
    }

    /// Returns what a checkpoint needs.
    pub fn state(&self) -> Vec<f64> {
        vec![self.coef]
    }

    /// Takes a state that [`Self::state`] returned.
    ///
    /// # Errors
    /// [`Error::Input`] for another one.
    pub fn restore(&mut self, state: &[f64]) -> Result<()> {
        match state {
            [coef] if coef.is_finite() && *coef >= 0.0 => {
                self.coef = *coef;
                Ok(())
            }
            _ => Err(Error::input("state of the KL controller", format!("{state:?} is not one weight"))),
        }
    }
}
