//! Stopped and continued, a run ends with the same bits.

use align_core::align_types::{self, Completion, PromptGroup, PromptSource, TokenId};
use align_core::tch::Tensor;
use align_core::{StepAt, Stepped, Steps};
use align_ppo::{AdvantageKind, CriticKind, Ppo, PpoConfig, RewardBaseline, RewardScaling};
use std::sync::atomic::AtomicBool;

use super::world::{ByTokens, Extras, World, alias, share, steps_of};
use super::{KINDS, config};

/// Everything that an iteration can carry on to the next.
fn laden(kind: AdvantageKind) -> PpoConfig {
    let config = config(kind);
    let critic = kind.uses_critic();
    PpoConfig {
        kl_target: if config.reward_kl_coef() > 0.0 { Some(0.5) } else { None },
        kl_horizon: 100.0,
        normalize_values: critic,
        ref_ema: Some(0.3),
        reward_scaling: RewardScaling::Running,
        // Nothing is clipped in these two, so that there is one update per batch of samples.
        num_mini_batches: if matches!(kind, AdvantageKind::A2c | AdvantageKind::Reinforce) { 1 } else { 2 },
        ..config
    }
}

fn table(world: &World) -> Vec<f32> {
    numbers(world.model.table())
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    Vec::<f32>::try_from(tensor.detach().reshape([-1])).unwrap()
}

#[test]
fn a_continued_run_ends_with_the_same_bits() {
    let reward = || ByTokens(|answer: &Completion| Some(share(answer)));
    for (kind, samples) in KINDS {
        for one_step_off in [false, true] {
            if one_step_off && kind == AdvantageKind::OnlineDpo {
                continue;
            }
            let world = || {
                let mut world = World::new(laden(kind), samples);
                world.one_step_off = one_step_off;
                world
            };
            let mut straight = world();
            let (expected, ..) = straight.run(&mut reward(), |ppo| steps_of(ppo, 1..=10, 10));

            let folder = tempfile::tempdir().unwrap();
            let mut stopped = world();
            stopped.run(&mut reward(), |ppo| {
                let reports = steps_of(ppo, 1..=6, 10);
                assert_eq!(reports, expected[..6], "{}", kind.name());
                ppo.save(folder.path()).unwrap();
            });
            let mut continued = world();
            let (handle, weights) = (alias(&continued.model), Tensor::from_slice(&table(&stopped)));
            let (reports, ..) = continued.run(&mut reward(), |ppo| {
                // References are made from the first weights, as at the start of the run; those of the policy come with
                // its own folder.
                handle.table().detach().copy_(&weights.reshape(handle.table().size()));
                ppo.load(folder.path()).unwrap();
                steps_of(ppo, 7..=10, 10)
            });
            assert_eq!(reports, expected[6..], "{}, one step off: {one_step_off}", kind.name());
            assert_eq!(table(&continued), table(&straight), "{}", kind.name());
            assert_eq!(continued.prompts.told, straight.prompts.told);
        }
    }
}

/// Other rows of language modelling at every step.
struct ByStep;

