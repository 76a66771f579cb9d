//! Rules by name, and sums of them.

use align_rules::{Argument, Error, RULES, Registry, WeightedSum, rule};
use align_types::{Columns, Reward, RewardFn, RewardItem, Source};

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

#[test]
fn names_and_arguments_that_do_not_fit_are_refused() {
    for (name, expected) in [
        ("length", "there is no such rule; did you mean rule:length?"),
        ("rule:", "there is no such rule; the rules are rule:contains, "),
        ("rule:lenght", "there is no such rule; did you mean rule:length?"),
        ("rule:math_answer=x", "rule:math_answer: there is no such rule; did you mean rule:math-answer?"),
        ("", "there is no such rule; the rules are"),
        ("rule:finished=yes", "takes no argument"),
        ("rule:repetition=0", "rule:repetition: `0`: expected N"),
        ("rule:distinct=3,letters", "rule:distinct: `3,letters`: expected N"),
        ("rule:repetition=101", "1 to 100"),
        ("rule:overlong=10", "rule:overlong: `10`: expected MOST,MARGIN"),
        ("rule:overlong=10,0", "MARGIN above 0"),
        ("rule:overlong=10,11", "at most MOST"),
        ("rule:format=a,a", "a stands there twice"),
        ("rule:format=<a>..</b>", "rule:format"),
        ("rule:tags=1", "rule:tags: `1`"),
        ("rule:tags=think,answer,*", "rule:tags: `think,answer,*`: tags are counted wherever"),
        ("rule:format=,", "names of tags"),
        ("rule:one-of=a,,b", "none of them empty"),
        ("rule:json=a,", "none of them empty"),
        ("rule:regex", "needs an argument"),
        ("rule:contains=", "needs an argument"),
        ("rule:regex=(", "unclosed group"),
        ("rule:regex=(?:a{1000}){1000}{1000}", "rule:regex"),
        ("rule:length=ten", "rule:length: `ten` is no number"),
        ("rule:length=-1", "no number"),
        ("rule:length=", "empty"),
    ] {
        let error = rule(name).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

/// An argument that fits each rule that takes one.
fn example(form: &str) -> &str {
    match form {
        "N" => "7",
        "N[,characters]" => "2,characters",
        "MOST,MARGIN" => "200,50",
        form if form.starts_with("TAG,TAG") => "think,answer",
        _ => "some text",
    }
}

#[test]
fn every_rule_of_the_registry_can_be_made_as_it_says() {
    let registry = Registry::new();
    for entry in RULES {
        let (bare, form) = match entry.argument {
            Argument::None => (true, None),
            Argument::Optional(form) => (true, Some(form)),
            Argument::Required(form) => (false, Some(form)),
        };
        let with = format!("{}={}", entry.name, example(form.unwrap_or_default()));
        assert_eq!(rule(entry.name).is_ok(), bare, "{}", entry.name);
        assert_eq!(rule(&with).is_ok(), form.is_some(), "{with}");
        assert_eq!(registry.reward(entry.name).is_ok(), bare);
        if form.is_some() {
            assert_eq!(registry.reward(&with).unwrap().name(), with);
        }
        assert!(!entry.help.is_empty());
    }
    assert!(RULES.is_sorted_by_key(|entry| entry.name));
    let help: Vec<String> = registry.help().map(|(written, _)| written).collect();
    assert!(help.contains(&"rule:length[=N]".to_owned()) && help.contains(&"rule:regex=PATTERN".to_owned()));
}

#[test]
fn other_crates_add_rewards_by_name() {
    let mut registry = Registry::new();
    let judge = |argument: Option<&str>| -> align_rules::Result<Box<dyn Reward>> {
        let value: f64 = argument.unwrap_or("1").parse().unwrap();
        Ok(Box::new(RewardFn::new("judge:fixed", move |_: &RewardItem<'_>| value)))
    };
    registry.add("judge:fixed", Argument::Optional("X"), "always X", judge).unwrap();
    assert_eq!(scores(&mut registry.reward("judge:fixed=2.5").unwrap(), &["a"]), [Some(2.5)]);
    let unknown = registry.reward("judge:fixd").err().unwrap().to_string();
    assert!(unknown.contains("did you mean judge:fixed?"), "{unknown}");
    for name in ["judge:fixed", "rule:length", "judge", "judge:", ":x", "judge:a=b", "judge:a b"] {
        let refused = registry.add(name, Argument::None, "", judge).unwrap_err();
        assert!(matches!(refused, Error::Name { .. }), "{name}");
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
    scores(&mut sum, &["a", "b"]);
    let counted: Vec<(&str, u64)> = sum.abstentions().collect();
    assert_eq!(counted, [("rule:length", 0), ("every second", 2)]);
    // Of the two completions of the last batch alone, the second part left one out.
    assert_eq!(sum.last_abstentions().collect::<Vec<_>>(), [("rule:length", 0), ("every second", 1)]);
    assert_eq!(sum.last_means().collect::<Vec<_>>(), [("rule:length", 1.0, 2), ("every second", 1.0, 1)]);
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

/// Finite parts whose sum is none.
#[test]
fn a_sum_that_overflows_is_an_error() {
    let huge = || -> Box<dyn Reward> { Box::new(Broken(vec![Some(f64::MAX)])) };
    let columns = Columns::new();
    let item = RewardItem { prompt: "p", messages: None, completion: "c", columns: &columns, source: None };
    for weights in [&[1.0, 1.0][..], &[2.0, 0.0]] {
        let mut sum = WeightedSum::new(vec![huge(), huge()], weights).unwrap();
        let error = align_types::score(&mut sum, &[item]).unwrap_err().to_string();
        assert!(error.contains("completion 0") && error.contains("is inf"), "{error}");
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
