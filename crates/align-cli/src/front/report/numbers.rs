//! The numbers behind the page, for machines.

use std::path::Path;

use align_report::Bins;
use serde_json::{Map, Value, json};

use super::{
    histograms::{answer_lengths, margin, values},
    overview::warnings_of,
    run::{Run, State},
    settings::differing,
};

/// Bins of the histogram of margins.
const BINS: usize = 24;

/// Collects what the page shows.
pub(super) fn json(runs: &[Run], page: &Path) -> Value {
    let differences: Map<String, Value> =
        differing(runs).into_iter().map(|(key, values)| (key, values.into())).collect();
    json!({
        "page": page.display().to_string(),
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
        "differences": differences,
    })
}

fn run(run: &Run) -> Value {
    let state = match run.state {
        State::Finished => "finished",
        State::Running => "running",
        State::Stopped => "stopped",
    };
    let metrics: Map<String, Value> =
        run.metrics.names.iter().map(|name| (name.clone(), ends(run, name))).collect();
    json!({
        "name": run.name,
        "path": run.path.display().to_string(),
        "command": run.command,
        "state": state,
        "step": run.metrics.step,
        "total_steps": run.total,
        "metrics": metrics,
        "margins": margins(run),
        "answer_lengths": answer_lengths(run),
        "warnings": warnings_of(run),
    })
}

/// First and last value of a metric, the least and the most.
fn ends(run: &Run, name: &str) -> Value {
    let finite = || run.metrics.points(name).iter().map(|point| point.1).filter(|value| value.is_finite());
    let (first, last) = run.metrics.ends(name).unzip();
    let (least, most) = (finite().reduce(f64::min), finite().reduce(f64::max));
    json!({ "first": first, "last": last, "min": least, "max": most, "points": run.metrics.points(name).len() })
}

fn margins(run: &Run) -> Value {
    let Some(name) = margin(run) else { return Value::Null };
    let values = values(run, &name);
    match Bins::fitting(values.iter().copied(), BINS) {
        None => Value::Null,
        Some(bins) => json!({
            "metric": name, "rows": values.len(), "edges": bins.edges(), "counts": bins.count(values),
        }),
    }
}
