//! Rewards by name, as they are written on a command line: `rule:NAME` or `rule:NAME=ARGUMENT`.

use align_types::Reward;

use crate::{
    Contains, Distinct, EndsWith, Error, ExactMatch, Finished, Format, Grams, Json, Length, Matches,
    MathAnswer, OneOf, Overlong, Repetition, Result, Rule, RuleReward, StartsWith, Tags, Template, Words,
};

/// The tags that reasoning models are commonly told to write.
const TAGS: &str = "think,answer";

/// The column of a reference answer unless told otherwise.
const COLUMN: &str = "answer";

/// Whether a rule takes an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// It takes none.
    None,
    /// It may have one, written so in its help.
    Optional(&'static str),
    /// It needs one, written so in its help.
    Required(&'static str),
}

/// A rule of this crate.
#[derive(Debug, Clone, Copy)]
pub struct RuleEntry {
    /// Its name, with `rule:` before it.
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
        name: "rule:contains",
        argument: Argument::Required("TEXT"),
        help: "1 where TEXT is in the completion, 0 elsewhere",
        make: |text| Ok(Box::new(Contains(owned(text)))),
    },
    RuleEntry {
        name: "rule:distinct",
        argument: Argument::Optional("N[,characters]"),
        help: "share of different n-grams of N words (3), above 0 to 1; abstains where there is none",
        make: |n| Ok(Box::new(Distinct(grams(n)?))),
    },
    RuleEntry {
        name: "rule:ends-with",
        argument: Argument::Required("TEXT"),
        help: "1 where the completion ends with TEXT, white space aside, 0 elsewhere",
        make: |text| Ok(Box::new(EndsWith(owned(text)))),
    },
    RuleEntry {
        name: "rule:exact-match",
        argument: Argument::Optional("COLUMN"),
        help: "1 where the completion is the text of COLUMN (answer) or one of its list, white space aside, 0 elsewhere",
        make: |column| Ok(Box::new(ExactMatch { column: column.unwrap_or(COLUMN).to_owned() })),
    },
    RuleEntry {
        name: "rule:finished",
        argument: Argument::None,
        help: "1 where the completion ends as a sentence does, 0 elsewhere",
        make: |_| Ok(Box::new(Finished)),
    },
    RuleEntry {
        name: "rule:format",
        argument: Argument::Optional("TAG,TAG[,*]"),
        help: "1 where the completion is <TAG>..</TAG> of each (think,answer) once, in order, with white space alone \
               outside (* allows text behind them), 0 elsewhere",
        make: |tags| Ok(Box::new(Format(Template::parse(tags.unwrap_or(TAGS))?))),
    },
    RuleEntry {
        name: "rule:json",
        argument: Argument::Optional("KEY,KEY"),
        help: "1 where the completion is JSON, with keys an object that has them, 0 elsewhere",
        make: |keys| Ok(Box::new(Json { keys: keys.map(list).transpose()?.unwrap_or_default() })),
    },
    RuleEntry {
        name: "rule:length",
        argument: Argument::Optional("N"),
        help: "number of characters; with N minus its distance from N",
        make: |target| Ok(Box::new(Length { target: target.map(count).transpose()? })),
    },
    RuleEntry {
        name: "rule:math-answer",
        argument: Argument::Optional("COLUMN"),
        help: "1 where the final answer (\\boxed{}, ####, or the last number) is that of COLUMN (answer), 0 elsewhere; \
               abstains where COLUMN has none",
        make: |column| Ok(Box::new(MathAnswer::new(column.unwrap_or(COLUMN))?)),
    },
    RuleEntry {
        name: "rule:one-of",
        argument: Argument::Required("TEXT,TEXT"),
        help: "1 where the completion is one of the texts, white space aside, 0 elsewhere",
        make: |texts| Ok(Box::new(OneOf(list(texts.unwrap_or_default())?))),
    },
    RuleEntry {
        name: "rule:overlong",
        argument: Argument::Required("MOST,MARGIN"),
        help: "0 up to MOST - MARGIN characters, falling to -1 at MOST and beyond",
        make: |numbers| Ok(Box::new(overlong(numbers.unwrap_or_default())?)),
    },
    RuleEntry {
        name: "rule:regex",
        argument: Argument::Required("PATTERN"),
        help: "1 where PATTERN matches in the completion, 0 elsewhere",
        make: |pattern| Ok(Box::new(Matches::new(pattern.unwrap_or_default())?)),
    },
    RuleEntry {
        name: "rule:repetition",
        argument: Argument::Optional("N[,characters]"),
        help: "minus the share of repeated n-grams of N words (3), from -1 to 0",
        make: |n| Ok(Box::new(Repetition(grams(n)?))),
    },
    RuleEntry {
        name: "rule:starts-with",
        argument: Argument::Required("TEXT"),
        help: "1 where the completion begins with TEXT, white space aside, 0 elsewhere",
        make: |text| Ok(Box::new(StartsWith(owned(text)))),
    },
    RuleEntry {
        name: "rule:tags",
        argument: Argument::Optional("TAG,TAG"),
        help: "share of the opening and closing tags (think,answer) that stand there exactly once, 0 to 1",
        make: |tags| Ok(Box::new(Tags(tags_alone(tags.unwrap_or(TAGS))?))),
    },
    RuleEntry {
        name: "rule:words",
        argument: Argument::Optional("N"),
        help: "number of words; with N minus its distance from N",
        make: |target| Ok(Box::new(Words { target: target.map(count).transpose()? })),
    },
];

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
    let names = RULES.iter().map(|entry| (entry.name, entry.argument));
    let (index, argument) = find(text, names)?;
    let entry = RULES.get(index).ok_or_else(|| unknown(text, &[]))?;
    let made = (entry.make)(argument).map_err(|error| named(entry.name, error))?;
    Ok(RuleReward::new(text, made))
}

