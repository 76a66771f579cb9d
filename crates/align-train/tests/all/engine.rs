//! One optimiser step: its result does not depend on how the batch is cut, and what goes wrong is named.

use crate::common;

use std::sync::{Arc, Mutex};

use align_core::tch::{Device, Tensor};
use align_core::{CausalLm, Objective, PackedBatch, Parameter};
use align_train::{BatchReport, Compute, Engine, Error};
use common::{PairLoss, Pairs, Setup, TinyLm};
use proptest::prelude::*;

fn engine(compute: Compute, objective: PairLoss) -> (TinyLm, Engine) {
    let model = TinyLm::new(3);
    let setup = Setup::default();
    let engine = Engine::new(Box::new(model.handle()), Box::new(objective), &setup.optimizer, compute);
    (model, engine.unwrap())
}

fn steps(compute: Compute, count: u64, batch_size: usize) -> (Vec<BatchReport>, Vec<u8>) {
    let (model, mut engine) = engine(compute, PairLoss::default());
    let pairs = Pairs { batch_size, poisoned_step: None };
    let reports = (0..count).map(|step| {
        let report = engine.compute(pairs.rows(step)).unwrap();
        engine.apply(0.01).unwrap();
        report
    });
    (reports.collect(), model.bytes())
}

fn relative(a: f64, b: f64) -> f64 {
    (a - b).abs() / b.abs()
}

#[test]
fn the_result_does_not_depend_on_micro_batches_or_threads() {
    let whole = steps(Compute { threads: 1, micro_batch_tokens: usize::MAX }, 5, 16).0;
    for threads in [1, 2, 3] {
        for micro_batch_tokens in [1, 50, 100, 1000] {
            let (cut, _) = steps(Compute { threads, micro_batch_tokens }, 5, 16);
            for (step, (cut, whole)) in cut.iter().zip(&whole).enumerate() {
                let tolerance = if step == 0 { 1e-6 } else { 1e-5 };
                let context = format!("{threads} threads, {micro_batch_tokens} tokens, step {step}");
                assert!(relative(cut.loss, whole.loss) < tolerance, "loss, {context}");
                assert!(relative(cut.grad_norm, whole.grad_norm) < tolerance, "gradient, {context}");
                assert_eq!(cut.tokens, whole.tokens);
                for ((name, a), (_, b)) in cut.metrics.iter().zip(&whole.metrics) {
                    assert!((a - b).abs() < 1e-5 * b.abs().max(1.0), "{name}, {context}: {a} against {b}");
                }
            }
        }
    }
}

/// A model that notes what it is told of steps, and in each pass whether it trains.
struct Told {
    inner: TinyLm,
    step: Mutex<Option<u64>>,
    passes: Arc<Mutex<Vec<Option<u64>>>>,
}

impl Told {
    fn new(inner: TinyLm, passes: &Arc<Mutex<Vec<Option<u64>>>>) -> Self {
        Self { inner, step: Mutex::default(), passes: passes.clone() }
    }
}

impl CausalLm for Told {
    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    fn context_length(&self) -> Option<usize> {
        None
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn logits(&self, batch: &PackedBatch) -> align_core::Result<Tensor> {
        self.passes.lock().unwrap().push(*self.step.lock().unwrap());
        self.inner.logits(batch)
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.inner.parameters()
    }

    fn replicate(&self) -> align_core::Result<Box<dyn CausalLm>> {
        Ok(Box::new(Self::new(self.inner.handle(), &self.passes)))
    }

    fn begin_step(&self, step: Option<u64>) {
        *self.step.lock().unwrap() = step;
    }
}

#[test]
fn models_are_told_the_step_while_they_train() {
    let passes = Arc::default();
    let compute = Compute { threads: 2, micro_batch_tokens: 64 };
    let model = Box::new(Told::new(TinyLm::new(3), &passes));
    let objective = Box::new(PairLoss { poison: Some(0), ..PairLoss::default() });
    let mut engine = Engine::new(model, objective, &Setup::default().optimizer, compute).unwrap();
    let seen = || std::mem::take(&mut *passes.lock().unwrap());
    let pairs = Pairs { batch_size: 8, poisoned_step: Some(7) };
    let held_out = engine.prepare_evaluation(pairs.rows(9)).unwrap();
    let in_all = |step: Option<u64>| {
        let seen = seen();
        assert!(seen.len() >= 2 && seen.iter().all(|pass| *pass == step), "{seen:?}, expected {step:?}");
    };
    for step in 0..3 {
        engine.compute(pairs.rows(step)).unwrap();
        in_all(Some(step));
        engine.apply(0.01).unwrap();
        engine.evaluate(&held_out).unwrap();
        in_all(None);
    }
    // A step that fails ends too.
    engine.compute(pairs.rows(7)).unwrap_err();
    seen();
    engine.evaluate(&held_out).unwrap();
    in_all(None);
}

#[test]
fn the_same_cut_gives_the_same_bits() {
    for threads in [1, 2, 4] {
        let compute = Compute { threads, micro_batch_tokens: 64 };
        assert_eq!(steps(compute, 6, 11), steps(compute, 6, 11));
    }
}

#[test]
fn the_loss_is_the_objectives_own() {
    let rows = Pairs { batch_size: 7, poisoned_step: None }.rows(0);
    let batch = align_core::PackedBatch::new(&rows).unwrap();
    let model = TinyLm::new(3);
    let output = PairLoss::default().loss(&model, &batch, &rows).unwrap();
    let expected = output.mean().unwrap().double_value(&[]);
    let (_, mut engine) = engine(Compute { threads: 2, micro_batch_tokens: 30 }, PairLoss::default());
    let report = engine.compute(rows.clone()).unwrap();
    assert!(relative(report.loss, expected) < 1e-6);
    let names: Vec<&str> = report.metrics.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["loss/pairs", "loss/nll", "margins"]);
    // The summands, with their weights, make up the loss.
    assert!(relative(report.metrics[0].1 + 0.5 * report.metrics[1].1, report.loss) < 1e-9);
    let held_out = engine.prepare_evaluation(rows).unwrap();
    let evaluation = engine.evaluate(&held_out).unwrap();
    assert!(relative(evaluation.loss, report.loss) < 1e-9);
    assert_eq!(evaluation.grad_norm, 0.0);
}

