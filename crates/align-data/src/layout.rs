//! What the first usable row of a file decides for all of them.

use std::path::Path;

use align_types::{Columns, Source};

use crate::{DataConfig, Error, Format, Kind, Result, format::Misfit, tokenise::Encoder};

/// The layout of a file's rows and what they are read as.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub format: Format,
    /// What the rows are read as.
    pub kind: Kind,
    pub conversational: Option<bool>,
    /// The row that decided.
    pub decided_by: usize,
}

impl Layout {
    /// Decides what rows of a layout are read as.
    pub(crate) fn decide(format: Format, row: usize, wanted: &[Kind], config: &DataConfig) -> Self {
        let own = format.kind();
        let wants = |kind| wanted.contains(&kind);
        let kind = match own {
            _ if wants(own) => own,
            Kind::Preference if wants(Kind::PromptCompletion) && config.sft_on_chosen => {
                Kind::PromptCompletion
            }
            Kind::Preference if wants(Kind::Unpaired) => Kind::Unpaired,
            Kind::Preference if wants(Kind::Ranking) => Kind::Ranking,
            Kind::Scored if wants(Kind::PromptCompletion) => Kind::PromptCompletion,
            _ if wants(Kind::Prompt) && own != Kind::Language => Kind::Prompt,
            _ => own,
        };
        Self { format, kind, conversational: None, decided_by: row }
    }

    /// Refuses rows that are not wanted, and messages where nothing can write turns.
    pub(crate) fn check(&self, path: &Path, wanted: &[Kind], chat: bool) -> Result<()> {
        let row = Source { file: path.into(), row: self.decided_by };
        if !wanted.contains(&self.kind) {
            let names: Vec<_> = wanted.iter().map(|kind| kind.describe()).collect();
            let chosen = match self.kind {
                Kind::Preference if wanted.contains(&Kind::PromptCompletion) => {
                    "; set sft-on-chosen to train on the chosen answers"
                }
                _ => "",
            };
            return Err(Error::WrongFormat {
                row,
                found: format!("the rows are {}", self.format.describe()),
                hint: format!("expected {}{chosen}", names.join(" or ")),
            });
        }
        if self.conversational == Some(true) && !chat {
            return Err(Error::WrongFormat {
                row,
                found: "the rows hold message lists, and the model has no chat template".into(),
                hint: "put a chat_template.jinja into the model's folder, or give rows of plain text".into(),
            });
        }
        Ok(())
    }

    /// Says how the rows are read where that is not plain from their columns.
    pub(crate) fn notices(&self, encoder: &Encoder<'_>) -> Vec<String> {
        let mut notices: Vec<String> = vec![];
        match self.format {
            Format::Alpaca | Format::AlpacaPreference if encoder.template.is_some() => notices.push(
                "Alpaca rows are read as a user's turn (instruction, line end, input) and an assistant's turn".into(),
            ),
            Format::Alpaca | Format::AlpacaPreference => notices.push(
                "Alpaca rows are read as plain text: instruction, line end, input, empty line, answer".into(),
            ),
            Format::ShareGpt | Format::ShareGptPreference => notices.push(
                "ShareGPT turns are read as messages: human is user, gpt is assistant, observation is tool".into(),
            ),
            _ => {}
        }
        let read_as = match self.kind {
            kind if kind == self.format.kind() => None,
            Kind::PromptCompletion => Some("prompt and completion"),
            Kind::Unpaired => Some("a good and a bad answer each"),
            Kind::Ranking => Some("rankings of two"),
            _ => None,
        };
        if let Some(read_as) = read_as {
            notices.push(format!("{} rows are read as {read_as}", self.format.describe()));
        }
        if encoder.tokenizer.eos_token().is_none() {
            notices.push("the tokenizer names no end-of-sequence token, so texts are not ended".into());
        }
        notices
    }

    /// Says how a row differs from the layout of its file.
    pub(crate) fn differs(&self, found: Result<Format, Misfit>, row: &Columns) -> String {
        let (required, columns) = self.format.columns();
        let missing: Vec<_> = columns
            .iter()
            .take(required)
            .filter(|name| !row.contains_key(**name))
            .map(|c| format!("`{c}`"))
            .collect();
        let first = format!("row {} is {}", self.decided_by, self.format.describe());
        match found {
            Ok(format) if missing.is_empty() => format!("this row is {}, {first}", format.describe()),
            Ok(format) => {
                format!("{} is missing: this row is {}, {first}", missing.join(" and "), format.describe())
            }
            Err(misfit) => format!("{} is missing: {}, {first}", missing.join(" and "), misfit.found()),
        }
    }
}
