//! UNA over groups of all kinds, and the losses of tokens in the objective of pairs.

use crate::common;

use align_core::{
    CausalLm, Objective, PackedBatch,
    align_types::{Completion, PromptGroup},
    tch::{Kind, Tensor},
};
use align_losses::{
    Dpo, DpoConfig, DpoLossType, Kto, KtoConfig, KtoLossType, REFERENCE_REWARDS, Reference, Una, UnaConfig,
    UnaLossType, a_star_target, qrpo_target,
};
use align_testkit::assert_close;
use common::{cut_batch, cut_loss, groups_of_all_kinds, labelled, model, pair, pairs, scored, sums};
use proptest::prelude::*;

fn reference() -> Reference {
    Reference::Model(model(2).replicate().unwrap())
}

fn una(config: UnaConfig) -> Una {
    Una::new(config, reference()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]

    /// Rows of three kinds, each with its own denominator, cut anywhere.
    #[test]
    fn kinds_may_be_mixed_and_cut(groups in groups_of_all_kinds(), cuts in [0usize..8, 0usize..8]) {
        let policy = model(1);
        for loss_type in [UnaLossType::Mse, UnaLossType::Bce] {
            let config = UnaConfig { loss_type, beta: 0.7, binary_weight: 2.0, score_weight: 0.5, ..Default::default() };
            let objective = una(config);
            let (loss, gradient) = cut_loss(&policy, &objective, &groups, &[0, 0], 1);
            let (cut, cut_gradient) = cut_loss(&policy, &objective, &groups, &cuts, 1);
            assert_close(&[cut], &[loss], 1e-12);
            assert_close(&cut_gradient, &gradient, 1e-12);
        }
    }

    /// On pairs the loss is that of DPO in every bit, and so is the gradient.
    #[test]
    fn pairs_are_dpo_bit_for_bit(groups in pairs(), cuts in [0usize..7, 0usize..7]) {
        let policy = model(1);
        let dpo = Dpo::new(DpoConfig { beta: 0.3, ..Default::default() }, reference()).unwrap();
        let expected = cut_loss(&policy, &dpo, &groups, &cuts, 1);
        let got = cut_loss(&policy, &una(UnaConfig { beta: 0.3, ..Default::default() }), &groups, &cuts, 1);
        prop_assert_eq!(got.0.to_bits(), expected.0.to_bits());
        let bits = |g: &[f64]| g.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&got.1), bits(&expected.1));
    }

    /// Options that look at tokens do not depend on the cut either.
    #[test]
    fn losses_of_pairs_do_not_depend_on_the_cut(groups in pairs(), cuts in [0usize..7, 0usize..7]) {
        let policy = model(1);
        let of = DpoConfig::of;
        let mixture = vec![DpoLossType::Sigmoid, DpoLossType::Sft, DpoLossType::Ipo];
        for config in [
            DpoConfig { loss_type: mixture, loss_weights: vec![1.0, 0.2, 0.1], ..Default::default() },
            DpoConfig { ld_alpha: Some(0.3), ..Default::default() },
            DpoConfig { use_weighting: true, ..Default::default() },
            of(DpoLossType::Simpo),
            of(DpoLossType::Cpo),
            of(DpoLossType::Orpo),
        ] {
            let reference = if config.uses_reference() { reference() } else { Reference::Free };
            let objective = Dpo::new(config, reference).unwrap();
            let (loss, gradient) = cut_loss(&policy, &objective, &groups, &[0, 0], 1);
            let (cut, cut_gradient) = cut_loss(&policy, &objective, &groups, &cuts, 1);
            assert_close(&[cut], &[loss], 1e-10);
            assert_close(&cut_gradient, &gradient, 1e-10);
        }
    }
}

/// Each kind is averaged over its own rows: two labels, one score and no pair.
#[test]
fn every_kind_has_its_own_denominator_and_weight() {
    let policy = model(1);
    let groups = [
        labelled(vec![1], vec![2], true),
        scored(vec![0], vec![5, 1], 0.25),
        labelled(vec![3], vec![4], false),
    ];
    let config = UnaConfig { beta: 0.7, binary_weight: 3.0, ..Default::default() };
    let objective = una(config.clone());
    assert_eq!(objective.denominators(&groups).unwrap(), [0.0, 2.0, 1.0]);
    let (loss, _) = cut_loss(&policy, &objective, &groups, &[1, 2], 1);
    let ratios = Vec::<f64>::try_from((sums(&policy, &groups) - sums(&model(2), &groups)).detach()).unwrap();
    let square = |row: usize, target: f64| (1.0 / (1.0 + (-0.7 * ratios[row]).exp()) - target).powi(2);
    let expected = 3.0 * (square(0, 1.0) + square(2, 0.0)) / 2.0 + square(1, 0.25);
    assert_close(&[loss], &[expected], 1e-12);
}

