//! Two hazards of the field, for every loss at once: numbers that depend on how a batch is cut, and logged rewards
//! that are not those the loss is made of.

use crate::common;

use align_core::{Objective, align_types::PromptGroup};
use align_losses::{
    Aggregation, Dpo, DpoConfig, DpoLossType, FDivergence, Kto, KtoConfig, KtoLossType, Reference, Sft,
    SftConfig, SftLossType, Una, UnaConfig, UnaLossType,
};
use align_testkit::assert_close;
use common::{
    Cut, a_labelled_group, a_pair, a_scored_group, cut_batch, groups_of_all_kinds, labelled, model, pair,
    scored,
};
use proptest::prelude::*;

/// A frozen policy other than the trained one.
fn reference() -> Reference {
    Reference::Model(align_core::CausalLm::replicate(&model(2)).unwrap())
}

fn pair_configs() -> Vec<DpoConfig> {
    let alone = DpoLossType::ALL.map(|loss| match loss {
        DpoLossType::ExoPair | DpoLossType::Robust | DpoLossType::Aot => {
            DpoConfig { label_smoothing: 0.1, ..DpoConfig::of(loss) }
        }
        _ => DpoConfig::of(loss),
    });
    let mut configs = alone.to_vec();
    for f_divergence_type in [FDivergence::ForwardKl, FDivergence::JsDivergence, FDivergence::AlphaDivergence]
    {
        configs.push(DpoConfig { f_divergence_type, ..Default::default() });
    }
    configs.push(DpoConfig { use_weighting: true, ..Default::default() });
    configs.push(DpoConfig { ld_alpha: Some(0.3), ..Default::default() });
    configs.push(DpoConfig { reference_free: true, ..Default::default() });
    configs.push(DpoConfig {
        loss_type: vec![DpoLossType::Sigmoid, DpoLossType::Aot, DpoLossType::Sft],
        loss_weights: vec![1.0, 0.5, 0.2],
        ld_alpha: Some(0.5),
        ..Default::default()
    });
    configs.push(DpoConfig { sft_aggregation: Aggregation::SeqMeanMean, ..DpoConfig::of(DpoLossType::Orpo) });
    configs
}

fn of_pairs() -> Vec<Box<dyn Objective>> {
    let mut objectives: Vec<Box<dyn Objective>> = Vec::new();
    for config in pair_configs() {
        let reference = if config.uses_reference() { reference() } else { Reference::Free };
        objectives.push(Box::new(Dpo::new(config, reference).unwrap()));
    }
    for aggregation in [Aggregation::TokenMean, Aggregation::SeqMeanMean] {
        for loss_type in [SftLossType::Nll, SftLossType::Dft] {
            objectives.push(Box::new(Sft::new(SftConfig { loss_type, aggregation })));
        }
    }
    objectives
}

fn of_labels() -> Vec<Box<dyn Objective>> {
    [KtoLossType::Kto, KtoLossType::ApoZeroUnpaired, KtoLossType::Bco]
        .into_iter()
        .map(|loss_type| {
            let config = KtoConfig { loss_type, beta: 0.5, desirable_weight: 1.3, ..Default::default() };
            Box::new(Kto::new(config, reference()).unwrap()) as Box<dyn Objective>
        })
        .collect()
}

fn una(losses: &[UnaLossType]) -> Vec<Box<dyn Objective>> {
    let make = |loss_type: &UnaLossType| {
        let config = UnaConfig { loss_type: *loss_type, beta: 0.5, pair_weight: 0.7, ..Default::default() };
        Box::new(Una::new(config, reference()).unwrap()) as Box<dyn Objective>
    };
    losses.iter().map(make).collect()
}

