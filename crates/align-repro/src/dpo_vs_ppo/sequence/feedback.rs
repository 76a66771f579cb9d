//! What sampled answers teach: pairs of a passing and a failing one, or the passing ones alone.

use align_core::align_types::{PromptGroup, RngStream};

use super::task::{Stream, Task};
use crate::on_policy::study::Tamper;

/// Most pairs of one prompt.
const MOST_PAIRS: usize = 8;
/// Probability of a reward that is drawn by lot.
pub const BY_LOT: f64 = 0.3;

/// Writes its reward into every answer: what the hidden tests say, or what a deliberate fault makes of it.
pub fn reward(task: &Task, groups: &mut [PromptGroup], tamper: Tamper, (seed, round): (u64, u64)) {
    let mut random = Stream::Labels.random(seed, round);
    for group in groups {
        for answer in &mut group.completions {
            let reward = task.grade(&group.prompt, &answer.token_ids).reward();
            answer.reward = Some(match tamper {
                Tamper::None => reward,
                Tamper::Reverse => 1.0 - reward,
                Tamper::Random => f64::from(u8::from(random.uniform() < BY_LOT)),
            });
        }
    }
}

/// Says which answers of a group passed.
fn sides(group: &PromptGroup) -> (Vec<usize>, Vec<usize>) {
    let passed =
        |index: &usize| group.completions.get(*index).is_some_and(|answer| answer.reward > Some(0.5));
    (0..group.completions.len()).partition(passed)
}

/// Keeps the groups in which some answers pass and some fail.
pub fn mixed(groups: Vec<PromptGroup>) -> Vec<PromptGroup> {
    let is_mixed = |group: &PromptGroup| {
        let (passed, failed) = sides(group);
        !passed.is_empty() && !failed.is_empty()
    };
    groups.into_iter().filter(is_mixed).collect()
}

/// Pairs passing answers with failing ones, the passing one first.
///
/// A group with p passing and f failing answers gives min(8, max(p, f)) pairs: both lists are shuffled, and the j-th pair takes
/// the passing answer j mod p and the failing one j mod f.
pub fn pairs(groups: &[PromptGroup], random: &mut RngStream) -> Vec<PromptGroup> {
    let mut rows = Vec::new();
    for group in groups {
        let (mut passed, mut failed) = sides(group);
        if passed.is_empty() || failed.is_empty() {
            continue;
        }
        random.shuffle(&mut passed);
        random.shuffle(&mut failed);
        let count = passed.len().max(failed.len()).min(MOST_PAIRS);
        let pair = passed.iter().cycle().zip(failed.iter().cycle()).take(count);
        rows.extend(pair.map(|(pass, fail)| {
            let sides = [pass, fail].into_iter().filter_map(|index| group.completions.get(*index).cloned());
            PromptGroup::new(group.prompt.clone(), sides.collect())
        }));
    }
    rows
}

/// Draws by lot which side of a pair counts as the better one.
pub fn shuffle_labels(pairs: &mut [PromptGroup], random: &mut RngStream) {
    for pair in pairs {
        if random.uniform() < 0.5 {
            pair.completions.reverse();
        }
    }
}

/// Makes a row of every passing answer.
pub fn positives(groups: &[PromptGroup]) -> Vec<PromptGroup> {
    let row = |group: &PromptGroup| {
        let (passed, _) = sides(group);
        let answers = passed.into_iter().filter_map(|index| group.completions.get(index).cloned());
        answers.map(|answer| PromptGroup::new(group.prompt.clone(), vec![answer])).collect::<Vec<_>>()
    };
    groups.iter().flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use align_core::align_types::{Completion, Purpose};

    use super::super::vocabulary::tokens;
    use super::*;

    /// A group with passing answers 1, 2, … and failing ones −1, −2, … as tokens 100 + i and 200 + i.
    fn group(passed: u32, failed: u32) -> PromptGroup {
        let answer =
            |token: u32, reward: f64| Completion { reward: Some(reward), ..Completion::new(vec![token]) };
        let passed = (0..passed).map(|index| answer(100 + index, 1.0));
        let answers = passed.chain((0..failed).map(|index| answer(200 + index, 0.0)));
        PromptGroup::new(vec![1], answers.collect())
    }

    fn random() -> RngStream {
        RngStream::new(1, Purpose::Synthetic, 0, 0)
    }

    fn first(row: &PromptGroup, side: usize) -> u32 {
        row.completions[side].token_ids[0]
    }

    #[test]
    fn pairs_are_as_many_as_the_larger_side_and_use_all_of_both() {
        for (passed, failed, count) in
            [(1, 7, 7), (3, 5, 5), (4, 4, 4), (6, 2, 6), (0, 8, 0), (8, 0, 0), (1, 20, 8)]
        {
            let rows = pairs(&[group(passed, failed)], &mut random());
            assert_eq!(rows.len(), count, "{passed} {failed}");
            assert!(rows.iter().all(|row| first(row, 0) / 100 == 1 && first(row, 1) / 100 == 2));
            let used = |side| {
                rows.iter().map(|row| first(row, side)).collect::<std::collections::BTreeSet<_>>().len()
            };
            assert_eq!((used(0), used(1)), ((passed as usize).min(count), (failed as usize).min(count)));
        }
        assert_eq!(mixed(vec![group(0, 3), group(2, 1), group(4, 0)]), [group(2, 1)]);
    }

    #[test]
    fn positives_are_the_passing_answers() {
        let rows = positives(&[group(2, 6), group(0, 8), group(1, 0)]);
        assert_eq!(rows.iter().map(|row| first(row, 0)).collect::<Vec<_>>(), [100, 101, 100]);
    }

    #[test]
    fn labels_by_lot_turn_half_of_the_pairs() {
        let mut rows = pairs(&vec![group(4, 4); 500], &mut random());
        shuffle_labels(&mut rows, &mut random());
        let turned = rows.iter().filter(|row| first(row, 0) >= 200).count();
        // Four standard deviations of 2000 coins are 90.
        assert!(turned.abs_diff(1000) < 90, "{turned}");
    }

    #[test]
    fn faults_change_rewards() {
        let task = Task::new();
        let prompt = tokens("B ( a + b ) * ( c - d ) =");
        let answers = ["a b ADD c d SUB MUL END", "a b SUB c d SUB MUL END"];
        let answers = answers.iter().cycle().take(2000).map(|words| Completion::new(tokens(words)));
        let mut groups = vec![PromptGroup::new(prompt, answers.collect())];
        let mut rewards = |tamper| {
            reward(&task, &mut groups, tamper, (0, 0));
            groups[0].completions.iter().map(|answer| answer.reward.unwrap()).collect::<Vec<f64>>()
        };
        assert_eq!(rewards(Tamper::None), [1.0, 0.0].repeat(1000));
        assert_eq!(rewards(Tamper::Reverse), [0.0, 1.0].repeat(1000));
        let lots = rewards(Tamper::Random);
        let (passing, failing): (f64, f64) = (
            lots.iter().step_by(2).sum::<f64>() / 1000.0,
            lots.iter().skip(1).step_by(2).sum::<f64>() / 1000.0,
        );
        // Four standard deviations of 1000 draws are 0.058.
        assert!((passing - BY_LOT).abs() < 0.06 && (failing - BY_LOT).abs() < 0.06, "{passing} {failing}");
    }
}
