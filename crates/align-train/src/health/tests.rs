use super::*;

use align_core::align_types::{Purpose, RngStream};

const STEPS: usize = 20;

/// Shows a series of steps to one rule; returns the step at which it spoke, and what it said.
fn first(rule: Rule, series: &[Vec<(&str, f64)>]) -> Option<(u64, String)> {
    let checks = [HealthCheck { name: "check", rule, meaning: "meaning" }];
    let total_steps = series.len() as u64;
    let mut straight = Health::default();
    let mut resumed = Health::default();
    for (step, metrics) in (1..).zip(series) {
        let metrics: Vec<_> = metrics.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let seen = Seen { step, total_steps, rows: 8, metrics: &metrics, counts: &[] };
        straight.watch(&checks, &seen);
        // Through a checkpoint after every step.
        resumed.watch(&checks, &seen);
        resumed = serde_json::from_str(&serde_json::to_string(&resumed).unwrap()).unwrap();
        assert_eq!(format!("{straight:?}"), format!("{resumed:?}"), "step {step}");
    }
    assert!(straight.warnings.len() <= 1, "said once");
    let warning = straight.warnings.pop()?;
    let finding = warning.message.strip_suffix(": meaning").unwrap().to_owned();
    Some((warning.step, finding))
}

/// A series of one metric.
fn of(name: &'static str, values: impl IntoIterator<Item = f64>) -> Vec<Vec<(&'static str, f64)>> {
    values.into_iter().map(|value| vec![(name, value)]).collect()
}

fn noise(seed: u64) -> impl FnMut() -> f64 {
    let mut rng = RngStream::new(seed, Purpose::Synthetic, 0, 0);
    move || rng.normal()
}

#[test]
fn from_the_start_needs_enough_rows() {
    let rule = || Rule::FromTheStart { metric: "accuracy", bound: 1.0, rows: 32 };
    let (step, text) = first(rule(), &of("accuracy", [1.0; 9])).unwrap();
    assert_eq!((step, text.as_str()), (4, "accuracy is 1 or more on each of steps 1 to 4"), "8 rows a step");
    assert_eq!(first(rule(), &of("accuracy", [1.0, 1.0, 0.875, 1.0, 1.0, 1.0, 1.0])), None);
    assert_eq!(first(rule(), &of("accuracy", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])), None);
    assert_eq!(first(rule(), &of("other", [1.0; 9])), None);
    // A checkpoint of a version without checks, continued late in a run that learned.
    let checks = [HealthCheck { name: "check", rule: rule(), meaning: "" }];
    let mut late = Health::default();
    let metrics = [("accuracy".to_owned(), 1.0)];
    for step in 500..600 {
        late.watch(&checks, &Seen { step, total_steps: 600, rows: 64, metrics: &metrics, counts: &[] });
    }
    assert!(late.warnings.is_empty());
}

/// One labelled row beside seven of another kind: 32 of them take 32 steps.
#[test]
fn from_the_start_counts_the_rows_that_the_metric_is_about() {
    let rule = Rule::FromTheStart { metric: "accuracy", bound: 1.0, rows: 32 };
    let checks = [HealthCheck { name: "check", rule, meaning: "" }];
    let [metrics, counts] = [1.0; 2].map(|one| [("accuracy".to_owned(), one)]);
    let mut health = Health::default();
    for step in 1..=40 {
        health.watch(&checks, &Seen { step, total_steps: 40, rows: 8, metrics: &metrics, counts: &counts });
    }
    assert_eq!(health.warnings[0].step, 32);
}

#[test]
fn stuck_means_steps_running() {
    let rule = || Rule::Stuck { metric: "grad_norm", value: 0.0, steps: 3 };
    let found = first(rule(), &of("grad_norm", [1.0, 0.0, 0.0, 0.5, 0.0, -0.0, 0.0, 0.0]));
    assert_eq!(found.unwrap(), (7, "grad_norm is exactly 0 in 3 steps running".into()));
    assert_eq!(first(rule(), &of("grad_norm", [0.0, 0.0, 1e-30, 0.0, 0.0, f64::NAN, 0.0, 0.0])), None);
}

#[test]
fn always_is_known_at_the_end() {
    let rule = || Rule::Always { metric: "kl", value: 0.0, steps: 5 };
    assert_eq!(first(rule(), &of("kl", [0.0; 9])).unwrap().0, 9);
    assert_eq!(first(rule(), &of("kl", [0.0; 4])), None, "a short run");
    assert_eq!(first(rule(), &of("kl", [0.0, 0.0, 1e-9, 0.0, 0.0, 0.0])), None);
}

