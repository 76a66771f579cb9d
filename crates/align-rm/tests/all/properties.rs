//! What the losses must satisfy whatever the numbers: order, offsets and cuts do not matter, and what makes no sense is
//! refused with the row.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use align_core::{
    Objective, PackedBatch, ScoreModel,
    align_types::{PromptGroup, Source},
    tch::Tensor,
};
use align_rm::{
    Comparison, PairInputs, RewardConfig, RewardModelObjective, TieRule, comparison_loss, label_loss,
    pair_loss, regression_loss,
};
use align_testkit::assert_close;
use proptest::prelude::*;

use crate::common::{SumScores, VOCAB, labelled, loss_and_gradient, pair, ranking, scored};

fn value_and_gradient(scores: &[f64], prompts: &[Vec<Comparison>], config: &RewardConfig) -> (f64, Vec<f64>) {
    let leaf = Tensor::from_slice(scores).set_requires_grad(true);
    let loss = comparison_loss(&leaf, prompts, config).unwrap().mean().unwrap();
    loss.backward();
    (loss.double_value(&[]), Vec::try_from(leaf.grad()).unwrap())
}

fn configs() -> impl Strategy<Value = RewardConfig> {
    (0usize..3, 0.05f64..2.0, 0.0f64..0.4).prop_map(|(rule, eta, label_smoothing)| {
        let ties = [TieRule::Skip, TieRule::Half, TieRule::RaoKupper][rule];
        let tie_margin = (ties == TieRule::RaoKupper).then_some(eta);
        RewardConfig { ties, tie_margin, label_smoothing, ..Default::default() }
    })
}

/// Scores and ranks of the answers of one prompt, not all of them tied.
fn rankings() -> impl Strategy<Value = Vec<(f64, u32)>> {
    prop::collection::vec((-4.0f64..4.0, 1u32..4), 2..7)
        .prop_filter("something to compare", |list| list.iter().any(|(_, rank)| *rank != list[0].1))
}

fn tokens() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..VOCAB, 1..5)
}

fn groups() -> impl Strategy<Value = Vec<PromptGroup>> {
    let ranked = prop::collection::vec((tokens(), 1u32..4), 2..5);
    let group = prop_oneof![
        (tokens(), tokens()).prop_map(|(chosen, rejected)| pair(chosen, rejected)),
        ranked.prop_map(ranking),
        (tokens(), any::<bool>()).prop_map(|(answer, label)| labelled(answer, label)),
        (tokens(), -2.0f64..2.0).prop_map(|(answer, score)| scored(answer, score)),
    ];
    prop::collection::vec(group, 1..8)
}

proptest! {
    #[test]
    fn the_order_of_answers_does_not_matter(answers in rankings(), config in configs(), turn in 1usize..6) {
        let (scores, ranks): (Vec<f64>, Vec<u32>) = answers.iter().copied().unzip();
        let (value, gradient) =
            value_and_gradient(&scores, &[Comparison::of_ranks(&ranks, 0, config.ties)], &config);
        let turn = turn % scores.len();
        let mut moved = answers;
        moved.rotate_left(turn);
        let (scores, ranks): (Vec<f64>, Vec<u32>) = moved.into_iter().unzip();
        let (other, mut turned) =
            value_and_gradient(&scores, &[Comparison::of_ranks(&ranks, 0, config.ties)], &config);
        turned.rotate_right(turn);
        assert_close(&[other], &[value], 1e-12);
        assert_close(&turned, &gradient, 1e-12);
    }

    /// r → r + c(x): one offset per prompt.
    #[test]
    fn an_offset_of_a_prompt_cancels(
        first in rankings(), second in rankings(), shifts in (-9.0f64..9.0, -9.0f64..9.0), config in configs(),
    ) {
        let at = |first_shift: f64, second_shift: f64| {
            let moved = |list: &[(f64, u32)], shift: f64| list.iter().map(|(r, _)| r + shift).collect::<Vec<_>>();
            let ranks = |list: &[(f64, u32)]| list.iter().map(|(_, rank)| *rank).collect::<Vec<_>>();
            let prompts = [
                Comparison::of_ranks(&ranks(&first), 0, config.ties),
                Comparison::of_ranks(&ranks(&second), first.len(), config.ties),
            ];
            value_and_gradient(&[moved(&first, first_shift), moved(&second, second_shift)].concat(), &prompts, &config)
        };
        let ((value, gradient), (other, moved)) = (at(0.0, 0.0), at(shifts.0, shifts.1));
        assert_close(&[other], &[value], 1e-11);
        assert_close(&moved, &gradient, 1e-11);
        // So each prompt's gradient has sum 0.
        prop_assert!(gradient[..first.len()].iter().sum::<f64>().abs() < 1e-12);
    }

    #[test]
    fn a_ranking_of_two_is_a_pair_bit_for_bit(
        pairs in prop::collection::vec((-4.0f64..4.0, -4.0f64..4.0, any::<bool>()), 1..6), config in configs(),
    ) {
        let (chosen, rejected): (Vec<f64>, Vec<f64>) =
            pairs.iter().map(|(a, b, turned)| if *turned { (*b, *a) } else { (*a, *b) }).unzip();
        let (chosen, rejected) = (Tensor::from_slice(&chosen), Tensor::from_slice(&rejected));
        let of_pairs = pair_loss(&PairInputs::new(&chosen, &rejected), &config).unwrap();
        let scores: Vec<f64> = pairs.iter().flat_map(|(a, b, _)| [*a, *b]).collect();
        let prompts: Vec<_> = pairs
            .iter()
            .enumerate()
            .map(|(i, pair)| Comparison::of_ranks(if pair.2 { &[2, 1] } else { &[1, 2] }, 2 * i, config.ties))
            .collect();
        let ranked = comparison_loss(&Tensor::from_slice(&scores), &prompts, &config).unwrap();
        let terms = |t: &Tensor| Vec::<f64>::try_from(t).unwrap();
        prop_assert_eq!(terms(&of_pairs.components[0].terms), terms(&ranked.components[0].terms));
    }

    #[test]
    fn the_answer_does_not_depend_on_the_cut(groups in groups(), cut in 0usize..8, centering in 0.0f64..0.2) {
        let config = RewardConfig {
            ties: TieRule::Half,
            center_rewards_coefficient: centering,
            binary_weight: 0.3,
            ..Default::default()
        };
        let objective = RewardModelObjective::new(config).unwrap();
        let model = SumScores::new(3);
        let whole = loss_and_gradient(&objective, &model, &[&groups]);
        let (head, tail) = groups.split_at(cut.min(groups.len()));
        let parts = loss_and_gradient(&objective, &model, &[head, tail]);
        assert_close(&[parts.0], &[whole.0], 1e-10);
        assert_close(&parts.1, &whole.1, 1e-10);
    }
}

