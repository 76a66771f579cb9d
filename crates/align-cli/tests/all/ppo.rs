//! `align ppo`: samples of the policy, rewards from everywhere, and what a run leaves behind.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use align_cli::metrics::{self, Place, is_named};
use align_data::{DataConfig, Tokenizer, load_text_prompts};
use serde_json::Value;

use crate::support::{
    Answer, align, command, copy_of_tiny_llama, edit_json, json_lines,
    kills::{self, finish, newest_checkpoint, nudge_weights, wait_while, weights_of},
    learned, poison_token, reward_model, tiny_llama, tree, write, write_demonstrations, write_prompts,
};

/// Two iterations of four prompts with short answers. Few answers of random weights end by themselves.
pub const SMALL: &str = "--max-steps 2 --batch-size 4 --max-new-tokens 5 --learning-rate 1e-3 --log-every 1 --threads 1 \
                     --no-progress";

pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_prompts(folder.path(), "prompts.jsonl", 10);
    folder
}

pub fn line(run: &str, flags: &str) -> String {
    format!(
        "ppo --model {} --data {{prompts.jsonl}} --output-dir {{{run}}} {SMALL} {flags}",
        tiny_llama().display()
    )
}

pub fn metrics(folder: &Path, run: &str) -> Vec<Value> {
    json_lines(&folder.join(run).join("metrics.jsonl"))
}

pub fn summary(folder: &Path, run: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(run).join("summary.json")).unwrap()).unwrap()
}

#[test]
fn a_run_leaves_what_it_promises() {
    let folder = folder();
    write_prompts(folder.path(), "held.jsonl", 3);
    let flags = "--reward rule:length --reward rule:contains=e --reward-weights 1,-0.5 --truncated score --samples 3 \
                 --eval-data {held.jsonl} --eval-every 1";
    let answer = align(folder.path(), &line("run", flags)).ok();
    assert!(answer.stderr.contains("the critic begins with"), "{}", answer.stderr);
    let lines = metrics(folder.path(), "run");
    assert_eq!(lines.len(), 2);
    for (name, value) in lines.iter().flat_map(|line| line.as_object().unwrap()) {
        let plain = name.strip_prefix("eval/").unwrap_or(name);
        let here = [Place::Training, Place::Ppo];
        assert!(
            metrics::all().any(|metric| here.contains(&metric.place) && is_named(metric, plain)),
            "{name} is not in the table"
        );
        assert!(value.is_number(), "{name}: {value}");
    }
    let number = |line: usize, name: &str| lines[line][name].as_f64().unwrap_or_else(|| panic!("{name}"));
    // The policy is its reference still, and the ratio of the first of four updates is 1.
    assert!(number(0, "objective/kl").abs() < 1e-3, "{}", number(0, "objective/kl"));
    let score = number(0, "rewards/rule:length/mean") - 0.5 * number(0, "rewards/rule:contains=e/mean");
    assert!((number(0, "objective/scores") - score).abs() < 1e-9);
    assert!(number(1, "eval/objective/scores").is_finite());

    let summary = summary(folder.path(), "run");
    assert_eq!(summary["completions_sampled"], 8);
    for phase in ["data", "sample", "score", "logprobs", "advantages", "update"] {
        assert!(summary["wall_time"][phase].is_number(), "{phase}: {}", summary["wall_time"]);
    }
    let samples = json_lines(&folder.path().join("run/completions.jsonl"));
    assert_eq!(samples.len(), 6);
    for (sample, step) in samples.iter().zip([1, 1, 1, 2, 2, 2]) {
        assert_eq!(sample["step"], step);
        assert!(sample["prompt"].as_str().unwrap().starts_with("What is"), "{sample}");
        assert!(sample["reward"].is_number() && sample["kl"].is_number(), "{sample}");
        assert!(sample["tokens"].as_u64().unwrap() <= 5 && sample["finish_reason"].is_string(), "{sample}");
    }
    let left = tree(&folder.path().join("run"));
    for name in ["model/model.safetensors", "model/tokenizer.json", "critic/value_head.safetensors"] {
        assert!(left.iter().any(|found| found == name), "{name} is not in {left:?}");
    }

    // config.toml is enough to run again, and what it trained can be gone on with.
    align(folder.path(), "ppo --config {run/config.toml} --output-dir {again} --no-progress").ok();
    assert_eq!(learned(folder.path(), "run"), learned(folder.path(), "again"));
    align(folder.path(), "ppo --config {run/config.toml} --output-dir {again} --overwrite --no-progress")
        .ok();
    let model = |run: &str| weights_of(&folder.path().join(run).join("model"));
    assert!(model("run") == model("again"));
    let on = format!(
        "ppo --model {{run/model}} --critic-model {{run/critic}} --data {{prompts.jsonl}} --output-dir {{on}} \
         --reward rule:length --truncated score {SMALL}"
    );
    let answer = align(folder.path(), &on).ok();
    assert!(answer.stderr.contains("run/critic, with its value head"), "{}", answer.stderr);
    let page = align(folder.path(), "report {run} --output {page.html}").ok();
    assert!(folder.path().join("page.html").exists(), "{}", page.stderr);
}

