//! The objectives over models: identities before the first update, what is measured, language-modelling rows, references.

use align_core::{
    ActorCritic, CausalLm, Objective, PackedBatch, ValueModel,
    align_types::{Completion, PromptGroup, config::ReferenceSync},
    tch::{Kind, Tensor},
};
use align_losses::MovingReference;
use align_ppo::{
    ActorCriticObjective, AdvantageKind, CriticKind, CriticObjective, OnlineDpoObjective, PolicyObjective,
    PpoConfig, References, ShapingInputs, Truncated, begin_trajectories, check_first_ratio,
    estimate_advantages, pair_samples, read_measures, shape_rewards,
};
use align_testkit::{BigramActorCritic, BigramLm, TabularValues};

use crate::common::{abstained, answer, assert_close, compute, fill, group, trajectory, trajectory_mut};

const VOCAB: i64 = 6;

fn table(kind: Kind) -> Tensor {
    let values: Vec<f64> = (0..VOCAB * VOCAB).map(|i| ((i * 7 % 11) as f64) / 5.0 - 1.0).collect();
    Tensor::from_slice(&values).reshape([VOCAB, VOCAB]).to_kind(kind)
}

fn policy() -> BigramLm {
    BigramLm::new(&table(Kind::Float))
}

fn other() -> Box<dyn CausalLm> {
    Box::new(BigramLm::new(&(table(Kind::Float) * 0.5)))
}

fn critic() -> TabularValues {
    TabularValues::new(&Tensor::from_slice(&[0.1f32, -0.2, 0.3, 0.4, 0.0, 0.7]))
}

fn samples() -> Vec<PromptGroup> {
    vec![
        group(&[0, 1], vec![answer(&[2, 3, 4], 1.0), answer(&[5], 0.0), answer(&[1, 1], 0.5)]),
        group(&[3], vec![answer(&[4, 4], 0.0), abstained(answer(&[2], 0.0)), answer(&[0, 5, 2, 1], 2.0)]),
    ]
}

/// Measures, shapes and estimates with one objective for the policy and one for the critic.
fn prepared(config: &PpoConfig, objective: &PolicyObjective) -> Vec<PromptGroup> {
    let mut groups = samples();
    fill::<dyn CausalLm>(objective, &policy(), &mut groups, objective.layout());
    if config.advantage.uses_critic() {
        let values = CriticObjective::new(config).unwrap();
        fill::<dyn ValueModel>(&values, &critic(), &mut groups, values.layout());
    }
    let inputs = ShapingInputs { kl_coef: config.reward_kl_coef(), ..Default::default() };
    shape_rewards(&mut groups, config, inputs).unwrap();
    estimate_advantages(&mut groups, config, None).unwrap();
    groups
}

fn objective(config: &PpoConfig, temperature: f64) -> PolicyObjective {
    let references =
        if config.needs_reference() { References::frozen(Box::new(policy())) } else { References::none() };
    PolicyObjective::new(config, temperature, 8, references).unwrap()
}

/// Before the first update: every ratio is exactly 1, nothing is clipped, and k3 to an equal reference is 0.
#[test]
fn identities_before_the_first_update() {
    for kind in AdvantageKind::ALL.into_iter().filter(|kind| *kind != AdvantageKind::OnlineDpo) {
        for temperature in [1.0, 0.7] {
            let config = PpoConfig::for_advantage(kind);
            let objective = objective(&config, temperature);
            let groups = prepared(&config, &objective);
            let model = policy();
            let out = compute::<dyn CausalLm>(&objective, &model, &groups, &[]);
            assert_eq!(out.metric("val/ratio"), 1.0, "{}", kind.name());
            assert_eq!(out.metric("policy/approxkl_avg"), 0.0);
            if kind.clips() {
                assert_eq!(out.metric("policy/clipfrac_avg"), 0.0);
            }
            check_first_ratio(&out.metrics).unwrap();
            assert!(out.gradient.iter().any(|g| g.abs() > 1e-3), "{} learns", kind.name());
        }
    }
}