/// A ranking of four is one item and weighs as much as a pair: its six comparisons are averaged first.
#[test]
fn the_comparisons_of_a_prompt_are_one_item() {
    let objective = RewardModelObjective::new(RewardConfig::default()).unwrap();
    let four = ranking(vec![(vec![0], 1), (vec![1], 2), (vec![2], 3), (vec![3], 4)]);
    let groups = [four, pair(vec![4], vec![5]), labelled(vec![1], true), scored(vec![1, 2], 0.5)];
    assert_eq!(objective.denominators(&groups).unwrap(), [2.0, 1.0, 1.0]);
    let model = SumScores::new(1);
    let table: Vec<f64> = Vec::try_from(&model.table).unwrap();
    let softplus = |z: f64| z.exp().ln_1p();
    let pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
    let six = pairs.iter().map(|(a, b)| softplus(table[*b] - table[*a])).sum::<f64>() / 6.0;
    let one = softplus(table[5] - table[4]);
    let single = softplus(-table[1]) + (table[1] + table[2] - 0.5).powi(2);
    let (loss, _) = loss_and_gradient(&objective, &model, &[&groups]);
    assert_close(&[loss], &[(six + one) / 2.0 + single], 1e-12);
}

#[test]
fn columns_of_pairs_are_read() {
    let objective = RewardModelObjective::new(RewardConfig::default()).unwrap();
    let model = SumScores::new(1);
    let table: Vec<f64> = Vec::try_from(&model.table).unwrap();
    let mut group = pair(vec![4], vec![5]);
    group.columns.insert("margin".into(), 0.5.into());
    group.columns.insert("preference".into(), 0.8.into());
    let z = table[4] - table[5] - 0.5;
    let expected = 0.8 * (-z).exp().ln_1p() + 0.2 * z.exp().ln_1p();
    let (loss, _) = loss_and_gradient(&objective, &model, &[&[group.clone()]]);
    assert_close(&[loss], &[expected], 1e-12);
    group.columns.insert("margin".into(), serde_json::Value::Null);
    group.columns.insert("preference".into(), serde_json::Value::Null);
    let (plain, _) = loss_and_gradient(&objective, &model, &[&[pair(vec![4], vec![5])]]);
    assert_eq!(loss_and_gradient(&objective, &model, &[&[group]]).0, plain);
}

