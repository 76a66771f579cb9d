//! `align generate` against `transformers.generate`, in alternation.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::median;
use super::race::{Options, Race};
use crate::{Error, Result, process};

/// Model, samples per prompt, and the share of `--peer-samples` that is drawn.
const CASES: [(&str, usize, f64); 6] =
    [("0.8M", 1, 1.0), ("0.8M", 8, 1.0), ("5M", 1, 1.0), ("5M", 8, 1.0), ("29M", 1, 0.5), ("29M", 8, 0.5)];

/// What one command took, start and exit included.
#[derive(Debug, Clone, Copy)]
struct Usage {
    wall: f64,
    cpu: f64,
    peak_bytes: f64,
    /// Tokens of all completions, up to their end tokens.
    tokens: f64,
}

/// The runs of one case, ours beside the peer's.
#[derive(Debug)]
struct Case {
    name: String,
    pairs: Vec<(Usage, Usage)>,
}

impl Case {
    /// The median over rounds of a number of a pair.
    fn median(&self, number: impl Fn(&(Usage, Usage)) -> f64) -> f64 {
        median(self.pairs.iter().map(number).collect())
    }

    fn wall_ratio(&self) -> f64 {
        self.median(|(ours, peer)| ours.tokens / ours.wall / (peer.tokens / peer.wall))
    }

    fn cpu_ratio(&self) -> f64 {
        self.median(|(ours, peer)| ours.tokens / ours.cpu / (peer.tokens / peer.cpu))
    }

    fn peak_ratio(&self) -> f64 {
        self.median(|(ours, peer)| ours.peak_bytes / peer.peak_bytes)
    }
}

/// Runs all cases and prints a table, or JSON.
///
/// # Errors
/// A program that is missing or fails, or output that is not understood.
pub(super) fn run(race: &Race, options: &Options, as_json: bool) -> Result<()> {
    make_models(race, options, options.peer_samples)?;
    let mut cases: Vec<Case> = Vec::new();
    for round in 0..options.rounds {
        for (index, (model, samples, share)) in CASES.into_iter().enumerate() {
            let total = (options.peer_samples as f64 * share) as usize;
            let name = format!("{model}, {samples} per prompt");
            eprintln!("round {} of {}: {name}", round + 1, options.rounds);
            let pair = pair(race, model, samples, (total / samples).max(1))?;
            match cases.get_mut(index) {
                Some(case) => case.pairs.push(pair),
                None => cases.push(Case { name, pairs: vec![pair] }),
            }
        }
    }
    match as_json {
        true => println!("{:#}", results(&cases)),
        false => print!("{}", table(&cases)),
    }
    Ok(())
}

/// Makes models with so many prompts each.
pub(super) fn make_models(race: &Race, options: &Options, prompts: usize) -> Result<()> {
    let mut command = Command::new(&race.python);
    command.arg(race.scripts.join("make.py")).arg(&race.folder);
    command.args(["--prompts", &prompts.to_string()]);
    if let Some(text) = &options.text {
        command.arg("--text").arg(text);
    }
    process::run_talking(&mut command)
}

/// Runs ours, then the peer, on the first prompts of a model.
fn pair(race: &Race, model: &str, samples: usize, prompts: usize) -> Result<(Usage, Usage)> {
    let model = race.folder.join(model);
    let file = race.folder.join("prompts.jsonl");
    let path = model.join("prompts.jsonl");
    let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let rows: String = text.split_inclusive('\n').take(prompts).collect();
    fs::write(&file, rows).map_err(Error::io("write", &file))?;
    let output = race.folder.join("output.jsonl");
    let arguments: Vec<OsString> = vec![
        "--model".into(),
        model.into(),
        "--prompts".into(),
        file.into(),
        "--output".into(),
        output.clone().into(),
        "--num-completions".into(),
        samples.to_string().into(),
        "--max-new-tokens".into(),
        "128".into(),
        "--threads".into(),
        race.threads.to_string().into(),
    ];
    let measure = |program: [OsString; 2]| {
        race.measure(None, &program, &arguments, |used| usage(used, &fs::read_to_string(&output).ok()?))
    };
    Ok((measure(race.ours("generate"))?, measure(race.peer("generate.py"))?))
}

