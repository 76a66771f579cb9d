//! Sentences that follow from verdicts.

use crate::{
    outcome::Outcome,
    report::signed,
    verdict::{ControlVerdict, Verdict},
};

/// Returns the mean of a claim's figure, as text.
pub fn figure(outcome: &Outcome, id: &str) -> String {
    let evidence = outcome.claims.iter().find(|c| c.claim.id == id).and_then(|c| c.evidence);
    evidence.map_or_else(|| "–".to_owned(), |e| signed(e.estimate.mean, 2))
}

/// Says a claim as a sentence for each verdict: shown, contrary or open, with the figure.
pub fn say(outcome: &Outcome, id: &str, shown: &str, contrary: &str) -> String {
    let figure = figure(outcome, id);
    match outcome.verdict(id) {
        Verdict::Reproduced => format!("{shown} ({figure})"),
        Verdict::NotReproduced => format!("{contrary} ({figure})"),
        Verdict::Inconclusive => format!("it is not decided whether {shown} ({figure})"),
        Verdict::NotRun => format!("it was not run whether {shown}"),
    }
}

/// Says how the controls came out; those of a single seed decide nothing.
pub fn controls(outcome: &Outcome) -> String {
    let decided: Vec<_> = outcome.controls.iter().filter(|c| c.decides).collect();
    let failed: Vec<&str> = decided
        .iter()
        .filter(|c| c.verdict != ControlVerdict::Holds)
        .map(|c| c.control.id.as_str())
        .collect();
    if decided.is_empty() {
        "No control was decided, so the figures answer nothing.".to_owned()
    } else if failed.is_empty() {
        "Every control that was run holds.".to_owned()
    } else {
        format!("Not every control holds ({}), so the result does not count.", failed.join(", "))
    }
}
