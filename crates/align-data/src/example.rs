//! From the columns of a row to a prompt and its answers, still as text or messages.

use std::path::PathBuf;

use align_types::{Columns, FinishReason, RewardItem, Source};
use serde_json::{Value, json};

use crate::{
    format::{Format, Kind, thumbs},
    implicit,
    reader::Row,
    sniff::json_kind,
};

/// Text, or the messages of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Text(String),
    Messages(Vec<Value>),
}

/// An answer and what the row says of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub name: &'static str,
    pub content: Content,
    pub label: Option<bool>,
    pub score: Option<f64>,
    pub rank: Option<u32>,
    pub finish_reason: Option<FinishReason>,
}

impl Answer {
    fn new(name: &'static str, content: Content) -> Self {
        Self { name, content, label: None, score: None, rank: None, finish_reason: None }
    }
}

/// A row that has been understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Example {
    /// None for language modelling.
    pub prompt: Option<Content>,
    pub answers: Vec<Answer>,
    pub tools: Option<Value>,
    pub template_kwargs: Columns,
    pub columns: Columns,
    pub source: Source,
}

impl Example {
    /// Takes a prompt with an answer that is to be scored; unlike an answer to learn from it may be empty. Its template
    /// is told what it is told in training: the columns `tools` and `chat_template_kwargs`.
    pub(crate) fn of_item(item: &RewardItem<'_>) -> Result<Self, String> {
        let text = || item.completion.to_owned();
        let (prompt, answer) = match item.messages {
            Some(messages) => {
                let turn = json!({"role": "assistant", "content": text()});
                (Content::Messages(messages.to_vec()), Content::Messages(vec![turn]))
            }
            None => (Content::Text(item.prompt.to_owned()), Content::Text(text())),
        };
        Ok(Self {
            prompt: Some(prompt),
            answers: vec![Answer::new("completion", answer)],
            tools: tools(item.columns)?,
            template_kwargs: template_kwargs(item.columns),
            columns: Columns::new(),
            source: item.source.cloned().unwrap_or_else(|| Source { file: PathBuf::new(), row: 0 }),
        })
    }

    /// Understands a row of a known layout that is read as `kind`; `chat` says whether there is a chat template to
    /// write turns with.
    pub(crate) fn parse(row: Row, format: Format, kind: Kind, chat: bool) -> Result<Self, String> {
        let value = &row.value;
        let (prompt, answers) = match format {
            _ if kind == Kind::Prompt => (Some(prompt_alone(value, format, chat)?), vec![]),
            Format::Text => match answer(value, "text")? {
                Content::Messages(_) => {
                    return Err("`text` is a list; put message lists under `messages`".into());
                }
                text => (None, vec![Answer::new("completion", text)]),
            },
            Format::Messages => match answer(value, "messages")? {
                Content::Text(_) => return Err("`messages` is text; a list of messages is expected".into()),
                messages => (None, vec![Answer::new("completion", messages)]),
            },
            Format::ShareGpt => {
                let messages = share_gpt(value)?;
                check_answer("conversations", &messages)?;
                (None, vec![Answer::new("completion", messages)])
            }
            Format::PromptCompletion | Format::Unpaired | Format::Scored => {
                let mut one = Answer::new("completion", answer(value, "completion")?);
                if format == Format::Unpaired {
                    one.label = label(value)?;
                }
                if format == Format::Scored {
                    one.score = Some(number(field(value, "score")?, "`score`")?);
                }
                (Some(prompt(value)?), vec![one])
            }
            Format::Preference => {
                (Some(prompt(value)?), pair(answer(value, "chosen")?, answer(value, "rejected")?))
            }
            Format::ImplicitPreference => {
                let (chosen, rejected) = (content(value, "chosen")?, content(value, "rejected")?);
                let (prompt, chosen, rejected) = implicit::split(chosen, rejected)?;
                check_answer("chosen", &chosen)?;
                check_answer("rejected", &rejected)?;
                (Some(prompt), pair(chosen, rejected))
            }
            Format::Ranking => (Some(prompt(value)?), ranking(value)?),
            Format::Answers => {
                let prompt = prompt(value)?;
                let answers = sampled(value, matches!(prompt, Content::Messages(_)))?;
                (Some(prompt), answers)
            }
            Format::PromptOnly => (Some(prompt(value)?), vec![]),
            Format::Alpaca => {
                let output = turn(answer(value, "output")?, chat);
                (Some(alpaca_prompt(value, chat)?), vec![Answer::new("completion", output)])
            }
            Format::AlpacaUnpaired => {
                let mut output = Answer::new("completion", turn(answer(value, "output")?, chat));
                output.label = label(value)?;
                (Some(alpaca_prompt(value, chat)?), vec![output])
            }
            Format::MessagesUnpaired => last_turn(content(value, "messages")?, "messages", label(value)?)?,
            Format::ShareGptUnpaired => last_turn(share_gpt(value)?, "conversations", label(value)?)?,
            Format::AlpacaPreference => {
                let (chosen, rejected) =
                    (turn(answer(value, "chosen")?, chat), turn(answer(value, "rejected")?, chat));
                (Some(alpaca_prompt(value, chat)?), pair(chosen, rejected))
            }
            Format::ShareGptPreference => {
                let (chosen, rejected) =
                    (share_gpt_answer(value, "chosen")?, share_gpt_answer(value, "rejected")?);
                (Some(share_gpt(value)?), pair(chosen, rejected))
            }
        };
        let (_, read) = format.columns();
        let tools = if read.contains(&"tools") { tools(value)? } else { None };
        let has_kwargs = read.contains(&"chat_template_kwargs");
        let template_kwargs = if has_kwargs { template_kwargs(value) } else { Columns::new() };
        let mut columns = row.value;
        columns.retain(|name, _| !read.contains(&name.as_str()));
        Self { prompt, answers, tools, template_kwargs, columns, source: row.source }.consistent()
    }

