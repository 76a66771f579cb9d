//! Feedback on answers of the fine-tuned policy: one noisy score per answer, from which pairs, labels and scores
//! are made.

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream};
use align_losses::REFERENCE_REWARDS;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::gold::Request;

/// What an arm is told about the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Of two answers the one with the higher score is chosen.
    Pairs,
    /// The pairs taken apart: chosen answers are desirable, rejected ones are not. Every answer is a row.
    PairLabels,
    /// An answer is desirable when its score is above the median of all scores.
    ThresholdLabels,
    /// The scores themselves.
    Scores,
}

/// What is done to the feedback before an arm sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scramble {
    /// Nothing.
    #[default]
    None,
    /// Exactly half of the pairs, drawn by the seed, are exchanged: labels say nothing.
    FlipHalf,
    /// The scores of each request are dealt out anew among its answers.
    Permute,
    /// All pairs are exchanged and all scores mirrored. No arm of a plan has it; tests break an experiment with it.
    Reverse,
}

/// How feedback is made into the rows of an arm.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// What the arm is told.
    pub form: Form,
    /// What is done to it.
    pub scramble: Scramble,
    /// Share of desirable rows that is kept, in (0, 1].
    pub keep_desirable: f64,
    /// Share of undesirable rows that is kept, in (0, 1].
    pub keep_undesirable: f64,
    /// Added to all scores of a random half of the requests and subtracted from those of the others.
    pub offset: f64,
    /// How far the range that scores are scaled from goes beyond them, on both sides.
    pub widen: f64,
    /// Seed of the above.
    pub seed: u64,
}

/// Rows that an objective takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The rows; pairs of answers, or single answers for [`Form::PairLabels`].
    pub groups: Vec<PromptGroup>,
    /// Smallest and largest score of all answers, or beyond them.
    pub score_range: (f64, f64),
    /// Desirable and undesirable answers, where rows have labels.
    pub labels: (usize, usize),
}

/// Scores the answers with gold and normal noise of this standard deviation; each request's answers are drawn
/// by the policy itself.
pub fn score(requests: &[Request], groups: &mut [PromptGroup], noise: f64, seed: u64) {
    let mut random = RngStream::new(seed, Purpose::Synthetic, 1, 3);
    for (request, group) in requests.iter().zip(groups) {
        for answer in &mut group.completions {
            answer.reward = Some(request.gold(&answer.token_ids) + noise * random.normal());
            answer.logprobs = None;
        }
    }
}

/// Counts the share of pairs whose noisy scores order the two answers against their gold.
pub fn disagreement(requests: &[Request], groups: &[PromptGroup]) -> f64 {
    let (mut wrong, mut pairs) = (0.0, 0.0);
    for (request, group) in requests.iter().zip(groups) {
        for pair in group.completions.chunks_exact(2) {
            if let [first, second] = pair {
                let by_gold = request.gold(&first.token_ids) - request.gold(&second.token_ids);
                wrong += f64::from(u8::from(by_gold * (score_of(first) - score_of(second)) < 0.0));
                pairs += 1.0;
            }
        }
    }
    wrong / f64::max(pairs, 1.0)
}

fn score_of(answer: &Completion) -> f64 {
    answer.reward.unwrap_or(0.0)
}

impl Recipe {
    /// Makes the rows of an arm; all arms see the same answers in the same pairs.
    pub fn rows(&self, scored: &[PromptGroup]) -> Rows {
        let scored = self.scrambled(scored);
        let scores: Vec<f64> =
            scored.iter().flat_map(|group| group.completions.iter().map(score_of)).collect();
        let mut sorted = scores.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        let end = |score: Option<&f64>, widen: f64| score.copied().unwrap_or(0.0) + widen;
        let range = (end(sorted.first(), -self.widen), end(sorted.last(), self.widen));
        let mut groups: Vec<PromptGroup> =
            scored.iter().flat_map(|group| self.pairs(group, median)).collect();
        self.exchange(&mut groups);
        if self.form == Form::PairLabels {
            groups = self.singles(groups);
        }
        let count =
            |label| groups.iter().flat_map(|g| &g.completions).filter(|c| c.label == Some(label)).count();
        let labels = (count(true), count(false));
        Rows { groups, score_range: range, labels }
    }

    /// Changes scores by request, as permutation and offset do.
    fn scrambled(&self, scored: &[PromptGroup]) -> Vec<PromptGroup> {
        let mut random = RngStream::new(self.seed, Purpose::Synthetic, 2, 3);
        let mut side: Vec<bool> = (0..scored.len()).map(|index| index % 2 == 0).collect();
        random.shuffle(&mut side);
        let change = |(group, up): (&PromptGroup, &bool)| {
            let mut group = group.clone();
            let mut scores: Vec<f64> = group.completions.iter().map(score_of).collect();
            if self.scramble == Scramble::Permute {
                random.shuffle(&mut scores);
            }
            let sign = if self.scramble == Scramble::Reverse { -1.0 } else { 1.0 };
            let offset = if *up { self.offset } else { -self.offset };
            for (answer, score) in group.completions.iter_mut().zip(scores) {
                answer.reward = Some(sign * score + offset);
            }
            group
        };
        scored.iter().zip(&side).map(change).collect()
    }

