//! Chat templates: Jinja as `transformers` runs it.

use std::{ops::Range, path::Path};

use align_types::Columns;
use minijinja::{Environment, ErrorKind, State, Value, syntax::SyntaxConfig, value::Kwargs};
use serde_json::Value as Json;

use crate::{Error, Result, pyjson, strftime, tokenizer::read_json};

/// Marks in the output where a `{% generation %}` block begins and ends. They are Unicode noncharacters, which
/// text must not contain.
const BEGIN: char = '\u{fdd0}';
const END: char = '\u{fdd1}';

/// What a conversation is rendered with, beside its messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderOptions {
    /// Ends the text with the header of an assistant's turn.
    pub add_generation_prompt: bool,
    /// The tools that the template describes to the model: a list of JSON schemas.
    pub tools: Option<Json>,
    /// More variables (`enable_thinking`, ...).
    pub variables: Columns,
}

/// A conversation as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text; it contains the special tokens, so it is tokenised without adding any.
    pub text: String,
    /// The parts (in bytes) that the template marks with `{% generation %}`: what the assistant wrote. Empty
    /// where the template marks nothing.
    pub generated: Vec<Range<usize>>,
}

/// A chat template, rendered as `transformers` 5 does with Jinja2.
///
/// ```
/// # fn main() -> align_data::Result<()> {
/// use align_data::{ChatTemplate, RenderOptions};
/// let source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}{% endfor %}";
/// let tokens = [("eos_token".to_owned(), "</s>".to_owned())];
/// let template = ChatTemplate::new(source, tokens)?;
/// let messages = [serde_json::json!({"role": "user", "content": " Hi! "})];
/// assert_eq!(template.render(&messages, &RenderOptions::default())?.text, "<user>Hi!</s>");
/// # Ok(())
/// # }
/// ```
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    special_tokens: Columns,
    marks: bool,
    has_tool_use: bool,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Parses a template; `special_tokens` are the variables `bos_token`, `eos_token` and so on.
    ///
    /// # Errors
    /// [`Error::Template`] with the line where the syntax is wrong.
    pub fn new(source: &str, special_tokens: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        Self::with_tool_use(source, None, special_tokens)
    }

    fn with_tool_use(
        source: &str,
        tool_use: Option<&str>,
        special_tokens: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let mut env = environment()?;
        env.add_template_owned("chat", mark_generation(source)).map_err(|e| template_error(&e))?;
        if let Some(tool_use) = tool_use {
            env.add_template_owned("tool_use", mark_generation(tool_use)).map_err(|e| template_error(&e))?;
        }
        let special_tokens =
            special_tokens.into_iter().map(|(name, text)| (name, Json::String(text))).collect();
        let marks = source.contains("endgeneration");
        Ok(Self { env, source: source.to_owned(), special_tokens, marks, has_tool_use: tool_use.is_some() })
    }

    /// Reads the template of a model folder: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json` (a text, or a list of named ones of which `default` is taken). `None` where
    /// there is none.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, a template with wrong syntax.
    pub fn from_folder(
        dir: &Path,
        special_tokens: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Option<Self>> {
        let path = dir.join("chat_template.jinja");
        if path.is_file() {
            let source = std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
            return Self::new(&source, special_tokens).map(Some);
        }
        let config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
        match config.get("chat_template") {
            Some(Json::String(source)) => Self::new(source, special_tokens).map(Some),
            Some(Json::Array(named)) => {
                let find = |wanted: &str| {
                    let entry = named.iter().find(|t| t.get("name").and_then(Json::as_str) == Some(wanted));
                    entry.and_then(|t| t.get("template")).and_then(Json::as_str)
                };
                match find("default") {
                    Some(source) => Self::with_tool_use(source, find("tool_use"), special_tokens).map(Some),
                    None => Err(Error::Template {
                        line: None,
                        message: "tokenizer_config.json has several templates and none is named default"
                            .into(),
                    }),
                }
            }
            _ => Ok(None),
        }
    }

    /// Returns the template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Says whether the template marks what the assistant wrote with `{% generation %}` blocks.
    pub(crate) fn marks(&self) -> bool {
        self.marks
    }

    /// Renders a conversation.
    ///
    /// As `transformers` does, fields of a message that are null are left out, and reasoning is found under
    /// `reasoning_content` whichever of its three names the message uses.
    ///
    /// # Errors
    /// [`Error::Template`]: an empty conversation, or what the template itself raises, with the template's line.
    pub fn render(&self, messages: &[Json], options: &RenderOptions) -> Result<Rendered> {
        let fail = |message: &str| Error::Template { line: None, message: message.into() };
        if messages.is_empty() {
            return Err(fail("the conversation is empty"));
        }
        let messages: Vec<Json> = messages.iter().map(normalise).collect();
        if self.marks && messages.iter().any(contains_mark) {
            return Err(fail("a message contains U+FDD0 or U+FDD1, which are not characters"));
        }
        let mut context = self.special_tokens.clone();
        context.extend(options.variables.clone());
        context.insert("messages".into(), Json::Array(messages));
        context.insert("tools".into(), options.tools.clone().unwrap_or(Json::Null));
        context.insert("documents".into(), Json::Null);
        context.insert("add_generation_prompt".into(), Json::Bool(options.add_generation_prompt));
        let name = if self.has_tool_use && options.tools.is_some() { "tool_use" } else { "chat" };
        let render = || self.env.get_template(name)?.render(minijinja::value::Serde(&context));
        let text = render().map_err(|e| template_error(&e))?;
        // Without marks of our own, the two characters belong to the text.
        Ok(if self.marks { spans(&text) } else { Rendered { text, generated: vec![] } })
    }
}

