//! What an on-policy run paid for its reward: the four curves that show together whether a reward was hacked.

use super::{curves, run::Run};

/// Reward, distance from the reference, length and entropy: one above the other, so that the same step stands at the same
/// place.
const CURVES: [&str; 4] =
    ["objective/scores", "objective/kl", "completions/mean_length", "objective/entropy"];

const MEANING: &str = "A reward that rises is no proof of success. Where the reward keeps rising while KL and length jump \
                       and entropy falls, the policy has found what the reward overlooks: read the samples of those \
                       steps (2307.04964, section 5).";

/// The metrics that stand in this section: those that a run has, of runs that sample.
pub(super) fn shown(runs: &[Run]) -> Vec<&'static str> {
    let known = |name: &str| runs.iter().any(|run| !run.metrics.points(name).is_empty());
    if !known("objective/scores") {
        return Vec::new();
    }
    CURVES.into_iter().filter(|name| known(name)).collect()
}

/// Writes the section; empty for runs that have no scores of samples.
pub(super) fn html(runs: &[Run]) -> String {
    let cards: String = shown(runs).into_iter().map(|name| curves::single(runs, name)).collect();
    if cards.is_empty() {
        return cards;
    }
    let key = align_report::escape(&curves::key(runs));
    format!(
        "<h2>Reward and what it cost</h2>\n<p class=\"meta\">{MEANING} {key}</p>\n<div class=\"stack\">\n{cards}</div>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::report::run::tests::{empty, with_metrics};

    #[test]
    fn the_four_curves_stand_above_each_other_once() {
        let line = |step: u32| {
            let step = f64::from(step);
            [
                ("loss", 0.1),
                ("objective/scores", step),
                ("objective/kl", 2.0 * step),
                ("completions/mean_length", 9.0),
            ]
        };
        let run = with_metrics("a", (1..9).map(line));
        let page = html(std::slice::from_ref(&run));
        let places = CURVES[..3].iter().map(|name| page.find(&format!("<figcaption>{name}<")).unwrap());
        assert!(places.is_sorted());
        assert!(!page.contains("objective/entropy"), "a metric that the run has not");
        let others = curves::html(std::slice::from_ref(&run));
        assert!(others.contains("<figcaption>loss<") && !others.contains("objective/kl"), "{others}");
    }

    #[test]
    fn other_runs_have_no_such_section() {
        let run = with_metrics("a", (1..9).map(|step| [("loss", 0.1), ("objective/kl", f64::from(step))]));
        assert_eq!(html(&[run, empty("b")]), "");
    }
}
