//! Runs the programs as a user does.

pub mod kills;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What a program answered.
pub struct Answer {
    /// What it was asked; unknown where a shell asked.
    words: Option<Vec<OsString>>,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Answer {
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            words: None,
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Runs a command and keeps what it was asked.
    pub fn to(command: &mut Command) -> Self {
        let words = command.get_args().map(Into::into);
        let words = std::iter::once("align".into()).chain(words).collect();
        // A copied program cannot be started while another thread's child holds the copy open for writing.
        let output = loop {
            match command.output() {
                Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                other => break other.unwrap(),
            }
        };
        Self { words: Some(words), ..Self::of(&output) }
    }

    /// Lists the `hint:` lines.
    pub fn hints(&self) -> Vec<String> {
        self.stderr.lines().filter_map(|line| line.strip_prefix("hint: ")).map(str::to_owned).collect()
    }

    /// Asserts exit code 0.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// Asserts an exit code and that stderr, which has an `error:` line and no panic, contains every text.
    pub fn refused(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is not in:\n{}", self.stderr);
        }
        self.assert_hints_name_flags_that_are_there();
        self
    }

    /// Asserts that the hints name flags of this command only.
    fn assert_hints_name_flags_that_are_there(&self) {
        let Some(words) = &self.words else { return };
        for hint in self.hints() {
            let foreign = align_cli::usage::foreign_flags(&hint, words);
            assert!(foreign.is_empty(), "{foreign:?} are no flags here: {hint}");
        }
    }
}

/// Makes the command `align ARGUMENTS`, in which a word `{name}` stands for a path of the folder.
pub fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_align"));
    for word in arguments.split_whitespace() {
        match word.strip_prefix('{').and_then(|word| word.strip_suffix('}')) {
            Some(name) => command.arg(folder.join(name)),
            None => command.arg(word),
        };
    }
    // What runs keep for each other stays in the test's own folder.
    command.env("NO_COLOR", "1").env("XDG_CACHE_HOME", folder.join("cache")).stdin(Stdio::null());
    command
}

/// Runs `align ARGUMENTS`, as [`command`] has it.
pub fn align(folder: &Path, arguments: &str) -> Answer {
    Answer::to(&mut command(folder, arguments))
}

/// Makes the command of a program of the fixtures in the Python of `ALIGN_TEST_PYTHON`; none, and a note that says so,
/// where that lacks modules.
pub fn python(program: &str, modules: &str) -> Option<Command> {
    let python = std::env::var("ALIGN_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let there = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        eprintln!("note: skipped, {python} has no {modules} (set ALIGN_TEST_PYTHON)");
        return None;
    }
    let mut command = Command::new(python);
    command.arg(align_testkit::fixture(program));
    Some(command)
}

/// Writes a file into a folder and returns its path.
pub fn write(folder: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// Returns the smallest model folder of the fixtures.
pub fn tiny_llama() -> PathBuf {
    align_testkit::fixture("models/tiny-llama")
}

/// Copies the smallest model folder into `folder/name`, where it may be damaged.
pub fn copy_of_tiny_llama(folder: &Path, name: &str) -> PathBuf {
    let to = folder.join(name);
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(tiny_llama()).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
    }
    to
}

/// Puts a reward model, with the tokenizer and template of the smallest model, into `folder/name`.
pub fn reward_model(folder: &Path, name: &str) -> PathBuf {
    let to = copy_of_tiny_llama(folder, name);
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(align_testkit::fixture("classifiers/llama").join(file), to.join(file)).unwrap();
    }
    to
}

/// The weights of the head of a reward model.
pub const HEAD: &str = "score.weight";

/// Changes the sign of the weights of a reward model whose names are wanted: of a bfloat16 the highest bit.
pub fn negate(model: &Path, wanted: impl Fn(&str) -> bool) {
    let path = model.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let mut changed = 0;
    for (name, tensor) in tensors.filter(|(name, _)| wanted(name)) {
        assert_eq!(tensor["dtype"], "BF16", "{name}");
        let place = |end: usize| 8 + length + tensor["data_offsets"][end].as_u64().unwrap() as usize;
        bytes[place(0)..place(1)].iter_mut().skip(1).step_by(2).for_each(|byte| *byte ^= 0x80);
        changed += 1;
    }
    assert!(changed > 0, "there is no such weight");
    std::fs::write(path, bytes).unwrap();
}

/// Puts the reward model of [`reward_model`] with another tokenizer than the smallest model's into `folder/name`.
pub fn reward_model_of_other_tokens(folder: &Path, name: &str) -> PathBuf {
    let to = reward_model(folder, name);
    for file in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        std::fs::remove_file(to.join(file)).unwrap();
    }
    std::fs::copy(align_testkit::fixture("sentencepiece/llama-320.model"), to.join("tokenizer.model"))
        .unwrap();
    to
}

/// Copies an adapter of the smallest model into `folder/name`.
pub fn copy_of_adapter(folder: &Path, name: &str) -> PathBuf {
    let (from, to) = (align_testkit::fixture("lora/llama"), folder.join(name));
    std::fs::create_dir_all(&to).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    to
}

/// Changes keys of a JSON file.
pub fn edit_json(path: &Path, changes: &[(&str, serde_json::Value)]) {
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (key, new) in changes {
        value[*key] = new.clone();
    }
    std::fs::write(path, value.to_string()).unwrap();
}

