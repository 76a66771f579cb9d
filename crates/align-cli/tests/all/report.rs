//! `align report`: real runs, runs under way, damaged folders, hostile names and texts.

use crate::support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::{align, tiny_llama, tree, write, write_demonstrations, write_pairs};

/// Asserts that a page is well formed and asks for nothing outside itself.
fn assert_whole(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        let end = start + rest[start..].find('>').unwrap();
        let tag = &rest[start + 1..end];
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '!'), "<{tag}> is no tag");
        assert!(!["script", "img", "iframe", "link", "object"].contains(&name), "<{tag}>");
        // Quoted values may hold anything: only what stands between them names attributes.
        for attribute in tag.split('"').step_by(2).flat_map(|between| between.split(' ').skip(1)) {
            let name = attribute.trim_end_matches('=');
            assert!(!name.starts_with("on") && !["src", "href"].contains(&name), "<{tag}>");
        }
        if tag.starts_with('/') {
            assert_eq!(
                open.pop(),
                Some(name),
                "</{name}> closes nothing, before: {}",
                &rest[..start.min(80)]
            );
        } else if !tag.ends_with('/') && !["!DOCTYPE", "meta", "br"].contains(&name) {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert_eq!(open, [""; 0], "tags that are never closed");
    for outside in ["url(", "@import", "http://", "https://"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.starts_with("<!DOCTYPE html>"), "no document type");
    assert!(!page.contains("NaN") && !page.contains(">inf"), "a number that is none");
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

/// Writes the folder of a run with these lines; without a summary it is not finished.
fn run_folder(parent: &Path, name: &str, metrics: &str) -> PathBuf {
    let path = parent.join(name);
    fs::create_dir_all(&path).unwrap();
    write(
        &path,
        "config.toml",
        "# align dpo: run again\nmodel = \"m\"\ndata = [\"d.jsonl\"]\nmax_steps = 50\n",
    );
    write(&path, "metrics.jsonl", metrics);
    path
}

#[test]
fn real_runs_are_laid_over_each_other() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    write_pairs(folder, "pairs.jsonl", 24);
    write_pairs(folder, "held.jsonl", 9);
    write_demonstrations(folder, "answers.jsonl", 16);
    let model = tiny_llama();
    let shared = format!("--model {} --max-steps 6 --log-every 1 --threads 1", model.display());
    let rows = "--data {pairs.jsonl} --eval-data {held.jsonl} --eval-every 3";
    align(folder, &format!("sft {shared} --data {{answers.jsonl}} --output-dir {{first}}")).ok();
    align(folder, &format!("dpo {shared} {rows} --learning-rate 1e-3 --output-dir {{second}}")).ok();

    let answer = align(folder, "report {first} {second} --output {both.html}").ok();
    assert_eq!(answer.stdout, format!("{}\n", folder.join("both.html").display()));
    let page = read(folder.join("both.html"));
    assert_whole(&page);
    for text in [
        "<h1>2 runs</h1>",
        "<figcaption>loss</figcaption>",
        "<figcaption>rewards/margins</figcaption>",
        "<figcaption>grad_norm</figcaption>",
        "<figcaption>rewards/margins, held-out rows</figcaption>",
        "<figcaption>answer lengths, training rows</figcaption>",
        "Samples before and after",
        "after 6 steps",
        "second: eval/loss",
        "What differs:",
        "environment.json of",
    ] {
        assert!(page.contains(text), "`{text}` is not on the page");
    }
    // Every metric of the runs has a drawing or a place in one.
    for run in ["first", "second"] {
        let text = read(folder.join(run).join("metrics.jsonl"));
        let line: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        for name in line.as_object().unwrap().keys().filter(|name| *name != "step") {
            assert!(page.contains(&format!("{run}: {name}</title>")), "{name}");
        }
    }
    // The same runs give the same bytes, and nothing is left beside the page.
    align(folder, "report {first} {second} --output {both.html}").ok();
    assert_eq!(read(folder.join("both.html")), page);
    assert!(!tree(folder).iter().any(|name| name.contains("partial")));

    let answer = align(folder, "report {second} --json").ok();
    let numbers: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_whole(&read(folder.join("second/report.html")));
    let run = &numbers["runs"][0];
    let summary: Value = serde_json::from_str(&read(folder.join("second/summary.json"))).unwrap();
    assert_eq!((&run["state"], &run["step"]), (&json!("finished"), &json!(6)));
    for metric in ["loss", "eval/loss", "eval/rewards/margins"] {
        assert_eq!(run["metrics"][metric]["last"], summary["final"][metric], "{metric}");
    }
    let counts = run["margins"]["counts"].as_array().unwrap();
    assert_eq!(counts.iter().map(|count| count.as_f64().unwrap()).sum::<f64>(), 9.0);
    let lengths = run["answer_lengths"]["chosen"]["counts"].as_array().unwrap();
    assert_eq!(lengths.iter().map(|count| count.as_u64().unwrap()).sum::<u64>(), 24);
    // Rows that stand alone give what the whole gives.
    let rows = support::json_lines(&folder.join("second/eval.jsonl"));
    let sum: f64 = rows.iter().map(|row| row["rewards/margins"].as_f64().unwrap()).sum();
    let whole = summary["final"]["eval/rewards/margins"].as_f64().unwrap();
    assert!((sum / 9.0 - whole).abs() < 1e-4 * whole.abs().max(1e-3), "{} {whole}", sum / 9.0);
}

