//! Curves of all runs laid over each other, one drawing per metric.

use align_report::{
    Axis, Chart, Curve, Form, Legend, Scale, chart, escape, figure::Point, figure_card, mean_around,
};

use super::{
    costs, definition,
    run::{HELD_OUT, Run},
};

/// Runs of which every logged step is drawn beside the moving mean; with more of them the drawing would be grey.
const RAW: usize = 6;
/// The moving mean goes over one in so many logged steps.
const SHARE: usize = 20;
/// Points at which the mean of a long run is drawn, about.
const DRAWN: usize = 600;
/// Letters of a run's name beside its curve.
const LABEL: usize = 18;

/// What shows how a run does its work rather than what it learns.
const MACHINE: [&str; 7] =
    ["grad_norm", "learning_rate", "tokens_per_second", "_per_second", "peak_rss_mb", "tokens", "time"];
/// What has no noise that a mean would take away, and adds up or is planned: its ordinate is never logarithmic.
const EXACT: [&str; 4] = ["learning_rate", "peak_rss_mb", "tokens", "time"];
/// What is looked at first, in this order.
const FIRST: [&str; 10] = [
    "loss",
    "margins",
    "accuracies",
    "rewards/",
    "logps/",
    "objective/",
    "completions/",
    "policy/",
    "val/",
    "curriculum/",
];
/// Ends of the names of metrics that come in pairs and share their axes.
const PAIR: [&str; 2] = ["chosen", "rejected"];

/// Metrics that are drawn on one pair of axes.
struct Group {
    /// Names without what marks held-out rows.
    names: Vec<String>,
}

/// Writes the sections with curves.
pub(super) fn html(runs: &[Run]) -> String {
    let elsewhere = costs::shown(runs);
    let here = |group: &Group| !group.names.iter().any(|name| elsewhere.contains(&name.as_str()));
    let (machine, learning): (Vec<Group>, Vec<Group>) =
        groups(runs).into_iter().filter(here).partition(Group::is_of_the_machine);
    let mut text = String::new();
    for (title, groups) in [("What was learned", learning), ("How it ran", machine)] {
        let cards: String = groups.iter().map(|group| cards(runs, group)).collect();
        if !cards.is_empty() {
            text += &format!("<h2>{title}</h2>\n");
            if title.starts_with("What") {
                text += &format!("<p class=\"meta\">{}</p>\n", escape(&key(runs)));
            }
            text += &format!("<div class=\"charts\">\n{cards}</div>\n");
        }
    }
    if text.is_empty() {
        "<p>No step was logged yet: there is no curve to draw.</p>\n".to_owned()
    } else {
        text
    }
}

/// Draws one metric of all runs.
pub(super) fn single(runs: &[Run], name: &str) -> String {
    card(runs, &[name.to_owned()], name, Rows::Both, None)
}

/// Says how curves are to be read.
pub(super) fn key(runs: &[Run]) -> String {
    let mut windows: Vec<usize> = runs.iter().map(window).collect();
    windows.sort_unstable();
    windows.dedup();
    let mean = match windows.as_slice() {
        [1] => "Lines go through every logged step.".to_owned(),
        [window] => format!("Thick lines are moving means over {window} logged steps."),
        _ => format!("Thick lines are moving means over one in {SHARE} of a run's logged steps."),
    };
    let raw = match windows.as_slice() {
        [1] => "",
        _ if runs.len() > RAW => " Single steps are left out to keep many runs apart.",
        _ => " Thin lines show every logged step.",
    };
    let held_out = runs.iter().any(|run| run.metrics.names.iter().any(|name| name.starts_with(HELD_OUT)));
    let marks = if held_out { " Marks are held-out rows." } else { "" };
    format!("{mean}{raw}{marks} The abscissa is the optimiser step.")
}

fn window(run: &Run) -> usize {
    // An odd number has as many neighbours before as behind.
    (run.metrics.lines / SHARE).max(1) | 1
}

impl Group {
    fn is_of_the_machine(&self) -> bool {
        self.names.iter().any(|name| {
            MACHINE.iter().any(|part| name == part || (part.starts_with('_') && name.ends_with(part)))
        })
    }

    /// The place among the others: small numbers come first.
    fn rank(&self) -> usize {
        let name = self.names.first().map(String::as_str).unwrap_or_default();
        let of = |list: &[&str]| {
            list.iter().position(|part| {
                name == *part || name.ends_with(part) || (part.ends_with('/') && name.starts_with(part))
            })
        };
        match (self.is_of_the_machine(), of(&FIRST)) {
            (true, _) => 1000 + of(&MACHINE).unwrap_or(MACHINE.len()),
            (false, Some(place)) => place,
            (false, None) => FIRST.len(),
        }
    }

