//! The rules by which figures become verdicts.

use serde::{Deserialize, Serialize};

use crate::{
    claim::{Claim, Control, Criterion, Evidence},
    experiment::Size,
    interval::{Estimate, Over},
};

/// What a run says about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// The figure shows what is claimed; for averages the whole interval does.
    #[serde(rename = "reproduced")]
    Reproduced,
    /// The figure shows the contrary; for averages the whole interval lies on the other side.
    #[serde(rename = "not reproduced")]
    NotReproduced,
    /// The run does not decide: the interval holds both, or there is one seed and no interval over runs.
    #[serde(rename = "inconclusive")]
    Inconclusive,
    /// The arms that the claim needs were not run.
    #[serde(rename = "not run")]
    NotRun,
}

/// What a run says about a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlVerdict {
    /// What must be so is so: an effect is absent where it must be, an identity holds.
    #[serde(rename = "holds")]
    Holds,
    /// It is not: an effect appears where it must not, an identity is broken.
    #[serde(rename = "does not hold")]
    DoesNotHold,
    /// The run does not decide.
    #[serde(rename = "inconclusive")]
    Inconclusive,
    /// The arms that the control needs were not run.
    #[serde(rename = "not run")]
    NotRun,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "not reproduced",
            Self::Inconclusive => "inconclusive (not decided)",
            Self::NotRun => "not run",
        })
    }
}

impl std::fmt::Display for ControlVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "DOES NOT HOLD",
            Self::Inconclusive => "inconclusive (not decided)",
            Self::NotRun => "not run",
        })
    }
}

/// How an estimate lies to a criterion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Met,
    Contrary,
    Open,
}

fn met_or_contrary(met: bool) -> Standing {
    if met { Standing::Met } else { Standing::Contrary }
}

/// Says whether an average comes from a single training run, which decides nothing about training.
fn is_one_seed(estimate: &Estimate) -> bool {
    match estimate.over {
        Over::Exact => false,
        Over::Seeds => estimate.count < 2,
        Over::Items => true,
    }
}

fn standing(criterion: &Criterion, estimate: &Estimate) -> Standing {
    let value = estimate.mean;
    match criterion {
        Criterion::Close { expected, tolerance } => met_or_contrary((value - expected).abs() <= *tolerance),
        Criterion::AtMost { bound } => met_or_contrary(value <= *bound),
        Criterion::AtLeast { bound } => met_or_contrary(value >= *bound),
        Criterion::Above { .. } | Criterion::NotAbove { .. } | Criterion::Within { .. } => {
            match estimate.interval {
                Some(interval) if !is_one_seed(estimate) => averaged(criterion, interval),
                _ => Standing::Open,
            }
        }
    }
}

fn averaged(criterion: &Criterion, (low, high): (f64, f64)) -> Standing {
    match criterion {
        Criterion::Above { than } if low > *than => Standing::Met,
        Criterion::Above { than } if high < *than => Standing::Contrary,
        Criterion::NotAbove { than } => met_or_contrary(low <= *than),
        Criterion::Within { margin } if low >= -margin && high <= *margin => Standing::Met,
        Criterion::Within { margin } if low > *margin || high < -margin => Standing::Contrary,
        _ => Standing::Open,
    }
}

impl Criterion {
    /// Judges a claim by its evidence.
    ///
    /// An exact figure meets the criterion or not. An average decides only with its whole 95 % interval: an
    /// interval that holds both sides, or a single seed, is inconclusive.
    ///
    /// ```
    /// use align_repro::{Result, claim::{Criterion, Evidence}, interval::Estimate, verdict::Verdict};
    ///
    /// let above = Criterion::Above { than: 0.0 };
    /// let evidence = |values: &[f64]| -> Result<_> { Ok(Evidence::average(Estimate::over_seeds("x", values)?)) };
    /// assert_eq!(above.judge_claim(&evidence(&[0.3, 0.4, 0.5])?), Verdict::Reproduced);
    /// assert_eq!(above.judge_claim(&evidence(&[-0.3, -0.4, -0.5])?), Verdict::NotReproduced);
    /// assert_eq!(above.judge_claim(&evidence(&[-0.3, 0.4, 0.5])?), Verdict::Inconclusive);
    /// assert_eq!(above.judge_claim(&evidence(&[0.5])?), Verdict::Inconclusive);
    /// # Ok::<(), align_repro::Error>(())
    /// ```
    pub fn judge_claim(&self, evidence: &Evidence) -> Verdict {
        match standing(self, &evidence.estimate) {
            Standing::Met => Verdict::Reproduced,
            Standing::Contrary => Verdict::NotReproduced,
            Standing::Open => Verdict::Inconclusive,
        }
    }