    /// Refuses text in one column and messages in another.
    fn consistent(self) -> Result<Self, String> {
        let is_chat = |content: &Content| matches!(content, Content::Messages(_));
        if let Some(prompt) = &self.prompt
            && let Some(odd) = self.answers.iter().find(|a| is_chat(&a.content) != is_chat(prompt))
        {
            let name = |chat| if chat { "a message list" } else { "text" };
            return Err(format!(
                "`prompt` is {} but `{}` is {}; make both the same",
                name(is_chat(prompt)),
                odd.name,
                name(is_chat(&odd.content))
            ));
        }
        Ok(self)
    }

    /// Tells whether the row holds message lists.
    pub(crate) fn conversational(&self) -> bool {
        let first = self.prompt.as_ref().or_else(|| self.answers.first().map(|a| &a.content));
        matches!(first, Some(Content::Messages(_)))
    }

    /// Refuses a text without a prompt: it has no turns of which some could be trained on.
    pub(crate) fn with_turns(self) -> Result<Self, String> {
        match (&self.prompt, self.answers.first()) {
            (None, Some(Answer { content: Content::Text(_), .. })) => Err(
                "the row is one text without turns; train on all of it (train-on all), or give `messages` \
                     or `prompt` and `completion`"
                    .into(),
            ),
            _ => Ok(self),
        }
    }

    /// Makes the last turn of a conversation the answer, and what came before the prompt.
    pub(crate) fn last_answer(mut self) -> Result<Self, String> {
        let (prompt, mut turns) = match (self.prompt.take(), self.answers.as_mut_slice()) {
            (None, [Answer { content: Content::Messages(turns), .. }]) => (vec![], std::mem::take(turns)),
            (Some(Content::Messages(prompt)), [Answer { content: Content::Messages(turns), .. }])
                if turns.len() > 1 =>
            {
                (prompt, std::mem::take(turns))
            }
            (prompt, _) => return Ok(Self { prompt, ..self }),
        };
        let role = turns.last().and_then(|turn| turn.get("role")).and_then(Value::as_str).unwrap_or_default();
        if role != "assistant" {
            return Err(format!("the last turn is of the {role}, so there is no answer to train on"));
        }
        let last = turns.split_off(turns.len().saturating_sub(1));
        let prompt = [prompt, turns].concat();
        if prompt.is_empty() {
            return Err("the conversation has one turn; a prompt and an answer are expected".into());
        }
        self.answers.iter_mut().for_each(|answer| answer.content = Content::Messages(last.clone()));
        Ok(Self { prompt: Some(Content::Messages(prompt)), ..self })
    }

    /// Says whether the answers are ranked and no two ranks differ.
    pub(crate) fn all_tied(&self) -> bool {
        let first = self.answers.first().and_then(|answer| answer.rank);
        first.is_some() && self.answers.iter().all(|answer| answer.rank == first)
    }