/// The loss of GRPO is 0 before the first update, and its gradient is not; with k3 to another reference it is β KL.
#[test]
fn the_loss_of_grpo_is_zero_and_its_gradient_is_not() {
    let config = PpoConfig::for_advantage(AdvantageKind::Grpo);
    let equal = objective(&config, 1.0);
    let out = compute::<dyn CausalLm>(&equal, &policy(), &prepared(&config, &equal), &[]);
    assert!(out.loss.abs() < 1e-12, "{}", out.loss);
    assert!(out.gradient.iter().any(|g| g.abs() > 1e-2));
    let apart = PolicyObjective::new(&config, 1.0, 8, References::frozen(other())).unwrap();
    let groups = prepared(&config, &apart);
    let out = compute::<dyn CausalLm>(&apart, &policy(), &groups, &[]);
    let mut means = Vec::new();
    for completion in groups.iter().flat_map(|g| &g.completions).filter(|c| c.reward.is_some()) {
        let known = trajectory(completion);
        let d = known.reference.iter().zip(&known.old).map(|(r, o)| f64::from(*r) - f64::from(*o));
        means.push(d.map(|d| d.exp() - 1.0 - d).sum::<f64>() / known.old.len() as f64);
    }
    let kl = means.iter().sum::<f64>() / means.len() as f64;
    assert!(kl > 0.01);
    assert_close(&[out.loss], &[0.04 * kl], 1e-6);
}

/// Log-probabilities at the temperature of sampling, for policy, reference and first reference, and entropies.
#[test]
fn what_is_measured_is_what_the_models_say() {
    let model = policy();
    let sync = ReferenceSync { ref_model_mixup_alpha: 0.25, ref_model_sync_steps: 1 };
    let moving = MovingReference::new(other(), sync, &model.parameters()).unwrap();
    let config = PpoConfig { ref_ema: Some(0.25), ..PpoConfig::default() };
    let mut objective = PolicyObjective::new(&config, 2.0, 8, References::moving(moving, other())).unwrap();
    let layout = objective.layout();
    assert!(layout.policy && layout.reference && layout.first_reference && !layout.values);
    let log_probs = |table: &Tensor, from: i64, to: i64| {
        f64::from((table.get(from) / 2.0).log_softmax(0, Kind::Float).double_value(&[to]) as f32)
    };
    let mut groups = samples();
    fill::<dyn CausalLm>(&objective, &model, &mut groups, layout);
    // The answer 2 3 4 behind 0 1.
    let pairs = [(1, 2), (2, 3), (3, 4)];
    let expect = |groups: &[PromptGroup], reference: &Tensor| {
        let known = trajectory(&groups[0].completions[0]);
        let list = |table: &Tensor| pairs.map(|(from, to)| log_probs(table, from, to));
        let wide = |list: &[f32]| list.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        assert_close(&wide(&known.old), &list(&table(Kind::Float)), 1e-6);
        assert_close(&wide(&known.reference), &list(reference), 1e-6);
        assert_close(&wide(&known.first_reference), &list(&(table(Kind::Float) * 0.5)), 1e-6);
    };
    expect(&groups, &(table(Kind::Float) * 0.5));
    // Updates do not move it. At the end of an iteration: a quarter of the policy, three quarters of what it was, which is
    // (0.25 + 0.375) of the table.
    Objective::<dyn CausalLm>::after_update(&mut objective, 1, &model.parameters()).unwrap();
    Objective::<dyn CausalLm>::after_update(&mut objective, 2, &model.parameters()).unwrap();
    Objective::<dyn CausalLm>::after_iteration(&mut objective, &model.parameters()).unwrap();
    assert_eq!(Objective::<dyn CausalLm>::weights(&objective).len(), 1);
    let replica = objective.replicate().unwrap();
    fill::<dyn CausalLm>(replica.as_ref(), &model, &mut groups, layout);
    expect(&groups, &(table(Kind::Float) * 0.625));
    // A uniform policy over six tokens.
    let uniform =
        PolicyObjective::new(&PpoConfig::for_advantage(AdvantageKind::Dapo), 1.0, 8, References::none())
            .unwrap();
    let batch = PackedBatch::new(&groups).unwrap();
    let numbers = uniform.measure(&BigramLm::uniform(VOCAB), &batch, &groups).unwrap();
    let report = read_measures(&mut groups, &numbers, uniform.layout()).unwrap();
    assert_eq!(report.tokens, 13);
    assert_close(&[report.mean_entropy().unwrap()], &[6f64.ln()], 1e-6);
}

