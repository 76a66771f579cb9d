//! What rows are, told from their keys.

use align_types::Columns;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a row is for: the answers it holds and what is known of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// One text or conversation without a prompt of its own.
    Language,
    /// A prompt and its answer.
    PromptCompletion,
    /// A prompt, a chosen and a rejected answer.
    Preference,
    /// A prompt and an answer with thumbs up or down.
    Unpaired,
    /// A prompt and an answer with a score.
    Scored,
    /// A prompt and several answers with their ranks.
    Ranking,
    /// A prompt and several answers of which nothing is known, as sampling writes them.
    Answers,
    /// A prompt alone.
    Prompt,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Kind] = &[
        Kind::Language,
        Kind::PromptCompletion,
        Kind::Preference,
        Kind::Unpaired,
        Kind::Scored,
        Kind::Ranking,
        Kind::Answers,
        Kind::Prompt,
    ];

    /// Names the kind and its columns.
    pub fn describe(self) -> &'static str {
        match self {
            Kind::Language => "language modelling (`text`, or `messages`)",
            Kind::PromptCompletion => "prompt and completion (`prompt`, `completion`)",
            Kind::Preference => {
                "preference (`prompt`, `chosen`, `rejected`, or `chosen` and `rejected` alone)"
            }
            Kind::Unpaired => "unpaired preference (`prompt`, `completion`, `label`)",
            Kind::Scored => "scored (`prompt`, `completion`, `score`)",
            Kind::Ranking => "ranking (`prompt`, `completions`, `ranks`)",
            Kind::Answers => "sampled answers (`prompt`, `completions`)",
            Kind::Prompt => "prompt only (`prompt`)",
        }
    }

    /// Says what rows of this kind can be used for.
    pub fn serves(self) -> &'static str {
        match self {
            Kind::Language | Kind::PromptCompletion => "supervised fine-tuning",
            Kind::Preference => {
                "preference optimisation, reward models, supervised fine-tuning on the chosen answers"
            }
            Kind::Unpaired => "unpaired preference optimisation",
            Kind::Scored => "learning from scores, supervised fine-tuning",
            Kind::Ranking => "reward models",
            Kind::Answers => "scoring",
            Kind::Prompt => "sampling and reinforcement learning, as there are no answers to learn from",
        }
    }
}

/// The layout of a row's columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// `text`.
    Text,
    /// `messages`.
    Messages,
    /// `prompt`, `completion`.
    PromptCompletion,
    /// `prompt`, `chosen`, `rejected`.
    Preference,
    /// `chosen`, `rejected`: their common beginning is the prompt.
    ImplicitPreference,
    /// `prompt`, `completion` with a `label`, `kto_tag` or `tag` that is true, false, 0 or 1.
    Unpaired,
    /// `prompt`, `completion`, `score`.
    Scored,
    /// `prompt`, `completions`, `ranks`.
    Ranking,
    /// `prompt`, `completions`: texts, message lists, or objects with `text` as `align generate` writes them.
    Answers,
    /// `prompt`.
    PromptOnly,
    /// `instruction`, perhaps `input`, `output`.
    Alpaca,
    /// `instruction`, perhaps `input`, `chosen`, `rejected`.
    AlpacaPreference,
    /// `conversations` with `from` and `value`.
    ShareGpt,
    /// `conversations` with `from` and `value`, `chosen`, `rejected`.
    ShareGptPreference,
    /// `messages` with such a `label`, `kto_tag` or `tag` for the last of them.
    MessagesUnpaired,
    /// As Alpaca, with such a `label`, `kto_tag` or `tag`.
    AlpacaUnpaired,
    /// As ShareGPT, with such a `label`, `kto_tag` or `tag` for the last turn.
    ShareGptUnpaired,
}

impl Format {
    /// Says what rows of this layout are for.
    pub fn kind(self) -> Kind {
        match self {
            Format::Text | Format::Messages | Format::ShareGpt => Kind::Language,
            Format::PromptCompletion | Format::Alpaca => Kind::PromptCompletion,
            Format::Preference
            | Format::ImplicitPreference
            | Format::AlpacaPreference
            | Format::ShareGptPreference => Kind::Preference,
            Format::Unpaired
            | Format::MessagesUnpaired
            | Format::AlpacaUnpaired
            | Format::ShareGptUnpaired => Kind::Unpaired,
            Format::Scored => Kind::Scored,
            Format::Ranking => Kind::Ranking,
            Format::Answers => Kind::Answers,
            Format::PromptOnly => Kind::Prompt,
        }
    }