    /// Makes an example of one kind one of another, where something else was asked for.
    pub(crate) fn adapt(mut self, kind: Kind, wanted: Kind) -> Self {
        match (kind, wanted) {
            (Kind::Preference, Kind::PromptCompletion) => {
                self.answers.truncate(1);
                self.answers.iter_mut().for_each(|a| a.name = "completion");
            }
            // Each answer of a pair is one with thumbs up or down; they stay in one group, which shares the prompt.
            (Kind::Preference, Kind::Unpaired) => {
                for (answer, good) in self.answers.iter_mut().zip([true, false]) {
                    answer.label = Some(good);
                }
            }
            (Kind::Preference, Kind::Ranking) => {
                for (answer, rank) in self.answers.iter_mut().zip(1..) {
                    answer.rank = Some(rank);
                }
            }
            (Kind::Scored, Kind::PromptCompletion) => {
                for score in self.answers.iter_mut().filter_map(|a| a.score.take()) {
                    self.columns.insert("score".into(), json!(score));
                }
            }
            _ => {}
        }
        self
    }
}

/// Reads the prompt of a row and looks at its answers only where the prompt ends at them.
fn prompt_alone(row: &Columns, format: Format, chat: bool) -> Result<Content, String> {
    match format {
        Format::ImplicitPreference => {
            let (prompt, ..) = implicit::split(content(row, "chosen")?, content(row, "rejected")?)?;
            Ok(prompt)
        }
        Format::Alpaca | Format::AlpacaUnpaired | Format::AlpacaPreference => alpaca_prompt(row, chat),
        Format::ShareGptPreference => share_gpt(row),
        Format::MessagesUnpaired => {
            before_last(content(row, "messages")?, "messages").map(|(prompt, _)| prompt)
        }
        Format::ShareGptUnpaired => before_last(share_gpt(row)?, "conversations").map(|(prompt, _)| prompt),
        _ => prompt(row),
    }
}

/// Splits a conversation into its last turn, which the label is for, and what came before.
fn last_turn(
    whole: Content,
    name: &str,
    label: Option<bool>,
) -> Result<(Option<Content>, Vec<Answer>), String> {
    check_answer(name, &whole)?;
    let (prompt, last) = before_last(whole, name)?;
    Ok((Some(prompt), vec![Answer { label, ..Answer::new("completion", last) }]))
}

fn before_last(whole: Content, name: &str) -> Result<(Content, Content), String> {
    match whole {
        Content::Messages(mut messages) if messages.len() > 1 => {
            let last = messages.split_off(messages.len() - 1);
            Ok((Content::Messages(messages), Content::Messages(last)))
        }
        Content::Messages(_) => Err(format!("`{name}` has one turn; a prompt and an answer are expected")),
        Content::Text(_) => Err(format!("`{name}` is text; a list of messages is expected")),
    }
}

fn pair(chosen: Content, rejected: Content) -> Vec<Answer> {
    vec![Answer::new("chosen", chosen), Answer::new("rejected", rejected)]
}

fn field<'a>(row: &'a Columns, name: &str) -> Result<&'a Value, String> {
    match row.get(name) {
        None => {
            let has: Vec<_> = row.keys().take(8).map(|k| format!("`{k}`")).collect();
            Err(format!("`{name}` is missing (the row has {})", has.join(", ")))
        }
        Some(Value::Null) => Err(format!("`{name}` is null")),
        Some(value) => Ok(value),
    }
}

fn content(row: &Columns, name: &str) -> Result<Content, String> {
    content_of(field(row, name)?, name)
}

fn content_of(value: &Value, name: &str) -> Result<Content, String> {
    match value {
        Value::String(text) => Ok(Content::Text(text.clone())),
        Value::Array(messages) if messages.is_empty() => Err(format!("`{name}` is an empty list")),
        Value::Array(messages) => {
            messages.iter().enumerate().try_for_each(|(i, message)| check_message(message, i + 1, name))?;
            Ok(Content::Messages(messages.clone()))
        }
        other => Err(format!("`{name}` is {}; text or a list of messages is expected", json_kind(other))),
    }
}

