//! `align ppo`: evaluations on the way, and checkpoints that are damaged.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::ppo::{folder, line, metrics, summary};
use crate::support::{
    Answer, align, command, json_lines, kills::finish, learned, write, write_demonstrations, write_prompts,
};

#[test]
fn the_loss_of_earlier_data_is_followed() {
    let folder = folder();
    let here = folder.path();
    write_demonstrations(here, "texts.jsonl", 6);
    let flags = "--reward rule:length --truncated score --ptx-eval-data {texts.jsonl} --eval-every 1 --samples 2 \
                 --keep-best loss/ptx_avg";
    align(here, &line("run", flags)).ok();
    let losses: Vec<f64> =
        metrics(here, "run").iter().map(|line| line["eval/loss/ptx_avg"].as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 2);
    // Without held-out prompts it is the held-out loss.
    assert!(metrics(here, "run").iter().all(|line| line["eval/loss"] == line["eval/loss/ptx_avg"]));
    let found = summary(here, "run");
    assert_eq!(found["ptx_eval_data"]["files"][0]["kept"], 6, "{found}");
    let best = losses.iter().copied().fold(f64::MAX, f64::min);
    assert_eq!(
        (&found["best"]["metric"], &found["best"]["value"]),
        (&"eval/loss/ptx_avg".into(), &best.into())
    );

    // It is what another command finds for the model that the run leaves.
    align(here, "logprobs --model {run/model} --data {texts.jsonl} --output {scored.jsonl} --no-progress")
        .ok();
    let (mut sum, mut tokens) = (0.0, 0.0);
    for row in json_lines(&here.join("scored.jsonl")) {
        let answer = &row["completions"][0];
        sum -= answer["sum"].as_f64().unwrap();
        tokens += answer["logprobs"].as_array().unwrap().len() as f64;
    }
    assert!((losses[1] - sum / tokens).abs() < 1e-5, "{} and {}", losses[1], sum / tokens);

    // Beside held-out prompts their score stays the measure, and the curve is in the report.
    write_prompts(here, "held.jsonl", 3);
    let both =
        flags.replace("--keep-best loss/ptx_avg", "--eval-data {held.jsonl} --keep-best objective/scores");
    align(here, &line("both", &both)).ok();
    let last = metrics(here, "both").pop().unwrap();
    assert_eq!(last["eval/loss"].as_f64().unwrap(), -last["eval/objective/scores"].as_f64().unwrap());
    assert!((last["eval/loss/ptx_avg"].as_f64().unwrap() - losses[1]).abs() < 1e-9);
    align(here, "report {both} --output {page.html}").ok();
    let page = fs::read_to_string(here.join("page.html")).unwrap();
    assert!(page.contains("eval/loss/ptx_avg") && page.contains("held-out loss of earlier data"));
    // Each step has prompts of its own, which are drawn and not greedy.
    assert!(page.contains("Samples over time") && page.contains("<h3>step 2</h3>"));
    assert!(!page.contains("Greedy answers"));

    let changed = fs::read_to_string(here.join("texts.jsonl")).unwrap().replace("It is", "This is");
    fs::remove_file(here.join("run/summary.json")).unwrap();
    write(here, "texts.jsonl", changed);
    align(here, &format!("{} --resume", line("run", flags))).refused(2, &["was started with other inputs"]);
}

