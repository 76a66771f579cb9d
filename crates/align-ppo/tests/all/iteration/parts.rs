//! What an iteration may have beside prompts, sampler, scorer and models.

use std::sync::atomic::AtomicBool;

use align_core::align_types::{self, Completion, PromptGroup, PromptSource, TokenId};
use align_core::{StepAt, Steps};
use align_ppo::{AdvantageKind, CriticKind, Figure, PpoConfig, RewardBaseline, Sampler};

use super::config;
use super::world::{ByTokens, Extras, GOOD, World, mean, series, share, steps};

fn by_share() -> ByTokens<impl FnMut(&Completion) -> Option<f64>> {
    ByTokens(|answer: &Completion| Some(share(answer)))
}

/// The same rows of language modelling at every step; it remembers the steps that it was asked for.
struct Texts {
    rows: Vec<PromptGroup>,
    asked: Vec<u64>,
}

impl Texts {
    fn new() -> Self {
        Self { rows: texts(), asked: Vec::new() }
    }
}

impl PromptSource for Texts {
    fn batch(&mut self, step: u64) -> align_types::Result<Vec<PromptGroup>> {
        self.asked.push(step);
        Ok(self.rows.clone())
    }

    fn steps(&self) -> Option<u64> {
        None
    }
}

/// After token 5 comes token 1, which no reward asks for.
fn texts() -> Vec<PromptGroup> {
    vec![PromptGroup::new(vec![5], vec![Completion::new(vec![1])]); 3]
}

/// The policy's loss of those rows.
fn loss_of_texts(world: &World) -> f64 {
    -world.model.table().get(5).log_softmax(-1, align_core::tch::Kind::Double).double_value(&[1])
}

#[test]
fn rows_of_language_modelling_are_learned_beside_the_reward() {
    let run = |ptx_coef: f64, num_mini_batches: usize| {
        let config = PpoConfig { ptx_coef, num_mini_batches, ..config(AdvantageKind::Ppo) };
        let mut world = World::new(config, 1);
        let mut source = Texts::new();
        let extras = Extras { ptx: Some(&mut source), ..Extras::default() };
        let (reports, policy, _) =
            world.run_with(&mut by_share(), extras, |ppo| steps(ppo.as_mut().unwrap(), 12));
        assert_eq!(source.asked, (0..12).collect::<Vec<u64>>());
        (reports, policy, loss_of_texts(&world))
    };
    let mut alone = World::new(config(AdvantageKind::Ppo), 1);
    alone.run(&mut by_share(), |ppo| steps(ppo, 12));
    for minibatches in [1, 3] {
        let (reports, policy, loss) = run(1.0, minibatches);
        let losses = series(&reports, "loss/ptx_avg");
        // Six tokens are equally likely at first, and the first of four epochs is before any update.
        assert!((policy.reports[0].metric("loss/ptx_avg").unwrap() - 6f64.ln()).abs() < 1e-6);
        assert!(losses[11] < 0.5 * losses[0], "{losses:?}");
        assert!(loss < 0.5 * loss_of_texts(&alone), "{loss} against {}", loss_of_texts(&alone));
        // The rows are no answers: nothing that is said of samples counts them.
        assert!(reports.iter().all(|report| report.groups == 16));
        let scores = series(&reports, "objective/scores");
        assert!(mean(&scores[9..]) > mean(&scores[..3]), "{scores:?}");
        // What is minimised is the loss of the samples and that of the rows, with its weight.
        let first = &policy.reports[0];
        let sum = first.metric("loss/policy_avg").unwrap() + first.metric("loss/ptx_avg").unwrap();
        assert!((first.loss - sum).abs() < 1e-9, "{first:?}");
    }
    let (_, heavy, _) = run(3.0, 1);
    let first = &heavy.reports[0];
    let sum = first.metric("loss/policy_avg").unwrap() + 3.0 * first.metric("loss/ptx_avg").unwrap();
    assert!((first.loss - sum).abs() < 1e-9, "{first:?}");
}

#[test]
fn a_shared_critic_is_trained_with_the_policy() {
    let run = |vf_coef: f64| {
        let shared = PpoConfig { critic: CriticKind::Shared, vf_coef, ..config(AdvantageKind::Ppo) };
        let mut world = World::new(shared, 1);
        let (reports, policy, critic) = world.run(&mut by_share(), |ppo| steps(ppo, 30));
        assert!(critic.is_none());
        (reports, policy)
    };
    let (reports, policy) = run(0.5);
    let scores = series(&reports, "objective/scores");
    assert!(mean(&scores[27..]) > mean(&scores[..3]) + 0.15, "{scores:?}");
    let first = &policy.reports[0];
    let sum = first.metric("loss/policy_avg").unwrap() + 0.5 * first.metric("loss/value_avg").unwrap();
    assert!((first.loss - sum).abs() < 1e-9, "{first:?}");
    assert_eq!(first.metric("val/ratio"), Some(1.0));
    // Without a weight the critic stays as it was: worth nothing, everywhere.
    let explained =
        |reports: &[align_core::BatchReport]| mean(&series(reports, "val/explained_variance")[20..]);
    let (untrained, _) = run(0.0);
    assert!(explained(&untrained).abs() < 1e-9, "{}", explained(&untrained));
    assert!(explained(&reports) > 0.02, "{}", explained(&reports));
}