    /// Lists the columns that are read, the required ones first; `required` of them must be there.
    pub(crate) fn columns(self) -> (usize, &'static [&'static str]) {
        match self {
            Format::Text => (1, &["text"]),
            Format::Messages => (1, &["messages", "tools", "chat_template_kwargs"]),
            Format::PromptCompletion => (2, &["prompt", "completion", "tools", "chat_template_kwargs"]),
            Format::Preference => (3, &["prompt", "chosen", "rejected", "tools", "chat_template_kwargs"]),
            Format::ImplicitPreference => (2, &["chosen", "rejected", "tools", "chat_template_kwargs"]),
            Format::Unpaired => {
                (2, &["prompt", "completion", "label", "kto_tag", "tag", "tools", "chat_template_kwargs"])
            }
            Format::Scored => (3, &["prompt", "completion", "score", "tools", "chat_template_kwargs"]),
            Format::Ranking => (3, &["prompt", "completions", "ranks", "tools", "chat_template_kwargs"]),
            Format::Answers => (2, &["prompt", "completions", "tools", "chat_template_kwargs", "row"]),
            Format::PromptOnly => (1, &["prompt", "tools", "chat_template_kwargs"]),
            Format::Alpaca => (2, &["instruction", "output", "input"]),
            Format::AlpacaPreference => (3, &["instruction", "chosen", "rejected", "input"]),
            Format::ShareGpt => (1, &["conversations", "system", "tools"]),
            Format::ShareGptPreference => (3, &["conversations", "chosen", "rejected", "system", "tools"]),
            Format::MessagesUnpaired => (1, &["messages", "tools", "label", "kto_tag", "tag"]),
            Format::AlpacaUnpaired => (2, &["instruction", "output", "input", "label", "kto_tag", "tag"]),
            Format::ShareGptUnpaired => (1, &["conversations", "system", "tools", "label", "kto_tag", "tag"]),
        }
    }

    /// Names the layout with its columns.
    pub fn describe(self) -> String {
        let (required, columns) = self.columns();
        let mut columns: Vec<_> = columns.iter().take(required).map(|c| format!("`{c}`")).collect();
        if self.kind() == Kind::Unpaired {
            columns.push("`label`".into());
        }
        let name = match self {
            Format::Text | Format::Messages => "language modelling",
            Format::PromptCompletion => "prompt and completion",
            Format::Preference => "preference",
            Format::ImplicitPreference => "preference with the prompt inside the answers",
            Format::Unpaired => "unpaired preference",
            Format::Scored => "scored",
            Format::Ranking => "ranking",
            Format::Answers => "sampled answers",
            Format::PromptOnly => "prompt only",
            Format::Alpaca => "Alpaca",
            Format::AlpacaPreference => "Alpaca preference",
            Format::ShareGpt => "ShareGPT",
            Format::ShareGptPreference => "ShareGPT preference",
            Format::MessagesUnpaired => "messages with thumbs up or down",
            Format::AlpacaUnpaired => "Alpaca with thumbs up or down",
            Format::ShareGptUnpaired => "ShareGPT with thumbs up or down",
        };
        format!("{name} ({})", columns.join(", "))
    }
}

/// Why the keys of a row make none of the layouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The layout that is nearest.
    pub nearest: Format,
    /// The columns it lacks.
    pub missing: Vec<&'static str>,
    /// Columns of the row that may be meant: (name in the row, name that is read).
    pub similar: Vec<(String, &'static str)>,
    /// The columns of the row.
    pub columns: Vec<String>,
    /// Columns that hold something nested, and what.
    pub nested: Vec<String>,
}

impl Misfit {
    /// Says which columns the row has.
    pub fn found(&self) -> String {
        match self.columns.len() {
            0 => "the row is an empty object".into(),
            n => {
                let shown: Vec<_> = self.columns.iter().take(8).map(|c| format!("`{c}`")).collect();
                let more = if n > 8 { format!(" and {} more", n - 8) } else { String::new() };
                format!("the row has the columns {}{more}, which make no known format", shown.join(", "))
            }
        }
    }