/// A reward process that dies twice in one batch stops the run, which goes on as if nothing had happened.
#[test]
fn a_reward_process_that_dies_stops_a_run_that_can_go_on() {
    let folder = folder();
    // Scores are the lengths of the lines; a program that is to die does so from the seventh line of the run on.
    let program = "while IFS= read -r line; do\necho x >> \"$0.count\"\n\
                   [ -f \"$0.dead\" ] && [ $(wc -l < \"$0.count\") -gt 6 ] && exit 3\n\
                   id=${line#*:}; echo \"{\\\"id\\\": ${id%%,*}, \\\"reward\\\": ${#line}}\"\ndone\n";
    write(folder.path(), "score.sh", program);
    let run = |run: &str, more: &str| {
        let flags = format!("--truncated score --save-every 1 {more}");
        let mut command = command(folder.path(), &line(run, &flags));
        let program = folder.path().join("score.sh");
        Answer::to(command.arg("--reward-command").arg(format!("sh '{}'", program.display())))
    };
    run("whole", "").ok();
    write(folder.path(), "score.sh.dead", "");
    fs::remove_file(folder.path().join("score.sh.count")).unwrap();
    run("run", "")
        .refused(4, &["step 2", "prompts.jsonl:", "ended", "the state before it is in", "--resume"]);
    fs::remove_file(folder.path().join("score.sh.dead")).unwrap();
    run("run", "--resume").ok();
    for name in ["completions.jsonl", "model/model.safetensors"] {
        let bytes = |run: &str| fs::read(folder.path().join(run).join(name)).unwrap();
        assert!(bytes("whole") == bytes("run"), "{name}");
    }
    assert_eq!(learned(folder.path(), "whole"), learned(folder.path(), "run"));
}

const KILLED: &str =
    "--reward rule:length --truncated score --max-new-tokens 4 --num-mini-batches 2 --num-ppo-epochs 2";

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let more = format!(
        "{KILLED} --normalize-values --reward-scaling running --kl-target 0.5 --critic-warmup 3 --ptx-coef 0.5 \
         --ptx-data {{demonstrations.jsonl}} --reward-baseline reference"
    );
    kills::Run { method: "ppo", threads: 2, more: &more, kills: 2 }.survives();
}

#[test]
fn a_killed_run_that_replaces_groups_ends_with_the_same_bytes() {
    let more = "--reward rule:contains=e --max-new-tokens 4 --advantage dapo --num-completions 2 --curriculum edge \
                --num-mini-batches 2 --lora-rank 2";
    kills::Run { method: "ppo", threads: 1, more, kills: 1 }.survives();
}

/// The iterations of a run from outside: how many answers have a reward, the steps it wrote down, its checkpoints.
struct Watched<'a> {
    here: &'a Path,
}

