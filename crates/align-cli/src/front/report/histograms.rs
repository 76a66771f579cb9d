//! How margins and lengths are distributed.

use align_report::{Bins, Distribution, Histogram, escape, figure_card, histogram, number, table};
use serde_json::Value;

use super::{
    definition,
    run::{HELD_OUT, Run},
};

/// Bins of a histogram, about.
const BINS: usize = 24;
/// Rows that are named because the model does worst on them.
const WORST: usize = 5;
/// Runs of which these rows are named.
const RUNS: usize = 3;

/// The values of a metric over the held-out rows of a run.
pub(super) fn values(run: &Run, name: &str) -> Vec<f64> {
    run.rows.iter().filter_map(|row| row.numbers.get(name)?.as_f64()).collect()
}

/// The metric whose sign says whether the model prefers the right answer, where rows have one.
pub(super) fn margin(run: &Run) -> Option<String> {
    let names = run.rows.first()?.numbers.keys();
    names.clone().find(|name| name.ends_with("margins")).cloned()
}

/// Writes the section.
pub(super) fn html(runs: &[Run]) -> String {
    let mut cards = rows(runs);
    cards += &lengths(runs);
    let mut text = format!("<h2>Held-out rows and lengths</h2>\n<div class=\"charts\">\n{cards}</div>\n");
    if runs.iter().all(|run| run.rows.is_empty()) {
        text += &format!("<p class=\"meta\">{}</p>\n", escape(without_rows(runs)));
    }
    text + &worst(runs)
}

fn without_rows(runs: &[Run]) -> &'static str {
    let evaluated = runs.iter().any(|run| run.metrics.names.iter().any(|name| name.starts_with(HELD_OUT)));
    if evaluated {
        "How single held-out rows do is known when a run is finished (eval.jsonl)."
    } else {
        "There is no distribution over held-out rows: the runs had none. Give some with --eval-data."
    }
}

/// Draws margins, or what rows have in their place, and then the rewards that they are made of.
fn rows(runs: &[Run]) -> String {
    let first = runs.iter().find(|run| !run.rows.is_empty());
    let Some(keys) = first.and_then(|run| Some(run.rows.first()?.numbers.iter())) else {
        return String::new();
    };
    let known: Vec<&str> = keys
        .filter(|(_, value)| value.is_f64())
        .map(|(name, _)| name.as_str())
        .filter(|n| !n.ends_with("accuracies"))
        .collect();
    let margin = known.iter().find(|name| name.ends_with("margins")).copied();
    let ends = |name: &&&str| {
        name.starts_with("rewards/") && (name.ends_with("/chosen") || name.ends_with("/rejected"))
    };
    let rewards: Vec<&str> = known.iter().filter(ends).copied().collect();
    let mut text = String::new();
    match margin {
        Some(name) => text += &over_runs(runs, name),
        None => known.iter().take(4).for_each(|name| text += &over_runs(runs, name)),
    }
    if let ([run], true) = (runs, margin.is_some() && rewards.len() == 2) {
        let title = "rewards/chosen and rejected, held-out rows";
        let named: Vec<(String, usize, Vec<f64>)> = rewards
            .iter()
            .enumerate()
            .map(|(style, name)| ((*name).to_owned(), style, values(run, name)))
            .collect();
        text += &card(title, &definition::unit(runs, "rewards/chosen"), &named, Some(0.0), "");
    }
    text
}

fn over_runs(runs: &[Run], name: &str) -> String {
    let with_rows = runs.iter().enumerate().filter(|(_, run)| !run.rows.is_empty());
    let named: Vec<(String, usize, Vec<f64>)> =
        with_rows.map(|(style, run)| (run.name.clone(), style, values(run, name))).collect();
    let mark = name.ends_with("margins").then_some(0.0);
    let mut note = definition::html(runs, name);
    for (run, _, values) in &named {
        let own = if named.len() > 1 { format!("{run}: ") } else { String::new() };
        note += &format!("<p>{}</p>\n", escape(&(own + &told(values, mark.is_some()))));
    }
    card(&format!("{name}, held-out rows"), &definition::unit(runs, name), &named, mark, &note)
}

