//! Health checks: real runs that are ill say so, healthy ones are silent.

use crate::support;

use std::path::Path;

use align_cli::health;
use align_train::{Health, Seen};
use align_types::{
    HealthCheck, Purpose, RngStream,
    config::{DpoConfig, DpoLossType, KtoConfig, SftConfig, SftLossType, UnaConfig},
};
use serde_json::Value;
use support::{Answer, align, json_lines, tiny_llama, write, write_pairs};

/// Trains and returns the names of the checks that spoke, in order, and what the program said.
fn spoken(folder: &Path, arguments: &str) -> (Vec<String>, Answer) {
    let line = format!(
        "{arguments} --model {} --output-dir {{run}} --overwrite --samples 0 --threads 2 --no-progress",
        tiny_llama().display()
    );
    let answer = align(folder, &line).ok();
    let summary: Value =
        serde_json::from_slice(&std::fs::read(folder.join("run/summary.json")).unwrap()).unwrap();
    let warnings = summary["warnings"].as_array().unwrap();
    for warning in warnings {
        let said = format!("warning: step {}: {}\n", warning["step"], warning["message"].as_str().unwrap());
        assert_eq!(answer.stderr.matches(&said).count(), 1, "`{said}` is not once in {}", answer.stderr);
    }
    assert_eq!(answer.stderr.matches("warning: step ").count(), warnings.len(), "{}", answer.stderr);
    (warnings.iter().map(|warning| warning["check"].as_str().unwrap().to_owned()).collect(), answer)
}

/// Writes the pairs as answers with a label each.
fn write_thumbs(folder: &Path) {
    let pairs = write_pairs(folder, "pairs-of-thumbs.jsonl", 40);
    let rows = json_lines(&pairs).into_iter().flat_map(|pair| {
        [("chosen", true), ("rejected", false)].map(|(side, label)| {
            let row = serde_json::json!({"prompt": pair["prompt"], "completion": pair[side], "label": label});
            format!("{row}\n")
        })
    });
    write(folder, "thumbs.jsonl", rows.collect::<String>());
}

#[test]
fn healthy_runs_are_silent() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 40);
    write_thumbs(folder);
    for arguments in [
        "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-4",
        "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-4 --reference-free",
        "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-4 --loss-type ipo",
        "kto --data {thumbs.jsonl} --max-steps 60 --learning-rate 1e-4",
        "una --data {thumbs.jsonl} --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-4",
        "sft --data {pairs.jsonl} --sft-on-chosen --max-steps 60 --learning-rate 1e-3",
        // The loss rises with the likelihood of the answers.
        "sft --data {pairs.jsonl} --sft-on-chosen --max-steps 60 --learning-rate 1e-3 --loss-type dft",
    ] {
        assert_eq!(spoken(folder, arguments).0, [""; 0], "{arguments}");
    }
}

/// At β = 1000 a few nats are thousands of reward, beyond which the sigmoid's gradient is 0 to the last bit.
#[test]
fn a_saturated_run_says_so() {
    let temporary = tempfile::tempdir().unwrap();
    write_pairs(temporary.path(), "pairs.jsonl", 40);
    let arguments = "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 1e-3 --beta 1000";
    let (checks, answer) = spoken(temporary.path(), arguments);
    assert_eq!(checks, ["no-gradient", "saturated"], "{}", answer.stderr);
    assert!(answer.stderr.contains("grad_norm is exactly 0 in 3 steps running: nothing is learned; "));
    assert!(answer.stderr.contains("rewards/margins is "), "{}", answer.stderr);
}

#[test]
fn a_run_that_forgets_both_answers_says_so() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 40);
    let arguments =
        "dpo --data {pairs.jsonl} --max-steps 60 --learning-rate 0.3 --lr-scheduler constant --log-every 1";
    let (checks, answer) = spoken(folder, arguments);
    assert!(checks.contains(&"likelihood-displacement".to_owned()), "{checks:?}: {}", answer.stderr);
    assert!(answer.stderr.contains(": rewards/chosen fell from "), "{}", answer.stderr);
    // It is so, by the log-probabilities themselves.
    let lines = json_lines(&folder.join("run/metrics.jsonl"));
    for name in ["logps/chosen", "logps/rejected"] {
        let mean = |part: &[Value]| {
            part.iter().map(|line| line[name].as_f64().unwrap()).sum::<f64>() / part.len() as f64
        };
        assert!(mean(&lines[40..]) < 1.1 * mean(&lines[..20]), "{name}");
    }
}