impl Watched<'_> {
    fn answered(&self) -> usize {
        fs::read(self.here.join("score.sh.count")).map_or(0, |bytes| bytes.len() / 2)
    }

    /// What a dead run has left in the pipe is answered still.
    fn answered_at_last(&self) -> usize {
        loop {
            let answered = self.answered();
            std::thread::sleep(Duration::from_millis(150));
            if self.answered() == answered {
                return answered;
            }
        }
    }

    fn logged(&self) -> u64 {
        let text = fs::read_to_string(self.here.join("run/metrics.jsonl")).unwrap_or_default();
        text.lines().count() as u64
    }

    fn is_saving(&self) -> bool {
        let names = fs::read_dir(self.here.join("run/checkpoints")).into_iter().flatten().flatten();
        names.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".tmp-step-"))
    }

    /// Kills a run in a phase, which is looked at again when it is dead: it may have been quicker than the kill. How long a
    /// phase takes depends on the machine, so that each attempt waits another time.
    fn kill_in(&self, phase: &str, start: &dyn Fn() -> Child) {
        let run = self.here.join("run");
        for attempt in 0..40 {
            let (answered, step) = (self.answered_at_last(), newest_checkpoint(&run));
            let mut child = start();
            let delay = match phase {
                "sample" => {
                    wait_while(&mut child, || newest_checkpoint(&run) <= step);
                    2 * (attempt % 8)
                }
                "score" => {
                    wait_while(&mut child, || self.answered() < answered + 2);
                    0
                }
                "learn" => {
                    wait_while(&mut child, || self.answered() < answered + 4);
                    3 + 6 * (attempt % 12)
                }
                _ => {
                    wait_while(&mut child, || !self.is_saving());
                    0
                }
            };
            std::thread::sleep(Duration::from_millis(delay));
            let runs = child.try_wait().unwrap().is_none();
            child.kill().unwrap();
            let status = child.wait().unwrap();
            let in_phase = match phase {
                "sample" => self.answered() == answered + 4 && !self.is_saving(),
                "score" => self.answered() < answered + 4,
                "learn" => self.answered() == answered + 4 && self.logged() == step && !self.is_saving(),
                _ => self.is_saving(),
            };
            if runs && in_phase {
                return;
            }
            if !runs {
                assert!(status.success(), "{status}");
                fs::remove_dir_all(&run).unwrap();
            }
        }
        panic!("no kill came in the phase {phase}");
    }
}

/// A reward that takes its time, and counts its answers, shows from outside where a run is: between two of its answers, behind
/// the last one of an iteration (log-probabilities, advantages, updates), in a checkpoint, or between that and the next answer.
/// (The number of a question is no part of what is rewarded: a process that is started again counts from 0.)
#[test]
fn a_run_that_is_killed_in_each_phase_ends_with_the_same_bytes() {
    let folder = folder();
    let here = folder.path();
    let program = "while IFS= read -r line; do\nsleep 0.02; id=${line#*:}; rest=${line#*,}\n\
                   echo \"{\\\"id\\\": ${id%%,*}, \\\"reward\\\": ${#rest}}\"; echo x >> \"$0.count\"\ndone\n";
    write(here, "score.sh", program);
    let run = |run: &str| {
        let line = format!(
            "ppo --model {} --data {{prompts.jsonl}} --output-dir {{{run}}} --max-steps 8 --batch-size 4 --max-new-tokens 40 \
             --num-ppo-epochs 8 --learning-rate 1e-3 --log-every 1 --save-every 1 --threads 1 --truncated score \
             --samples 4 --no-progress --resume --reward-command",
            tiny_llama().display()
        );
        let mut command = command(here, &line);
        command.arg(format!("sh '{}'", here.join("score.sh").display()));
        command
    };
    Answer::of(&run("whole").output().unwrap()).ok();
    let watched = Watched { here };
    for phase in ["score", "learn", "save", "sample"] {
        watched.kill_in(phase, &|| run("run").spawn().unwrap());
    }
    Answer::of(&run("run").output().unwrap()).ok();
    kills::assert_same(here, 0);
}

#[test]
fn a_killed_run_that_samples_ahead_ends_with_the_same_bytes() {
    let more = format!("{KILLED} --overlap --ref-ema 0.1 --critic shared --curriculum edge");
    kills::Run { method: "ppo", threads: 1, more: &more, kills: 1 }.survives();
}

