use std::path::Path;

use align_core::{
    CausalLm, PackedBatch, Parameter, ScoreModel,
    tch::{Device, Kind, Tensor},
};
use serde_json::{Map, Value, json};

use crate::checkpoint::Checkpoint;
use crate::config::{ModelConfig, Output};
use crate::keys::Keys;
use crate::model::{LoadOptions, Model};
use crate::save::{Companions, SaveDtype};
use crate::weights::{RandomInit, Role, SCORE, Source};
use crate::{Error, Result};

/// What transformers puts before the names of a family's classes.
///
/// It has no class for sequences of `baichuan` and `chatglm`.
const CLASSES: [(&str, &str); 15] = [
    ("llama", "Llama"),
    ("mistral", "Mistral"),
    ("qwen2", "Qwen2"),
    ("qwen3", "Qwen3"),
    ("phi3", "Phi3"),
    ("gpt2", "GPT2"),
    ("gpt_neox", "GPTNeoX"),
    ("bloom", "Bloom"),
    ("gemma", "Gemma"),
    ("gemma2", "Gemma2"),
    ("gemma3_text", "Gemma3Text"),
    ("glm", "Glm"),
    ("glm4", "Glm4"),
    ("baichuan", "Baichuan"),
    ("chatglm", "ChatGLM"),
];

/// What a class of transformers computes.
pub(crate) enum Task {
    Hidden,
    Score,
}

/// Names the class of a family.
pub(crate) fn class(model_type: &str, task: Task) -> String {
    let family = CLASSES.iter().find(|(name, _)| *name == model_type).map_or("", |(_, class)| class);
    match task {
        Task::Hidden => format!("{family}Model"),
        Task::Score => format!("{family}ForSequenceClassification"),
    }
}

/// A transformer that gives each completion one number: what transformers calls a model for sequence classification
/// with one label, and everybody else a reward model.
///
/// The score is `score.weight` `[1, H]` times the hidden state of the last token of prompt and completion that is not
/// `pad_token_id`, as transformers has it; there is no bias. Of several completions of a prompt, the prompt is
/// computed once.
///
/// Folders are those of `AutoModelForSequenceClassification` and are read there, too, with the same scores; those of
/// `baichuan` and `chatglm`, for which transformers has no such class, are read back by this crate alone.
///
/// ```no_run
/// use align_core::{PackedBatch, ScoreModel, align_types::{Completion, PromptGroup}};
/// use align_lm::{LoadOptions, SaveDtype, SequenceClassifier};
///
/// let model = SequenceClassifier::from_causal_lm("my-llama".as_ref(), 0, &LoadOptions::default())?;
/// let answers = vec![Completion::new(vec![9, 2]), Completion::new(vec![7, 8, 2])];
/// let scores = model.scores(&PackedBatch::new(&[PromptGroup::new(vec![1, 15], answers)])?)?;
/// assert_eq!(scores.size(), [2]);
/// model.save("reward-model".as_ref(), SaveDtype::Source)?;
/// # Ok::<(), align_lm::Error>(())
/// ```
#[derive(Debug)]
pub struct SequenceClassifier {
    pub(crate) model: Model,
}