    /// Cuts the answers of a request into pairs with the feedback of the arm.
    fn pairs(&self, group: &PromptGroup, median: f64) -> Vec<PromptGroup> {
        let all: Vec<f64> = group.completions.iter().map(score_of).collect();
        let row = |pair: &[Completion]| {
            let mut answers = pair.to_vec();
            if matches!(self.form, Form::Pairs | Form::PairLabels) {
                answers.sort_by(|a, b| score_of(b).total_cmp(&score_of(a)));
            }
            let mut row = PromptGroup::new(group.prompt.clone(), answers);
            for answer in &mut row.completions {
                let score = answer.reward.take();
                match self.form {
                    Form::Scores => answer.reward = score,
                    Form::ThresholdLabels => answer.label = score.map(|score| score > median),
                    Form::Pairs | Form::PairLabels => {}
                }
            }
            if self.form == Form::Scores {
                row.columns.insert(REFERENCE_REWARDS.to_owned(), json!(all));
            }
            row
        };
        group.completions.chunks_exact(2).map(row).collect()
    }

    /// Exchanges half of the pairs where the recipe says so.
    fn exchange(&self, groups: &mut [PromptGroup]) {
        if self.scramble != Scramble::FlipHalf {
            return;
        }
        let mut flipped: Vec<bool> = (0..groups.len()).map(|index| index % 2 == 0).collect();
        RngStream::new(self.seed, Purpose::Synthetic, 3, 3).shuffle(&mut flipped);
        groups
            .iter_mut()
            .zip(flipped)
            .filter(|(_, flip)| *flip)
            .for_each(|(group, _)| group.completions.reverse());
    }

    /// Takes pairs apart into labelled rows and drops some of each label.
    fn singles(&self, pairs: Vec<PromptGroup>) -> Vec<PromptGroup> {
        let desirable = self.drawn(pairs.len(), self.keep_desirable, 4);
        let undesirable = self.drawn(pairs.len(), self.keep_undesirable, 5);
        let mut rows = Vec::with_capacity(2 * pairs.len());
        for (pair, (desirable, undesirable)) in pairs.into_iter().zip(desirable.into_iter().zip(undesirable))
        {
            let labels = [(true, desirable), (false, undesirable)];
            for (mut answer, (label, keep)) in pair.completions.into_iter().zip(labels) {
                answer.label = Some(label);
                if keep {
                    rows.push(PromptGroup::new(pair.prompt.clone(), vec![answer]));
                }
            }
        }
        rows
    }