/// A run that samples: the four curves of hacking stand together, once; answers over time with their rewards; phases.
#[test]
fn runs_that_sample_show_what_their_reward_cost() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let line = |step: u32| {
        let late = f64::from(step) / 40.0;
        let line = json!({
            "step": step, "loss": 0.1, "objective/scores": late, "objective/kl": 9.0 * late,
            "objective/entropy": 50.0 - late, "completions/mean_length": 30.0 + late,
            "rewards/rule:length/mean": late, "completions/most_frequent_share": 0.1,
        });
        format!("{line}\n")
    };
    let path = run_folder(folder, "run", &(1..=40).map(line).collect::<String>());
    let answer = |step: u32| {
        let line = json!({
            "step": step, "file": "p.jsonl", "row": 1, "prompt": "Say <it>", "completion": format!("yes {step}"),
            "finish_reason": "stop", "reward": f64::from(step) / 8.0,
        });
        format!("{line}\n")
    };
    write(&path, "completions.jsonl", [0, 10, 20, 30, 40].map(answer).concat());
    write(
        &path,
        "summary.json",
        r#"{"steps": 40, "wall_time": {"sample": 30.0, "update": 90.0, "total": 120.0}}"#,
    );
    align(folder, "report {run}").ok();
    let page = read(path.join("report.html"));
    assert_whole(&page);
    for text in [
        "Reward and what it cost",
        "<figcaption>rewards/rule:length/mean</figcaption>",
        "<figcaption>completions/most_frequent_share</figcaption>",
        "<h3>step 20</h3>",
        "reward 5<",
        "Wall time by phase",
        "1 min 30 s <small>75 %</small>",
    ] {
        assert!(page.contains(text), "`{text}` is not on the page");
    }
    let curves = ["objective/scores", "objective/kl", "completions/mean_length", "objective/entropy"];
    let places = curves.map(|name| {
        let caption = format!("<figcaption>{name}</figcaption>");
        assert_eq!(page.matches(&caption).count(), 1, "{name}");
        page.find(&caption).unwrap()
    });
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn a_run_under_way_can_be_reported() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let path =
        run_folder(folder, "run", "{\"step\":1,\"loss\":0.7}\n{\"step\":2,\"loss\":null}\n{\"step\":3,\"lo");
    let page = |text: &str| {
        align(folder, "report {run}").ok();
        let page = read(path.join("report.html"));
        assert_whole(&page);
        assert!(page.contains(text), "`{text}` is not in {page}");
    };
    page("Stopped at step 2 of 50; --resume continues it.");
    page("The last line of metrics.jsonl is not whole and is left out.");
    page("loss was not finite at 1 logged steps, first at 2.");
    let lock = write(&path, ".align-run.lock", "");
    let lock = fs::File::open(lock).unwrap();
    lock.lock().unwrap();
    page("Running, step 2 of 50.");
    fs::remove_file(path.join("metrics.jsonl")).unwrap();
    page("Running, no step logged yet.");
    page("there is no curve to draw");
}