impl SequenceClassifier {
    /// Loads a folder of `AutoModelForSequenceClassification` with one label.
    ///
    /// # Errors
    /// As [`Model::load`]; [`Error::Contradiction`] when there is no `score.weight`, [`Error::Config`] for another
    /// number of labels than one.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self> {
        let config = ModelConfig::read(dir)?;
        let checkpoint = Checkpoint::open(dir, options.device)?;
        if !checkpoint.has(SCORE) {
            let architectures = config.raw().get("architectures").unwrap_or(&Value::Null);
            let why = format!(
                "missing {SCORE}: {architectures} has no score head; a reward model starts with a fresh one on it \
                 (SequenceClassifier::from_causal_lm)"
            );
            return Err(Error::Contradiction { dir: dir.to_owned(), why });
        }
        check_labels(&Keys::new(&dir.join("config.json"), config.raw()))?;
        let config = config.with_output(Output::Score, []);
        Ok(Self { model: Model::load_from(checkpoint, config, dir, options)? })
    }

    /// Puts a fresh score head on the transformer of a causal language model: weights normal with variance 1/(H + 1)
    /// (arXiv:2009.01325), a function of the seed. Its output layer is not loaded.
    ///
    /// The configuration says so from then on: architecture, one label, and a `pad_token_id` at which no answer ends
    /// ([`Self::with_pad_token_id`] chooses another).
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_causal_lm(dir: &Path, seed: u64, options: &LoadOptions) -> Result<Self> {
        let config = as_classifier(ModelConfig::read(dir)?);
        let mut checkpoint = Checkpoint::open(dir, options.device)?;
        let shape = [1, config.sizes().hidden_size as i64];
        checkpoint
            .provide(SCORE, RandomInit::head(seed, options.device).tensor(SCORE, &shape, Role::Matrix)?);
        Ok(Self { model: Model::load_from(checkpoint, config, dir, options)? })
    }

    /// Reads the configuration that a reward model made of this folder has, and whether it goes on with a score head
    /// that is there. No weight is read.
    ///
    /// # Errors
    /// As [`ModelConfig::read`]; [`Error::Config`] for another number of labels than one, [`Error::Contradiction`] for
    /// a classifier whose head is missing.
    pub fn read_config(dir: &Path) -> Result<(ModelConfig, bool)> {
        let config = ModelConfig::read(dir)?;
        if Checkpoint::open(dir, Device::Cpu)?.has(SCORE) {
            check_labels(&Keys::new(&dir.join("config.json"), config.raw()))?;
            return Ok((config.with_output(Output::Score, []), true));
        }
        let classes = config.raw().get("architectures").and_then(Value::as_array);
        if let Some(class) = classes.and_then(|classes| {
            classes.iter().filter_map(Value::as_str).find(|class| class.ends_with("Classification"))
        }) {
            let why = format!("config.json says {class}, and no tensor is called {SCORE}");
            return Err(Error::Contradiction { dir: dir.to_owned(), why });
        }
        Ok((as_classifier(config), false))
    }

    /// Loads a folder as [`Self::load`] where it has a score head, and as [`Self::from_causal_lm`] where it has none.
    ///
    /// # Errors
    /// As those two.
    pub fn begin(dir: &Path, seed: u64, options: &LoadOptions) -> Result<Self> {
        match Self::read_config(dir)? {
            (_, true) => Self::load(dir, options),
            (_, false) => Self::from_causal_lm(dir, seed, options),
        }
    }

    /// Makes a model with random weights on the CPU, as [`Model::init`], and a score head as
    /// [`Self::from_causal_lm`].
    ///
    /// # Errors
    /// libtorch refuses, for example for want of memory.
    pub fn init(config: &ModelConfig, seed: u64) -> Result<Self> {
        Ok(Self { model: Model::init(&as_classifier(config.clone()), seed)? })
    }

    /// Sets the token that is skipped at the end of sequences, here and in transformers. It must be one with which no
    /// answer ends: the token that pads in the tokenizer, if that is not the end token.
    ///
    /// # Errors
    /// [`Error::Config`] for a token outside the vocabulary, or an end token.
    pub fn with_pad_token_id(mut self, id: u32) -> Result<Self> {
        let config = self.model.config();
        if id as usize >= config.vocab_size() || end_tokens(config.raw()).contains(&u64::from(id)) {
            return Err(Error::Config {
                path: "config.json".into(),
                key: PAD.into(),
                value: id.to_string(),
                expected: format!("a token of the vocabulary of {} that ends no answer", config.vocab_size()),
            });
        }
        self.model.change_config(|config| config.with_output(Output::Score, [(PAD, json!(id))]));
        Ok(self)
    }

    /// Makes a model over the same storage with leaves of its own, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn replica(&self) -> Result<Self> {
        Ok(Self { model: self.model.replica()? })
    }

    /// Copies the weights as they are now into a model that is never trained.
    ///
    /// # Errors
    /// libtorch refuses, for example for want of memory.
    pub fn frozen_copy(&self) -> Result<Self> {
        Ok(Self { model: self.model.frozen_copy()? })
    }

    /// Writes a Hugging Face folder, as [`Model::save`].
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save(&self, dir: &Path, dtype: SaveDtype) -> Result<()> {
        self.model.save(dir, dtype)
    }

    /// As [`Self::save`], with companions that were read before.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_with(&self, dir: &Path, dtype: SaveDtype, companions: &Companions) -> Result<()> {
        self.model.save_with(dir, dtype, companions)
    }

    /// As [`Self::save`], and copies tokenizer, chat template and generation configuration of the folder `from`.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_with_tokenizer(&self, dir: &Path, dtype: SaveDtype, from: &Path) -> Result<()> {
        self.model.save_with_tokenizer(dir, dtype, from)
    }

    /// Takes the data types of another folder's weights for those of [`SaveDtype::Source`], as [`Model::adopt_dtypes`];
    /// that of the score head only where the folder has one.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn adopt_dtypes(&mut self, dir: &Path) -> Result<()> {
        let (config, _) = Self::read_config(dir)?;
        self.model.adopt_stored(dir)?;
        let pad = self.config().raw().get(PAD).cloned().unwrap_or_default();
        self.model.change_config(|_| config.with_output(Output::Score, [(PAD, pad)]));
        Ok(())
    }

    /// Names the data type of most weights as they were stored, as [`Model::source_dtype`].
    pub fn source_dtype(&self) -> &'static str {
        self.model.source_dtype()
    }

    /// Counts the bytes of the weights in memory.
    pub fn weight_bytes(&self) -> usize {
        self.model.weight_bytes()
    }

    /// Returns the token that is skipped at the end of sequences, where one is.
    pub fn pad_token_id(&self) -> Option<u32> {
        pad_token(self.config().raw()).and_then(|id| u32::try_from(id).ok())
    }

    /// Returns the configuration.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// Returns what a user should know about the folder, as [`Model::notes`].
    pub fn notes(&self) -> Vec<String> {
        let raw = self.config().raw();
        let mut notes = self.model.notes();
        if let Some(pad) = pad_token(raw)
            && end_tokens(raw).contains(&pad)
        {
            let why = "scores are read at the token before it, as in transformers";
            notes.push(format!("config.json: {PAD} = {pad} ends answers, too: {why}"));
        }
        notes
    }

    /// Finds the row of each completion at which its score is read, `[C]`.
    fn rows(&self, batch: &PackedBatch) -> Vec<i64> {
        let pad = pad_token(self.config().raw()).and_then(|id| i64::try_from(id).ok());
        let counts = |row: &usize| batch.ids().get(*row).copied() != pad;
        let mut rows = Vec::with_capacity(batch.completion_lens().len());
        for span in batch.groups() {
            for completion in span.completions() {
                let own = (span.start + completion.start..span.start + completion.end).rev();
                let prompt = (span.start..span.start + span.prompt_len).rev();
                // Nothing but padding: transformers reads the first token.
                let row = own.chain(prompt).find(counts).unwrap_or(span.start);
                rows.push(row as i64);
            }
        }
        rows
    }
}

