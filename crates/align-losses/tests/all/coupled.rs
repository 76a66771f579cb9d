//! Objectives whose rows depend on each other give the loss and gradient of the uncut batch however it is cut, in
//! both passes; and the rules of the KTO baseline and BCO's running mean.

use crate::common;

use align_core::{
    CausalLm, Objective, PackedBatch,
    align_types::PromptGroup,
    couple_batch,
    tch::{Kind, Tensor},
};
use align_losses::{
    BcoBatch, Dpo, DpoConfig, DpoInputs, DpoLossType, Kto, KtoConfig, KtoInputs, KtoLossType, PairLengths,
    Reference, bco_loss, dpo_loss, kto_baseline, kto_loss,
};
use align_testkit::{BigramLm, assert_close};
use common::{cut_loss, labelled, labelled_groups, model, pair, pairs, sums};
use proptest::prelude::*;

fn reference() -> Reference {
    Reference::Model(model(2).replicate().unwrap())
}

fn gradient_of(policy: &BigramLm, loss: &Tensor) -> Vec<f64> {
    align_core::clear_gradients([policy.table()]).unwrap();
    loss.backward();
    Vec::try_from(policy.table().grad().reshape([-1])).unwrap()
}

/// The loss of pairs by one call of the pure function over the whole batch.
fn whole_dpo(policy: &BigramLm, config: &DpoConfig, groups: &[PromptGroup]) -> (f64, Vec<f64>) {
    let side = |t: &Tensor, i| t.reshape([-1, 2]).select(1, i);
    let (policy_sums, reference_sums) = (sums(policy, groups), sums(&model(2), groups).detach());
    let lens: Vec<i64> =
        groups.iter().flat_map(|g| &g.completions).map(|c| c.token_ids.len() as i64).collect();
    let lens = Tensor::from_slice(&lens);
    let (chosen, rejected) = (side(&policy_sums, 0), side(&policy_sums, 1));
    let (ref_chosen, ref_rejected) = (side(&reference_sums, 0), side(&reference_sums, 1));
    let inputs = DpoInputs {
        ref_chosen: Some(&ref_chosen),
        ref_rejected: Some(&ref_rejected),
        lengths: Some(PairLengths { chosen: &side(&lens, 0), rejected: &side(&lens, 1) }),
        ..DpoInputs::new(&chosen, &rejected)
    };
    let loss = dpo_loss(&inputs, config).unwrap().mean().unwrap();
    (loss.double_value(&[]), gradient_of(policy, &loss))
}

fn whole_kto(policy: &BigramLm, config: &KtoConfig, groups: &[PromptGroup], seen: &[f64]) -> (f64, Vec<f64>) {
    let policy_sums = sums(policy, groups);
    let reference_sums = sums(&model(2), groups).detach();
    let labels: Vec<bool> = groups.iter().flat_map(|g| &g.completions).map(|c| c.label.unwrap()).collect();
    let inputs = KtoInputs { policy: &policy_sums, reference: &reference_sums, desirable: &labels };
    let output = if config.loss_type == KtoLossType::Bco {
        let now: Vec<f64> = ((policy_sums.detach() - &reference_sums) * config.beta).try_into().unwrap();
        let all = [seen, &now].concat();
        let desirable = labels.iter().filter(|l| **l).count();
        let shift = all.iter().sum::<f64>() / all.len() as f64;
        bco_loss(&inputs, &BcoBatch { shift, desirable, undesirable: labels.len() - desirable }, config)
    } else {
        kto_loss(&inputs, baseline(policy, groups), config)
    };
    let loss = output.unwrap().mean().unwrap();
    (loss.double_value(&[]), gradient_of(policy, &loss))
}