/// Writes preference pairs of different lengths: the chosen answer ends with a full stop.
pub fn write_pairs(folder: &Path, name: &str, rows: usize) -> PathBuf {
    let subjects = ["the river", "an old mill", "warm bread", "a short day", "tea with milk"];
    let lines: String = (0..rows)
        .map(|row| {
            let subject = subjects[row % subjects.len()];
            let more = " and the rest of it".repeat(row % 4);
            format!(
                "{{\"prompt\": \"Say something about {subject}, number {row}.\", \"chosen\": \" I like {subject}{more}.\", \
                 \"rejected\": \" no {row}{more}\"}}\n"
            )
        })
        .collect();
    write(folder, name, lines)
}

/// Writes prompts with their completion.
pub fn write_demonstrations(folder: &Path, name: &str, rows: usize) -> PathBuf {
    let lines: String = (0..rows)
        .map(|row| {
            format!("{{\"prompt\": \"What is {row} and one?\", \"completion\": \" It is {}.\"}}\n", row + 1)
        })
        .collect();
    write(folder, name, lines)
}

/// Writes prompts, with a column that training does not read.
pub fn write_prompts(folder: &Path, name: &str, rows: usize) -> PathBuf {
    let line =
        |row: usize| format!("{{\"prompt\": \"What is {row} and one?\", \"answer\": \"{}\"}}\n", row + 1);
    write(folder, name, (0..rows).map(line).collect::<String>())
}

/// Writes answers with a thumb up (a full stop at the end) or down, by turns.
pub fn write_thumbs(folder: &Path, name: &str, rows: usize) -> PathBuf {
    let line = |row: usize| {
        let (up, more) = (row.is_multiple_of(2), " and more".repeat(row % 3));
        let end = if up { "." } else { "" };
        format!(
            "{{\"prompt\": \"What is thing {row}?\", \"completion\": \" Thing {row} it is{more}{end}\", \"label\": {up}}}\n"
        )
    };
    write(folder, name, (0..rows).map(line).collect::<String>())
}

/// Writes answers with scores from 0 to 1.
pub fn write_scores(folder: &Path, name: &str, rows: usize) -> PathBuf {
    let line = |row: usize| {
        let score = (row % 5) as f64 / 4.0;
        format!(
            "{{\"prompt\": \"Rate me {row}:\", \"completion\": \" number {row} of all\", \"score\": {score}}}\n"
        )
    };
    write(folder, name, (0..rows).map(line).collect::<String>())
}

/// Reads a file of one JSON object per line.
pub fn json_lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Reads the metrics of a run without what depends on the clock.
pub fn learned(folder: &Path, run: &str) -> Vec<serde_json::Value> {
    let mut lines = json_lines(&folder.join(run).join("metrics.jsonl"));
    for line in &mut lines {
        let line = line.as_object_mut().unwrap();
        line.retain(|name, _| !name.ends_with("_per_second") && name != "time" && name != "peak_rss_mb");
    }
    lines
}

/// Lists everything below a folder, sorted.
pub fn tree(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            names.push(path.strip_prefix(folder).unwrap().display().to_string());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    names.sort();
    names
}

/// Makes the vector of a token of a copied model NaN, so that rows with the token, and no others, have no loss.
pub fn poison_token(model: &Path, token: &str) {
    let read = |bytes: &[u8]| -> serde_json::Value { serde_json::from_slice(bytes).unwrap() };
    let tokenizer = read(&std::fs::read(model.join("tokenizer.json")).unwrap());
    let row = tokenizer["model"]["vocab"][token].as_u64().unwrap() as usize;
    let path = model.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = read(&bytes[8..8 + length]);
    let embedding = &header["model.embed_tokens.weight"];
    let width = embedding["shape"][1].as_u64().unwrap() as usize;
    let nan = f32::NAN.to_le_bytes();
    // A bfloat16 is the upper half of a float.
    let nan = match embedding["dtype"].as_str() {
        Some("BF16") => &nan[2..],
        other => {
            assert_eq!(other, Some("F32"));
            &nan[..]
        }
    };
    let begin = embedding["data_offsets"][0].as_u64().unwrap() as usize;
    let start = 8 + length + begin + nan.len() * width * row;
    bytes[start..start + nan.len()].copy_from_slice(nan);
    std::fs::write(path, bytes).unwrap();
}

/// Lists the numbers of an object by their paths; an average with its interval and a list are one each.
fn numbers_in(value: &serde_json::Value, path: &str) -> Vec<String> {
    match value {
        serde_json::Value::Object(map) if !(map.contains_key("mean") && map.contains_key("over")) => map
            .iter()
            .flat_map(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}/{key}") };
                numbers_in(value, &path)
            })
            .collect(),
        serde_json::Value::String(_) | serde_json::Value::Null => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

/// Asserts that every number of an object is in the table of numbers.
pub fn assert_defined(value: &serde_json::Value, place: align_cli::metrics::Place) {
    use align_cli::metrics::{all, is_named};
    let names = numbers_in(value, "");
    assert!(!names.is_empty(), "{value}");
    for name in names {
        let known = all().any(|metric| metric.place == place && is_named(metric, &name));
        assert!(known, "{name} is not in the table of {place:?}");
    }
}
