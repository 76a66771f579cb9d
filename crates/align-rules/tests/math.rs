//! `math-answer` on small cases and on the reference answers of real sets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::path::{Path, PathBuf};

use align_rules::{MathAnswer, RuleReward};
use align_types::{Columns, RewardItem, score};
use serde_json::{Value, json};

/// Scores completions against references of one column.
fn scores(column: &str, cases: &[(String, Value)]) -> Vec<Option<f64>> {
    let columns: Vec<Columns> =
        cases.iter().map(|(_, answer)| Columns::from_iter([(column.to_owned(), answer.clone())])).collect();
    let items: Vec<_> = cases
        .iter()
        .zip(&columns)
        .map(|((completion, _), columns)| RewardItem {
            prompt: "p",
            messages: None,
            completion,
            columns,
            source: None,
        })
        .collect();
    let mut reward = RuleReward::new("math", Box::new(MathAnswer::new(column).unwrap()));
    score(&mut reward, &items).unwrap().into_values()
}

fn of(completion: &str, answer: Value) -> Option<f64> {
    scores("answer", &[(completion.to_owned(), answer)])[0]
}

#[test]
fn the_final_answer_is_compared_with_the_column() {
    for (completion, answer) in [
        ("She has 9 left, so 9 * 2 = $18 every day.", json!("9 * 2 = 18\n#### 18")),
        ("#### 18", json!("18")),
        ("#### $18.00 per day", json!(18)),
        ("\\boxed{18}", json!("So \\boxed{18.0}.")),
        ("<think>12</think><answer>It is 18.</answer>", json!("18")),
        ("The share is 50%.", json!("0.5")),
        ("$\\boxed{\\frac{1}{2}}$", json!("0.5")),
        ("\\boxed{\\left(3, \\frac{\\pi}{2}\\right)}", json!("(3,\\frac{\\pi}{2})")),
        ("\\frac{\\pi}{2}", json!("\\frac{\\pi}2")),
        ("\\boxed{Monday}", json!(["Tuesday", "monday"])),
        ("-4", json!("\\boxed{-4}")),
    ] {
        assert_eq!(of(completion, answer.clone()), Some(1.0), "{completion} for {answer}");
    }
    for (completion, answer) in [
        ("", json!("18")),
        ("no idea", json!("18")),
        ("18, or rather 19", json!("18")),
        ("18 \\boxed{19}", json!("18")),
        ("\\boxed{18", json!("18")),
        ("\\boxed{}", json!("18")),
        ("####\n18", json!("18")),
        ("\\boxed{18 or 19}", json!("18")),
        ("\\boxed{3\\sqrt{5}}", json!("5")),
        ("5 - 3", json!("-3")),
        ("\\boxed{18}", json!("x + 18")),
    ] {
        assert_eq!(of(completion, answer.clone()), Some(0.0), "{completion} for {answer}");
    }
}

#[test]
fn references_without_an_answer_abstain_and_missing_ones_are_errors() {
    for reference in ["He has 3.\nA: 18", "\\boxed{18", "####", &"word ".repeat(100), "$"] {
        assert_eq!(of("18", json!(reference)), None, "{reference}");
    }
    let columns = Columns::from_iter([("question".to_owned(), json!("?"))]);
    let source = align_types::Source { file: "rows.jsonl".into(), row: 3 };
    let item = RewardItem {
        prompt: "p",
        messages: None,
        completion: "18",
        columns: &columns,
        source: Some(&source),
    };
    let error = score(&mut align_rules::rule("rule:math-answer").unwrap(), &[item]).unwrap_err().to_string();
    for part in ["rows.jsonl:3: rule:math-answer: ", "no column `answer`", "it has question"] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

/// The folder of real data sets: `ALIGN_TEST_DATA`, or `shared/data` beside the workspace.
fn real_data(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let path = std::env::var_os("ALIGN_TEST_DATA").map_or(beside, PathBuf::from).join(name);
    if path.exists() {
        return Some(path);
    }
    println!("note: {} is absent, and its test is skipped", path.display());
    None
}

fn rows(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every reference answers itself; that of another row does only where both are the same number.
fn references_tell_themselves_apart(file: &str, column: &str) {
    let Some(path) = real_data(file) else { return };
    let answers: Vec<Value> = rows(&path).iter().map(|row| row[column].clone()).collect();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let own: Vec<(String, Value)> = answers.iter().map(|answer| (text(answer), answer.clone())).collect();
    let wrong: Vec<&Value> = own
        .iter()
        .zip(scores(column, &own))
        .filter(|(_, score)| *score != Some(1.0))
        .map(|((_, a), _)| a)
        .collect();
    assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), own.len(), &wrong[..wrong.len().min(5)]);
    let shifted = own
        .iter()
        .zip(answers.iter().cycle().skip(1))
        .map(|((text, _), other)| (text.clone(), other.clone()));
    let right =
        scores(column, &shifted.collect::<Vec<_>>()).iter().filter(|score| **score == Some(1.0)).count();
    assert!(right * 10 < own.len(), "{right} of {} shuffled answers are right", own.len());
}