/// Short answers are likelier than long ones: without a reference the length alone tells them apart.
#[test]
fn pairs_that_nobody_need_learn_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let row = |row: usize| {
        format!(
            "{{\"prompt\": \"Number {row}?\", \"chosen\": \" Yes.\", \"rejected\": \" No, and{} it is not.\"}}\n",
            " again".repeat(row % 5 + 9)
        )
    };
    write(folder, "pairs.jsonl", (0..64).map(row).collect::<String>());
    let rest = "--data {pairs.jsonl} --max-steps 8 --batch-size 8 --learning-rate 1e-6";
    let (checks, answer) = spoken(folder, &format!("dpo --reference-free {rest}"));
    assert_eq!(checks, ["separated-from-the-start"]);
    assert!(answer.stderr.contains("step 4: reference_free/accuracies is 1 or more on each of steps 1 to 4"));
    // With the model itself as the reference rewards are 0 at first, and no pair is in order.
    assert_eq!(spoken(folder, &format!("dpo {rest}")).0, [""; 0]);
}

#[test]
fn a_loss_that_rises_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    write_pairs(temporary.path(), "pairs.jsonl", 40);
    let arguments =
        "sft --data {pairs.jsonl} --sft-on-chosen --max-steps 60 --learning-rate 3 --warmup-steps 60";
    let (checks, answer) = spoken(temporary.path(), arguments);
    assert_eq!(checks, ["loss-rises"], "{}", answer.stderr);
    assert!(answer.stderr.contains("lower --learning-rate, or give --warmup-steps"));
}

/// The loss of dft is near 0 for answers that are very unlikely: it does not say that they are.
#[test]
fn demonstrations_that_become_unlikely_are_named() {
    let temporary = tempfile::tempdir().unwrap();
    write_pairs(temporary.path(), "pairs.jsonl", 40);
    let arguments = "sft --data {pairs.jsonl} --sft-on-chosen --max-steps 60 --learning-rate 3 --warmup-steps 60 \
                     --loss-type dft";
    let (checks, answer) = spoken(temporary.path(), arguments);
    assert!(checks.contains(&"likelihood-falls".to_owned()), "{checks:?}: {}", answer.stderr);
}

/// Where undesirable answers weigh thirty times as much, every answer becomes less likely, those under other prompts too.
#[test]
fn a_baseline_that_is_always_zero_is_said_at_the_end() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_thumbs(folder);
    let arguments = "kto --data {thumbs.jsonl} --max-steps 25 --learning-rate 1e-4 --undesirable-weight 30";
    let (checks, answer) = spoken(folder, arguments);
    assert_eq!(checks, ["baseline-always-zero"], "{}", answer.stderr);
    assert!(answer.stderr.contains("step 25: kl was exactly 0 on every one of 25 steps: this is legal"));
    // One row has no other prompt: there it is 0 by definition, which is said before the first step.
    let (checks, answer) = spoken(folder, &format!("{arguments} --batch-size 1"));
    assert_eq!(checks, [""; 0]);
    assert!(answer.stderr.contains("a batch of one row"), "{}", answer.stderr);
}

#[test]
fn labelled_answers_saturate_too() {
    let temporary = tempfile::tempdir().unwrap();
    write_thumbs(temporary.path());
    let arguments = "kto --data {thumbs.jsonl} --max-steps 60 --learning-rate 0.1 --lr-scheduler constant --undesirable-weight 30";
    let (checks, answer) = spoken(temporary.path(), arguments);
    assert!(checks.contains(&"saturated".to_owned()), "{checks:?}: {}", answer.stderr);
}

fn all(beta: f64) -> Vec<(&'static str, Vec<HealthCheck>)> {
    let dpo = DpoConfig { beta, ..DpoConfig::default() };
    let free = DpoConfig { reference_free: true, ..dpo.clone() };
    let ipo = DpoConfig { beta, ..DpoConfig::of(DpoLossType::Ipo) };
    vec![
        ("dft", health::sft(&SftConfig { loss_type: SftLossType::Dft, ..SftConfig::default() })),
        ("dpo", health::dpo(&dpo)),
        ("dpo without reference", health::dpo(&free)),
        ("ipo", health::dpo(&ipo)),
        ("kto", health::kto(&KtoConfig { beta, ..KtoConfig::default() }, 8)),
        ("una", health::una(&UnaConfig { beta, ..UnaConfig::default() })),
        ("sampling", health::sampling("objective/kl", "completions/mean_length")),
        ("ppo", health::ppo()),
    ]
}

