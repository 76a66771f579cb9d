//! Where the wall time went.

use align_report::{escape, number, table};
use serde_json::Value;

use super::{overview::duration, run::Run};

/// What `wall_time` calls the sum of all phases.
const TOTAL: &str = "total";

/// Writes the section: a row for each phase, largest first, and a column for each run; empty without a finished run.
pub(super) fn html(runs: &[Run]) -> String {
    let timed: Vec<&Run> =
        runs.iter().filter(|run| seconds(run, TOTAL).is_some_and(|total| total > 0.0)).collect();
    let mut phases: Vec<&String> = Vec::new();
    for name in
        timed.iter().filter_map(|run| run.summary.get("wall_time")?.as_object()).flat_map(|all| all.keys())
    {
        if name != TOTAL && !phases.contains(&name) {
            phases.push(name);
        }
    }
    if phases.is_empty() {
        return String::new();
    }
    let share = |run: &Run, phase: &str| Some(seconds(run, phase)? / seconds(run, TOTAL)?);
    let largest = |phase: &str| timed.iter().filter_map(|run| share(run, phase)).fold(0.0, f64::max);
    phases.sort_by(|a, b| largest(b).total_cmp(&largest(a)));
    let cell = |run: &Run, phase: &str| match (seconds(run, phase), share(run, phase)) {
        (Some(time), Some(share)) => {
            format!("{} <small>{} %</small>", duration(time), number((share * 1000.0).round() / 10.0))
        }
        _ => "–".to_owned(),
    };
    let head: Vec<String> = match timed.as_slice() {
        [_] => vec!["phase".into(), "time".into()],
        runs => std::iter::once("phase".to_owned()).chain(runs.iter().map(|run| run.name.clone())).collect(),
    };
    let total = TOTAL.to_owned();
    let rows = phases.into_iter().chain([&total]).map(|phase| {
        std::iter::once(escape(phase)).chain(timed.iter().map(|run| cell(run, phase))).collect::<Vec<_>>()
    });
    format!("<h2>Wall time by phase</h2>\n{}", table("narrow", &head, rows))
}

fn seconds(run: &Run, phase: &str) -> Option<f64> {
    run.summary.get("wall_time")?.get(phase).and_then(Value::as_f64).filter(|seconds| seconds.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::report::run::tests::empty;

    fn timed(name: &str, wall_time: Value) -> Run {
        let mut run = empty(name);
        run.summary.insert("wall_time".into(), wall_time);
        run
    }

    #[test]
    fn the_longest_phase_comes_first_and_the_sum_last() {
        let run = timed("a", serde_json::json!({"sample": 30.0, "update": 90.0, "total": 120.0}));
        let page = html(&[run, empty("running")]);
        let place = |text: &str| page.find(text).unwrap();
        assert!(place("update") < place("sample") && place("sample") < place("total"));
        assert!(place("1 min 30 s <small>75 %") < place("30 s <small>25 %"));
        assert!(!page.contains("running"));
    }

    #[test]
    fn runs_without_times_have_no_section() {
        for wall_time in
            [Value::Null, serde_json::json!({}), serde_json::json!({"total": 0.0, "sample": 0.0})]
        {
            assert_eq!(html(&[timed("a", wall_time)]), "");
        }
    }
}