fn check_message(message: &Value, number: usize, name: &str) -> Result<(), String> {
    let at = format!("message {number} of `{name}`");
    let Value::Object(fields) = message else {
        return Err(format!(
            "{at} is {}; an object with `role` and `content` is expected",
            json_kind(message)
        ));
    };
    let role = match fields.get("role") {
        Some(Value::String(role)) if !role.is_empty() => role,
        Some(_) => return Err(format!("{at}: `role` must be a text such as \"user\" or \"assistant\"")),
        None => return Err(format!("{at} has no `role`")),
    };
    match fields.get("content") {
        Some(Value::String(_) | Value::Array(_)) => Ok(()),
        // An assistant that calls a tool says nothing.
        None | Some(Value::Null) if fields.get("tool_calls").is_some_and(Value::is_array) => Ok(()),
        None => Err(format!("{at} has the role {role} but no `content`")),
        Some(other) => Err(format!("{at}: `content` is {}; text is expected", json_kind(other))),
    }
}

fn prompt(row: &Columns) -> Result<Content, String> {
    match content(row, "prompt")? {
        Content::Text(text) if text.is_empty() => {
            Err("`prompt` is empty; for text without a prompt use `text`".into())
        }
        other => Ok(other),
    }
}

fn answer(row: &Columns, name: &str) -> Result<Content, String> {
    let content = content(row, name)?;
    check_answer(name, &content)?;
    Ok(content)
}

/// Refuses an answer that says nothing: a model trained on it learns to be silent.
fn check_answer(name: &str, content: &Content) -> Result<(), String> {
    let blank = match content {
        Content::Text(text) => text.trim().is_empty(),
        Content::Messages(messages) => messages.last().is_none_or(is_silent),
    };
    if blank { Err(format!("`{name}` is empty: nothing but white space")) } else { Ok(()) }
}

fn is_silent(message: &Value) -> bool {
    let calls = message.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
    let says = match message.get("content") {
        Some(Value::String(text)) => !text.trim().is_empty(),
        Some(Value::Array(parts)) => parts
            .iter()
            .any(|part| part.get("text").and_then(Value::as_str).is_none_or(|t| !t.trim().is_empty())),
        _ => false,
    };
    !calls && !says
}

/// Reads thumbs up or down, which the rows of this layout must have.
fn label(row: &Columns) -> Result<Option<bool>, String> {
    match thumbs(row) {
        Some(label) => Ok(Some(label)),
        None => match field(row, "label")? {
            Value::String(word) => Err(format!("`label` is {word:?}; true or false is expected")),
            Value::Number(n) => Err(format!("`label` is {n}; true or false, 1 or 0 is expected")),
            other => Err(format!("`label` is {}; true or false is expected", json_kind(other))),
        },
    }
}

fn number(value: &Value, name: &str) -> Result<f64, String> {
    value
        .as_f64()
        .filter(|x| x.is_finite())
        .ok_or_else(|| format!("{name} is {}; a finite number is expected", json_kind(value)))
}

fn ranking(row: &Columns) -> Result<Vec<Answer>, String> {
    let list = |name: &str| match field(row, name)? {
        Value::Array(list) => Ok(list.clone()),
        other => Err(format!("`{name}` is {}; a list is expected", json_kind(other))),
    };
    let (completions, ranks) = (list("completions")?, list("ranks")?);
    if completions.len() != ranks.len() || completions.len() < 2 {
        return Err(format!(
            "{} `completions` and {} `ranks`; two or more of each, in equal number, are expected",
            completions.len(),
            ranks.len()
        ));
    }
    let one = |(i, (completion, rank)): (usize, (&Value, &Value))| {
        let name = format!("completions[{i}]");
        let content = content_of(completion, &name)?;
        check_answer(&name, &content)?;
        let rank = rank.as_u64().and_then(|r| u32::try_from(r).ok()).filter(|r| *r >= 1);
        let rank =
            rank.ok_or_else(|| format!("`ranks[{i}]` must be a whole number of at least 1 (1 is best)"))?;
        Ok(Answer { rank: Some(rank), ..Answer::new("completion", content) })
    };
    completions.iter().zip(&ranks).enumerate().map(one).collect()
}

