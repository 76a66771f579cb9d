//! The rule, rows that follow it, and what is measured of it.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use align_core::{
    CausalLm, PackedBatch, ScoreModel,
    align_types::{Completion, PromptGroup, Purpose, RngStream},
    no_grad,
    tch::{Kind, Tensor},
};
use align_data::Tokenizer;
use align_lm::{LoadOptions, Model};
use align_losses::REFERENCE_REWARDS;

use crate::support::tiny_llama;

/// Words of each kind.
const WORDS: usize = 24;
/// How often each word stands in the training rows.
const TIMES: usize = 4;
/// Scores of good and bad answers, and rewards of the reference policy between them.
const SCORES: (f64, f64) = (0.85, 0.15);
const BETWEEN: [f64; 2] = [0.45, 0.55];
const RATINGS: (f64, f64) = (2.0, -2.0);

/// What a row tells of its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Good answers alone.
    Demonstrations,
    /// A good one before a bad one.
    Pairs,
    /// Two good answers of rank 1 and two bad ones of rank 2; half as many rows, as these have twice as many answers.
    Rankings,
    /// A thumb for each answer.
    Labels,
    /// A score from 0 to 1 for each answer, with rewards of the reference policy.
    Scores,
    /// A score of any size for each answer.
    Ratings,
}

/// The task, which is made once.
pub fn task() -> &'static Task {
    static TASK: OnceLock<Task> = OnceLock::new();
    TASK.get_or_init(Task::new)
}

type Answers = [Completion; 4];

/// Answers under prompts, each with its log-probability before training.
pub struct Task {
    /// A prompt; a good answer and a bad one, and two more of them.
    rows: Vec<(Vec<u32>, Answers)>,
    /// The words, good ones first, each under a prompt of its own.
    held_out: Vec<PromptGroup>,
}

impl Task {
    fn new() -> Self {
        align_core::threads::prepare_compute_thread();
        let tokenizer = Tokenizer::from_folder(&tiny_llama()).unwrap();
        let ids = |text: &str| tokenizer.encode(text, false).unwrap();
        let answer = |word: &String| {
            let end = tokenizer.eos_id();
            Completion::new(ids(&format!(" {word}")).into_iter().chain(end).collect())
        };
        let mut rng = RngStream::new(5, Purpose::Synthetic, 0, 0);
        let words = words(&mut rng);
        let (good, bad) = words.split_at(WORDS);
        let mut number = 0;
        let mut prompt = || {
            number += 1;
            ids(&format!("Word {number}:"))
        };
        let mut rows = Vec::new();
        for _ in 0..TIMES {
            let mut others = bad.to_vec();
            rng.shuffle(&mut others);
            for index in 0..WORDS {
                let next = (index + 1) % WORDS;
                let four = [&good[index], &others[index], &good[next], &others[next]];
                rows.push((prompt(), four.map(answer)));
            }
        }
        let held_out: Vec<PromptGroup> =
            words.iter().map(|word| PromptGroup::new(prompt(), vec![answer(word)])).collect();
        let model = Model::load(&tiny_llama(), &LoadOptions::default()).unwrap();
        for (prompt, answers) in &mut rows {
            let group = PromptGroup::new(prompt.clone(), answers.to_vec());
            let before = log_probs(&model, &[group]);
            answers.iter_mut().zip(before).for_each(|(answer, sum)| answer.ref_logprob = Some(sum));
        }
        Self { rows, held_out }
    }

    /// Returns the words, good ones first, each under a prompt that no training row has.
    pub fn held_out(&self) -> &[PromptGroup] {
        &self.held_out
    }

