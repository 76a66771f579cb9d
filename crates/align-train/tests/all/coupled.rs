//! Objectives whose rows depend on each other: the engine's two passes give one answer however the batch is cut, and
//! what such an objective carries from step to step survives an interruption.

use crate::common;

use std::path::Path;

use align_core::align_types::{self, PromptGroup, PromptSource};
use align_core::{CausalLm, Objective};
use align_losses::{Dpo, DpoConfig, DpoLossType, Kto, KtoConfig, KtoLossType, Reference};
use align_train::{BatchReport, Compute, Engine, Hooks, Outcome, RunFolder, Start, TrainJob, Unit, train};
use common::{Pairs, Setup, TinyLm, final_weights};

/// The pairs of the other tests; the first answer of each is desirable, every third second one as well.
struct Labelled;

impl Labelled {
    fn rows(step: u64) -> Vec<PromptGroup> {
        Pairs { batch_size: 7, poisoned_step: None }.labelled(step)
    }
}

impl PromptSource for Labelled {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        Ok(Self::rows(step))
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

fn reference() -> Reference {
    Reference::Model(Box::new(TinyLm::new(4)))
}

fn bco() -> Kto {
    Kto::new(KtoConfig { loss_type: KtoLossType::Bco, ..Default::default() }, reference()).unwrap()
}

fn objectives() -> [(&'static str, Box<dyn Objective>); 3] {
    let aot = DpoConfig { loss_type: vec![DpoLossType::Aot, DpoLossType::Sft], ..Default::default() };
    [
        ("aot", Box::new(Dpo::new(aot, reference()).unwrap())),
        ("kto", Box::new(Kto::new(KtoConfig::default(), reference()).unwrap())),
        ("bco", Box::new(bco())),
    ]
}

fn reports(objective: &dyn Objective, compute: Compute) -> (Vec<BatchReport>, Vec<f64>) {
    let model = Box::new(TinyLm::new(3));
    let optimizer = Setup::default().optimizer;
    let mut engine = Engine::new(model, objective.replicate().unwrap(), &optimizer, compute).unwrap();
    let held_out = engine.prepare_evaluation(Labelled::rows(99)).unwrap();
    let mut reports = Vec::new();
    for step in 0..3 {
        reports.push(engine.compute(Labelled::rows(step)).unwrap());
        engine.apply(0.01).unwrap();
        reports.push(engine.evaluate(&held_out).unwrap());
    }
    let state = engine.objective().unwrap().state();
    (reports, state)
}

fn relative(a: f64, b: f64) -> f64 {
    (a - b).abs() / b.abs().max(1e-3)
}

#[test]
fn the_result_does_not_depend_on_micro_batches_or_threads() {
    for (name, objective) in objectives() {
        let (whole, state) =
            reports(objective.as_ref(), Compute { threads: 1, micro_batch_tokens: usize::MAX });
        assert_eq!(state.is_empty(), name != "bco");
        for compute in [(1, 1), (1, 60), (2, 1), (2, 60)] {
            let compute = Compute { threads: compute.0, micro_batch_tokens: compute.1 };
            let (cut, cut_state) = reports(objective.as_ref(), compute);
            for (step, (cut, whole)) in cut.iter().zip(&whole).enumerate() {
                assert!(relative(cut.loss, whole.loss) < 1e-5, "{name}, {compute:?}, step {step}");
                assert!(relative(cut.grad_norm, whole.grad_norm) < 1e-4, "{name}, {compute:?}, step {step}");
                for ((key, cut), (other, whole)) in cut.metrics.iter().zip(&whole.metrics) {
                    assert_eq!(key, other);
                    assert!(
                        relative(*cut, *whole) < 1e-3,
                        "{name}, {compute:?}, {key}: {cut} against {whole}"
                    );
                }
            }
            for (cut, whole) in cut_state.iter().zip(&state) {
                assert!(relative(*cut, *whole) < 1e-3, "{name}, {compute:?}: state {cut} against {whole}");
            }
        }
    }
}

/// Evaluations between the steps throw the state they would lead to away: 3 batches of 14 answers are counted.
#[test]
fn only_updates_move_the_state() {
    let (_, state) = reports(&bco(), Compute { threads: 2, micro_batch_tokens: 60 });
    assert_eq!(state[1], 3.0 * 14.0);
}

fn run(path: &Path, stop_after: Option<u64>) -> Outcome {
    let setup = Setup { steps: 9, ..Setup::default() };
    let opened = RunFolder::open(path, setup.mode, &setup.toml()).unwrap();
    let model = TinyLm::new(3);
    let start = match opened.start {
        Start::Checkpoint(checkpoint) => {
            model.load(&checkpoint.model_dir());
            Some(*checkpoint)
        }
        _ => None,
    };
    let job = TrainJob {
        folder: &opened.folder,
        start,
        model: model.replicate().unwrap(),
        objective: Box::new(bco()),
        source: &mut Labelled,
        eval: Labelled::rows(99),
        keep_best: None,
        total_steps: setup.steps,
        config: &setup.config,
        optimizer: &setup.optimizer,
        unit: Unit::Pairs,
        inputs: setup.inputs.clone(),
        summary: serde_json::Map::new(),
    };
    let save = |folder: &Path| model.save(folder);
    let mut hooks = Hooks::new(&save);
    if let Some(step) = stop_after {
        hooks.progress = Box::new(Stop { step, flag: hooks.stop.clone() });
    }
    train(job, hooks).unwrap()
}

struct Stop {
    step: u64,
    flag: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl align_train::Progress for Stop {
    fn step(&mut self, at: &align_train::Position) {
        if at.step == self.step {
            self.flag.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
}

#[test]
fn a_running_mean_goes_on_where_it_was() {
    let (straight, stopped) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(matches!(run(straight.path(), None), Outcome::Finished(_)));
    assert!(matches!(run(stopped.path(), Some(4)), Outcome::Interrupted { step: 4, .. }));
    let text = std::fs::read_to_string(stopped.path().join("checkpoints/step-4/learner.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["objective"][1], "56.0", "4 batches of 14 answers: {text}");
    assert!(matches!(run(stopped.path(), None), Outcome::Finished(_)));
    assert_eq!(final_weights(stopped.path()), final_weights(straight.path()));
}
