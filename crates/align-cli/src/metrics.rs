//! Every number that a run shows, in one table: `docs/metrics.md` is made from it, and tests hold runs to it.

mod evaluation;
mod offline;
mod ppo;
mod summary;

use std::fmt::Write;

use crate::health;

/// Where a number is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `metrics.jsonl` of every training command.
    Training,
    /// `metrics.jsonl` of `align sft`.
    Sft,
    /// `metrics.jsonl` of `align dpo`, `align kto` and `align una`.
    Offline,
    /// `metrics.jsonl` of `align dpo` alone.
    Dpo,
    /// `metrics.jsonl` of `align kto` alone.
    Kto,
    /// `metrics.jsonl` of `align una` alone.
    Una,
    /// `metrics.jsonl` of `align reward`.
    Reward,
    /// `metrics.jsonl` of `align ppo`.
    Ppo,
    /// `summary.json`.
    Summary,
    /// What `align eval --json` prints.
    Eval,
    /// What `align score --report` writes.
    Report,
}

impl Place {
    /// All places, in the order of the page.
    pub const ALL: [Self; 11] = [
        Self::Training,
        Self::Sft,
        Self::Offline,
        Self::Dpo,
        Self::Kto,
        Self::Una,
        Self::Reward,
        Self::Ppo,
        Self::Summary,
        Self::Eval,
        Self::Report,
    ];

    /// Says whether it is `metrics.jsonl`.
    fn is_of_steps(self) -> bool {
        !matches!(self, Self::Summary | Self::Eval | Self::Report)
    }

    fn title(self) -> &'static str {
        match self {
            Self::Training => "`metrics.jsonl`, every training command",
            Self::Sft => "`metrics.jsonl`, `align sft`",
            Self::Offline => "`metrics.jsonl`, `align dpo`, `align kto` and `align una`",
            Self::Dpo => "`metrics.jsonl`, `align dpo` alone",
            Self::Kto => "`metrics.jsonl`, `align kto` alone",
            Self::Una => "`metrics.jsonl`, `align una` alone",
            Self::Reward => "`metrics.jsonl`, `align reward`",
            Self::Ppo => "`metrics.jsonl`, `align ppo`",
            Self::Summary => "`summary.json`",
            Self::Eval => "`align eval --json`",
            Self::Report => "`align score --report FILE`",
        }
    }
}

/// The definition of one number.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Where it is found.
    pub place: Place,
    /// Its name there.
    pub name: &'static str,
    /// How it is computed.
    pub formula: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What is usual.
    pub expected: &'static str,
    /// What another value means.
    pub otherwise: &'static str,
}

const fn metric(
    place: Place,
    name: &'static str,
    formula: &'static str,
    unit: &'static str,
    expected: &'static str,
    otherwise: &'static str,
) -> Metric {
    Metric { place, name, formula, unit, expected, otherwise }
}

/// The definitions of all numbers, place by place.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    [offline::METRICS, ppo::METRICS, summary::METRICS, evaluation::METRICS].into_iter().flatten()
}

/// Finds what a number of `metrics.jsonl` means in the runs of a command (`dpo`, for example), or in those of another
/// where that command's own table lacks it.
pub fn definition(command: &str, name: &str) -> Option<&'static Metric> {
    let named = || all().filter(|metric| metric.place.is_of_steps() && is_named(metric, name));
    let own = format!("`align {command}`");
    named().find(|metric| metric.place.title().contains(&own)).or_else(|| named().next())
}

/// Lists the names that `--keep-best` takes for a training command, which is found at `places`.
pub fn held_out(places: &[Place]) -> Vec<&'static str> {
    let held_out = |metric: &&Metric| {
        places.contains(&metric.place)
            && !metric.name.ends_with("_per_second")
            && !metric.name.contains("NAME")
    };
    std::iter::once("loss").chain(all().filter(held_out).map(|metric| metric.name)).collect()
}

/// Says whether a number of a run is the one that the table names: a name in capitals stands for any.
pub fn is_named(metric: &Metric, name: &str) -> bool {
    match metric.name.split_once("NAME") {
        Some((before, after)) => {
            let rest = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            rest.is_some_and(|rest| !rest.is_empty())
        }
        None => metric.name == name,
    }
}

/// Writes the table as a Markdown page.
pub fn markdown() -> String {
    let mut page = "\
# Metrics

Every number that a run shows. Made from the tables in `crates/align-cli/src/metrics`, and a test keeps the two equal.
Values of a step are those before its update. Nothing depends on `--micro-batch-tokens`: sums and counts are combined over
the whole optimiser batch before they are divided. Values on held-out rows have `eval/` before their name and are
those after the step's update. The event files beside `metrics.jsonl` have the same numbers for TensorBoard, rounded to
32 bits; a number that is not finite is `null` in `metrics.jsonl` and itself in an event file.

Averages of `align eval` and `align score --report` are objects with `mean`, `interval` (95 %, bootstrapped over prompts; none
where there are too few), `count` and `over` (what was resampled). Slashes in their names are the objects they lie in; the figures of
`held_out` in the `summary.json` of `align reward` are those of `align score --report` for pairs and rankings; scored and labelled rows
are compared there among the answers to one prompt, where the report sets labels against a reward of 0.
"
    .to_owned();
    for place in Place::ALL {
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "\n## {}\n\n| name | formula | unit | expected | otherwise |\n| --- | --- | --- | --- | --- |\n",
            place.title()
        );
        for m in all().filter(|m| m.place == place) {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} |",
                m.name, m.formula, m.unit, m.expected, m.otherwise
            );
        }
    }
    page.push_str(&health_checks());
    page
}

fn health_checks() -> String {
    let mut part = "
## Health checks

Training looks at the metrics of every step, logged or not, and says one line on stderr when one of these holds, at most
once in a run; `warnings` in `summary.json` has the same. A change or a distance is *clear* from six standard errors of
the means on. A resumed run goes on with what its checkpoint knows. Nothing that is learned depends on them.

| command | check | speaks when | what it usually means |
| --- | --- | --- | --- |
"
    .to_owned();
    for place in Place::ALL {
        for check in health::documented(place) {
            let title = place.title();
            let command = title.split_once(", ").map_or(title, |(_, command)| command);
            let command = command.strip_suffix(" alone").unwrap_or(command);
            // Writing to a string cannot fail.
            let _ = writeln!(part, "| {command} | `{}` | {} | {} |", check.name, check.rule, check.meaning);
        }
    }
    part.push_str(
        "
What no check watches, because it is no number of the run: the KL divergence to the reference and the length of the model's own
answers in `align dpo`, `align kto`, `align una` and `align reward`. Both are averages over what the model writes, and these
commands train on answers that others wrote. β h of a row says how far the model has moved at that answer and nothing of the answers
that gained what it lost; `kl` of `align kto` is a mean of h over answers of other rows, a baseline and no divergence.
`align eval --reference DIR` samples from the trained model and measures both, the divergence with its error.
",
    );
    part
}
