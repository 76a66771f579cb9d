//! All answers to a prompt, by exact enumeration: what the phases and the objective do in expectation is the gradient of
//! E[R] − β KL(π ‖ π_ref), and following it ends at the known optimum.

use align_core::{
    CausalLm, ValueModel,
    align_types::{Completion, PromptGroup},
    no_grad,
    tch::{Kind, Tensor},
};
use align_ppo::{
    AdvantageKind, CriticObjective, KlEstimator, KlPlacement, PolicyAggregation, PolicyObjective, PpoConfig,
    References, ShapingInputs, Truncated, estimate_advantages, shape_rewards,
};
use align_testkit::{BigramLm, TabularValues};

use crate::common::{
    answer, assert_close, compute, cut_off, doubles, fill, group, trajectory, trajectory_mut,
};

const VOCAB: usize = 4;
/// Ends an answer.
const END: u32 = 0;
const PROMPT: u32 = 3;
/// Most tokens of an answer.
const LIMIT: usize = 3;
const TEMPERATURE: f64 = 0.8;
const BETA: f64 = 0.3;

/// A table of logits `[V, V]` that another number makes another one.
fn table(number: i64) -> Tensor {
    let values: Vec<f64> = (0..16).map(|i| ((i * (7 + number) % 13) as f64) / 6.0 - 1.0).collect();
    Tensor::from_slice(&values).reshape([4, 4])
}

fn reference() -> Tensor {
    table(0)
}

fn log_probs(table: &Tensor) -> Tensor {
    (table / TEMPERATURE).log_softmax(-1, Kind::Double)
}

/// log π of an answer.
fn sum(log_probs: &Tensor, tokens: &[u32]) -> Tensor {
    let before = std::iter::once(&PROMPT).chain(tokens);
    before
        .zip(tokens)
        .map(|(state, token)| log_probs.get(i64::from(*state)).get(i64::from(*token)))
        .reduce(|a, b| a + b)
        .unwrap()
}

/// log π* of every token.
fn optimum() -> Tensor {
    log_probs(&table(4))
}

/// The reward is β log(π* / π_ref) of the whole answer: E[R] − β KL(π ‖ π_ref) is −β KL(π ‖ π*) then, and its optimum π* is a
/// table like the policy.
fn rewarded(tokens: &[u32]) -> Completion {
    let reward = BETA * (sum(&optimum(), tokens) - sum(&log_probs(&reference()), tokens));
    answer(tokens, reward.double_value(&[]))
}

/// All answers: those that end, and those that are cut off, whose reward counts.
fn answers() -> Vec<Completion> {
    let (mut all, mut open) = (Vec::new(), vec![Vec::new()]);
    for _ in 0..LIMIT {
        let grown = open.iter().flat_map(|start: &Vec<u32>| {
            (0..VOCAB as u32).map(|token| [start.as_slice(), &[token]].concat()).collect::<Vec<_>>()
        });
        let (ended, going): (Vec<_>, Vec<_>) = grown.partition(|tokens| tokens.last() == Some(&END));
        all.extend(ended.iter().map(|tokens| rewarded(tokens)));
        open = going;
    }
    all.extend(open.iter().map(|tokens| cut_off(rewarded(tokens))));
    all
}

/// Every group of so many answers that can be sampled.
fn groups(samples: usize) -> Vec<PromptGroup> {
    let all = answers();
    let mut groups: Vec<Vec<Completion>> = vec![Vec::new()];
    for _ in 0..samples {
        let with = |group: &Vec<Completion>, next: &Completion| {
            [group.as_slice(), std::slice::from_ref(next)].concat()
        };
        groups = groups.iter().flat_map(|group| all.iter().map(move |next| with(group, next))).collect();
    }
    groups.into_iter().map(|answers| group(&[PROMPT], answers)).collect()
}

/// E[R] − β KL(π ‖ π_ref), summed over all answers.
fn goal(table: &Tensor) -> Tensor {
    let (own, reference) = (log_probs(table), log_probs(&reference()));
    let of = |answer: &Completion| {
        let (own, reference) = (sum(&own, &answer.token_ids), sum(&reference, &answer.token_ids));
        own.exp() * (answer.reward.unwrap() - BETA * (&own - reference))
    };
    answers().iter().map(of).reduce(|a, b| a + b).unwrap()
}

