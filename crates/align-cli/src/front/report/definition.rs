//! What a metric means, from the table that makes the page of metrics.

use align_report::escape;

use super::run::Run;
use crate::metrics::{self, Metric};

fn find(runs: &[Run], name: &str) -> Option<&'static Metric> {
    let command = runs.iter().find(|run| run.metrics.names.iter().any(|known| known == name));
    metrics::definition(command.map(|run| run.command.as_str()).unwrap_or_default(), name)
}

/// Writes the definition as a paragraph; empty when the table has none.
pub(super) fn html(runs: &[Run], name: &str) -> String {
    let Some(metric) = find(runs, name) else { return String::new() };
    let part = |what: &str, text: &str| match text {
        "" | "-" => String::new(),
        text => format!(" {what}{}.", code(text)),
    };
    format!(
        "<p><strong>{}</strong>: {}.{}{}</p>\n",
        escape(name),
        code(metric.formula),
        part("Usual: ", metric.expected),
        part("Otherwise: ", metric.otherwise)
    )
}

/// Returns the unit of a metric; empty when the table has none.
pub(super) fn unit(runs: &[Run], name: &str) -> String {
    let unit = find(runs, name).map(|metric| metric.unit).unwrap_or_default();
    if ["-", "1"].contains(&unit) { String::new() } else { unit.to_owned() }
}

/// Escapes a text of the table and shows what stands between backticks as code.
fn code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .map(
            |(index, part)| {
                if index % 2 == 1 { format!("<code>{}</code>", escape(part)) } else { escape(part) }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_marked_and_text_is_escaped() {
        assert_eq!(code("a < `--b` & c"), "a &lt; <code>--b</code> &amp; c");
    }
}