#[test]
fn gsm8k_references_score_themselves() {
    references_tell_themselves_apart("gsm8k/test.jsonl", "answer");
    references_tell_themselves_apart("gsm8k/train.jsonl", "answer");
}

#[test]
fn math_references_score_themselves() {
    references_tell_themselves_apart("math/math500_test.jsonl", "answer");
    references_tell_themselves_apart("math/math500_test.jsonl", "solution");
    references_tell_themselves_apart("math/test.json", "solution");
    references_tell_themselves_apart("math-word-problems/svamp/test.jsonl", "Answer");
    references_tell_themselves_apart("math-word-problems/asdiv/test.jsonl", "answer");
    references_tell_themselves_apart("math-word-problems/amc23/test.jsonl", "answer");
}

/// The answer of a worked solution is the one that stands beside it as a column of its own.
#[test]
fn solutions_of_math_500_have_the_answer_of_their_column() {
    let Some(path) = real_data("math/math500_test.jsonl") else { return };
    let rows = rows(&path);
    let cases: Vec<(String, Value)> = rows
        .iter()
        .map(|row| (row["solution"].as_str().unwrap().to_owned(), row["answer"].clone()))
        .collect();
    let wrong: Vec<&Value> = rows
        .iter()
        .zip(scores("answer", &cases))
        .filter(|(_, s)| *s != Some(1.0))
        .map(|(row, _)| &row["answer"])
        .collect();
    println!("{} of {} differ: {wrong:?}", wrong.len(), rows.len());
    assert!(wrong.len() * 100 <= rows.len(), "{} of {}: {wrong:?}", wrong.len(), rows.len());
}

/// People judged these solutions of four models; they end with `A: NUMBER`.
#[test]
fn verdicts_on_solutions_of_models_agree_with_those_of_gsm8k() {
    let Some(path) = real_data("gsm8k/example_model_solutions.jsonl") else { return };
    let models = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"];
    let (mut cases, mut verdicts) = (Vec::new(), Vec::new());
    for row in rows(&path) {
        let answer = row["ground_truth"].as_str().unwrap().rsplit("A: ").next().unwrap().to_owned();
        for model in models {
            cases.push((row[model]["solution"].as_str().unwrap().to_owned(), json!(answer)));
            verdicts.push(row[model]["is_correct"].as_bool().unwrap());
        }
    }
    let scores = scores("answer", &cases);
    let differ: Vec<_> = cases
        .iter()
        .zip(&verdicts)
        .zip(&scores)
        .filter(|((_, verdict), score)| **score != Some(f64::from(u8::from(**verdict))))
        .map(|(((text, answer), verdict), score)| (text.lines().last(), answer, verdict, score))
        .collect();
    assert!(
        differ.len() * 200 <= cases.len(),
        "{} of {}: {:?}",
        differ.len(),
        cases.len(),
        &differ[..differ.len().min(8)]
    );
}
