//! One ranking of nine answers against its 36 comparisons as pairs of their own, forward and backward through a small
//! network over every token of the packed batch, and the loss of comparisons alone.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed bench")]

use align_core::{
    Objective, PackedBatch, Parameter, Result, ScoreModel,
    align_types::{Completion, PromptGroup, Purpose, RngStream},
    tch::{Device, Kind, Tensor},
};
use align_rm::{Comparison, RewardConfig, RewardModelObjective, TieRule, comparison_loss};
use criterion::{Criterion, criterion_group, criterion_main};

const ANSWERS: u32 = 9;
const WIDTH: i64 = 128;
const VOCAB: i64 = 512;

/// Two layers for every token, and a head on the last token of each completion.
struct Network(Vec<Tensor>);

impl Network {
    fn new() -> Self {
        let shapes = [[VOCAB, WIDTH], [WIDTH, 4 * WIDTH], [4 * WIDTH, WIDTH], [WIDTH, 1]];
        let draw = |shape| (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.05).set_requires_grad(true);
        Self(shapes.map(draw).into())
    }
}

impl ScoreModel for Network {
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
        let index = |list: &[i64]| PackedBatch::index_tensor(list, Device::Cpu);
        let embedded = self.0[0].f_index_select(0, &index(batch.ids())?)?;
        let hidden = embedded.f_matmul(&self.0[1])?.f_relu()?.f_matmul(&self.0[2])?.f_add(&embedded)?;
        Ok(hidden.f_index_select(0, &index(&batch.last_rows())?)?.f_matmul(&self.0[3])?.f_reshape([-1])?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }

    fn replicate(&self) -> Result<Box<dyn ScoreModel>> {
        Ok(Box::new(Self(self.0.iter().map(Tensor::shallow_clone).collect())))
    }
}

fn ranking() -> PromptGroup {
    let mut random = RngStream::new(0, Purpose::Synthetic, 0, 0);
    let mut tokens =
        |count: usize| (0..count).map(|_| random.below(VOCAB as usize) as u32).collect::<Vec<u32>>();
    let prompt = tokens(256);
    let answer = |rank| Completion { rank: Some(rank), ..Completion::new(tokens(64)) };
    PromptGroup::new(prompt, (1..=ANSWERS).map(answer).collect())
}

/// Every comparison of the ranking as a row of its own.
fn shuffled_pairs(ranking: &PromptGroup) -> Vec<PromptGroup> {
    let plain: Vec<Completion> =
        ranking.completions.iter().map(|answer| Completion { rank: None, ..answer.clone() }).collect();
    let pair = |(i, j): (usize, usize)| {
        PromptGroup::new(ranking.prompt.clone(), vec![plain[i].clone(), plain[j].clone()])
    };
    (0..plain.len()).flat_map(|i| (i + 1..plain.len()).map(move |j| (i, j))).map(pair).collect()
}

fn steps(c: &mut Criterion) {
    align_core::threads::prepare_compute_thread();
    let (model, ranking) = (Network::new(), ranking());
    let objective = RewardModelObjective::new(RewardConfig::default()).unwrap();
    let pairs = shuffled_pairs(&ranking);
    let mut group = c.benchmark_group("step");
    // The pairs take seconds.
    group.sample_size(10);
    for (name, groups) in [("one_ranking_of_9", vec![ranking]), ("its_36_pairs", pairs)] {
        let batch = PackedBatch::new(&groups).unwrap();
        group.bench_function(format!("{name}/{}_tokens", batch.tokens()), |b| {
            b.iter(|| objective.loss(&model, &batch, &groups).unwrap().mean().unwrap().backward());
        });
    }
}

fn losses(c: &mut Criterion) {
    let ranks: Vec<u32> = (1..=ANSWERS).collect();
    let answers = ANSWERS as usize;
    let prompts: Vec<_> = (0..64).map(|p| Comparison::of_ranks(&ranks, p * answers, TieRule::Skip)).collect();
    let scores = Tensor::randn([64 * answers as i64], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    c.bench_function("comparison_loss/64_rankings_of_9", |b| {
        b.iter(|| {
            comparison_loss(&scores, &prompts, &RewardConfig::default()).unwrap().mean().unwrap().backward();
        });
    });
}

criterion_group!(benches, steps, losses);
criterion_main!(benches);