/// What labelled answers show, by its definition: β h on the side of the label, less the baseline of the loss.
#[test]
fn margins_of_labels_are_those_of_their_definition() {
    let policy = model(1);
    let labels = [true, false, false, true];
    let groups: Vec<_> =
        (0..4).map(|i| labelled(vec![i as u32 % 3], vec![i as u32 + 1, 5], labels[i])).collect();
    let logps = Vec::<f64>::try_from(sums(&policy, &groups).detach()).unwrap();
    let ratios = Vec::<f64>::try_from((sums(&policy, &groups) - sums(&model(2), &groups)).detach()).unwrap();
    let beta = 0.7;
    let kto = |loss_type| {
        let config = KtoConfig { beta, loss_type, ..Default::default() };
        Box::new(Kto::new(config, reference()).unwrap()) as Box<dyn Objective>
    };
    let una =
        |loss_type| Box::new(una(UnaConfig { beta, loss_type, ..Default::default() })) as Box<dyn Objective>;
    for (objective, baseline) in [
        (kto(KtoLossType::Kto), "kl"),
        (kto(KtoLossType::ApoZeroUnpaired), "kl"),
        (kto(KtoLossType::Bco), "bco/shift"),
        (una(UnaLossType::Mse), ""),
        (una(UnaLossType::Bce), ""),
    ] {
        let metrics = cut_batch(&policy, objective.as_ref(), &groups, &[1, 3], 1).metrics;
        let scale = if baseline == "kl" { beta } else { 1.0 };
        let baseline = scale * metrics.get(baseline).copied().unwrap_or(0.0);
        let margin =
            |i: usize| if labels[i] { beta * ratios[i] - baseline } else { baseline - beta * ratios[i] };
        let mean = |of: &dyn Fn(usize) -> f64, rows: &[usize]| {
            rows.iter().map(|i| of(*i)).sum::<f64>() / rows.len() as f64
        };
        let right = |i: usize| f64::from(u8::from(margin(i) > 0.0));
        for (name, expected) in [
            ("labels/margins", mean(&margin, &[0, 1, 2, 3])),
            ("labels/accuracies", mean(&right, &[0, 1, 2, 3])),
            ("rewards/chosen", mean(&|i| beta * ratios[i], &[0, 3])),
            ("rewards/rejected", mean(&|i| beta * ratios[i], &[1, 2])),
            ("logps/chosen", mean(&|i| logps[i], &[0, 3])),
            ("logps/rejected", mean(&|i| logps[i], &[1, 2])),
        ] {
            assert_close(&[metrics[name]], &[expected], 1e-12);
        }
    }
}

#[test]
fn scores_are_scaled_and_those_outside_are_named_with_the_range() {
    let policy = model(1);
    let groups = [scored(vec![1], vec![2], 0.5), scored(vec![0], vec![5], 4.0)];
    let plain = una(UnaConfig::default());
    let error = plain.denominators(&groups).unwrap_err().to_string();
    assert!(error.contains("group 1") && error.contains("4 to 4") && error.contains("score-min"), "{error}");
    let scaled = una(UnaConfig { score_min: Some(0.5), score_max: Some(4.0), ..Default::default() });
    let by_hand = [scored(vec![1], vec![2], 0.0), scored(vec![0], vec![5], 1.0)];
    let got = cut_loss(&policy, &scaled, &groups, &[1, 1], 1);
    let expected = cut_loss(&policy, &plain, &by_hand, &[1, 1], 1);
    assert_eq!(got, expected);
}

#[test]
fn rows_that_are_no_feedback_are_named() {
    let objective = una(UnaConfig::default());
    let both = PromptGroup::new(
        vec![1],
        vec![Completion { label: Some(true), reward: Some(0.5), ..Completion::new(vec![2]) }],
    );
    let half = PromptGroup::new(
        vec![1],
        vec![Completion { label: Some(true), ..Completion::new(vec![2]) }, Completion::new(vec![3])],
    );
    let lone = PromptGroup::new(vec![1], vec![Completion::new(vec![2])]);
    for (group, counts) in
        [(both, "1 labels and 1 scores"), (half, "1 labels and 0"), (lone, "0 labels and 0")]
    {
        let error =
            objective.denominators(&[pair(vec![1], vec![2], vec![3]), group]).unwrap_err().to_string();
        assert!(error.contains("group 1") && error.contains(counts), "{error}");
    }
    let raw = una(UnaConfig { loss_type: UnaLossType::RawMse, ..Default::default() });
    assert!(
        raw.denominators(&[labelled(vec![1], vec![2], true)]).unwrap_err().to_string().contains("no scale")
    );
    assert!(Una::new(UnaConfig::default(), Reference::Free).is_err());
    objective.check_first_step(&[("rewards/scored".into(), 9.0)]).unwrap();
    let at_reference = una(UnaConfig::default()).starting_at_reference();
    assert!(at_reference.check_first_step(&[("rewards/scored".into(), 9.0)]).is_err());
}