/// Reads answers that were sampled: they may be empty, and are known to have ended or not. Text that answers messages
/// (`chat`) is an assistant's turn.
fn sampled(row: &Columns, chat: bool) -> Result<Vec<Answer>, String> {
    let Value::Array(list) = field(row, "completions")? else {
        return Err("`completions` is not a list".into());
    };
    if list.is_empty() {
        return Err("`completions` is an empty list".into());
    }
    let one = |(i, value): (usize, &Value)| {
        let name = format!("completions[{i}]");
        let (value, ended) = match value {
            Value::Object(fields) => {
                let text = fields.get("text").ok_or_else(|| format!("`{name}` has no `text`"))?;
                (text, fields.get("finish_reason").and_then(Value::as_str))
            }
            other => (other, None),
        };
        let finish_reason = match ended {
            Some("stop") => Some(FinishReason::Stop),
            Some("length") => Some(FinishReason::Length),
            _ => None,
        };
        let content = turn(content_of(value, &name)?, chat);
        Ok(Answer { finish_reason, ..Answer::new("completion", content) })
    };
    list.iter().enumerate().map(one).collect()
}

/// Reads the tools of a row: a list, or JSON text of one (nested columns are often stored like that).
fn tools(row: &Columns) -> Result<Option<Value>, String> {
    match row.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(Value::Array(list)) => Ok(Some(Value::Array(list))),
            _ => Err("`tools` is text but not a JSON list".into()),
        },
        Some(list @ Value::Array(_)) => Ok(Some(list.clone())),
        Some(other) => Err(format!("`tools` is {}; a list is expected", json_kind(other))),
    }
}

/// Reads the variables of a row for the template.
fn template_kwargs(row: &Columns) -> Columns {
    match row.get("chat_template_kwargs") {
        Some(Value::Object(map)) => map.clone(),
        _ => Columns::new(),
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Makes text an assistant's turn where turns are written by a template.
fn turn(content: Content, chat: bool) -> Content {
    match content {
        Content::Text(text) if chat => Content::Messages(vec![message("assistant", &text)]),
        other => other,
    }
}

fn alpaca_prompt(row: &Columns, chat: bool) -> Result<Content, String> {
    let Value::String(instruction) = field(row, "instruction")? else {
        return Err("`instruction` is not text".into());
    };
    let input = row.get("input").and_then(Value::as_str).unwrap_or_default();
    if instruction.trim().is_empty() && input.trim().is_empty() {
        return Err("`instruction` and `input` are empty".into());
    }
    let text = if input.trim().is_empty() { instruction.clone() } else { format!("{instruction}\n{input}") };
    Ok(if chat { Content::Messages(vec![message("user", &text)]) } else { Content::Text(text + "\n\n") })
}

fn share_gpt(row: &Columns) -> Result<Content, String> {
    let Value::Array(turns) = field(row, "conversations")? else {
        return Err("`conversations` is not a list".into());
    };
    let system = row.get("system").and_then(Value::as_str).filter(|s| !s.is_empty());
    let mut messages: Vec<_> = system.map(|s| message("system", s)).into_iter().collect();
    for (i, turn) in turns.iter().enumerate() {
        messages.push(share_gpt_turn(turn, "conversations", i + 1)?);
    }
    if turns.is_empty() {
        Err("`conversations` is an empty list".into())
    } else {
        Ok(Content::Messages(messages))
    }
}

fn share_gpt_turn(turn: &Value, name: &str, number: usize) -> Result<Value, String> {
    if turn.get("role").is_some() {
        check_message(turn, number, name)?;
        return Ok(turn.clone());
    }
    let text = |key: &str| turn.get(key).and_then(Value::as_str);
    let (Some(from), Some(value)) = (text("from"), text("value")) else {
        return Err(format!("turn {number} of `{name}` must have `from` and `value`, both text"));
    };
    let role = match from {
        "human" => "user",
        "gpt" | "chatgpt" | "bot" | "model" | "function_call" => "assistant",
        "observation" | "function_response" => "tool",
        other => other,
    };
    Ok(message(role, value))
}

fn share_gpt_answer(row: &Columns, name: &str) -> Result<Content, String> {
    let messages = match field(row, name)? {
        Value::String(text) => vec![message("assistant", text)],
        turn @ Value::Object(_) => vec![share_gpt_turn(turn, name, 1)?],
        Value::Array(turns) => {
            turns.iter().enumerate().map(|(i, t)| share_gpt_turn(t, name, i + 1)).collect::<Result<_, _>>()?
        }
        other => return Err(format!("`{name}` is {}; a turn is expected", json_kind(other))),
    };
    let content = Content::Messages(messages);
    check_answer(name, &content)?;
    Ok(content)
}
