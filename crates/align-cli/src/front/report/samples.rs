//! What the model answered before, on the way, and after.

use align_report::{escape, number};

use super::run::{Run, Sample};

/// Prompts that are shown.
const PROMPTS: usize = 8;
/// Answers of one run to a prompt that are shown.
const MOMENTS: usize = 4;

/// Samples of one step that are shown.
const ANSWERS: usize = 3;

/// Writes the sections; empty without samples.
pub(super) fn html(runs: &[Run]) -> String {
    before_and_after(runs) + &drawn(runs)
}

/// Writes what was drawn for training over the steps of each run, whose prompts differ from step to step.
fn drawn(runs: &[Run]) -> String {
    let mut text = String::new();
    for run in runs {
        let samples: Vec<&Sample> = run.samples.iter().filter(|sample| sample.drawn).collect();
        let mut steps: Vec<u64> = samples.iter().map(|sample| sample.step).collect();
        steps.sort_unstable();
        steps.dedup();
        for step in evenly(&steps) {
            let name =
                if runs.len() > 1 { format!("<bdi>{}</bdi>, ", escape(&run.name)) } else { String::new() };
            text +=
                &format!("<section class=\"sample\">\n<h3>{name}step {step}</h3>\n<div class=\"answers\">\n");
            for sample in samples.iter().filter(|sample| sample.step == *step).take(ANSWERS) {
                let (place, prompt) = (escape(&sample.place), escape(&sample.prompt));
                text += &format!(
                    "<div><p class=\"meta\">{place}</p><pre dir=\"auto\">{prompt}</pre><pre dir=\"auto\">{}</pre></div>\n",
                    answer(sample)
                );
            }
            text += "</div>\n</section>\n";
        }
    }
    if text.is_empty() {
        return text;
    }
    let about = "Answers that were drawn for training at some steps, before their update, each below its prompt. \
                 completions.jsonl has more of them.";
    format!("<h2>Samples over time</h2>\n<p class=\"meta\">{about}</p>\n{text}")
}

/// Chooses some of a list, evenly: the first, the last, and some between.
fn evenly<T>(list: &[T]) -> impl Iterator<Item = &T> {
    let shown = list.len().min(MOMENTS);
    let last = list.len().saturating_sub(1);
    (0..shown).filter_map(move |index| list.get(index * last / shown.saturating_sub(1).max(1)))
}

/// Writes an answer with what is to be said of it.
fn answer(sample: &Sample) -> String {
    let cut = if sample.cut { " <small>[…]</small>" } else { "" };
    let reward = match sample.reward {
        Some(reward) => format!(" <small>reward {}</small>", number(reward)),
        None if sample.drawn => " <small>no reward</small>".to_owned(),
        None => String::new(),
    };
    format!("{}{cut}{reward}", escape(&sample.answer))
}

/// Writes the greedy answers to the same prompts at several steps.
fn before_and_after(runs: &[Run]) -> String {
    let mut prompts: Vec<&Sample> = Vec::new();
    for sample in runs.iter().flat_map(|run| &run.samples).filter(|sample| !sample.drawn) {
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
            text += &format!("<div><h3>{who}</h3><pre dir=\"auto\">{}</pre></div>\n", answer(sample));
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
    let same = |sample: &&Sample| !sample.drawn && is_same(sample, prompt);
    let mut own: Vec<&Sample> = run.samples.iter().filter(same).collect();
    own.sort_by_key(|sample| sample.step);
    // Of several samples at one step the first stands for all.
    own.dedup_by_key(|sample| sample.step);
    let name = |sample: &Sample| match sample.step {
        0 => "before".to_owned(),
        1 => "after 1 step".to_owned(),
        step => format!("after {step} steps"),
    };
    evenly(&own).map(|sample| (name(sample), *sample)).collect()
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

    fn sample(step: u64, prompt: &str, reward: Option<f64>, drawn: bool) -> Sample {
        Sample {
            step,
            place: format!("p.jsonl:{prompt}"),
            prompt: format!("question {prompt}"),
            answer: format!("answer {step} to {prompt}"),
            cut: false,
            reward,
            drawn,
        }
    }

    #[test]
    fn greedy_answers_are_shown_over_the_steps() {
        let at = |step| sample(step, "Q", None, false);
        let mut run = empty("a");
        run.samples = [0, 10, 10, 20, 30, 40, 50, 60].map(at).into();
        let shown: Vec<u64> = moments(&run, &at(0)).iter().map(|(_, sample)| sample.step).collect();
        assert_eq!(shown, [0, 20, 40, 60]);
        let page = html(std::slice::from_ref(&run));
        assert!(page.contains("Samples before and after") && page.contains("after 60 steps"), "{page}");
        assert!(!page.contains("over time") && !page.contains("reward"), "{page}");
        run.samples.truncate(1);
        assert_eq!(moments(&run, &at(0)).len(), 1);
    }

    /// Each step has prompts of its own: those of the last are as good as those of the first.
    #[test]
    fn drawn_answers_are_shown_by_step_with_their_rewards() {
        let mut run = empty("a");
        for step in 1..=9 {
            for prompt in 0..5u64 {
                let reward = (prompt != 2).then_some(step as f64 / 4.0);
                run.samples.push(sample(step, &format!("{}", 10 * step + prompt), reward, true));
            }
        }
        let page = html(std::slice::from_ref(&run));
        assert!(page.contains("Samples over time") && !page.contains("Greedy"), "{page}");
        // The first, the last and two between, three answers of each.
        assert_eq!(page.matches("<h3>step ").count(), 4);
        assert_eq!(page.matches("<h3>step 1</h3>").count() + page.matches("<h3>step 9</h3>").count(), 2);
        assert_eq!(page.matches("question ").count(), 12);
        assert!(
            page.contains("question 90") && page.contains("answer 9 to 90") && page.contains("reward 2.25<")
        );
        assert_eq!(page.matches("no reward").count(), 4);
        assert!(!page.contains("question 93"), "{page}");
    }
}