#[test]
fn bad_input_is_named() {
    let folder = folder();
    let here = folder.path();
    copy_of_tiny_llama(here, "broken");
    poison_token(&here.join("broken"), "e");
    copy_of_tiny_llama(here, "other");
    edit_json(&here.join("other/config.json"), &[("vocab_size", 999.into())]);
    write(
        here,
        "long.jsonl",
        format!("{{\"prompt\": \"{}\"}}\n{{\"prompt\": \"short\"}}\n", "word ".repeat(900)),
    );
    write(here, "all-long.jsonl", format!("{{\"prompt\": \"{}\"}}\n", "word ".repeat(900)));
    write(here, "empty.jsonl", "{\"prompt\": \"good\"}\n{\"prompt\": \"\"}\n");
    write(
        here,
        "silent.sh",
        "while read -r line; do id=${line#*:}; echo \"{\\\"id\\\": ${id%%,*}, \\\"reward\\\": null}\"; done\n",
    );
    let base = |model: &str, data: &str, flags: &str| {
        let mut command = command(
            here,
            &format!("ppo --model {model} --data {{{data}.jsonl}} --output-dir {{bad}} {SMALL} {flags}"),
        );
        let silent = here.join("silent.sh");
        if flags.contains("--reward-command") {
            command.arg(format!("sh '{}'", silent.display()));
        }
        let _ = fs::remove_dir_all(here.join("bad"));
        Answer::to(&mut command)
    };
    let tiny = tiny_llama().display().to_string();
    let rule = "--reward rule:length --truncated score";
    base(&tiny, "empty", rule).refused(4, &["empty.jsonl:2", "`prompt` is empty"]);
    let skipped = base(&tiny, "empty", &format!("{rule} --bad-rows skip")).ok();
    assert!(skipped.stderr.contains("1 of 2 rows are bad"), "{}", skipped.stderr);
    let dropped = base(&tiny, "long", rule).ok();
    assert!(dropped.stderr.contains("1 rows were dropped"), "{}", dropped.stderr);
    base(&tiny, "all-long", rule).refused(4, &["nothing is left of 1 rows"]);
    base(&tiny, "long", &format!("{rule} --truncation error")).refused(4, &["long.jsonl:1"]);
    base(&tiny, "prompts", "--truncated score --reward-command").refused(4, &["abstained", "command:sh"]);
    base(&tiny, "prompts", &format!("{rule} --ref-model {{other}}"))
        .refused(4, &["--ref-model", "999 tokens"]);
    base(&tiny, "prompts", &format!("{rule} --critic-model {{other}}"))
        .refused(4, &["--critic-model", "999"]);
    base("{broken}", "prompts", rule).refused(
        4,
        &["prompts.jsonl:", ": sampling: the logits after token", "the weights of the model are damaged"],
    );
    // Of the model that is damaged, and with the row in which it shows.
    for (flag, what) in
        [("--ref-model", "of the reference log-probabilities of"), ("--critic-model", "of the values of")]
    {
        let refused = base(&tiny, "prompts", &format!("{rule} {flag} {{broken}}"));
        refused.refused(4, &["step 1", "prompts.jsonl:", what, "nothing was trained yet"]);
    }
    let cut = base(&tiny, "prompts", "--reward rule:length").ok();
    assert!(cut.stderr.contains("none of their scores is learned from"), "{}", cut.stderr);
    assert!(cut.stderr.contains("--truncated score"), "{}", cut.stderr);
    let constant = base(&tiny, "prompts", "--reward rule:contains=\u{1F980} --truncated score").ok();
    assert!(constant.stderr.contains("given the same"), "{}", constant.stderr);
}

/// One reward of four is beyond all numbers of a gradient: where its minibatch is not the first, updates have been made, and
/// the model that they left is kept beside the checkpoints.
#[test]
fn a_step_that_fails_between_its_updates_leaves_its_model() {
    let folder = folder();
    let here = folder.path();
    let mut torn = 0;
    for outlier in [1, 2] {
        let program = format!(
            "n=0; while read -r line; do n=$((n + 1)); id=${{line#*:}}; r=1; [ $n = {outlier} ] && r=1e160\n\
             echo \"{{\\\"id\\\": ${{id%%,*}}, \\\"reward\\\": $r}}\"; done\n"
        );
        write(here, "score.sh", program);
        let flags =
            "--truncated score --num-mini-batches 4 --whiten-advantages off --overwrite --reward-command";
        let mut command = command(here, &line("run", flags));
        let answer = Answer::to(command.arg(format!("sh '{}'", here.join("score.sh").display())));
        let answer = answer.refused(4, &["step 1", "prompts.jsonl:"]);
        let kept = here.join("run/checkpoints/torn-step-1");
        if answer.stderr.contains("nothing was trained yet") {
            continue;
        }
        answer
            .refused(4, &["no checkpoint was written", "the model as the step left it is in", "torn-step-1"]);
        assert!(weights_of(&kept) != weights_of(&tiny_llama()));
        torn += 1;
    }
    assert!(torn > 0, "one of two prompts is not in the first minibatch");
}

