use super::{figure_text, weight_text};
use crate::{
    experiment::{Arm, Experiment, Size},
    outcome::Outcome,
};

/// Writes the verdicts as a table for a terminal.
pub fn text_table(outcome: &Outcome) -> String {
    let mut text = String::new();
    text += "claims\n";
    let claims: Vec<Vec<String>> = outcome
        .claims
        .iter()
        .map(|c| {
            vec![
                c.claim.id.clone(),
                c.claim.paper.clone(),
                figure_text(c.evidence.as_ref()),
                c.verdict.to_string(),
                weight_text(c.required, c.decides).to_owned(),
            ]
        })
        .collect();
    text += &columns(&["claim", "paper", "ours", "verdict", "weight"], &claims);
    text += "\ncontrols (what must be so)\n";
    let controls: Vec<Vec<String>> = outcome
        .controls
        .iter()
        .map(|c| vec![c.control.id.clone(), figure_text(c.evidence.as_ref()), c.verdict.to_string()])
        .collect();
    text += &columns(&["control", "ours", "verdict"], &controls);
    text += "\n";
    for sentence in &outcome.answer {
        text += &format!("{sentence}\n");
    }
    text + &format!("\n{}\n", outcome.summary())
}

/// Aligns cells; the last column is not padded.
fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let lines: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|j| lines.iter().filter_map(|line| Some(line.get(j)?.chars().count())).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let mut out = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            out += &format!("  {cell:width$}");
        }
        text += out.trim_end();
        text.push('\n');
    }
    text
}

/// Lists an experiment's sizes, arms, claims and controls.
pub fn listing(experiment: &Experiment) -> String {
    let paper = &experiment.paper;
    let mut text = format!("{}  {} ({}, {})\n", experiment.name, experiment.title, paper.id, paper.venue);
    text += &format!("  metric: {}\n  direction: {}\n", experiment.metric, experiment.direction);
    for (size, budget) in &experiment.sizes {
        let seeds: Vec<String> = budget.seeds.iter().map(|(part, n)| format!("{part} {n}")).collect();
        text += &format!("  {}: {}; seeds: {}\n", flag(experiment, *size), budget.budget, seeds.join(", "));
    }
    text += "  arms:\n";
    let about = |arm: &Arm| match &arm.sizes {
        None => arm.about.clone(),
        Some(sizes) => format!("{} [{}]", arm.about, names(sizes)),
    };
    let arms: Vec<Vec<String>> =
        experiment.arms.iter().map(|a| vec![String::new(), a.name.clone(), about(a)]).collect();
    text += &body(&arms);
    text += "  claims:\n";
    let claims: Vec<Vec<String>> = experiment
        .claims
        .iter()
        .map(|c| {
            let required = match c.required.len() {
                0 => "reported".to_owned(),
                all if all == experiment.sizes.len() => "required".to_owned(),
                _ => format!("required [{}]", names(&c.required)),
            };
            vec![String::new(), c.id.clone(), required, c.statement.clone()]
        })
        .collect();
    text += &body(&claims);
    text += "  controls:\n";
    let controls: Vec<Vec<String>> =
        experiment.controls.iter().map(|c| vec![String::new(), c.id.clone(), c.statement.clone()]).collect();
    text + &body(&controls)
}

fn names(sizes: &[Size]) -> String {
    sizes.iter().map(|size| size.name()).collect::<Vec<_>>().join(", ")
}

/// Names the flag of a size, and says which one needs none.
fn flag(experiment: &Experiment, size: Size) -> String {
    match (size, experiment.size(None).ok() == Some(size)) {
        (Size::Default, _) => "without a flag".to_owned(),
        (_, true) => format!("--{} (or without a flag)", size.name()),
        (_, false) => format!("--{}", size.name()),
    }
}

fn body(rows: &[Vec<String>]) -> String {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let aligned = columns(&vec![""; width], rows);
    aligned.lines().skip(1).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let rows = vec![vec!["β = 0.1".to_owned(), "x".to_owned()], vec!["a".to_owned(), "y".to_owned()]];
        assert_eq!(columns(&["k", "v"], &rows), "  k        v\n  β = 0.1  x\n  a        y\n");
    }
}
