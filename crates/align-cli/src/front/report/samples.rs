//! What the model answered before and after.

use align_report::escape;

use super::run::{Run, Sample};

/// Prompts that are shown.
const PROMPTS: usize = 8;

/// Writes the section; empty without samples.
pub(super) fn html(runs: &[Run]) -> String {
    let mut prompts: Vec<&Sample> = Vec::new();
    for sample in runs.iter().flat_map(|run| &run.samples) {
        if !prompts.iter().any(|known| is_same(known, sample)) {
            prompts.push(sample);
        }
    }
    if prompts.is_empty() {
        return String::new();
    }
    let mut text =
        "<h2>Samples before and after</h2>\n<p class=\"meta\">Greedy answers to the first prompts of the \
                    held-out rows, or of the training rows where there are none.</p>\n"
            .to_owned();
    for prompt in prompts.iter().take(PROMPTS) {
        text += &format!(
            "<section class=\"sample\">\n<p class=\"meta\">{}</p>\n<pre dir=\"auto\">{}</pre>\n<div class=\"answers\">\n",
            escape(&prompt.place),
            escape(&prompt.prompt)
        );
        let mut shown: Vec<(String, &Sample)> = Vec::new();
        for run in runs {
            ends(run, prompt).into_iter().for_each(|(when, sample)| add(&mut shown, runs, run, when, sample));
        }
        for (who, sample) in &shown {
            let cut = if sample.cut { " <small>[…]</small>" } else { "" };
            text += &format!(
                "<div><h3>{who}</h3><pre dir=\"auto\">{}{cut}</pre></div>\n",
                escape(&sample.answer)
            );
        }
        text += "</div>\n</section>\n";
    }
    text
}

fn is_same(a: &Sample, b: &Sample) -> bool {
    a.place == b.place && a.prompt == b.prompt
}

/// The first and the last answer of a run to a prompt.
fn ends<'a>(run: &'a Run, prompt: &Sample) -> Vec<(String, &'a Sample)> {
    let own: Vec<&Sample> = run.samples.iter().filter(|sample| is_same(sample, prompt)).collect();
    let first = own.iter().min_by_key(|sample| sample.step);
    let last = own.iter().max_by_key(|sample| sample.step);
    let name = |sample: &Sample| match sample.step {
        0 => "before".to_owned(),
        step => format!("after {step} steps"),
    };
    let mut ends: Vec<(String, &Sample)> = first.map(|sample| (name(sample), *sample)).into_iter().collect();
    ends.extend(last.filter(|last| first.is_some_and(|first| first.step < last.step)).map(|l| (name(l), *l)));
    ends
}

/// Adds an answer; of runs that begin with the same model the first answer is shown once.
fn add<'a>(shown: &mut Vec<(String, &'a Sample)>, runs: &[Run], run: &Run, when: String, sample: &'a Sample) {
    let known = |(_, other): &(String, &Sample)| other.step == 0 && other.answer == sample.answer;
    if sample.step == 0 && shown.iter().any(known) {
        return;
    }
    let who = match runs.len() {
        1 => escape(&when),
        _ => format!("<bdi>{}</bdi>, {}", escape(&run.name), escape(&when)),
    };
    shown.push((who, sample));
}