/// PPO-ptx: 27.8 times the mean of −log π over the tokens of other rows, at temperature 1, beside the policy's loss.
#[test]
fn language_modelling_rows_have_a_loss_of_their_own() {
    let plain = PpoConfig::for_advantage(AdvantageKind::DrGrpo);
    let config = PpoConfig { ptx_coef: 27.8, ..plain.clone() };
    let without = objective(&plain, 0.5);
    let mut groups = prepared(&plain, &without);
    let alone = compute::<dyn CausalLm>(&without, &policy(), &groups, &[]);
    groups.insert(1, group(&[2], vec![Completion::new(vec![3, 0, 1])]));
    let with = objective(&config, 0.5);
    let out = compute::<dyn CausalLm>(&with, &policy(), &groups, &[2, 1]);
    let log_prob = |from, to| table(Kind::Float).get(from).log_softmax(0, Kind::Float).double_value(&[to]);
    let nll = -(log_prob(2, 3) + log_prob(3, 0) + log_prob(0, 1)) / 3.0;
    assert_close(&[out.loss - alone.loss], &[27.8 * nll], 1e-5);
    let error = Objective::<dyn CausalLm>::denominators(&without, &groups).unwrap_err().to_string();
    assert!(error.contains("ptx-coef"), "{error}");
    // A batch of such rows alone is language modelling.
    let rows = [groups.remove(1)];
    let out = compute::<dyn CausalLm>(&with, &policy(), &rows, &[]);
    assert_close(&[out.loss], &[27.8 * nll], 1e-5);
    // Nothing is measured of them.
    let mut both = [rows[0].clone(), samples().remove(0)];
    fill::<dyn CausalLm>(&with, &policy(), &mut both, with.layout());
    assert!(
        both[0].completions[0].trajectory.is_none() && trajectory(&both[1].completions[1]).old.len() == 1
    );
}

/// What abstained adds no term, no token and no gradient, wherever it stands in the pack.
#[test]
fn answers_that_are_left_out_do_not_count() {
    let config = PpoConfig::for_advantage(AdvantageKind::Dapo);
    let objective = objective(&config, 1.0);
    let groups = prepared(&config, &objective);
    let all = compute::<dyn CausalLm>(&objective, &policy(), &groups, &[]);
    let mut without = groups.clone();
    without[1].completions.remove(1);
    let fewer = compute::<dyn CausalLm>(&objective, &policy(), &without, &[]);
    assert_close(&[all.loss], &[fewer.loss], 1e-12);
    assert_close(&all.gradient, &fewer.gradient, 1e-7);
    assert_eq!(Objective::<dyn CausalLm>::denominators(&objective, &groups).unwrap(), [12.0]);
}