    /// Draws by the seed which of `count` rows are kept: exactly this share of them, and one at least.
    fn drawn(&self, count: usize, share: f64, stream: u64) -> Vec<bool> {
        let kept = ((count as f64 * share).round() as usize).max(1);
        let mut keep: Vec<bool> = (0..count).map(|index| index < kept).collect();
        RngStream::new(self.seed, Purpose::Synthetic, stream, 3).shuffle(&mut keep);
        keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored() -> Vec<PromptGroup> {
        let group = |prompt: u32| {
            let answer = |index: u32| Completion {
                reward: Some(f64::from(prompt) + f64::from(index * 7 % 10)),
                ..Completion::new(vec![index])
            };
            PromptGroup::new(vec![prompt], (0..10).map(answer).collect())
        };
        (0..20).map(group).collect()
    }

    fn recipe(form: Form) -> Recipe {
        Recipe {
            form,
            scramble: Scramble::None,
            keep_desirable: 1.0,
            keep_undesirable: 1.0,
            offset: 0.0,
            widen: 0.0,
            seed: 5,
        }
    }

    /// The score that [`scored`] gave.
    fn score_again(prompt: &[u32], answer: &Completion) -> f64 {
        f64::from(prompt[0]) + f64::from(answer.token_ids[0] * 7 % 10)
    }

    #[test]
    fn pairs_have_the_better_answer_first_and_show_no_score() {
        let rows = recipe(Form::Pairs).rows(&scored());
        assert_eq!(rows.groups.len(), 100);
        for group in &rows.groups {
            let [chosen, rejected] = group.completions.as_slice() else { panic!("a pair") };
            assert!(score_again(&group.prompt, chosen) > score_again(&group.prompt, rejected));
            assert!(group.columns.is_empty() && chosen.reward.is_none() && chosen.label.is_none());
        }
    }

    #[test]
    fn exactly_half_of_the_pairs_are_flipped() {
        let rows = Recipe { scramble: Scramble::FlipHalf, ..recipe(Form::Pairs) }.rows(&scored());
        let right = |group: &&PromptGroup| {
            score_again(&group.prompt, &group.completions[0])
                > score_again(&group.prompt, &group.completions[1])
        };
        assert_eq!(rows.groups.iter().filter(right).count(), 50);
        let reversed = Recipe { scramble: Scramble::Reverse, ..recipe(Form::Pairs) }.rows(&scored());
        assert_eq!(reversed.groups.iter().filter(right).count(), 0);
    }

    #[test]
    fn a_tenth_of_the_desirable_rows_is_kept() {
        let rows = Recipe { keep_desirable: 0.1, ..recipe(Form::PairLabels) }.rows(&scored());
        assert_eq!(rows.labels, (10, 100));
        assert!(rows.groups.iter().all(|group| group.completions.len() == 1));
    }

    #[test]
    fn mostly_desirable_rows_lose_undesirable_ones_by_the_seed() {
        let whole = recipe(Form::PairLabels).rows(&scored());
        let mostly =
            |seed| Recipe { keep_undesirable: 0.1, seed, ..recipe(Form::PairLabels) }.rows(&scored());
        let rows = mostly(5);
        assert_eq!(rows.labels, (100, 10));
        let of = |rows: &Rows, label| {
            let of = |group: &&PromptGroup| group.completions[0].label == Some(label);
            rows.groups.iter().filter(of).cloned().collect::<Vec<_>>()
        };
        assert_eq!(of(&rows, true), of(&whole, true), "every desirable row is there, in its order");
        assert!(of(&rows, false).iter().all(|row| of(&whole, false).contains(row)), "no label is turned");
        assert_eq!(rows, mostly(5));
        assert_ne!(of(&rows, false), of(&mostly(6), false));
    }

    #[test]
    fn threshold_labels_split_at_the_median() {
        let rows = recipe(Form::ThresholdLabels).rows(&scored());
        assert_eq!(rows.groups.len(), 100);
        let (up, down) = rows.labels;
        assert_eq!(up + down, 200);
        let labelled = |label| {
            let of = move |g: &PromptGroup| {
                let prompt = g.prompt.clone();
                let scores = g.completions.iter().filter(move |c| c.label == Some(label));
                scores.map(|c| score_again(&prompt, c)).collect::<Vec<_>>()
            };
            rows.groups.iter().flat_map(of).collect::<Vec<_>>()
        };
        let least = labelled(true).into_iter().fold(f64::INFINITY, f64::min);
        let most = labelled(false).into_iter().fold(f64::NEG_INFINITY, f64::max);
        assert!(most < least, "{most} {least}");
    }

    #[test]
    fn permuted_scores_are_the_same_scores_of_each_request() {
        let plain = recipe(Form::Scores).rows(&scored());
        let permuted = Recipe { scramble: Scramble::Permute, ..recipe(Form::Scores) }.rows(&scored());
        let of = |rows: &Rows, prompt: u32| {
            let groups = rows.groups.iter().filter(|g| g.prompt == [prompt]);
            let mut scores: Vec<f64> = groups.flat_map(|g| g.completions.iter().map(score_of)).collect();
            scores.sort_by(f64::total_cmp);
            scores
        };
        for prompt in 0..20 {
            assert_eq!(of(&plain, prompt), of(&permuted, prompt));
        }
        assert_ne!(plain, permuted);
    }

    /// The offset moves the largest score up or the smallest down, or both; a wider range moves no score.
    #[test]
    fn a_wider_range_is_that_of_an_offset_without_it() {
        let plain = recipe(Form::Scores).rows(&scored());
        let wide = Recipe { widen: 100.0, ..recipe(Form::Scores) }.rows(&scored());
        assert_eq!(wide.groups, plain.groups);
        let (low, high) = plain.score_range;
        assert_eq!(wide.score_range, (low - 100.0, high + 100.0));
        let (lowest, highest) = Recipe { offset: 100.0, ..recipe(Form::Scores) }.rows(&scored()).score_range;
        assert!(lowest >= low - 100.0 && highest <= high + 100.0, "{lowest} {highest}");
    }

    #[test]
    fn an_offset_moves_half_of_the_requests_up_and_changes_no_pair() {
        let offset = |form| Recipe { offset: 100.0, ..recipe(form) }.rows(&scored());
        assert_eq!(offset(Form::Pairs).groups, recipe(Form::Pairs).rows(&scored()).groups);
        let rows = offset(Form::Scores);
        let up = |group: &&PromptGroup| score_of(&group.completions[0]) > 50.0;
        assert_eq!(rows.groups.iter().filter(up).count(), 50);
        assert!(rows.score_range.0 < -50.0 && rows.score_range.1 > 50.0);
        // The rewards of the reference move along.
        for group in &rows.groups {
            let list = group.columns[REFERENCE_REWARDS].as_array().unwrap();
            assert_eq!(list.len(), 10);
            assert!(group.completions.iter().all(|c| list.contains(&json!(score_of(c)))));
        }
    }
}