    /// Judges a control by its evidence.
    pub fn judge_control(&self, evidence: &Evidence) -> ControlVerdict {
        match standing(self, &evidence.estimate) {
            Standing::Met => ControlVerdict::Holds,
            Standing::Contrary => ControlVerdict::DoesNotHold,
            Standing::Open => ControlVerdict::Inconclusive,
        }
    }
}

/// A claim, its evidence and its verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgedClaim {
    /// The claim.
    pub claim: Claim,
    /// Our figure; none when the arms were not run.
    pub evidence: Option<Evidence>,
    /// The verdict.
    pub verdict: Verdict,
    /// Whether the claim is required at this size.
    pub required: bool,
    /// Whether the exit code depends on it: required, run, and a bound or more than one seed.
    pub decides: bool,
}

impl JudgedClaim {
    /// Judges a claim of a run of this size.
    pub fn new(claim: &Claim, evidence: Option<Evidence>, size: Size) -> Self {
        let verdict = evidence.as_ref().map_or(Verdict::NotRun, |e| claim.criterion.judge_claim(e));
        let required = claim.required.contains(&size);
        let decides = required && can_decide(&claim.criterion, evidence.as_ref());
        Self { claim: claim.clone(), evidence, verdict, required, decides }
    }
}

/// A control, its evidence and its verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgedControl {
    /// The control.
    pub control: Control,
    /// Our figure; none when the arms were not run.
    pub evidence: Option<Evidence>,
    /// The verdict.
    pub verdict: ControlVerdict,
    /// Whether the exit code depends on it: run, and a bound or more than one seed.
    pub decides: bool,
}

impl JudgedControl {
    /// Judges a control.
    pub fn new(control: &Control, evidence: Option<Evidence>) -> Self {
        let verdict =
            evidence.as_ref().map_or(ControlVerdict::NotRun, |e| control.criterion.judge_control(e));
        let decides = can_decide(&control.criterion, evidence.as_ref());
        Self { control: control.clone(), evidence, verdict, decides }
    }
}

/// A bound was fixed with its margin before the run, so that it needs no interval.
fn can_decide(criterion: &Criterion, evidence: Option<&Evidence>) -> bool {
    let bound =
        matches!(criterion, Criterion::Close { .. } | Criterion::AtMost { .. } | Criterion::AtLeast { .. });
    evidence.is_some_and(|e| bound || !is_one_seed(&e.estimate))
}

