//! The iteration, on a tabular policy.

mod failures;
mod parts;
mod practices;
mod resume;
mod world;

use align_core::Learn;
use align_core::align_types::{Completion, PromptGroup, config::SamplingConfig};
use align_lm::{LlamaConfig, Model, ModelConfig};
use align_ppo::{
    AdvantageKind, PolicyObjective, PpoConfig, References, ShapingInputs, estimate_advantages, read_measures,
    sample, shape_rewards,
};
use align_rollout::auto_generator;
use align_train::{Compute, Engine};

use world::{ByTokens, GOOD, VOCAB, World, mean, series, share, steps};

const KINDS: [(AdvantageKind, usize); 8] = [
    (AdvantageKind::Ppo, 1),
    (AdvantageKind::A2c, 1),
    (AdvantageKind::Reinforce, 1),
    (AdvantageKind::Rloo, 4),
    (AdvantageKind::Grpo, 4),
    (AdvantageKind::DrGrpo, 4),
    (AdvantageKind::Dapo, 4),
    (AdvantageKind::OnlineDpo, 4),
];

fn config(kind: AdvantageKind) -> PpoConfig {
    let config = PpoConfig::for_advantage(kind);
    // Answers are cut off after five tokens, and what they got counts.
    PpoConfig { critic_learning_rate: 0.05, truncated: align_ppo::Truncated::Score, ..config }
}

#[test]
fn every_kind_of_advantage_learns_what_is_rewarded_and_nothing_from_chance() {
    for (kind, samples) in KINDS {
        let mut world = World::new(config(kind), samples);
        let (reports, ..) =
            world.run(&mut ByTokens(|answer: &Completion| Some(share(answer))), |ppo| steps(ppo, 30));
        let scores = series(&reports, "objective/scores");
        // Each of the six tokens is as likely as the others at first.
        let (first, last) = (mean(&scores[..3]), mean(&scores[27..]));
        assert!(first < 0.3 && last > first + 0.15, "{}: {first} to {last}", kind.name());

        let mut random =
            align_core::align_types::RngStream::new(3, align_core::align_types::Purpose::Synthetic, 0, 0);
        let mut shares = Vec::new();
        let mut chance = ByTokens(|answer: &Completion| {
            shares.push(share(answer));
            Some(random.uniform())
        });
        let mut world = World::new(config(kind), samples);
        world.run(&mut chance, |ppo| steps(ppo, 30));
        let tail = shares.len() - shares.len() / 10;
        assert!(
            mean(&shares[tail..]) < 0.35,
            "{}: chance raised it to {}",
            kind.name(),
            mean(&shares[tail..])
        );
    }
}

#[test]
fn the_ratio_before_the_first_update_of_every_iteration_is_exactly_1() {
    for threads in [1, 2] {
        let config = PpoConfig { num_ppo_epochs: 2, num_mini_batches: 3, ..config(AdvantageKind::Ppo) };
        let mut world = World::new(config, 2);
        world.threads = threads;
        world.settings.sampling.temperature = 0.7;
        let (_, policy, _) =
            world.run(&mut ByTokens(|answer: &Completion| Some(share(answer))), |ppo| steps(ppo, 4));
        // Two epochs of three minibatches.
        assert_eq!(policy.reports.len(), 4 * 6);
        for first in policy.reports.iter().step_by(6) {
            assert_eq!(first.metric("val/ratio"), Some(1.0));
            assert_eq!(first.metric("policy/approxkl_avg"), Some(0.0));
            assert_eq!(first.metric("policy/clipfrac_avg"), Some(0.0));
        }
        assert!(policy.reports[1..6].iter().all(|report| report.metric("policy/approxkl_avg") > Some(0.0)));
    }
}