/// Prompts of 1, 2, … words: those with room for an answer are sampled from, to the last token, and the others are dropped.
#[test]
fn a_prompt_may_have_what_the_answer_leaves_and_not_a_token_more() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String =
        (1..30).map(|words| format!("{{\"prompt\": \"{}\"}}\n", "a ".repeat(words).trim())).collect();
    write(folder.path(), "words.jsonl", rows);
    let tokenizer = Tokenizer::from_folder(&tiny_llama()).unwrap();
    let all = [folder.path().join("words.jsonl")];
    let (prompts, _) = load_text_prompts(&all, &tokenizer, None, &DataConfig::default()).unwrap();
    let lens: Vec<usize> = prompts.iter().map(|prompt| prompt.group.prompt.len()).collect();
    assert!(lens.contains(&12) && lens.contains(&13), "{lens:?}");
    let dropped = lens.iter().filter(|tokens| **tokens > 12).count();
    let line = format!(
        "ppo --model {} --data {{words.jsonl}} --output-dir {{run}} {SMALL} --max-length 17 --truncated score \
         --reward rule:length",
        tiny_llama().display()
    );
    let said = align(folder.path(), &line).ok().stderr;
    assert!(said.contains(&format!("{dropped} rows were dropped")), "{dropped}: {said}");
}

#[test]
fn flags_that_do_not_go_together_are_refused() {
    let folder = folder();
    for (flags, texts) in [
        ("", &["a reward is missing", "--reward-model"][..]),
        ("--reward rule:length --advantage grpo", &["--num-completions 1", "at least 2"]),
        ("--reward rule:length --num-mini-batches 5", &["--num-mini-batches 5", "only 4 prompts"]),
        ("--reward rule:length --whiten-rewards", &["--whiten-rewards", "at least 8", "has 4"]),
        ("--reward rule:length --advantage rloo --gamma 0.9 --num-completions 2", &["gamma"]),
        (
            "--reward rule:length --advantage grpo --num-completions 2 --critic-learning-rate 1e-5",
            &["no critic"],
        ),
        (
            "--reward rule:length --critic shared --critic-model {m}",
            &["--critic-model", "part of the policy"],
        ),
        ("--reward rule:length --vf-coef 0.5", &["--vf-coef", "--critic-learning-rate"]),
        ("--reward rule:length --critic shared --lora-rank 2", &["--critic shared and --lora-rank"]),
        ("--reward rule:length --ref-ema 0.1 --lora-rank 2", &["--ref-ema and --lora-rank"]),
        ("--reward rule:length --lora-rank 2 --lora-dropout 0.1", &["--lora-dropout 0.1", "ratios"]),
        ("--reward rule:length --ptx-data {p}", &["--ptx-coef"]),
        ("--reward rule:length --ptx-coef 1", &["--ptx-data"]),
        ("--reward rule:length --curriculum-floor 0.1", &["--curriculum edge"]),
        (
            "--reward rule:length --curriculum edge --curriculum-range 0.8,0.2",
            &["--curriculum-range 0.8,0.2"],
        ),
        ("--reward rule:length --kl-estimator k2", &["k2", "biased"]),
        ("--reward rule:length --kl-horizon 10", &["--kl-horizon", "--kl-target"]),
        ("--reward rule:length --beta 0.2", &["--beta", "online-dpo"]),
        ("--reward rule:length --advantage a2c --cliprange 0.3", &["--cliprange", "clips nothing"]),
        ("--reward rule:length --overlong-penalty 3", &["MAX,CACHE"]),
        ("--reward rule:length --max-length 5", &["no room for a prompt"]),
        ("--reward rule:length --data-weights 1", &["--data-weights"]),
        ("--reward rule:length --keep-best objective/score --eval-data {p}", &["objective/scores"]),
        ("--reward rule:length --keep-best rewards/rule:length/mean --eval-data {p}", &["no such metric"]),
        ("--reward rule:length --keep-best loss/ptx_avg --eval-data {p}", &["no such metric"]),
        ("--reward rule:length --keep-best objective/scores --ptx-eval-data {p}", &["no such metric"]),
        ("--reward rule:length --eval-every 1", &["--eval-every needs --eval-data", "--ptx-eval-data"]),
        ("--reward rule:length --advantage a2c --lam 0.9", &["--lam would change nothing", "a2c"]),
        ("--reward rule:length --advantage gppo", &["choices: ppo"]),
    ] {
        align(folder.path(), &line("run", flags)).refused(2, texts);
        assert!(!folder.path().join("run").exists(), "{flags}");
    }
}