/// Says whether a run passes: every claim that decides is reproduced, every control that decides holds.
pub fn passes(claims: &[JudgedClaim], controls: &[JudgedControl]) -> bool {
    claims.iter().filter(|c| c.decides).all(|c| c.verdict == Verdict::Reproduced)
        && controls.iter().filter(|c| c.decides).all(|c| c.verdict == ControlVerdict::Holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn average(low: f64, high: f64) -> Evidence {
        let estimate =
            Estimate { mean: 0.5 * (low + high), interval: Some((low, high)), count: 5, over: Over::Seeds };
        Evidence::average(estimate)
    }

    fn one_run(low: f64, high: f64) -> Evidence {
        let mut evidence = average(low, high);
        evidence.estimate.over = Over::Items;
        evidence
    }

    #[test]
    fn an_effect_needs_its_whole_interval() {
        let above = Criterion::Above { than: 0.1 };
        assert_eq!(above.judge_claim(&average(0.11, 0.3)), Verdict::Reproduced);
        assert_eq!(above.judge_claim(&average(0.09, 0.3)), Verdict::Inconclusive);
        assert_eq!(above.judge_claim(&average(-0.3, 0.09)), Verdict::NotReproduced);
    }

    #[test]
    fn a_control_shows_the_effect_only_with_its_whole_interval() {
        let not_above = Criterion::NotAbove { than: 0.0 };
        assert_eq!(not_above.judge_control(&average(0.01, 0.3)), ControlVerdict::DoesNotHold);
        assert_eq!(not_above.judge_control(&average(-0.01, 0.3)), ControlVerdict::Holds);
        assert_eq!(not_above.judge_control(&average(-0.4, -0.3)), ControlVerdict::Holds);
    }

    #[test]
    fn nothing_means_a_narrow_interval_around_zero() {
        let within = Criterion::Within { margin: 0.02 };
        assert_eq!(within.judge_control(&average(-0.01, 0.02)), ControlVerdict::Holds);
        assert_eq!(within.judge_control(&average(-0.01, 0.03)), ControlVerdict::Inconclusive);
        assert_eq!(within.judge_control(&average(0.03, 0.05)), ControlVerdict::DoesNotHold);
        assert_eq!(within.judge_control(&average(-0.05, -0.03)), ControlVerdict::DoesNotHold);
    }

    #[test]
    fn exact_figures_have_no_third_verdict() {
        let exact = Evidence::exact;
        let close = Criterion::Close { expected: 0.5, tolerance: 1e-6 };
        assert_eq!(close.judge_claim(&exact(0.5000005)), Verdict::Reproduced);
        assert_eq!(close.judge_claim(&exact(0.500002)), Verdict::NotReproduced);
        assert_eq!(close.judge_claim(&exact(f64::NAN)), Verdict::NotReproduced);
        assert_eq!(Criterion::AtMost { bound: 0.0 }.judge_claim(&exact(0.0)), Verdict::Reproduced);
        assert_eq!(Criterion::AtLeast { bound: 1.0 }.judge_claim(&exact(0.9)), Verdict::NotReproduced);
    }

    fn claim(required: Vec<Size>) -> Claim {
        Claim {
            id: "x".into(),
            source: String::new(),
            statement: String::new(),
            paper: String::new(),
            criterion: Criterion::Above { than: 0.0 },
            required,
            arms: vec![],
        }
    }

    #[test]
    fn a_bound_is_decided_by_one_run() {
        let mut smoke = claim(vec![Size::Quick]);
        smoke.criterion = Criterion::AtLeast { bound: 0.25 };
        let judge = |mean: f64| JudgedClaim::new(&smoke, Some(one_run(mean, mean)), Size::Quick);
        assert_eq!((judge(0.3).verdict, judge(0.3).decides), (Verdict::Reproduced, true));
        assert!(!passes(&[judge(0.2)], &[]));
    }

    fn control() -> Control {
        let criterion = Criterion::NotAbove { than: 0.0 };
        Control { id: "x".into(), statement: String::new(), criterion, arms: vec![] }
    }

    #[test]
    fn one_run_is_not_decided_and_does_not_decide() {
        let judged = JudgedClaim::new(&claim(vec![Size::Quick]), Some(one_run(0.2, 0.3)), Size::Quick);
        assert_eq!((judged.verdict, judged.required, judged.decides), (Verdict::Inconclusive, true, false));
        let judged = JudgedControl::new(&control(), Some(one_run(0.2, 0.3)));
        assert_eq!((judged.verdict, judged.decides), (ControlVerdict::Inconclusive, false));
    }

    #[test]
    fn only_what_is_required_at_the_size_and_was_run_decides() {
        let judge = |evidence, size| JudgedClaim::new(&claim(vec![Size::Full]), evidence, size);
        let contrary = Some(average(-0.3, -0.2));
        assert!(!passes(&[judge(contrary, Size::Full)], &[]));
        assert!(passes(&[judge(contrary, Size::Quick)], &[]));
        assert!(passes(&[judge(None, Size::Full)], &[]));
        assert!(!passes(&[judge(Some(average(-0.1, 0.2)), Size::Full)], &[]));
        assert!(passes(&[judge(Some(average(0.1, 0.2)), Size::Full)], &[]));
    }

    #[test]
    fn a_control_that_shows_the_effect_stops_the_result() {
        assert!(!passes(&[], &[JudgedControl::new(&control(), Some(average(0.1, 0.2)))]));
        assert!(passes(&[], &[JudgedControl::new(&control(), Some(average(-0.1, 0.2)))]));
        assert!(passes(&[], &[JudgedControl::new(&control(), None)]));
    }
}
