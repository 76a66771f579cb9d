use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream};
use align_data::{
    BadRows, ChatTemplate, DataConfig, RowReader, SpecialTokens, Tokenizer, hold_out, load_pairs,
};
use align_lm::{LlamaConfig, LoadOptions, Model, ModelConfig};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{PairsBudget, rule};
use crate::{Error, Result};

/// How a new tokenizer writes messages.
const TEMPLATE: &str = "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{% if message.role \
                        == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt \
                        %}<|assistant|>\n{% endif %}";
const END: &str = "<|end|>";
const ROLES: [&str; 3] = ["<|system|>", "<|user|>", "<|assistant|>"];

/// Rows of made data, as files in the folder of a run.
const TRAIN_FILE: &str = "train.jsonl";
const HELD_OUT_FILE: &str = "held_out.jsonl";

/// Where pairs and models come from.
#[derive(Debug, Clone)]
pub(super) struct PairSource {
    /// The user's files; pairs are made from the rule when there is none.
    pub data: Vec<PathBuf>,
    /// The user's model; a new one when there is none.
    pub model: Option<PathBuf>,
    pub budget: PairsBudget,
}

/// Training and held-out pairs as tokens.
#[derive(Debug)]
pub(super) struct Pairs {
    pub train: Vec<PromptGroup>,
    pub held_out: Vec<PromptGroup>,
    /// Pairs of the user that only the gold reward sees.
    pub gold: Vec<PromptGroup>,
    pub notes: Vec<String>,
}

impl PairSource {
    pub fn is_real(&self) -> bool {
        !self.data.is_empty()
    }

    /// Makes the rows of a seed, when they are made, and the tokenizer; called once per seed.
    pub fn prepare(&self, folder: &Path, seed: u64) -> Result<Tokenizer> {
        fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
        if !self.is_real() {
            let (train, held_out) = rule::make(seed, self.budget.rows, self.budget.held_out);
            write_rows(&folder.join(TRAIN_FILE), &train)?;
            write_rows(&folder.join(HELD_OUT_FILE), &held_out)?;
        }
        if let Some(model) = &self.model {
            return Ok(Tokenizer::from_folder(model)?);
        }
        let files = if self.is_real() { self.data.clone() } else { vec![folder.join(TRAIN_FILE)] };
        let mut texts = Vec::new();
        for file in &files {
            // A broken row is reported by the loader; the tokenizer only misses its text.
            for row in RowReader::open(file)? {
                row?.iter()
                    .for_each(|row| row.value.values().for_each(|value| collect_text(value, &mut texts)));
            }
        }
        let special = SpecialTokens {
            bos: None,
            eos: Some(END.to_owned()),
            pad: None,
            extra: ROLES.map(str::to_owned).to_vec(),
        };
        Ok(Tokenizer::train_byte_level(&texts, self.budget.vocabulary, &special)?)
    }

    /// Loads the model that SFT begins with.
    pub fn model(&self, tokenizer: &Tokenizer, seed: u64) -> Result<Model> {
        if let Some(folder) = &self.model {
            return Ok(Model::load(folder, &LoadOptions::default())?);
        }
        let budget = &self.budget;
        let config = LlamaConfig {
            vocab_size: tokenizer.vocab_size(),
            hidden_size: budget.hidden,
            intermediate_size: budget.feed_forward,
            num_hidden_layers: budget.layers,
            num_attention_heads: budget.heads,
            num_key_value_heads: budget.heads,
            head_dim: budget.hidden / budget.heads.max(1),
            max_position_embeddings: budget.max_length + budget.max_new_tokens,
            ..LlamaConfig::default()
        };
        let config = ModelConfig::llama(config)?.with_special_tokens(None, tokenizer.eos_id(), None);
        Ok(Model::init(&config, seed)?)
    }