#[test]
fn checks_have_names_of_their_own_and_messages_of_one_line() {
    for (method, checks) in all(0.1) {
        for (index, check) in checks.iter().enumerate() {
            assert!(
                !checks[..index].iter().any(|other| other.name == check.name),
                "{method}: {}",
                check.name
            );
            assert!(!check.meaning.contains('\n') && !check.meaning.contains("  "), "{}", check.meaning);
            // It stands in a table of docs/metrics.md.
            assert!(!check.meaning.contains('|') && !check.rule.to_string().contains('|'), "{}", check.name);
        }
    }
    // Losses whose gradient does not vanish at large margins cannot saturate.
    let saturates = |config: &DpoConfig| health::dpo(config).iter().any(|check| check.name == "saturated");
    assert!(saturates(&DpoConfig::default()) && !saturates(&DpoConfig::of(DpoLossType::Ipo)));
}

/// The metrics of a run that learns as it should: margins grow and flatten out, log-probabilities change by some
/// percent, all of it under the noise of batches that differ in length and difficulty.
struct Healthy {
    rng: RngStream,
    beta: f64,
    /// Rewards at the end; the chosen one may fall a little, as it commonly does.
    chosen: f64,
    rejected: f64,
    logps: f64,
    loss: f64,
    /// Standard deviation of a batch's mean of rewards, and of its log-probabilities relative to their size.
    spread: f64,
    lengths: f64,
    pace: f64,
}

impl Healthy {
    fn new(seed: u64) -> Self {
        let mut rng = RngStream::new(seed, Purpose::Synthetic, 0, 0);
        let mut between = |low: f64, high: f64| low + (high - low) * rng.uniform();
        let (beta, logps) = (between(0.05, 0.5), -between(30.0, 400.0));
        Self {
            beta,
            logps,
            // Less than a tenth of the log-probability.
            chosen: between(-0.07, 0.05) * beta * -logps,
            rejected: between(-0.3, -0.08) * beta * -logps,
            loss: between(0.2, 3.0),
            spread: between(0.02, 0.5),
            lengths: between(0.05, 0.4),
            pace: between(5.0, 100.0),
            rng,
        }
    }

