//! The objectives over a model with known log-probabilities.

use crate::common;

use align_core::{
    CausalLm, Objective, PackedBatch, PaddedBatch, TokenLogProbs,
    align_types::{Completion, PromptGroup},
    tch::{Kind, Tensor},
};
use align_losses::{Aggregation, Dpo, DpoConfig, Reference, Sft, SftConfig};
use align_testkit::{BigramLm, assert_close};
use common::{VOCAB, model, pair, pairs};
use proptest::prelude::*;

fn sft(aggregation: Aggregation) -> Sft {
    Sft::new(SftConfig { aggregation, ..Default::default() })
}

/// The loop's arithmetic: denominators of the whole batch, gradients added over the cuts.
fn loss_and_gradient(
    model: &BigramLm,
    objective: &dyn Objective,
    parts: &[&[PromptGroup]],
) -> (f64, Vec<f64>) {
    align_core::clear_gradients([model.table()]).unwrap();
    let whole: Vec<PromptGroup> = parts.concat();
    let denominators = objective.denominators(&whole).unwrap();
    let mut total = 0.0;
    for part in parts.iter().filter(|p| !p.is_empty()) {
        let batch = PackedBatch::new(part).unwrap();
        let loss = objective.loss(model, &batch, part).unwrap().scaled_sum(&denominators).unwrap();
        total += loss.double_value(&[]);
        loss.backward();
    }
    (total, Vec::try_from(model.table().grad().reshape([-1])).unwrap())
}