#[test]
fn gradients_do_not_leak_from_one_batch_into_the_next() {
    let compute = Compute { threads: 2, micro_batch_tokens: 40 };
    let (_, mut used) = engine(compute, PairLoss::default());
    let pairs = Pairs { batch_size: 6, poisoned_step: None };
    used.compute(pairs.rows(4)).unwrap();
    let (_, mut fresh) = engine(compute, PairLoss::default());
    assert_eq!(used.compute(pairs.rows(5)).unwrap(), fresh.compute(pairs.rows(5)).unwrap());
    // A second batch of one group uses one thread; the other's old gradient must not be added.
    assert_eq!(
        used.compute(pairs.rows(5)[..1].to_vec()).unwrap(),
        fresh.compute(pairs.rows(5)[..1].to_vec()).unwrap()
    );
}

#[test]
fn a_denominator_that_depends_on_the_cut_is_refused() {
    let (model, mut engine) =
        engine(Compute { threads: 1, micro_batch_tokens: 30 }, PairLoss { lies: true, ..Default::default() });
    let before = model.bytes();
    let rows = Pairs { batch_size: 4, poisoned_step: None }.rows(0);
    match engine.compute(rows).unwrap_err() {
        Error::Denominators { component, announced, found } => {
            assert_eq!((component, announced, found), (0, 8.0, 4.0));
        }
        other => panic!("{other}"),
    }
    engine.apply(0.1).unwrap();
    assert_eq!(model.bytes(), before, "a batch that was refused must not be applied");
}

#[test]
fn rows_with_a_loss_that_is_no_number_are_named() {
    let objective = PairLoss { poison: Some(0), ..Default::default() };
    let (_, mut engine) = engine(Compute { threads: 2, micro_batch_tokens: 1 }, objective);
    let rows = Pairs { batch_size: 5, poisoned_step: Some(2) }.rows(2);
    let error = engine.compute(rows).unwrap_err();
    assert_eq!(error.to_string(), "the loss is not finite (NaN) in the rows step2.jsonl:1");
}

#[test]
fn a_gradient_that_is_no_number_is_named() {
    let model = TinyLm::new(3);
    let compute = Compute { threads: 1, micro_batch_tokens: 100 };
    let setup = Setup::default();
    let mut engine =
        Engine::new(Box::new(model.handle()), Box::new(SquareRoot), &setup.optimizer, compute).unwrap();
    let error = engine.compute(Pairs { batch_size: 2, poisoned_step: None }.rows(0)).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("the gradient norm is not finite"), "{text}");
    assert!(text.contains("step0.jsonl:1, step0.jsonl:2"), "{text}");
}

/// √(lp − lp): the value is 0, the slope 0 · ∞.
struct SquareRoot;

impl Objective for SquareRoot {
    fn denominators(&self, _: &[align_core::align_types::PromptGroup]) -> align_core::Result<Vec<f64>> {
        Ok(vec![1.0])
    }

    fn loss(
        &self,
        model: &dyn align_core::CausalLm,
        batch: &align_core::PackedBatch,
        _: &[align_core::align_types::PromptGroup],
    ) -> align_core::Result<align_core::LossOutput> {
        let lp = model.token_log_probs(batch, 1.0)?.sums()?;
        let terms = lp.f_mul_scalar(0.0)?.f_sqrt()?;
        let component = align_core::LossComponent { name: "root", weight: 1.0, terms, denominator: 1.0 };
        Ok(align_core::LossOutput { components: vec![component], metrics: vec![] })
    }

    fn replicate(&self) -> align_core::Result<Box<dyn Objective>> {
        Ok(Box::new(Self))
    }
}