    fn title(&self) -> String {
        match self.names.as_slice() {
            [first, rest @ ..] if !rest.is_empty() => {
                let ends: Vec<&str> = rest.iter().map(|name| leaf(name)).collect();
                format!("{first} and {}", ends.join(", "))
            }
            names => names.join(", "),
        }
    }
}

fn leaf(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Sorts the metrics of all runs into drawings.
fn groups(runs: &[Run]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for name in runs.iter().flat_map(|run| &run.metrics.names) {
        let name = name.strip_prefix(HELD_OUT).unwrap_or(name);
        if groups.iter().any(|group| group.names.iter().any(|known| known == name)) {
            continue;
        }
        let stem = |name: &str| PAIR.iter().find_map(|end| Some(name.strip_suffix(end)?.to_owned()));
        let partner = stem(name).and_then(|own| {
            groups.iter_mut().find(|group| group.names.iter().any(|known| stem(known).as_ref() == Some(&own)))
        });
        match partner {
            Some(group) => group.names.push(name.to_owned()),
            None => groups.push(Group { names: vec![name.to_owned()] }),
        }
    }
    groups.sort_by_key(Group::rank);
    groups
}

/// Which rows a drawing is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    Training,
    HeldOut,
    Both,
}

/// Draws the metrics of a group: over each other for one run, beside each other on the same ordinate for several. Of many
/// runs training and held-out rows are drawn apart.
fn cards(runs: &[Run], group: &Group) -> String {
    if runs.len() == 1 {
        return card(runs, &group.names, &group.title(), Rows::Both, None);
    }
    let all = drawing(runs, &group.names, &group.title(), Rows::Both);
    let shared = if group.names.len() > 1 { all.own_y() } else { None };
    let apart = runs.len() > RAW;
    let of = |name: &String| {
        let known = |name: &str| runs.iter().any(|run| !run.metrics.points(name).is_empty());
        let held_out = format!("{HELD_OUT}{name}");
        let one = std::slice::from_ref(name);
        match (known(name), known(&held_out)) {
            (true, true) if apart => {
                card(runs, one, name, Rows::Training, shared)
                    + &card(runs, one, &held_out, Rows::HeldOut, shared)
            }
            _ => card(runs, one, name, Rows::Both, shared),
        }
    };
    group.names.iter().map(of).collect()
}

fn card(runs: &[Run], names: &[String], title: &str, rows: Rows, y: Option<Axis>) -> String {
    let mut drawing = Chart { y, ..drawing(runs, names, title, rows) };
    if names.iter().all(|name| EXACT.contains(&name.as_str())) {
        drawing.y = drawing.linear_y();
    }
    let svg = chart(&drawing);
    let logarithmic = drawing.y.or_else(|| drawing.own_y()).is_some_and(|axis| axis.scale() == Scale::Log);
    let mut note: String = names.iter().map(|name| definition::html(runs, name)).collect();
    if rows == Rows::HeldOut {
        // The definition stands beside it, below the drawing of training rows.
        note = "<p>The same over held-out rows, after the step's update.</p>\n".to_owned();
    }
    if logarithmic {
        note += "<p>The ordinate is logarithmic.</p>\n";
    }
    if svg.is_empty() {
        note += "<p>No value of it is finite.</p>\n";
    }
    figure_card("", title, &svg, &note)
}

fn drawing(runs: &[Run], names: &[String], title: &str, rows: Rows) -> Chart {
    let mut faint = Vec::new();
    let mut lines = Vec::new();
    let labels = labels(runs);
    for (place, (run, label)) in runs.iter().zip(&labels).enumerate() {
        for (index, name) in names.iter().enumerate() {
            let source = Source { run, name, label, rows, alone: runs.len() == 1, several: names.len() > 1 };
            let style = if source.alone { index } else { place };
            source.draw(style, names.len(), runs.len() <= RAW, &mut faint, &mut lines);
        }
    }
    faint.append(&mut lines);
    Chart {
        title: title.to_owned(),
        x_label: "step".to_owned(),
        y_label: names.first().map(|name| definition::unit(runs, name)).unwrap_or_default(),
        whole_x: true,
        y: None,
        curves: faint,
        legend: Legend::AtEnd,
    }
}

