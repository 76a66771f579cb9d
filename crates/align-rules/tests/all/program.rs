//! Child processes that score, and those that fail at it. The programs are shell scripts.
#![cfg(unix)]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

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
fn lines_of_any_bytes_are_refused_and_shown_harmlessly() {
    let printing = |bytes: &str| refusal(&format!("{EACH_LINE}printf '{bytes}\\n'{NEXT}"), TIME_LIMIT);
    for bytes in [
        "\\377\\376",
        "{\"id\": 0, \"reward\": Infinity}",
        "{\"id\": 0, \"reward\": -Infinity}",
        "{\"id\": 0, \"reward\": 1e999}",
        "{\"id\": 0, \"reward\": \"\\303\"}",
        "[0, 1]",
        "\\033[2J",
        "\\000",
    ] {
        let error = printing(bytes);
        assert!(error.contains("rows.jsonl:1") && !error.contains(char::is_control), "{bytes}: {error:?}");
    }
    let twice = "echo '{\"id\": 0, \"reward\": 1}'\n";
    let error = refusal(&format!("{EACH_LINE}{twice}{twice}{NEXT}"), TIME_LIMIT);
    assert!(error.contains("rows.jsonl:2") && error.contains("had its turn before"), "{error}");
    let unknown = refusal(&format!("{EACH_LINE}echo '{{\"id\": 99, \"reward\": 1}}'{NEXT}"), TIME_LIMIT);
    assert!(
        unknown.contains("rows.jsonl:1") && unknown.contains("in the order of the questions"),
        "{unknown}"
    );
}

/// Answers with the id of the question; `$n` counts how often the program was started.
const ECHO: &str = "echo x >> \"$0.starts\"\nn=$(wc -l < \"$0.starts\")\n\
    answer() { id=${line#*:}; echo \"{\\\"id\\\": ${id%%,*}, \\\"reward\\\": $1}\"; }\n";

#[test]
fn a_program_that_ends_is_started_once_more_and_told_about() {
    let folder = TempDir::new().unwrap();
    // The first one ends after two answers, the second after three more.
    let script = format!(
        "{ECHO}for i in 1 2 3; do [ $n = 1 ] && [ $i = 3 ] && {{ echo 'out of luck' >&2; exit 7; }}\n\
         IFS= read -r line || exit 0\nanswer $n\ndone\n"
    );
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let mut program = program(&folder, &script, TIME_LIMIT)
        .with_notice(Box::new(move |text| listener.lock().unwrap().push(text.to_owned())));
    let first = score(&mut program, &["a", "b", "c", "d"]).unwrap();
    assert_eq!(first, [Some(1.0), Some(1.0), Some(2.0), Some(2.0)]);
    assert_eq!(program.restarts(), 1);
    // One answer is left in the second process; a batch of its own has a restart of its own.
    assert_eq!(score(&mut program, &["e", "f"]).unwrap(), [Some(2.0), Some(3.0)]);
    assert_eq!(program.restarts(), 2);
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 2, "{told:?}");
    for part in ["rows.jsonl:3", "exit status: 7", "out of luck", "started again"] {
        assert!(told[0].contains(part), "{part}: {}", told[0]);
    }
}

#[test]
fn a_program_that_ended_between_batches_is_started_again() {
    let folder = TempDir::new().unwrap();
    let script = format!("{ECHO}IFS= read -r line\nanswer $n\n");
    let mut program = program(&folder, &script, TIME_LIMIT);
    assert_eq!(score(&mut program, &["a"]).unwrap(), [Some(1.0)]);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(score(&mut program, &["b"]).unwrap(), [Some(2.0)]);
}

