//! Input that is wrong is named with its row.

use align_core::align_types::{Completion, FinishReason, PromptGroup, Source};
use align_ppo::{
    AdvantageKind, Error, GaeInputs, MeasureLayout, PpoConfig, RunningNormalizer, RunningScale,
    ShapingInputs, begin_trajectories, estimate_advantages, gae, read_measures, shape_rewards,
};

use crate::common::{answer, group, trajectory, trajectory_mut};

fn from_file(mut group: PromptGroup) -> PromptGroup {
    group.source = Some(Source { file: "prompts.jsonl".into(), row: 7 });
    group
}

fn plain() -> PpoConfig {
    PpoConfig { kl_coef: 0.0, ..PpoConfig::default() }
}

fn non_finite(result: Result<impl std::fmt::Debug, Error>, words: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn numbers_that_are_none_are_named_with_their_row() {
    for reward in [f64::NAN, f64::INFINITY] {
        let mut groups = [from_file(group(&[0], vec![answer(&[1], 0.0), answer(&[1], reward)]))];
        let shaped = shape_rewards(&mut groups, &plain(), ShapingInputs::default());
        non_finite(shaped, &["the reward of prompts.jsonl:7, answer 2"]);
    }
    let mut groups = [from_file(group(&[0], vec![answer(&[1, 2], 0.0)]))];
    let known = trajectory_mut(&mut groups[0].completions[0]);
    (known.old, known.reference) = (vec![-1.0, f32::NAN], vec![-1.0, -1.0]);
    let shaped = shape_rewards(&mut groups, &plain(), ShapingInputs { kl_coef: 0.1, ..Default::default() });
    non_finite(shaped, &["token 2 of the log-probabilities of prompts.jsonl:7, answer 1"]);
    shape_rewards(&mut groups, &plain(), ShapingInputs::default()).unwrap();
    trajectory_mut(&mut groups[0].completions[0]).values = vec![f32::INFINITY, 0.0];
    non_finite(
        estimate_advantages(&mut groups, &plain(), None),
        &["token 1 of the values of prompts.jsonl:7"],
    );
    groups[0].completions[0].finish_reason = Some(FinishReason::Length);
    let known = trajectory_mut(&mut groups[0].completions[0]);
    (known.values, known.value_after) = (vec![0.0, 0.0], Some(f32::NAN));
    non_finite(estimate_advantages(&mut groups, &plain(), None), &["state behind prompts.jsonl:7, answer 1"]);
    let numbers = [vec![0.0, f64::NAN, 0.0]];
    non_finite(
        read_measures(&mut groups, &numbers, MeasureLayout::CRITIC),
        &["token 2 of the values of prompts.jsonl:7"],
    );
    non_finite(RunningScale::default().update([1.0, f64::NAN].into_iter()), &["scores"]);
    non_finite(RunningNormalizer::default().update([f64::INFINITY].into_iter()), &["returns"]);
}

#[test]
fn what_is_missing_is_named_with_its_row() {
    let said = |result: Result<_, Error>, words: &[&str]| {
        let error: Error = Result::<(), Error>::unwrap_err(result);
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let mut groups = [from_file(group(&[0], vec![answer(&[1, 2], 0.0)]))];
    let shaped = shape_rewards(&mut groups, &plain(), ShapingInputs { kl_coef: 0.1, ..Default::default() });
    said(shaped.map(drop), &["prompts.jsonl:7, answer 1", "log-probabilities are not known yet"]);
    trajectory_mut(&mut groups[0].completions[0]).old = vec![-1.0, -1.0];
    let shaped = shape_rewards(&mut groups, &plain(), ShapingInputs { kl_coef: 0.1, ..Default::default() });
    said(shaped.map(drop), &["reference log-probabilities are not known yet"]);
    shape_rewards(&mut groups, &plain(), ShapingInputs::default()).unwrap();
    said(
        estimate_advantages(&mut groups, &plain(), None).map(drop),
        &["prompts.jsonl:7", "values are not known yet"],
    );
    trajectory_mut(&mut groups[0].completions[0]).values = vec![0.0];
    said(estimate_advantages(&mut groups, &plain(), None).map(drop), &["1 values for 2 tokens"]);
    groups[0].completions[0].finish_reason = Some(FinishReason::Length);
    trajectory_mut(&mut groups[0].completions[0]).values = vec![0.0; 2];
    said(estimate_advantages(&mut groups, &plain(), None).map(drop), &["cut off", "not known"]);
    let online = PpoConfig::for_advantage(AdvantageKind::OnlineDpo);
    said(estimate_advantages(&mut groups, &online, None).map(drop), &["online-dpo", "pairs"]);
    let mut empty = [group(&[0], vec![answer(&[], 1.0)])];
    said(shape_rewards(&mut empty, &plain(), ShapingInputs::default()).map(drop), &["no token"]);
    said(read_measures(&mut groups, &[], MeasureLayout::CRITIC).map(drop), &["0 lists for 1 groups"]);
    said(
        read_measures(&mut groups, &[vec![0.0]], MeasureLayout::CRITIC).map(drop),
        &["1 numbers", "3 are expected"],
    );
    let inputs = GaeInputs { rewards: &[1.0], values: &[], bootstrap: 0.0, gamma: 1.0, lam: 1.0 };
    said(gae(&inputs).map(drop), &["1 rewards and 0 values"]);
}

/// No groups, no completions, no rewards: nothing is learned, and nothing breaks.
#[test]
fn nothing_is_not_an_error() {
    for kind in AdvantageKind::ALL.into_iter().filter(|kind| *kind != AdvantageKind::OnlineDpo) {
        let config = PpoConfig { kl_coef: 0.0, ..PpoConfig::for_advantage(kind) };
        for mut groups in
            [vec![], vec![group(&[0], vec![])], vec![group(&[0], vec![Completion::new(vec![1])])]]
        {
            let shaped = shape_rewards(&mut groups, &config, ShapingInputs::default()).unwrap();
            assert_eq!(shaped.scored, 0);
            assert!(shaped.nothing_to_learn().is_some());
            let report = estimate_advantages(&mut groups, &config, None).unwrap();
            assert_eq!(report.answers, 0);
            assert!(report.metrics().iter().all(|(_, value)| value.is_finite()));
        }
    }
}

/// The phases take groups where they lie, as the packs of a batch hand them out.
#[test]
fn phases_take_groups_by_reference() {
    let mut groups = [group(&[0], vec![Completion { reward: Some(1.0), ..Completion::new(vec![1]) }])];
    let mut borrowed: Vec<&mut PromptGroup> = groups.iter_mut().collect();
    begin_trajectories(&mut borrowed);
    read_measures(&mut borrowed, &[vec![0.25, 0.0]], MeasureLayout::CRITIC).unwrap();
    let config = PpoConfig { whiten_advantages: false, ..plain() };
    shape_rewards(&mut borrowed, &config, ShapingInputs::default()).unwrap();
    estimate_advantages(&mut borrowed, &config, None).unwrap();
    assert_eq!(trajectory(&groups[0].completions[0]).advantages, [0.75]);
}

#[test]
fn states_of_something_else_are_refused() {
    assert!(RunningNormalizer::default().restore(&[1.0]).is_err());
    assert!(RunningNormalizer::default().restore(&[1.0, f64::NAN, 0.0]).is_err());
    assert!(RunningScale::default().restore(&[]).is_err());
    assert!(RunningNormalizer::new(1.0).is_err());
}
