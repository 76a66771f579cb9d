use serde::{Deserialize, Serialize};

use super::check;
use crate::{Error, Result};

/// How a reference policy follows the policy (TR-DPO, 2404.09656), with TRL's names and defaults.
///
/// After every update whose number is a multiple of `ref_model_sync_steps`, with α the mixup:
/// π_ref ← α π + (1 − α) π_ref. α weighs the *policy*: 1 is the hard update, a small α after every update the
/// exponential average of weights.
///
/// ```
/// use align_types::config::ReferenceSync;
///
/// let sync = ReferenceSync::default();
/// assert_eq!((sync.ref_model_mixup_alpha, sync.ref_model_sync_steps), (0.6, 512));
/// assert!(!sync.is_due(511) && sync.is_due(512) && sync.is_due(1024));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReferenceSync {
    /// Share α of the policy in the new reference; in (0, 1].
    pub ref_model_mixup_alpha: f64,
    /// Updates from one mixing to the next; at least 1.
    pub ref_model_sync_steps: u64,
}

impl Default for ReferenceSync {
    fn default() -> Self {
        Self { ref_model_mixup_alpha: 0.6, ref_model_sync_steps: 512 }
    }
}

impl ReferenceSync {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        let alpha = self.ref_model_mixup_alpha;
        let expected = "a number above 0 and at most 1 (1: the reference becomes the policy)";
        check("ref-model-mixup-alpha", alpha, alpha > 0.0 && alpha <= 1.0, expected)?;
        if self.ref_model_sync_steps > 0 {
            return Ok(());
        }
        Err(Error::Config { key: "ref-model-sync-steps", value: "0".into(), expected: "at least 1" })
    }

    /// Says whether the reference moves after the update of this number (from 1).
    pub fn is_due(&self, updates: u64) -> bool {
        updates > 0 && self.ref_model_sync_steps > 0 && updates.is_multiple_of(self.ref_model_sync_steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_are_named() {
        ReferenceSync { ref_model_mixup_alpha: 1.0, ref_model_sync_steps: 1 }.validate().unwrap();
        for ref_model_mixup_alpha in [0.0, -0.1, 1.0001, f64::NAN, f64::INFINITY] {
            let sync = ReferenceSync { ref_model_mixup_alpha, ..Default::default() };
            let error = sync.validate().unwrap_err().to_string();
            assert!(error.contains("ref-model-mixup-alpha") && error.contains("above 0"), "{error}");
        }
        let error = ReferenceSync { ref_model_sync_steps: 0, ..Default::default() }.validate().unwrap_err();
        assert!(error.to_string().contains("ref-model-sync-steps = 0"), "{error}");
    }

    #[test]
    fn the_reference_moves_after_whole_multiples_only() {
        let due = |steps: u64| -> Vec<u64> {
            let sync = ReferenceSync { ref_model_sync_steps: steps, ..Default::default() };
            (0..=9).filter(|updates| sync.is_due(*updates)).collect()
        };
        assert_eq!(due(3), [3, 6, 9]);
        assert_eq!(due(1), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(due(0).is_empty());
    }
}
