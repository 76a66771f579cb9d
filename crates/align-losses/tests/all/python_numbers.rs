//! Every loss against `fixtures/losses/make.py`: the formulas of the papers in float64 with torch's gradients, most
//! of them checked there against TRL's own functions.

use align_core::{
    LossOutput, TokenLogProbs,
    tch::{Kind, Tensor},
};
use align_losses::{
    BcoBatch, DpoConfig, DpoInputs, DpoLossType, FeedbackInputs, KtoConfig, KtoInputs, PairLengths,
    RunningMean, SftConfig, UnaConfig, UnaInputs, bco_loss, dpo_loss, kto_baseline, kto_loss,
    length_desensitised_sums, policy_weights, sft_loss, una_loss,
};
use serde_json::Value;

const RELATIVE: f64 = 1e-6;

struct Expected {
    json: Value,
    lens: Vec<usize>,
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

impl Expected {
    fn read() -> Self {
        let text = std::fs::read_to_string(align_testkit::fixture("losses/expected.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let lens = floats(&json["lens"]).iter().map(|n| *n as usize).collect();
        Self { json, lens }
    }

    fn tokens(&self, name: &str) -> Tensor {
        Tensor::from_slice(&floats(&self.json[name]))
    }

    fn log_probs(&self, values: &Tensor) -> TokenLogProbs {
        TokenLogProbs::new(values.shallow_clone(), self.lens.clone()).unwrap()
    }

    fn sums(&self, name: &str) -> Tensor {
        self.log_probs(&self.tokens(name)).sums().unwrap()
    }

    fn cases(&self, name: &str) -> &[Value] {
        let cases = self.json[name].as_array().unwrap();
        assert!(!cases.is_empty());
        cases
    }

    fn labels(&self) -> Vec<bool> {
        self.json["labels"].as_array().unwrap().iter().map(|v| v.as_bool().unwrap()).collect()
    }
}

/// Compares value and gradient with a case, relative to the larger of 1e-3 and the expected number.
fn check(case: &Value, output: &LossOutput, leaf: &Tensor) {
    let loss = output.mean().unwrap();
    let close = |got: f64, expected: f64, what: &str| {
        let off = (got - expected).abs() / expected.abs().max(1e-3);
        assert!(off <= RELATIVE, "{}: {what} {got} against {expected}", case["config"]);
    };
    close(loss.double_value(&[]), case["loss"].as_f64().unwrap(), "loss");
    loss.backward();
    let gradient = Vec::<f64>::try_from(leaf.grad()).unwrap();
    let expected = floats(&case["gradient"]);
    assert_eq!(gradient.len(), expected.len());
    for (index, (got, expected)) in gradient.iter().zip(&expected).enumerate() {
        close(*got, *expected, &format!("gradient {index}"));
    }
    let reported: f64 = output
        .components
        .iter()
        .filter(|c| c.denominator > 0.0)
        .map(|c| c.weight * c.terms.sum(Kind::Double).double_value(&[]) / c.denominator)
        .sum();
    close(reported, case["loss"].as_f64().unwrap(), "sum of the components");
}

fn pair(completions: &Tensor) -> (Tensor, Tensor) {
    let pairs = completions.reshape([-1, 2]);
    (pairs.select(1, 0), pairs.select(1, 1))
}

#[test]
fn losses_of_pairs() {
    let expected = Expected::read();
    let mut seen = std::collections::HashSet::new();
    let lens: Vec<i64> = expected.lens.iter().map(|n| *n as i64).collect();
    let (chosen_len, rejected_len) = pair(&Tensor::from_slice(&lens));
    for case in expected.cases("dpo") {
        let config: DpoConfig = serde_json::from_value(case["config"].clone()).unwrap();
        seen.extend(config.loss_type.iter().copied());
        let leaf = expected.tokens("policy").set_requires_grad(true);
        let policy = expected.log_probs(&leaf);
        let sums = |logps: &TokenLogProbs| match config.ld_alpha {
            Some(alpha) => length_desensitised_sums(logps, alpha).unwrap(),
            None => logps.sums().unwrap(),
        };
        let (chosen, rejected) = pair(&sums(&policy));
        let (likelihood, _) = pair(&policy.sums().unwrap());
        let (ref_chosen, ref_rejected) = pair(&sums(&expected.log_probs(&expected.tokens("reference"))));
        let weights = policy_weights(&policy, &expected.tokens("collision")).unwrap();
        let inputs = DpoInputs {
            ref_chosen: config.uses_reference().then_some(&ref_chosen),
            ref_rejected: config.uses_reference().then_some(&ref_rejected),
            lengths: Some(PairLengths { chosen: &chosen_len, rejected: &rejected_len }),
            chosen_likelihood: config.ld_alpha.map(|_| &likelihood),
            weights: config.use_weighting.then_some(&weights),
            ..DpoInputs::new(&chosen, &rejected)
        };
        check(case, &dpo_loss(&inputs, &config).unwrap(), &leaf);
    }
    for loss in DpoLossType::ALL {
        assert!(seen.contains(&loss), "{loss:?} has no case");
    }
}

#[test]
fn losses_of_demonstrations() {
    let expected = Expected::read();
    for case in expected.cases("sft") {
        let config: SftConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let leaf = expected.tokens("policy").set_requires_grad(true);
        check(case, &sft_loss(&expected.log_probs(&leaf), &config).unwrap(), &leaf);
    }
}

#[test]
fn losses_of_labels() {
    let expected = Expected::read();
    let (reference, labels) = (expected.sums("reference"), expected.labels());
    for case in expected.cases("kto") {
        let config: KtoConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let leaf = expected.sums("policy").set_requires_grad(true);
        let inputs = KtoInputs { policy: &leaf, reference: &reference, desirable: &labels };
        let baseline = match config.loss_type.couples_rows() {
            true => kto_baseline(&floats(&case["mismatched"])),
            false => 0.0,
        };
        align_testkit::assert_close(&[baseline], &[case["baseline"].as_f64().unwrap()], 1e-12);
        check(case, &kto_loss(&inputs, baseline, &config).unwrap(), &leaf);
    }
}

#[test]
fn binary_classifier_optimisation() {
    let expected = Expected::read();
    let (reference, labels) = (expected.sums("reference"), expected.labels());
    let desirable = labels.iter().filter(|l| **l).count();
    for case in expected.cases("bco") {
        let config: KtoConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let leaf = expected.sums("policy").set_requires_grad(true);
        let rewards = Vec::<f64>::try_from((leaf.detach() - &reference) * config.beta).unwrap();
        let shift = RunningMean::default().with(&floats(&case["seen"])).with(&rewards).value();
        align_testkit::assert_close(&[shift], &[case["shift"].as_f64().unwrap()], 1e-12);
        let batch = BcoBatch { shift, desirable, undesirable: labels.len() - desirable };
        let inputs = KtoInputs { policy: &leaf, reference: &reference, desirable: &labels };
        check(case, &bco_loss(&inputs, &batch, &config).unwrap(), &leaf);
    }
}

#[test]
fn labels_and_scores_of_una() {
    let expected = Expected::read();
    let reference = expected.sums("reference");
    for case in expected.cases("una") {
        let config: UnaConfig = serde_json::from_value(case["config"].clone()).unwrap();
        let leaf = expected.sums("policy").set_requires_grad(true);
        let targets = Tensor::from_slice(&floats(&case["targets"]));
        let rows = FeedbackInputs { policy: &leaf, reference: &reference, targets: &targets };
        let inputs = match case["kind"].as_str().unwrap() {
            "binary" => UnaInputs { binary: Some(rows), ..Default::default() },
            _ => UnaInputs { scored: Some(rows), ..Default::default() },
        };
        check(case, &una_loss(&inputs, &config).unwrap(), &leaf);
    }
}