/// Makes a reward from its argument.
type Make = Box<dyn Fn(Option<&str>) -> Result<Box<dyn Reward>> + Send + Sync>;

/// An entry of a registry.
struct Entry {
    name: String,
    argument: Argument,
    help: String,
    make: Make,
}

/// Rewards by name: the rules of this crate, and what other crates add.
///
/// ```
/// use align_rules::{Argument, Registry};
/// use align_types::{Columns, RewardFn, RewardItem, score};
///
/// let mut registry = Registry::new();
/// registry.add("judge:polite", Argument::None, "1 for thanks", |_| {
///     Ok(Box::new(RewardFn::new("judge:polite", |item: &RewardItem<'_>| {
///         f64::from(u8::from(item.completion.contains("thank")))
///     })))
/// })?;
/// let columns = Columns::new();
/// let item = RewardItem { prompt: "", messages: None, completion: "No, thank you", columns: &columns, source: None };
/// for name in ["judge:polite", "rule:words=3"] {
///     assert!(score(&mut registry.reward(name)?, &[item]).is_ok());
/// }
/// assert!(registry.reward("judge:polit").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Registry {
    entries: Vec<Entry>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.name)).finish()
    }
}

impl Default for Registry {
    fn default() -> Self {
        let entry = |rule: &'static RuleEntry| Entry {
            name: rule.name.to_owned(),
            argument: rule.argument,
            help: rule.help.to_owned(),
            make: Box::new(|argument| {
                let made = (rule.make)(argument).map_err(|error| named(rule.name, error))?;
                let name =
                    argument.map_or_else(|| rule.name.to_owned(), |text| format!("{}={text}", rule.name));
                Ok(Box::new(RuleReward::new(name, made)))
            }),
        };
        Self { entries: RULES.iter().map(entry).collect() }
    }
}

impl Registry {
    /// Begins with the rules of this crate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a reward under a name of the form `KIND:NAME`.
    ///
    /// # Errors
    /// [`Error::Name`] for a name of another form, or one that is there already.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        argument: Argument,
        help: impl Into<String>,
        make: impl Fn(Option<&str>) -> Result<Box<dyn Reward>> + Send + Sync + 'static,
    ) -> Result<()> {
        let name = name.into();
        let wrong = |why: &str| Err(Error::Name { name: name.clone(), why: why.to_owned() });
        let form = name.split_once(':').is_some_and(|(kind, rest)| !kind.is_empty() && !rest.is_empty());
        if !form || name.contains(['=', ' ']) {
            return wrong("expected KIND:NAME without = and spaces");
        }
        if self.entries.iter().any(|entry| entry.name == name) {
            return wrong("there is one of that name");
        }
        self.entries.push(Entry { name, argument, help: help.into(), make: Box::new(make) });
        Ok(())
    }

    /// Makes the reward that a text names: `KIND:NAME` or `KIND:NAME=ARGUMENT`.
    ///
    /// # Errors
    /// As [`rule`]; what the reward itself says.
    pub fn reward(&self, text: &str) -> Result<Box<dyn Reward>> {
        let names = self.entries.iter().map(|entry| (entry.name.as_str(), entry.argument));
        let (index, argument) = find(text, names)?;
        let entry = self.entries.get(index).ok_or_else(|| unknown(text, &[]))?;
        (entry.make)(argument)
    }

    /// Lists the rewards: how each is written, and what it gives.
    pub fn help(&self) -> impl Iterator<Item = (String, &str)> {
        self.entries.iter().map(|entry| (written(&entry.name, entry.argument), entry.help.as_str()))
    }
}