    /// Says what is nearest, what it lacks, and how columns are mapped.
    pub fn hint(&self) -> String {
        let missing: Vec<_> = self.missing.iter().map(|c| format!("`{c}`")).collect();
        let mut text =
            format!("the nearest is {}, which lacks {}", self.nearest.describe(), missing.join(" and "));
        if let Some((first, rest)) = self.similar.split_first() {
            let map = |(column, name): &(String, &str)| format!("{name}={column}");
            let maps: Vec<_> = std::iter::once(map(first)).chain(rest.iter().map(map)).collect();
            text.push_str(&format!("; if these are meant, map them: columns {}", maps.join(",")));
        } else {
            text.push_str("; rename or map the columns");
            if !self.nested.is_empty() {
                text.push_str(&format!(
                    ", or bring what is nested to the top level: {}",
                    self.nested.join(", ")
                ));
            }
        }
        text
    }
}

/// Other names under which a column is found in the wild.
const ALIASES: &[(&str, &[&str])] = &[
    ("prompt", &["question", "query", "instruction", "input", "problem", "context", "source", "rl_prompt"]),
    ("completion", &["response", "answer", "output", "target", "solution", "summary", "generation"]),
    ("chosen", &["preferred", "accepted", "better", "winner", "chosen_response", "response_chosen"]),
    ("rejected", &["dispreferred", "worse", "loser", "rejected_response", "response_rejected"]),
    ("completions", &["responses", "answers", "outputs", "generations"]),
    ("text", &["content", "document", "story"]),
    ("messages", &["conversation", "dialogue", "dialog", "chat", "turns"]),
    ("conversations", &[]),
];

/// Tells whether a name is one under which a column is found in the wild.
pub(crate) fn is_alias(name: &str) -> bool {
    ALIASES.iter().any(|(_, aliases)| aliases.contains(&name))
}

/// Tells the layout of a row from its keys and the types of its values.
///
/// # Errors
/// The nearest layout and what is missing, where the keys make none.
pub fn detect(row: &Columns) -> Result<Format, Misfit> {
    detect_for(row, Kind::ALL)
}

/// Tells the layout of a row; where there is none, the nearest is sought among the wanted kinds.
///
/// Where prompts alone are wanted, answers beside a prompt are columns like any other.
pub(crate) fn detect_for(row: &Columns, wanted: &[Kind]) -> Result<Format, Misfit> {
    let has = |key: &str| row.contains_key(key);
    let prompts_only = wanted == [Kind::Prompt];
    let given = |key: &str| row.get(key).is_some_and(|v| !v.is_null());
    let list = |key: &str| row.get(key).is_some_and(Value::is_array);
    let pair = has("chosen") && has("rejected");
    // Where nothing but labels or scores will do, a first row with a bad one says what it lacks.
    let only = |kind| wanted.contains(&kind) && !wanted.contains(&Kind::PromptCompletion);
    let named = THUMBS.iter().any(|name| has(name));
    let thumbs = thumbs(row).is_some() || (only(Kind::Unpaired) && named);
    let score = row.get("score").is_some_and(Value::is_number) || (only(Kind::Scored) && has("score"));
    Ok(match () {
        // Message lists of whole conversations begin with the prompt; a `prompt` text beside them repeats it.
        () if pair && list("chosen") && list("rejected") && !list("prompt") && !list("conversations") => {
            Format::ImplicitPreference
        }
        () if prompts_only && has("prompt") => Format::PromptOnly,
        () if prompts_only && has("instruction") => Format::Alpaca,
        () if pair && has("prompt") => Format::Preference,
        () if pair && list("conversations") => Format::ShareGptPreference,
        () if pair && has("instruction") => Format::AlpacaPreference,
        () if pair => match alias_in(row, "prompt") {
            // The common beginning of two answers is no prompt when the prompt stands in another column.
            Some(_) => return Err(misfit(row, Format::Preference)),
            None => Format::ImplicitPreference,
        },
        () if has("chosen") || has("rejected") => return Err(misfit(row, Format::Preference)),
        () if has("prompt") && given("completions") && given("ranks") => Format::Ranking,
        () if has("prompt") && given("completions") && wanted.contains(&Kind::Answers) => Format::Answers,
        () if has("prompt") && given("completions") => return Err(misfit(row, Format::Ranking)),
        () if has("prompt") && has("completion") && thumbs => Format::Unpaired,
        () if has("prompt") && has("completion") && score => Format::Scored,
        () if has("prompt") && has("completion") => Format::PromptCompletion,
        () if has("completion") => return Err(misfit(row, Format::PromptCompletion)),
        () if has("messages") && thumbs => Format::MessagesUnpaired,
        () if has("messages") => Format::Messages,
        () if list("conversations") && thumbs => Format::ShareGptUnpaired,
        () if list("conversations") => Format::ShareGpt,
        () if has("instruction") && has("output") && thumbs => Format::AlpacaUnpaired,
        () if has("instruction") && has("output") => Format::Alpaca,
        () if has("prompt") => Format::PromptOnly,
        () if has("text") => Format::Text,
        () => {
            let candidates = [
                Format::Preference,
                Format::PromptCompletion,
                Format::Unpaired,
                Format::Scored,
                Format::Ranking,
                Format::Alpaca,
                Format::Text,
                Format::Messages,
            ];
            let wanted = candidates.into_iter().filter(|f| wanted.contains(&f.kind()));
            let fits = wanted.map(|format| misfit(row, format));
            // The layout that explains most of its own columns; the first of equals.
            let score = |m: &Misfit| (m.similar.len(), usize::MAX - m.missing.len());
            let best = fits.reduce(|best, next| if score(&next) > score(&best) { next } else { best });
            return Err(best.unwrap_or_else(|| misfit(row, Format::PromptOnly)));
        }
    })
}