#[test]
fn outside_means_beyond_the_noise() {
    let rule = || Rule::Outside { metric: "kl", low: 0.0, high: 50.0, steps: 10 };
    let mut normal = noise(1);
    let around = |mean: f64, spread: f64, normal: &mut dyn FnMut() -> f64| -> Vec<f64> {
        (0..100).map(|_| mean + spread * normal()).collect()
    };
    let (step, text) = first(rule(), &of("kl", around(80.0, 2.0, &mut normal))).unwrap();
    assert!(
        step == 10 && text.starts_with("kl is ") && text.ends_with(" on average over 10 steps"),
        "{text}"
    );
    assert!(first(rule(), &of("kl", around(-1.0, 0.2, &mut normal))).is_some());
    assert!(first(rule(), &of("kl", [51.0; 10])).is_some());
    assert_eq!(first(rule(), &of("kl", [50.0; 30])), None, "the bound itself is inside");
    assert_eq!(first(rule(), &of("kl", around(0.0, 1.0, &mut normal))), None);
    assert_eq!(first(rule(), &of("kl", around(50.0, 10.0, &mut normal))), None);
    assert_eq!(first(rule(), &of("kl", [f64::NAN; 50])), None);
    // One outlier moves the mean and the noise with it.
    let outlier = (0..50).map(|step| if step == 24 { 1e6 } else { 1.0 });
    assert_eq!(first(rule(), &of("kl", outlier)), None);
}

/// Both log-probabilities fall and the margin rises: a row per step of `count` of a linear change with noise.
fn falling(chosen: f64, rejected: f64, spread: f64, seed: u64) -> Vec<Vec<(&'static str, f64)>> {
    let mut normal = noise(seed);
    let step = |step: usize| {
        let share = step as f64 / 100.0;
        let (chosen, rejected) = (chosen * share + spread * normal(), rejected * share + spread * normal());
        vec![
            ("rewards/chosen", chosen),
            ("rewards/rejected", rejected),
            ("rewards/margins", chosen - rejected),
            ("logps/chosen", -200.0 + 30.0 * normal()),
            ("logps/rejected", -180.0 + 30.0 * normal()),
        ]
    };
    (0..100).map(step).collect()
}

fn displaced() -> Rule {
    let falls = |metric, of| Move::falls(metric).by_share(0.1, of, Some(("β", 0.1)));
    let moves = vec![
        falls("rewards/chosen", "logps/chosen"),
        falls("rewards/rejected", "logps/rejected"),
        Move::rises("rewards/margins"),
    ];
    Rule::Moved { moves, steps: STEPS }
}

/// A tenth of 200 nats at β 0.1 is a reward of 2.
#[test]
fn moved_needs_every_move_and_its_size() {
    let (step, text) = first(displaced(), &falling(-8.0, -20.0, 0.1, 1)).unwrap();
    // Means of steps 21 to 40 are 20 steps later than the first: a fall of 1.6. Those of 41 to 60: of 3.2.
    assert_eq!(step, 60);
    assert!(text.starts_with("rewards/chosen fell from -0.") && text.contains(" to -3."), "{text}");
    assert!(text.ends_with("(means of 20 steps)"), "{text}");
    for (chosen, rejected, spread, why) in [
        (8.0, -20.0, 0.1, "the chosen answers become likelier"),
        (-1.5, -20.0, 0.1, "they fall by less than a tenth"),
        (-20.0, -8.0, 0.1, "margins fall"),
        (-8.0, -20.0, 20.0, "nobody can tell"),
    ] {
        assert_eq!(first(displaced(), &falling(chosen, rejected, spread, 2)), None, "{why}");
    }
    let without = |gone: &str| -> Vec<Vec<(&'static str, f64)>> {
        let mut series = falling(-8.0, -20.0, 0.1, 1);
        series.iter_mut().for_each(|step| step.retain(|(name, _)| *name != gone));
        series
    };
    assert_eq!(first(displaced(), &without("logps/rejected")), None);
}

/// Lengths of samples, as on-policy methods have them.
#[test]
fn a_drift_of_lengths_is_a_move_by_a_share_of_itself() {
    let rule = || {
        let rises = Move::rises("length").by_share(0.5, "length", None);
        Rule::Moved { moves: vec![rises], steps: STEPS }
    };
    let mut normal = noise(3);
    let mut series = |growth: f64| -> Vec<Vec<(&'static str, f64)>> {
        of(
            "length",
            (0..200).map(|step| 100.0 + growth * f64::from(step) + 10.0 * normal()).collect::<Vec<_>>(),
        )
    };
    let (step, text) = first(rule(), &series(1.0)).unwrap();
    assert!(step == 80 || step == 100, "{step}: {text}");
    assert_eq!(first(rule(), &series(0.0)), None);
    assert_eq!(first(rule(), &series(-0.3)), None);
    assert_eq!(first(rule(), &series(0.2)), None, "a growth of 40 % is below the share");
}

#[test]
fn numbers_in_texts_are_short() {
    for (value, text) in [
        (0.0, "0"),
        (-0.123_456, "-0.123"),
        (15.678, "15.7"),
        (-2345.6, "-2346"),
        (1e-9, "1.00e-9"),
        (2.5e8, "2.50e8"),
    ] {
        assert_eq!(short(value), text);
    }
}
