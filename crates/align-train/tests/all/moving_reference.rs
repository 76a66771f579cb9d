//! A reference that follows the policy: it is where the formula says, every thread sees it, and a run that was
//! interrupted between two moves or right after one ends with the bits of one that was not.

use crate::common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use align_core::align_types::{self, PromptGroup, PromptSource};
use align_core::{CausalLm, Objective, Parameter};
use align_losses::{
    Dpo, DpoConfig, DpoLossType, Kto, KtoConfig, KtoLossType, MovingReference, Reference, ReferenceSync, Una,
    UnaConfig,
};
use align_train::{
    Compute, Engine, Error, Hooks, Outcome, Position, Progress, RunFolder, Start, TrainJob, Unit, train,
};
use common::{Pairs, Setup, TinyLm, final_weights, timeless_metrics};

const STEPS: u64 = 10;

/// The pairs of the other tests, with labels for methods that want them.
#[derive(Clone, Copy)]
struct Rows {
    labelled: bool,
}

impl Rows {
    fn of(self, step: u64) -> Vec<PromptGroup> {
        let pairs = Pairs { batch_size: 6, poisoned_step: None };
        if self.labelled { pairs.labelled(step) } else { pairs.rows(step) }
    }
}

impl PromptSource for Rows {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        Ok(self.of(step))
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

fn sync(alpha: f64, steps: u64) -> ReferenceSync {
    ReferenceSync { ref_model_mixup_alpha: alpha, ref_model_sync_steps: steps }
}

fn moving(policy: &TinyLm, sync: ReferenceSync) -> Reference {
    // The same seed: the reference begins as the policy, in storage of its own.
    let start = Box::new(TinyLm::new(3));
    Reference::Moving(MovingReference::new(start, sync, &policy.parameters()).unwrap())
}

fn dpo(reference: Reference) -> Box<dyn Objective> {
    Box::new(Dpo::new(DpoConfig::default(), reference).unwrap().starting_at_reference())
}

fn engine(sync: ReferenceSync, threads: usize, micro_batch_tokens: usize) -> Engine {
    let model = TinyLm::new(3);
    let objective = dpo(moving(&model, sync));
    let compute = Compute { threads, micro_batch_tokens };
    Engine::new(Box::new(model), objective, &Setup::default().optimizer, compute).unwrap()
}

fn values(parameters: &[Parameter]) -> Vec<f32> {
    let flat = |p: &Parameter| Vec::<f32>::try_from(p.tensor.detach().reshape([-1])).unwrap();
    parameters.iter().flat_map(flat).collect()
}

/// What TR-DPO says, number by number: after updates 2, 4 and 6 the reference is 0.6 of the policy and 0.4 of itself,
/// after the others what it was.
#[test]
fn the_reference_is_where_the_formula_puts_it() {
    let mut engine = engine(sync(0.6, 2), 2, 40);
    let mut expected: Vec<f64> = values(&TinyLm::new(3).parameters()).into_iter().map(f64::from).collect();
    let start = expected.clone();
    for update in 1..=7u64 {
        engine.compute(Rows { labelled: false }.of(update)).unwrap();
        engine.apply(0.02).unwrap();
        let policy = values(engine.parameters());
        if update % 2 == 0 {
            let mix = |(mine, policy): (&mut f64, &f32)| *mine = 0.6 * f64::from(*policy) + 0.4 * *mine;
            expected.iter_mut().zip(&policy).for_each(mix);
        }
        let reference = values(&engine.objective().unwrap().weights());
        assert_eq!(reference.len(), expected.len());
        for (found, expected) in reference.iter().zip(&expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "update {update}: {found} for {expected}");
        }
    }
    let moved = |(a, b): (&f64, &f64)| (a - b).abs() > 1e-3;
    assert!(expected.iter().zip(&start).any(moved), "the policy has hardly moved, so nothing was tested");
}

