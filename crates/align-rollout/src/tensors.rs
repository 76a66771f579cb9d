//! One thread of the tensor backend: a model, sequences of its own, jobs from the common queue.

use align_core::{
    CachedLm, KvCache,
    align_types::TokenId,
    expect_shape, no_grad,
    tch::{Device, Kind, Tensor},
};

use crate::{
    Error, Result,
    sampling::NextToken,
    sequence::Sequence,
    slots,
    stop::StopRules,
    work::{Emit, Job, Work},
};

pub(crate) struct Worker<'c> {
    model: &'c dyn CachedLm,
    work: &'c Work<'c>,
    stop: StopRules<'c>,
    /// The prompt whose samples are entering.
    current: Option<Prefilled>,
    row: NextToken,
}

/// A prompt that has been computed once, for all samples of the job that have not entered yet.
struct Prefilled {
    job: Job,
    cache: KvCache,
    /// The distribution of the first token.
    first: NextToken,
}

impl<'c> Worker<'c> {
    pub(crate) fn new(model: &'c dyn CachedLm, work: &'c Work<'c>, stop: StopRules<'c>) -> Self {
        Self { model, work, stop, current: None, row: NextToken::default() }
    }

    /// Draws samples over `slots` sequences of at most `capacity` cached tokens until the queue is empty.
    pub(crate) fn run(mut self, slots: usize, capacity: usize, emit: &mut Emit<'_>) -> Result<()> {
        let _guard = no_grad();
        let mut cache = self
            .model
            .new_cache(slots, capacity)
            .map_err(Error::model(format!("making a cache of {slots} sequences of {capacity} tokens")))?;
        let mut running: Vec<Option<Sequence>> = Vec::new();
        running.resize_with(slots, || None);
        let mut logits = Vec::new();
        loop {
            self.refill(&mut running, &mut cache, emit)?;
            let last: Vec<&[TokenId]> = running.iter().flatten().map(Sequence::last).collect();
            if last.is_empty() || self.work.stopped() {
                return Ok(());
            }
            let doing = || format!("decoding {} sequences", last.len());
            let output = self.model.extend(&mut cache, &last).map_err(Error::model(doing()))?;
            copy_rows(&output, last.len(), self.model.vocab_size(), &mut logits)
                .map_err(Error::model(doing()))?;
            self.advance_all(&mut running, &logits, emit)?;
        }
    }

    /// Gives free slots to the sequences that wait, and drops the slots for which none is left.
    fn refill(
        &mut self,
        running: &mut Vec<Option<Sequence>>,
        cache: &mut KvCache,
        emit: &mut Emit<'_>,
    ) -> Result<()> {
        for (slot, place) in running.iter_mut().enumerate() {
            if place.is_some() {
                continue;
            }
            let Some(sequence) = self.next_sequence(emit)? else { break };
            if let Some(prefilled) = &self.current {
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

    /// Takes the next sample that needs a slot, with its first token drawn; its prompt is `current`.
    fn next_sequence(&mut self, emit: &mut Emit<'_>) -> Result<Option<Sequence>> {
        while !self.work.stopped() {
            let Some(mut current) = self.current.take().filter(|c| c.job.first_sample < c.job.end_sample)
            else {
                let Some(job) = self.work.next_job() else { return Ok(None) };
                self.current = Some(self.prefill(job)?);
                continue;
            };
            let call = &self.work.call;
            let mut sequence =
                Sequence::new(current.job.prompt, current.job.first_sample, call.numbering, call.config);
            current.job.first_sample += 1;
            let finished = self.work.advance(&mut sequence, |u| current.first.drawn(u), &self.stop, emit)?;
            self.current = Some(current);
            if !finished {
                return Ok(Some(sequence));
            }
        }
        Ok(None)
    }

    fn prefill(&self, job: Job) -> Result<Prefilled> {
        let prompt = self.work.call.prompt(job.prompt);
        let failed = |source| Error::Model {
            doing: format!("prompt {}", job.prompt),
            prompt: Some(job.prompt),
            source,
        };
        let mut cache = self.model.new_cache(1, prompt.len()).map_err(failed)?;
        let output = self.model.extend(&mut cache, &[prompt]).map_err(failed)?;
        let mut logits = Vec::new();
        copy_rows(&output, 1, self.model.vocab_size(), &mut logits).map_err(failed)?;
        let mut first = NextToken::default();
        if !first.set(&logits, [prompt, &[]], self.work.call.config) {
            return Err(Error::NonFinite { prompt: job.prompt, position: prompt.len() });
        }
        Ok(Prefilled { job, cache, first })
    }

    /// Draws a token for every running sequence from its row of logits; finished ones leave a free slot.
    fn advance_all(
        &mut self,
        running: &mut [Option<Sequence>],
        logits: &[f32],
        emit: &mut Emit<'_>,
    ) -> Result<()> {
        let mut row = std::mem::take(&mut self.row);
        for (place, logits) in running.iter_mut().zip(logits.chunks_exact(self.model.vocab_size().max(1))) {
            let Some(sequence) = place else { continue };
            let prompt = self.work.call.prompt(sequence.prompt);
            if !row.set(logits, [prompt, &sequence.tokens], self.work.call.config) {
                let position = prompt.len() + sequence.tokens.len();
                return Err(Error::NonFinite { prompt: sequence.prompt, position });
            }
            if self.work.advance(sequence, |u| row.drawn(u), &self.stop, emit)? {
                *place = None;
            }
        }
        self.row = row;
        Ok(())
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
