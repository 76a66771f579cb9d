//! The models of a run: policy, reference, critic.

use std::path::{Path, PathBuf};

use align_cli::{
    Error, Result,
    args::{PpoArgs, RewardArgs},
    talk,
};
use align_core::{
    ActorCritic, CausalLm, Learn, ValueModel,
    align_types::config::{AdvantageKind, CriticKind, OptimizerConfig, PpoConfig},
};
use align_lm::{
    Companions, LoadOptions, Model, ModelConfig, PolicyWithValue, SaveDtype, SequenceClassifier, Trainable,
    ValueNetwork,
};
use align_ppo::{
    ActorCriticObjective, CriticObjective, MeasureLayout, OnlineDpoObjective, PolicyObjective, References,
};
use align_rm::RewardNormalization;
use align_train::{Compute, Engine};

use crate::{
    failure,
    model::{self, Folder},
    origin, reference,
    train::Setup,
    tuning::Tuning,
};

/// The file of a value head beside a model.
const VALUE_HEAD: &str = "value_head.safetensors";

/// The policy, with its critic where they share a transformer.
pub enum Policy {
    /// A model alone.
    Alone(Box<Model>),
    /// A model with a value head.
    WithValue(Box<PolicyWithValue>),
}

impl Policy {
    /// Loads the policy, as a checkpoint has it where there is one.
    ///
    /// # Errors
    /// As [`Tuning::load`].
    pub fn load(
        config: &PpoConfig,
        tuning: &Tuning<'_>,
        (base, checkpoint): (&Path, Option<&Path>),
        options: &LoadOptions,
        seed: u64,
    ) -> Result<Self> {
        if !(config.advantage.uses_critic() && config.critic == CriticKind::Shared) {
            let policy: Model = tuning.load(base, checkpoint, options, seed)?;
            refuse_dropout(&policy)?;
            return Ok(Self::Alone(Box::new(policy)));
        }
        let pair = match checkpoint {
            Some(checkpoint) => {
                let mut pair = PolicyWithValue::load(checkpoint, options).map_err(failure::of)?;
                pair.adopt_dtypes(base).map_err(failure::of)?;
                pair
            }
            None if base.join(VALUE_HEAD).exists() => {
                talk::say(&format!("the critic goes on with the value head of {}", base.display()));
                PolicyWithValue::load(base, options).map_err(failure::of)?
            }
            None => PolicyWithValue::new(model::load(base, options)?, seed).map_err(failure::of)?,
        };
        Ok(Self::WithValue(Box::new(pair)))
    }

    /// Returns the model.
    pub fn model(&self) -> &Model {
        match self {
            Self::Alone(model) => model,
            Self::WithValue(pair) => pair.policy(),
        }
    }

    /// Writes the folder of the model, or of its adapter.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn save(
        &self,
        to: &Path,
        dtype: SaveDtype,
        tuning: &Tuning<'_>,
        companions: &Companions,
    ) -> align_lm::Result<()> {
        match (self, tuning) {
            (Self::WithValue(pair), _) => pair.save_with(to, dtype, companions),
            (Self::Alone(model), Tuning::Full) => model.save_with(to, dtype, companions),
            (Self::Alone(model), Tuning::New(_) | Tuning::From(_)) => model.save_adapter_with(to, companions),
        }
    }

    /// As [`Self::save`], at the end of a run: a value head gives v · std + mean where it was trained to give v.
    ///
    /// # Errors
    /// Files that cannot be written; libtorch refuses.
    pub fn save_in_units(
        &self,
        (mean, std): (f64, f64),
        to: &Path,
        dtype: SaveDtype,
        tuning: &Tuning<'_>,
        companions: &Companions,
    ) -> align_lm::Result<()> {
        match self {
            Self::WithValue(pair) => pair.rescaled(mean, std)?.save_with(to, dtype, companions),
            Self::Alone(_) => self.save(to, dtype, tuning, companions),
        }
    }

    /// Makes what trains it, and says what its objective measures and how many threads it takes.
    ///
    /// # Errors
    /// A reference that cannot be loaded.
    pub fn learner(&self, flags: &PpoArgs, setup: &Setup<'_>) -> Result<Learner> {
        let (config, optimizer) = (flags.ppo_config(), setup.train.optimizer_config());
        let (temperature, limit) = (flags.draw.temperature, flags.draw.max_new_tokens);
        let references = references(flags, &config, setup)?;
        let compute = compute(setup);
        let model = || setup.policy.replica().map_err(failure::of);
        match self {
            Self::WithValue(pair) => {
                let objective = ActorCriticObjective::new(&config, temperature, limit, references);
                let objective = objective.map_err(failure::of)?;
                let (layout, pair) = (objective.layout(), pair.replica().map_err(failure::of)?);
                let pair: Box<dyn ActorCritic> = Box::new(pair);
                let engine = Engine::over(pair, Box::new(objective), &optimizer, compute);
                Ok(Learner::of(engine.map_err(failure::of)?, layout))
            }
            Self::Alone(_) if config.advantage == AdvantageKind::OnlineDpo => {
                let objective =
                    OnlineDpoObjective::new(&config, temperature, references).map_err(failure::of)?;
                let layout = objective.layout();
                let engine = Engine::new(Box::new(model()?), Box::new(objective), &optimizer, compute);
                Ok(Learner::of(engine.map_err(failure::of)?, layout))
            }
            Self::Alone(_) => {
                let objective = PolicyObjective::new(&config, temperature, limit, references);
                let objective = objective.map_err(failure::of)?;
                let layout = objective.layout();
                let engine = Engine::new(Box::new(model()?), Box::new(objective), &optimizer, compute);
                Ok(Learner::of(engine.map_err(failure::of)?, layout))
            }
        }
    }
}

