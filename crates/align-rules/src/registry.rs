//! Rules by name, as they are written on a command line: `rule:NAME` or `rule:NAME=ARGUMENT`.

use crate::{Contains, Error, Length, Matches, Result, Rule, RuleReward};

/// Whether a rule takes an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// It takes none.
    None,
    /// It may have one.
    Optional,
    /// It needs one.
    Required,
}

/// A rule of the registry.
#[derive(Debug, Clone, Copy)]
pub struct RuleEntry {
    /// Its name.
    pub name: &'static str,
    /// Whether it takes an argument.
    pub argument: Argument,
    /// What it gives, in one line.
    pub help: &'static str,
    /// Makes it; the argument is there exactly when `argument` allows it.
    make: fn(Option<&str>) -> Result<Box<dyn Rule>>,
}

/// The rules that there are, by name.
pub const RULES: &[RuleEntry] = &[
    RuleEntry {
        name: "contains",
        argument: Argument::Required,
        help: "1 where the text of the argument is in the completion, 0 elsewhere",
        make: |text| Ok(Box::new(Contains(text.unwrap_or_default().to_owned()))),
    },
    RuleEntry {
        name: "length",
        argument: Argument::Optional,
        help: "the number of characters; with an argument N minus its distance from N",
        make: |target| Ok(Box::new(Length { target: target.map(count).transpose()? })),
    },
    RuleEntry {
        name: "regex",
        argument: Argument::Required,
        help: "1 where the expression of the argument matches in the completion, 0 elsewhere",
        make: |pattern| Ok(Box::new(Matches::new(pattern.unwrap_or_default())?)),
    },
];

fn count(text: &str) -> Result<usize> {
    text.trim().parse().map_err(|_| Error::Argument {
        rule: "length".into(),
        why: format!("`{text}` is no number of characters"),
    })
}

/// Makes the rule that a text names: `rule:NAME` or `rule:NAME=ARGUMENT`, the argument being all behind the first `=`.
///
/// ```
/// use align_types::Reward;
///
/// assert_eq!(align_rules::rule("rule:regex=^[0-9]+$")?.name(), "rule:regex=^[0-9]+$");
/// assert!(align_rules::rule("rule:lenght").is_err());
/// # Ok::<(), align_rules::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnknownRule`]; [`Error::Argument`] for one that is missing, too many, or does not fit.
pub fn rule(text: &str) -> Result<RuleReward> {
    let unknown = |name: &str| Error::UnknownRule {
        name: name.to_owned(),
        known: RULES.iter().map(|entry| format!("rule:{}", entry.name)).collect::<Vec<_>>().join(", "),
    };
    let named = text.strip_prefix("rule:").ok_or_else(|| unknown(text))?;
    let (name, argument) = match named.split_once('=') {
        Some((name, argument)) => (name, Some(argument)),
        None => (named, None),
    };
    let entry = RULES.iter().find(|entry| entry.name == name).ok_or_else(|| unknown(text))?;
    let wrong = |why: &str| Error::Argument { rule: name.to_owned(), why: why.to_owned() };
    match (entry.argument, argument) {
        (Argument::None, Some(_)) => Err(wrong("it takes no argument")),
        (Argument::Required, None | Some("")) => Err(wrong("it needs an argument: rule:NAME=ARGUMENT")),
        (Argument::Optional, Some("")) => Err(wrong("the argument behind = is empty")),
        _ => Ok(RuleReward::new(text, (entry.make)(argument)?)),
    }
}
