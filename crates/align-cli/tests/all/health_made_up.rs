//! Health checks over made-up numbers: each speaks of its illness alone, and none of a run that is well.

use align_cli::health;
use align_train::{Health, Seen};
use align_types::{
    HealthCheck, Purpose, RngStream,
    config::{
        CurriculumConfig, DpoConfig, DpoLossType, KtoConfig, KtoLossType, SftConfig, SftLossType, UnaConfig,
        UnaLossType,
    },
};

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
        ("bco", health::kto(&KtoConfig { beta, loss_type: KtoLossType::Bco, ..KtoConfig::default() }, 8)),
        ("una", health::una(&UnaConfig { beta, ..UnaConfig::default() })),
        ("una by bce", health::una(&UnaConfig { beta, loss_type: UnaLossType::Bce, ..UnaConfig::default() })),
        ("sampling", health::sampling("objective/kl", "completions/mean_length")),
        ("ppo", health::ppo(None)),
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
    let of = DpoConfig::of;
    assert!(saturates(&DpoConfig::default()) && !saturates(&of(DpoLossType::Ipo)));
    assert!(!saturates(&DpoConfig { label_smoothing: 0.1, ..DpoConfig::default() }));
    assert!(saturates(&of(DpoLossType::Simpo)) && !saturates(&of(DpoLossType::Cpo)));
    // Beside another loss the metric is of sums of one and averages of the other.
    let both = vec![DpoLossType::Simpo, DpoLossType::Sigmoid];
    assert!(!saturates(&DpoConfig { loss_type: both, reference_free: true, ..DpoConfig::default() }));
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
            ("labels/margins", margin / 2.0),
            ("labels/accuracies", around(0.5 + 0.4 * learned, 0.1).clamp(0.0, 1.0)),
            ("objective/kl", around(8.0 * learned, 0.3)),
            ("completions/mean_length", around(120.0 + 20.0 * learned, 15.0)),
            // A reward rises by a few of its standard deviations while the policy becomes surer.
            ("objective/scores", around(3.0 * learned, 0.3)),
            ("objective/scores_std", around(1.0, 0.1).abs().max(1e-3)),
            ("objective/entropy", around(200.0 - 120.0 * learned, 20.0).max(1.0)),
            ("val/num_eos_tokens", around(50.0 + 8.0 * learned, 4.0).clamp(0.0, 64.0)),
            ("completions/clipped_ratio", around(14.0 - 8.0 * learned, 4.0).clamp(0.0, 64.0) / 64.0),
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
            let seen = Seen { step, total_steps: STEPS, rows: 8, metrics: &metrics, counts: &[] };
            for ((method, checks), health) in methods.iter().zip(&mut health) {
                assert_eq!(health.watch(checks, &seen), [], "{method}, seed {seed}");
            }
        }
    }
}

