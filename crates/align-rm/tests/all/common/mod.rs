//! A model with known scores, groups of every kind, and the loop's arithmetic.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use align_core::{
    Objective, PackedBatch, Parameter, Result, ScoreModel,
    align_types::{Completion, PromptGroup, Purpose, RngStream},
    tch::{Device, Kind, Tensor},
};

pub const VOCAB: u32 = 6;

/// Gives a completion the sum of its tokens' numbers.
pub struct SumScores {
    pub table: Tensor,
}

impl SumScores {
    pub fn new(seed: u64) -> Self {
        align_core::threads::prepare_compute_thread();
        let mut random = RngStream::new(seed, Purpose::Init, 0, 0);
        let table: Vec<f64> = (0..VOCAB).map(|_| random.normal()).collect();
        Self { table: Tensor::from_slice(&table).set_requires_grad(true) }
    }
}

impl ScoreModel for SumScores {
    fn vocab_size(&self) -> usize {
        VOCAB as usize
    }

    fn context_length(&self) -> Option<usize> {
        None
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn scores(&self, batch: &PackedBatch) -> Result<Tensor> {
        let lens = batch.completion_lens();
        let owner: Vec<i64> =
            lens.iter().enumerate().flat_map(|(index, len)| vec![index as i64; *len]).collect();
        let tokens = PackedBatch::index_tensor(batch.targets(), Device::Cpu)?;
        let zeros = Tensor::zeros([lens.len() as i64], (Kind::Double, Device::Cpu));
        Ok(zeros.index_add(0, &Tensor::from_slice(&owner), &self.table.index_select(0, &tokens)))
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter { name: "table".into(), tensor: self.table.shallow_clone(), decay: false }]
    }

    fn replicate(&self) -> Result<Box<dyn ScoreModel>> {
        Ok(Box::new(Self { table: self.table.detach().set_requires_grad(true) }))
    }
}

pub fn pair(chosen: Vec<u32>, rejected: Vec<u32>) -> PromptGroup {
    let named = |name: &str, tokens| Completion::named(name, tokens);
    PromptGroup::new(vec![1], vec![named("chosen", chosen), named("rejected", rejected)])
}

pub fn ranking(answers: Vec<(Vec<u32>, u32)>) -> PromptGroup {
    let ranked = |(tokens, rank)| Completion { rank: Some(rank), ..Completion::new(tokens) };
    PromptGroup::new(vec![1], answers.into_iter().map(ranked).collect())
}

pub fn labelled(answer: Vec<u32>, label: bool) -> PromptGroup {
    PromptGroup::new(vec![1], vec![Completion { label: Some(label), ..Completion::new(answer) }])
}

pub fn scored(answer: Vec<u32>, reward: f64) -> PromptGroup {
    PromptGroup::new(vec![1], vec![Completion { reward: Some(reward), ..Completion::new(answer) }])
}

/// What the training loop computes: denominators of the whole batch, gradients added over the parts.
pub fn loss_and_gradient(
    objective: &dyn Objective<dyn ScoreModel>,
    model: &SumScores,
    parts: &[&[PromptGroup]],
) -> (f64, Vec<f64>) {
    align_core::clear_gradients([&model.table]).unwrap();
    let denominators = objective.denominators(&parts.concat()).unwrap();
    let mut total = 0.0;
    let mut found = vec![0.0; denominators.len()];
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let output = objective.loss(model, &PackedBatch::new(part).unwrap(), part).unwrap();
        found.iter_mut().zip(&output.components).for_each(|(sum, c)| *sum += c.denominator);
        let loss = output.scaled_sum(&denominators).unwrap();
        total += loss.double_value(&[]);
        loss.backward();
    }
    assert_eq!(found, denominators);
    (total, Vec::try_from(model.table.grad()).unwrap())
}