/// Gives each answer a random mask with at least one token.
fn masked(mut groups: Vec<PromptGroup>, seed: u64) -> Vec<PromptGroup> {
    use align_core::align_types::{Purpose, RngStream};
    let mut rng = RngStream::new(seed, Purpose::Synthetic, 0, 0);
    for answer in groups.iter_mut().flat_map(|group| &mut group.completions) {
        let last = answer.token_ids.len() - 1;
        let mut trained: Vec<usize> = (0..last).filter(|_| rng.uniform() < 0.5).collect();
        trained.push(last);
        // Ranges of one token each may touch: they mean the same as longer ones.
        answer.trained = Some(trained.into_iter().map(|place| place..place + 1).collect());
    }
    groups
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_answer_does_not_depend_on_the_cut(groups in pairs(), cut in 0usize..7) {
        let cut = cut.min(groups.len());
        let policy = model(1);
        let reference = || Reference::Model(model(2).replicate().unwrap());
        let objectives: [Box<dyn Objective>; 3] = [
            Box::new(Dpo::new(DpoConfig::default(), reference()).unwrap()),
            Box::new(sft(Aggregation::TokenMean)),
            Box::new(sft(Aggregation::SeqMeanMean)),
        ];
        for objective in &objectives {
            let (loss, gradient) = loss_and_gradient(&policy, objective.as_ref(), &[&groups]);
            let (cut_loss, cut_gradient) =
                loss_and_gradient(&policy, objective.as_ref(), &[&groups[..cut], &groups[cut..]]);
            assert_close(&[cut_loss], &[loss], 1e-10);
            assert_close(&cut_gradient, &gradient, 1e-10);
        }
    }

    #[test]
    fn with_masks_the_answer_does_not_depend_on_the_cut(groups in pairs(), cut in 0usize..7, seed: u64) {
        let cut = cut.min(groups.len());
        let groups = masked(groups, seed);
        let policy = model(1);
        for aggregation in [Aggregation::TokenMean, Aggregation::SeqMeanMean] {
            let objective = sft(aggregation);
            let (loss, gradient) = loss_and_gradient(&policy, &objective, &[&groups]);
            let (cut_loss, cut_gradient) =
                loss_and_gradient(&policy, &objective, &[&groups[..cut], &groups[cut..]]);
            assert_close(&[cut_loss], &[loss], 1e-10);
            assert_close(&cut_gradient, &gradient, 1e-10);
        }
    }

    /// What a mask leaves out adds no term and does not count; padded rows with the mask give the same values.
    #[test]
    fn masks_leave_tokens_out_of_the_loss(groups in pairs(), seed: u64) {
        let policy = model(1);
        let whole = PackedBatch::new(&groups).unwrap();
        let everything = policy.token_log_probs(&whole, 1.0).unwrap().to_vecs().unwrap();
        let groups = masked(groups, seed);
        let answers = groups.iter().flat_map(|group| &group.completions);
        let kept: Vec<Vec<f64>> = answers
            .zip(&everything)
            .map(|(answer, values)| answer.trained_ranges().flatten().map(|i| f64::from(values[i])).collect())
            .collect();
        let sum: f64 = kept.iter().flatten().sum();
        let count = kept.iter().map(Vec::len).sum::<usize>() as f64;
        let (loss, _) = loss_and_gradient(&policy, &sft(Aggregation::TokenMean), &[&groups]);
        assert_close(&[loss], &[-sum / count], 1e-5);
        let means: f64 = kept.iter().map(|values| values.iter().sum::<f64>() / values.len() as f64).sum();
        let (loss, _) = loss_and_gradient(&policy, &sft(Aggregation::SeqMeanMean), &[&groups]);
        assert_close(&[loss], &[-means / kept.len() as f64], 1e-5);

        let batch = PackedBatch::new(&groups).unwrap();
        let packed = policy.token_log_probs(&batch, 1.0).unwrap();
        let padded = PaddedBatch::from_packed(&batch, 0, policy.device()).unwrap();
        let logits = policy.table().detach().index_select(0, &padded.ids.reshape([-1]));
        let size = [padded.ids.size()[0], padded.ids.size()[1], i64::from(VOCAB)];
        let unpacked = padded.token_log_probs(&logits.reshape(size), 1.0).unwrap();
        assert_eq!(unpacked.lens(), packed.lens());
        let flat = |logps: &TokenLogProbs| Vec::<f64>::try_from(logps.values().detach()).unwrap();
        assert_close(&flat(&unpacked), &flat(&packed), 1e-12);
        // The masks come back from padded rows: the same tokens are predicted after the same beginning.
        let back = PackedBatch::new(&padded.to_groups().unwrap()).unwrap();
        assert_eq!(back.targets(), batch.targets());
        assert_close(&flat(&policy.token_log_probs(&back, 1.0).unwrap()), &flat(&packed), 1e-12);
    }

    /// Metamorphic: the same constant on policy and reference cancels; swapping the answers mirrors the margin.
    #[test]
    fn dpo_sees_differences_only(shift in -5.0f64..5.0, h in prop::collection::vec(-3.0f64..3.0, 2..6)) {
        use align_losses::{DpoInputs, dpo_loss};
        let chosen = Tensor::from_slice(&h);
        let zero = chosen.zeros_like();
        let moved = &zero + shift;
        let config = DpoConfig::default();
        let terms = |chosen: &Tensor, rejected: &Tensor, ref_chosen: &Tensor| {
            let inputs = DpoInputs {
                ref_chosen: Some(ref_chosen), ref_rejected: Some(&zero), ..DpoInputs::new(chosen, rejected)
            };
            Vec::<f64>::try_from(&dpo_loss(&inputs, &config).unwrap().components[0].terms).unwrap()
        };
        let plain = terms(&chosen, &zero, &zero);
        assert_close(&terms(&(&chosen + shift), &zero, &moved), &plain, 1e-12);
        // softplus(-z) - softplus(z) = -z.
        let swapped = terms(&zero, &chosen, &zero);
        let differences: Vec<f64> = plain.iter().zip(&swapped).map(|(a, b)| a - b).collect();
        assert_close(&differences, &h.iter().map(|x| -0.1 * x).collect::<Vec<_>>(), 1e-12);
    }
}