/// z0 by its definition: row i has prompt i and answer i − 1 mod m.
fn baseline(policy: &BigramLm, groups: &[PromptGroup]) -> f64 {
    let m = groups.len();
    if m < 2 {
        return 0.0;
    }
    let mismatched: Vec<PromptGroup> = (0..m)
        .map(|i| PromptGroup::new(groups[i].prompt.clone(), groups[(i + m - 1) % m].completions.clone()))
        .collect();
    let ratios: Vec<f64> =
        (sums(policy, &mismatched) - sums(&model(2), &mismatched)).detach().try_into().unwrap();
    kto_baseline(&ratios)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]

    #[test]
    fn pairs_that_are_sorted_over_the_batch(groups in pairs(), cuts in [0usize..7, 0usize..7], rows in 1usize..4) {
        let policy = model(1);
        let mixture = DpoConfig {
            loss_type: vec![DpoLossType::Ipo, DpoLossType::Aot, DpoLossType::Sft, DpoLossType::AotUnpaired],
            loss_weights: vec![0.3, 1.0, 0.2, 2.0],
            label_smoothing: 0.1,
            ..Default::default()
        };
        for config in [DpoConfig::of(DpoLossType::Aot), DpoConfig::of(DpoLossType::AotUnpaired), mixture] {
            let (loss, gradient) = whole_dpo(&policy, &config, &groups);
            let objective = Dpo::new(config, reference()).unwrap();
            let (cut, cut_gradient) = cut_loss(&policy, &objective, &groups, &cuts, rows);
            assert_close(&[cut], &[loss], 1e-10);
            assert_close(&cut_gradient, &gradient, 1e-10);
        }
    }

    #[test]
    fn labels_with_a_baseline_of_the_batch(
        groups in labelled_groups(), cuts in [0usize..7, 0usize..7], rows in 1usize..4,
    ) {
        let policy = model(1);
        for loss_type in [KtoLossType::Kto, KtoLossType::Bco] {
            let config = KtoConfig { loss_type, beta: 0.7, ..Default::default() };
            let (loss, gradient) = whole_kto(&policy, &config, &groups, &[]);
            let objective = Kto::new(config, reference()).unwrap();
            let (cut, cut_gradient) = cut_loss(&policy, &objective, &groups, &cuts, rows);
            assert_close(&[cut], &[loss], 1e-10);
            assert_close(&cut_gradient, &gradient, 1e-10);
        }
    }
}

/// Without its note a micro-batch cannot know the loss of the batch, so it is not made up.
#[test]
fn a_loop_that_surveys_nothing_is_refused() {
    let policy = model(1);
    let groups = [labelled(vec![1], vec![2], true)];
    let batch = PackedBatch::new(&groups).unwrap();
    for loss_type in [KtoLossType::Kto, KtoLossType::Bco] {
        let kto = Kto::new(KtoConfig { loss_type, ..Default::default() }, reference()).unwrap();
        assert!(
            kto.loss(&policy, &batch, &groups).unwrap_err().to_string().contains("survey the whole batch")
        );
    }
    let unpaired = KtoConfig { loss_type: KtoLossType::ApoZeroUnpaired, ..Default::default() };
    assert!(Kto::new(unpaired, reference()).unwrap().loss(&policy, &batch, &groups).is_ok());
    let groups = [pair(vec![1], vec![2], vec![3])];
    let aot = Dpo::new(DpoConfig::of(DpoLossType::Aot), reference()).unwrap();
    let error = aot.loss(&policy, &PackedBatch::new(&groups).unwrap(), &groups).unwrap_err().to_string();
    assert!(error.contains("survey the whole batch"), "{error}");
    let plain = Dpo::new(DpoConfig::default(), reference()).unwrap();
    assert!(couple_batch(&plain, &policy, &groups, 4).unwrap().is_none());
}

#[test]
fn a_coupled_loss_at_the_reference_is_ln_2() {
    let policy = model(2);
    let groups = [pair(vec![1], vec![2, 3], vec![4]), pair(vec![0], vec![5], vec![5, 5])];
    let aot = Dpo::new(DpoConfig::of(DpoLossType::Aot), reference()).unwrap().starting_at_reference();
    let (loss, _) = cut_loss(&policy, &aot, &groups, &[1, 1], 1);
    assert_close(&[loss], &[std::f64::consts::LN_2], 1e-12);
    aot.check_first_step(&[("loss".into(), loss)]).unwrap();
    assert!(aot.check_first_step(&[("loss".into(), 0.7)]).is_err());
    let kto = Kto::new(KtoConfig::default(), reference()).unwrap().starting_at_reference();
    kto.check_first_step(&[("rewards/chosen".into(), 0.0)]).unwrap();
    let error = kto.check_first_step(&[("rewards/chosen".into(), 0.1)]).unwrap_err().to_string();
    assert!(error.contains("rewards/chosen") && error.contains("instead of 0"), "{error}");
}