impl PromptSource for ByStep {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        let token = |number: u64| 1 + (number % 5) as TokenId;
        Ok(vec![PromptGroup::new(vec![token(step)], vec![Completion::new(vec![token(2 * step)])])])
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

/// Rows of language modelling, the reference's own answers, a critic on the policy's transformer or one that warms up over the
/// stop: each has a stream or a state of its own.
#[test]
fn what_a_run_may_have_beside_is_continued_too() {
    let reward = || ByTokens(|answer: &Completion| Some(share(answer)));
    let plain = laden(AdvantageKind::Ppo);
    let shared = PpoConfig { critic: CriticKind::Shared, ..plain.clone() };
    let beside = PpoConfig { ptx_coef: 0.5, reward_baseline: RewardBaseline::Reference, ..plain.clone() };
    let warm = PpoConfig { critic_warmup: 4, ..plain };
    for config in [shared, beside, warm] {
        let run = |weights: Option<&[Vec<f32>; 2]>, work: &mut dyn FnMut(&mut Ppo<'_>)| {
            let mut world = World::new(config.clone(), 1);
            let mut rows = ByStep;
            let ptx: Option<&mut dyn PromptSource> =
                if config.ptx_coef > 0.0 { Some(&mut rows) } else { None };
            let (table, values) = (world.model.table().detach(), world.values.shallow_clone());
            let extras = Extras { ptx, ..Extras::default() };
            world.run_with(&mut reward(), extras, |ppo| {
                // As in the test above: references are of the first weights.
                for (tensor, weights) in [&table, &values].into_iter().zip(weights.into_iter().flatten()) {
                    tensor.detach().copy_(&Tensor::from_slice(weights).reshape(tensor.size()));
                }
                work(ppo.as_mut().unwrap());
            });
            [numbers(&table), numbers(&values)]
        };
        let mut expected = Vec::new();
        let straight = run(None, &mut |ppo| expected = steps_of(ppo, 1..=6, 6));
        let folder = tempfile::tempdir().unwrap();
        let stopped = run(None, &mut |ppo| {
            steps_of(ppo, 1..=3, 6);
            ppo.save(folder.path()).unwrap();
        });
        let mut reports = Vec::new();
        let continued = run(Some(&stopped), &mut |ppo| {
            ppo.load(folder.path()).unwrap();
            reports = steps_of(ppo, 4..=6, 6);
        });
        assert_eq!(reports, expected[3..], "{config:?}");
        assert_eq!(continued, straight, "{config:?}");
    }
}

#[test]
fn a_stop_before_the_updates_changes_nothing() {
    let mut world = World::new(config(AdvantageKind::Ppo), 1);
    let before = table(&world);
    let stop = AtomicBool::new(true);
    let mut reward = ByTokens(|answer: &Completion| Some(share(answer)));
    let (after, ..) = world.run(&mut reward, |ppo| {
        let at = StepAt { step: 1, total: 2, schedule: 1.0, stop: &stop };
        assert_eq!(ppo.step(&at).unwrap(), Stepped::Stopped);
        let stopped = ppo.sampled();
        (stopped, steps_of(ppo, 1..=2, 2))
    });
    assert_eq!(after.0, 0);
    let mut other = World::new(config(AdvantageKind::Ppo), 1);
    let (reports, ..) = other.run(&mut reward, |ppo| steps_of(ppo, 1..=2, 2));
    assert_eq!(after.1, reports);
    assert_ne!(before, table(&world));
}

#[test]
fn a_failure_before_the_updates_leaves_everything_as_it_was() {
    for one_step_off in [false, true] {
        let run = |fails: bool| {
            let mut world = World::new(laden(AdvantageKind::Ppo), 2);
            world.one_step_off = one_step_off;
            let failing = std::cell::Cell::new(false);
            let mut reward =
                ByTokens(|answer: &Completion| Some(if failing.get() { f64::NAN } else { share(answer) }));
            let (reports, ..) = world.run(&mut reward, |ppo| {
                let mut reports = steps_of(ppo, 1..=3, 6);
                if fails {
                    failing.set(true);
                    let stop = AtomicBool::new(false);
                    let at = StepAt { step: 4, total: 6, schedule: 1.0, stop: &stop };
                    assert!(ppo.step(&at).unwrap_err().intact);
                    failing.set(false);
                }
                reports.extend(steps_of(ppo, 4..=6, 6));
                reports
            });
            (reports, table(&world))
        };
        assert_eq!(run(true), run(false));
    }
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let run = |threads| {
        let mut world = World::new(PpoConfig { num_mini_batches: 2, ..config(AdvantageKind::Ppo) }, 3);
        world.threads = threads;
        let mut reward = ByTokens(|answer: &Completion| Some(share(answer)));
        world.run(&mut reward, |ppo| steps_of(ppo, 1..=3, 3));
        table(&world).into_iter().map(f64::from).collect::<Vec<_>>()
    };
    align_testkit::assert_close(&run(1), &run(3), 1e-5);
}