#[test]
fn what_is_no_run_is_refused_with_its_place() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    fs::create_dir(folder.join("empty")).unwrap();
    write(folder, "file", "");
    align(folder, "report {absent}").refused(4, &["absent: it does not exist", "hint: name the run folder"]);
    align(folder, "report {file}").refused(4, &["file: it is a file"]);
    align(folder, "report {empty}")
        .refused(4, &["empty: it is not the folder of a run: it has no config.toml"]);
    align(folder, "report").refused(2, &["RUN"]);
    for (text, error) in [
        ("{\"step\":1}\nnonsense\n{\"step\":3}\n", "metrics.jsonl:2: it is no JSON"),
        ("{\"step\":1}\n[2]\n", "metrics.jsonl:2: it is no JSON object"),
        ("{\"step\":1}\n\n{\"loss\":3}\n", "metrics.jsonl:3: it has no `step`"),
        ("{\"step\":2}\n{\"step\":2}\n", "metrics.jsonl:2: step 2 comes after step 2"),
        ("{\"step\":1,\"loss\":\"much\"}\n", "metrics.jsonl:1: `loss` is no number"),
    ] {
        run_folder(folder, "run", text);
        align(folder, "report {run}").refused(4, &[error]);
    }
    let path = run_folder(folder, "run", "{\"step\":1,\"loss\":0.7}\n");
    align(folder, "report {run} {run}").refused(2, &["are the same run"]);
    align(folder, "report {run} --output {empty}").refused(2, &["empty: this is a folder"]);
    align(folder, "report {run} --output {absent/page.html}").refused(3, &["cannot write"]);
    write(&path, "summary.json", "{");
    align(folder, "report {run}").refused(4, &["summary.json: it is no JSON object"]);
    write(&path, "config.toml", "model = \"m\"\n= 2\n");
    align(folder, "report {run}").refused(4, &["config.toml:2:"]);
    assert!(!tree(folder).iter().any(|name| name.contains("report.html") || name.contains("partial")));
}

#[test]
fn hostile_names_and_texts_stay_texts() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let hostile = "</pre><script>alert(1)</script>\" onload='x' & \u{202e}مرحبا 😀 \u{1b}[31m";
    let names = ["<script>x<b>", "a \"b\" & 'c'", "run-😀-مرحبا", &"long".repeat(40)];
    let mut command = support::command(folder, "report --output {page.html}");
    for (index, name) in names.iter().enumerate() {
        let line = json!({"step": 1, "loss": 0.5, "<img src=x>\"": 1e300, "eval/rewards/margins": -0.0});
        let path = run_folder(folder, name, &format!("{line}\n"));
        let config =
            format!("# align dpo: x\nmodel = {}\ndata = [\"d\"]\nbeta = 0.{index}\n", json!(names[index]));
        write(&path, "config.toml", config);
        write(
            &path,
            "environment.json",
            json!({"command": ["align", hostile], hostile: hostile}).to_string(),
        );
        let sample = json!({"step": 0, "file": hostile, "row": 1, "prompt": hostile, "completion": hostile});
        write(&path, "completions.jsonl", format!("{sample}\n"));
        let row = json!({"step": 1, "file": hostile, "row": 1, "rewards/margins": 0.25});
        write(&path, "eval.jsonl", format!("{row}\n"));
        let lengths = json!({hostile: {"width": 5, "counts": [1, 2]}});
        let warning = json!({"step": 3, "check": hostile, "message": hostile});
        let summary = json!({"steps": 1, "warnings": [warning], "data": {"answer_lengths": lengths}});
        write(&path, "summary.json", summary.to_string());
        command.arg(path);
    }
    support::Answer::to(&mut command).ok();
    let page = read(folder.join("page.html"));
    assert_whole(&page);
    assert!(page.contains("&lt;script&gt;alert(1)") && page.contains("Step 3: &lt;/pre&gt;"));
}

/// Peaks of single steps survive, and the page stays small.
#[test]
fn twenty_runs_and_a_hundred_thousand_lines_make_a_small_page() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    let metrics = |lines: u32| -> String {
        let line = |step: u32| {
            let noise = 0.5 + f64::from(step.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 25);
            let peak = if step == 777 { 50.0 } else { noise };
            format!(
                "{{\"step\":{step},\"loss\":{peak},\"rewards/chosen\":{noise},\"rewards/rejected\":{noise}}}\n"
            )
        };
        (1..=lines).map(line).collect()
    };
    let short = metrics(2000);
    let names: Vec<String> = (0..20).map(|run| format!("a-study-of-many-rates-{run}")).collect();
    for (index, name) in names.iter().enumerate() {
        run_folder(folder, name, if index == 0 { "" } else { &short });
    }
    write(&folder.join(&names[0]), "metrics.jsonl", metrics(100_000));
    let words: String = names.iter().map(|name| format!(" {{{name}}}")).collect();
    align(folder, &format!("report{words} --output {{page.html}}")).ok();
    let page = read(folder.join("page.html"));
    assert_whole(&page);
    assert!(page.len() < 2_000_000, "{} bytes", page.len());
    for index in 0..20 {
        assert!(page.contains(&format!("rates-{index}</text>")), "run {index} has no name beside its curve");
    }
    // Alone, every logged step is drawn, the peak included: it sets the ordinate.
    align(folder, &format!("report {{{}}}", names[0])).ok();
    let page = read(folder.join(&names[0]).join("report.html"));
    assert!(page.len() < 200_000, "{} bytes", page.len());
    assert!(page.contains(">40</text>"), "the peak at step 777 is lost");
}