/// The columns that hold thumbs up or down.
const THUMBS: [&str; 3] = ["label", "kto_tag", "tag"];

/// Finds thumbs up or down beside an answer. Training on the bad ones would be silent harm, so such rows are a
/// kind of their own.
pub(crate) fn thumbs(row: &Columns) -> Option<bool> {
    THUMBS.iter().find_map(|name| truth(row.get(*name)?))
}

/// Reads a value as thumbs up or down: a boolean, 0 or 1, or the words.
pub(crate) fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(n) => match n.as_f64() {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => None,
        },
        Value::String(word) if word.eq_ignore_ascii_case("true") => Some(true),
        Value::String(word) if word.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

fn misfit(row: &Columns, nearest_format: Format) -> Misfit {
    let (required, columns) = nearest_format.columns();
    let mut missing: Vec<&'static str> =
        columns.iter().take(required).copied().filter(|name| !row.contains_key(*name)).collect();
    if nearest_format.kind() == Kind::Unpaired && thumbs(row).is_none() {
        missing.push("label");
    }
    let similar =
        missing.iter().filter_map(|name| alias_in(row, name).map(|column| (column, *name))).collect();
    Misfit {
        nearest: nearest_format,
        missing,
        similar,
        columns: row.keys().cloned().collect(),
        nested: nested(row),
    }
}

/// Describes the columns that hold objects, or lists of them.
fn nested(row: &Columns) -> Vec<String> {
    let describe = |(name, value): (&String, &Value)| match value {
        Value::Object(inner) if !inner.is_empty() => {
            let keys: Vec<_> = inner.keys().take(6).map(String::as_str).collect();
            Some(format!("`{name}` holds {}", keys.join(", ")))
        }
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            Some(format!("`{name}` is a list of {} objects", list.len()))
        }
        _ => None,
    };
    row.iter().filter_map(describe).take(4).collect()
}

/// Finds the column of a row that is probably meant by `name`: another word for it, or a slip of the pen.
fn alias_in(row: &Columns, name: &str) -> Option<String> {
    let aliases =
        ALIASES.iter().find(|(known, _)| *known == name).map(|(_, aliases)| *aliases).unwrap_or_default();
    let plain = |key: &str| key.to_lowercase().replace([' ', '-'], "_");
    let usable = |key: &&String| row.get(*key).is_some_and(|v| v.is_string() || v.is_array());
    aliases
        .iter()
        .find_map(|alias| row.keys().filter(usable).find(|key| plain(key) == *alias))
        .or_else(|| row.keys().filter(usable).find(|key| plain(key) == name && *key != name))
        .cloned()
        .or_else(|| nearest(name, row.keys().filter(usable).map(String::as_str)).filter(|k| k != name))
}

