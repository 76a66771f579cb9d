//! What the JSON files of a model folder say of its tokens.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
};

use align_types::TokenId;
use serde_json::{Map, Value};
use tokenizers::{AddedToken, processors::template::TemplateProcessing};

use super::{failed, read_json};
use crate::{Error, Result};

/// The names of special tokens that templates and configurations use.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The special tokens of a folder by name, and every id that ends an answer.
pub(super) type Special = BTreeMap<String, String>;

/// The parsed files of a folder; those that are not there are empty.
pub(super) struct Folder<'a> {
    pub(super) dir: &'a Path,
    config: Map<String, Value>,
    map: Map<String, Value>,
    added: Map<String, Value>,
    generation: Map<String, Value>,
    model: Map<String, Value>,
}

/// A token that the files add to the vocabulary, or name as special.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) id: Option<TokenId>,
    pub(super) token: AddedToken,
}

impl<'a> Folder<'a> {
    pub(super) fn read(dir: &'a Path) -> Result<Self> {
        let read = |name: &str| read_json(&dir.join(name)).map(Option::unwrap_or_default);
        Ok(Self {
            dir,
            config: read("tokenizer_config.json")?,
            map: read("special_tokens_map.json")?,
            added: read("added_tokens.json")?,
            generation: read("generation_config.json")?,
            model: read("config.json")?,
        })
    }

    /// Returns the path of a file of the folder, if it is there.
    pub(super) fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.dir.join(name)).filter(|path| path.is_file())
    }

    /// Returns the name of the Python class that reads the folder, without `Fast`; empty where none is named.
    pub(super) fn class(&self) -> &str {
        let class = self.config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        class.strip_suffix("Fast").unwrap_or(class)
    }

    pub(super) fn model_type(&self) -> &str {
        self.model.get("model_type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Looks up a switch of `tokenizer_config.json`.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.config.get(name)?.as_bool()
    }

    /// Finds the special tokens: by name, or by the ids that the model's configuration gives.
    pub(super) fn special(&self, id_to_token: impl Fn(TokenId) -> Option<String>) -> Result<Special> {
        let named = |name: &&str| {
            let token = [&self.config, &self.map].into_iter().find_map(|file| content(file.get(*name)?));
            Some(((*name).to_owned(), token?))
        };
        let mut special: Special = NAMES.iter().filter_map(named).collect();
        for (name, ids) in [("eos_token", self.eos_ids()?), ("bos_token", self.ids("bos_token_id")?)] {
            if let (false, Some(token)) =
                (special.contains_key(name), ids.first().and_then(|id| id_to_token(*id)))
            {
                special.insert(name.to_owned(), token);
            }
        }
        Ok(special)
    }

    /// Returns the ids that end an answer, as `generation_config.json` and `config.json` give them.
    pub(super) fn eos_ids(&self) -> Result<Vec<TokenId>> {
        self.ids("eos_token_id")
    }

    fn ids(&self, name: &str) -> Result<Vec<TokenId>> {
        let mut all = token_ids(&self.generation, name, &self.dir.join("generation_config.json"))?;
        all.extend(token_ids(&self.model, name, &self.dir.join("config.json"))?);
        Ok(all)
    }

    /// Collects the tokens that a tokenizer adds to its vocabulary file: those with ids of their own, then the
    /// special ones. Each is there once.
    pub(super) fn declared(&self, special: &Special) -> Result<Vec<Declared>> {
        let mut all: Vec<Declared> = vec![];
        let path = self.dir.join("tokenizer_config.json");
        if let Some(decoder) = self.config.get("added_tokens_decoder").and_then(Value::as_object) {
            for (id, token) in decoder {
                let (Ok(id), Some(token)) = (id.parse(), added_token(token)) else {
                    let message = format!("added_tokens_decoder: {id} is not an id with its token");
                    return Err(failed(path.display(), message.into()));
                };
                all.push(Declared { id: Some(id), token });
            }
        }
        for (text, id) in &self.added {
            let Some(id) = id.as_u64().and_then(|id| TokenId::try_from(id).ok()) else {
                let what = self.dir.join("added_tokens.json");
                return Err(failed(what.display(), format!("{text:?} has no token id").into()));
            };
            all.push(Declared { id: Some(id), token: AddedToken::from(text.as_str(), false) });
        }
        all.sort_by_key(|declared| declared.id);
        let files = [&self.config, &self.map];
        let find = |name: &String| files.into_iter().find_map(|file| added_token(file.get(name)?));
        let named = special.iter().map(|(name, text)| match find(name) {
            Some(token) if token.content == *text => token,
            _ => AddedToken::from(text.as_str(), true),
        });
        let lists = ["additional_special_tokens", "extra_special_tokens"];
        let further = files.into_iter().flat_map(|file| lists.iter().filter_map(|name| file.get(*name)));
        let further = further.flat_map(|value| match value {
            Value::Array(list) => list.iter().filter_map(added_token).collect(),
            Value::Object(named) => named.values().filter_map(added_token).collect(),
            _ => vec![],
        });
        all.extend(named.chain(further).map(|token| Declared { id: None, token: token.special(true) }));
        Ok(once(all))
    }
}

