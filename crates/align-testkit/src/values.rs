use align_core::{
    ActorCritic, CausalLm, Error, PackedBatch, Parameter, Result, TokenValues, ValueModel,
    tch::{Device, Kind, Tensor},
};

use crate::BigramLm;

/// A critic whose value of a state depends on the last token alone: entry i of the table is the value behind token i.
#[derive(Debug)]
pub struct TabularValues {
    table: Tensor,
}

impl TabularValues {
    /// Makes a critic from its table `[V]`.
    pub fn new(table: &Tensor) -> Self {
        Self { table: table.detach().copy().set_requires_grad(true) }
    }

    /// Makes a critic with a leaf of its own over the storage of a table `[V]`, which follows what is trained.
    pub fn sharing(table: &Tensor) -> Self {
        Self { table: table.detach().set_requires_grad(true) }
    }

    /// Makes a critic of `vocab` tokens that finds every state worth nothing.
    pub fn zeros(vocab: i64) -> Self {
        Self::new(&Tensor::zeros([vocab], (Kind::Float, Device::Cpu)))
    }

    /// Returns the table, a leaf.
    pub fn table(&self) -> &Tensor {
        &self.table
    }

    fn of(&self, batch: &PackedBatch) -> Result<TokenValues> {
        batch.check_vocabulary(self.table.size()[0] as usize)?;
        let rows = [batch.predict_rows(), &batch.last_rows()].concat();
        let tokens: Vec<i64> = rows.iter().map(|row| batch.ids()[*row as usize]).collect();
        let tokens = PackedBatch::index_tensor(&tokens, self.table.device())?;
        TokenValues::of_rows(&self.table.f_index_select(0, &tokens)?, batch)
    }

    fn replica(&self) -> Result<Self> {
        Ok(Self { table: self.table.f_detach()?.f_set_requires_grad(true)? })
    }
}

impl ValueModel for TabularValues {
    fn device(&self) -> Device {
        self.table.device()
    }

    fn values(&self, batch: &PackedBatch) -> Result<TokenValues> {
        self.of(batch)
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter { name: "values".into(), tensor: self.table.shallow_clone(), decay: false }]
    }

    fn replicate(&self) -> Result<Box<dyn ValueModel>> {
        Ok(Box::new(self.replica()?))
    }
}

/// A [`BigramLm`] and [`TabularValues`] as one model.
#[derive(Debug)]
pub struct BigramActorCritic {
    /// The policy.
    pub policy: BigramLm,
    /// The critic.
    pub critic: TabularValues,
}

impl ActorCritic for BigramActorCritic {
    fn vocab_size(&self) -> usize {
        self.policy.vocab_size()
    }

    fn device(&self) -> Device {
        CausalLm::device(&self.policy)
    }

    fn logits_and_values(&self, batch: &PackedBatch) -> Result<(Tensor, TokenValues)> {
        if self.policy.vocab_size() != self.critic.table.numel() {
            return Err(Error::input("vocabulary", "policy and critic differ"));
        }
        Ok((self.policy.logits(batch)?, self.critic.of(batch)?))
    }

    fn parameters(&self) -> Vec<Parameter> {
        [CausalLm::parameters(&self.policy), ValueModel::parameters(&self.critic)]
            .into_iter()
            .flatten()
            .collect()
    }

    fn replicate(&self) -> Result<Box<dyn ActorCritic>> {
        Ok(Box::new(Self { policy: BigramLm::sharing(&self.policy), critic: self.critic.replica()? }))
    }
}