/// Says in numbers what a distribution looks like.
fn told(values: &[f64], signed: bool) -> String {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len();
    let mean = sorted.iter().sum::<f64>() / count.max(1) as f64;
    let median = sorted.get(count / 2).copied().unwrap_or(f64::NAN);
    let mut text = format!("{count} rows, mean {}, median {}", number(mean), number(median));
    if signed {
        let above = sorted.iter().filter(|value| **value > 0.0).count();
        text += &format!(", {:.0} % above 0", 100.0 * above as f64 / count.max(1) as f64);
    }
    text + "."
}

fn card(
    title: &str,
    unit: &str,
    named: &[(String, usize, Vec<f64>)],
    mark: Option<f64>,
    note: &str,
) -> String {
    let all = named.iter().flat_map(|(_, _, values)| values.iter().copied());
    let Some(bins) = Bins::fitting(all, BINS) else { return String::new() };
    let distribution = |(name, style, values): &(String, usize, Vec<f64>)| Distribution {
        name: name.clone(),
        style: *style,
        edges: bins.edges(),
        counts: bins.count(values.iter().copied()),
    };
    let drawn = Histogram {
        title: title.to_owned(),
        x_label: unit.to_owned(),
        y_label: "share of rows".to_owned(),
        distributions: named.iter().map(distribution).collect(),
        mark,
    };
    figure_card("", title, &histogram(&drawn), note)
}

/// The lengths of answers that a run trained on, by what the data call them, as `summary.json` has them.
pub(super) fn answer_lengths(run: &Run) -> Option<&Value> {
    let lengths = run.summary.get("data")?.get("answer_lengths")?;
    lengths.as_object().is_some_and(|named| !named.is_empty()).then_some(lengths)
}

/// Draws the lengths of answers, once for runs that trained on the same.
fn lengths(runs: &[Run]) -> String {
    let mut different: Vec<(&Value, Vec<&str>)> = Vec::new();
    for run in runs {
        if let Some(lengths) = answer_lengths(run) {
            match different.iter_mut().find(|(known, _)| *known == lengths) {
                Some((_, names)) => names.push(&run.name),
                None => different.push((lengths, vec![&run.name])),
            }
        }
    }
    let alone = different.len() == 1;
    different.iter().map(|(lengths, names)| lengths_card(lengths, if alone { &[] } else { names })).collect()
}

fn lengths_card(lengths: &Value, runs: &[&str]) -> String {
    let named = lengths.as_object().into_iter().flatten().enumerate();
    let distributions: Vec<Distribution> =
        named.filter_map(|(style, (name, bins))| length_distribution(name, style, bins)).collect();
    let title = "answer lengths, training rows".to_owned();
    let drawn = Histogram {
        title: title.clone(),
        x_label: "tokens".to_owned(),
        y_label: "share of answers".to_owned(),
        distributions,
        mark: None,
    };
    let whose =
        if runs.is_empty() { String::new() } else { format!("<p>Of {}.</p>\n", escape(&runs.join(", "))) };
    let note = "<p>Tokens of an answer after cutting. Chosen answers that are mostly longer than rejected ones teach \
                length; look at the lengths of samples too.</p>\n";
    figure_card("", &title, &histogram(&drawn), &(note.to_owned() + &whose))
}

fn length_distribution(name: &str, style: usize, bins: &Value) -> Option<Distribution> {
    let width = bins.get("width")?.as_f64()?;
    let counts: Vec<f64> = bins.get("counts")?.as_array()?.iter().filter_map(Value::as_f64).collect();
    let edges = (0..=counts.len()).map(|index| index as f64 * width).collect();
    Some(Distribution { name: name.to_owned(), style, edges, counts })
}

/// Names the rows with the least margin: wrong labels and odd texts are found among them.
fn worst(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs.iter().take(RUNS) {
        let Some(name) = margin(run) else { continue };
        let mut rows: Vec<(f64, &str)> = run
            .rows
            .iter()
            .filter_map(|row| Some((row.numbers.get(&name)?.as_f64()?, row.place.as_str())))
            .collect();
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));
        let cells = rows.iter().take(WORST).map(|(value, place)| vec![escape(place), number(*value)]);
        let head = ["row".to_owned(), name.clone()];
        text += &format!(
            "<details><summary>Held-out rows with the least margin: <bdi>{}</bdi></summary>\n\
             <p class=\"meta\">Wrong labels and odd texts are often among them.</p>\n{}</details>\n",
            escape(&run.name),
            table("narrow", &head, cells)
        );
    }
    text
}