/// What trains the policy.
pub struct Learner {
    pub engine: Box<dyn Learn>,
    pub layout: MeasureLayout,
    pub threads: usize,
}

impl Learner {
    fn of<M: align_core::Trainable + ?Sized>(engine: Engine<M>, layout: MeasureLayout) -> Self {
        let threads = engine.compute_settings().threads;
        Self { engine: Box::new(engine), layout, threads }
    }
}

fn compute(setup: &Setup<'_>) -> Compute {
    Compute { threads: setup.threads, micro_batch_tokens: setup.micro_batch_tokens }
}

/// Log-probabilities of samples are computed at rest; a training pass that drops inputs would give others, and the
/// importance ratio would not begin at 1.
fn refuse_dropout(policy: &Model) -> Result<()> {
    match policy.lora().map_or(0.0, |lora| lora.dropout) {
        0.0 => Ok(()),
        dropout => Err(Error::usage(
            format!(
                "the adapter drops inputs with probability {dropout}, and importance ratios would not begin at 1"
            ),
            ["set lora_dropout in its adapter_config.json to 0".to_owned()],
        )),
    }
}

/// Loads what the policy is held to.
fn references(flags: &PpoArgs, config: &PpoConfig, setup: &Setup<'_>) -> Result<References> {
    if !flags.has_reference() {
        return Ok(References::none());
    }
    let given = flags.kl.ref_model.as_deref();
    let first: Box<dyn CausalLm> = Box::new(reference::load(setup, given)?);
    Ok(match config.reference_sync() {
        Some(sync) => References::moving(reference::moving(setup, given, sync, "--ref-ema")?, first),
        None => References::frozen(first),
    })
}

/// What a critic of its own begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriticStart {
    pub folder: PathBuf,
    pub kind: CriticFolder,
    /// Why it is this folder, where nobody named it.
    why: Option<&'static str>,
}

/// What is in the folder that a critic begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CriticFolder {
    /// A critic that was trained before.
    Critic,
    /// A reward model, whose score head becomes the value head.
    RewardModel,
    /// Another model: the value head is new.
    Model,
}

impl CriticStart {
    /// Chooses the folder: as told, else the first reward model that reads the tokens of the policy, else the policy's.
    ///
    /// # Errors
    /// A folder that cannot be read, another vocabulary.
    pub fn choose(flags: &PpoArgs, base: &Path, folder: &Folder) -> Result<Self> {
        let tokens = folder.config.vocab_size();
        let vocabulary =
            |path: &Path| -> Result<usize> { Ok(ModelConfig::read(path).map_err(failure::of)?.vocab_size()) };
        let reward_model = flags.rewards.reward_model.first();
        let (path, why) = match (&flags.critic.critic_model, reward_model) {
            (Some(given), _) => (given.as_path(), None),
            (None, Some(reward)) if !same_tokenizer(base, reward)? => {
                (base, Some("--model, as the tokenizer of the first --reward-model is another one"))
            }
            (None, Some(reward)) if vocabulary(reward)? != tokens => (
                base,
                Some("--model, as the first --reward-model has embeddings of another number of tokens"),
            ),
            (None, Some(reward)) => {
                (reward.as_path(), Some("the first --reward-model, which has the tokenizer of --model"))
            }
            (None, None) => (base, Some("--model")),
        };
        let others = vocabulary(path)?;
        if tokens != others {
            return Err(Error::data(
                format!(
                    "--critic-model {}: its vocabulary has {others} tokens, that of --model {tokens}",
                    path.display()
                ),
                ["the critic reads the tokens of the policy".to_owned()],
            ));
        }
        let kind = match path.join(VALUE_HEAD).exists() {
            true => CriticFolder::Critic,
            false if SequenceClassifier::read_config(path).map_err(failure::of)?.1 => {
                CriticFolder::RewardModel
            }
            false => CriticFolder::Model,
        };
        Ok(Self { folder: path.to_owned(), kind, why })
    }