    /// Makes training rows: true ones, or such in which chance decides which answer is called the good one.
    pub fn rows(&self, kind: Rows, shuffled: bool) -> Vec<PromptGroup> {
        let mut rng = RngStream::new(6, Purpose::Synthetic, 0, 0);
        let mut good_and_bad = |answers: &Answers| {
            let mut answers = answers.clone();
            // Every word is then called good as often as any other, by expectation.
            if shuffled {
                let count = if kind == Rows::Rankings { 4 } else { 2 };
                rng.shuffle(&mut answers[..count]);
            }
            answers
        };
        let of = |(prompt, answers): &(Vec<u32>, Answers)| {
            let [first, second, third, fourth] = good_and_bad(answers);
            let group = |answers| PromptGroup::new(prompt.clone(), answers);
            let with = |answer: &Completion, feed: &dyn Fn(&mut Completion)| {
                let mut answer = answer.clone();
                feed(&mut answer);
                answer
            };
            match kind {
                Rows::Demonstrations => vec![group(vec![first])],
                Rows::Pairs => vec![group(vec![first, second])],
                Rows::Rankings => {
                    let ranked = [(first, 1), (second, 2), (third, 1), (fourth, 2)];
                    vec![group(ranked.map(|(answer, rank)| with(&answer, &|a| a.rank = Some(rank))).into())]
                }
                Rows::Labels => [(first, true), (second, false)]
                    .map(|(answer, label)| group(vec![with(&answer, &|a| a.label = Some(label))]))
                    .into(),
                Rows::Scores | Rows::Ratings => {
                    let (good, bad) = if kind == Rows::Scores { SCORES } else { RATINGS };
                    let row = |(answer, score): (Completion, f64)| {
                        let mut group = group(vec![with(&answer, &|a| a.reward = Some(score))]);
                        group.columns.insert(REFERENCE_REWARDS.into(), BETWEEN.to_vec().into());
                        group
                    };
                    [(first, good), (second, bad)].map(row).into()
                }
            }
        };
        let count = if kind == Rows::Rankings { self.rows.len() / 2 } else { self.rows.len() };
        self.rows.iter().take(count).flat_map(of).collect()
    }

    /// Computes the share of (good word, bad word) of which the good one gained more, ties counting one half.
    pub fn area(&self, before: &[f64], after: &[f64]) -> f64 {
        let gains: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
        let (good, bad) = gains.split_at(WORDS);
        let win = |good: &f64, bad: &f64| match good.total_cmp(bad) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        let wins: f64 = good.iter().flat_map(|good| bad.iter().map(move |bad| win(good, bad))).sum();
        wins / (good.len() * bad.len()) as f64
    }
}

/// How far the area may be from 1/2 where there is no rule: 3.5 standard deviations of the Mann-Whitney statistic over two
/// samples of [`WORDS`], whose variance is (n + m + 1) / (12 n m), and 2.6 of what shuffled rows give.
pub fn chance() -> f64 {
    let words = WORDS as f64;
    3.5 * ((2.0 * words + 1.0) / (12.0 * words * words)).sqrt()
}

/// Made-up words without repetition, of two kinds that nothing tells apart.
fn words(rng: &mut RngStream) -> Vec<String> {
    let mut words = BTreeSet::new();
    while words.len() < 2 * WORDS {
        let mut letter = |letters: &str| letters.as_bytes()[rng.below(letters.len())] as char;
        let word: String = (0..3).flat_map(|_| [letter("bdfgklmnprstvz"), letter("aeiou")]).collect();
        words.insert(word);
    }
    let mut words: Vec<String> = words.into_iter().collect();
    rng.shuffle(&mut words);
    words
}

/// Computes the summed log-probability of every answer.
pub fn log_probs(model: &Model, groups: &[PromptGroup]) -> Vec<f64> {
    let _guard = no_grad();
    let batch = PackedBatch::new(groups).unwrap();
    numbers(&model.token_log_probs(&batch, 1.0).unwrap().sums().unwrap())
}

/// Computes the score of every answer.
pub fn scores(model: &dyn ScoreModel, groups: &[PromptGroup]) -> Vec<f64> {
    let _guard = no_grad();
    numbers(&model.scores(&PackedBatch::new(groups).unwrap()).unwrap())
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous()).unwrap()
}