#[test]
fn reference_rewards_come_from_their_column() {
    let policy = model(1);
    let beta = 0.5;
    let mut group = scored(vec![1], vec![2], 0.5);
    let without = una(UnaConfig { loss_type: UnaLossType::Qrpo, beta, ..Default::default() });
    let error = without.denominators(&[group.clone()]).unwrap_err().to_string();
    assert!(error.contains("group 0") && error.contains("ref_rewards"), "{error}");
    let rewards = [-1.0, 0.0, 0.5, 2.0];
    group.columns.insert(REFERENCE_REWARDS.into(), serde_json::json!(rewards));
    let groups = [group];
    let ratio = (sums(&policy, &groups) - sums(&model(2), &groups)).double_value(&[0]);
    for (loss_type, target) in [
        (UnaLossType::Qrpo, qrpo_target(0.5, &rewards, beta).unwrap()),
        (UnaLossType::AStarPo, a_star_target(0.5, &rewards, beta).unwrap()),
    ] {
        let objective = una(UnaConfig { loss_type, beta, ..Default::default() });
        let (loss, _) = cut_loss(&policy, &objective, &groups, &[0, 0], 1);
        assert_close(&[loss], &[(beta * ratio - target).powi(2)], 1e-12);
    }
}

#[test]
fn options_that_the_reference_cannot_serve_are_refused() {
    let ld = DpoConfig { ld_alpha: Some(0.5), ..Default::default() };
    assert!(Dpo::new(ld, Reference::Precomputed).unwrap_err().to_string().contains("single tokens"));
    assert!(Dpo::new(DpoConfig::of(DpoLossType::Simpo), reference()).is_err());
    assert!(Dpo::new(DpoConfig::of(DpoLossType::Orpo), Reference::Free).is_ok());
    assert!(Dpo::new(DpoConfig::of(DpoLossType::Ipo), Reference::Free).is_err());
}

/// The first loss of losses with other values than ln 2 is checked as well.
#[test]
fn the_first_loss_is_that_of_the_formula() {
    let policy = model(2);
    let groups = [pair(vec![1], vec![2, 3], vec![4]), pair(vec![0], vec![5], vec![5, 5])];
    for loss in [DpoLossType::Ipo, DpoLossType::SppoHard, DpoLossType::ApoDown] {
        let dpo = Dpo::new(DpoConfig::of(loss), reference()).unwrap().starting_at_reference();
        let (value, _) = cut_loss(&policy, &dpo, &groups, &[1, 1], 1);
        dpo.check_first_step(&[("loss".into(), value)]).unwrap();
        let error = dpo.check_first_step(&[("loss".into(), value * 1.01)]).unwrap_err().to_string();
        assert!(error.contains("the policy starts as the reference"), "{error}");
    }
    let free = Dpo::new(DpoConfig::of(DpoLossType::Simpo), Reference::Free).unwrap().starting_at_reference();
    free.check_first_step(&[("loss".into(), 123.0)]).unwrap();
}

/// WPO weights pairs by how likely the policy would have written them: a policy that finds all tokens equally likely
/// weights every answer by 1, whatever its length.
#[test]
fn weights_of_a_uniform_policy_are_1() {
    let policy = align_testkit::BigramLm::uniform(i64::from(common::VOCAB));
    let groups = [pair(vec![1], vec![2, 3, 4], vec![4]), pair(vec![0], vec![5], vec![5, 5])];
    let batch = PackedBatch::new(&groups).unwrap();
    let terms = |use_weighting| {
        let dpo = Dpo::new(DpoConfig { use_weighting, ..Default::default() }, reference()).unwrap();
        let output = dpo.loss(&policy, &batch, &groups).unwrap();
        Vec::<f64>::try_from(output.components[0].terms.to_kind(Kind::Double)).unwrap()
    };
    assert_close(&terms(true), &terms(false), 1e-6);
    let sharp =
        align_testkit::BigramLm::new(&(Tensor::eye(6, (Kind::Double, align_core::tch::Device::Cpu)) * 5.0));
    let dpo = Dpo::new(DpoConfig { use_weighting: true, ..Default::default() }, reference()).unwrap();
    let weighted = dpo.loss(&sharp, &batch, &groups).unwrap().mean().unwrap().double_value(&[]);
    let plain = Dpo::new(DpoConfig::default(), reference()).unwrap();
    let unweighted = plain.loss(&sharp, &batch, &groups).unwrap().mean().unwrap().double_value(&[]);
    assert!(weighted < 0.1 * unweighted, "answers it would not write: {weighted} against {unweighted}");
}
