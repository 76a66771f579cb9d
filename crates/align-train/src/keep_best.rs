use crate::{Error, Result, checkpoint::Best};

const PREFIX: &str = "eval/";
/// Parts of names of metrics of which less is better; of all others more is.
const LESS_IS_BETTER: [&str; 9] =
    ["loss", "kl", "perplexity", "nll", "error", "ece", "brier", "abstained", "share"];

/// By which held-out metric the best checkpoint is kept.
#[derive(Debug)]
pub(crate) struct KeepBest {
    metric: String,
}

impl KeepBest {
    pub fn new(metric: &str) -> Self {
        Self { metric: format!("{PREFIX}{}", metric.strip_prefix(PREFIX).unwrap_or(metric)) }
    }

    /// Checks before the first step that the metric is one of those that held-out rows give.
    pub fn check(metric: &str, names: &[String]) -> Result<()> {
        let names = std::iter::once("loss").chain(names.iter().map(String::as_str));
        let metrics: Vec<(String, f64)> = names.map(|name| (format!("{PREFIX}{name}"), 0.0)).collect();
        Self::new(metric).find(&metrics).map(|_| ())
    }

    /// Finds the metric among those of an evaluation.
    pub fn find(&self, metrics: &[(String, f64)]) -> Result<(String, f64)> {
        metrics.iter().find(|(name, _)| *name == self.metric).cloned().ok_or_else(|| Error::UnknownMetric {
            metric: self.metric.clone(),
            available: metrics.iter().map(|(name, _)| name.clone()).collect(),
        })
    }

    /// Says whether a value beats the best so far; equal values do not, and neither do those that are not finite.
    pub fn is_better(&self, value: f64, best: Option<&Best>) -> bool {
        if !value.is_finite() {
            return false;
        }
        let Some(best) = best else { return true };
        if self.less_is_better() { value < best.value } else { value > best.value }
    }

    fn less_is_better(&self) -> bool {
        let mut parts = self.metric.split(['/', '_', '-']);
        parts.any(|part| LESS_IS_BETTER.contains(&part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direction_follows_from_the_name() {
        let best = |value| Some(Best { metric: String::new(), value, step: 1 });
        for (metric, less) in [
            ("loss", true),
            ("eval/loss", true),
            ("eval/completions/abstained", true),
            ("eval/completions/most_frequent_share", true),
            ("objective/kl", true),
            ("loss/policy_avg", true),
            ("rewards/margins", false),
            ("rewards/accuracies", false),
            ("eval/logps/chosen", false),
        ] {
            let keep = KeepBest::new(metric);
            assert_eq!(keep.is_better(1.0, best(2.0).as_ref()), less, "{metric}");
            assert_eq!(keep.is_better(2.0, best(1.0).as_ref()), !less, "{metric}");
            assert!(!keep.is_better(1.0, best(1.0).as_ref()));
            assert!(keep.is_better(1.0, None));
            for broken in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                assert!(!keep.is_better(broken, None) && !keep.is_better(broken, best(1.0).as_ref()));
            }
        }
    }

    #[test]
    fn a_metric_that_does_not_exist_is_answered_with_those_that_do() {
        let names = ["rewards/margins".to_owned()];
        KeepBest::check("rewards/margins", &names).unwrap();
        KeepBest::check("eval/loss", &names).unwrap();
        let error = KeepBest::check("rewards/margin", &names).unwrap_err().to_string();
        assert!(error.contains("eval/loss, eval/rewards/margins"), "{error}");
    }
}
