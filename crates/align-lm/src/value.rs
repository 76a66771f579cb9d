use std::path::Path;

use align_core::{
    ActorCritic, CausalLm, PackedBatch, Parameter, TokenValues, ValueModel,
    tch::{Device, Tensor},
};
use serde_json::json;

use crate::checkpoint::Checkpoint;
use crate::classifier::{Task, class};
use crate::config::{ModelConfig, Output};
use crate::model::{LoadOptions, Model, Trainable};
use crate::save::{Companions, SaveDtype};
use crate::value_head::ValueHead;
use crate::{Error, Result};

fn is_trained(options: &LoadOptions) -> bool {
    options.trainable == Trainable::All
}

/// A critic with a transformer of its own: hidden states of any family and a value head.
///
/// On disk it is a model folder whose `model.safetensors` has no output layer, and beside it `value_head.safetensors`
/// with `v_head.weight` `[1, H]` and `v_head.bias` `[1]`, always in float32.
///
/// ```no_run
/// use align_core::{PackedBatch, ValueModel, align_types::{Completion, PromptGroup}};
/// use align_lm::{LoadOptions, SaveDtype, ValueNetwork};
///
/// let critic = ValueNetwork::on_folder("my-llama".as_ref(), 0, &LoadOptions::default())?;
/// let batch = PackedBatch::new(&[PromptGroup::new(vec![1, 15], vec![Completion::new(vec![9, 2])])])?;
/// println!("{:?}", critic.values(&batch)?.to_vecs()?);
/// critic.save("critic".as_ref(), SaveDtype::F32)?;
/// # Ok::<(), align_lm::Error>(())
/// ```
#[derive(Debug)]
pub struct ValueNetwork {
    trunk: Model,
    head: ValueHead,
}

impl ValueNetwork {
    /// Loads a folder that [`Self::save`] wrote.
    ///
    /// # Errors
    /// As [`Model::load`]; [`Error::Weights`] when there is no value head.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self> {
        let config = ModelConfig::read(dir)?;
        let width = config.sizes().hidden_size;
        let head = ValueHead::load(dir, width, options.device, is_trained(options))?;
        Ok(Self { trunk: Self::load_trunk(config, dir, options)?, head })
    }

    /// Puts a fresh value head on the transformer of a folder, whatever output layer that has: weights normal with
    /// variance 1/(H + 1), bias zero (arXiv:2009.01325), a function of the seed.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn on_folder(dir: &Path, seed: u64, options: &LoadOptions) -> Result<Self> {
        let trunk = Self::load_trunk(ModelConfig::read(dir)?, dir, options)?;
        let width = trunk.config().sizes().hidden_size;
        Ok(Self { head: ValueHead::draw(seed, width, options.device, is_trained(options))?, trunk })
    }

    /// Starts from a reward model: its transformer, and its score head with a bias of zero, as in arXiv:2009.01325 and
    /// arXiv:2203.02155.
    ///
    /// # Errors
    /// As [`Model::load`]; [`Error::Contradiction`] when there is no `score.weight`.
    pub fn from_classifier(dir: &Path, options: &LoadOptions) -> Result<Self> {
        let trunk = Self::load_trunk(ModelConfig::read(dir)?, dir, options)?;
        let (width, mut checkpoint) =
            (trunk.config().sizes().hidden_size, Checkpoint::open(dir, options.device)?);
        let head = ValueHead::of_score(&mut checkpoint, width, options.device, is_trained(options))?;
        Ok(Self { trunk, head })
    }

    fn load_trunk(config: ModelConfig, dir: &Path, options: &LoadOptions) -> Result<Model> {
        let architectures = json!([class(config.model_type(), Task::Hidden)]);
        let config = config.with_output(Output::None, [("architectures", architectures)]);
        Model::load_from(Checkpoint::open(dir, options.device)?, config, dir, options)
    }

    /// Writes a folder that [`Self::load`] reads back, the value head bit by bit.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save(&self, dir: &Path, dtype: SaveDtype) -> Result<()> {
        self.trunk.save_folder(dir, dtype, &Companions::default(), self.head.weights())
    }

    /// Makes a critic over the same storage with leaves of its own, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn replica(&self) -> Result<Self> {
        Ok(Self { trunk: self.trunk.replica()?, head: self.head.again(false, self.head.trainable())? })
    }

    /// Makes a critic over the same transformer whose values are v · std + mean where those of this one are v: both go
    /// into weight and bias of its head.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn rescaled(&self, mean: f64, std: f64) -> Result<Self> {
        Ok(Self { trunk: self.trunk.replica()?, head: self.head.rescaled(mean, std)? })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &ModelConfig {
        self.trunk.config()
    }

    /// Returns what a user should know about the folder, as [`Model::notes`].
    pub fn notes(&self) -> Vec<String> {
        self.trunk.notes()
    }
}