/// Loss, gradient, summands and every metric of the batch cut in three are those of the batch in one piece.
fn assert_uncut(objectives: &[Box<dyn Objective>], groups: &[PromptGroup], cuts: &[usize; 2], rows: usize) {
    let policy = model(1);
    for objective in objectives {
        let whole = cut_batch(&policy, objective.as_ref(), groups, &[0, 0], groups.len());
        let cut = cut_batch(&policy, objective.as_ref(), groups, cuts, rows);
        let scale = whole.loss.abs().max(1.0);
        assert_close(&[cut.loss], &[whole.loss], 1e-10 * scale);
        assert_close(&cut.gradient, &whole.gradient, 1e-10 * scale);
        assert!(!whole.metrics.is_empty() && cut.metrics.keys().eq(whole.metrics.keys()));
        for (name, value) in &whole.metrics {
            let close = (cut.metrics[name] - value).abs() <= 1e-10 * value.abs().max(1.0);
            assert!(close, "{name}: {} in pieces, {value} in one", cut.metrics[name]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn losses_gradients_and_metrics_of_pairs_do_not_depend_on_the_cut(
        groups in prop::collection::vec(a_pair(), 1..7), cuts in [0usize..7, 0usize..7], rows in 1usize..4,
    ) {
        assert_uncut(&of_pairs(), &groups, &cuts, rows);
    }

    /// Odd batches and batches of one answer among them.
    #[test]
    fn losses_gradients_and_metrics_of_labels_do_not_depend_on_the_cut(
        groups in prop::collection::vec(a_labelled_group(), 1..7), cuts in [0usize..7, 0usize..7], rows in 1usize..4,
    ) {
        assert_uncut(&of_labels(), &groups, &cuts, rows);
    }

    #[test]
    fn losses_gradients_and_metrics_of_una_do_not_depend_on_the_cut(
        mixed in groups_of_all_kinds(), scores in prop::collection::vec(a_scored_group(), 1..6),
        cuts in [0usize..7, 0usize..7],
    ) {
        assert_uncut(&una(&[UnaLossType::Mse, UnaLossType::Bce]), &mixed, &cuts, 1);
        let with_rewards = |(index, mut group): (usize, PromptGroup)| {
            let rewards = serde_json::json!([0.1, 0.2 + index as f64, 0.9]);
            group.columns.insert("ref_rewards".into(), rewards);
            group
        };
        let scores: Vec<PromptGroup> = scores.into_iter().enumerate().map(with_rewards).collect();
        assert_uncut(&una(&[UnaLossType::RawMse, UnaLossType::Qrpo, UnaLossType::AStarPo]), &scores, &cuts, 1);
    }
}

fn log_sigmoid(z: f64) -> f64 {
    -(-z).exp().ln_1p()
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// What each loss of rewards is of one pair, from the rewards r_c and r_r that are logged.
fn loss_of_rewards(loss: DpoLossType, beta: f64, chosen: f64, rejected: f64) -> Option<f64> {
    use DpoLossType as L;
    let margin = chosen - rejected;
    Some(match loss {
        L::Sigmoid | L::Aot | L::AotUnpaired => -log_sigmoid(margin),
        L::Hinge => (1.0 - margin).max(0.0),
        L::NcaPair => -log_sigmoid(chosen) - 0.5 * (log_sigmoid(-chosen) + log_sigmoid(-rejected)),
        L::Robust => (-0.9 * log_sigmoid(margin) + 0.1 * log_sigmoid(-margin)) / 0.8,
        L::BcoPair => -log_sigmoid(chosen) - log_sigmoid(-rejected),
        L::SppoHard => ((chosen - 0.5) / beta).powi(2) + ((rejected + 0.5) / beta).powi(2),
        L::ApoZero => 1.0 - sigmoid(chosen) + sigmoid(rejected),
        L::ApoDown => sigmoid(chosen) + 1.0 - sigmoid(margin),
        _ => return None,
    })
}

/// A logged reward that is not what the loss sees explains a run wrongly. Put into the formula, the logged rewards of
/// a batch of one give its loss: with the weights of WPO and the tokens of LD-DPO too.
#[test]
fn logged_rewards_are_those_of_the_loss() {
    let policy = model(1);
    let groups = [pair(vec![1, 2], vec![3, 0, 5], vec![4, 4, 2, 1, 0, 3])];
    let mut compared = 0;
    for config in pair_configs() {
        let [loss] = config.loss_type[..] else { continue };
        let smoothed = config.label_smoothing > 0.0 && loss != DpoLossType::Robust;
        if smoothed || config.reference_free || config.f_divergence_type != FDivergence::ReverseKl {
            continue;
        }
        let weighted = config.use_weighting;
        let beta = config.beta;
        let objective =
            Dpo::new(config, if loss.uses_reference() { reference() } else { Reference::Free }).unwrap();
        let Cut { loss: value, metrics, .. } = cut_batch(&policy, &objective, &groups, &[0, 0], 1);
        let Some(expected) = metrics.get("rewards/chosen").and_then(|chosen| {
            assert_close(&[metrics["rewards/margins"]], &[chosen - metrics["rewards/rejected"]], 1e-12);
            loss_of_rewards(loss, beta, *chosen, metrics["rewards/rejected"])
        }) else {
            continue;
        };
        compared += 1;
        if weighted {
            // The weight is a number in (0, 1]: the loss is at most that of the rewards, of the same sign.
            assert!(value > 0.0 && value < expected, "{value} with a weight, {expected} without");
        } else {
            assert_close(&[value], &[expected], 1e-12 * expected.max(1.0));
        }
    }
    assert_eq!(compared, 11, "nine losses of rewards, and one of them with two options");

    for (label, name) in [(true, "rewards/chosen"), (false, "rewards/rejected")] {
        let groups = [labelled(vec![1], vec![3, 0, 5], label)];
        let sign = if label { 1.0 } else { -1.0 };
        for objective in of_labels() {
            let Cut { loss, metrics, .. } = cut_batch(&policy, objective.as_ref(), &groups, &[0, 0], 1);
            let (reward, weight) = (metrics[name], if label { 1.3 } else { 1.0 });
            let expected = match metrics.get("bco/shift") {
                Some(shift) => -log_sigmoid(sign * (reward - shift)),
                None => 1.0 - sigmoid(sign * (reward - 0.5 * metrics.get("kl").copied().unwrap_or(0.0))),
            };
            assert_close(&[loss], &[weight * expected], 1e-12);
        }
    }
    let [mse] = &una(&[UnaLossType::Mse])[..] else { unreachable!() };
    let Cut { loss, metrics, .. } =
        cut_batch(&policy, mse.as_ref(), &[scored(vec![1], vec![3, 0, 5], 0.8)], &[0, 0], 1);
    let reward = metrics.iter().find(|(name, _)| name.starts_with("rewards/")).unwrap().1;
    assert_close(&[loss], &[(sigmoid(*reward) - 0.8).powi(2)], 1e-12);
}
