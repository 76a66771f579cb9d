use align_core::{
    CachedLm, CausalLm, Error, KvCache, PackedBatch, Parameter, Result,
    tch::{Device, Kind, Tensor},
};

/// A language model whose next token depends on the current one alone: row i of the table holds the logits that
/// follow token i.
///
/// Its log-probabilities and gradients can be written down by hand, so that losses, the training loop and the
/// sampler can be tested to convergence in milliseconds.
#[derive(Debug)]
pub struct BigramLm {
    table: Tensor,
    context: Option<usize>,
}

impl BigramLm {
    /// Makes a model from its table `[V, V]`.
    pub fn new(table: &Tensor) -> Self {
        Self { table: table.detach().copy().set_requires_grad(true), context: None }
    }

    /// Makes a model of `vocab` tokens that finds all of them equally likely.
    pub fn uniform(vocab: i64) -> Self {
        Self::new(&Tensor::zeros([vocab, vocab], (Kind::Float, Device::Cpu)))
    }

    /// Makes a model with a leaf of its own over the storage of another: it follows what is trained there.
    pub fn sharing(other: &Self) -> Self {
        Self { table: other.table.detach().set_requires_grad(true), context: other.context }
    }

    /// Bounds the context.
    #[must_use]
    pub fn with_context(mut self, tokens: usize) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Returns the table, a leaf.
    pub fn table(&self) -> &Tensor {
        &self.table
    }

    fn rows_of(&self, tokens: &[i64]) -> Result<Tensor> {
        Ok(self.table.f_index_select(0, &PackedBatch::index_tensor(tokens, self.device())?)?)
    }
}

impl CausalLm for BigramLm {
    fn vocab_size(&self) -> usize {
        self.table.size()[0] as usize
    }

    fn context_length(&self) -> Option<usize> {
        self.context
    }

    fn device(&self) -> Device {
        self.table.device()
    }

    fn logits(&self, batch: &PackedBatch) -> Result<Tensor> {
        batch.check_vocabulary(self.vocab_size())?;
        let current: Vec<i64> = batch.predict_rows().iter().map(|row| batch.ids()[*row as usize]).collect();
        self.rows_of(&current)
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![Parameter { name: "table".into(), tensor: self.table.shallow_clone(), decay: true }]
    }

    fn replicate(&self) -> Result<Box<dyn CausalLm>> {
        let table = self.table.f_detach()?.f_set_requires_grad(true)?;
        Ok(Box::new(Self { table, context: self.context }))
    }
}

impl CachedLm for BigramLm {
    fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache> {
        KvCache::new(&[], slots, capacity, Kind::Float, self.device())
    }

    fn extend(&self, cache: &mut KvCache, tokens: &[&[u32]]) -> Result<Tensor> {
        let mut last = Vec::new();
        for (slot, tokens) in tokens.iter().enumerate() {
            let token = tokens.last().ok_or_else(|| Error::input(format!("slot {slot}"), "no token"))?;
            cache.lengths[slot] += tokens.len();
            if cache.lengths[slot] > cache.capacity {
                return Err(Error::input(format!("slot {slot}"), "the cache is full"));
            }
            last.push(i64::from(*token));
        }
        let _guard = align_core::no_grad();
        self.rows_of(&last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use align_core::align_types::{Completion, PromptGroup};

    #[test]
    fn log_probabilities_are_those_of_the_table() {
        let table = Tensor::from_slice(&[0.0f64, 1.0, 2.0, 0.0]).reshape([2, 2]);
        let model = BigramLm::new(&table);
        let group = PromptGroup::new(vec![0], vec![Completion::new(vec![1, 0])]);
        let logps = model.token_log_probs(&PackedBatch::new(&[group]).unwrap(), 1.0).unwrap();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let got = Vec::<f64>::try_from(logps.values()).unwrap();
        crate::assert_close(&got, &[sigmoid(1.0).ln(), sigmoid(2.0).ln()], 1e-12);
    }

    #[test]
    fn the_gradient_check_catches_a_wrong_gradient() {
        let x = Tensor::from_slice(&[0.3f64, -0.7]);
        crate::gradient_check(&[x.copy()], 1e-6, |t| (&t[0] * &t[0]).sum(Kind::Double));
        let wrong = std::panic::catch_unwind(|| {
            crate::gradient_check(&[x.copy()], 1e-6, |t| (&t[0] * t[0].detach()).sum(Kind::Double));
        });
        assert!(wrong.is_err());
    }
}