fn environment() -> Result<Environment<'static>> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(syntax.map_err(|e| template_error(&e))?);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_filter("tojson", tojson);
    env.add_filter("_generation", |text: String| format!("{BEGIN}{text}{END}"));
    env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", |format: String| strftime::now(&format));
    // Python's sequences are all that have a length and an index: text and mappings too.
    env.add_test("sequence", |value: &Value| value.is_undefined() || value.len().is_some());
    env.add_test("iterable", |value: &Value| value.as_str().is_some() || value.try_iter().is_ok());
    Ok(env)
}

/// Writes JSON as `json.dumps` does by default, without ASCII or HTML escapes.
fn tojson(_: &State, value: &Value, indent: Option<Value>, args: Kwargs) -> Result<Value, minijinja::Error> {
    let wrong = |e: String| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    let indent = match indent {
        Some(indent) => Some(indent),
        None => args.get::<Option<Value>>("indent")?,
    };
    let indent = indent.filter(|v| !v.is_none()).map(usize::try_from).transpose()?;
    let separators: Option<Vec<String>> = args.get("separators")?;
    let separators = match separators.as_deref() {
        None => None,
        Some([item, key]) => Some((item.as_str(), key.as_str())),
        Some(_) => return Err(wrong("separators must be two texts".into())),
    };
    let style = pyjson::Style {
        indent,
        separators,
        sort_keys: args.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    args.assert_all_used()?;
    let json = serde_json::to_value(value).map_err(|e| wrong(e.to_string()))?;
    Ok(Value::from_safe_string(pyjson::write(&json, &style)))
}

/// Turns `{% generation %}` blocks, which this Jinja does not know, into filter blocks that mark their output.
/// The signs that trim white space stay as they are, so the rest of the output does not change.
fn mark_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let name = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        match name {
            "generation" => out.push_str(&tag.replace("generation", "filter _generation")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endfilter")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Takes the marks out of the output and remembers where they were.
fn spans(marked: &str) -> Rendered {
    let mut rendered = Rendered { text: String::with_capacity(marked.len()), generated: vec![] };
    let mut start = 0;
    for c in marked.chars() {
        match c {
            BEGIN => start = rendered.text.len(),
            END => rendered.generated.push(start..rendered.text.len()),
            other => rendered.text.push(other),
        }
    }
    rendered
}

/// The names under which a message's reasoning is found; templates read the first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

fn normalise(message: &Json) -> Json {
    let Json::Object(fields) = message else { return message.clone() };
    let mut fields = fields.clone();
    fields.retain(|_, value| !value.is_null());
    if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".into(), reasoning);
    }
    Json::Object(fields)
}

fn contains_mark(value: &Json) -> bool {
    match value {
        Json::String(text) => text.contains([BEGIN, END]),
        Json::Array(list) => list.iter().any(contains_mark),
        Json::Object(map) => map.values().any(contains_mark),
        _ => false,
    }
}

fn template_error(error: &minijinja::Error) -> Error {
    let kind = error.kind().to_string();
    let message = match error.detail() {
        Some(detail) if error.kind() == ErrorKind::InvalidOperation => detail.to_owned(),
        Some(detail) => format!("{kind}: {detail}"),
        None => kind,
    };
    Error::Template { line: error.line(), message }
}
