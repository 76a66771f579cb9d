//! Reports of a run: Markdown, a self-contained page, and the table on stdout.

mod html;
mod markdown;
mod text;

use crate::{
    claim::Evidence,
    environment::Environment,
    experiment::Experiment,
    interval::{Over, half_width, mean},
    outcome::Outcome,
};

pub use align_report::{escape, figure, svg};
pub use html::html;
pub use markdown::markdown;
pub use text::{listing, text_table};

/// What a report is made from.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The verdicts and what they rest on.
    pub outcome: &'a Outcome,
    /// The machine and the cost.
    pub environment: &'a Environment,
    /// The plan as it stands in its file.
    pub plan: &'a str,
}

/// Draws where the arms end as a file of its own, for other pages; nothing where the experiment has no such figure.
pub fn plot(outcome: &Outcome) -> Option<String> {
    let dots = outcome.findings.figures.iter().find_map(|figure| match figure {
        figure::Figure::Dots(dots) => Some(dots),
        _ => None,
    })?;
    Some(svg::standalone(&svg::dots(dots)))
}

/// Makes a point of the values of several seeds: their mean with its interval, which is the mean itself where there is none.
pub(crate) fn point(x: f64, values: &[f64]) -> figure::Point {
    let (y, half) = (mean(values), half_width(values).unwrap_or(0.0));
    figure::Point { x, y, low: y - half, high: y + half }
}

/// Writes a figure with its interval.
pub fn figure_text(evidence: Option<&Evidence>) -> String {
    let Some(Evidence { estimate, digits }) = evidence else { return "–".to_owned() };
    match estimate.over {
        Over::Exact => exact_text(estimate.mean, *digits),
        over => {
            let unit = if over == Over::Seeds { "seed" } else { "held-out pair" };
            let plural = if estimate.count == 1 { "" } else { "s" };
            let signed = |value| signed(value, *digits);
            let interval = estimate.interval.map_or_else(
                || ", no interval".to_owned(),
                |(low, high)| format!(" [{}, {}]", signed(low), signed(high)),
            );
            format!("{}{interval} ({} {unit}{plural})", signed(estimate.mean), estimate.count)
        }
    }
}

fn exact_text(value: f64, digits: usize) -> String {
    if value != 0.0 && value.abs() < 1e-4 { format!("{value:.1e}") } else { format!("{value:.digits$}") }
}

/// Writes a difference with its sign; one that rounds to 0 has none.
pub fn signed(value: f64, digits: usize) -> String {
    let text = format!("{value:+.digits$}");
    if text.bytes().any(|b| (b'1'..=b'9').contains(&b)) { text } else { format!("{:.digits$}", 0.0) }
}

/// Says how strongly a claim counts.
fn weight_text(required: bool, decides: bool) -> &'static str {
    match (required, decides) {
        (true, true) => "required",
        (true, false) => "required, not decidable in this run",
        (false, _) => "reported",
    }
}

/// Names the paper in one line.
fn citation(experiment: &Experiment) -> String {
    let paper = &experiment.paper;
    format!("{}. {}. {}, {}", paper.authors, paper.title, paper.venue, paper.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interval::Estimate;

    #[test]
    fn figures_show_what_they_rest_on() {
        let seeds = Evidence::average(Estimate::over_seeds("x", &[0.3, 0.4, 0.5]).unwrap());
        assert_eq!(figure_text(Some(&seeds)), "+0.400 [+0.152, +0.648] (3 seeds)");
        let one = Evidence::average(Estimate::over_seeds("x", &[0.3]).unwrap());
        assert_eq!(figure_text(Some(&one)), "+0.300, no interval (1 seed)");
        assert_eq!(figure_text(Some(&Evidence::exact(0.02469322))), "0.024693");
        assert_eq!(figure_text(Some(&Evidence::exact(1.2e-15))), "1.2e-15");
        assert_eq!(figure_text(None), "–");
    }
}
