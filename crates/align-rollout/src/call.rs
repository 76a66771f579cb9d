use align_core::{
    CachedLm, KvCache,
    align_types::{Completion, PromptGroup, TokenId, config::SamplingConfig},
    expect_shape, no_grad,
    tch::{Device, Kind, Tensor},
};

use crate::{
    Error, Result,
    sampling::NextToken,
    sequence::{Numbering, Sequence},
    slots,
    stop::StopRules,
};

/// One call of the generator: the prompts that wait, the one whose samples are entering, and the results.
pub(crate) struct Call<'c> {
    model: &'c dyn CachedLm,
    config: &'c SamplingConfig,
    stop: StopRules<'c>,
    prompts: &'c [Vec<TokenId>],
    /// Most tokens of a completion of each prompt.
    limits: &'c [usize],
    groups: Vec<PromptGroup>,
    row: NextToken,
}

/// A prompt that has been computed once, for all of its samples.
struct Prefilled {
    prompt: usize,
    cache: KvCache,
    /// The distribution of the first token.
    first: NextToken,
    next_sample: usize,
}

/// The prompts and samples that have not entered yet, in order.
struct Queue {
    numbering: Numbering,
    next_prompt: usize,
    current: Option<Prefilled>,
}

impl<'c> Call<'c> {
    pub(crate) fn new(
        model: &'c dyn CachedLm,
        config: &'c SamplingConfig,
        stop: StopRules<'c>,
        prompts: &'c [Vec<TokenId>],
        limits: &'c [usize],
    ) -> Self {
        let groups = prompts
            .iter()
            .map(|prompt| {
                PromptGroup::new(prompt.clone(), vec![Completion::default(); config.num_completions])
            })
            .collect();
        Self { model, config, stop, prompts, limits, groups, row: NextToken::default() }
    }

    /// Draws all samples over `slots` sequences of at most `capacity` cached tokens.
    pub(crate) fn run(
        mut self,
        numbering: Numbering,
        slots: usize,
        capacity: usize,
    ) -> Result<Vec<PromptGroup>> {
        let _guard = no_grad();
        let mut queue = Queue { numbering, next_prompt: 0, current: None };
        let mut cache = self
            .model
            .new_cache(slots, capacity)
            .map_err(Error::model(format!("making a cache of {slots} sequences of {capacity} tokens")))?;
        let mut running: Vec<Option<Sequence>> = Vec::new();
        running.resize_with(slots, || None);
        let mut logits = Vec::new();
        loop {
            self.refill(&mut queue, &mut running, &mut cache)?;
            let last: Vec<&[TokenId]> = running.iter().flatten().map(Sequence::last).collect();
            if last.is_empty() {
                return Ok(self.groups);
            }
            let doing = || format!("decoding {} sequences", last.len());
            let output = self.model.extend(&mut cache, &last).map_err(Error::model(doing()))?;
            copy_rows(&output, last.len(), self.model.vocab_size(), &mut logits)
                .map_err(Error::model(doing()))?;
            self.advance_all(&mut running, &logits)?;
        }
    }

    /// Gives free slots to the sequences that wait, and drops the slots for which none is left.
    fn refill(
        &mut self,
        queue: &mut Queue,
        running: &mut Vec<Option<Sequence>>,
        cache: &mut KvCache,
    ) -> Result<()> {
        for (slot, place) in running.iter_mut().enumerate() {
            if place.is_some() {
                continue;
            }
            let Some(sequence) = self.next_sequence(queue)? else { break };
            if let Some(prefilled) = &queue.current {
                slots::put(cache, slot, &prefilled.cache).map_err(Error::model("filling the cache"))?;
            }
            *place = Some(sequence);
        }
        for slot in (0..running.len()).rev() {
            if running.get(slot).is_some_and(Option::is_none) {
                running.swap_remove(slot);
                slots::swap_remove(cache, slot).map_err(Error::model("shrinking the cache"))?;
            }
        }
        Ok(())
    }

    /// Takes the next sample that needs a slot, with its first token drawn; its prompt is `queue.current`.
    fn next_sequence(&mut self, queue: &mut Queue) -> Result<Option<Sequence>> {
        loop {
            if queue.current.as_ref().is_none_or(|c| c.next_sample >= self.config.num_completions) {
                // Dropped before the next prompt is computed, so that one prompt's cache exists at a time.
                queue.current = None;
                let Some(prompt) = self.prompts.get(queue.next_prompt) else { return Ok(None) };
                queue.current = Some(self.prefill(queue.next_prompt, prompt)?);
                queue.next_prompt += 1;
            }
            let Some(current) = &mut queue.current else { return Ok(None) };
            let sample = current.next_sample;
            current.next_sample += 1;
            let mut sequence = Sequence::new(current.prompt, sample, queue.numbering, self.config);
            if !self.advance(&mut sequence, &current.first)? {
                return Ok(Some(sequence));
            }
        }
    }

    fn prefill(&self, index: usize, prompt: &[TokenId]) -> Result<Prefilled> {
        let failed = |source| Error::Model { doing: format!("prompt {index}"), source };
        let mut cache = self.model.new_cache(1, prompt.len()).map_err(failed)?;
        let output = self.model.extend(&mut cache, &[prompt]).map_err(failed)?;
        let mut logits = Vec::new();
        copy_rows(&output, 1, self.model.vocab_size(), &mut logits).map_err(failed)?;
        let mut first = NextToken::default();
        if !first.set(&logits, self.config) {
            return Err(Error::NonFinite { prompt: index, position: prompt.len() });
        }
        Ok(Prefilled { prompt: index, cache, first, next_sample: 0 })
    }

    /// Draws a token for every running sequence from its row of logits; finished ones leave a free slot.
    fn advance_all(&mut self, running: &mut [Option<Sequence>], logits: &[f32]) -> Result<()> {
        let mut row = std::mem::take(&mut self.row);
        for (place, logits) in running.iter_mut().zip(logits.chunks_exact(self.model.vocab_size().max(1))) {
            let Some(sequence) = place else { continue };
            if !row.set(logits, self.config) {
                let prompt = sequence.prompt;
                let before = self.prompts.get(prompt).map_or(0, Vec::len);
                return Err(Error::NonFinite { prompt, position: before + sequence.tokens.len() });
            }
            if self.advance(sequence, &row)? {
                *place = None;
            }
        }
        self.row = row;
        Ok(())
    }

    /// Draws one token; says whether the sequence is finished, and writes its completion if so.
    fn advance(&mut self, sequence: &mut Sequence, row: &NextToken) -> Result<bool> {
        let token = row.draw(sequence.stream.uniform());
        let Sequence { prompt, sample, .. } = *sequence;
        let limit = self.limits.get(prompt).copied().unwrap_or(0);
        let Some(completion) = sequence.push(token, row.log_prob(token), &self.stop, limit)? else {
            return Ok(false);
        };
        if let Some(place) = self.groups.get_mut(prompt).and_then(|group| group.completions.get_mut(sample)) {
            *place = completion;
        }
        Ok(true)
    }
}

/// Copies logits `[rows, vocabulary]` into a buffer as float32.
fn copy_rows(
    logits: &Tensor,
    rows: usize,
    vocabulary: usize,
    buffer: &mut Vec<f32>,
) -> align_core::Result<()> {
    expect_shape("logits", logits, &[rows as i64, vocabulary as i64])?;
    let plain = logits.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    buffer.resize(plain.numel(), 0.0);
    plain.f_copy_data(buffer, plain.numel())?;
    Ok(())
}