fn at(stop: &AtomicBool) -> StepAt<'_> {
    StepAt { step: 1, total: 9, schedule: 1.0, stop }
}

fn held_out() -> Vec<PromptGroup> {
    (1..6).map(|token: TokenId| PromptGroup::new(vec![token], vec![])).collect()
}

#[test]
fn held_out_prompts_are_measured_with_the_policy_as_it_is_and_change_nothing() {
    let stop = AtomicBool::new(false);
    let run = |evaluates: bool| {
        let mut world = World::new(config(AdvantageKind::Rloo), 4);
        let extras = Extras { eval: held_out(), ..Extras::default() };
        let (seen, ..) = world.run_with(&mut by_share(), extras, |ppo| {
            let ppo = ppo.as_mut().unwrap();
            let mut evaluations = Vec::new();
            let mut reports = Vec::new();
            for step in 1..=10 {
                if evaluates {
                    // Twice the same: the streams of an evaluation are its own.
                    let twice = [0, 1].map(|_| ppo.evaluate(&at(&stop)).unwrap().unwrap());
                    assert_eq!(twice[0], twice[1]);
                    evaluations.extend(twice.into_iter().take(1));
                }
                reports.extend(super::world::steps_of(ppo, step..=step, 10));
            }
            (evaluations, reports, ppo.evaluation_metrics().unwrap(), ppo.sampled())
        });
        seen
    };
    let (evaluations, reports, names, sampled) = run(true);
    assert_eq!(names.unwrap(), PpoConfig::HELD_OUT);
    for evaluation in &evaluations {
        let report = &evaluation.report;
        let names: Vec<&str> = report.metrics.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, PpoConfig::HELD_OUT, "names come in the order in which they are announced");
        // One answer to each prompt; the loss is the score that was not reached.
        assert_eq!((report.groups, report.loss), (5, -report.metric("objective/scores").unwrap()));
    }
    let scores: Vec<f64> = evaluations.iter().map(|it| -it.report.loss).collect();
    assert!(mean(&scores[7..]) > mean(&scores[..3]), "{scores:?}");
    let (none, without, _, sampled_without) = run(false);
    assert!(none.is_empty());
    assert_eq!((reports, sampled), (without, sampled_without));
}

/// Names are asked for before the first step, when nothing is measured: a figure may take as long as an evaluation.
#[test]
fn further_figures_are_part_of_an_evaluation() {
    let stop = AtomicBool::new(false);
    let evaluate = |eval: Vec<PromptGroup>| {
        let mut world = World::new(config(AdvantageKind::Rloo), 4);
        let model = super::world::alias(&world.model);
        let measured = std::rc::Rc::new(std::cell::Cell::new(0));
        let count = measured.clone();
        let measure = move || {
            count.set(count.get() + 1);
            Ok(model.table().detach().abs().sum(align_core::tch::Kind::Double).double_value(&[]))
        };
        let figure = Figure { name: "loss/ptx_avg".into(), measure: Box::new(measure) };
        let extras = Extras { eval, figures: vec![figure], ..Extras::default() };
        let (seen, ..) = world.run_with(&mut by_share(), extras, |ppo| {
            let ppo = ppo.as_mut().unwrap();
            let names = ppo.evaluation_metrics().unwrap().unwrap();
            assert_eq!(measured.get(), 0);
            let before = ppo.evaluate(&at(&stop)).unwrap().unwrap().report;
            steps(ppo, 1);
            (names, before, ppo.evaluate(&at(&stop)).unwrap().unwrap().report)
        });
        seen
    };
    let (names, before, after) = evaluate(held_out());
    assert_eq!(names, [&PpoConfig::HELD_OUT[..], &["loss/ptx_avg"]].concat());
    // The logits are all 0 at first; the figures see what the updates made of them.
    assert_eq!(before.metric("loss/ptx_avg"), Some(0.0));
    assert!(after.metric("loss/ptx_avg").unwrap() > 0.0);
    assert_eq!(after.loss, -after.metric("objective/scores").unwrap());
    let (names, _, alone) = evaluate(vec![]);
    assert_eq!((names, alone.groups), (vec!["loss/ptx_avg".to_owned()], 0));
    assert_eq!(alone.loss, alone.metric("loss/ptx_avg").unwrap());
}

