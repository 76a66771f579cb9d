//! Ensembles of scores and of weights: the arithmetic, and what each needs in common.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use align_core::{Parameter, tch::Tensor};
use align_rm::{
    EnsembleMember, EnsembleRule, NormalizedOn, RewardNormalization, Spread, WeightedMember, average_weights,
    check_common_beginning, combine_scores, head_fingerprint,
};
use align_testkit::assert_close;
use proptest::prelude::*;

fn normal(mean: f64, std: f64) -> RewardNormalization {
    RewardNormalization {
        mean,
        std,
        rows: 10,
        of: NormalizedOn::Samples,
        spread: Spread::Unit,
        weights: None,
    }
}

fn member<'a>(name: &'a str, scores: &'a [f64], normal: &'a RewardNormalization) -> EnsembleMember<'a> {
    EnsembleMember { name, scores, normalization: Some(normal) }
}

proptest! {
    /// r → a r + b of one model changes its normalisation with it and nothing else.
    #[test]
    fn zero_and_scale_of_a_model_do_not_matter(
        scores in prop::collection::vec((-3.0f64..3.0, -3.0f64..3.0, -3.0f64..3.0), 1..6),
        gain in 0.1f64..50.0, shift in -9.0f64..9.0, k in 0.0f64..2.0,
    ) {
        let list = |of: &dyn Fn(&(f64, f64, f64)) -> f64| scores.iter().map(of).collect::<Vec<_>>();
        let (a, b, c) = (list(&|s| s.0), list(&|s| s.1), list(&|s| s.2));
        let stretched: Vec<f64> = a.iter().map(|score| gain * score + shift).collect();
        let (one, two) = (normal(0.3, 1.5), normal(0.3 * gain + shift, 1.5 * gain));
        for rule in [EnsembleRule::Mean, EnsembleRule::Worst, EnsembleRule::MeanMinusVariance { k }] {
            let plain =
                combine_scores(&[member("a", &a, &one), member("b", &b, &one), member("c", &c, &one)], rule);
            let other =
                combine_scores(&[member("c", &c, &one), member("a", &stretched, &two), member("b", &b, &one)], rule);
            assert_close(&other.unwrap(), &plain.unwrap(), 1e-9);
        }
    }
}

/// Normalised scores 0, 3, 6: mean 3, variance 6, lowest 0.
#[test]
fn rules_are_what_they_say() {
    let two = normal(1.0, 2.0);
    let members = [member("a", &[1.0], &two), member("b", &[7.0], &two), member("c", &[13.0], &two)];
    let of = |rule| combine_scores(&members, rule).unwrap()[0];
    let penalty = EnsembleRule::MeanMinusVariance { k: 0.25 };
    assert_close(&[of(EnsembleRule::Mean), of(EnsembleRule::Worst), of(penalty)], &[3.0, 0.0, 1.5], 1e-12);
}

#[test]
fn members_must_have_a_zero_and_a_scale_in_common() {
    let two = normal(1.0, 2.0);
    let good = member("good", &[1.0, 2.0], &two);
    let refused = |members: &[EnsembleMember<'_>], rule, expected: &str| {
        let error = combine_scores(members, rule).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let mean = EnsembleRule::Mean;
    refused(&[good], mean, "1 models, it takes at least two");
    refused(
        &[good, EnsembleMember { name: "raw", normalization: None, ..good }],
        mean,
        "model raw: its scores are not",
    );
    let shifted = RewardNormalization { spread: Spread::Kept, ..normal(1.0, 1.0) };
    refused(&[good, member("shifted", &[1.0, 2.0], &shifted)], mean, "model shifted: only its mean");
    let people = RewardNormalization { of: NormalizedOn::Demonstrations, ..two.clone() };
    refused(
        &[good, member("people", &[1.0, 2.0], &people)],
        mean,
        "model people: it is normalised on Demonstrations",
    );
    refused(&[good, member("short", &[1.0], &two)], mean, "model short: 1 scores, model good has 2");
    refused(&[good, member("nan", &[1.0, f64::NAN], &two)], mean, "score of model nan for answer 1");
    let zero = normal(1.0, 0.0);
    refused(&[good, member("zero", &[1.0, 2.0], &zero)], mean, "std = 0");
    for k in [-1.0, f64::NAN] {
        refused(&[good, good], EnsembleRule::MeanMinusVariance { k }, "variance penalty");
    }
}

fn weights(named: &[(&str, &[f64])]) -> Vec<Parameter> {
    let one = |(name, values): &(&str, &[f64])| Parameter {
        name: (*name).into(),
        tensor: Tensor::from_slice(values).set_requires_grad(true),
        decay: true,
    };
    named.iter().map(one).collect()
}

fn run<'a>(name: &'a str, parameters: &'a [Parameter]) -> WeightedMember<'a> {
    WeightedMember { name, parameters, initial_head: None }
}

fn values(parameter: &Parameter) -> Vec<f64> {
    Vec::try_from(parameter.tensor.detach()).unwrap()
}

/// The mean of 3, 6 and 15 is 8; the order of the parameters of a model does not matter, and the others stay.
#[test]
fn weights_are_averaged_by_name() {
    let first = weights(&[("a", &[3.0, 0.0]), ("score.weight", &[1.0])]);
    let second = weights(&[("score.weight", &[4.0]), ("a", &[6.0, 3.0])]);
    let third = weights(&[("a", &[15.0, 0.0]), ("score.weight", &[-2.0])]);
    average_weights(&[run("1", &first), run("2", &second), run("3", &third)]).unwrap();
    assert_close(&values(&first[0]), &[8.0, 1.0], 1e-12);
    assert_close(&values(&first[1]), &[1.0], 1e-12);
    assert_eq!((values(&second[0]), values(&third[0])), (vec![4.0], vec![15.0, 0.0]));
    assert!(first[0].tensor.requires_grad());
}

#[test]
fn models_that_differ_are_refused_before_anything_changes() {
    let first = weights(&[("a", &[3.0, 0.0]), ("score.weight", &[1.0])]);
    let good = weights(&[("a", &[5.0, 0.0]), ("score.weight", &[1.0])]);
    let refused = |other: WeightedMember<'_>, expected: &str| {
        let members =
            [WeightedMember { initial_head: Some("01"), ..run("base", &first) }, run("good", &good), other];
        let error = average_weights(&members).unwrap_err().to_string();
        assert!(error.contains(other.name) && error.contains(expected), "{error}");
        assert_eq!(values(&first[0]), [3.0, 0.0]);
    };
    refused(run("renamed", &weights(&[("a", &[1.0, 1.0]), ("head", &[1.0])])), "no parameter score.weight");
    refused(run("shorter", &weights(&[("a", &[1.0, 1.0])])), "no parameter score.weight");
    let longer = weights(&[("a", &[1.0, 1.0]), ("score.weight", &[1.0]), ("bias", &[1.0])]);
    refused(run("longer", &longer), "a parameter bias, which model base has not");
    refused(run("wider", &weights(&[("a", &[1.0]), ("score.weight", &[1.0])])), "shape [2]");
    refused(WeightedMember { initial_head: Some("02"), ..run("elsewhere", &good) }, "began as 02");
    let error = average_weights(&[run("alone", &first)]).unwrap_err().to_string();
    assert!(error.contains("at least two"), "{error}");
}

