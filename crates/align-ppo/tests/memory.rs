//! The one test of this program, so that nothing else allocates beside it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

#[allow(dead_code, reason = "each program uses its part")]
#[path = "all/iteration/world.rs"]
mod world;

use align_core::align_types::Completion;
use align_ppo::{AdvantageKind, PpoConfig, Truncated};
use world::{ByTokens, World, share, steps_of};

/// Resident memory in pages.
fn resident() -> Option<usize> {
    std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()
}

#[test]
fn five_hundred_iterations_do_not_make_the_process_grow() {
    let config = PpoConfig {
        num_ppo_epochs: 2,
        truncated: Truncated::Score,
        ref_ema: Some(0.1),
        ..PpoConfig::for_advantage(AdvantageKind::Ppo)
    };
    let mut world = World::new(config, 2);
    world.keeps = false;
    let mut reward = ByTokens(|answer: &Completion| Some(share(answer)));
    let (pages, ..) = world.run(&mut reward, |ppo| {
        // One by one: reports are not kept either.
        let mut steps = |range: std::ops::RangeInclusive<u64>| {
            for step in range {
                steps_of(ppo, step..=step, 600);
            }
            resident()
        };
        Some((steps(1..=100)?, steps(101..=600)?))
    });
    let Some((before, after)) = pages else {
        eprintln!("note: skipped, /proc/self/statm is not there");
        return;
    };
    // One batch of samples with what is known of them (about 10 kB) kept per iteration would be 5 MB.
    let limit = (2 << 20) / 4096;
    assert!(after < before + limit, "{before} pages became {after}");
}
