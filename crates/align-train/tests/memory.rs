//! The one test of this program, so that nothing else allocates beside it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

#[allow(dead_code, reason = "each program uses its part")]
#[path = "all/common/mod.rs"]
mod common;

use align_core::Objective;
use align_core::align_types::PromptGroup;
use align_losses::{Dpo, DpoConfig, DpoLossType, Kto, KtoConfig, KtoLossType, Reference};
use align_train::{Compute, Engine};
use common::{Pairs, Setup, TinyLm};

/// Resident memory in pages.
fn resident() -> Option<usize> {
    std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()
}

fn rows(step: u64) -> Vec<PromptGroup> {
    let mut groups = Pairs { batch_size: 12, poisoned_step: None }.rows(step);
    for (index, answer) in groups.iter_mut().flat_map(|group| &mut group.completions).enumerate() {
        answer.label = Some(index % 3 != 0);
    }
    groups
}

#[test]
fn two_hundred_steps_of_every_kind_of_objective_do_not_make_the_process_grow() {
    let reference = || Reference::Model(Box::new(TinyLm::new(4)));
    let aot = DpoConfig { loss_type: vec![DpoLossType::Aot, DpoLossType::Sft], ..Default::default() };
    let bco = KtoConfig { loss_type: KtoLossType::Bco, ..Default::default() };
    let objectives: [Box<dyn Objective>; 4] = [
        Box::new(Dpo::new(DpoConfig::default(), reference()).unwrap()),
        Box::new(Dpo::new(aot, reference()).unwrap()),
        Box::new(Kto::new(KtoConfig::default(), reference()).unwrap()),
        Box::new(Kto::new(bco, reference()).unwrap()),
    ];
    let compute = Compute { threads: 2, micro_batch_tokens: 60 };
    let optimizer = Setup::default().optimizer;
    let mut engines =
        objectives.map(|o| Engine::new(Box::new(TinyLm::new(3)), o, &optimizer, compute).unwrap());
    let mut steps = |steps: std::ops::Range<u64>| {
        for step in steps {
            for engine in &mut engines {
                engine.compute(rows(step)).unwrap();
                engine.apply(1e-3).unwrap();
                if step % 20 == 0 {
                    let held_out = engine.prepare_evaluation(rows(1000)).unwrap();
                    engine.evaluate(&held_out).unwrap();
                }
            }
        }
        resident()
    };
    let Some(before) = steps(0..50) else {
        eprintln!("note: skipped, /proc/self/statm is not there");
        return;
    };
    let after = steps(50..250).unwrap();
    // One kept gradient of the model (5 kB) per step and engine would be 4 MB.
    let limit = (2 << 20) / 4096;
    assert!(after < before + limit, "{before} pages became {after}");
}
