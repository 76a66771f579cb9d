//! What must not go on silently.

use align_core::align_types::Completion;
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

    let constant = &mut ByTokens(|_: &Completion| Some(1.0));
    let error = failure(config(AdvantageKind::OnlineDpo), 2, constant);
    assert!(error.source.to_string().contains("nothing to learn"), "{}", error.source);
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
fn parts_that_do_not_fit_the_configuration_are_refused() {
    // Nothing but the number of samples is wrong here.
    let world = World::new(config(AdvantageKind::Grpo), 1);
    assert!(world.settings.config.check_samples(1).is_err());
    assert!(world.settings.config.check_samples(2).is_ok());
}
