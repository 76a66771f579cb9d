//! The first screen: what was run, and whether it worked.

use align_report::{escape, number, swatch, table};
use serde_json::Value;

use super::run::{HELD_OUT, Run, State};

/// Metrics of the table, by falling interest, each with its heading.
const FIGURES: [(&str, &str); 14] = [
    ("eval/loss", "held-out loss"),
    ("eval/rewards/accuracies", "held-out accuracy"),
    ("eval/rewards/margins", "held-out margin"),
    ("eval/reference_free/accuracies", "held-out accuracy"),
    ("eval/reference_free/margins", "held-out margin"),
    ("eval/logps/completion", "held-out log-probability"),
    ("objective/scores", "score"),
    ("objective/kl", "KL to the reference"),
    ("completions/mean_length", "answer length"),
    ("eval/loss/ptx_avg", "held-out loss of earlier data"),
    ("loss", "loss"),
    ("rewards/accuracies", "accuracy"),
    ("rewards/margins", "margin"),
    ("tokens_per_second", "tokens/s"),
];

/// Most columns of figures: more do not fit a page.
const COLUMNS: usize = 5;

/// By what runs are compared: the metric, whether more is better, and its name in a sentence.
const CRITERIA: [(&str, bool, &str); 6] = [
    ("eval/rewards/accuracies", true, "held-out accuracy"),
    ("eval/reference_free/accuracies", true, "held-out accuracy"),
    ("eval/loss", false, "held-out loss"),
    ("rewards/accuracies", true, "accuracy on training rows"),
    ("loss", false, "loss on training rows"),
    ("objective/scores", true, "score"),
];

/// Writes heading, answer, table and warnings.
pub(super) fn html(runs: &[Run]) -> String {
    let mut text = format!("<h1>{}</h1>\n", escape(&title(runs)));
    text += &format!("<p class=\"answer\">{}</p>\n", escape(&answer(runs)));
    text += &common(runs);
    text += &figures(runs);
    text + &warnings(runs)
}

/// Names the page.
pub(super) fn title(runs: &[Run]) -> String {
    match runs {
        [run] if run.command.is_empty() => run.name.clone(),
        [run] => format!("{}: align {}", run.name, run.command),
        runs => format!("{} runs", runs.len()),
    }
}

/// Says where a run is.
pub(super) fn state(run: &Run) -> String {
    let step = run.metrics.step;
    let of = run.total.map(|total| format!(" of {total}")).unwrap_or_default();
    match run.state {
        State::Finished => format!("finished after {step} steps"),
        State::Running if run.metrics.lines == 0 => "running, no step logged yet".to_owned(),
        State::Running => format!("running, step {step}{of}"),
        State::Stopped if run.metrics.lines == 0 => "stopped before the first step".to_owned(),
        State::Stopped => format!("stopped at step {step}{of}; --resume continues it"),
    }
}

/// Says in a sentence or two what came out.
fn answer(runs: &[Run]) -> String {
    match runs {
        [run] => alone(run),
        runs => compared(runs),
    }
}

fn alone(run: &Run) -> String {
    let mut text = state(run);
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text += ".";
    let mut told: Vec<&str> = Vec::new();
    for (metric, more, what) in CRITERIA {
        let about = metric.strip_prefix(HELD_OUT).unwrap_or(metric);
        // What is known of held-out rows need not be said of training rows too.
        if told.contains(&about) {
            continue;
        }
        if let Some((first, last)) = run.metrics.ends(metric) {
            told.push(about);
            let mut name = what.to_owned();
            if let Some(first) = name.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            text += &if run.metrics.points(metric).len() == 1 {
                format!(" {name} {}.", number(last))
            } else {
                format!(" {name} {} → {} ({}).", number(first), number(last), verdict(last - first, more))
            };
        }
    }
    text
}

fn verdict(change: f64, more_is_better: bool) -> &'static str {
    match (change > 0.0) == more_is_better {
        _ if change == 0.0 => "unchanged",
        true => "better",
        false => "worse",
    }
}

fn compared(runs: &[Run]) -> String {
    let count = |state| runs.iter().filter(|run| run.state == state).count();
    let parts = [(State::Finished, "finished"), (State::Running, "running"), (State::Stopped, "stopped")];
    let states: Vec<String> = parts
        .iter()
        .filter(|(state, _)| count(*state) > 0)
        .map(|(state, name)| format!("{} {name}", count(*state)))
        .collect();
    let mut text = format!("{}.", states.join(", "));
    let last = |run: &Run, metric: &str| run.metrics.ends(metric).map(|ends| ends.1);
    // One batch of training rows is too few to rank by.
    let mut held_out = CRITERIA.iter().filter(|(metric, ..)| metric.starts_with(HELD_OUT));
    let comparable =
        held_out.find(|(metric, ..)| runs.iter().filter(|run| last(run, metric).is_some()).count() > 1);
    if let Some((metric, more, what)) = comparable {
        let mut ranked: Vec<(&Run, f64)> =
            runs.iter().filter_map(|run| Some((run, last(run, metric)?))).collect();
        ranked.sort_by(|a, b| if *more { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) });
        if let (Some((best, value)), Some((worst, least))) = (ranked.first(), ranked.last()) {
            text += &format!(
                " Best last {what}: {} with {}; least good: {} with {}.",
                best.name,
                number(*value),
                worst.name,
                number(*least)
            );
        }
    }
    text
}