/// With α = 1 after every update the policy is its own reference: every loss is ln 2. Threads that went on with the old
/// reference would show.
#[test]
fn a_hard_update_after_every_step_keeps_the_loss_at_ln_2() {
    for threads in [1, 3] {
        let mut engine = engine(sync(1.0, 1), threads, 20);
        for step in 0..6 {
            let report = engine.compute(Rows { labelled: false }.of(step)).unwrap();
            assert!(
                (report.loss - std::f64::consts::LN_2).abs() < 1e-6,
                "{threads}, {step}: {}",
                report.loss
            );
            assert!(report.grad_norm > 1e-3, "the gradient of DPO at its reference is not 0");
            engine.apply(0.05).unwrap();
            assert_eq!(values(engine.parameters()), values(&engine.objective().unwrap().weights()));
        }
    }
    // The control: against a reference that stays, the loss leaves ln 2.
    let mut engine = engine(sync(1.0, 1000), 1, 20);
    let rows = Rows { labelled: false };
    engine.compute(rows.of(0)).unwrap();
    engine.apply(0.05).unwrap();
    assert!((engine.compute(rows.of(0)).unwrap().loss - std::f64::consts::LN_2).abs() > 1e-3);
}

#[test]
fn the_result_does_not_depend_on_the_cut() {
    let losses = |threads, tokens| -> Vec<f64> {
        let mut engine = engine(sync(0.6, 2), threads, tokens);
        let mut step = |step| {
            let loss = engine.compute(Rows { labelled: false }.of(step)).unwrap().loss;
            engine.apply(0.02).unwrap();
            loss
        };
        (0..6).map(&mut step).collect()
    };
    let whole = losses(1, usize::MAX);
    for (threads, tokens) in [(1, 20), (2, 1), (3, 60)] {
        for (cut, whole) in losses(threads, tokens).iter().zip(&whole) {
            assert!((cut - whole).abs() < 1e-5, "{threads} threads, {tokens} tokens: {cut} for {whole}");
        }
    }
}