/// Scores are the lengths of the lines behind their numbers, which begin anew with every process. Where `armed` is, the
/// program asks the run to stop once it scores held-out prompts, and goes, as both do when a terminal interrupts them.
const INTERRUPTS: &str = "while IFS= read -r line; do
echo x >> \"$0.count\"
if [ -f \"$0.armed\" ] && [ $(wc -l < \"$0.count\") -gt 4 ]; then
  if [ ! -f \"$0.sent\" ]; then
    : > \"$0.sent\"
    while [ ! -s \"$0.pid\" ]; do sleep 0.02; done
    kill -INT $(cat \"$0.pid\")
    sleep 0.3
  fi
  exit 130
fi
id=${line#*:}; rest=${line#*,}; echo \"{\\\"id\\\": ${id%%,*}, \\\"reward\\\": ${#rest}}\"
done
";

fn with_program(folder: &Path, run: &str, more: &str) -> std::process::Command {
    write_prompts(folder, "held.jsonl", 3);
    let flags = format!("--truncated score --eval-data {{held.jsonl}} --eval-every 1 {more}");
    let mut command = command(folder, &line(run, &flags));
    command.arg("--reward-command").arg(format!("sh '{}'", write(folder, "score.sh", INTERRUPTS).display()));
    command
}

#[test]
fn ctrl_c_while_held_out_prompts_are_scored_loses_nothing() {
    let folder = folder();
    let here = folder.path();
    Answer::to(&mut with_program(here, "whole", "")).ok();
    fs::remove_file(here.join("score.sh.count")).unwrap();
    write(here, "score.sh.armed", "");
    let mut first = with_program(here, "run", "");
    let child =
        first.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    write(here, "score.sh.pid", child.id().to_string());
    let stopped = Answer::of(&child.wait_with_output().unwrap());
    assert_eq!(stopped.code, 130, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("interrupted after step 1"), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("--resume"), "{}", stopped.stderr);
    // The step is done, and its held-out prompts are what the run goes on with.
    assert_eq!(metrics(here, "run").len(), 1);
    assert!(metrics(here, "run")[0].get("eval/objective/scores").is_none());
    fs::remove_file(here.join("score.sh.armed")).unwrap();
    Answer::to(&mut with_program(here, "run", "--resume")).ok();
    assert_eq!(learned(here, "run"), learned(here, "whole"));
    assert!(learned(here, "run").iter().all(|line| line["eval/objective/scores"].is_number()));
}

/// Scores are the lengths of lines, but of prompts that it does not know.
const KNOWS_SOME: &str = "while IFS= read -r line; do
id=${line#*:}; reward=${#line}
case \"$line\" in *Unknown*) reward=null;; esac
echo \"{\\\"id\\\": ${id%%,*}, \\\"reward\\\": $reward}\"
done
";

#[test]
fn held_out_prompts_that_the_reward_abstains_on_do_not_end_training() {
    let folder = folder();
    let here = folder.path();
    write(here, "held.jsonl", "{\"prompt\": \"Unknown?\"}\n");
    let mut run = command(here, &line("run", "--truncated score --eval-data {held.jsonl} --eval-every 1"));
    run.arg("--reward-command").arg(format!("sh '{}'", write(here, "score.sh", KNOWS_SOME).display()));
    Answer::to(&mut run).ok();
    let lines = metrics(here, "run");
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["eval/completions/abstained"] == 1.0), "{lines:?}");
    assert!(lines.iter().all(|line| line.get("eval/objective/scores").is_none()), "{lines:?}");
}

#[test]
fn a_checkpoint_whose_state_is_damaged_is_no_fault_of_the_machine() {
    let folder = folder();
    let here = folder.path();
    let line = format!("{} --resume", line("run", "--reward rule:length --truncated score --save-every 1"));
    finish(here, &line);
    fs::remove_file(here.join("run/summary.json")).unwrap();
    fs::remove_dir_all(here.join("run/model")).unwrap();
    let state = here.join("run/checkpoints/step-2/ppo.json");
    // As long as it was, or it would be passed over as torn.
    let whole = fs::read(&state).unwrap();
    fs::write(&state, vec![b' '; whole.len()]).unwrap();
    align(here, &line).refused(4, &["ppo.json", "damaged", "delete that checkpoint's folder"]);
    // Well written, but of another run.
    let mut other: Value = serde_json::from_slice(&whole).unwrap();
    other["controller"] = serde_json::json!([]);
    let mut text = other.to_string().into_bytes();
    assert!(text.len() <= whole.len());
    text.resize(whole.len(), b' ');
    fs::write(&state, text).unwrap();
    let refused = align(here, &line);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    fs::remove_dir_all(here.join("run/checkpoints/step-2")).unwrap();
    finish(here, &line);
}