impl ScoreModel for SequenceClassifier {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn context_length(&self) -> Option<usize> {
        self.model.context_length()
    }

    fn device(&self) -> Device {
        self.model.device()
    }

    fn scores(&self, batch: &PackedBatch) -> align_core::Result<Tensor> {
        if batch.groups().is_empty() {
            return Ok(Tensor::f_zeros([0], (Kind::Float, self.device()))?);
        }
        self.model.decoder.score(&self.model.states_of(batch, &self.rows(batch))?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        self.model.parameters()
    }

    fn replicate(&self) -> align_core::Result<Box<dyn ScoreModel>> {
        Ok(Box::new(self.replica().map_err(Error::of_replica)?))
    }

    fn begin_step(&self, step: Option<u64>) {
        self.model.begin_step(step);
    }

    fn backward(&self, loss: &Tensor) -> align_core::Result<()> {
        CausalLm::backward(&self.model, loss)
    }

    fn discard_forwards(&self) {
        self.model.discard_forwards();
    }
}

const PAD: &str = "pad_token_id";

/// Refuses another number of labels than one. Transformers counts the names of the labels; without them there are two.
fn check_labels(keys: &Keys<'_>) -> Result<()> {
    let expected = "one label: a reward model has one score";
    let named = keys.get::<Map<String, Value>>("id2label", expected)?;
    match (named, keys.get::<usize>("num_labels", expected)?) {
        (Some(labels), _) if labels.len() != 1 => Err(keys.refuse("id2label", expected)),
        (None, None) => Err(keys.refuse("id2label", &format!("{expected}; without it there are two"))),
        (None, Some(labels)) if labels != 1 => Err(keys.refuse("num_labels", expected)),
        _ => Ok(()),
    }
}

/// Changes a configuration to that of a classifier with one label.
fn as_classifier(config: ModelConfig) -> ModelConfig {
    let pad = harmless_pad(config.raw(), config.vocab_size());
    let keys = [
        ("architectures", json!([class(config.model_type(), Task::Score)])),
        ("id2label", json!({"0": "LABEL_0"})),
        ("label2id", json!({"LABEL_0": 0})),
        (PAD, json!(pad)),
    ];
    config.with_output(Output::Score, keys)
}

fn pad_token(raw: &Map<String, Value>) -> Option<u64> {
    raw.get(PAD).and_then(Value::as_u64)
}

/// The tokens with which answers end: one, or a list.
fn end_tokens(raw: &Map<String, Value>) -> Vec<u64> {
    match raw.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(id) => id.as_u64().into_iter().collect(),
        None => Vec::new(),
    }
}

/// Finds a token for padding that ends no answer: what pads already, what begins texts, or else the last token of the
/// vocabulary.
fn harmless_pad(raw: &Map<String, Value>, vocabulary: usize) -> u64 {
    let ends = end_tokens(raw);
    let harmless = |id: &u64| *id < vocabulary as u64 && !ends.contains(id);
    let begin = raw.get("bos_token_id").and_then(Value::as_u64);
    let named = [pad_token(raw), begin].into_iter().flatten().find(harmless);
    named.or_else(|| (0..vocabulary as u64).rev().find(harmless)).unwrap_or(0)
}