/// The surveyed rows of KTO are (x_i, y_{i−1}), also for an odd batch; a batch of one row has none and z0 = 0.
#[test]
fn mismatched_pairs_are_those_of_trl() {
    let groups = [
        labelled(vec![1], vec![11], true),
        labelled(vec![2], vec![12, 12], false),
        labelled(vec![3], vec![13], true),
    ];
    let kto = Kto::new(KtoConfig::default(), reference()).unwrap();
    let survey = kto.survey(&groups).unwrap().unwrap();
    let rows: Vec<(u32, &[u32])> =
        survey.iter().map(|g| (g.prompt[0], g.completions[0].token_ids.as_slice())).collect();
    assert_eq!(rows, [(1, &[13][..]), (2, &[11][..]), (3, &[12, 12][..])]);
    assert_eq!(kto.survey(&groups[..1]).unwrap().unwrap(), []);
    let one = [labelled(vec![1], vec![2], true)];
    let coupling = couple_batch(&kto, &model(1), &one, 8).unwrap().unwrap();
    assert_eq!(coupling.notes, [[0.0]]);
    let short = Kto::new(KtoConfig::default(), reference()).unwrap().with_max_length(2);
    let survey = short.survey(&groups).unwrap().unwrap();
    assert_eq!(survey[2].completions[0].token_ids, [12]);
    assert_eq!(kto.denominators(&groups).unwrap(), [3.0]);
    let error = kto.denominators(&[pair(vec![1], vec![2], vec![3])]).unwrap_err().to_string();
    assert!(error.contains("group 0") && error.contains("label"), "{error}");
    assert!(Kto::new(KtoConfig::default(), Reference::Free).is_err());
}

/// A group of several answers of one prompt: none of them meets its own prompt in the baseline.
#[test]
fn answers_of_one_prompt_are_mismatched_with_another_prompt() {
    let mut first = labelled(vec![1], vec![11], true);
    first.completions.push(labelled(vec![], vec![12], false).completions.remove(0));
    let groups = [first, labelled(vec![2], vec![13], true)];
    let kto = Kto::new(KtoConfig::default(), reference()).unwrap();
    let survey = kto.survey(&groups).unwrap().unwrap();
    let rows: Vec<(u32, u32)> =
        survey.iter().flat_map(|g| g.completions.iter().map(|c| (g.prompt[0], c.token_ids[0]))).collect();
    assert_eq!(rows, [(1, 13), (2, 11), (2, 12)]);
    assert_eq!(kto.denominators(&groups).unwrap(), [3.0]);
}

/// Cached references serve the rows; mismatched pairs, which no cache holds, take the model.
#[test]
fn cached_references_need_the_model_for_the_baseline_only() {
    let policy = model(1);
    let mut groups = vec![labelled(vec![1], vec![2, 3], true), labelled(vec![0], vec![5], false)];
    let with_model = Kto::new(KtoConfig::default(), reference()).unwrap();
    let expected = cut_loss(&policy, &with_model, &groups, &[1, 1], 1);
    let cached = Vec::<f64>::try_from(sums(&model(2), &groups).detach()).unwrap();
    for (group, sum) in groups.iter_mut().zip(cached) {
        group.completions[0].ref_logprob = Some(sum);
    }
    let without = Kto::new(KtoConfig::default(), Reference::Precomputed).unwrap();
    let error = couple_batch(&without, &policy, &groups, 2).unwrap_err().to_string();
    assert!(error.contains("needs the reference model"), "{error}");
    let cached = Kto::new(KtoConfig::default(), Reference::Precomputed)
        .unwrap()
        .with_baseline_model(model(2).replicate().unwrap());
    let got = cut_loss(&policy, &cached, &groups, &[1, 1], 1);
    assert_close(&[got.0], &[expected.0], 1e-12);
    assert_close(&got.1, &expected.1, 1e-12);
}