/// Every row that cannot be learned from is named, with what is wrong.
#[test]
fn rows_without_meaning_are_refused_by_name() {
    let objective = RewardModelObjective::new(RewardConfig::default()).unwrap();
    let refused = |mut group: PromptGroup, expected: &str| {
        group.source = Some(Source { file: "rows.jsonl".into(), row: 7 });
        let error = objective.denominators(&[pair(vec![1], vec![2]), group]).unwrap_err().to_string();
        assert!(error.contains("rows.jsonl:7") && error.contains(expected), "{error}");
    };
    let with = |name: &str, value: serde_json::Value, mut group: PromptGroup| {
        group.columns.insert(name.into(), value);
        group
    };
    refused(ranking(vec![(vec![1], 1)]), "one answer");
    refused(ranking(vec![(vec![1], 2), (vec![2], 2)]), "all tied");
    refused(PromptGroup::new(vec![1], vec![]), "0 completions");
    refused(scored(vec![1], f64::NAN), "NaN");
    let mut half = ranking(vec![(vec![1], 1), (vec![2], 2)]);
    half.completions[1].rank = None;
    refused(half, "2 completions with 1 ranks");
    let mut both = labelled(vec![1], true);
    both.completions[0].reward = Some(1.0);
    refused(both, "1 labels and 1 scores");
    refused(with("margin", "big".into(), pair(vec![1], vec![2])), "column margin is \"big\"");
    refused(with("preference", 1.5.into(), pair(vec![1], vec![2])), "column preference is 1.5");
    refused(with("margin", 1.0.into(), ranking(vec![(vec![1], 1), (vec![2], 2)])), "belongs to pairs");
    let halves =
        RewardModelObjective::new(RewardConfig { ties: TieRule::Half, ..Default::default() }).unwrap();
    assert_eq!(halves.denominators(&[ranking(vec![(vec![1], 2), (vec![2], 2)])]).unwrap(), [1.0, 0.0, 0.0]);
}

#[test]
fn scores_that_are_no_numbers_are_refused_with_the_row() {
    let model = SumScores { table: Tensor::from_slice(&[0.0, 1.0, f64::NAN, 0.0, 0.0, 0.0]) };
    let objective = RewardModelObjective::new(RewardConfig::default()).unwrap();
    let groups = [pair(vec![0], vec![1]), pair(vec![1], vec![2])];
    let batch = PackedBatch::new(&groups).unwrap();
    let model: &dyn ScoreModel = &model;
    let error = objective.loss(model, &batch, &groups).unwrap_err().to_string();
    assert!(error.contains("group 1: the score of its answer rejected") && error.contains("NaN"), "{error}");
}

#[test]
fn hostile_inputs_of_the_functions_are_refused() {
    let config = RewardConfig::default();
    let two = Tensor::from_slice(&[0.0, 1.0]);
    let refused = |result: align_rm::Result<align_core::LossOutput>, expected: &str| {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let compare =
        |list: Vec<Comparison>| comparison_loss(&two, &[vec![Comparison::new(0, 1)], list], &config);
    refused(compare(vec![]), "prompt 1: it has nothing to compare");
    refused(compare(vec![Comparison::new(0, 2)]), "prompt 1: comparison 0 is of answers 0 and 2 of 2 scores");
    refused(compare(vec![Comparison::new(1, 1)]), "answers 1 and 1");
    refused(compare(vec![Comparison::tie(0, 1)]), "the rule skips ties");
    refused(compare(vec![Comparison { margin: f64::NAN, ..Comparison::new(0, 1) }]), "margin NaN");
    refused(compare(vec![Comparison { preference: -0.1, ..Comparison::new(0, 1) }]), "preference -0.1");
    let nan = Tensor::from_slice(&[0.0, f64::NAN]);
    refused(comparison_loss(&nan, &[vec![Comparison::new(0, 1)]], &config), "score 1 is not finite");
    refused(comparison_loss(&two.reshape([2, 1]), &[], &config), "[2, 1]");
    refused(pair_loss(&PairInputs::new(&two, &Tensor::from_slice(&[0.0])), &config), "rejected");
    let margins = PairInputs { margins: Some(&[1.0]), ..PairInputs::new(&two, &two) };
    refused(pair_loss(&margins, &config), "margins: 1 for 2 pairs");
    refused(label_loss(&two, &[true], &config), "expected [1]");
    refused(regression_loss(&two, &[1.0, f64::INFINITY], &config), "score of row 1");
    refused(regression_loss(&two, &[1.0], &config), "expected [1]");
}

/// What a run shows is what its loss sees: of plain pairs the loss is softplus(−margin) of the logged margin, the
/// logged mean that of all scores, and neither is multiplied by the weight of the loss.
#[test]
fn logged_rewards_are_those_of_the_loss() {
    let config = RewardConfig { pair_weight: 0.25, ..Default::default() };
    let objective = RewardModelObjective::new(config).unwrap();
    let model = SumScores::new(5);
    let groups = [pair(vec![0, 1], vec![2])];
    let batch = PackedBatch::new(&groups).unwrap();
    let scores: Vec<f64> = Vec::try_from(model.scores(&batch).unwrap()).unwrap();
    let output = objective.loss(&model, &batch, &groups).unwrap();
    let metric =
        |name: &str| output.metrics.iter().find(|term| term.name == name).map(|term| term.sum / term.count);
    assert_eq!((metric("rewards/chosen"), metric("rewards/rejected")), (Some(scores[0]), Some(scores[1])));
    assert_eq!(metric("rewards/mean"), Some((scores[0] + scores[1]) / 2.0));
    let margin = metric("rewards/margins").unwrap();
    assert_close(&[output.mean().unwrap().double_value(&[])], &[0.25 * (-margin).exp().ln_1p()], 1e-12);
}