#[test]
fn rows_that_the_model_cannot_take_are_named() {
    let (_, mut engine) = engine(Compute { threads: 1, micro_batch_tokens: 1 }, PairLoss::default());
    let mut rows = Pairs { batch_size: 3, poisoned_step: None }.rows(0);
    rows[1].completions[0].token_ids.push(common::VOCAB as u32);
    let error = engine.compute(rows.clone()).unwrap_err().to_string();
    assert!(error.contains("step0.jsonl:2") && error.contains("vocabulary"), "{error}");
    rows[1].prompt.clear();
    assert!(engine.compute(rows).unwrap_err().to_string().contains("no token"));
    assert!(engine.compute(vec![]).unwrap_err().to_string().contains("no rows"));
}

/// A model that says it is on a GPU and cannot be replicated.
struct Elsewhere(TinyLm);

impl CausalLm for Elsewhere {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn context_length(&self) -> Option<usize> {
        None
    }

    fn device(&self) -> Device {
        Device::Cuda(0)
    }

    fn logits(&self, batch: &PackedBatch) -> align_core::Result<Tensor> {
        self.0.logits(batch)
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.0.parameters()
    }

    fn replicate(&self) -> align_core::Result<Box<dyn CausalLm>> {
        Err(align_core::Error::input("replica", "one GPU holds one"))
    }
}

#[test]
fn off_the_processor_there_is_one_worker() {
    let compute = Compute { threads: 4, micro_batch_tokens: 7 };
    let optimizer = Setup::default().optimizer;
    let new = |model: Box<dyn CausalLm>| Engine::new(model, Box::new(SquareRoot), &optimizer, compute);
    let engine = new(Box::new(Elsewhere(TinyLm::new(3)))).unwrap();
    assert_eq!(engine.compute_settings(), Compute { threads: 1, ..compute });
    assert_eq!(new(Box::new(TinyLm::new(3))).unwrap().compute_settings(), compute);
}

#[test]
fn held_out_rows_with_a_loss_that_is_no_number_are_named() {
    let objective = PairLoss { poison: Some(0), ..Default::default() };
    let (_, mut engine) = engine(Compute { threads: 2, micro_batch_tokens: 1 }, objective);
    let rows = Pairs { batch_size: 5, poisoned_step: Some(2) }.rows(2);
    let held_out = engine.prepare_evaluation(rows).unwrap();
    let error = engine.evaluate(&held_out).unwrap_err();
    assert_eq!(error.to_string(), "the loss is not finite (NaN) in the rows step2.jsonl:1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_cut_gives_the_same_first_step(
        batch_size in 1usize..20,
        threads in 1usize..4,
        micro_batch_tokens in 1usize..400,
    ) {
        let (whole, _) = steps(Compute { threads: 1, micro_batch_tokens: usize::MAX }, 1, batch_size);
        let (cut, _) = steps(Compute { threads, micro_batch_tokens }, 1, batch_size);
        prop_assert!(relative(cut[0].loss, whole[0].loss) < 1e-6);
        prop_assert!(relative(cut[0].grad_norm, whole[0].grad_norm) < 1e-6);
    }
}

/// The workspace's own losses keep the promise too.
#[test]
fn sft_and_dpo_do_not_depend_on_the_cut() {
    use align_losses::{Dpo, DpoConfig, Reference, Sft, SftConfig};

    let reports = |objective: &dyn Objective, compute: Compute| -> Vec<BatchReport> {
        let model = Box::new(TinyLm::new(3));
        let optimizer = Setup::default().optimizer;
        let mut engine = Engine::new(model, objective.replicate().unwrap(), &optimizer, compute).unwrap();
        let steps = (0..4).map(|step| {
            let report = engine.compute(Pairs { batch_size: 8, poisoned_step: None }.rows(step)).unwrap();
            engine.apply(0.01).unwrap();
            report
        });
        steps.collect()
    };
    let sft = Sft::new(SftConfig::default());
    let dpo = Dpo::new(DpoConfig::default(), Reference::Model(Box::new(TinyLm::new(3)))).unwrap();
    for (name, objective) in [("sft", &sft as &dyn Objective), ("dpo", &dpo)] {
        let whole = reports(objective, Compute { threads: 1, micro_batch_tokens: usize::MAX });
        if name == "dpo" {
            assert!((whole[0].loss - std::f64::consts::LN_2).abs() < 1e-6, "{}", whole[0].loss);
        }
        for compute in [(1, 20), (1, 60), (2, 1), (2, 60)] {
            let compute = Compute { threads: compute.0, micro_batch_tokens: compute.1 };
            for (step, (cut, whole)) in reports(objective, compute).iter().zip(&whole).enumerate() {
                let tolerance = if step == 0 { 1e-6 } else { 1e-5 };
                assert!(relative(cut.loss, whole.loss) < tolerance, "{name}, {compute:?}, step {step}");
                assert!(
                    relative(cut.grad_norm, whole.grad_norm) < tolerance,
                    "{name}, {compute:?}, step {step}"
                );
            }
        }
    }
}
