//! Rules by name, and sums of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use align_rules::{Argument, Error, RULES, WeightedSum, rule};
use align_types::{Columns, Reward, RewardItem, Source};

fn scores(reward: &mut dyn Reward, completions: &[&str]) -> Vec<Option<f64>> {
    let columns = Columns::new();
    let items: Vec<_> = completions
        .iter()
        .map(|completion| RewardItem {
            prompt: "p",
            messages: None,
            completion,
            columns: &columns,
            source: None,
        })
        .collect();
    reward.score(&items).unwrap()
}

fn of(name: &str, completion: &str) -> f64 {
    scores(&mut rule(name).unwrap(), &[completion])[0].unwrap()
}

#[test]
fn length_counts_characters_and_not_bytes() {
    assert_eq!(of("rule:length", "größer"), 6.0);
    assert_eq!(of("rule:length", ""), 0.0);
    assert_eq!(of("rule:length=4", "größer"), -2.0);
    assert_eq!(of("rule:length=4", "ab"), -2.0);
    assert_eq!(of("rule:length=4", "abcd"), 0.0);
}

#[test]
fn contains_looks_for_the_text_as_it_is() {
    assert_eq!(of("rule:contains=a.c", "xa.cx"), 1.0);
    assert_eq!(of("rule:contains=a.c", "abc"), 0.0);
    assert_eq!(of("rule:contains=x=y", "x=y"), 1.0);
}

#[test]
fn regex_matches_anywhere_and_in_linear_time() {
    assert_eq!(of("rule:regex=[0-9]{2}", "in 42 days"), 1.0);
    assert_eq!(of("rule:regex=^[0-9]+$", "in 42 days"), 0.0);
    // With backtracking this expression takes 2^n steps on n letters.
    let long = format!("{}b", "a".repeat(5_000));
    assert_eq!(of("rule:regex=^(a|a|aa)+$", &long), 0.0);
}

#[test]
fn names_and_arguments_that_do_not_fit_are_refused() {
    for (name, expected) in [
        ("length", "there is no such rule"),
        ("rule:", "there is no such rule"),
        ("rule:lenght", "rule:contains, rule:length, rule:regex"),
        ("rule:regex", "needs an argument"),
        ("rule:contains=", "needs an argument"),
        ("rule:regex=(", "unclosed group"),
        ("rule:regex=(?:a{1000}){1000}{1000}", "rule:regex"),
        ("rule:length=ten", "`ten` is no number"),
        ("rule:length=-1", "no number"),
        ("rule:length=", "empty"),
    ] {
        let error = rule(name).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn every_rule_of_the_registry_can_be_made_as_it_says() {
    for entry in RULES {
        let bare = rule(&format!("rule:{}", entry.name));
        let with = rule(&format!("rule:{}=7", entry.name));
        assert_eq!(bare.is_ok(), entry.argument != Argument::Required, "{}", entry.name);
        assert_eq!(with.is_ok(), entry.argument != Argument::None, "{}", entry.name);
        assert!(!entry.help.is_empty());
    }
}

/// Says 1, nothing, 2, nothing, …
struct EverySecond;

impl Reward for EverySecond {
    fn name(&self) -> &str {
        "every second"
    }

    fn score(&mut self, items: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        Ok((0..items.len()).map(|i| i.is_multiple_of(2).then_some((i / 2 + 1) as f64)).collect())
    }
}

#[test]
fn a_sum_abstains_with_its_parts_and_never_says_zero() {
    let parts: Vec<Box<dyn Reward>> = vec![Box::new(rule("rule:length").unwrap()), Box::new(EverySecond)];
    let mut sum = WeightedSum::new(parts, &[10.0, -1.0]).unwrap();
    assert_eq!(sum.name(), "10 rule:length + -1 every second");
    assert_eq!(scores(&mut sum, &["a", "b", "cc"]), [Some(9.0), None, Some(18.0)]);
}

#[test]
fn weights_must_fit() {
    let parts = || -> Vec<Box<dyn Reward>> { vec![Box::new(rule("rule:length").unwrap())] };
    assert!(WeightedSum::new(parts(), &[]).is_ok());
    assert!(matches!(WeightedSum::new(parts(), &[1.0, 2.0]), Err(Error::Weights { .. })));
    assert!(matches!(WeightedSum::new(parts(), &[f64::NAN]), Err(Error::Weights { .. })));
    assert!(matches!(WeightedSum::new(Vec::new(), &[]), Err(Error::Weights { .. })));
}

/// Breaks the promise of a reward.
struct Broken(Vec<Option<f64>>);

impl Reward for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn score(&mut self, _: &[RewardItem<'_>]) -> align_types::Result<Vec<Option<f64>>> {
        Ok(self.0.clone())
    }
}

#[test]
fn a_reward_that_breaks_its_promise_is_an_error_that_names_the_row() {
    let columns = Columns::new();
    let source = Source { file: "rows.jsonl".into(), row: 7 };
    let item =
        RewardItem { prompt: "p", messages: None, completion: "c", columns: &columns, source: Some(&source) };
    let told = |values: Vec<Option<f64>>| {
        WeightedSum::new(vec![Box::new(Broken(values))], &[]).unwrap().score(&[item]).unwrap_err().to_string()
    };
    assert!(told(vec![Some(f64::NAN)]).contains("rows.jsonl:7: the reward broken is NaN"));
    assert!(told(vec![Some(f64::INFINITY)]).contains("rows.jsonl:7"));
    assert!(told(vec![]).contains("0 values for 1") && told(vec![]).contains("rows.jsonl:7"));
    assert!(told(vec![None, None]).contains("2 values for 1"));
}