/// Reads what `measure.py` printed, and counts the tokens of the rows that the command wrote.
fn usage(used: &Value, rows: &str) -> Option<Usage> {
    let number = |key: &str| used.get(key)?.as_f64();
    let mut tokens = 0;
    for row in rows.lines() {
        let row: Value = serde_json::from_str(row).ok()?;
        for completion in row.get("completions")?.as_array()? {
            tokens += completion.get("token_ids")?.as_array()?.len();
        }
    }
    Some(Usage {
        wall: number("wall_s")?,
        cpu: number("cpu_s")?,
        peak_bytes: number("peak_bytes")?,
        tokens: tokens as f64,
    })
}

fn results(cases: &[Case]) -> Value {
    let side = |usage: &Usage| {
        json!({
            "tokens": usage.tokens, "wall_s": usage.wall, "cpu_s": usage.cpu, "peak_bytes": usage.peak_bytes,
        })
    };
    let case = |case: &Case| {
        let pairs: Vec<Value> = case
            .pairs
            .iter()
            .map(|(ours, peer)| json!({ "align": side(ours), "peer": side(peer) }))
            .collect();
        json!({
            "case": case.name,
            "tokens_per_wall_second_ratio": case.wall_ratio(),
            "tokens_per_cpu_second_ratio": case.cpu_ratio(),
            "peak_memory_ratio": case.peak_ratio(),
            "rounds": pairs,
        })
    };
    json!({ "schema": 1, "processor": super::processor(), "cases": cases.iter().map(case).collect::<Vec<_>>() })
}

/// Medians of tokens per second of both sides and of the ratios of each round.
fn table(cases: &[Case]) -> String {
    let mut text = format!("{}; start and exit included\n\n", super::processor());
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:20} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8} {:>8}",
        "", "align", "peer", "align", "peer", "ratio", "ratio", "ratio"
    );
    let _ = writeln!(
        text,
        "{:20} {:>10} {:>10} {:>10} {:>10} {:>8} {:>8} {:>8}",
        "case", "tok/wall s", "tok/wall s", "tok/cpu s", "tok/cpu s", "wall", "cpu", "memory"
    );
    for case in cases {
        let rate = |seconds: fn(&Usage) -> f64| {
            let ours = case.median(|(ours, _)| ours.tokens / seconds(ours));
            (ours, case.median(|(_, peer)| peer.tokens / seconds(peer)))
        };
        let ((wall, peer_wall), (cpu, peer_cpu)) = (rate(|usage| usage.wall), rate(|usage| usage.cpu));
        let _ = writeln!(
            text,
            "{:20} {wall:>10.0} {peer_wall:>10.0} {cpu:>10.0} {peer_cpu:>10.0} {:>8.1} {:>8.1} {:>8.2}",
            case.name,
            case.wall_ratio(),
            case.cpu_ratio(),
            case.peak_ratio()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(wall: f64, cpu: f64, peak_bytes: f64, tokens: f64) -> Usage {
        Usage { wall, cpu, peak_bytes, tokens }
    }

    #[test]
    fn tokens_of_all_completions_are_counted() {
        let printed = json!({"wall_s": 2.0, "cpu_s": 1.5, "peak_bytes": 1000});
        let rows =
            "{\"completions\": [{\"token_ids\": [1, 2]}, {\"token_ids\": [3]}]}\n{\"completions\": []}\n";
        let used = usage(&printed, rows).unwrap();
        assert_eq!((used.tokens, used.wall, used.cpu, used.peak_bytes), (3.0, 2.0, 1.5, 1000.0));
        assert!(usage(&json!({}), rows).is_none());
        assert!(usage(&printed, "{\"row\": 1}\n").is_none());
    }

    #[test]
    fn ratios_are_those_of_rates_and_the_median_of_rounds() {
        // Rates 100 / 2 = 50 and 200 / 8 = 25 tokens per second: twice as fast; then 10 and 4 times.
        let pairs = vec![
            (took(2.0, 1.0, 10.0, 100.0), took(8.0, 8.0, 40.0, 200.0)),
            (took(1.0, 1.0, 10.0, 100.0), took(10.0, 10.0, 20.0, 100.0)),
            (took(1.0, 1.0, 10.0, 100.0), took(4.0, 4.0, 10.0, 100.0)),
        ];
        let case = Case { name: "5M, 1 per prompt".into(), pairs };
        assert_eq!((case.wall_ratio(), case.cpu_ratio(), case.peak_ratio()), (4.0, 4.0, 0.5));
        let text = table(std::slice::from_ref(&case));
        assert!(text.contains("5M, 1 per prompt") && text.contains("4.0"), "{text}");
        assert_eq!(results(&[case])["cases"][0]["rounds"][0]["peer"]["tokens"], 200.0);
    }
}
