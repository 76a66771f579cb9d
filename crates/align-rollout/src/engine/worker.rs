//! One thread of the engine: sequences of its own, jobs from the common queue.

use std::collections::VecDeque;

use align_core::align_types::TokenId;

use super::{
    blocks::{Pool, Table},
    forward::{Buffers, Decoder, Piece, Step},
    lanes::Lane,
    row::Row,
};
use crate::{
    Error, Result,
    sequence::Sequence,
    stop::StopRules,
    work::{Emit, Job, Work},
};

/// Rows of prompts that enter one step: enough for the kernels to work at full speed, few enough to stay in cache.
const PROMPT_ROWS: usize = 256;

/// A prompt on its way through the model, and the samples that wait for it.
struct Entering {
    job: Job,
    table: Table,
    /// The distribution of the first token, once the prompt is computed.
    first: Option<Row>,
}

struct Running {
    sequence: Sequence,
    table: Table,
}

pub(crate) struct Worker<'c> {
    shared: Shared<'c>,
    pool: Pool,
    running: Vec<Running>,
    entering: VecDeque<Entering>,
    row: Row,
    /// Rows of prompts that are done, for the next one.
    spare: Vec<Row>,
}

/// What a worker reads only.
struct Shared<'c> {
    work: &'c Work<'c>,
    decoder: Decoder<'c>,
    stop: StopRules<'c>,
    /// Sequences that are decoded together.
    slots: usize,
}

impl<'c> Worker<'c> {
    pub(crate) fn new(work: &'c Work<'c>, decoder: Decoder<'c>, slots: usize, stop: StopRules<'c>) -> Self {
        Self {
            pool: Pool::new(&decoder.weights.shape),
            shared: Shared { work, decoder, stop, slots },
            running: Vec::new(),
            entering: VecDeque::new(),
            row: Row::default(),
            spare: Vec::new(),
        }
    }

    /// Works until the queue is empty, another thread failed, or nobody listens any more.
    pub(crate) fn run(mut self, emit: &mut Emit<'_>) -> Result<()> {
        let mut buffers = Buffers::default();
        while !self.shared.work.stopped() && self.step(&mut buffers, emit)? {}
        Ok(())
    }

    /// Computes one token of every running sequence and some rows of new prompts; `false` when all is done.
    fn step(&mut self, buffers: &mut Buffers, emit: &mut Emit<'_>) -> Result<bool> {
        self.admit();
        let mut rows = Rows::default();
        for running in &mut self.running {
            self.pool.extend(&mut running.table, 1);
        }
        let mut room = PROMPT_ROWS;
        for entering in self.entering.iter_mut().filter(|entering| entering.first.is_none()) {
            let left = self.shared.work.call.prompt(entering.job.prompt).len() - entering.table.len();
            let count = left.min(room);
            self.pool.extend(&mut entering.table, count);
            rows.prompts.push(count);
            room -= count;
        }
        if self.running.is_empty() && rows.prompts.is_empty() {
            return Ok(false);
        }
        let step = rows.step(&self.running, &self.entering, self.shared.work);
        let decoder = self.shared.decoder;
        let logits = decoder.forward(&mut self.pool, &step, buffers);
        let stride = decoder.weights.head.out_lanes();
        self.take(logits, stride, emit)?;
        Ok(true)
    }

    /// Takes jobs while their samples would find a slot.
    fn admit(&mut self) {
        let waiting = |e: &Entering| e.job.end_sample - e.job.first_sample;
        let mut demand = self.running.len() + self.entering.iter().map(waiting).sum::<usize>();
        while demand < self.shared.slots {
            let Some(job) = self.shared.work.next_job() else { return };
            demand += job.end_sample - job.first_sample;
            self.entering.push_back(Entering { job, table: Table::default(), first: None });
        }
    }

