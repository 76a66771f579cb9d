//! The one test of this program, so that nothing else allocates beside it.
#![allow(missing_docs, clippy::unwrap_used)]

use align_core::{
    align_types::{Generator, config::SamplingConfig},
    threads::prepare_compute_thread,
};
use align_lm::{LoadOptions, Model};
use align_rollout::Engine;
use align_testkit::fixture;

/// Resident memory in pages.
fn resident() -> Option<usize> {
    std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()
}

#[test]
fn two_hundred_rollouts_and_repacks_do_not_make_the_process_grow() {
    prepare_compute_thread();
    let model = Model::load(&fixture("models/tiny-llama"), &LoadOptions::default()).unwrap();
    let config = SamplingConfig { num_completions: 4, max_new_tokens: 16, ..SamplingConfig::default() };
    let prompts: Vec<Vec<u32>> = (0..8).map(|i| vec![i; 30]).collect();
    let mut engine = Engine::new(&model, vec![10]).unwrap().with_threads(2);
    let mut rollouts = |steps: std::ops::Range<u64>| {
        for step in steps {
            engine.repack(&model).unwrap();
            engine.generate(&prompts, &config, step).unwrap();
        }
        resident()
    };
    let Some(before) = rollouts(0..40) else {
        eprintln!("note: skipped, /proc/self/statm is not there");
        return;
    };
    let after = rollouts(40..240).unwrap();
    // 200 rollouts of 8 prompts of two blocks, of at least a kilobyte each: their blocks alone would be above 3 MB.
    let limit = (3 << 20) / 4096;
    assert!(after < before + limit, "{before} pages became {after}");
}