#[test]
fn a_dry_run_shows_memory_and_time_by_phase() {
    let folder = folder();
    let flags = "--reward rule:length --truncated score --dry-run";
    let text = align(folder.path(), &line("run", flags)).ok().stdout;
    for part in ["# iteration     4 prompts with 1 answers", "4 updates", "critic", "reference", "update "] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let json = align(folder.path(), &line("run", &format!("{flags} --json"))).ok().stdout;
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&plan["steps"], &plan["updates_per_step"]), (&2.into(), &4.into()));
    let operations = |phase: &str| plan["operations_by_phase"][phase].as_f64().unwrap();
    // Policy and reference once, and the critic, which has no output layer; four epochs of policy and critic, each a
    // forward pass and a backward pass of two.
    let critic = operations("logprobs") - 2.0 * operations("sample");
    assert!(critic > 0.0 && critic < operations("sample"));
    assert!((operations("update") / (12.0 * (operations("sample") + critic)) - 1.0).abs() < 1e-9);
    assert!(!folder.path().join("run").exists());
    // Of a model that the engine of processors does not know there is no copy to sample from.
    let planned = |more: &str| -> Value {
        let flags = format!("--reward rule:length --truncated score --dry-run --json {more}");
        serde_json::from_str(&align(folder.path(), &line("run", &flags)).ok().stdout).unwrap()
    };
    let part = |plan: &Value, name: &str| plan["memory_mb_by_part"].get(name).and_then(Value::as_f64);
    let bytes = 4e-6 * plan["parameters"].as_f64().unwrap();
    assert!((part(&plan, "copy for sampling").unwrap() - bytes).abs() < 1e-9);
    assert_eq!(part(&planned("--dtype bf16"), "copy for sampling"), None);
    // The baseline's model has weights and such a copy, and answers and is scored once per prompt.
    let relative = planned("--reward-baseline reference");
    assert!((part(&relative, "model of the baseline").unwrap() - 2.0 * bytes).abs() < 1e-9, "{relative}");
    assert_eq!(part(&plan, "model of the baseline"), None);
    let of = |plan: &Value, phase: &str| plan["operations_by_phase"][phase].as_f64().unwrap();
    assert!((of(&relative, "sample") / (2.0 * of(&plan, "sample")) - 1.0).abs() < 1e-9);
    // Rows of language modelling are computed with the samples.
    write_demonstrations(folder.path(), "texts.jsonl", 6);
    let texts = format!("--ptx-data {} --ptx-coef 1", folder.path().join("texts.jsonl").display());
    let (one, two) = (planned(&texts), planned(&format!("{texts} --ptx-batch-size 8")));
    assert_eq!(one["ptx_rows"], 6);
    for phase in ["logprobs", "update"] {
        let more = |plan: &Value| of(plan, phase) - operations(phase);
        // --batch-size is 4.
        assert!(more(&one) > 0.0 && (more(&two) / more(&one) - 2.0).abs() < 1e-6, "{phase}");
    }
    assert_eq!(of(&one, "sample"), operations("sample"));
    let help = align(folder.path(), "ppo --help").ok().stdout;
    for flag in ["--advantage", "--kl-coef", "--curriculum", "rule:length", "--overlap", "--ref-ema"] {
        assert!(help.contains(flag), "{flag}");
    }
}

/// Changed reward models and prompts change what a run learns: it is not continued with them.
#[test]
fn changed_inputs_are_refused() {
    let folder = folder();
    let here = folder.path();
    reward_model(here, "rm");
    let line = format!("{} --resume", line("run", "--reward-model {rm} --truncated score --save-every 1"));
    finish(here, &line);
    fs::remove_file(here.join("run/summary.json")).unwrap();
    fs::remove_dir_all(here.join("run/model")).unwrap();
    fs::remove_dir_all(here.join("run/checkpoints/step-2")).unwrap();
    nudge_weights(&here.join("rm"));
    align(here, &line).refused(2, &["was started with other inputs"]);
    nudge_weights(&here.join("rm"));
    write(here, "rm/chat_template.jinja", "{{ messages }}");
    align(here, &line).refused(2, &["was started with other inputs"]);
    fs::remove_file(here.join("rm/chat_template.jinja")).unwrap();
    write(
        here,
        "prompts.jsonl",
        fs::read_to_string(here.join("prompts.jsonl")).unwrap().replace("\"9\"", "\"8\""),
    );
    align(here, &line).refused(2, &["was started with other inputs"]);
    assert!(here.join("run/checkpoints/step-1").exists());
}