/// A metric of a run on its way to curves.
struct Source<'a> {
    run: &'a Run,
    name: &'a str,
    label: &'a str,
    rows: Rows,
    /// Whether it is the only run: curves are then named by what they show.
    alone: bool,
    /// Whether other metrics share the drawing.
    several: bool,
}

impl Source<'_> {
    fn draw(&self, style: usize, styles: usize, raw: bool, faint: &mut Vec<Curve>, lines: &mut Vec<Curve>) {
        let of = |name: &str, left_out| match self.rows == left_out {
            true => Default::default(),
            false => self.run.metrics.points(name),
        };
        let points = of(self.name, Rows::HeldOut);
        let held_out = of(&format!("{HELD_OUT}{}", self.name), Rows::Training);
        let curve = |label: &str, what: &str, style, form, points: &[(f64, f64)]| Curve {
            name: format!("{}: {what}", self.run.name),
            label: label.to_owned(),
            style,
            form,
            points: points.iter().map(|&(x, y)| Point { x, y, low: y, high: y }).collect(),
        };
        if !points.is_empty() {
            let window = window(self.run);
            let smooth = window > 1 && points.len() > window && !EXACT.contains(&self.name);
            let mean = if smooth { means(points, window) } else { points.to_vec() };
            if smooth && raw {
                faint.push(curve("", self.name, style, Form::Faint, points));
            }
            let label = match (self.alone, self.several) {
                (false, _) => self.label,
                (true, true) => leaf(self.name),
                // One curve needs no name: the title has it.
                (true, false) if held_out.is_empty() => "",
                (true, false) => "training",
            };
            lines.push(curve(label, self.name, style, Form::Line, &mean));
        }
        if !held_out.is_empty() {
            let style = if self.alone { style + styles } else { style };
            let label = match (self.alone, self.several) {
                (false, _) if points.is_empty() => self.label.to_owned(),
                (false, _) => String::new(),
                (true, true) => format!("{}, held out", leaf(self.name)),
                (true, false) => "held out".to_owned(),
            };
            lines.push(curve(&label, &format!("{HELD_OUT}{}", self.name), style, Form::Marks, held_out));
        }
    }
}

/// The moving mean of a curve at not many more than [`DRAWN`] of its points: it is smooth between them, and a long run
/// need not be averaged at every step. Gaps are kept.
fn means(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    let values: Vec<f64> = points.iter().map(|point| point.1).collect();
    let every = points.len().div_ceil(DRAWN).max(1);
    let drawn = |index: usize, value: f64| {
        index.is_multiple_of(every) || index + 1 == values.len() || !value.is_finite()
    };
    let indices = points.iter().enumerate().filter(|(index, point)| drawn(*index, point.1));
    indices.filter_map(|(index, point)| Some((point.0, mean_around(&values, index, window)?))).collect()
}

/// Shortens the names of runs for the room beside curves, and keeps them apart.
pub(super) fn labels(runs: &[Run]) -> Vec<String> {
    let mut labels: Vec<String> = Vec::with_capacity(runs.len());
    for (index, run) in runs.iter().enumerate() {
        let short = shorten(&run.name, LABEL);
        labels.push(if labels.contains(&short) {
            format!("{} {}", index + 1, shorten(&run.name, LABEL - 4))
        } else {
            short
        });
    }
    labels
}

/// Leaves out the middle of a long name: runs of one study begin alike, and often end in what sets them apart.
fn shorten(name: &str, most: usize) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= most {
        return name.to_owned();
    }
    let (head, tail) = (most / 3, most - most / 3 - 1);
    let head = letters.iter().take(head);
    head.chain(&['…']).chain(letters.iter().skip(letters.len() - tail)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shorten("dpo-beta-0.1", 18), "dpo-beta-0.1");
        assert_eq!(shorten("a-very-long-study-of-beta-0.1", 18), "a-very…of-beta-0.1");
        assert_eq!(shorten("ααααααααααααααααααααω", 10), "ααα…αααααω");
    }

    #[test]
    fn partners_share_a_drawing_and_the_loss_comes_first() {
        let names = [
            "time",
            "loss",
            "rewards/chosen",
            "rewards/rejected",
            "eval/rewards/chosen",
            "grad_norm",
            "kl",
            "rewards/margins",
        ];
        let mut run = crate::front::report::run::tests::empty("a");
        run.metrics.names = names.map(str::to_owned).into();
        let titles: Vec<String> = groups(&[run]).iter().map(Group::title).collect();
        let expected = ["loss", "rewards/margins", "rewards/chosen and rejected", "kl", "grad_norm", "time"];
        assert_eq!(titles, expected);
    }
}
