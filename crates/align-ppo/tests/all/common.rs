use align_core::{
    Objective, PackedBatch, Trainable,
    align_types::{Completion, FinishReason, PromptGroup, Trajectory},
    tch::{Kind, Tensor},
};
use align_ppo::{MeasureLayout, read_measures};

pub use align_testkit::assert_close;

/// An answer that ended by itself, with a reward and a trajectory of nothing yet.
pub fn answer(tokens: &[u32], reward: f64) -> Completion {
    Completion {
        reward: Some(reward),
        finish_reason: Some(FinishReason::Stop),
        trajectory: Some(Box::default()),
        ..Completion::new(tokens.to_vec())
    }
}

pub fn cut_off(mut completion: Completion) -> Completion {
    completion.finish_reason = Some(FinishReason::Length);
    completion
}

pub fn abstained(mut completion: Completion) -> Completion {
    completion.reward = None;
    completion
}

pub fn group(prompt: &[u32], completions: Vec<Completion>) -> PromptGroup {
    PromptGroup::new(prompt.to_vec(), completions)
}

/// A group of one-token answers with these rewards.
pub fn rewards(values: &[f64]) -> PromptGroup {
    group(&[0], values.iter().map(|reward| answer(&[1], *reward)).collect())
}

pub fn trajectory(completion: &Completion) -> &Trajectory {
    completion.trajectory.as_deref().unwrap()
}

pub fn trajectory_mut(completion: &mut Completion) -> &mut Trajectory {
    completion.trajectory.as_deref_mut().unwrap()
}

/// The first advantage of every answer that has any.
pub fn advantages(groups: &[PromptGroup]) -> Vec<f64> {
    let completions = groups.iter().flat_map(|group| &group.completions);
    completions.filter_map(|c| trajectory(c).advantages.first().copied()).collect()
}

pub fn doubles(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).reshape([-1])).unwrap()
}

/// Measures answers as an iteration does, and writes down what comes of it.
pub fn fill<M: ?Sized + 'static>(
    objective: &dyn Objective<M>,
    model: &M,
    groups: &mut [PromptGroup],
    layout: MeasureLayout,
) {
    let numbers = objective.measure(model, &PackedBatch::new(groups).unwrap(), groups).unwrap();
    read_measures(groups, &numbers, layout).unwrap();
}

/// Loss, gradient and metrics of a batch that is computed in pieces of these sizes, each divided by the denominators of
/// the whole batch.
pub struct Computed {
    pub loss: f64,
    pub gradient: Vec<f64>,
    pub metrics: Vec<(String, f64)>,
}

impl Computed {
    pub fn metric(&self, name: &str) -> f64 {
        self.metrics.iter().find(|(known, _)| known == name).map_or(f64::NAN, |(_, value)| *value)
    }
}

pub fn compute<M: Trainable + ?Sized>(
    objective: &dyn Objective<M>,
    model: &M,
    groups: &[PromptGroup],
    pieces: &[usize],
) -> Computed {
    // Tests run beside each other: one thread each, or they wait for one another.
    align_core::threads::prepare_compute_thread();
    for parameter in model.parameters() {
        let mut gradient = parameter.tensor.grad();
        if gradient.defined() {
            let _ = gradient.zero_();
        }
    }
    let denominators = objective.denominators(groups).unwrap();
    let (mut loss, mut sums, mut found) =
        (0.0, Vec::<(String, f64, f64)>::new(), vec![0.0; denominators.len()]);
    let mut rest = groups;
    for size in pieces.iter().chain([&usize::MAX]) {
        let (piece, tail) = rest.split_at((*size).min(rest.len()));
        rest = tail;
        if piece.is_empty() {
            continue;
        }
        let output = objective.loss(model, &PackedBatch::new(piece).unwrap(), piece).unwrap();
        let part = output.scaled_sum(&denominators).unwrap();
        loss += part.double_value(&[]);
        part.backward();
        output.components.iter().zip(&mut found).for_each(|(component, sum)| *sum += component.denominator);
        for term in output.metrics {
            match sums.iter_mut().find(|(name, ..)| name == term.name) {
                Some(total) => (total.1, total.2) = (total.1 + term.sum, total.2 + term.count),
                None => sums.push((term.name.to_owned(), term.sum, term.count)),
            }
        }
    }
    assert_close(&found, &denominators, 1e-9);
    let gradient = |parameter: &align_core::Parameter| {
        let gradient = parameter.tensor.grad();
        if gradient.defined() { doubles(&gradient) } else { vec![0.0; parameter.tensor.numel()] }
    };
    let gradient = model.parameters().iter().flat_map(gradient).collect();
    let metrics = sums.into_iter().map(|(name, sum, count)| (name, sum / count)).collect();
    Computed { loss, gradient, metrics }
}