/// An on-policy run that is well until its tenth iteration; from there on something may go wrong, the further the later.
fn sampled(ill: impl Fn(&'static str, f64) -> Option<f64>) -> Vec<String> {
    sampled_with(&health::ppo(None), ill)
}

fn sampled_with(checks: &[HealthCheck], ill: impl Fn(&'static str, f64) -> Option<f64>) -> Vec<String> {
    let mut rng = RngStream::new(11, Purpose::Synthetic, 0, 0);
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
            ("completions/clipped_ratio", around(14.0, 3.0) / 64.0),
            ("completions/abstained", 0.0),
            ("groups/without_signal", around(0.3, 0.05)),
        ];
        let one = |(name, value): (&'static str, f64)| (name.to_owned(), ill(name, late).unwrap_or(value));
        let metrics = well.map(one);
        health.watch(checks, &Seen { step, total_steps: 60, rows: 64, metrics: &metrics, counts: &[] });
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
    let ends = |to: f64| {
        move |name: &'static str, late: f64| match name {
            "val/num_eos_tokens" => Some(50.0 + (to - 50.0) * late),
            "completions/clipped_ratio" => Some((14.0 + (50.0 - to) * late) / 64.0),
            _ => None,
        }
    };
    assert_eq!(sampled(ends(10.0)), ["endings-vanish"]);
    assert_eq!(sampled(ends(35.0)), [""; 0]);
    // A batch with fewer answers, as many of which end.
    assert_eq!(sampled(falls("val/num_eos_tokens", 50.0, 10.0)), [""; 0]);
    assert_eq!(sampled(falls("objective/kl", 0.5, 120.0)), ["kl-out-of-range"]);
    assert_eq!(sampled(falls("completions/mean_length", 40.0, 90.0)), ["length-drift"]);
    let constant =
        |name: &'static str, late: f64| (name == "objective/scores_std" && late > 0.5).then_some(0.0);
    assert_eq!(sampled(constant), ["equal-rewards"]);
    let silent = |name: &'static str, late: f64| (name == "completions/abstained").then_some(0.6 * late);
    assert_eq!(sampled(silent), ["answers-without-reward"]);
    let unguided =
        |name: &'static str, late: f64| (name == "groups/without_signal" && late > 0.5).then_some(1.0);
    assert_eq!(sampled(unguided), ["no-signal-within-groups"]);
    let beyond = |name: &'static str, late: f64| (name == "objective/scores").then_some(1.5 + late);
    assert_eq!(sampled(beyond), [""; 0]);
    let graded = health::ppo(Some(&CurriculumConfig::default()));
    assert_eq!(sampled_with(&graded, beyond), ["curriculum-out-of-range"]);
    let counted = CurriculumConfig { threshold: Some(1.0), ..CurriculumConfig::default() };
    assert_eq!(sampled_with(&health::ppo(Some(&counted)), beyond), [""; 0]);
    let lost = |name: &'static str, late: f64| (name == "grad_norm" && late > 0.5).then_some(0.0);
    assert_eq!(sampled(lost), ["no-gradient"]);
}

/// An offline run of 100 steps with β = 0.1 whose numbers are well but for those of `ill`, a function of the share of the
/// run that is over: what its checks say. It has every number of every kind of rows.
fn offline(checks: &[HealthCheck], ill: &dyn Fn(&str, f64) -> Option<f64>) -> Vec<String> {
    let mut rng = RngStream::new(12, Purpose::Synthetic, 0, 0);
    let mut health = Health::default();
    for step in 1..=100_u64 {
        let late = (step - 1) as f64 / 99.0;
        let mut around = |mean: f64, spread: f64| mean + spread * rng.normal();
        let well = [
            ("loss", around(0.69 - 0.3 * late, 0.02)),
            ("grad_norm", around(1.0, 0.1).abs()),
            ("rewards/chosen", around(0.5 * late, 0.05)),
            ("rewards/rejected", around(-late, 0.05)),
            ("rewards/scored", around(0.3 * late, 0.05)),
            ("rewards/margins", around(1.5 * late, 0.05)),
            ("rewards/accuracies", around(0.5 + 0.3 * late, 0.05)),
            ("reference_free/margins", around(1.5 * late, 0.05)),
            ("reference_free/accuracies", around(0.5 + 0.3 * late, 0.05)),
            ("labels/margins", around(0.7 * late, 0.05)),
            ("labels/accuracies", around(0.5 + 0.3 * late, 0.05)),
            ("logps/chosen", around(-100.0, 5.0)),
            ("logps/rejected", around(-100.0, 5.0)),
            ("kl", around(1.0 + late, 0.1)),
        ];
        let metrics = well.map(|(name, value)| (name.to_owned(), ill(name, late).unwrap_or(value)));
        health.watch(checks, &Seen { step, total_steps: 100, rows: 8, metrics: &metrics, counts: &[] });
    }
    health.warnings.into_iter().map(|warning| warning.check).collect()
}

/// Every check of the offline methods speaks of the illness that it is about, in the methods that can have it, and of no
/// other.
#[test]
fn each_illness_of_offline_runs_is_named() {
    let (dpo, free) = (DpoConfig::default(), DpoConfig { reference_free: true, ..DpoConfig::default() });
    let kto = |loss_type| health::kto(&KtoConfig { loss_type, ..KtoConfig::default() }, 8);
    let una = |loss_type| health::una(&UnaConfig { beta: 0.1, loss_type, ..UnaConfig::default() });
    let methods = [
        ("dpo", health::dpo(&dpo)),
        ("free", health::dpo(&free)),
        ("kto", kto(KtoLossType::Kto)),
        ("bco", kto(KtoLossType::Bco)),
        ("una", una(UnaLossType::Mse)),
        ("una by bce", una(UnaLossType::Bce)),
        ("qrpo", una(UnaLossType::Qrpo)),
    ];
    type Ill = fn(&str, f64) -> Option<f64>;
    /// What the illness is called, what it does, and which checks of which methods speak.
    type Illness = (&'static str, Ill, &'static [(&'static str, &'static str)]);
    fn only(metric: &str, name: &str, value: f64) -> Option<f64> {
        (name == metric).then_some(value)
    }
    // At β = 0.1 and 100 nats an answer that loses a tenth has a reward of -1.
    let both_fall: Ill = |name, late| match name {
        "rewards/chosen" | "rewards/rejected" => Some(-3.0 * late),
        "logps/chosen" | "logps/rejected" => Some(-100.0 - 30.0 * late),
        _ => None,
    };
    let illnesses: [Illness; 13] = [
        ("nothing", |_, _| None, &[]),
        (
            "no gradient",
            |name, late| if late > 0.5 { only("grad_norm", name, 0.0) } else { None },
            &[("*", "no-gradient")],
        ),
        ("the loss rises", |name, late| only("loss", name, 1.0 + late), &[("*", "loss-rises")]),
        (
            "pairs in order from the start",
            |name, _| only("rewards/accuracies", name, 1.0),
            &[
                ("dpo", "separated-from-the-start"),
                ("una", "separated-from-the-start"),
                ("una by bce", "separated-from-the-start"),
                ("qrpo", "separated-from-the-start"),
            ],
        ),
        (
            "pairs in order from the start, without a reference",
            |name, _| only("reference_free/accuracies", name, 1.0),
            &[("free", "separated-from-the-start")],
        ),
        (
            "labels in order from the start",
            |name, _| only("labels/accuracies", name, 1.0),
            &[
                ("kto", "separated-from-the-start"),
                ("bco", "separated-from-the-start"),
                ("una", "labels-separated-from-the-start"),
                ("una by bce", "labels-separated-from-the-start"),
                ("qrpo", "labels-separated-from-the-start"),
            ],
        ),
        (
            "both fall",
            both_fall,
            &[
                ("dpo", "likelihood-displacement"),
                ("free", "likelihood-displacement"),
                ("kto", "likelihood-displacement"),
                ("bco", "likelihood-displacement"),
                ("una", "likelihood-displacement"),
                ("una by bce", "likelihood-displacement"),
                ("qrpo", "likelihood-displacement"),
            ],
        ),
        ("the bad ones alone fall", |name, late| only("rewards/rejected", name, -3.0 * late), &[]),
        (
            "pairs past the sigmoid",
            |name, late| only("rewards/margins", name, 40.0 * late),
            &[("dpo", "saturated"), ("una", "saturated"), ("una by bce", "saturated"), ("qrpo", "saturated")],
        ),
        (
            "pairs past the sigmoid, without a reference",
            |name, late| only("reference_free/margins", name, 40.0 * late),
            &[("free", "saturated")],
        ),
        (
            "labels past the sigmoid",
            |name, late| only("labels/margins", name, 40.0 * late),
            &[("bco", "saturated"), ("una", "labels-saturated"), ("una by bce", "labels-saturated")],
        ),
        // A cross-entropy has its largest gradient there.
        (
            "labels far on the wrong side",
            |name, late| only("labels/margins", name, -40.0 * late),
            &[("una", "labels-saturated")],
        ),
        (
            "scores past the sigmoid",
            |name, late| only("rewards/scored", name, -40.0 * late),
            &[("una", "scores-saturated")],
        ),
    ];
    for (illness, ill, expected) in illnesses {
        for (method, checks) in &methods {
            let named = expected.iter().filter(|(of, _)| of == method || *of == "*");
            let named: Vec<&str> = named.map(|(_, check)| *check).collect();
            assert_eq!(offline(checks, &ill), named, "{illness}: {method}");
        }
    }
    let kto = &methods[2].1;
    assert_eq!(offline(kto, &|name, late| only("kl", name, 120.0 * late)), ["kl-out-of-range"]);
    assert_eq!(offline(kto, &|name, _| only("kl", name, 0.0)), ["baseline-always-zero"]);
    assert_eq!(offline(kto, &|name, late| only("rewards/chosen", name, 40.0 * late)), ["saturated"]);
    assert_eq!(offline(kto, &|name, late| only("kl", name, 40.0 * late)), [""; 0]);
}