/// A pass of the critic's loss towards the returns, and the shared model as the sum of both.
#[test]
fn a_shared_trunk_has_the_loss_of_both() {
    let config = PpoConfig { truncated: Truncated::Score, vf_coef: 0.3, ..PpoConfig::default() };
    let policy_objective = objective(&config, 0.9);
    let critic_objective = CriticObjective::new(&config).unwrap();
    let groups = prepared(&config, &policy_objective);
    let first = compute::<dyn CausalLm>(&policy_objective, &policy(), &groups, &[]);
    let second = compute::<dyn ValueModel>(&critic_objective, &critic(), &groups, &[1]);
    assert_close(&[second.metric("loss/value_avg")], &[second.loss], 1e-12);
    let shared_config = PpoConfig { critic: CriticKind::Shared, ..config };
    let both =
        ActorCriticObjective::new(&shared_config, 0.9, 8, References::frozen(Box::new(policy()))).unwrap();
    let model = BigramActorCritic { policy: policy(), critic: critic() };
    let out = compute::<dyn ActorCritic>(&both, &model, &groups, &[1]);
    assert_close(&[out.loss], &[first.loss + 0.3 * second.loss], 1e-9);
    let scaled: Vec<f64> = second.gradient.iter().map(|g| 0.3 * g).collect();
    assert_close(&out.gradient, &[first.gradient, scaled].concat(), 1e-7);
    // It measures what the two measure.
    let mut measured = samples();
    fill::<dyn ActorCritic>(&both, &model, &mut measured, both.layout());
    for (a, b) in measured.iter().zip(&groups).flat_map(|(a, b)| a.completions.iter().zip(&b.completions)) {
        let (a, b) = (trajectory(a), trajectory(b));
        assert_eq!(
            (&a.old, &a.reference, &a.values, a.value_after),
            (&b.old, &b.reference, &b.values, b.value_after)
        );
    }
}

/// Values lie at the states before the tokens, and one behind the answer.
#[test]
fn values_are_those_of_the_states() {
    let config = PpoConfig::default();
    let objective = CriticObjective::new(&config).unwrap();
    let mut groups = samples();
    begin_trajectories(&mut groups);
    fill::<dyn ValueModel>(&objective, &critic(), &mut groups, objective.layout());
    // 0 1 | 2 3 4: behind 1, 2 and 3; then behind 4.
    let known = trajectory(&groups[0].completions[0]);
    assert_eq!((known.values.as_slice(), known.value_after), ([-0.2f32, 0.3, 0.4].as_slice(), Some(0.0)));
}

/// Behind token 1 the critic says −.2 now; at the rollout it said −1, and the return is 3. It has moved by .8 towards its
/// goal: past a bound of .2 nothing pulls it on, within one of 1 the whole error does. All of it is in the critic's own units.
#[test]
fn the_bound_on_values_is_that_of_the_configuration() {
    let mut groups = [group(&[0, 1], vec![answer(&[2], 3.0)])];
    let known = trajectory_mut(&mut groups[0].completions[0]);
    (known.old, known.advantages) = (vec![-1.0], vec![1.0]);
    (known.values, known.returns) = (vec![-1.0], vec![3.0]);
    for (bound, pull) in [(0.2, 0.0), (1.0, -3.2)] {
        let config = PpoConfig { cliprange_value: bound, kl_coef: 0.0, vf_coef: 0.5, ..PpoConfig::default() };
        let alone = CriticObjective::new(&config).unwrap();
        let gradient = compute::<dyn ValueModel>(&alone, &critic(), &groups, &[]).gradient;
        assert_close(&gradient, &[0.0, pull, 0.0, 0.0, 0.0, 0.0], 1e-6);
        let shared = PpoConfig { critic: CriticKind::Shared, ..config };
        let both = ActorCriticObjective::new(&shared, 1.0, 8, References::none()).unwrap();
        let model = BigramActorCritic { policy: policy(), critic: critic() };
        let gradient = compute::<dyn ActorCritic>(&both, &model, &groups, &[]).gradient;
        assert_close(&gradient[(VOCAB * VOCAB) as usize..], &[0.0, 0.5 * pull, 0.0, 0.0, 0.0, 0.0], 1e-6);
    }
}