/// Writes a name with its argument.
fn written(name: &str, argument: Argument) -> String {
    match argument {
        Argument::None => name.to_owned(),
        Argument::Optional(form) => format!("{name}[={form}]"),
        Argument::Required(form) => format!("{name}={form}"),
    }
}

/// Finds the name that a text begins with, and its argument.
fn find<'a, 'n>(
    text: &'a str,
    names: impl Iterator<Item = (&'n str, Argument)>,
) -> Result<(usize, Option<&'a str>)> {
    let (name, argument) = match text.split_once('=') {
        Some((name, argument)) => (name, Some(argument)),
        None => (text, None),
    };
    let names: Vec<(&str, Argument)> = names.collect();
    let index = names.iter().position(|(known, _)| *known == name);
    let Some((index, takes)) = index.and_then(|index| Some((index, names.get(index)?.1))) else {
        return Err(unknown(name, &names.iter().map(|(name, _)| *name).collect::<Vec<_>>()));
    };
    let wrong = |why: &str| Error::Argument { rule: name.to_owned(), why: why.to_owned() };
    match (takes, argument) {
        (Argument::None, Some(_)) => Err(wrong("it takes no argument")),
        (Argument::Required(form), None | Some("")) => {
            Err(wrong(&format!("it needs an argument: {name}={form}")))
        }
        (Argument::Optional(_), Some("")) => Err(wrong("the argument behind = is empty")),
        _ => Ok((index, argument)),
    }
}

/// Says that there is no such name, and which may have been meant: one that differs in a few letters or lacks its kind.
fn unknown(name: &str, names: &[&str]) -> Error {
    let distance = |known: &str| {
        let bare = known.split_once(':').map_or(known, |(_, bare)| bare);
        strsim::damerau_levenshtein(name, known).min(strsim::damerau_levenshtein(name, bare))
    };
    let nearest = names.iter().map(|known| (distance(known), *known)).min();
    let meant = nearest.filter(|(distance, _)| *distance <= 2).map(|(_, known)| known.to_owned());
    Error::UnknownRule { name: name.to_owned(), meant, known: names.join(", ") }
}

/// Puts the name under which a rule was asked for into what it says about its argument.
fn named(name: &str, error: Error) -> Error {
    match error {
        Error::Argument { why, .. } => Error::Argument { rule: name.to_owned(), why },
        other => other,
    }
}

fn owned(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

/// Refuses an argument; who asked for the rule adds its name.
fn wrong<T>(why: String) -> Result<T> {
    Err(Error::Argument { rule: String::new(), why })
}

fn count(text: &str) -> Result<usize> {
    text.trim().parse().or_else(|_| wrong(format!("`{text}` is no number to count to")))
}

fn grams(text: Option<&str>) -> Result<Grams> {
    text.map_or_else(|| Ok(Grams::default()), Grams::parse)
}

fn list(text: &str) -> Result<Vec<String>> {
    let texts: Vec<String> = text.split(',').map(|text| text.trim().to_owned()).collect();
    if texts.iter().any(String::is_empty) {
        return wrong(format!("`{text}`: expected texts with a comma between them, none of them empty"));
    }
    Ok(texts)
}

/// Reads a template without a `*`, which would be ignored where only tags are counted.
fn tags_alone(text: &str) -> Result<Template> {
    if text.contains('*') {
        return wrong(format!(
            "`{text}`: tags are counted wherever they stand, with any text around them, so that * says nothing; leave it \
             out, or use rule:format"
        ));
    }
    Template::parse(text)
}

fn overlong(text: &str) -> Result<Overlong> {
    let numbers = text.split_once(',').and_then(|(most, margin)| {
        Some((most.trim().parse::<usize>().ok()?, margin.trim().parse::<usize>().ok()?))
    });
    match numbers {
        Some((most, margin)) if margin > 0 && margin <= most => Ok(Overlong { most, margin }),
        _ => wrong(format!("`{text}`: expected MOST,MARGIN in characters, MARGIN above 0 and at most MOST")),
    }
}