    fn step(&mut self, step: u64) -> Vec<(String, f64)> {
        let learned = 1.0 - (-(step as f64 - 1.0) / self.pace).exp();
        let rng = &mut self.rng;
        let mut around = |mean: f64, spread: f64| mean + spread * rng.normal();
        // At the start policy and reference are one, and batches do not differ.
        let spread = self.spread * learned;
        let (chosen, rejected) =
            (around(self.chosen * learned, spread), around(self.rejected * learned, spread));
        let margin = (chosen - rejected).clamp(0.0, 14.0);
        let logps = |reward: f64, size: f64| size + reward / self.beta;
        let chosen_logps = around(self.logps, self.lengths * self.logps);
        let rejected_logps = around(self.logps, self.lengths * self.logps);
        let metrics = [
            ("loss", (self.loss * (1.0 - 0.4 * learned) * around(1.0, 0.1)).max(0.0)),
            ("grad_norm", around(0.0, 2.0).abs() + 1e-3),
            ("rewards/chosen", chosen.clamp(-14.0, 14.0)),
            ("rewards/rejected", rejected),
            ("rewards/scored", around(0.5 * learned, 0.5)),
            ("rewards/margins", margin),
            ("rewards/accuracies", around(0.5 + 0.4 * learned, 0.1).clamp(0.0, 1.0)),
            ("logps/chosen", logps(chosen, chosen_logps)),
            ("logps/rejected", logps(rejected, rejected_logps)),
            ("logps/completion", chosen_logps * (1.0 - 0.3 * learned)),
            ("reference_free/margins", margin),
            ("reference_free/accuracies", around(0.5 + 0.4 * learned, 0.1).clamp(0.0, 1.0)),
            ("kl", around(2.0 * learned, 1.0).max(0.0)),
            ("objective/kl", around(8.0 * learned, 0.3)),
            ("completions/mean_length", around(120.0 + 20.0 * learned, 15.0)),
            // A reward rises by a few of its standard deviations while the policy becomes surer.
            ("objective/scores", around(3.0 * learned, 0.3)),
            ("objective/scores_std", around(1.0, 0.1).abs().max(1e-3)),
            ("objective/entropy", around(200.0 - 120.0 * learned, 20.0).max(1.0)),
            ("val/num_eos_tokens", around(50.0 + 8.0 * learned, 4.0).clamp(0.0, 64.0)),
        ];
        metrics.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

/// A warning without cause is worse than none.
#[test]
fn two_hundred_healthy_runs_raise_no_alarm() {
    const STEPS: u64 = 400;
    for seed in 0..200 {
        let mut run = Healthy::new(seed);
        let methods = all(run.beta);
        let mut health: Vec<Health> = methods.iter().map(|_| Health::default()).collect();
        for step in 1..=STEPS {
            let metrics = run.step(step);
            let seen = Seen { step, total_steps: STEPS, rows: 8, metrics: &metrics };
            for ((method, checks), health) in methods.iter().zip(&mut health) {
                assert_eq!(health.watch(checks, &seen), [], "{method}, seed {seed}");
            }
        }
    }
}

/// An on-policy run that is well until its tenth iteration; from there on something may go wrong, the further the later.
fn sampled(ill: impl Fn(&'static str, f64) -> Option<f64>) -> Vec<String> {
    let mut rng = RngStream::new(11, Purpose::Synthetic, 0, 0);
    let checks = health::ppo();
    let mut health = Health::default();
    for step in 1..=60_u64 {
        let late = (step as f64 - 10.0).max(0.0) / 50.0;
        let mut around = |mean: f64, spread: f64| mean + spread * rng.normal();
        let well = [
            ("loss", around(0.0, 0.05)),
            ("grad_norm", around(1.0, 0.1).abs()),
            ("objective/scores", around(late, 0.05)),
            ("objective/scores_std", around(0.5, 0.05)),
            ("objective/kl", around(0.5 + late, 0.05)),
            ("objective/entropy", around(100.0 - 40.0 * late, 3.0)),
            ("completions/mean_length", around(40.0, 1.0)),
            ("val/num_eos_tokens", around(50.0, 3.0)),
        ];
        let one = |(name, value): (&'static str, f64)| (name.to_owned(), ill(name, late).unwrap_or(value));
        let metrics = well.map(one);
        health.watch(&checks, &Seen { step, total_steps: 60, rows: 64, metrics: &metrics });
    }
    health.warnings.into_iter().map(|warning| warning.check).collect()
}

/// Every check of `align ppo` speaks of the illness that it is about, and of no other.
#[test]
fn each_illness_of_sampled_runs_is_named() {
    assert_eq!(sampled(|_, _| None), [""; 0]);
    let longer = |name: &'static str, late: f64| match name {
        "completions/mean_length" => Some(40.0 + 18.0 * late),
        "objective/kl" => Some(0.5 + 8.0 * late),
        _ => None,
    };
    assert_eq!(sampled(longer), ["reward-hacking"]);
    // Length or KL alone is not enough, nor are both without a reward that rises.
    assert_eq!(sampled(|name, late| longer(name, late).filter(|_| name != "objective/kl")), [""; 0]);
    assert_eq!(sampled(|name, late| longer(name, late).filter(|_| name == "objective/kl")), [""; 0]);
    let flat = |name: &'static str, late: f64| {
        if name == "objective/scores" { Some(1.0) } else { longer(name, late) }
    };
    assert_eq!(sampled(flat), [""; 0]);

    let falls = |metric: &'static str, from: f64, to: f64| {
        move |name: &'static str, late: f64| (name == metric).then_some((from + (to - from) * late).max(1.0))
    };
    assert_eq!(sampled(falls("objective/entropy", 100.0, -50.0)), ["entropy-collapse"]);
    assert_eq!(sampled(falls("objective/entropy", 100.0, 20.0)), [""; 0]);
    assert_eq!(sampled(falls("val/num_eos_tokens", 50.0, 10.0)), ["endings-vanish"]);
    assert_eq!(sampled(falls("val/num_eos_tokens", 50.0, 35.0)), [""; 0]);
    assert_eq!(sampled(falls("objective/kl", 0.5, 120.0)), ["kl-out-of-range"]);
    assert_eq!(sampled(falls("completions/mean_length", 40.0, 90.0)), ["length-drift"]);
    let constant =
        |name: &'static str, late: f64| (name == "objective/scores_std" && late > 0.5).then_some(0.0);
    assert_eq!(sampled(constant), ["equal-rewards"]);
    let lost = |name: &'static str, late: f64| (name == "grad_norm" && late > 0.5).then_some(0.0);
    assert_eq!(sampled(lost), ["no-gradient"]);
}