/// Attention, norms and threads may not change a bit between measuring and training.
#[test]
fn the_first_ratio_of_a_transformer_is_exactly_1_and_sampling_agrees() {
    let config = LlamaConfig {
        vocab_size: 48,
        hidden_size: 32,
        intermediate_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        ..LlamaConfig::default()
    };
    let model = Model::init(&ModelConfig::llama(config).unwrap(), 0).unwrap();
    let prompts =
        (1..7).map(|n| PromptGroup::new((0..n * 3).map(|t| t as u32 % 48).collect(), vec![])).collect();
    let sampling =
        SamplingConfig { num_completions: 3, max_new_tokens: 9, temperature: 0.8, ..Default::default() };
    let mut groups = sample(&mut auto_generator(&model, vec![2]).unwrap(), prompts, &sampling, 0).unwrap();
    groups
        .iter_mut()
        .flat_map(|g| &mut g.completions)
        .enumerate()
        .for_each(|(i, a)| a.reward = Some((i % 4) as f64));
    for threads in [1, 2] {
        let config = PpoConfig::for_advantage(AdvantageKind::Rloo);
        let references = References::frozen(Box::new(model.frozen_copy().unwrap()));
        let objective = PolicyObjective::new(&config, 0.8, 9, references).unwrap();
        let layout = objective.layout();
        let compute = Compute { threads, micro_batch_tokens: 64 };
        let replica = Box::new(model.replica().unwrap());
        let mut engine = Engine::new(replica, Box::new(objective), &world::optimizer(1e-3), compute).unwrap();
        let mut packs = engine.pack(groups.clone());
        let numbers = engine.measure(&packs).unwrap();
        read_measures(&mut packs.groups_mut(), &numbers, layout).unwrap();
        for answer in packs.groups().into_iter().flat_map(|group| &group.completions) {
            let trajectory = answer.trajectory.as_ref().unwrap();
            assert_eq!(trajectory.old, trajectory.reference, "the same weights");
            let pairs = trajectory.old.iter().zip(answer.logprobs.as_ref().unwrap());
            assert!(pairs.into_iter().all(|(old, sampled)| (old - sampled).abs() < 1e-5));
        }
        shape_rewards(&mut packs.groups_mut(), &config, ShapingInputs::default()).unwrap();
        estimate_advantages(&mut packs.groups_mut(), &config, None).unwrap();
        let report = Learn::compute(&mut engine, &packs).unwrap();
        assert_eq!(report.metric("val/ratio"), Some(1.0), "{threads} threads");
        assert_eq!(report.metric("policy/approxkl_avg"), Some(0.0), "{threads} threads");
        assert!(report.grad_norm > 0.0);
    }
}

/// One token per answer and a reward of its own for each: the optimum of E[r] − β KL is π ∝ π_ref · exp(r / β)
/// (Ziegler et al., 1909.08593, section 2.1).
#[test]
fn a_bandit_under_a_divergence_reaches_the_closed_form() {
    let reward = |token: u32| [0.0, 0.3, 0.6, 1.0, 0.2, 0.5][token as usize];
    let beta = 0.5;
    for kind in [AdvantageKind::Reinforce, AdvantageKind::Rloo, AdvantageKind::Ppo] {
        let config = PpoConfig { kl_coef: beta, num_ppo_epochs: 1, whiten_advantages: false, ..config(kind) };
        let mut world = World::new(config, 32);
        world.settings.sampling.max_new_tokens = 1;
        world.settings.learning_rate = 0.02;
        world.run(&mut ByTokens(|answer: &Completion| Some(reward(answer.token_ids[0]))), |ppo| {
            steps(ppo, 250)
        });
        let logits = Vec::<f32>::try_from(world.model.table().detach().get(1)).unwrap();
        let softmax = |logits: Vec<f64>| -> Vec<f64> {
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            logits.iter().map(|logit| logit.exp() / sum).collect()
        };
        let got = softmax(logits.iter().map(|logit| f64::from(*logit)).collect());
        let optimum = softmax((0..VOCAB as u32).map(|token| reward(token) / beta).collect());
        align_testkit::assert_close(&got, &optimum, 0.06);
        assert!(got[GOOD as usize] > 0.3, "{got:?}");
    }
}

#[test]
fn sampling_one_step_ahead_learns_too_and_says_how_far_it_is_off() {
    let mut in_turn = World::new(config(AdvantageKind::Ppo), 1);
    let (reports, ..) =
        in_turn.run(&mut ByTokens(|answer: &Completion| Some(share(answer))), |ppo| steps(ppo, 30));
    let off = series(&reports, "sampling/sampling_logp_difference/max");
    assert!(off.iter().all(|off| *off < 1e-5), "{off:?}");

    let mut ahead = World::new(config(AdvantageKind::Ppo), 1);
    ahead.one_step_off = true;
    let (reports, ..) =
        ahead.run(&mut ByTokens(|answer: &Completion| Some(share(answer))), |ppo| steps(ppo, 30));
    let off = series(&reports, "sampling/sampling_logp_difference/max");
    assert!(off[0] < 1e-5 && off[1..].iter().all(|off| *off > 1e-3), "{off:?}");
    let scores = series(&reports, "objective/scores");
    assert!(mean(&scores[27..]) > mean(&scores[..3]) + 0.15, "{scores:?}");
}