/// Keeps the first of several declarations of one text; it is special if any of them says so.
fn once(all: Vec<Declared>) -> Vec<Declared> {
    let mut kept: Vec<Declared> = vec![];
    let mut places: HashMap<String, usize> = HashMap::new();
    for declared in all {
        match places.get(&declared.token.content).and_then(|place| kept.get_mut(*place)) {
            Some(first) => first.token.special |= declared.token.special,
            None => {
                places.insert(declared.token.content.clone(), kept.len());
                kept.push(declared);
            }
        }
    }
    kept
}

/// Reads a token that is a text, or an object with the text and how it is matched. It is matched in the text as
/// it is, before any normalisation.
fn added_token(value: &Value) -> Option<AddedToken> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or_default();
    let text = content(value).filter(|text| !text.is_empty())?;
    let token = AddedToken::from(text, flag("special")).normalized(false);
    Some(token.single_word(flag("single_word")).lstrip(flag("lstrip")).rstrip(flag("rstrip")))
}

fn content(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_owned)
}

/// Token ids and their texts, both ways.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    pub(super) tokens: BTreeMap<TokenId, String>,
    pub(super) ids: HashMap<String, TokenId>,
}

impl Vocabulary {
    pub(super) fn new(entries: impl IntoIterator<Item = (TokenId, String)>) -> Self {
        let mut vocabulary = Self::default();
        for (id, text) in entries {
            vocabulary.insert(id, text);
        }
        vocabulary
    }

    fn insert(&mut self, id: TokenId, text: String) {
        if let Some(replaced) = self.tokens.insert(id, text.clone()) {
            self.ids.remove(&replaced);
        }
        self.ids.insert(text, id);
    }

    /// Gives every declared token an id. One that the vocabulary has keeps it; one with an id of its own takes it,
    /// in place of a placeholder if there is one; the others follow the last id.
    pub(super) fn place(&mut self, declared: &[Declared]) {
        for Declared { id, token } in declared {
            if !self.ids.contains_key(&token.content) {
                let next = self.tokens.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
                self.insert(id.unwrap_or(next), token.content.clone());
            }
        }
    }
}

/// Makes the post-processor that puts tokens before and after every text.
pub(super) fn surround(
    before: &[(TokenId, String)],
    after: &[(TokenId, String)],
) -> Result<TemplateProcessing> {
    // The tokens have names of their own in the pattern, because their texts may hold its separators.
    let mut pattern = vec![];
    let mut tokens = vec![];
    for (place, (id, text)) in before.iter().chain(after).enumerate() {
        if place == before.len() {
            pattern.push("$A".to_owned());
        }
        let alias = format!("T{place}");
        let token =
            tokenizers::processors::template::SpecialToken::new(alias.clone(), vec![*id], vec![text.clone()]);
        tokens.push(token.map_err(|e| failed("special tokens", e))?);
        pattern.push(alias);
    }
    if after.is_empty() {
        pattern.push("$A".to_owned());
    }
    TemplateProcessing::builder()
        .try_single(pattern.join(" "))
        .map_err(|e| failed("special tokens", e.into()))?
        .special_tokens(tokens)
        .build()
        .map_err(|e| failed("special tokens", e.into()))
}

/// Reads a token id or a list of them. Anything else is refused: sampling might never stop without the token.
fn token_ids(config: &Map<String, Value>, key: &str, path: &Path) -> Result<Vec<TokenId>> {
    let id = |value: &Value| value.as_u64().and_then(|id| TokenId::try_from(id).ok());
    let ids = match config.get(key) {
        None | Some(Value::Null) => Some(vec![]),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(one) => id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| {
        let found = config.get(key).map(ToString::to_string).unwrap_or_default();
        let message = format!("{key} is {found}, a token id or a list of token ids is expected");
        Error::Tokenizer { what: path.display().to_string(), message }
    })
}