/// Online DPO: ln 2 where policy and reference are equal; the temperature is that of sampling for both.
#[test]
fn online_dpo_is_dpo_on_the_best_and_the_worst() {
    let config = PpoConfig::for_advantage(AdvantageKind::OnlineDpo);
    let run = |reference: Box<dyn CausalLm>| {
        let objective = OnlineDpoObjective::new(&config, 0.5, References::frozen(reference)).unwrap();
        let mut groups = samples();
        fill::<dyn CausalLm>(&objective, &policy(), &mut groups, objective.layout());
        let pairs = pair_samples(&groups, false);
        assert_eq!((pairs.groups.len(), pairs.ties, pairs.without), (2, 0, 0));
        (compute::<dyn CausalLm>(&objective, &policy(), &pairs.groups, &[1]), pairs.groups)
    };
    let (equal, _) = run(Box::new(policy()));
    assert_close(&[equal.loss], &[std::f64::consts::LN_2], 1e-9);
    let (apart, pairs) = run(other());
    let margins = pairs.iter().map(|pair| {
        let h = |c: &Completion| {
            let known = trajectory(c);
            let sum = |list: &[f32]| list.iter().map(|x| f64::from(*x)).sum::<f64>();
            sum(&known.old) - sum(&known.reference)
        };
        0.1 * (h(&pair.completions[0]) - h(&pair.completions[1]))
    });
    let losses: Vec<f64> = margins.map(|margin| (-margin).exp().ln_1p()).collect();
    assert_close(&[apart.loss], &[losses.iter().sum::<f64>() / 2.0], 1e-6);
    let objective = OnlineDpoObjective::new(&config, 0.5, References::frozen(other())).unwrap();
    let error = objective.denominators(&samples()).unwrap_err().to_string();
    assert!(error.contains("3 answers"), "{error}");
    assert!(OnlineDpoObjective::new(&config, 0.5, References::none()).is_err());
}

/// The bonus: −c times the mean entropy at the temperature.
#[test]
fn the_entropy_bonus_lowers_the_loss_by_the_entropy() {
    let plain = PpoConfig::for_advantage(AdvantageKind::DrGrpo);
    let groups = prepared(&plain, &objective(&plain, 1.0));
    let config =
        PpoConfig { entropy_coef: 0.5, aggregation: Some(align_ppo::PolicyAggregation::TokenMean), ..plain };
    let uniform = BigramLm::uniform(VOCAB);
    let with = compute::<dyn CausalLm>(&objective(&config, 1.0), &uniform, &groups, &[]);
    let without = compute::<dyn CausalLm>(
        &objective(&PpoConfig { entropy_coef: 0.0, ..config }, 1.0),
        &uniform,
        &groups,
        &[],
    );
    assert_close(&[with.loss - without.loss], &[-0.5 * 6f64.ln()], 1e-6);
}

#[test]
fn objectives_refuse_what_they_cannot_use() {
    let config = PpoConfig::default();
    let error = PolicyObjective::new(&config, 1.0, 8, References::none()).unwrap_err().to_string();
    assert!(error.contains("kl-coef"), "{error}");
    for temperature in [0.0, -1.0, f64::NAN] {
        assert!(PolicyObjective::new(&config, temperature, 8, References::frozen(other())).is_err());
    }
    let mut groups = samples();
    // Advantages without what they belong to.
    trajectory_mut(&mut groups[0].completions[0]).advantages = vec![1.0; 3];
    let objective = PolicyObjective::new(&config, 1.0, 8, References::frozen(other())).unwrap();
    let batch = PackedBatch::new(&groups).unwrap();
    let error = objective.loss(&policy(), &batch, &groups).unwrap_err().to_string();
    assert!(error.contains("group 0, answer 1") && error.contains("not known yet"), "{error}");
    trajectory_mut(&mut groups[0].completions[0]).advantages = vec![1.0; 2];
    let error = Objective::<dyn CausalLm>::denominators(&objective, &groups).unwrap_err().to_string();
    assert!(error.contains("2 advantages"), "{error}");
}