#[test]
fn an_evaluation_that_fails_says_so() {
    let stop = AtomicBool::new(false);
    let mut world = World::new(config(AdvantageKind::Rloo), 4);
    let figure = Figure { name: "loss".into(), measure: Box::new(|| Err("the disk is gone".into())) };
    let extras = Extras { figures: vec![figure], ..Extras::default() };
    let (error, ..) = world
        .run_with(&mut by_share(), extras, |ppo| ppo.as_mut().unwrap().evaluate(&at(&stop)).unwrap_err());
    assert_eq!(error.to_string(), "the disk is gone");
    let (nothing, ..) = World::new(config(AdvantageKind::Rloo), 4)
        .run(&mut by_share(), |ppo| ppo.evaluate(&at(&stop)).unwrap());
    assert!(nothing.is_none());
}

#[test]
fn the_observer_sees_the_samples_of_every_iteration_with_what_is_known_of_them() {
    let mut seen = Vec::new();
    let mut world = World::new(config(AdvantageKind::Grpo), 4);
    let extras = Extras {
        observer: Some(Box::new(|step, groups| {
            for answer in groups.iter().flat_map(|group| &group.completions) {
                let known = answer.trajectory.as_deref().unwrap();
                assert_eq!(answer.reward, Some(share(answer)));
                let lists =
                    [known.old.len(), known.reference.len(), known.rewards.len(), known.advantages.len()];
                assert_eq!(lists, [answer.token_ids.len(); 4]);
            }
            let good = groups.iter().flat_map(|group| &group.completions);
            let good = good.filter(|answer| answer.token_ids.contains(&GOOD)).count();
            seen.push((step, groups.len(), good));
            if step == 3 { Err("seen enough".into()) } else { Ok(()) }
        })),
        ..Extras::default()
    };
    let stop = AtomicBool::new(false);
    let (error, ..) = world.run_with(&mut by_share(), extras, |ppo| {
        let ppo = ppo.as_mut().unwrap();
        steps(ppo, 2);
        ppo.step(&StepAt { step: 3, ..at(&stop) }).unwrap_err()
    });
    // It is asked before the updates.
    assert!(error.intact && error.source.to_string() == "seen enough", "{}", error.source);
    let steps: Vec<(u64, usize)> = seen.iter().map(|(step, groups, _)| (*step, *groups)).collect();
    assert_eq!(steps, [(1, 16), (2, 16), (3, 16)]);
    assert!(seen.iter().all(|(.., good)| *good > 0));
}

#[test]
fn parts_that_do_not_fit_the_configuration_are_refused() {
    let refused = |config: PpoConfig, spoil: fn(&mut align_ppo::Parts<'_>)| -> String {
        let mut world = World::new(config, 4);
        let mut source = Texts::new();
        let wants_texts = world.settings.config.ptx_coef > 0.0;
        let extras = Extras {
            ptx: if wants_texts { Some(&mut source) } else { None },
            spoil: Some(spoil),
            ..Extras::default()
        };
        let (refusal, ..) =
            world.run_with(&mut by_share(), extras, |ppo| ppo.as_ref().err().map(ToString::to_string));
        refusal.unwrap_or_default()
    };
    let ppo = config(AdvantageKind::Ppo);
    let shared = PpoConfig { critic: CriticKind::Shared, ..ppo.clone() };
    let relative = PpoConfig { reward_baseline: RewardBaseline::Reference, ..ppo.clone() };
    let ptx = PpoConfig { ptx_coef: 1.0, ..ppo.clone() };
    assert_eq!(refused(ppo.clone(), |_| {}), "");
    assert_eq!(refused(shared.clone(), |_| {}), "");
    assert_eq!(refused(relative.clone(), |_| {}), "");
    assert_eq!(refused(ptx.clone(), |_| {}), "");
    assert!(refused(ppo.clone(), |parts| parts.critic = None).starts_with("critic: these advantages need"));
    assert!(
        refused(ppo, |parts| parts.layout.values = true).starts_with("policy: a critic on its transformer")
    );
    assert!(refused(shared, |parts| parts.layout.values = false).starts_with("policy: a critic on its"));
    assert!(refused(relative, |parts| parts.reference_generator = None).starts_with("reference generator"));
    assert!(refused(ptx, |parts| parts.ptx = None).starts_with("rows of language modelling"));
    // A sampler that runs ahead has weights of an older policy, which pairs cannot be corrected for.
    let mut pairs = World::new(config(AdvantageKind::OnlineDpo), 4);
    pairs.one_step_off = true;
    let extras = Extras {
        spoil: Some(|parts| assert!(matches!(parts.generator, Sampler::OneStepOff(_)))),
        ..Extras::default()
    };
    let (refusal, ..) =
        pairs.run_with(&mut by_share(), extras, |ppo| ppo.as_ref().err().map(ToString::to_string));
    assert!(refusal.unwrap().contains("sample in turn"));
}

#[test]
fn parts_that_nothing_reads_are_refused() {
    let mut world = World::new(config(AdvantageKind::Ppo), 1);
    let mut source = Texts::new();
    let extras = Extras { ptx: Some(&mut source), ..Extras::default() };
    let (refusal, ..) =
        world.run_with(&mut by_share(), extras, |ppo| ppo.as_ref().err().map(ToString::to_string));
    assert!(refusal.unwrap().contains("ptx_coef > 0"));
}