/// Finds the candidate that is most like a word, if any is like it: for "did you mean" in messages.
///
/// At most two letters may be inserted, left out, replaced or swapped, and at most one in three.
///
/// ```
/// use align_data::nearest;
///
/// assert_eq!(nearest("promt", ["prompt", "chosen"].into_iter()), Some("prompt".to_owned()));
/// assert_eq!(nearest("question", ["prompt", "chosen"].into_iter()), None);
/// ```
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 2 && *distance * 3 <= candidate.len().max(word.len()))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(json: &str) -> Columns {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn formats_are_told_from_keys() {
        let cases = [
            (r#"{"text":"a"}"#, Format::Text),
            (r#"{"messages":[]}"#, Format::Messages),
            (r#"{"prompt":"a","completion":"b"}"#, Format::PromptCompletion),
            (r#"{"prompt":"a","completion":"b","label":null}"#, Format::PromptCompletion),
            (r#"{"prompt":"a","completion":"b","label":"spam"}"#, Format::PromptCompletion),
            (r#"{"prompt":"a","completion":"b","label":true}"#, Format::Unpaired),
            (r#"{"prompt":"a","completion":"b","label":0}"#, Format::Unpaired),
            (r#"{"prompt":"a","completion":"b","label":"False"}"#, Format::Unpaired),
            (r#"{"prompt":"a","completion":"b","label":2}"#, Format::PromptCompletion),
            (r#"{"prompt":"a","completion":"b","kto_tag":true}"#, Format::Unpaired),
            (r#"{"prompt":"a","completion":"b","score":3.5}"#, Format::Scored),
            (r#"{"prompt":"a","completion":"b","score":null}"#, Format::PromptCompletion),
            (r#"{"prompt":"a","completions":["b"],"ranks":[1]}"#, Format::Ranking),
            (r#"{"prompt":"a","chosen":"b","rejected":"c"}"#, Format::Preference),
            (r#"{"chosen":"b","rejected":"c"}"#, Format::ImplicitPreference),
            (r#"{"prompt":"a","chosen":[],"rejected":[]}"#, Format::ImplicitPreference),
            (r#"{"prompt":[],"chosen":[],"rejected":[]}"#, Format::Preference),
            (r#"{"prompt":"a","id":3}"#, Format::PromptOnly),
            (r#"{"prompt":"a","messages":[]}"#, Format::Messages),
            (r#"{"instruction":"a","input":"","output":"b"}"#, Format::Alpaca),
            (r#"{"instruction":"a","output":"x","chosen":"b","rejected":"c"}"#, Format::AlpacaPreference),
            (r#"{"conversations":[]}"#, Format::ShareGpt),
            (r#"{"conversations":[],"chosen":{},"rejected":{}}"#, Format::ShareGptPreference),
            (r#"{"messages":[],"label":false}"#, Format::MessagesUnpaired),
            (r#"{"instruction":"a","output":"b","kto_tag":true}"#, Format::AlpacaUnpaired),
            (r#"{"conversations":[],"kto_tag":true}"#, Format::ShareGptUnpaired),
        ];
        for (json, format) in cases {
            assert_eq!(detect(&row(json)), Ok(format), "{json}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_a_likely_column() {
        let error = detect(&row(r#"{"prompt":"a","chosen":"b"}"#)).unwrap_err();
        assert_eq!(error.missing, ["rejected"]);
        let error = detect(&row(r#"{"prompt":"a","chosen":"b","rejcted":"c"}"#)).unwrap_err();
        assert!(error.hint().contains("rejected=rejcted"), "{}", error.hint());
        let error = detect(&row(r#"{"question":"a","chosen":"b","rejected":"c"}"#)).unwrap_err();
        assert!(error.hint().contains("prompt=question"), "{}", error.hint());
        let error = detect(&row(r#"{"question":"a","answer":"b"}"#)).unwrap_err();
        assert_eq!(error.nearest, Format::PromptCompletion);
        assert!(error.hint().contains("prompt=question,completion=answer"), "{}", error.hint());
        let error = detect(&row(r#"{"Text":"a"}"#)).unwrap_err();
        assert!(error.hint().contains("text=Text"), "{}", error.hint());
        let error = detect(&row(r#"{"sample":{"input":1,"outputs":[]},"examples":[{},{}]}"#)).unwrap_err();
        assert!(error.hint().contains("`sample` holds input, outputs, `examples` is a list of 2 objects"));
        assert!(detect(&row("{}")).unwrap_err().found().contains("empty object"));
    }
}