/// The shift of a batch is the mean of all rewards so far; the state goes on where it was after a resumption, and an
/// evaluation, which does not restore what it coupled, leaves it.
#[test]
fn the_running_mean_of_bco_is_state() {
    let policy = model(1);
    let config = KtoConfig { loss_type: KtoLossType::Bco, beta: 0.5, ..Default::default() };
    let first = [labelled(vec![1], vec![2, 3], true), labelled(vec![0], vec![5], false)];
    let second = [labelled(vec![4], vec![1, 1], false), labelled(vec![2], vec![0], true)];
    let mut bco = Kto::new(config.clone(), reference()).unwrap();
    assert_eq!(bco.state(), [0.0, 0.0]);
    let seen = couple_batch(&bco, &policy, &first, 1).unwrap().unwrap();
    assert_eq!(bco.state(), [0.0, 0.0], "coupling alone changes nothing");
    bco.restore(&seen.state).unwrap();
    let rewards: Vec<f64> =
        ((sums(&policy, &first) - sums(&model(2), &first)).detach() * 0.5).try_into().unwrap();
    assert_close(&bco.state(), &[(rewards[0] + rewards[1]) / 2.0, 2.0], 1e-12);
    let (loss, gradient) = whole_kto(&policy, &config, &second, &rewards);
    let mut resumed = Kto::new(config, reference()).unwrap();
    resumed.restore(&bco.state()).unwrap();
    for objective in [&bco, &resumed] {
        let got = cut_loss(&policy, objective, &second, &[1, 1], 1);
        assert_close(&[got.0], &[loss], 1e-12);
        assert_close(&got.1, &gradient, 1e-12);
    }
    for state in [&[1.0][..], &[f64::NAN, 1.0], &[0.0, -1.0], &[]] {
        assert!(bco.restore(state).is_err());
    }
    let mut kto = Kto::new(KtoConfig::default(), reference()).unwrap();
    assert!(kto.restore(&[0.0, 1.0]).is_err());
    kto.restore(&[]).unwrap();
}

/// A class that is absent from the batch adds nothing and divides nothing by 0.
#[test]
fn batches_of_one_label_are_finite() {
    let policy = model(1);
    for label in [true, false] {
        let groups = [labelled(vec![1], vec![2, 3], label), labelled(vec![0], vec![5], label)];
        for loss_type in [KtoLossType::Kto, KtoLossType::Bco, KtoLossType::ApoZeroUnpaired] {
            let kto = Kto::new(KtoConfig { loss_type, ..Default::default() }, reference()).unwrap();
            let (loss, gradient) = cut_loss(&policy, &kto, &groups, &[1, 1], 1);
            assert!(loss.is_finite() && gradient.iter().all(|g| g.is_finite()), "{loss_type:?} {label}");
        }
    }
}

#[test]
fn numbers_that_are_none_are_named() {
    let policy = model(1);
    let broken = BigramLm::new(&Tensor::full([6, 6], f64::NAN, (Kind::Double, policy.device())));
    let groups = [labelled(vec![1], vec![2], true), labelled(vec![0], vec![5], false)];
    let kto = Kto::new(KtoConfig::default(), reference()).unwrap();
    let error = couple_batch(&kto, &broken, &groups, 2).unwrap_err().to_string();
    assert!(error.contains("group 0") && error.contains("not finite"), "{error}");
    let groups = [pair(vec![1], vec![2], vec![3])];
    let aot = Dpo::new(DpoConfig::of(DpoLossType::Aot), reference()).unwrap();
    let error = couple_batch(&aot, &broken, &groups, 2).unwrap_err().to_string();
    assert!(error.contains("group 0") && error.contains("not finite"), "{error}");
}