impl ValueModel for ValueNetwork {
    fn device(&self) -> Device {
        self.trunk.device()
    }

    fn values(&self, batch: &PackedBatch) -> align_core::Result<TokenValues> {
        self.head.values(&self.trunk.hidden_states(batch)?, batch)
    }

    fn parameters(&self) -> Vec<Parameter> {
        with_head(&self.trunk, &self.head)
    }

    fn replicate(&self) -> align_core::Result<Box<dyn ValueModel>> {
        Ok(Box::new(self.replica().map_err(Error::of_replica)?))
    }

    fn begin_step(&self, step: Option<u64>) {
        self.trunk.begin_step(step);
    }

    fn backward(&self, loss: &Tensor) -> align_core::Result<()> {
        CausalLm::backward(&self.trunk, loss)
    }

    fn discard_forwards(&self) {
        self.trunk.discard_forwards();
    }
}

/// Policy and critic on one transformer: one forward pass gives logits and values.
///
/// Its parameters are those of the model and of the value head. On disk it is the folder of the model, which
/// everything reads that reads models, and beside it `value_head.safetensors` as for [`ValueNetwork`].
#[derive(Debug)]
pub struct PolicyWithValue {
    policy: Model,
    head: ValueHead,
}

impl PolicyWithValue {
    /// Loads a folder that [`Self::save`] wrote.
    ///
    /// # Errors
    /// As [`Model::load`]; [`Error::Weights`] when there is no value head.
    pub fn load(dir: &Path, options: &LoadOptions) -> Result<Self> {
        let policy = Model::load(dir, options)?;
        let width = policy.config().sizes().hidden_size;
        Ok(Self { head: ValueHead::load(dir, width, options.device, is_trained(options))?, policy })
    }

    /// Puts a fresh value head on a model, drawn as [`ValueNetwork::on_folder`] says; it is trained if the model is.
    ///
    /// # Errors
    /// A model with an adapter, which could not be saved with a head; libtorch refuses.
    pub fn new(policy: Model, seed: u64) -> Result<Self> {
        if policy.adapter.is_some() {
            let why = "a value head on a model with an adapter cannot be saved yet; use a critic of its own";
            return Err(align_core::Error::input("value head", why).into());
        }
        let trained = !policy.parameters().is_empty();
        let head = ValueHead::draw(seed, policy.config().sizes().hidden_size, policy.device(), trained)?;
        Ok(Self { policy, head })
    }

    /// Returns the model.
    pub fn policy(&self) -> &Model {
        &self.policy
    }

    /// Computes the logits of the rows that predict a completion token, `[N, V]`, and the values of all states, both
    /// from one forward pass.
    ///
    /// # Errors
    /// As [`CausalLm::logits`].
    pub fn logits_and_values(&self, batch: &PackedBatch) -> align_core::Result<(Tensor, TokenValues)> {
        let hidden = self.policy.hidden_states(batch)?;
        Ok((self.policy.logits_of(&hidden, batch)?, self.head.values(&hidden, batch)?))
    }

