//! What the report shows beside the table and the learning curves: the plane of reward and KL, and the four corners of
//! {offline, online} × {passing answers only, failing ones too}.

use crate::{
    interval::mean,
    on_policy::study::Measured,
    report::{
        figure::{Dot, Dots, Figure, LineChart, Point, Series},
        point,
    },
    study::{Findings, Table},
};

use super::arms::START;

/// Series that can be told apart in one drawing.
const CURVES: usize = 6;

/// Rows and columns of the four corners, with the arms that stand there.
const CORNERS: [(&str, [&[&str]; 2]); 2] =
    [("offline", [&["rft"], &["dpo"]]), ("online", [&["rft-online"], &["dpo-iterative", "ppo"]])];

type Arms = [(String, Vec<Measured>)];

fn values(arms: &Arms, arm: &str, metric: &str) -> Vec<f64> {
    let runs = arms.iter().find(|(name, _)| name == arm).map(|(_, runs)| runs.as_slice()).unwrap_or_default();
    runs.iter().filter_map(|run| run.metrics.get(metric).copied()).collect()
}

/// Adds what needs several arms at once; nothing where they were not run.
pub(super) fn show(arms: &Arms, findings: &mut Findings) {
    let ends = [("sampled", "Sampled pass@1"), ("greedy", "Greedy pass@1")];
    findings.figures.splice(0..0, ends.iter().filter_map(|(metric, title)| ranking(arms, metric, title)));
    findings.tables.extend(corners(arms));
    let lines: Vec<Series> = arms.iter().filter_map(|(name, _)| line(arms, name)).collect();
    findings.figures.extend(lines.chunks(CURVES).map(|part| {
        Figure::Lines(LineChart {
            title: "Reward and KL".into(),
            x_label: "KL to SFT, nats per answer".into(),
            y_label: "sampled pass@1 on test prompts".into(),
            series: part.to_vec(),
            note: "From SFT, at KL 0, to where each arm ends: means over seeds. The steeper, the more reward for the \
                   distance. The KL is that of the whole next-token distributions, over answers of the arm itself."
                .into(),
        })
    }));
}

/// Words in the names of arms that must not gain.
const CONTROLS: [&str; 2] = ["shuffled", "random"];

/// Ranks the arms by where they end.
fn ranking(arms: &Arms, metric: &str, title: &str) -> Option<Figure> {
    let dot = |(name, _): &(String, Vec<Measured>)| {
        let values = values(arms, name, metric);
        let Point { y: value, low, high, .. } = point(0.0, &values);
        let apart = CONTROLS.iter().any(|word| name.contains(word));
        let dot = Dot { name: name.clone(), value, low, high, apart };
        (!values.is_empty()).then_some(dot)
    };
    let mut dots: Vec<Dot> = arms.iter().filter_map(dot).collect();
    dots.sort_by(|a, b| b.value.total_cmp(&a.value));
    (dots.len() > 1).then(|| {
        Figure::Dots(Dots {
            title: format!("{title} on held-out prompts, every arm with the same number of sampled answers"),
            x_label: "share of programs that pass hidden tests".into(),
            dots,
            note: "Mean over seeds, line: 95 % Student interval. Intervals are wide because seeds differ in their SFT \
                   model; the claims compare arms seed by seed. Hollow: controls, which must not gain."
                .into(),
        })
    })
}

/// Draws the way from SFT to where an arm ends.
fn line(arms: &Arms, name: &str) -> Option<Series> {
    let (before, after) = (values(arms, START, "sampled"), values(arms, name, "sampled"));
    let kl = mean(&values(arms, name, "kl"));
    let is_drawn = name != START && !before.is_empty() && !after.is_empty();
    is_drawn.then(|| Series { name: name.to_owned(), points: vec![point(0.0, &before), point(kl, &after)] })
}

/// Sets offline against online, and passing answers alone against passing and failing ones.
fn corners(arms: &Arms) -> Option<Table> {
    let cell = |names: &[&str]| {
        let one = |name: &&str| {
            let (greedy, sampled) = (values(arms, name, "greedy"), values(arms, name, "sampled"));
            (!sampled.is_empty()).then(|| format!("{name}: {:.3} / {:.3}", mean(&greedy), mean(&sampled)))
        };
        let lines: Vec<String> = names.iter().filter_map(one).collect();
        if lines.is_empty() { "–".to_owned() } else { lines.join("; ") }
    };
    let rows: Vec<Vec<String>> = CORNERS
        .iter()
        .map(|(name, sides)| {
            std::iter::once((*name).to_owned()).chain(sides.iter().map(|names| cell(names))).collect()
        })
        .collect();
    let filled = rows.iter().flat_map(|row| row.iter().skip(1)).filter(|cell| *cell != "–").count();
    (filled >= 2).then(|| Table {
        title: "Where does the gain come from?".into(),
        head: ["answers", "passing answers only", "passing and failing answers"].map(str::to_owned).to_vec(),
        rows,
        note: "Greedy / sampled pass@1 on test prompts, means over seeds. Down: the same number of answers, drawn once from \
               SFT or from the policy as it learns. Across: imitation of what passes, or also a push away from what fails."
            .into(),
    })
}
