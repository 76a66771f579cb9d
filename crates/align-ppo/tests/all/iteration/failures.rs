//! What must not go on silently.

use align_core::align_types::{self, Completion, Generator, PromptGroup, TokenId, config::SamplingConfig};
use align_core::{StepAt, StepError, Steps};
use align_ppo::{AdvantageKind, PpoConfig, Scorer};
use std::sync::atomic::AtomicBool;

use super::config;
use super::world::{ByTokens, World, series, share, steps};

fn failure(config: PpoConfig, samples: usize, scorer: &mut dyn Scorer) -> StepError {
    let mut world = World::new(config, samples);
    let stop = AtomicBool::new(false);
    let at = StepAt { step: 1, total: 1, schedule: 1.0, stop: &stop };
    let (failed, ..) = world.run(scorer, |ppo| ppo.step(&at).unwrap_err());
    failed
}

#[test]
fn rewards_that_cannot_be_used_are_named_before_any_weight_changes() {
    let nan =
        &mut ByTokens(|answer: &Completion| Some(if answer.token_ids.len() == 2 { f64::NAN } else { 0.5 }));
    let error = failure(config(AdvantageKind::Ppo), 1, nan);
    assert!(error.intact);
    assert!(error.source.to_string().starts_with("group "), "{}", error.source);
    assert!(error.source.to_string().contains("its reward is NaN"), "{}", error.source);

    let silent = &mut ByTokens(|_: &Completion| None);
    let error = failure(config(AdvantageKind::Ppo), 1, silent);
    assert!(error.source.to_string().contains("abstained for all 16 completions"), "{}", error.source);
}

#[test]
fn a_run_without_anything_to_learn_ends_after_some_iterations_and_says_why() {
    for kind in [AdvantageKind::OnlineDpo, AdvantageKind::Dapo] {
        let mut world = World::new(config(kind), 2);
        let before = world.model.table().copy();
        let stop = AtomicBool::new(false);
        let step = |ppo: &mut align_ppo::Ppo<'_>, step| {
            ppo.step(&StepAt { step, total: 20, schedule: 1.0, stop: &stop })
        };
        let (error, ..) = world.run(&mut ByTokens(|_: &Completion| Some(1.0)), |ppo| {
            for done in 1..8 {
                let Ok(align_core::Stepped::Done(report)) = step(ppo, done) else {
                    panic!("step {done} failed")
                };
                assert_eq!(report.metric("val/nothing_to_learn"), Some(done as f64));
            }
            step(ppo, 8).unwrap_err()
        });
        assert!(
            error.source.to_string().contains("8 iterations had nothing to learn from"),
            "{}",
            error.source
        );
        assert_eq!(world.model.table(), &before);
    }
}

#[test]
fn a_sampler_of_another_temperature_is_found() {
    let mut world = World::new(config(AdvantageKind::Rloo), 4);
    // Logits that a temperature changes.
    let logits = align_core::tch::Tensor::from_slice(&[0.0f32, 0.0, 0.0, 1.0, 2.0, 3.0]);
    world.model.table().detach().copy_(&logits);
    world.sampler_temperature = Some(0.5);
    let stop = AtomicBool::new(false);
    let at = StepAt { step: 1, total: 1, schedule: 1.0, stop: &stop };
    let (error, ..) =
        world.run(&mut ByTokens(|answer: &Completion| Some(share(answer))), |ppo| ppo.step(&at).unwrap_err());
    assert!(error.intact && error.source.to_string().contains("another temperature"), "{}", error.source);
}

