//! Kills runs at random moments and continues them.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use align_types::{Purpose, RngStream};
use serde_json::Value;

use super::{
    Answer, command, copy_of_tiny_llama, learned, tiny_llama, write_demonstrations, write_pairs,
    write_prompts, write_scores, write_thumbs,
};

/// Runs that may be over before a kill reaches them.
const MISSES: u64 = 40;

/// Holds the seed of the moments at which runs are killed, to see a failure again.
const SEED: &str = "ALIGN_KILL_SEED";

/// A run of twelve steps with a checkpoint after every other.
pub struct Run<'a> {
    pub method: &'a str,
    pub threads: usize,
    /// Further flags.
    pub more: &'a str,
    /// Kills that find the run at work.
    pub kills: u64,
}

impl Run<'_> {
    fn data(&self) -> &'static str {
        match self.method {
            "dpo" => "--data {pairs.jsonl} --eval-data {pairs.jsonl}",
            "kto" => "--data {thumbs.jsonl} --eval-data {thumbs.jsonl}",
            "una" => {
                "--data {pairs.jsonl} --data {thumbs.jsonl} --data {scores.jsonl} --eval-data {scores.jsonl}"
            }
            "reward" => {
                "--data {pairs.jsonl} --data {thumbs.jsonl} --data {scores.jsonl} --eval-data {pairs.jsonl}"
            }
            "ppo" => "--data {prompts.jsonl} --eval-data {prompts.jsonl}",
            _ => "--data {demonstrations.jsonl} --eval-data {demonstrations.jsonl}",
        }
    }

    fn line(&self, run: &str) -> String {
        let Self { method, threads, more, .. } = self;
        // A reward model answers nothing.
        let samples = if *method == "reward" { "" } else { "--samples 1" };
        format!(
            "{method} --model {} {} --eval-every 4 --output-dir {{{run}}} --max-steps 12 --save-every 2 --log-every 1 \
             --learning-rate 1e-3 --batch-size 6 {samples} --threads {threads} {more}",
            tiny_llama().display(),
            self.data()
        )
    }

    /// Asserts that it ends with the same bytes however often it is killed on the way.
    pub fn survives(&self) {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        write_pairs(folder, "pairs.jsonl", 20);
        write_pairs(folder, "more.jsonl", 7);
        write_demonstrations(folder, "demonstrations.jsonl", 20);
        write_thumbs(folder, "thumbs.jsonl", 20);
        write_scores(folder, "scores.jsonl", 8);
        write_prompts(folder, "prompts.jsonl", 20);
        nudge_weights(&copy_of_tiny_llama(folder, "other"));
        let begun = Instant::now();
        finish(folder, &self.line("whole"));
        let whole = begun.elapsed();
        let seed = seed();
        let Self { method, threads, more, kills: wanted } = self;
        eprintln!("{method} {more} on {threads} threads: kills from seed {seed}, again with {SEED}={seed}");
        let resume = format!("{} --resume", self.line("run"));
        let (mut kills, mut attempt) = (0, 0);
        while kills < *wanted {
            attempt += 1;
            assert!(attempt <= wanted + MISSES, "only {kills} of {attempt} kills found a running program");
            let share = RngStream::new(seed, Purpose::Synthetic, attempt, 0).uniform();
            if attempt % 2 == 1 {
                // What a run finds in the cache and what it computes must be the same bits.
                let _ = fs::remove_dir_all(folder.join("cache"));
            }
            let mut child = command(folder, &resume).spawn().unwrap();
            // Every other kill comes anywhere, the others while a checkpoint of this process is there already.
            let delay = if kills % 2 == 0 {
                let before = newest_checkpoint(&folder.join("run"));
                wait_while(&mut child, || newest_checkpoint(&folder.join("run")) <= before);
                whole.mul_f64(share / 4.0)
            } else {
                whole.mul_f64(share)
            };
            std::thread::sleep(delay);
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            } else {
                // It was quicker than the kill: it is as good as any, and the next kills get a new run.
                assert_same(folder, seed);
                fs::remove_dir_all(folder.join("run")).unwrap();
            }
        }
        finish(folder, &resume);
        assert_same(folder, seed);
    }
}

fn seed() -> u64 {
    let given = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64)
}

/// Asserts that `run` ended as `whole` did, but for times.
pub fn assert_same(folder: &Path, seed: u64) {
    let bytes = |run: &str, name: &str| fs::read(folder.join(run).join(name)).unwrap();
    let adapter = folder.join("whole/model/adapter_config.json").exists();
    let weights = if adapter { "model/adapter_model.safetensors" } else { "model/model.safetensors" };
    let there = |name: &&str| folder.join("whole").join(name).exists();
    assert!(there(&weights) && (there(&"completions.jsonl") || folder.join("whole/summary.json").exists()));
    let [whole, run] = ["whole", "run"].map(|run| learned(folder, run));
    assert_eq!(whole, run, "every step is logged once, with the same numbers, seed {seed}");
    let critic = ["critic/model.safetensors", "critic/value_head.safetensors"];
    for name in [weights, "completions.jsonl"].into_iter().chain(critic).filter(there) {
        if bytes("whole", name) != bytes("run", name) {
            let kept = tempfile::tempdir().unwrap().keep();
            for run in ["whole", "run"] {
                fs::rename(folder.join(run), kept.join(run)).unwrap();
            }
            panic!("{name} differs though no loss does, seed {seed}; both runs are in {}", kept.display());
        }
    }
    let best = |run: &str| -> Value {
        serde_json::from_slice::<Value>(&bytes(run, "summary.json")).unwrap()["best"].clone()
    };
    assert_eq!(best("whole"), best("run"), "seed {seed}");
    if let Some(kept) = best("run")["checkpoint"].as_str() {
        let weights = format!("{kept}/{weights}");
        assert!(bytes("whole", &weights) == bytes("run", &weights), "{weights} differs, seed {seed}");
    }
}

/// Returns the step of the newest checkpoint, 0 where there is none.
pub fn newest_checkpoint(run: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return 0 };
    let step = |name: &str| name.strip_prefix("step-").and_then(|step| step.parse().ok());
    entries.flatten().filter_map(|entry| step(&entry.file_name().to_string_lossy())).max().unwrap_or(0)
}

/// Waits while a condition holds and the program runs.
pub fn wait_while(child: &mut Child, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while condition() && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing happened for two minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Reads the weights of a model folder, or of an adapter's.
pub fn weights_of(model: &Path) -> Vec<u8> {
    let names = ["model.safetensors", "adapter_model.safetensors"];
    names.iter().find_map(|name| fs::read(model.join(name)).ok()).unwrap()
}

/// Changes a bit of the weights that changes what the model answers, and keeps them numbers.
pub fn nudge_weights(model: &Path) {
    let mut path = model.join("model.safetensors");
    if !path.exists() {
        path = model.join("adapter_model.safetensors");
    }
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

pub fn finish(folder: &Path, line: &str) -> Answer {
    Answer::of(&command(folder, line).output().unwrap()).ok()
}
