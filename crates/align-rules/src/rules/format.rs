//! Rules of tags: `<think>…</think><answer>…</answer>`.

use align_types::RewardItem;

use super::{Rule, verdict};
use crate::{Error, Result};

/// The tags that a completion is to have, in order.
///
/// Written `think,answer` or `<think>..</think><answer>..</answer>`; a `*` behind the last one allows text to follow
/// it. A name begins with a letter and goes on with letters, digits, `_` and `-`.
///
/// ```
/// use align_rules::Template;
///
/// let short = Template::parse("think,answer")?;
/// assert_eq!(short, Template::parse("<think>..</think><answer>..</answer>")?);
/// assert!(Template::parse("think,think").is_err());
/// # Ok::<(), align_rules::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Opening and closing mark of each tag.
    tags: Vec<(String, String)>,
    free_end: bool,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`Error::Argument`] where it is none, or names a tag twice.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong =
            |why: &str| Error::Argument { rule: "rule:format".into(), why: format!("`{text}`: {why}") };
        let tags = text.trim().strip_suffix('*');
        let (list, free_end) = (tags.unwrap_or(text).trim().trim_end_matches(','), tags.is_some());
        let names = if list.contains('<') {
            in_brackets(list)
        } else {
            Some(list.split(',').map(str::trim).collect())
        };
        let names = names.ok_or_else(|| wrong("expected <NAME>..</NAME>, one behind the other"))?;
        for (index, name) in names.iter().enumerate() {
            if !is_name(name) {
                return Err(wrong(
                    "expected names of tags: think,answer or <think>..</think><answer>..</answer>",
                ));
            }
            if names.iter().take(index).any(|other| other == name) {
                return Err(wrong(&format!("{name} stands there twice")));
            }
        }
        let marks = |name: &&str| (format!("<{name}>"), format!("</{name}>"));
        Ok(Self { tags: names.iter().map(marks).collect(), free_end })
    }

    /// Says whether the first tag is opened by the prompt already, as templates of reasoning models do.
    fn opened_by(&self, prompt: &str) -> bool {
        self.tags.first().is_some_and(|(open, _)| prompt.trim_end().ends_with(open))
    }

    /// Marks that a completion is to have exactly once, and how often they occur.
    fn counts<'a>(&'a self, item: &'a RewardItem<'_>) -> impl Iterator<Item = usize> + 'a {
        let opened = self.opened_by(item.prompt);
        let count = |mark: &str| item.completion.matches(mark).count();
        self.tags.iter().enumerate().flat_map(move |(index, (open, close))| {
            [count(open) + usize::from(opened && index == 0), count(close)]
        })
    }

    fn fits(&self, item: &RewardItem<'_>) -> bool {
        if self.counts(item).any(|count| count != 1) {
            return false;
        }
        let mut rest = item.completion;
        let mut opened = self.opened_by(item.prompt);
        for (open, close) in &self.tags {
            let inside = if std::mem::take(&mut opened) {
                Some(rest)
            } else {
                rest.trim_start().strip_prefix(open.as_str())
            };
            let Some((_, behind)) = inside.and_then(|inside| inside.split_once(close.as_str())) else {
                return false;
            };
            rest = behind;
        }
        self.free_end || rest.trim().is_empty()
    }
}

/// Returns the names in `<a>..</a><b>..</b>`.
fn in_brackets(mut text: &str) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    while !text.is_empty() {
        let (name, inside) = text.strip_prefix('<')?.split_once('>')?;
        let (_, behind) = inside.split_once(&format!("</{name}>"))?;
        names.push(name);
        text = behind.trim_start();
    }
    Some(names)
}

fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic())
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// 1 where the completion has all tags of a template, each opened and closed exactly once, in order, with nothing but
/// white space outside of them; 0 elsewhere.
///
/// What stands inside a tag may be empty. Where the prompt ends with the first opening tag, the completion must not
/// open it again.
#[derive(Debug, Clone)]
pub struct Format(
    /// The tags.
    pub Template,
);

impl Rule for Format {
    fn score(&self, item: &RewardItem<'_>) -> std::result::Result<Option<f64>, String> {
        verdict(self.0.fits(item))
    }
}

/// The share of the opening and closing tags of a template that stand in the completion exactly once, wherever: from 0 to
/// 1, a slope that leads to [`Format`].
#[derive(Debug, Clone)]
pub struct Tags(
    /// The tags.
    pub Template,
);

impl Rule for Tags {
    fn score(&self, item: &RewardItem<'_>) -> std::result::Result<Option<f64>, String> {
        let right = self.0.counts(item).filter(|count| *count == 1).count();
        Ok(Some(right as f64 / (2 * self.0.tags.len()) as f64))
    }
}
