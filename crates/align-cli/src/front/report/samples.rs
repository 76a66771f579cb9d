//! What the model answered before, on the way, and after.

use align_report::{escape, number};

use super::run::{Run, Sample};

/// Prompts that are shown.
const PROMPTS: usize = 8;
/// Answers of one run to a prompt that are shown.
const MOMENTS: usize = 4;

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
            moments(run, prompt)
                .into_iter()
                .for_each(|(when, sample)| add(&mut shown, runs, run, when, sample));
        }
        for (who, sample) in &shown {
            let mut cut = if sample.cut { " <small>[…]</small>".to_owned() } else { String::new() };
            if let Some(reward) = sample.reward {
                cut += &format!(" <small>reward {}</small>", number(reward));
            }
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

/// Answers of a run to a prompt, evenly over its steps: the first and the last of them, and some between.
fn moments<'a>(run: &'a Run, prompt: &Sample) -> Vec<(String, &'a Sample)> {
    let mut own: Vec<&Sample> = run.samples.iter().filter(|sample| is_same(sample, prompt)).collect();
    own.sort_by_key(|sample| sample.step);
    // Of several samples at one step the first stands for all.
    own.dedup_by_key(|sample| sample.step);
    let name = |sample: &Sample| match sample.step {
        0 => "before".to_owned(),
        1 => "after 1 step".to_owned(),
        step => format!("after {step} steps"),
    };
    let last = own.len().saturating_sub(1);
    let shown = own.len().min(MOMENTS);
    let places = (0..shown).map(|index| index * last / shown.saturating_sub(1).max(1));
    places.filter_map(|place| own.get(place).map(|sample| (name(sample), *sample))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::report::run::tests::empty;

    #[test]
    fn answers_are_shown_over_the_steps_with_their_rewards() {
        let sample = |step: u64| Sample {
            step,
            place: "p.jsonl:1".into(),
            prompt: "Q".into(),
            answer: format!("answer {step}"),
            cut: false,
            reward: (step > 0).then_some(step as f64 / 4.0),
        };
        let mut run = empty("a");
        run.samples = [0, 10, 10, 20, 30, 40, 50, 60].map(sample).into();
        let shown: Vec<u64> = moments(&run, &sample(0)).iter().map(|(_, sample)| sample.step).collect();
        assert_eq!(shown, [0, 20, 40, 60]);
        let page = html(std::slice::from_ref(&run));
        assert!(page.contains("after 60 steps") && page.contains("reward 15<"), "{page}");
        run.samples.truncate(1);
        assert_eq!(moments(&run, &sample(0)).len(), 1);
    }
}
