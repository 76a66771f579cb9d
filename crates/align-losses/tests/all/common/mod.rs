//! Groups, a model with known log-probabilities, and the loop's arithmetic.

use std::collections::BTreeMap;

use align_core::{
    CausalLm, LossComponent, Objective, PackedBatch,
    align_types::{Completion, PromptGroup, Purpose, RngStream},
    couple_batch,
    tch::{Kind, Tensor},
};
use align_testkit::BigramLm;
use proptest::prelude::*;

pub const VOCAB: u32 = 6;

pub fn model(seed: u64) -> BigramLm {
    // Tests run side by side; their tensors are too small to be worth threads of libtorch.
    align_core::threads::prepare_compute_thread();
    let mut rng = RngStream::new(seed, Purpose::Init, 0, 0);
    let table: Vec<f64> = (0..VOCAB * VOCAB).map(|_| rng.normal()).collect();
    BigramLm::new(&Tensor::from_slice(&table).reshape([i64::from(VOCAB), i64::from(VOCAB)]))
}

pub fn pair(prompt: Vec<u32>, chosen: Vec<u32>, rejected: Vec<u32>) -> PromptGroup {
    PromptGroup::new(
        prompt,
        vec![Completion::named("chosen", chosen), Completion::named("rejected", rejected)],
    )
}

pub fn labelled(prompt: Vec<u32>, answer: Vec<u32>, label: bool) -> PromptGroup {
    PromptGroup::new(prompt, vec![Completion { label: Some(label), ..Completion::new(answer) }])
}

pub fn scored(prompt: Vec<u32>, answer: Vec<u32>, reward: f64) -> PromptGroup {
    PromptGroup::new(prompt, vec![Completion { reward: Some(reward), ..Completion::new(answer) }])
}

/// Summed log-probabilities of all answers, with gradient.
pub fn sums(model: &BigramLm, groups: &[PromptGroup]) -> Tensor {
    model.token_log_probs(&PackedBatch::new(groups).unwrap(), 1.0).unwrap().sums().unwrap()
}

/// What a training loop computes of a batch.
pub struct Cut {
    pub loss: f64,
    pub gradient: Vec<f64>,
    /// Summands and metrics, Σ sums / Σ counts over the micro-batches; none without items.
    pub metrics: BTreeMap<&'static str, f64>,
}

/// What a training loop computes of a batch cut at two places: the coupling in passes of `rows` surveyed rows, the
/// denominators of the whole batch, gradients and metrics added over the micro-batches.
pub fn cut_batch(
    model: &BigramLm,
    objective: &dyn Objective,
    groups: &[PromptGroup],
    cuts: &[usize; 2],
    rows: usize,
) -> Cut {
    align_core::clear_gradients([model.table()]).unwrap();
    let denominators = objective.denominators(groups).unwrap();
    let coupling = couple_batch(objective, model, groups, rows).unwrap();
    let mut ends = cuts.map(|cut| cut.min(groups.len())).to_vec();
    ends.sort_unstable();
    ends.push(groups.len());
    let (mut start, mut total) = (0, 0.0);
    let mut found = vec![0.0; denominators.len()];
    let mut sums: BTreeMap<&'static str, (f64, f64)> = BTreeMap::new();
    for end in ends {
        let part = &groups[start..end];
        let places = std::mem::replace(&mut start, end)..end;
        if part.is_empty() {
            continue;
        }
        let batch = PackedBatch::new(part).unwrap();
        let output = match &coupling {
            Some(coupling) => objective.coupled_loss(model, &batch, part, &coupling.notes[places]).unwrap(),
            None => objective.loss(model, &batch, part).unwrap(),
        };
        found.iter_mut().zip(&output.components).for_each(|(sum, c)| *sum += c.denominator);
        let terms = |c: &LossComponent| c.terms.sum(Kind::Double).double_value(&[]);
        let components = output.components.iter().map(|c| (c.name, terms(c), c.denominator));
        for (name, sum, count) in components.chain(output.metrics.iter().map(|m| (m.name, m.sum, m.count))) {
            let entry = sums.entry(name).or_default();
            *entry = (entry.0 + sum, entry.1 + count);
        }
        let loss = output.scaled_sum(&denominators).unwrap();
        total += loss.double_value(&[]);
        loss.backward();
    }
    align_testkit::assert_close(&found, &denominators, 1e-9);
    let gradient = Vec::try_from(model.table().grad().reshape([-1])).unwrap();
    let mean =
        |(name, (sum, count)): (&'static str, (f64, f64))| (count > 0.0).then_some((name, sum / count));
    Cut { loss: total, gradient, metrics: sums.into_iter().filter_map(mean).collect() }
}

/// Loss and gradient of [`cut_batch`].
pub fn cut_loss(
    model: &BigramLm,
    objective: &dyn Objective,
    groups: &[PromptGroup],
    cuts: &[usize; 2],
    rows: usize,
) -> (f64, Vec<f64>) {
    let cut = cut_batch(model, objective, groups, cuts, rows);
    (cut.loss, cut.gradient)
}

pub fn tokens(most: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..VOCAB, 1..most)
}

pub fn a_pair() -> impl Strategy<Value = PromptGroup> {
    (tokens(4), tokens(6), tokens(6)).prop_map(|(p, c, r)| pair(p, c, r))
}

pub fn a_labelled_group() -> impl Strategy<Value = PromptGroup> {
    (tokens(4), tokens(6), any::<bool>()).prop_map(|(p, a, l)| labelled(p, a, l))
}

pub fn a_scored_group() -> impl Strategy<Value = PromptGroup> {
    (tokens(4), tokens(6), 0.0f64..=1.0).prop_map(|(p, a, s)| scored(p, a, s))
}

pub fn pairs() -> impl Strategy<Value = Vec<PromptGroup>> {
    prop::collection::vec(a_pair(), 1..7)
}

pub fn labelled_groups() -> impl Strategy<Value = Vec<PromptGroup>> {
    prop::collection::vec(a_labelled_group(), 1..7)
}

pub fn groups_of_all_kinds() -> impl Strategy<Value = Vec<PromptGroup>> {
    prop::collection::vec(prop_oneof![a_pair(), a_labelled_group(), a_scored_group()], 1..8)
}