#[test]
fn a_program_that_ends_twice_in_a_batch_says_how() {
    let error = refusal("read line; echo 'Traceback: no luck' >&2; exit 3\n", TIME_LIMIT);
    for part in ["rows.jsonl:1", "exit status: 3", "Traceback: no luck"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let one_each = format!("{ECHO}IFS= read -r line\nanswer 1\n");
    let error = refusal(&one_each, TIME_LIMIT);
    assert!(error.contains("rows.jsonl:3") && error.contains("ended"), "{error}");
}

#[test]
fn a_chatty_program_does_not_stop_on_its_standard_error() {
    let folder = TempDir::new().unwrap();
    // More than a pipe holds.
    let script = format!("{ECHO}while IFS= read -r line; do printf '%70000s\\n' . >&2; answer 4; done\n");
    let mut program = program(&folder, &script, TIME_LIMIT);
    assert_eq!(score(&mut program, &["a"]).unwrap(), [Some(4.0)]);
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
fn a_living_program_that_does_not_read_is_not_said_to_have_ended() {
    let folder = TempDir::new().unwrap();
    let script = "dd bs=1 count=1 > /dev/null 2>&1; echo '{\"id\": 0, \"reward\": 1}'; exec sleep 600\n";
    let mut program = program(&folder, script, Duration::from_millis(500));
    // More than a pipe holds.
    assert_eq!(score(&mut program, &["x".repeat(300_000).as_str()]).unwrap(), [Some(1.0)]);
    let error = score(&mut program, &["b"]).unwrap_err();
    assert!(error.contains("rows.jsonl:1") && error.contains("does not read its input"), "{error}");
    assert!(!error.contains("ended") && program.restarts() == 0, "{error}");
}

#[test]
fn after_an_error_it_is_not_asked_again() {
    let folder = TempDir::new().unwrap();
    let mut program = program(&folder, "read line; echo nonsense; cat > /dev/null\n", TIME_LIMIT);
    assert!(score(&mut program, &["a"]).is_err());
    assert!(score(&mut program, &["b"]).unwrap_err().contains("rows.jsonl:1"));
}

/// A program that answers every line with 1, then goes on as told once its input has come to its end.
fn answering_then(then: &str) -> String {
    format!("{ECHO}while IFS= read -r line; do answer 1; done\n{then}\n")
}

/// Ends a program that was asked two rows, and returns the complaint, and what was told beside it.
fn end_of(script: &str, limit: Duration) -> (Result<(), String>, Vec<String>) {
    let folder = TempDir::new().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let mut program = program(&folder, script, limit)
        .with_notice(Box::new(move |text| listener.lock().unwrap().push(text.to_owned())));
    assert_eq!(score(&mut program, &["a", "b"]).unwrap(), [Some(1.0); 2]);
    let ended = program.finish().map_err(|error| error.to_string());
    program.finish().unwrap();
    let told = told.lock().unwrap().clone();
    (ended, told)
}

#[test]
fn a_program_that_ends_well_is_let_go_without_a_word() {
    assert_eq!(end_of(&answering_then(""), TIME_LIMIT), (Ok(()), vec![]));
    let folder = TempDir::new().unwrap();
    let mut never_asked = program(&folder, "echo hello; exec sleep 600\n", TIME_LIMIT);
    let begin = Instant::now();
    never_asked.finish().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_line_behind_the_very_last_answer_is_an_error_that_shows_it() {
    let twice = "[ ${id%%,*} = 1 ] && echo '{\"id\": 1, \"reward\": 9}'";
    for (script, shown) in [
        (answering_then("echo '2 rows done'"), "`2 rows done`"),
        (answering_then("sleep 0.3; echo later"), "`later`"),
        (format!("{ECHO}while IFS= read -r line; do answer 1; {twice}; done\n"), "\"reward\": 9"),
        (answering_then("printf 'no line end'"), "`no line end`"),
        (answering_then("printf '\\033[2J\\n'; exit 3"), "[2J`"),
    ] {
        let (ended, told) = end_of(&script, TIME_LIMIT);
        let error = ended.unwrap_err();
        for part in ["rows.jsonl:2", "one line too many", shown] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(!error.contains(char::is_control) && told.is_empty(), "{error:?} {told:?}");
    }
}

#[test]
fn a_program_that_hangs_at_its_end_is_stopped_after_the_time_limit() {
    for hang in ["exec sleep 600", "exec >&-; exec sleep 600"] {
        let begin = Instant::now();
        let (ended, told) = end_of(&answering_then(hang), Duration::from_secs(2));
        ended.unwrap();
        assert!(begin.elapsed() > Duration::from_millis(1900) && begin.elapsed() < Duration::from_secs(30));
        assert!(told.len() == 1 && told[0].contains("did not end within 2 s"), "{told:?}");
    }
}

/// A process that the program leaves behind keeps standard output open; the program itself has ended.
#[test]
fn what_a_program_leaves_behind_is_not_waited_for() {
    let begin = Instant::now();
    assert_eq!(end_of(&answering_then("sleep 20 2> /dev/null &"), TIME_LIMIT), (Ok(()), vec![]));
    assert!(begin.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_program_that_fails_at_its_end_is_told_about() {
    let (ended, told) = end_of(&answering_then("echo 'cannot save' >&2; exit 3"), TIME_LIMIT);
    ended.unwrap();
    for part in ["gave all its answers", "exit status: 3", "cannot save"] {
        assert!(told.len() == 1 && told[0].contains(part), "{part}: {told:?}");
    }
}

#[test]
fn an_end_is_asked_of_every_part_of_a_sum() {
    let folder = TempDir::new().unwrap();
    let chatty = program(&folder, &answering_then("echo more"), TIME_LIMIT);
    let other = TempDir::new().unwrap();
    let there = other.path().join("ended");
    let quiet = program(&other, &answering_then(&format!("echo x > '{}'", there.display())), TIME_LIMIT);
    let parts: Vec<Box<dyn Reward>> = vec![Box::new(chatty), Box::new(quiet)];
    let mut sum = align_rules::WeightedSum::new(parts, &[]).unwrap();
    let columns = Columns::new();
    let item = RewardItem { prompt: "p", messages: None, completion: "c", columns: &columns, source: None };
    assert_eq!(sum.score(&[item]).unwrap(), [Some(2.0)]);
    assert!(sum.finish().unwrap_err().to_string().contains("`more`"));
    assert!(there.exists());
}
