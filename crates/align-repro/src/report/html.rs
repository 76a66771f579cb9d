use align_report::{figure_card, table};

use super::{Report, citation, escape, figure::Figure, figure_text, svg, weight_text};
use crate::{
    study::{Sample, Table},
    verdict::{ControlVerdict, JudgedClaim, Verdict},
};

/// What only this page has.
const STYLE: &str = "\
@media (min-width: 44rem) { .wide td[data-label^=\"ours\"] { min-width: 18.5rem; } }
";

/// Writes a report as one page that needs nothing else: no script, no font, no request.
pub fn html(report: &Report<'_>) -> String {
    let Report { outcome, environment, plan } = report;
    let experiment = &outcome.experiment;
    let title = escape(&experiment.title);
    let mut page = format!("<h1>{title}</h1>\n");
    page += &format!("<p class=\"answer\">{}</p>\n", escape(&outcome.answer.join(" ")));
    page += &format!(
        "<p class=\"meta\"><strong>{}</strong>. Size: {}. Reproduces {}.</p>\n",
        escape(&outcome.summary()),
        outcome.size.name(),
        link(&experiment.paper.url, &citation(experiment)),
    );
    page += "<h2>Claims</h2>\n";
    page += &claims(report);
    page += "<h2>Controls: what must be so</h2>\n";
    page += &controls(report);
    page += "<h2>Curves</h2>\n<div class=\"charts\">\n";
    outcome.findings.figures.iter().for_each(|f| page += &figure(f));
    page += "</div>\n";
    outcome.findings.tables.iter().for_each(|t| page += &data_table(t));
    page += &samples(&outcome.findings.samples);
    page += "<h2>Where this departs from the paper and from the plan</h2>\n<ul>\n";
    for deviation in &outcome.findings.deviations {
        page += &format!("<li>{}</li>\n", escape(deviation));
    }
    page += "</ul>\n<h2>To run it again</h2>\n<dl>\n";
    for (key, value) in environment.rows() {
        page += &format!("<dt>{}</dt><dd>{}</dd>\n", escape(key), escape(&value));
    }
    page += "</dl>\n<details><summary>The plan, fixed before the run</summary>\n<pre>";
    page += &escape(plan);
    page += "</pre></details>\n";
    align_report::page(&experiment.title, STYLE, &page)
}

fn link(url: &str, text: &str) -> String {
    // Anything but a web address would be a way to run a script.
    if url.starts_with("https://") || url.starts_with("http://") {
        format!("<a href=\"{}\">{}</a>", escape(url), escape(text))
    } else {
        escape(text)
    }
}

fn owned(head: &[&str]) -> Vec<String> {
    head.iter().map(ToString::to_string).collect()
}

/// A verdict as a word with a sign; the colour only repeats it.
fn badge(class: &str, sign: &str, text: &str) -> String {
    format!("<span class=\"badge {class}\">{sign}&nbsp;{}</span>", escape(text))
}

/// Shows the claims that were run, those that decide first; the others are folded away.
fn claims(report: &Report<'_>) -> String {
    let (run, left): (Vec<&JudgedClaim>, Vec<&JudgedClaim>) =
        report.outcome.claims.iter().partition(|c| c.verdict != Verdict::NotRun);
    let (first, second): (Vec<&JudgedClaim>, Vec<&JudgedClaim>) = run.into_iter().partition(|c| c.required);
    let head = owned(&["claim", "paper", "ours [95 % interval]", "verdict"]);
    let mut text = table("wide", &head, first.into_iter().chain(second).map(claim));
    if !left.is_empty() {
        let rows = table("wide", &head, left.iter().map(|c| claim(c)));
        text += &format!(
            "<details><summary>Claims that were not run: {}</summary>\n{rows}</details>\n",
            left.len()
        );
    }
    text
}

fn claim(c: &JudgedClaim) -> Vec<String> {
    let (class, sign) = match c.verdict {
        Verdict::Reproduced => ("good", "✓"),
        Verdict::NotReproduced => ("bad", "✗"),
        Verdict::Inconclusive => ("open", "?"),
        Verdict::NotRun => ("open", "–"),
    };
    let weight = weight_text(c.required, c.decides);
    vec![
        format!("{}<br><small>{}</small>", escape(&c.claim.statement), escape(&c.claim.source)),
        escape(&c.claim.paper),
        format!(
            "{}<br><small>must show: {}</small>",
            escape(&figure_text(c.evidence.as_ref())),
            escape(&c.claim.criterion.to_string())
        ),
        format!("{}<br><small>{}</small>", badge(class, sign, &c.verdict.to_string()), escape(weight)),
    ]
}

fn controls(report: &Report<'_>) -> String {
    let rows = report.outcome.controls.iter().map(|c| {
        let (class, sign) = match c.verdict {
            ControlVerdict::Holds => ("good", "✓"),
            ControlVerdict::DoesNotHold => ("bad", "✗"),
            ControlVerdict::Inconclusive => ("open", "?"),
            ControlVerdict::NotRun => ("open", "–"),
        };
        vec![
            escape(&c.control.statement),
            format!(
                "{}<br><small>must show: {}</small>",
                escape(&figure_text(c.evidence.as_ref())),
                escape(&c.control.criterion.to_string())
            ),
            badge(class, sign, &c.verdict.to_string()),
        ]
    });
    table("wide", &owned(&["control", "ours [95 % interval]", "verdict"]), rows)
}

fn data_table(part: &Table) -> String {
    let rows = part.rows.iter().map(|row| row.iter().map(|cell| escape(cell)).collect());
    let note = if part.note.is_empty() { String::new() } else { format!("<p>{}</p>\n", escape(&part.note)) };
    format!("<h2>{}</h2>\n{}{note}", escape(&part.title), table("wide", &part.head, rows))
}

fn figure(figure: &Figure) -> String {
    let note = |text: &str| format!("<p>{}</p>\n", escape(text));
    match figure {
        Figure::Dots(dots) => figure_card("", &dots.title, &svg::dots(dots), &note(&dots.note)),
        Figure::Lines(chart) => figure_card("", &chart.title, &svg::line_chart(chart), &note(&chart.note)),
        Figure::Grids(grids) => {
            let cells: String = grids
                .grids
                .iter()
                .map(|g| format!("<div><h3>{}</h3>{}</div>\n", escape(&g.title), svg::grid(g)))
                .collect();
            let drawing = format!("<div class=\"grids\">\n{cells}</div>");
            figure_card("full", &grids.title, &drawing, &note(&grids.note))
        }
    }
}

fn samples(samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let mut text = "<h2>Samples</h2>\n".to_owned();
    for sample in samples {
        text += &format!("<section class=\"sample\">\n<pre>{}</pre>\n<dl>\n", escape(&sample.prompt));
        for (who, answer) in &sample.answers {
            text += &format!("<dt>{}</dt><dd><pre>{}</pre></dd>\n", escape(who), escape(answer));
        }
        text += "</dl>\n</section>\n";
    }
    text
}
