use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, format::nearest};

/// The columns that `columns` can map others to.
pub(crate) const COLUMNS: &[&str] = &[
    "prompt",
    "completion",
    "chosen",
    "rejected",
    "text",
    "messages",
    "label",
    "score",
    "completions",
    "ranks",
    "tools",
    "conversations",
    "instruction",
    "input",
    "output",
    "ref_rewards",
    "margin",
    "preference",
];

/// Which tokens of a row over the limit are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Truncation {
    /// The first tokens of prompt and answer; the end of the answer is cut.
    #[default]
    #[serde(alias = "keep_start")]
    KeepStart,
    /// The last tokens; the beginning of the prompt is cut.
    #[serde(alias = "keep_end")]
    KeepEnd,
    /// None: a row over the limit is an error.
    Error,
    /// None: a row over the limit is dropped and counted.
    Drop,
}

/// What happens to rows that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum BadRows {
    /// Nothing is returned; the first ten are shown and all are counted.
    #[default]
    Refuse,
    /// They are dropped and counted.
    Skip,
}

/// Which tokens of a row are trained on.
///
/// Of a row with a prompt of its own these are always tokens of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum TrainOn {
    /// All: of a text or conversation every token but the first, which nothing predicts; of a prompt with its
    /// answer the answer.
    #[default]
    All,
    /// Those that the assistant wrote: what the chat template marks with `{% generation %}`, or, where it marks
    /// nothing, what each of the assistant's turns adds to the conversation before it.
    Assistant,
    /// Those of the last turn, which must be the assistant's; what came before is the prompt.
    #[serde(alias = "last_answer")]
    LastAnswer,
}

/// How files become token ids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Most tokens of a prompt with one of its answers; `None` for no bound. At least 2.
    pub max_length: Option<usize>,
    /// Most tokens of a prompt; of a longer one the last tokens are kept. `None` for no bound.
    pub max_prompt_length: Option<usize>,
    /// Which tokens of a row over `max_length` are kept.
    pub truncation: Truncation,
    /// What happens to rows that cannot be used.
    pub bad_rows: BadRows,
    /// Names of columns: the name this crate reads -> the name in the file.
    pub columns: BTreeMap<String, String>,
    /// Lets [`load_language`](crate::load_language) read preference rows and train on the chosen answer.
    pub sft_on_chosen: bool,
    /// Which tokens are trained on.
    pub train_on: TrainOn,
    /// Makes a ranking whose answers all have the same rank a bad row, for whoever compares nothing else.
    pub all_ties_are_bad: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            max_length: Some(1024),
            max_prompt_length: None,
            truncation: Truncation::KeepStart,
            bad_rows: BadRows::Refuse,
            columns: BTreeMap::new(),
            sft_on_chosen: false,
            train_on: TrainOn::All,
            all_ties_are_bad: false,
        }
    }
}

impl DataConfig {
    /// Checks ranges and column names.
    ///
    /// # Errors
    /// [`Error::Config`] names the first value that is of no use.
    pub fn validate(&self) -> Result<()> {
        let at_least = |key: &str, value: Option<usize>, least: usize| match value {
            Some(n) if n < least => Err(Error::Config {
                key: key.into(),
                value: n.to_string(),
                expected: format!("at least {least}"),
            }),
            _ => Ok(()),
        };
        at_least("max-length", self.max_length, 2)?;
        at_least("max-prompt-length", self.max_prompt_length, 1)?;
        match self.columns.iter().find(|(name, _)| !COLUMNS.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, column)) => Err(Error::Config {
                key: "columns".into(),
                value: format!("{name}={column}"),
                expected: match nearest(name, COLUMNS.iter().copied()) {
                    Some(known) => {
                        format!("{name} is not a column that rows are made of; did you mean {known}?")
                    }
                    None => format!("the name before = is one of {}", COLUMNS.join(", ")),
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_of_no_use_are_named() {
        DataConfig::default().validate().unwrap();
        assert!(DataConfig { max_length: Some(1), ..Default::default() }.validate().is_err());
        assert!(DataConfig { max_prompt_length: Some(0), ..Default::default() }.validate().is_err());
        let columns = BTreeMap::from([("promt".to_owned(), "question".to_owned())]);
        let error = DataConfig { columns, ..Default::default() }.validate().unwrap_err().to_string();
        assert!(error.contains("did you mean prompt?"), "{error}");
    }

    #[test]
    fn the_names_of_other_tools_are_read() {
        let config: DataConfig =
            serde_json::from_str(r#"{"truncation":"keep_end","bad_rows":"skip"}"#).unwrap();
        assert_eq!((config.truncation, config.bad_rows), (Truncation::KeepEnd, BadRows::Skip));
        assert!(serde_json::from_str::<DataConfig>(r#"{"max_lenght": 3}"#).is_err());
    }
}