/// Heads (1, 2, 2) and (2, 1, 2) have the cosine 8 / 9, (1, 2, 2) and (2, −2, 1) the cosine 0; the matrices below,
/// (3, 4 | 0, 0) and (4, 3 | 0, 0), have 24 / 25, and (3, 4) with (4, −3) has 0. A vector of ones says nothing.
#[test]
fn models_of_one_beginning_are_told_from_others() {
    let model = |head: &[f64], below: &[f64]| {
        let mut parameters = weights(&[("score.weight", head), ("a", below), ("norm", &[1.0, 1.0])]);
        for parameter in parameters.iter_mut().take(2) {
            parameter.tensor = parameter.tensor.reshape([-1, 1]);
        }
        parameters
    };
    let (head, below) = ([1.0, 2.0, 2.0], [3.0, 4.0]);
    let first = model(&head, &below);
    let check = |other: &[Parameter]| {
        let found = check_common_beginning(&[run("first", &first), run("other", other)], "score.weight");
        found.map_err(|error| error.to_string())
    };
    check(&model(&[2.0, 1.0, 2.0], &[4.0, 3.0])).unwrap();
    for (other, expected) in [
        (model(&[2.0, -2.0, 1.0], &below), "their heads have a cosine of 0.00"),
        (model(&[-1.0, -2.0, -2.0], &below), "their heads have a cosine of -1.00"),
        (model(&head, &[4.0, -3.0]), "their weights below the heads have a cosine of 0.00"),
        (model(&[0.0; 3], &below), "models first and other: the heads of one of them are all zeros"),
        (
            model(&[f64::NAN, 0.0, 0.0], &below),
            "models first and other: the heads of one of them are all zeros, or not",
        ),
        (model(&[1.0, 2.0], &below), "shape"),
    ] {
        let error = check(&other).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let error = check(&model(&[2.0, -2.0, 1.0], &below)).unwrap_err();
    assert!(error.contains("first") && error.contains("other"), "{error}");
    let no_head = weights(&[("a", &[3.0])]);
    check_common_beginning(&[run("a", &no_head), run("b", &no_head)], "score.weight").unwrap();
}

/// Members of 0 and 1 have a variance of 1/4, of which 1e308 times is a number; of 0 and 4 it is 4.
#[test]
fn a_combination_that_is_no_number_is_an_error() {
    let scale = normal(0.0, 1.0);
    let combine = |apart: f64| {
        let (first, second) = ([0.0], [apart]);
        let member = |name, scores, normalization| EnsembleMember { name, scores, normalization };
        let members = [member("a", &first[..], Some(&scale)), member("b", &second[..], Some(&scale))];
        combine_scores(&members, EnsembleRule::MeanMinusVariance { k: 1e308 })
    };
    assert!(combine(1.0).is_ok());
    let error = combine(4.0).unwrap_err().to_string();
    assert!(error.contains("for answer 0 is not finite"), "{error}");
}

#[test]
fn fingerprints_of_heads_are_those_of_their_numbers() {
    let print = |values: &[f64]| head_fingerprint(&Tensor::from_slice(values).reshape([1, -1])).unwrap();
    assert_eq!(print(&[1.0, 2.0]), print(&[1.0, 2.0]));
    assert!(print(&[1.0, 2.0]) != print(&[2.0, 1.0]) && print(&[1.0]).len() == 16);
}
