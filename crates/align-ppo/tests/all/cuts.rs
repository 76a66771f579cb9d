//! Same answer however it is cut: loss, gradient and metrics of a batch in pieces.

use align_core::{
    ActorCritic, CausalLm, Objective, Trainable, ValueModel,
    align_types::{Completion, PromptGroup},
    tch::{Kind, Tensor},
};
use align_ppo::{
    ActorCriticObjective, AdvantageKind, CriticKind, CriticObjective, KlEstimator, KlPlacement,
    OnlineDpoObjective, PolicyAggregation, PolicyObjective, PpoConfig, References,
};
use align_testkit::{BigramActorCritic, BigramLm, TabularValues};
use proptest::prelude::*;

use crate::common::{answer, assert_close, compute, group, trajectory_mut};

const VOCAB: i64 = 5;

fn policy() -> BigramLm {
    let values: Vec<f64> = (0..VOCAB * VOCAB).map(|i| ((i * 13 % 17) as f64) / 8.0 - 1.0).collect();
    BigramLm::new(&Tensor::from_slice(&values).reshape([VOCAB, VOCAB]))
}

fn critic() -> TabularValues {
    TabularValues::new(&Tensor::from_slice(&[0.1f64, -0.2, 0.3, 0.4, 0.0]).to_kind(Kind::Double))
}

/// An answer with everything that the losses read; one in five is left out.
fn sampled() -> impl Strategy<Value = Completion> {
    let token = (0u32..VOCAB as u32, -2.0f32..-0.1, -2.0f64..2.0, -1.0f32..1.0);
    (prop::collection::vec(token, 1..5), 0u8..5).prop_map(|(tokens, kind)| {
        let mut completion = answer(&tokens.iter().map(|t| t.0).collect::<Vec<_>>(), 1.0);
        let known = trajectory_mut(&mut completion);
        known.old = tokens.iter().map(|t| t.1).collect();
        known.reference = tokens.iter().map(|t| t.1 * 0.75).collect();
        known.values = tokens.iter().map(|t| t.3).collect();
        known.returns = tokens.iter().map(|t| t.2 * 0.5).collect();
        if kind > 0 {
            known.advantages = tokens.iter().map(|t| t.2).collect();
        }
        completion
    })
}

fn batch() -> impl Strategy<Value = Vec<PromptGroup>> {
    let prompt = || prop::collection::vec(0u32..VOCAB as u32, 1..4);
    let group_of = (prompt(), prop::collection::vec(sampled(), 1..4))
        .prop_map(|(prompt, answers)| group(&prompt, answers));
    let row = (prompt(), prop::collection::vec(0u32..VOCAB as u32, 1..5))
        .prop_map(|(prompt, tokens)| group(&prompt, vec![Completion::new(tokens)]));
    prop::collection::vec(prop_oneof![4 => group_of, 1 => row], 1..7)
}

fn same<M: Trainable + ?Sized>(
    objective: &dyn Objective<M>,
    model: &M,
    groups: &[PromptGroup],
    pieces: &[usize],
) {
    // A batch of which nothing is learned from has no loss at all.
    if objective.denominators(groups).unwrap().iter().all(|denominator| *denominator == 0.0) {
        return;
    }
    let whole = compute(objective, model, groups, &[]);
    let cut = compute(objective, model, groups, pieces);
    assert_close(&[cut.loss], &[whole.loss], 1e-9);
    assert_close(&cut.gradient, &whole.gradient, 1e-9);
    let sorted = |metrics: &[(String, f64)]| {
        let mut metrics = metrics.to_vec();
        metrics.sort_by(|a, b| a.0.cmp(&b.0));
        metrics
    };
    let (cut, whole) = (sorted(&cut.metrics), sorted(&whole.metrics));
    let names = |metrics: &[(String, f64)]| metrics.iter().map(|m| m.0.clone()).collect::<Vec<_>>();
    let values = |metrics: &[(String, f64)]| metrics.iter().map(|m| m.1).collect::<Vec<_>>();
    assert_eq!(names(&cut), names(&whole));
    assert_close(&values(&cut), &values(&whole), 1e-9);
}

fn frozen() -> References {
    References::frozen(Box::new(policy()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_depends_on_the_cut(groups in batch(), pieces in prop::collection::vec(1usize..4, 0..4), mode in 0usize..4) {
        let mode = [
            PolicyAggregation::TokenMean,
            PolicyAggregation::SeqMeanMean,
            PolicyAggregation::SeqSumMean,
            PolicyAggregation::SeqSumConst,
        ][mode];
        let config = PpoConfig {
            aggregation: Some(mode),
            kl_placement: KlPlacement::Loss,
            kl_estimator: KlEstimator::K3,
            entropy_coef: 0.1,
            ptx_coef: 2.0,
            ..PpoConfig::default()
        };
        let objective = PolicyObjective::new(&config, 0.8, 6, frozen()).unwrap();
        same::<dyn CausalLm>(&objective, &policy(), &groups, &pieces);
        let shared = PpoConfig { critic: CriticKind::Shared, ..config.clone() };
        let both = ActorCriticObjective::new(&shared, 0.8, 6, frozen()).unwrap();
        let model = BigramActorCritic { policy: policy(), critic: critic() };
        same::<dyn ActorCritic>(&both, &model, &groups, &pieces);
        same::<dyn ValueModel>(&CriticObjective::new(&config).unwrap(), &critic(), &groups, &pieces);
    }

    #[test]
    fn nor_do_pairs(
        pairs in prop::collection::vec((sampled(), sampled()), 1..6), pieces in prop::collection::vec(1usize..4, 0..4),
    ) {
        let groups: Vec<PromptGroup> = pairs.into_iter().map(|(a, b)| group(&[1], vec![a, b])).collect();
        let config = PpoConfig::for_advantage(AdvantageKind::OnlineDpo);
        let objective = OnlineDpoObjective::new(&config, 0.8, frozen()).unwrap();
        same::<dyn CausalLm>(&objective, &policy(), &groups, &pieces);
    }
}