/// The layout that measures and the one that trains differ by 0.001: far less than a sampler may, and no identity.
#[test]
fn a_first_ratio_that_is_not_1_ends_the_run_before_any_weight_changes() {
    let step = |off: f64| {
        let mut world = World { off, ..World::new(config(AdvantageKind::Rloo), 2) };
        let before = world.model.table().copy();
        let stop = AtomicBool::new(false);
        let at = StepAt { step: 1, total: 1, schedule: 1.0, stop: &stop };
        let (done, ..) = world
            .run(&mut ByTokens(|answer: &Completion| Some(share(answer))), |ppo| ppo.step(&at).map(drop));
        (done, world.model.table() == &before)
    };
    let (done, is_unchanged) = step(0.0);
    assert!(done.is_ok() && !is_unchanged);
    let (done, is_unchanged) = step(1e-3);
    let error = done.unwrap_err();
    assert!(error.intact && is_unchanged);
    assert!(error.source.to_string().contains("ratio"), "{}", error.source);
}

/// A generator that fails at the fourth prompt that it is given.
struct Failing;

impl Generator for Failing {
    fn generate(
        &mut self,
        _: &[Vec<TokenId>],
        _: &SamplingConfig,
        _: u64,
    ) -> align_types::Result<Vec<PromptGroup>> {
        Err(align_types::Error::Prompt { index: 3, why: "no room".into(), source: Some("underneath".into()) })
    }

    fn refresh(&mut self) -> align_types::Result<()> {
        Ok(())
    }
}

/// Nobody can look up the fourth prompt of a batch.
#[test]
fn a_failure_while_sampling_names_the_row_and_keeps_what_is_underneath() {
    let source = |row| Some(align_types::Source { file: "prompts.jsonl".into(), row });
    let prompts =
        (0..5).map(|row| PromptGroup { source: source(10 + row), ..PromptGroup::new(vec![1], vec![]) });
    let error =
        align_ppo::sample(&mut Failing, prompts.collect(), &SamplingConfig::default(), 0).unwrap_err();
    assert_eq!(error.to_string(), "prompts.jsonl:13: sampling: no room");
    let align_ppo::IterationError::Data(align_types::Error::Seam { source, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.unwrap().to_string(), "underneath");
    // A generator that counts wrongly is not believed.
    let error = align_ppo::sample(
        &mut Failing,
        vec![PromptGroup::new(vec![1], vec![])],
        &SamplingConfig::default(),
        0,
    );
    assert!(error.unwrap_err().to_string().contains("prompt 3"));
}

/// A scorer that gives too few scores.
struct Short;

impl Scorer for Short {
    fn score(
        &mut self,
        groups: &[align_core::align_types::PromptGroup],
    ) -> Result<Vec<Vec<Option<f64>>>, align_core::BoxError> {
        Ok(vec![vec![]; groups.len()])
    }
}

#[test]
fn scores_that_are_too_few_are_refused() {
    let error = failure(config(AdvantageKind::Ppo), 1, &mut Short);
    assert!(error.source.to_string().contains("0 scores for 1 completions"), "{}", error.source);
}

#[test]
fn an_abstention_is_not_a_reward_of_0() {
    // Long answers abstain; were that a 0, short ones would be driven out by their punished neighbours.
    let run = |scorer: &mut dyn Scorer| {
        let mut world = World::new(config(AdvantageKind::Reinforce), 4);
        let (reports, ..) = world.run(scorer, |ppo| steps(ppo, 3));
        (series(&reports, "objective/scores"), series(&reports, "completions/abstained"))
    };
    let (scores, abstained) =
        run(&mut ByTokens(
            |answer: &Completion| {
                if answer.token_ids.len() > 2 { None } else { Some(2.0 + share(answer)) }
            },
        ));
    assert!(scores.iter().all(|score| *score >= 2.0), "{scores:?}");
    assert!(abstained.iter().all(|share| *share > 0.0 && *share < 1.0), "{abstained:?}");
}

#[test]
fn advantages_by_group_need_two_samples_per_prompt() {
    let world = World::new(config(AdvantageKind::Grpo), 1);
    assert!(world.settings.config.check_samples(1).is_err());
    assert!(world.settings.config.check_samples(2).is_ok());
}