    /// Reads the pairs of a seed; `folder` is the one that [`Self::prepare`] filled.
    pub fn pairs(&self, folder: &Path, tokenizer: &Tokenizer, seed: u64) -> Result<Pairs> {
        let budget = &self.budget;
        let config =
            DataConfig { max_length: Some(budget.max_length), bad_rows: BadRows::Skip, ..Default::default() };
        let template = self.template(tokenizer)?;
        let read = |files: &[PathBuf]| load_pairs(files, tokenizer, template.as_ref(), &config);
        if !self.is_real() {
            let (train, _) = read(&[folder.join(TRAIN_FILE)])?;
            let (held_out, _) = read(&[folder.join(HELD_OUT_FILE)])?;
            return Ok(Pairs { train, held_out, gold: Vec::new(), notes: Vec::new() });
        }
        let (rows, report) = read(&self.data)?;
        let held = budget.held_out.min(rows.len() / 4).max(1);
        let count = rows.len();
        let (mut train, held_out) = hold_out(rows, held, seed);
        RngStream::new(seed, Purpose::Split, 1, 0).shuffle(&mut train);
        let gold = train.split_off(train.len() - budget.gold_rows.min(train.len() / 2));
        train.truncate(budget.rows);
        let mut notes = vec![format!(
            "{} rows read, {count} kept, {} of them cut to {} tokens; {} train, {} are for the gold reward alone, {} held \
             out by seed",
            report.rows,
            report.cut,
            budget.max_length,
            train.len(),
            gold.len(),
            held_out.len()
        )];
        let dropped = report.rows - count;
        if dropped > 0 {
            let no_room = report.dropped_no_room;
            notes
                .push(format!("{dropped} rows dropped, {no_room} of them because the prompt leaves no room"));
        }
        Ok(Pairs { train, held_out, gold, notes })
    }

    fn template(&self, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        Ok(match &self.model {
            Some(folder) => ChatTemplate::from_folder(folder, tokenizer.special_tokens())?,
            None => Some(ChatTemplate::new(TEMPLATE, tokenizer.special_tokens())?),
        })
    }

    /// Describes files by their content, so that `--resume` notices when they change.
    pub fn inputs(&self) -> Result<Value> {
        let mut files = self.data.clone();
        files.extend(self.model.iter().map(|folder| folder.join("config.json")));
        let weights = self.model.iter().map(|folder| folder.join("model.safetensors"));
        files.extend(weights.filter(|file| file.exists()));
        let hashes = files.iter().map(|f| Ok(json!([f.display().to_string(), hash(f)?])));
        Ok(json!(hashes.collect::<Result<Vec<Value>>>()?))
    }
}

fn hash(path: &Path) -> Result<String> {
    let fail = |e| Error::input(path.display().to_string(), format!("cannot be read: {e}"));
    let mut file = fs::File::open(path).map_err(fail)?;
    let mut hasher = Sha256::new();
    let mut part = vec![0; 1 << 16];
    loop {
        match file.read(&mut part).map_err(fail)? {
            0 => break,
            count => hasher.update(part.get(..count).unwrap_or_default()),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_rows(path: &Path, rows: &[rule::PairRow]) -> Result<()> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row).map_err(|e| Error::input("row", e))?;
        text.push('\n');
    }
    fs::write(path, text).map_err(|e| Error::io("write", path, e))
}

/// Collects every text inside a row.
fn collect_text(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect_text(item, texts)),
        Value::Object(fields) => fields.values().for_each(|field| collect_text(field, texts)),
        _ => {}
    }
}

/// Returns the pairs' chosen side alone, for SFT.
pub(super) fn chosen_side(pairs: &[PromptGroup]) -> Vec<PromptGroup> {
    let first = |group: &PromptGroup| PromptGroup {
        completions: group.completions.iter().take(1).cloned().collect(),
        ..group.clone()
    };
    pairs.iter().map(first).collect()
}

/// Exchanges chosen and rejected of exactly half of the pairs, drawn by the seed.
///
/// Fair coins would leave a surplus of right or wrong labels by chance, and a surplus of a few per cent is a
/// signal that DPO can learn.
pub(super) fn swap_half(pairs: &mut [PromptGroup], seed: u64) {
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    RngStream::new(seed, Purpose::Synthetic, 1, 2).shuffle(&mut order);
    let half = order.len() / 2;
    for index in order.into_iter().take(half) {
        if let Some(pair) = pairs.get_mut(index) {
            swap(pair);
        }
    }
}

/// Exchanges chosen and rejected.
pub(super) fn swap(pair: &mut PromptGroup) {
    pair.completions.reverse();
    for (completion, name) in pair.completions.iter_mut().zip(["chosen", "rejected"]) {
        *completion = Completion { name: name.to_owned(), ..std::mem::take(completion) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_labels_are_exchanged() {
        let pair = |i: u32| {
            PromptGroup::new(
                vec![i],
                vec![Completion::named("chosen", vec![1]), Completion::named("rejected", vec![2])],
            )
        };
        let mut pairs: Vec<PromptGroup> = (0..40).map(pair).collect();
        swap_half(&mut pairs, 5);
        let swapped = pairs.iter().filter(|p| p.completions[0].token_ids == [2]).count();
        assert_eq!(swapped, 20);
        assert!(
            pairs.iter().all(|p| p.completions[0].name == "chosen" && p.completions[1].name == "rejected")
        );
        // Not simply the first half.
        assert!(pairs[..20].iter().any(|p| p.completions[0].token_ids == [1]));
    }
}