#[test]
fn a_reference_that_cannot_follow_is_refused_at_once() {
    let policy = TinyLm::new(3);
    let refused = |model: TinyLm, sync: ReferenceSync, why: &str| {
        let error =
            MovingReference::new(Box::new(model), sync, &policy.parameters()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    };
    refused(policy.handle(), sync(0.6, 2), "shares embedding with the policy");
    refused(TinyLm::new(3), sync(0.0, 2), "ref-model-mixup-alpha");
    refused(TinyLm::new(3), sync(0.5, 0), "ref-model-sync-steps");
    let other = &policy.parameters()[1..];
    let error = MovingReference::new(Box::new(TinyLm::new(3)), sync(0.5, 1), other).unwrap_err().to_string();
    assert!(error.contains("4 in the average, 3 to mix in"), "{error}");
}

struct Method {
    name: &'static str,
    labelled: bool,
    make: fn(Reference) -> Box<dyn Objective>,
}

const METHODS: [Method; 5] = [
    Method { name: "dpo", labelled: false, make: dpo },
    Method {
        name: "aot",
        labelled: false,
        make: |reference| {
            let config = DpoConfig { loss_type: vec![DpoLossType::Aot], ..Default::default() };
            Box::new(Dpo::new(config, reference).unwrap())
        },
    },
    Method {
        name: "kto",
        labelled: true,
        make: |reference| {
            Box::new(Kto::new(KtoConfig::default(), reference).unwrap().starting_at_reference())
        },
    },
    Method {
        name: "bco",
        labelled: true,
        make: |reference| {
            let config = KtoConfig { loss_type: KtoLossType::Bco, ..Default::default() };
            Box::new(Kto::new(config, reference).unwrap())
        },
    },
    Method {
        name: "una",
        labelled: true,
        make: |reference| {
            Box::new(Una::new(UnaConfig::default(), reference).unwrap().starting_at_reference())
        },
    },
];

struct StopAfter(u64, Arc<AtomicBool>);

impl Progress for StopAfter {
    fn step(&mut self, at: &Position) {
        if at.step == self.0 {
            self.1.store(true, Ordering::SeqCst);
        }
    }
}

/// Trains in a folder, with a reference that moves every third update unless `sync` says otherwise.
fn run(
    path: &Path,
    method: &Method,
    sync: Option<ReferenceSync>,
    stop: Option<u64>,
) -> align_train::Result<Outcome> {
    let mut setup = Setup { steps: STEPS, ..Setup::default() };
    setup.config.threads = 2;
    let opened = RunFolder::open(path, setup.mode, &setup.toml()).unwrap();
    let model = TinyLm::new(3);
    let start = match opened.start {
        Start::Checkpoint(checkpoint) => {
            model.load(&checkpoint.model_dir());
            Some(*checkpoint)
        }
        _ => None,
    };
    let reference = match sync {
        Some(sync) => moving(&model, sync),
        None => Reference::Model(Box::new(TinyLm::new(3))),
    };
    let mut rows = Rows { labelled: method.labelled };
    let eval = rows.of(99);
    let job = TrainJob {
        folder: &opened.folder,
        start,
        model: model.replicate().unwrap(),
        objective: (method.make)(reference),
        source: &mut rows,
        eval,
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
    if let Some(step) = stop {
        hooks.progress = Box::new(StopAfter(step, hooks.stop.clone()));
    }
    train(job, hooks)
}

#[test]
fn interrupted_runs_end_with_the_same_bits() {
    for method in &METHODS {
        let name = method.name;
        let every_third = Some(sync(0.6, 3));
        let straight = tempfile::tempdir().unwrap();
        run(straight.path(), method, every_third, None).unwrap();
        // Before the first move, right after it, between two, right after the last.
        let mut interruptions = vec![vec![2], vec![3, 4, 9]];
        if name == "dpo" {
            interruptions.push((1..STEPS).collect());
        }
        for stops in interruptions {
            let folder = tempfile::tempdir().unwrap();
            for stop in &stops {
                let outcome = run(folder.path(), method, every_third, Some(*stop)).unwrap();
                assert!(matches!(outcome, Outcome::Interrupted { step, .. } if step == *stop), "{name}");
            }
            run(folder.path(), method, every_third, None).unwrap();
            assert_eq!(final_weights(folder.path()), final_weights(straight.path()), "{name} {stops:?}");
            assert_eq!(
                timeless_metrics(folder.path()),
                timeless_metrics(straight.path()),
                "{name} {stops:?}"
            );
        }
        // The control: a reference that does not move leads elsewhere.
        let frozen = tempfile::tempdir().unwrap();
        run(frozen.path(), method, None, None).unwrap();
        assert_ne!(final_weights(frozen.path()), final_weights(straight.path()), "{name}");
    }
}

#[test]
fn a_reference_that_is_not_the_one_that_was_saved_is_refused_by_its_file() {
    let dpo = &METHODS[0];
    let every_third = Some(sync(0.6, 3));
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), dpo, every_third, Some(4)).unwrap();
    let checkpoint = folder.path().join("checkpoints/step-4");
    let file = checkpoint.join("objective.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let refused = |sync, why: &str| match run(folder.path(), dpo, sync, None) {
        Err(error @ Error::Checkpoint { .. }) => assert!(error.to_string().contains(why), "{error}"),
        other => panic!("{other:?}"),
    };
    // A bit of the last number.
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&file, other).unwrap();
    refused(every_third, "objective.safetensors: its weights are not those that the run saved");
    std::fs::write(&file, &whole).unwrap();
    refused(None, "the checkpoint has some, this run has none");
    // A torn file makes the checkpoint one that is passed over, and the run begins anew to the same end.
    std::fs::write(&file, &whole[..whole.len() - 4]).unwrap();
    let straight = tempfile::tempdir().unwrap();
    run(straight.path(), dpo, every_third, None).unwrap();
    run(folder.path(), dpo, every_third, None).unwrap();
    assert_eq!(final_weights(folder.path()), final_weights(straight.path()));
    // A checkpoint of a run whose reference stays has no such file.
    let frozen = tempfile::tempdir().unwrap();
    run(frozen.path(), dpo, None, Some(4)).unwrap();
    assert!(!frozen.path().join("checkpoints/step-4/objective.safetensors").exists());
    match run(frozen.path(), dpo, every_third, None) {
        Err(error) => {
            assert!(error.to_string().contains("the checkpoint has none, this run has some"), "{error}")
        }
        other => panic!("{other:?}"),
    }
}