    /// As [`Model::adopt_dtypes`].
    ///
    /// # Errors
    /// As [`Model::adopt_dtypes`].
    pub fn adopt_dtypes(&mut self, dir: &Path) -> Result<()> {
        self.policy.adopt_dtypes(dir)
    }

    /// Writes the folder of the model with the value head beside it.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save(&self, dir: &Path, dtype: SaveDtype) -> Result<()> {
        self.save_with(dir, dtype, &Companions::default())
    }

    /// As [`Self::save`], with files that were read before.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_with(&self, dir: &Path, dtype: SaveDtype, companions: &Companions) -> Result<()> {
        self.policy.save_folder(dir, dtype, companions, self.head.weights())
    }

    /// As [`Self::save`], and copies tokenizer, chat template and generation configuration of the folder `from`.
    ///
    /// # Errors
    /// As [`Model::save`].
    pub fn save_with_tokenizer(&self, dir: &Path, dtype: SaveDtype, from: &Path) -> Result<()> {
        self.save_with(dir, dtype, &Companions::read(from)?)
    }

    /// Makes a pair over the same storage with leaves of its own, for another thread.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn replica(&self) -> Result<Self> {
        Ok(Self { policy: self.policy.replica()?, head: self.head.again(false, self.head.trainable())? })
    }

    /// Makes a pair over the same model whose values are v · std + mean, as [`ValueNetwork::rescaled`].
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn rescaled(&self, mean: f64, std: f64) -> Result<Self> {
        Ok(Self { policy: self.policy.replica()?, head: self.head.rescaled(mean, std)? })
    }
}

/// What the pair does in the same way whichever of its traits it is asked through.
macro_rules! trained_as_the_policy {
    () => {
        fn device(&self) -> Device {
            self.policy.device()
        }

        fn parameters(&self) -> Vec<Parameter> {
            with_head(&self.policy, &self.head)
        }

        fn begin_step(&self, step: Option<u64>) {
            self.policy.begin_step(step);
        }

        fn backward(&self, loss: &Tensor) -> align_core::Result<()> {
            CausalLm::backward(&self.policy, loss)
        }

        fn discard_forwards(&self) {
            self.policy.discard_forwards();
        }
    };
}

impl CausalLm for PolicyWithValue {
    fn vocab_size(&self) -> usize {
        self.policy.vocab_size()
    }

    fn context_length(&self) -> Option<usize> {
        self.policy.context_length()
    }

    fn logits(&self, batch: &PackedBatch) -> align_core::Result<Tensor> {
        if batch.groups().is_empty() {
            return self.policy.logits(batch);
        }
        // From the rows that the values are computed from, so that both ways give the same bits.
        self.policy.logits_of(&self.policy.hidden_states(batch)?, batch)
    }

    fn replicate(&self) -> align_core::Result<Box<dyn CausalLm>> {
        Ok(Box::new(self.replica().map_err(Error::of_replica)?))
    }

    trained_as_the_policy!();
}

impl ValueModel for PolicyWithValue {
    fn values(&self, batch: &PackedBatch) -> align_core::Result<TokenValues> {
        self.head.values(&self.policy.hidden_states(batch)?, batch)
    }

    fn replicate(&self) -> align_core::Result<Box<dyn ValueModel>> {
        Ok(Box::new(self.replica().map_err(Error::of_replica)?))
    }

    trained_as_the_policy!();
}

impl ActorCritic for PolicyWithValue {
    fn vocab_size(&self) -> usize {
        self.policy.vocab_size()
    }

    fn logits_and_values(&self, batch: &PackedBatch) -> align_core::Result<(Tensor, TokenValues)> {
        Self::logits_and_values(self, batch)
    }

    fn replicate(&self) -> align_core::Result<Box<dyn ActorCritic>> {
        Ok(Box::new(self.replica().map_err(Error::of_replica)?))
    }

    trained_as_the_policy!();
}

fn with_head(model: &Model, head: &ValueHead) -> Vec<Parameter> {
    let mut parameters = model.parameters();
    parameters.extend(head.parameters());
    parameters
}
