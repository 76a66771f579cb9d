//! A model that remembers: the next token depends on every token before it and on its place, read back from the
//! cache. A key in a wrong slot, a stale length or a missing prompt changes what it says, bit for bit.

use std::sync::atomic::{AtomicUsize, Ordering};

use align_core::{
    CachedLm, CausalLm, Error, KvCache, PackedBatch, Parameter, Result,
    align_types::{Purpose, RngStream},
    tch::{Device, Kind, Tensor},
};

const ROWS: i64 = 97;

pub struct HistoryLm {
    /// `[ROWS, V]`: the logits that follow each hash of a history.
    table: Tensor,
    context: Option<usize>,
    /// Tokens that went through `extend`.
    pub rows: AtomicUsize,
    /// Most slots that one `extend` had.
    pub widest: AtomicUsize,
}

impl HistoryLm {
    pub fn new(vocab: i64) -> Self {
        let mut stream = RngStream::new(5, Purpose::Init, 0, 0);
        let table: Vec<f32> = (0..ROWS * vocab).map(|_| (1.5 * stream.normal()) as f32).collect();
        let table = Tensor::from_slice(&table).reshape([ROWS, vocab]);
        Self { table, context: None, rows: AtomicUsize::new(0), widest: AtomicUsize::new(0) }
    }

    pub fn with_context(mut self, tokens: usize) -> Self {
        self.context = Some(tokens);
        self
    }

    fn row_of(history: &[f32]) -> i64 {
        let hash: i64 = (1..).zip(history).map(|(place, token)| place * (*token as i64 + 1)).sum();
        hash % ROWS
    }
}

impl CausalLm for HistoryLm {
    fn vocab_size(&self) -> usize {
        self.table.size()[1] as usize
    }

    fn context_length(&self) -> Option<usize> {
        self.context
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn logits(&self, batch: &PackedBatch) -> Result<Tensor> {
        let mut rows = Vec::new();
        for group in batch.groups() {
            let tokens = |range: std::ops::Range<usize>| {
                batch.ids()[group.start..][range].iter().map(|id| *id as f32).collect::<Vec<_>>()
            };
            let prompt = tokens(0..group.prompt_len);
            for range in group.completions() {
                let history = [prompt.clone(), tokens(range.clone())].concat();
                rows.extend((0..range.len()).map(|n| Self::row_of(&history[..group.prompt_len + n])));
            }
        }
        Ok(self.table.f_index_select(0, &Tensor::from_slice(&rows))?)
    }

    fn parameters(&self) -> Vec<Parameter> {
        Vec::new()
    }

    fn replicate(&self) -> Result<Box<dyn CausalLm>> {
        Err(Error::input("history model", "is not trained"))
    }
}

impl CachedLm for HistoryLm {
    fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache> {
        KvCache::new(&[(1, 1)], slots, capacity, Kind::Float, Device::Cpu)
    }

    fn extend(&self, cache: &mut KvCache, tokens: &[&[u32]]) -> Result<Tensor> {
        assert_eq!(tokens.len(), cache.slots());
        assert_eq!(cache.layers[0].keys.size()[0] as usize, cache.slots());
        self.widest.fetch_max(tokens.len(), Ordering::Relaxed);
        let mut rows = Vec::new();
        for (slot, tokens) in tokens.iter().enumerate() {
            assert!(!tokens.is_empty());
            self.rows.fetch_add(tokens.len(), Ordering::Relaxed);
            let keys = cache.layers[0].keys.select(0, slot as i64).reshape([-1]);
            for token in *tokens {
                assert!(cache.lengths[slot] < cache.capacity, "the cache is full");
                let _ = keys.get(cache.lengths[slot] as i64).fill_(f64::from(*token));
                cache.lengths[slot] += 1;
            }
            let history: Vec<f32> = Vec::try_from(keys.narrow(0, 0, cache.lengths[slot] as i64)).unwrap();
            rows.push(Self::row_of(&history));
        }
        Ok(self.table.f_index_select(0, &Tensor::from_slice(&rows))?)
    }
}