#[test]
fn the_first_loss_is_ln_2_and_anything_else_is_refused() {
    let policy = model(1);
    let groups = [pair(vec![1], vec![2, 3], vec![4]), pair(vec![0], vec![5], vec![5, 5])];
    let dpo = Dpo::new(DpoConfig::default(), Reference::Model(policy.replicate().unwrap()))
        .unwrap()
        .starting_at_reference();
    let (loss, _) = loss_and_gradient(&policy, &dpo, &[&groups]);
    assert_close(&[loss], &[std::f64::consts::LN_2], 1e-12);
    dpo.check_first_step(&[("loss".into(), loss)]).unwrap();
    for wrong in [0.70, f64::NAN] {
        let error = dpo.check_first_step(&[("loss".into(), wrong)]).unwrap_err().to_string();
        assert!(error.contains("ln 2"), "{error}");
    }
}

#[test]
fn precomputed_references_give_the_loss_of_the_model_itself() {
    let (policy, reference) = (model(1), model(2));
    let mut groups = vec![pair(vec![1], vec![2, 3], vec![4]), pair(vec![0], vec![5], vec![5, 5])];
    let with_model =
        Dpo::new(DpoConfig::default(), Reference::Model(reference.replicate().unwrap())).unwrap();
    let expected = loss_and_gradient(&policy, &with_model, &[&groups]);
    let precomputed = Dpo::new(DpoConfig::default(), Reference::Precomputed).unwrap();
    let batch = PackedBatch::new(&groups).unwrap();
    let missing = precomputed.loss(&policy, &batch, &groups).unwrap_err().to_string();
    assert!(missing.contains("group 0") && missing.contains("not computed"), "{missing}");
    let sums = reference.token_log_probs(&batch, 1.0).unwrap().sums().unwrap();
    let sums: Vec<f64> = sums.detach().try_into().unwrap();
    for (completion, sum) in groups.iter_mut().flat_map(|g| &mut g.completions).zip(&sums) {
        completion.ref_logprob = Some(*sum);
    }
    let got = loss_and_gradient(&policy, &precomputed, &[&groups]);
    assert_close(&[got.0], &[expected.0], 1e-12);
    assert_close(&got.1, &expected.1, 1e-12);
    groups[1].completions[0].ref_logprob = Some(f64::NAN);
    assert!(precomputed.loss(&policy, &batch, &groups).unwrap_err().to_string().contains("group 1"));
}

#[test]
fn the_reference_is_not_trained() {
    let policy = model(1);
    let reference = model(2).replicate().unwrap();
    // The leaf of the very model that the objective holds.
    let leaf = reference.parameters().remove(0).tensor;
    let dpo = Dpo::new(DpoConfig::default(), Reference::Model(reference)).unwrap();
    let _ = loss_and_gradient(&policy, &dpo, &[&[pair(vec![1], vec![2], vec![3])]]);
    assert!(policy.table().grad().defined());
    assert!(leaf.requires_grad() && !leaf.grad().defined());
}

#[test]
fn groups_that_are_no_pairs_are_named() {
    let dpo = Dpo::new(DpoConfig::default(), Reference::Precomputed).unwrap();
    let three = PromptGroup::new(vec![1], vec![Completion::new(vec![2]); 3]);
    let error = dpo.denominators(&[pair(vec![1], vec![2], vec![3]), three]).unwrap_err().to_string();
    assert!(error.contains("group 1") && error.contains("3 completions"), "{error}");
    assert!(Dpo::new(DpoConfig::default(), Reference::Free).is_err());
}

/// DPO on one pair moves mass from the rejected to the chosen token, and not without a loss to follow.
#[test]
fn descent_raises_the_margin() {
    let policy = model(3);
    let groups = [pair(vec![1], vec![2], vec![3])];
    // A replica would share storage with the policy; the reference must stay while the policy moves.
    let frozen = BigramLm::new(policy.table());
    let frozen = Dpo::new(DpoConfig::default(), Reference::Model(frozen.replicate().unwrap())).unwrap();
    let (before, gradient) = loss_and_gradient(&policy, &frozen, &[&groups]);
    let step = Tensor::from_slice(&gradient).reshape(policy.table().size()).to_kind(Kind::Double);
    let moved = BigramLm::new(&(policy.table().detach() - step * 5.0));
    let (after, _) = loss_and_gradient(&moved, &frozen, &[&groups]);
    assert!(after < before, "{after} against {before}");
}
