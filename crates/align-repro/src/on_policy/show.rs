use super::study::{Chart, Columns, Difference, Measured};
use crate::{
    Error, Result,
    claim::Evidence,
    interval::{Estimate, half_width, mean},
    report::{
        figure::{Figure, LineChart, Series},
        point,
    },
    study::Table,
};

/// Arms with their results, one per seed.
type Arms = [(String, Vec<Measured>)];

fn values(arms: &Arms, arm: &str, metric: &str) -> Option<Vec<f64>> {
    let (_, runs) = arms.iter().find(|(name, _)| name == arm)?;
    runs.iter().map(|run| run.metrics.get(metric).copied()).collect()
}

/// As [`values`], but an arm that was run must have measured the number: a claim that misses it would pass for one that was
/// not run.
fn measured(id: &str, arms: &Arms, arm: &str, metric: &str) -> Result<Option<Vec<f64>>> {
    let was_run = arms.iter().any(|(name, _)| name == arm);
    match values(arms, arm, metric) {
        None if was_run => {
            Err(Error::input(format!("figure {id}"), format!("the arm {arm} measures no {metric}")))
        }
        values => Ok(values),
    }
}

/// Computes the figure of a claim or control; nothing where an arm was not run.
///
/// # Errors
/// A number that an arm does not measure.
pub(super) fn evidence(id: &str, figure: &Difference, arms: &Arms) -> Result<Option<Evidence>> {
    let Some(mut all) = measured(id, arms, &figure.of, &figure.metric)? else { return Ok(None) };
    let other = figure.minus.as_ref().or(figure.minus_metric.as_ref().map(|_| &figure.of));
    if let Some(arm) = other {
        let metric = figure.minus_metric.as_ref().unwrap_or(&figure.metric);
        let Some(less) = measured(id, arms, arm, metric)?.filter(|less| less.len() == all.len()) else {
            return Ok(None);
        };
        all.iter_mut().zip(less).for_each(|(value, less)| *value -= less);
    }
    Ok(Some(Evidence::average(Estimate::over_seeds(id, &all)?)))
}

fn cell(values: Option<Vec<f64>>) -> String {
    let Some(values) = values else { return "–".to_owned() };
    if values.iter().all(|v| *v == 0.0) {
        return "0".to_owned();
    }
    // Counts are shown as such.
    let counts = values.iter().all(|v| v.fract() == 0.0) && values.iter().any(|v| v.abs() > 1.0);
    let digits = if counts { 0 } else { 3 };
    match half_width(&values).filter(|half| !counts || *half > 0.0) {
        Some(half) => format!("{:.digits$} ± {half:.digits$}", mean(&values)),
        None => format!("{:.digits$}", mean(&values)),
    }
}

/// Shows numbers of every arm that measures any of them; nothing where no arm does.
pub(super) fn table(columns: &Columns, arms: &Arms) -> Option<Table> {
    let seeds = arms.iter().map(|(_, runs)| runs.len()).max().unwrap_or(0);
    let head = std::iter::once("arm").chain(columns.metrics.iter().map(|(_, about)| *about));
    let row = |(name, _): &(String, Vec<Measured>)| {
        let numbers: Vec<_> = columns.metrics.iter().map(|(metric, _)| values(arms, name, metric)).collect();
        let measured = numbers.iter().any(Option::is_some);
        let cells = numbers.into_iter().map(cell);
        measured.then(|| std::iter::once(name.clone()).chain(cells).collect::<Vec<_>>())
    };
    let rows: Vec<_> = arms.iter().filter_map(row).collect();
    (!rows.is_empty()).then(|| Table {
        title: columns.title.into(),
        head: head.map(str::to_owned).collect(),
        rows,
        note: format!("Mean over {seeds} seeds with 95 % Student half-width."),
    })
}

/// Curves that can be told apart in one drawing.
const CURVES: usize = 6;

/// Draws the curves of a chart, a few to each drawing; nothing where no arm has one.
pub(super) fn charts(chart: &Chart, arms: &Arms) -> Vec<Figure> {
    let series: Vec<Series> = arms.iter().filter_map(|(name, runs)| curve(name, chart.title, runs)).collect();
    let draw = |part: &[Series]| {
        Figure::Lines(LineChart {
            title: chart.title.into(),
            x_label: chart.x.into(),
            y_label: chart.y.into(),
            series: part.to_vec(),
            note: "Mean over seeds, band: 95 % interval.".into(),
        })
    };
    series.chunks(CURVES).map(draw).collect()
}

/// Averages a curve over seeds, point by point; all seeds have the same number of points.
fn curve(name: &str, title: &str, runs: &[Measured]) -> Option<Series> {
    let curves: Vec<&Vec<(f64, f64)>> = runs.iter().filter_map(|run| run.curves.get(title)).collect();
    let points = curves.iter().map(|curve| curve.len()).min()?;
    let at = |index: usize| {
        let of = |take: fn(&(f64, f64)) -> f64| {
            curves.iter().filter_map(|curve| curve.get(index).map(take)).collect::<Vec<f64>>()
        };
        let (x, all) = (mean(&of(|point| point.0)), of(|point| point.1));
        point(x, &all)
    };
    (points > 0).then(|| Series { name: name.to_owned(), points: (0..points).map(at).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(name: &str, values: &[f64]) -> (String, Vec<Measured>) {
        let run = |value: &f64| Measured::default().with([("gold", *value), ("start", 0.5)]);
        (name.to_owned(), values.iter().map(run).collect())
    }

    fn figure(of: &str, minus: Option<&str>, minus_metric: Option<&str>) -> Difference {
        Difference {
            metric: "gold".into(),
            of: of.into(),
            minus: minus.map(str::to_owned),
            minus_metric: minus_metric.map(str::to_owned),
        }
    }

    #[test]
    fn shares_have_digits_and_counts_have_none() {
        let text = |values: &[f64]| cell(Some(values.to_vec()));
        assert_eq!(
            [text(&[1024.0, 1024.0]), text(&[3.0]), text(&[0.5]), text(&[1.0])],
            ["1024", "3", "0.500", "1.000"]
        );
        // Student's t of two values is 12.706 standard errors, here of 1.
        assert_eq!([text(&[9.0, 11.0]), cell(None)], ["10 ± 13", "–"]);
        assert_eq!(text(&[0.25, 0.25]), "0.250 ± 0.000");
    }

    #[test]
    fn figures_are_differences_paired_by_seed() {
        let arms = [arm("a", &[1.0, 5.0]), arm("b", &[0.0, 3.0]), arm("short", &[0.0])];
        let mean = |figure| evidence("x", &figure, &arms).unwrap().map(|e| e.estimate.mean);
        assert_eq!(mean(figure("a", Some("b"), None)), Some(1.5));
        assert_eq!(mean(figure("a", None, None)), Some(3.0));
        assert_eq!(mean(figure("a", Some("b"), Some("start"))), Some(2.5));
        assert_eq!(mean(figure("a", None, Some("start"))), Some(2.5));
        assert_eq!(mean(figure("a", Some("short"), None)), None);
        assert_eq!(mean(figure("none", None, None)), None);
        let misspelt = Difference { metric: "golt".into(), ..figure("a", None, None) };
        assert!(evidence("x", &misspelt, &arms).unwrap_err().to_string().contains("measures no golt"));
    }
}