    /// Says what the critic begins with.
    pub fn describe(&self) -> String {
        let head = match self.kind {
            CriticFolder::Critic => "with its value head",
            CriticFolder::RewardModel => "with its score head as value head",
            CriticFolder::Model => "with a new value head",
        };
        let why = self.why.map(|why| format!(" ({why})")).unwrap_or_default();
        format!("the critic begins with {}{why}, {head}", self.folder.display())
    }

    /// Loads it. One that begins with a model that answers are scored with begins in the units of its part of the reward,
    /// as it is before scaling and clipping.
    ///
    /// # Errors
    /// As [`ValueNetwork::load`].
    pub fn load(&self, options: &LoadOptions, seed: u64, rewards: &RewardArgs) -> Result<ValueNetwork> {
        let options = LoadOptions { trainable: Trainable::All, ..*options };
        match self.kind {
            CriticFolder::Critic => ValueNetwork::load(&self.folder, &options),
            CriticFolder::RewardModel => {
                let critic = ValueNetwork::from_classifier(&self.folder, &options).map_err(failure::of)?;
                match self.units(rewards)? {
                    (0.0, 1.0) => Ok(critic),
                    (mean, std) => {
                        talk::say(&format!(
                            "its values begin in the units of the reward: {std:.4} v + {mean:.4}"
                        ));
                        critic.rescaled(mean, std)
                    }
                }
            }
            CriticFolder::Model => ValueNetwork::on_folder(&self.folder, seed, &options),
        }
        .map_err(failure::of)
    }

    /// The numbers with which a score v of the model is v · std + mean in the reward.
    fn units(&self, rewards: &RewardArgs) -> Result<(f64, f64)> {
        let place = |folder: &Path| std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
        let ours = place(&self.folder);
        let is_ours = |(_, folder): &(usize, &PathBuf)| place(folder) == ours;
        let weight = |index: usize| rewards.reward_weights.get(index).copied().unwrap_or(1.0);
        let mut weights =
            rewards.reward_model.iter().enumerate().filter(is_ours).map(|(index, _)| weight(index));
        let Some(first) = weights.next() else { return Ok((0.0, 1.0)) };
        // Several models as one reward have one weight; one that is named twice counts twice.
        let weight = match rewards.several.ensemble {
            Some(_) => weight(0),
            None => weights.fold(first, |sum, weight| sum + weight),
        };
        if !rewards.normalize {
            return Ok((0.0, weight));
        }
        let scale = RewardNormalization::read(&self.folder, None).map_err(failure::of)?;
        Ok((weight * scale.apply(0.0), weight / scale.std))
    }
}

/// Lowers the most tokens of a prompt with its answer to what reward models take that read the tokens of the policy. What
/// others take is known once their tokens are, and they abstain from what is too long.
///
/// # Errors
/// A folder that cannot be read.
pub fn room_for_scores(reward_models: &[PathBuf], base: &Path, context: usize) -> Result<usize> {
    let mut room = context;
    for folder in reward_models {
        if same_tokenizer(base, folder)? {
            room = room.min(ModelConfig::read(folder).map_err(failure::of)?.context_length());
        }
    }
    Ok(room)
}

/// Makes what trains a critic of its own.
///
/// # Errors
/// libtorch refuses.
pub fn critic_learner(
    critic: &ValueNetwork,
    config: &PpoConfig,
    setup: &Setup<'_>,
) -> Result<Engine<dyn ValueModel>> {
    let optimizer =
        OptimizerConfig { learning_rate: config.critic_learning_rate, ..setup.train.optimizer_config() };
    let objective = Box::new(CriticObjective::new(config).map_err(failure::of)?);
    let replica: Box<dyn ValueModel> = Box::new(critic.replica().map_err(failure::of)?);
    Engine::over(replica, objective, &optimizer, compute(setup)).map_err(failure::of)
}

/// Says whether two model folders have one tokenizer.
fn same_tokenizer(a: &Path, b: &Path) -> Result<bool> {
    for name in ["tokenizer.json", "tokenizer.model"] {
        match (a.join(name), b.join(name)) {
            (a, b) if a.exists() && b.exists() => return Ok(origin::digest(&[a])? == origin::digest(&[b])?),
            (a, b) if a.exists() != b.exists() => return Ok(false),
            _ => {}
        }
    }
    Ok(false)
}
