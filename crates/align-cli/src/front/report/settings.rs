//! Configuration and environment, what differs first.

use align_report::{escape, table};
use serde_json::{Map, Value};

use super::run::{Run, plain};

/// Keys that differ between any two runs and say nothing.
const NAMES: [&str; 1] = ["output_dir"];

/// Writes the sections.
pub(super) fn html(runs: &[Run]) -> String {
    let mut text = "<h2>Configuration</h2>\n".to_owned();
    if runs.len() > 1 {
        text += &differences(runs);
    }
    for run in runs {
        let open = if runs.len() == 1 { " open" } else { "" };
        text += &format!(
            "<details{open}><summary>config.toml{}</summary>\n<pre>{}</pre></details>\n",
            whose(runs, run),
            escape(run.config_text.trim_end())
        );
    }
    text += "<h2>Environment</h2>\n";
    if runs.len() > 1 {
        text += &environment_differences(runs);
    }
    for run in runs {
        let open = if runs.len() == 1 { " open" } else { "" };
        text += &format!(
            "<details{open}><summary>environment.json{}</summary>\n{}</details>\n",
            whose(runs, run),
            list(&run.environment)
        );
    }
    text
}

fn whose(runs: &[Run], run: &Run) -> String {
    if runs.len() == 1 { String::new() } else { format!(" of <bdi>{}</bdi>", escape(&run.name)) }
}

/// The keys in which runs differ, with the value of each run; a key that a run has not is empty.
pub(super) fn differing(runs: &[Run]) -> Vec<(String, Vec<String>)> {
    let mut keys: Vec<&String> = Vec::new();
    for key in runs.iter().flat_map(|run| run.config.keys()) {
        if !keys.contains(&key) && !NAMES.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let values =
        |key: &String| runs.iter().map(|run| run.config.get(key).map(plain).unwrap_or_default()).collect();
    let all = keys.into_iter().map(|key| (key.clone(), values(key)));
    all.filter(|(_, values): &(String, Vec<String>)| values.iter().any(|value| Some(value) != values.first()))
        .collect()
}

fn differences(runs: &[Run]) -> String {
    comparison(runs, &differing(runs), "All runs have the same configuration, but for the folder they write.")
}

fn environment_differences(runs: &[Run]) -> String {
    let shown = ["version", "libtorch", "device", "threads", "cpu", "cores", "platform", "start_time"];
    let value = |run: &Run, key: &str| run.environment.get(key).map(value_text).unwrap_or_default();
    let rows = shown
        .iter()
        .map(|key| ((*key).to_owned(), runs.iter().map(|run| value(run, key)).collect::<Vec<_>>()));
    let differing: Vec<_> =
        rows.filter(|(_, values)| values.iter().any(|v| Some(v) != values.first())).collect();
    comparison(runs, &differing, "All runs had the same environment.")
}

/// Writes a table of what differs: with a row for each run, or, where more things differ than there are runs, a row for
/// each thing.
fn comparison(runs: &[Run], rows: &[(String, Vec<String>)], none: &str) -> String {
    if rows.is_empty() {
        return format!("<p>{none}</p>\n");
    }
    let cell = |value: Option<&String>| match value.map(String::as_str) {
        None | Some("") => "–".to_owned(),
        Some(value) => escape(value),
    };
    let named = |name: &str, cells: Vec<String>| {
        std::iter::once(format!("<bdi>{}</bdi>", escape(name))).chain(cells).collect::<Vec<_>>()
    };
    let names = runs.iter().map(|run| run.name.clone());
    let keys = rows.iter().map(|(key, _)| key.clone());
    let text = if rows.len() > runs.len() {
        let head: Vec<String> = std::iter::once("setting".to_owned()).chain(names).collect();
        let of = |values: &Vec<String>| (0..runs.len()).map(|run| cell(values.get(run))).collect();
        table("wide", &head, rows.iter().map(|(key, values)| named(key, of(values))))
    } else {
        let head: Vec<String> = std::iter::once("run".to_owned()).chain(keys).collect();
        let of = |run: usize| rows.iter().map(|(_, values)| cell(values.get(run))).collect();
        table("wide", &head, runs.iter().enumerate().map(|(index, run)| named(&run.name, of(index))))
    };
    format!("<p>What differs:</p>\n{text}")
}

fn list(environment: &Map<String, Value>) -> String {
    if environment.is_empty() {
        return "<p>environment.json is not there.</p>\n".to_owned();
    }
    let mut text = "<dl>\n".to_owned();
    for (key, value) in environment {
        text += &format!("<dt>{}</dt><dd>{}</dd>\n", escape(key), escape(&value_text(value)));
    }
    text + "</dl>\n"
}

/// Writes a value as a person would; a list of texts is a command line.
fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) if list.iter().all(Value::is_string) => {
            list.iter().filter_map(Value::as_str).map(quoted).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_can_be_pasted() {
        let command = serde_json::json!(["align", "dpo", "--stop", "a b", "it's", ""]);
        assert_eq!(value_text(&command), r"align dpo --stop 'a b' 'it'\''s' ''");
    }

    #[test]
    fn only_what_differs_is_listed() {
        let mut runs = ["a", "b"].map(crate::front::report::run::tests::empty);
        runs[0].config = "beta = 0.1\nseed = 0\noutput_dir = \"a\"\n".parse().unwrap();
        runs[1].config = "beta = 0.5\nseed = 0\noutput_dir = \"b\"\nlora_rank = 4\n".parse().unwrap();
        let expected = [
            ("beta".to_owned(), vec!["0.1".to_owned(), "0.5".to_owned()]),
            ("lora_rank".to_owned(), vec![String::new(), "4".to_owned()]),
        ];
        assert_eq!(differing(&runs), expected);
    }
}