    /// Draws from the logits of a step: first the running sequences, then the prompts that are complete.
    fn take(&mut self, logits: &mut [Lane], stride: usize, emit: &mut Emit<'_>) -> Result<()> {
        let mut logits = logits.chunks_exact_mut(stride.max(1));
        let mut row = std::mem::take(&mut self.row);
        let mut finished = Vec::new();
        for (index, (running, logits)) in self.running.iter_mut().zip(logits.by_ref()).enumerate() {
            self.shared.set(&mut row, logits, running.sequence.prompt, &running.sequence.tokens)?;
            if self.shared.work.advance(&mut running.sequence, |u| row.drawn(u), &self.shared.stop, emit)? {
                finished.push(index);
            }
        }
        self.row = row;
        for index in finished.into_iter().rev() {
            let running = self.running.swap_remove(index);
            self.pool.release(running.table);
        }
        let call = &self.shared.work.call;
        let complete =
            |e: &&mut Entering| e.first.is_none() && e.table.len() == call.prompt(e.job.prompt).len();
        let complete = self.entering.iter_mut().filter(complete);
        for (entering, logits) in complete.zip(logits) {
            let mut row = self.spare.pop().unwrap_or_default();
            self.shared.set(&mut row, logits, entering.job.prompt, &[])?;
            entering.first = Some(row);
        }
        self.start(emit)
    }

    /// Gives free slots to the samples of complete prompts.
    fn start(&mut self, emit: &mut Emit<'_>) -> Result<()> {
        let call = &self.shared.work.call;
        while let Some(entering) = self.entering.front_mut() {
            let Some(first) = &entering.first else { return Ok(()) };
            let job = &mut entering.job;
            while job.first_sample < job.end_sample && self.running.len() < self.shared.slots {
                let mut sequence = Sequence::new(job.prompt, job.first_sample, call.numbering, call.config);
                job.first_sample += 1;
                if self.shared.work.advance(&mut sequence, |u| first.drawn(u), &self.shared.stop, emit)? {
                    continue;
                }
                // The last sample takes the prompt's blocks over.
                let table = match job.first_sample == job.end_sample {
                    true => std::mem::take(&mut entering.table),
                    false => self.pool.fork(&entering.table),
                };
                self.running.push(Running { sequence, table });
            }
            if job.first_sample < job.end_sample {
                return Ok(());
            }
            if let Some(done) = self.entering.pop_front() {
                self.pool.release(done.table);
                self.spare.extend(done.first);
            }
        }
        Ok(())
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        for running in self.running.drain(..) {
            self.pool.release(running.table);
        }
        for entering in self.entering.drain(..) {
            self.pool.release(entering.table);
        }
        debug_assert_eq!(self.pool.in_use(), 0, "blocks of the cache are lost");
    }
}

impl Shared<'_> {
    /// Makes the distribution of the token that follows a prompt and what was drawn.
    fn set(&self, row: &mut Row, logits: &mut [Lane], prompt: usize, drawn: &[TokenId]) -> Result<()> {
        let call = &self.work.call;
        let before = [call.prompt(prompt), drawn];
        match row.set(self.decoder.kernels, logits, self.decoder.weights.shape.vocab, before, call.config) {
            true => Ok(()),
            false => {
                Err(Error::NonFinite { prompt, position: before.iter().map(|tokens| tokens.len()).sum() })
            }
        }
    }
}

/// How many rows each prompt that enters has in a step.
#[derive(Default)]
struct Rows {
    prompts: Vec<usize>,
}

impl Rows {
    /// Lays out the rows: running sequences first, then prompts. All of them have room in their tables.
    fn step<'t>(
        &self,
        running: &'t [Running],
        entering: &'t VecDeque<Entering>,
        work: &Work<'_>,
    ) -> Step<'t> {
        let mut step = Step::default();
        for running in running {
            let (row, position) = (step.tokens.len(), running.table.len() - 1);
            step.tokens.extend(running.sequence.last());
            step.pieces.push(Piece { table: &running.table, row, rows: 1, position, prompt: false });
            step.wanted.push(row);
        }
        let incomplete = entering.iter().filter(|entering| entering.first.is_none());
        for (entering, rows) in incomplete.zip(&self.prompts).filter(|(_, rows)| **rows > 0) {
            let (row, position) = (step.tokens.len(), entering.table.len() - rows);
            let prompt = work.call.prompt(entering.job.prompt);
            step.tokens.extend(prompt.get(position..position + rows).unwrap_or_default());
            step.pieces.push(Piece { table: &entering.table, row, rows: *rows, position, prompt: true });
            if position + rows == prompt.len() {
                step.wanted.push(row + rows - 1);
            }
        }
        step
    }
}
