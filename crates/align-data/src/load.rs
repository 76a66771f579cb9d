//! From files to prompt groups.

use std::path::{Path, PathBuf};

use align_types::{PromptGroup, RewardItem};

use crate::{
    ChatTemplate, DataConfig, DataReport, Error, Kind, Result, RowStore, Tokenizer, TrainOn,
    example::{Content, Example},
    loader::{Loader, Sink},
    store::StoreWriter,
    tokenise::{Encoded, Encoder},
};

/// Reads preference rows: `chosen` and `rejected` after one prompt.
///
/// # Errors
/// As [`load_rows`].
pub fn load_pairs(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Preference], tokenizer, template, config)
}

/// Reads rows for supervised fine-tuning: texts, conversations, and prompts with their completion.
///
/// A text has no prompt, but nothing can predict its first token: that becomes the prompt. With
/// [`DataConfig::sft_on_chosen`] preference rows are read too, as prompt and chosen answer.
///
/// # Errors
/// As [`load_rows`].
pub fn load_language(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Language, Kind::PromptCompletion], tokenizer, template, config)
}

/// Reads answers with thumbs up or down: [`Completion::label`](align_types::Completion) is set.
///
/// A preference row is read as one group of a good and a bad answer; its other columns stay.
///
/// # Errors
/// As [`load_rows`].
pub fn load_unpaired(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Unpaired], tokenizer, template, config)
}

/// Reads answers with a finite score: [`Completion::reward`](align_types::Completion) is set.
///
/// # Errors
/// As [`load_rows`].
pub fn load_scored(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Scored], tokenizer, template, config)
}

/// Reads several answers to each prompt with their ranks: [`Completion::rank`](align_types::Completion) is set,
/// 1 is best, equal ranks are ties.
///
/// A preference row is read as a ranking of two.
///
/// # Errors
/// As [`load_rows`].
pub fn load_rankings(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Ranking], tokenizer, template, config)
}

/// Reads prompts for sampling, from rows of every kind that has one; they have no completions, and all other
/// columns travel along.
///
/// # Errors
/// As [`load_rows`].
pub fn load_prompts(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    load_rows(files, &[Kind::Prompt], tokenizer, template, config)
}

/// A prompt as token ids, and as the data has it.
#[derive(Debug, Clone, PartialEq)]
pub struct TextPrompt {
    /// Its tokens, without completions, and the row's other columns.
    pub group: PromptGroup,
    /// The text; `None` for a conversation.
    pub text: Option<String>,
    /// The messages of a conversation.
    pub messages: Option<Vec<serde_json::Value>>,
}

/// Reads prompts as [`load_prompts`] does and keeps their text, for whoever reads the answers to them.
///
/// # Errors
/// As [`load_rows`].
pub fn load_text_prompts(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<TextPrompt>, DataReport)> {
    let mut kept = vec![];
    let report = load_into(&mut kept, files, &[Kind::Prompt], tokenizer, template, config)?;
    Ok((kept, report))
}

/// Makes token ids of a prompt with one answer, as a row with the two would be read: for a reward model with a tokenizer
/// and a template of its own. The answer may be empty.
///
/// ```
/// use align_data::{SpecialTokens, Tokenizer, encode_item};
/// use align_types::{Columns, RewardItem};
///
/// let special = SpecialTokens { eos: Some("</s>".into()), ..Default::default() };
/// let tokenizer = Tokenizer::train_byte_level(&["2 + 2 = 4"], 300, &special)?;
/// let columns = Columns::new();
/// let item = RewardItem { prompt: "2 + 2 =", messages: None, completion: " 4", columns: &columns, source: None };
/// let group = encode_item(&item, 0, &tokenizer, None)?;
/// assert_eq!(tokenizer.decode(&group.completions[0].token_ids, false)?, " 4</s>");
/// # Ok::<(), align_data::Error>(())
/// ```
///
/// # Errors
/// [`Error::Item`] names the item: a conversation without a template, an answer that adds no token.
pub fn encode_item(
    item: &RewardItem<'_>,
    index: usize,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
) -> Result<PromptGroup> {
    let encoder = Encoder { tokenizer, template, train_on: TrainOn::All };
    let why = |why| Error::Item { item: item.describe(index), why };
    let encoded = Example::of_item(item).and_then(|example| encoder.encode(example));
    encoded.map(|encoded| encoded.group).map_err(why)
}

/// Reads rows of the wanted kinds and tokenises them, in the files' order.
///
/// The layout of a file is that of its first row that has one; a later row of another layout is bad. Plain
/// text is tokenised with the tokenizer's own special-token rule, prompt and answer together, and ended with
/// EOS; messages are rendered by the template. Answers begin where the tokens of the prompt and of prompt with
/// answer diverge, at the smallest such place over the answers of the row.
///
/// # Errors
/// Files that cannot be read or are no rows, rows of another kind (with the nearest format and what is
/// missing), bad rows unless they are skipped, rows over the limit where nothing may be cut, no row left.
pub fn load_rows(
    files: &[PathBuf],
    wanted: &[Kind],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(Vec<PromptGroup>, DataReport)> {
    let mut kept = vec![];
    let report = load_into(&mut kept, files, wanted, tokenizer, template, config)?;
    Ok((kept, report))
}

/// Reads rows as [`load_rows`] does, into a file in `folder` instead of memory.
///
/// # Errors
/// As [`load_rows`], and a folder that cannot be written.
pub fn store_rows(
    folder: &Path,
    files: &[PathBuf],
    wanted: &[Kind],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<(RowStore, DataReport)> {
    let mut store = StoreWriter::new(folder)?;
    let report = load_into(&mut store, files, wanted, tokenizer, template, config)?;
    Ok((store.finish()?, report))
}

fn load_into(
    sink: &mut dyn Sink,
    files: &[PathBuf],
    wanted: &[Kind],
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    config: &DataConfig,
) -> Result<DataReport> {
    config.validate()?;
    if files.is_empty() {
        return Err(Error::Config {
            key: "data".into(),
            value: String::new(),
            expected: "at least one file".into(),
        });
    }
    let encoder = Encoder { tokenizer, template, train_on: config.train_on };
    let mut loader = Loader::new(encoder, wanted, config, sink);
    for file in files {
        loader.file(file)?;
    }
    loader.finish()
}

impl Sink for Vec<PromptGroup> {
    fn push(&mut self, row: Encoded) -> Result<()> {
        Vec::push(self, row.group);
        Ok(())
    }
}

impl Sink for Vec<TextPrompt> {
    fn push(&mut self, row: Encoded) -> Result<()> {
        let (text, messages) = match row.prompt {
            Some(Content::Text(text)) => (Some(text), None),
            Some(Content::Messages(messages)) => (None, Some(messages)),
            None => (None, None),
        };
        Vec::push(self, TextPrompt { group: row.group, text, messages });
        Ok(())
    }
}

impl Sink for StoreWriter {
    fn push(&mut self, row: Encoded) -> Result<()> {
        StoreWriter::push(self, &row.group)
    }
}
