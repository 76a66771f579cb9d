use std::sync::{Mutex, MutexGuard, PoisonError};

use align_core::{
    Error, PackedBatch, Result,
    align_types::{Purpose, RngStream},
    tch::{Device, Tensor},
};

/// Mixes words into one; the multipliers are those of the SplitMix64 generator.
///
/// The values are part of the exact-resume contract: they never change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mixed(u64);

impl Mixed {
    pub(crate) fn of(words: impl IntoIterator<Item = u64>) -> u64 {
        let mut mixed = Self(0);
        words.into_iter().for_each(|word| mixed.word(word));
        mixed.0
    }

    pub(crate) fn text(text: &str) -> u64 {
        Self::of(text.bytes().map(u64::from))
    }

    fn word(&mut self, word: u64) {
        let mut z = (self.0 ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = z ^ (z >> 31);
    }
}

/// Drops inputs of adapters while a model is trained.
///
/// The mask of a prompt group in a layer is a function of seed, step, layer and the group's tokens. So it does not
/// depend on how a batch is cut, on threads, or on where a run was interrupted; two equal groups of one batch share it.
#[derive(Debug)]
pub(crate) struct Dropout {
    probability: f64,
    seed: u64,
    pass: Mutex<Pass>,
}

/// What the pass at hand is.
#[derive(Debug, Default, Clone)]
pub(crate) struct Pass {
    /// The optimiser step; none where nothing is trained.
    step: Option<u64>,
    /// What stands for each group, and its rows in the flat stream.
    groups: Vec<(u64, usize)>,
    device: Option<Device>,
}

impl Dropout {
    /// Returns `None` where nothing is dropped.
    pub(crate) fn new(probability: f64, seed: u64) -> Option<Self> {
        (probability > 0.0).then(|| Self { probability, seed, pass: Mutex::default() })
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The share of inputs that is kept.
    pub(crate) fn kept(&self) -> f64 {
        1.0 - self.probability
    }

    pub(super) fn pass(&self) -> MutexGuard<'_, Pass> {
        // A thread that panicked leaves a pass that is whole: each field is set at once.
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin_step(&self, step: Option<u64>) {
        self.pass().step = step;
    }

    /// Notes the rows that the layers will see next.
    pub(crate) fn enter(&self, batch: &PackedBatch, device: Device) {
        let mut pass = self.pass();
        pass.device = Some(device);
        pass.groups.clear();
        if pass.step.is_none() {
            return;
        }
        for span in batch.groups() {
            let rows = span.len();
            let ids = batch.ids().get(span.start..span.start + rows).unwrap_or_default();
            let lengths = std::iter::once(span.prompt_len).chain(span.completion_lens.iter().copied());
            let group = Mixed::of(lengths.map(|n| n as u64).chain(ids.iter().map(|id| *id as u64)));
            pass.groups.push((group, rows));
        }
    }

    /// Draws which inputs of a layer are kept, `[T, inputs]` of ones and zeros; `None` where nothing is trained.
    pub(crate) fn mask(&self, module: u64, (rows, inputs): (i64, i64)) -> Result<Option<Tensor>> {
        let pass = self.pass();
        let Some(step) = pass.step else { return Ok(None) };
        let known: usize = pass.groups.iter().map(|(_, rows)| rows).sum();
        if known != rows as usize {
            let why = format!("a layer sees {rows} rows of a batch that has {known}");
            return Err(Error::input("dropout of adapters", why));
        }
        let dropped = (self.probability * 2f64.powi(32)) as u32;
        let mut kept = Vec::with_capacity(known * inputs as usize);
        for (group, rows) in &pass.groups {
            let key = Mixed::of([module, *group]);
            let mut stream = RngStream::new(self.seed, Purpose::Dropout, step, key);
            let halves =
                std::iter::repeat_with(|| stream.bits()).flat_map(|bits| [bits as u32, (bits >> 32) as u32]);
            kept.extend(halves.take(rows * inputs as usize).map(|half| u8::from(half >= dropped)));
        }
        let mask = Tensor::f_from_slice(&kept)?.f_view([rows, inputs])?;
        Ok(Some(mask.f_to_device(pass.device.unwrap_or(Device::Cpu))?))
    }
}

#[cfg(test)]
mod tests {
    use align_core::align_types::{Completion, PromptGroup};

    use super::*;

    fn group(prompt: &[u32], answer: &[u32]) -> PromptGroup {
        PromptGroup::new(prompt.to_vec(), vec![Completion::new(answer.to_vec())])
    }

    fn mask(dropout: &Dropout, groups: &[PromptGroup], module: u64) -> Vec<Vec<u8>> {
        let batch = PackedBatch::new(groups).unwrap();
        dropout.enter(&batch, Device::Cpu);
        let mask = dropout.mask(module, (batch.tokens() as i64, 300)).unwrap().unwrap();
        Vec::try_from(mask).unwrap()
    }

    #[test]
    fn masks_follow_groups_steps_and_layers() {
        let dropout = Dropout::new(0.3, 1).unwrap();
        dropout.begin_step(Some(4));
        let (a, b) = (group(&[1, 2], &[3, 4]), group(&[5], &[6]));
        let both = mask(&dropout, &[a.clone(), b.clone()], 7);
        let alone = [mask(&dropout, &[a.clone()], 7), mask(&dropout, &[b], 7)].concat();
        assert_eq!(both, alone, "the cut of a batch does not matter");
        assert_ne!(
            both[..4],
            mask(&dropout, &[group(&[1], &[2, 3, 4])], 7),
            "the same tokens, cut otherwise"
        );
        assert_ne!(both[..4], mask(&dropout, &[a.clone()], 8));
        dropout.begin_step(Some(5));
        assert_ne!(both[..4], mask(&dropout, &[a.clone()], 7));
        // 1800 draws: the share has a standard deviation of 0.011.
        let kept = both.iter().flatten().filter(|x| **x == 1).count() as f64 / 1800.0;
        assert!((kept - 0.7).abs() < 0.05, "{kept}");
        dropout.begin_step(None);
        dropout.enter(&PackedBatch::new(&[a]).unwrap(), Device::Cpu);
        assert!(dropout.mask(7, (4, 300)).unwrap().is_none());
    }

    #[test]
    fn rows_of_another_batch_are_refused() {
        let dropout = Dropout::new(0.5, 1).unwrap();
        dropout.begin_step(Some(0));
        dropout.enter(&PackedBatch::new(&[group(&[1], &[2])]).unwrap(), Device::Cpu);
        assert!(dropout.mask(0, (3, 8)).unwrap_err().to_string().contains("3 rows of a batch that has 2"));
        assert!(Dropout::new(0.0, 1).is_none());
    }
}
