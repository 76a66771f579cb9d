//! The one test of this program, so that nothing else allocates beside it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

#[allow(dead_code, reason = "each program uses its part")]
#[path = "all/common/mod.rs"]
mod common;

use align_core::align_types::{PromptGroup, config::SftConfig};
use align_core::tch::{Device, Tensor};
use align_core::{CausalLm, Objective, PackedBatch, Parameter, Result, ScoreModel, Trainable};
use align_losses::{
    Dpo, DpoConfig, DpoLossType, Kto, KtoConfig, KtoLossType, MovingReference, Reference, ReferenceSync, Sft,
    Una, UnaConfig,
};
use align_rm::{RewardConfig, RewardModelObjective};
use align_train::{Compute, Engine};
use common::{Pairs, Setup, TinyLm};

/// Resident memory in pages.
fn resident() -> Option<usize> {
    std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()
}

fn pairs(step: u64) -> Vec<PromptGroup> {
    Pairs { batch_size: 12, poisoned_step: None }.rows(step)
}

fn labelled(step: u64) -> Vec<PromptGroup> {
    let mut groups = pairs(step);
    for (index, answer) in groups.iter_mut().flat_map(|group| &mut group.completions).enumerate() {
        answer.label = Some(index % 3 != 0);
    }
    groups
}

/// Pairs, labelled and scored answers by turns.
fn mixed(step: u64) -> Vec<PromptGroup> {
    let mut groups = pairs(step);
    for (index, group) in groups.iter_mut().enumerate() {
        for answer in &mut group.completions {
            match index % 3 {
                0 => {}
                1 => answer.label = Some(step.is_multiple_of(2)),
                _ => answer.reward = Some(0.25),
            }
        }
    }
    groups
}

/// A reward model of one number per token: that of the last one.
struct TinyScores(TinyLm);

impl ScoreModel for TinyScores {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn context_length(&self) -> Option<usize> {
        None
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn scores(&self, batch: &PackedBatch) -> Result<Tensor> {
        let last: Vec<i64> = batch.last_rows().iter().map(|row| batch.ids()[*row as usize]).collect();
        // Of its parameters the embedding, `[V, H]`, is the first.
        let embedding = &self.0.parameters()[0].tensor;
        let rows = embedding.f_index_select(0, &PackedBatch::index_tensor(&last, Device::Cpu)?)?;
        Ok(rows.f_select(1, 0)?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.0.parameters()
    }

    fn replicate(&self) -> Result<Box<dyn ScoreModel>> {
        Ok(Box::new(Self(self.0.handle())))
    }
}

/// A run: its engine, and what makes the rows of a step.
struct Run<M: Trainable + ?Sized>(Engine<M>, fn(u64) -> Vec<PromptGroup>);

impl<M: Trainable + ?Sized> Run<M> {
    fn new(model: Box<M>, objective: Box<dyn Objective<M>>, rows: fn(u64) -> Vec<PromptGroup>) -> Self {
        let compute = Compute { threads: 2, micro_batch_tokens: 60 };
        Self(Engine::over(model, objective, &Setup::default().optimizer, compute).unwrap(), rows)
    }

    fn step(&mut self, step: u64) {
        let Self(engine, rows) = self;
        engine.compute(rows(step)).unwrap();
        engine.apply(1e-3).unwrap();
        if step.is_multiple_of(20) {
            let held_out = engine.prepare_evaluation(rows(1000)).unwrap();
            engine.evaluate(&held_out).unwrap();
        }
    }
}

fn policy<O: Objective + 'static>(
    objective: impl FnOnce(Reference) -> align_losses::Result<O>,
    reference: fn(&TinyLm) -> Reference,
    rows: fn(u64) -> Vec<PromptGroup>,
) -> Run<dyn CausalLm> {
    let model = TinyLm::new(3);
    let objective = objective(reference(&model)).unwrap();
    Run::new(Box::new(model), Box::new(objective), rows)
}

fn frozen(_: &TinyLm) -> Reference {
    Reference::Model(Box::new(TinyLm::new(4)))
}

fn following(policy: &TinyLm, alpha: f64, steps: u64) -> Reference {
    let sync = ReferenceSync { ref_model_mixup_alpha: alpha, ref_model_sync_steps: steps };
    let start = Box::new(TinyLm::new(3));
    Reference::Moving(MovingReference::new(start, sync, &policy.parameters()).unwrap())
}

/// A reference that becomes the policy now and then (TR-DPO, hard).
fn replaced(policy: &TinyLm) -> Reference {
    following(policy, 1.0, 7)
}

/// A reference that is an average of the weights so far.
fn averaged(policy: &TinyLm) -> Reference {
    following(policy, 0.01, 1)
}

#[test]
fn two_hundred_steps_of_every_kind_of_objective_do_not_make_the_process_grow() {
    let aot = DpoConfig { loss_type: vec![DpoLossType::Aot, DpoLossType::Sft], ..Default::default() };
    let bco = KtoConfig { loss_type: KtoLossType::Bco, ..Default::default() };
    let dpo = |reference| Dpo::new(DpoConfig::default(), reference);
    let kto = |reference| Kto::new(KtoConfig::default(), reference);
    let una = |reference| Una::new(UnaConfig::default(), reference);
    let mut policies = [
        policy(dpo, frozen, pairs),
        policy(dpo, replaced, pairs),
        policy(|reference| Dpo::new(aot, reference), averaged, pairs),
        policy(kto, frozen, labelled),
        policy(kto, averaged, labelled),
        policy(|reference| Kto::new(bco, reference), replaced, labelled),
        policy(una, frozen, mixed),
        policy(una, averaged, mixed),
        policy(|_| Ok(Sft::new(SftConfig::default())), frozen, pairs),
    ];
    let objective = RewardModelObjective::new(RewardConfig::default()).unwrap();
    let mut scorer: Run<dyn ScoreModel> =
        Run::new(Box::new(TinyScores(TinyLm::new(3))), Box::new(objective), mixed);
    let mut steps = |steps: std::ops::Range<u64>| {
        for step in steps {
            policies.iter_mut().for_each(|run| run.step(step));
            scorer.step(step);
        }
        resident()
    };
    let Some(before) = steps(0..50) else {
        eprintln!("note: skipped, /proc/self/statm is not there");
        return;
    };
    let after = steps(50..250).unwrap();
    // One kept gradient of the model (3 kB) per step and engine would be 6 MB; what a single engine kept, 0.6 MB, is not seen.
    let limit = (2 << 20) / 4096;
    assert!(after < before + limit, "{before} pages became {after}");
}