fn config(kind: AdvantageKind) -> PpoConfig {
    PpoConfig {
        kl_coef: BETA,
        kl_placement: KlPlacement::Reward,
        kl_estimator: KlEstimator::K1,
        gamma: 1.0,
        lam: 1.0,
        truncated: Truncated::Score,
        whiten_advantages: false,
        aggregation: Some(PolicyAggregation::SeqSumMean),
        ..PpoConfig::for_advantage(kind)
    }
}

/// The expectation over all groups of what an update follows: every group counts as often as it is sampled.
fn expected(model: &BigramLm, kind: AdvantageKind, samples: usize) -> Vec<f64> {
    let config = config(kind);
    let references = References::frozen(Box::new(BigramLm::new(&reference())));
    let objective = PolicyObjective::new(&config, TEMPERATURE, LIMIT, references).unwrap();
    let mut groups = groups(samples);
    fill::<dyn CausalLm>(&objective, model, &mut groups, objective.layout());
    if kind.uses_critic() {
        // Any values will do: they are those of the states before the tokens.
        let critic = TabularValues::new(&Tensor::from_slice(&[0.9f32, -0.4, 0.7, 0.2]));
        let values = CriticObjective::new(&config).unwrap();
        fill::<dyn ValueModel>(&values, &critic, &mut groups, values.layout());
    }
    shape_rewards(&mut groups, &config, ShapingInputs { kl_coef: BETA, ..Default::default() }).unwrap();
    estimate_advantages(&mut groups, &config, None).unwrap();
    for group in &mut groups {
        let log_prob = |answer: &Completion| -> f64 {
            trajectory(answer).old.iter().map(|log_prob| f64::from(*log_prob)).sum()
        };
        let share = group.completions.iter().map(log_prob).sum::<f64>().exp();
        for answer in &mut group.completions {
            trajectory_mut(answer).advantages.iter_mut().for_each(|advantage| *advantage *= share);
        }
    }
    // The loss is a mean over the answers of all groups, and not over those of a group.
    let count = groups.len() as f64;
    compute::<dyn CausalLm>(&objective, model, &groups, &[]).gradient.iter().map(|g| -g * count).collect()
}

/// Log-probabilities are kept in float32.
const ROUNDING: f64 = 2e-6;

/// PPO with any critic and RLOO follow the gradient itself; Dr. GRPO takes its own answer into the mean, which leaves
/// (K − 1) / K of it.
#[test]
fn what_an_update_expects_is_the_gradient_of_reward_less_divergence() {
    let leaf = table(2).set_requires_grad(true);
    let exact = doubles(&Tensor::run_backward(&[goal(&leaf)], &[&leaf], false, false)[0]);
    assert!(exact.iter().any(|part| part.abs() > 0.01), "{exact:?}");
    let model = BigramLm::new(&table(2));
    assert_close(&expected(&model, AdvantageKind::Ppo, 1), &exact, ROUNDING);
    assert_close(&expected(&model, AdvantageKind::Rloo, 2), &exact, ROUNDING);
    let half: Vec<f64> = exact.iter().map(|part| 0.5 * part).collect();
    assert_close(&expected(&model, AdvantageKind::DrGrpo, 2), &half, ROUNDING);
}

#[test]
fn exact_gradients_end_at_the_optimum_under_kl() {
    align_core::threads::prepare_compute_thread();
    let optimum = optimum();
    assert_close(&[goal(&table(4)).double_value(&[])], &[0.0], 1e-12);
    let model = BigramLm::new(&reference());
    let start = goal(model.table()).double_value(&[]);
    for _ in 0..120 {
        let step = Tensor::from_slice(&expected(&model, AdvantageKind::Ppo, 1)).reshape([4, 4]) * 4.0;
        let _guard = no_grad();
        let _ = model.table().detach().g_add_(&step);
    }
    let end = goal(model.table()).double_value(&[]);
    assert!(start < -0.2 && end > -1e-5, "{start} to {end}");
    // The states that answers go through; nothing comes after an end.
    for state in 1..VOCAB as i64 {
        let shares = |log_probs: &Tensor| doubles(&log_probs.get(state).exp());
        assert_close(&shares(&log_probs(model.table())), &shares(&optimum), 0.01);
    }
}