/// What a run is about, by its configuration: command, model, data.
fn about(run: &Run) -> [(&'static str, String); 4] {
    let eval = run.setting("eval_data");
    [
        ("method", [run.command.clone(), run.setting("loss_type")].join(" ").trim().to_owned()),
        ("model", run.setting("model")),
        ("data", run.setting("data")),
        ("held-out data", if eval.is_empty() { "none".to_owned() } else { eval }),
    ]
}

/// Says whether a thing that runs are about is the same in all of them.
fn is_same(runs: &[Run], index: usize) -> bool {
    let mut values = runs.iter().map(|run| about(run).into_iter().nth(index));
    let first = values.next();
    values.all(|value| Some(value) == first)
}

/// Says of what is the same in all runs what it is.
fn common(runs: &[Run]) -> String {
    let Some(first) = runs.first().map(about) else { return String::new() };
    let same =
        first.iter().enumerate().filter(|(index, (_, value))| !value.is_empty() && is_same(runs, *index));
    let list: String =
        same.map(|(_, (name, value))| format!("<dt>{name}</dt><dd>{}</dd>\n", escape(value))).collect();
    if list.is_empty() { list } else { format!("<dl class=\"about\">\n{list}</dl>\n") }
}

/// One line per run; what its configuration has of its own stands below its name.
fn figures(runs: &[Run]) -> String {
    let known = |metric: &str| runs.iter().any(|run| run.metrics.ends(metric).is_some());
    let columns: Vec<_> = FIGURES.iter().filter(|(metric, _)| known(metric)).take(COLUMNS).collect();
    let mut head: Vec<String> = vec!["run".into(), "steps".into()];
    head.extend(columns.iter().map(|(_, name)| (*name).to_owned()));
    head.extend(["time".into(), "peak memory".into()]);
    let rows = runs.iter().enumerate().map(|(index, run)| {
        let style = if runs.len() > 1 { swatch(index) } else { String::new() };
        let mut name = format!("{style}<bdi>{}</bdi>", escape(&run.name));
        let own = about(run).into_iter().enumerate();
        for (_, (what, value)) in
            own.filter(|(index, (_, value))| !value.is_empty() && !is_same(runs, *index))
        {
            name += &format!("<br><small>{what}: {}</small>", escape(&value));
        }
        let mut cells = vec![name, steps(run)];
        cells.extend(columns.iter().map(|(metric, _)| cell(run, metric)));
        let time = run.metrics.ends("time").map(|ends| duration(ends.1));
        let memory = run.summed("peak_rss_mb").or_else(|| Some(run.metrics.ends("peak_rss_mb")?.1));
        cells.push(time.unwrap_or_else(|| "–".into()));
        cells.push(memory.map_or_else(|| "–".into(), |mb| format!("{mb:.0} MB")));
        cells
    });
    table("wide figures", &head, rows)
}

fn steps(run: &Run) -> String {
    match (run.state, run.total) {
        (State::Finished, _) => number(run.metrics.step as f64),
        (state, total) => {
            let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
            let word = if state == State::Running { "running" } else { "stopped" };
            format!("{}{of}, {word}", run.metrics.step)
        }
    }
}

/// The last value of a metric, and the first where there is more than one.
fn cell(run: &Run, metric: &str) -> String {
    match run.metrics.ends(metric) {
        None => "–".to_owned(),
        Some((first, last)) if run.metrics.points(metric).len() > 1 && metric.contains('/') => {
            format!("{}<br><small>from {}</small>", number(last), number(first))
        }
        Some((_, last)) => number(last),
    }
}

/// Writes seconds as a person would.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}

/// Everything that a reader should know before the curves.
pub(super) fn warnings_of(run: &Run) -> Vec<String> {
    let mut texts = run.notes.clone();
    for warning in run.summary.get("warnings").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| warning.get(key).and_then(Value::as_str).unwrap_or_default();
        let step = warning.get("step").and_then(Value::as_u64);
        let step = step.map(|step| format!("Step {step}: ")).unwrap_or_default();
        let message = if text("message").is_empty() { text("check") } else { text("message") };
        texts.push(format!("{step}{message}"));
    }
    for name in &run.metrics.names {
        let bad: Vec<f64> = run
            .metrics
            .points(name)
            .iter()
            .filter(|point| !point.1.is_finite())
            .map(|point| point.0)
            .collect();
        if let Some(first) = bad.first() {
            texts.push(format!("{name} was not finite at {} logged steps, first at {first}.", bad.len()));
        }
    }
    let rows = [
        ("rows_cut", "rows were cut to the maximum length"),
        ("rows_skipped", "bad rows were left out"),
        ("rows_dropped", "rows were dropped: the limits left no room for their answers"),
    ];
    for (key, what) in rows {
        if let Some(count) = run.summed(key).filter(|count| *count > 0.0) {
            texts.push(format!("{count} {what}."));
        }
    }
    texts
}

fn warnings(runs: &[Run]) -> String {
    let all: Vec<(&Run, Vec<String>)> = runs.iter().map(|run| (run, warnings_of(run))).collect();
    if all.iter().all(|(_, texts)| texts.is_empty()) {
        return String::new();
    }
    let mut text = "<section class=\"notes\">\n<h2>To know</h2>\n<ul>\n".to_owned();
    let mut told: Vec<&String> = Vec::new();
    for (run, texts) in &all {
        for note in texts {
            if told.contains(&note) {
                continue;
            }
            told.push(note);
            let whose: Vec<&str> = all
                .iter()
                .filter(|(_, texts)| texts.contains(note))
                .map(|(run, _)| run.name.as_str())
                .collect();
            let whose = match whose.len() {
                _ if runs.len() == 1 => String::new(),
                all if all == runs.len() => "<strong>all</strong>: ".to_owned(),
                1 => format!("<strong><bdi>{}</bdi></strong>: ", escape(&run.name)),
                _ => format!("<strong><bdi>{}</bdi></strong>: ", escape(&whose.join(", "))),
            };
            text += &format!("<li>{whose}{}</li>\n", escape(note));
        }
    }
    text + "</ul>\n</section>\n"
}
