//! The one test of this program, so that nothing else allocates beside it.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code, reason = "each program uses its part")]
#[path = "all/common/mod.rs"]
mod common;

use align_core::align_types::{Generator, config::SamplingConfig};
use align_rollout::TensorGenerator;
use common::HistoryLm;

/// Resident memory in pages.
fn resident() -> Option<usize> {
    std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()
}

#[test]
fn two_hundred_rollouts_do_not_make_the_process_grow() {
    let model = HistoryLm::new(11);
    let config = SamplingConfig { num_completions: 4, max_new_tokens: 8, ..SamplingConfig::default() };
    let prompts: Vec<Vec<u32>> = (0..8).map(|i| vec![i; 3]).collect();
    let mut generator = TensorGenerator::new(&model, vec![10]).with_slots(8);
    let mut rollouts = |steps: std::ops::Range<u64>| {
        steps.for_each(|step| drop(generator.generate(&prompts, &config, step).unwrap()));
        resident()
    };
    let Some(before) = rollouts(0..20) else {
        eprintln!("note: skipped, /proc/self/statm is not there");
        return;
    };
    let after = rollouts(20..220).unwrap();
    // 200 rollouts of 32 samples: one kept cache row of 16 floats and its tensor per sample would be above 4 MB.
    let limit = (2 << 20) / 4096;
    assert!(after < before + limit, "{before} pages became {after}");
}
