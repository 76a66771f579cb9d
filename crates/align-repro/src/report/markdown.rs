use super::{Report, citation, figure::Figure, figure_text, weight_text};
use crate::study::Sample;

/// Writes a report as Markdown; curves are left to the HTML page.
pub fn markdown(report: &Report<'_>) -> String {
    let Report { outcome, environment, plan } = report;
    let experiment = &outcome.experiment;
    let mut text = format!("# {}\n\n", inline(&experiment.title));
    for sentence in &outcome.answer {
        text += &format!("{}\n", inline(sentence));
    }
    text += &format!(
        "\n{}. Size: {}. Reproduces: {}.\n",
        inline(&outcome.summary()),
        outcome.size.name(),
        inline(&citation(experiment))
    );
    let claims = outcome.claims.iter().map(|c| {
        vec![
            c.claim.statement.clone(),
            format!("{} ({})", c.claim.paper, c.claim.source),
            figure_text(c.evidence.as_ref()),
            c.claim.criterion.to_string(),
            c.verdict.to_string(),
            weight_text(c.required, c.decides).to_owned(),
        ]
    });
    text += "\n## Claims\n\n";
    text += &table(&["claim", "paper", "ours [95 % interval]", "must show", "verdict", "weight"], claims);
    let controls = outcome.controls.iter().map(|c| {
        vec![
            c.control.statement.clone(),
            figure_text(c.evidence.as_ref()),
            c.control.criterion.to_string(),
            c.verdict.to_string(),
        ]
    });
    text += "\n## Controls: what must be so\n\n";
    text += &table(&["control", "ours [95 % interval]", "must show", "verdict"], controls);
    for part in &outcome.findings.tables {
        let head: Vec<&str> = part.head.iter().map(String::as_str).collect();
        text += &format!("\n## {}\n\n", inline(&part.title));
        text += &table(&head, part.rows.iter().cloned());
        text += &paragraph(&part.note);
    }
    for figure in &outcome.findings.figures {
        text += &ends(figure);
    }
    text += &samples(&outcome.findings.samples);
    text += "\n## Where this departs from the paper and from the plan\n\n";
    for deviation in &outcome.findings.deviations {
        text += &format!("* {}\n", inline(deviation));
    }
    text += "\n## To run it again\n\n";
    let rows = environment.rows().into_iter().map(|(key, value)| vec![key.to_owned(), value]);
    text += &table(&["what", "value"], rows);
    text + &format!("\n## The plan, fixed before the run\n\n{}", fenced("toml", plan))
}

/// Gives the last point of every curve: a text has no curves, but their ends are figures.
fn ends(figure: &Figure) -> String {
    let Figure::Lines(chart) = figure else { return String::new() };
    let rows = chart.series.iter().filter_map(|series| {
        let (first, last) = (series.points.first()?, series.points.last()?);
        let end = format!("{:.3} [{:.3}, {:.3}]", last.y, last.low, last.high);
        Some(vec![series.name.clone(), format!("{:.3}", first.y), end])
    });
    let head = ["curve", "first", "last [interval]"];
    format!("\n### {}\n\n{}{}", inline(&chart.title), table(&head, rows), paragraph(&chart.note))
}

fn samples(samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let mut text = "\n## Samples\n".to_owned();
    for sample in samples {
        text += &format!("\nPrompt:\n\n{}", fenced("text", &sample.prompt));
        for (who, answer) in &sample.answers {
            text += &format!("\n{}:\n\n{}", inline(who), fenced("text", answer));
        }
    }
    text
}

fn paragraph(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("\n{}\n", inline(text)) }
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head.iter().map(|cell| inline(cell)).collect());
    text += &line(vec!["---".to_owned(); head.len()]);
    for row in rows {
        text += &line(row.iter().map(|cell| inline(cell)).collect());
    }
    text
}

/// Makes text safe inside a line or a table cell.
fn inline(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' => safe.extend(['\\', c]),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// Puts text into a code block whose fence is longer than any run of backticks in it.
fn fenced(language: &str, text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}{language}\n{}\n{fence}\n", text.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_break_the_table() {
        let text = table(&["a"], [vec!["x|y\nz <b> `c`".to_owned()]].into_iter());
        assert_eq!(text, "| a |\n| --- |\n| x\\|y z &lt;b> \\`c\\` |\n");
    }

    #[test]
    fn code_blocks_survive_backticks() {
        assert_eq!(fenced("text", "a ```` b"), "`````text\na ```` b\n`````\n");
    }
}
