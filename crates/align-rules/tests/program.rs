//! Child processes that score, and those that fail at it. The programs are shell scripts.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

use std::time::{Duration, Instant};

use align_rules::{Program, TIME_LIMIT};
use align_types::{Columns, Reward, RewardItem, Source};
use tempfile::TempDir;

/// Begins a program that answers the lines it reads, by their number in `$i`.
const EACH_LINE: &str = "i=0\nwhile IFS= read -r line; do\n";
const NEXT: &str = "\ni=$((i+1))\ndone\n";

fn program(folder: &TempDir, script: &str, limit: Duration) -> Program {
    let path = folder.path().join("scorer with a space.sh");
    std::fs::write(&path, script).unwrap();
    Program::start(&format!("sh '{}'", path.display()), limit).unwrap()
}

fn score(program: &mut Program, completions: &[&str]) -> Result<Vec<Option<f64>>, String> {
    let columns = Columns::from_iter([("answer".to_owned(), "4".into())]);
    let sources: Vec<Source> =
        (1..=completions.len()).map(|row| Source { file: "rows.jsonl".into(), row }).collect();
    let items: Vec<_> = completions
        .iter()
        .zip(&sources)
        .map(|(completion, source)| RewardItem {
            prompt: "2 + 2 =",
            messages: None,
            completion,
            columns: &columns,
            source: Some(source),
        })
        .collect();
    program.score(&items).map_err(|error| error.to_string())
}

/// Runs a script over three rows and returns what is wrong with it.
fn refusal(script: &str, limit: Duration) -> String {
    let folder = TempDir::new().unwrap();
    score(&mut program(&folder, script, limit), &["a", "b", "c"]).unwrap_err()
}

#[test]
fn one_process_serves_all_batches_in_order() {
    let folder = TempDir::new().unwrap();
    let script = format!("{EACH_LINE}echo \"{{\\\"id\\\": $i, \\\"reward\\\": $i.5}}\"{NEXT}");
    let mut program = program(&folder, &script, TIME_LIMIT);
    assert_eq!(program.name(), "command:sh");
    assert_eq!(score(&mut program, &["a", "b"]).unwrap(), [Some(0.5), Some(1.5)]);
    assert_eq!(score(&mut program, &[]).unwrap(), []);
    assert_eq!(score(&mut program, &["c"]).unwrap(), [Some(2.5)]);
}

#[test]
fn the_question_has_prompt_completion_and_the_columns_of_the_row() {
    let folder = TempDir::new().unwrap();
    let asked = folder.path().join("asked");
    let script = format!(
        "{EACH_LINE}printf '%s\\n' \"$line\" >> '{}'\necho \"{{\\\"id\\\": $i, \\\"reward\\\": null}}\"{NEXT}",
        asked.display()
    );
    let mut program = program(&folder, &script, TIME_LIMIT);
    assert_eq!(score(&mut program, &["a \"line\"\nand \\ more", " 4"]).unwrap(), [None, None]);
    let lines: Vec<serde_json::Value> = std::fs::read_to_string(asked)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let expected = |id: u64, completion: &str| serde_json::json!({"id": id, "prompt": "2 + 2 =", "completion": completion, "row": {"answer": "4"}});
    assert_eq!(lines, [expected(0, "a \"line\"\nand \\ more"), expected(1, " 4")]);
}

/// Line by line, and all lines before the first answer: batches are larger than a pipe holds, and neither side may wait
/// for the other.
#[test]
fn batches_larger_than_a_pipe_pass_in_both_styles() {
    let long = "x".repeat(40_000);
    let texts = vec![long.as_str(); 20];
    let each = format!("{EACH_LINE}echo \"{{\\\"id\\\": $i, \\\"reward\\\": ${{#line}}}}\"{NEXT}");
    let all = "head -n 20 > \"$0.all\"\nawk '{printf \"{\\\"id\\\": %d, \\\"reward\\\": %d}\\n\", NR - 1, \
               length($0)}' \"$0.all\"\n";
    for script in [each.as_str(), all] {
        let folder = TempDir::new().unwrap();
        let scores = score(&mut program(&folder, script, TIME_LIMIT), &texts).unwrap();
        assert!(scores.iter().all(|score| score.is_some_and(|value| value > 40_000.0)), "{scores:?}");
    }
}

#[test]
fn anything_else_than_an_answer_is_an_error_that_names_the_row() {
    let answering = |answer: &str| refusal(&format!("{EACH_LINE}echo '{answer}'{NEXT}"), TIME_LIMIT);
    assert!(answering("{\"id\": 0, \"reward\": 1}").contains("rows.jsonl:2"), "the second id is 1");
    assert!(answering("{\"id\": 1, \"reward\": 1}").contains("rows.jsonl:1"));
    assert!(answering("{\"id\": 0, \"reward\": NaN}").contains("rows.jsonl:1"));
    assert!(answering("hello").contains("`hello`"));
    assert!(answering("").contains("rows.jsonl:1"));
}

#[test]
fn a_program_that_ends_says_how() {
    let error = refusal("read line; exit 3\n", TIME_LIMIT);
    assert!(error.contains("rows.jsonl:1") && error.contains("exit status: 3"), "{error}");
    let one = "read line; echo '{\"id\": 0, \"reward\": 1}'; exit 0\n";
    let error = refusal(one, TIME_LIMIT);
    assert!(error.contains("rows.jsonl:2") && error.contains("ended"), "{error}");
}

#[test]
fn a_program_that_is_late_is_stopped() {
    let begin = Instant::now();
    let error = refusal("read line; exec sleep 600\n", Duration::from_millis(200));
    assert!(error.contains("rows.jsonl:1") && error.contains("within 0.2 s"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_program_that_never_ends_its_line_does_not_fill_the_memory() {
    let error = refusal("exec cat /dev/zero\n", TIME_LIMIT);
    assert!(error.contains("ends with a line end"), "{error}");
}

#[test]
fn a_line_too_many_is_found_at_the_next_batch() {
    let folder = TempDir::new().unwrap();
    let twice = "echo \"{\\\"id\\\": $i, \\\"reward\\\": 1}\"";
    let mut program = program(&folder, &format!("{EACH_LINE}{twice}\n{twice}{NEXT}"), TIME_LIMIT);
    score(&mut program, &["a"]).unwrap();
    let error = score(&mut program, &["b"]).unwrap_err();
    assert!(error.contains("rows.jsonl:1"), "{error}");
}

#[test]
fn after_an_error_it_is_not_asked_again() {
    let folder = TempDir::new().unwrap();
    let mut program = program(&folder, "read line; echo nonsense; cat > /dev/null\n", TIME_LIMIT);
    assert!(score(&mut program, &["a"]).is_err());
    assert!(score(&mut program, &["b"]).unwrap_err().contains("rows.jsonl:1"));
}
