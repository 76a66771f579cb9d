//! One thread of the engine: sequences of its own, jobs from the common queue.

use std::{
    collections::VecDeque,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::Sender,
    },
};

use align_core::align_types::{Completion, TokenId, config::SamplingConfig};

use super::{
    blocks::{Pool, Table},
    forward::{Buffers, Decoder, Piece, Step},
    lanes::Lane,
    row::Row,
};
use crate::{
    Error, Result,
    sequence::{Numbering, Sequence},
    stop::StopRules,
};

/// Rows of prompts that enter one step: enough for the kernels to work at full speed, few enough to stay in cache.
const PROMPT_ROWS: usize = 256;

/// A prompt and those of its samples that one thread draws.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) prompt: usize,
    pub(crate) first_sample: usize,
    pub(crate) end_sample: usize,
}

/// What all threads of one call share; nothing of it is ever waited for.
pub(crate) struct Shared<'c> {
    pub(crate) decoder: Decoder<'c>,
    pub(crate) prompts: &'c [Vec<TokenId>],
    /// Most tokens of a completion of each prompt.
    pub(crate) limits: &'c [usize],
    pub(crate) config: &'c SamplingConfig,
    pub(crate) numbering: Numbering,
    pub(crate) jobs: &'c [Job],
    pub(crate) next_job: AtomicUsize,
    pub(crate) stopped: AtomicBool,
    /// Sequences that one thread decodes together.
    pub(crate) slots: usize,
}

impl Shared<'_> {
    fn next_job(&self) -> Option<Job> {
        self.jobs.get(self.next_job.fetch_add(1, Ordering::Relaxed)).copied()
    }
}

/// A finished sample: prompt, sample, completion.
pub(crate) type Finished = (usize, usize, Completion);

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
    shared: &'c Shared<'c>,
    stop: StopRules<'c>,
    sink: Sender<Result<Finished>>,
    pool: Pool,
    running: Vec<Running>,
    entering: VecDeque<Entering>,
    row: Row,
    /// Rows of prompts that are done, for the next one.
    spare: Vec<Row>,
}

impl<'c> Worker<'c> {
    pub(crate) fn new(shared: &'c Shared<'c>, stop: StopRules<'c>, sink: Sender<Result<Finished>>) -> Self {
        Self {
            pool: Pool::new(&shared.decoder.weights.shape),
            shared,
            stop,
            sink,
            running: Vec::new(),
            entering: VecDeque::new(),
            row: Row::default(),
            spare: Vec::new(),
        }
    }

    /// Works until the queue is empty, another thread failed, or nobody listens any more.
    pub(crate) fn run(mut self) {
        let mut buffers = Buffers::default();
        while !self.shared.stopped.load(Ordering::Relaxed) {
            match self.step(&mut buffers) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.shared.stopped.store(true, Ordering::Relaxed);
                    // Without a listener there is nobody to tell.
                    let _ = self.sink.send(Err(error));
                }
            }
        }
    }

    /// Computes one token of every running sequence and some rows of new prompts; `false` when all is done.
    fn step(&mut self, buffers: &mut Buffers) -> Result<bool> {
        self.admit();
        let mut rows = Rows::default();
        for running in &mut self.running {
            self.pool.extend(&mut running.table, 1);
        }
        let mut room = PROMPT_ROWS;
        for entering in self.entering.iter_mut().filter(|entering| entering.first.is_none()) {
            let left =
                self.shared.prompts.get(entering.job.prompt).map_or(0, Vec::len) - entering.table.len();
            let count = left.min(room);
            self.pool.extend(&mut entering.table, count);
            rows.prompts.push(count);
            room -= count;
        }
        if self.running.is_empty() && rows.prompts.is_empty() {
            return Ok(false);
        }
        let step = rows.step(&self.running, &self.entering, self.shared.prompts);
        let decoder = self.shared.decoder;
        let logits = decoder.forward(&mut self.pool, &step, buffers);
        let stride = decoder.weights.head.out_lanes();
        self.take(logits, stride)?;
        Ok(true)
    }

    /// Takes jobs while their samples would find a slot.
    fn admit(&mut self) {
        let waiting = |e: &Entering| e.job.end_sample - e.job.first_sample;
        let mut demand = self.running.len() + self.entering.iter().map(waiting).sum::<usize>();
        while demand < self.shared.slots {
            let Some(job) = self.shared.next_job() else { return };
            demand += job.end_sample - job.first_sample;
            self.entering.push_back(Entering { job, table: Table::default(), first: None });
        }
    }

    /// Draws from the logits of a step: first the running sequences, then the prompts that are complete.
    fn take(&mut self, logits: &mut [Lane], stride: usize) -> Result<()> {
        let mut logits = logits.chunks_exact_mut(stride.max(1));
        let mut row = std::mem::take(&mut self.row);
        let mut finished = Vec::new();
        for (index, (running, logits)) in self.running.iter_mut().zip(logits.by_ref()).enumerate() {
            self.shared.set(&mut row, logits, running.sequence.prompt, running.table.len())?;
            if advance(self.shared, &self.stop, &self.sink, &mut running.sequence, &row)? {
                finished.push(index);
            }
        }
        self.row = row;
        for index in finished.into_iter().rev() {
            let running = self.running.swap_remove(index);
            self.pool.release(running.table);
        }
        let length = |job: Job| self.shared.prompts.get(job.prompt).map_or(0, Vec::len);
        let complete =
            self.entering.iter_mut().filter(|e| e.first.is_none() && e.table.len() == length(e.job));
        for (entering, logits) in complete.zip(logits) {
            let mut row = self.spare.pop().unwrap_or_default();
            self.shared.set(&mut row, logits, entering.job.prompt, entering.table.len())?;
            entering.first = Some(row);
        }
        self.start()
    }

    /// Gives free slots to the samples of complete prompts.
    fn start(&mut self) -> Result<()> {
        while let Some(entering) = self.entering.front_mut() {
            let Some(first) = &entering.first else { return Ok(()) };
            let job = &mut entering.job;
            while job.first_sample < job.end_sample && self.running.len() < self.shared.slots {
                let shared = self.shared;
                let mut sequence =
                    Sequence::new(job.prompt, job.first_sample, shared.numbering, shared.config);
                job.first_sample += 1;
                if advance(shared, &self.stop, &self.sink, &mut sequence, first)? {
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
    fn set(&self, row: &mut Row, logits: &mut [Lane], prompt: usize, position: usize) -> Result<()> {
        match row.set(self.decoder.kernels, logits, self.decoder.weights.shape.vocab, self.config) {
            true => Ok(()),
            false => Err(Error::NonFinite { prompt, position }),
        }
    }
}

/// Draws one token; sends the completion and says `true` if it was the last.
fn advance(
    shared: &Shared<'_>,
    stop: &StopRules<'_>,
    sink: &Sender<Result<Finished>>,
    sequence: &mut Sequence,
    row: &Row,
) -> Result<bool> {
    let token = row.draw(sequence.stream.uniform());
    let limit = shared.limits.get(sequence.prompt).copied().unwrap_or(0);
    let Some(completion) = sequence.push(token, row.log_prob(token), stop, limit)? else {
        return Ok(false);
    };
    if sink.send(Ok((sequence.prompt, sequence.sample, completion))).is_err() {
        shared.stopped.store(true, Ordering::Relaxed);
    }
    Ok(true)
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
        prompts: &[Vec<TokenId>],
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
            let prompt = prompts.get(entering.job.prompt).map_or(&[][..], Vec::as_slice);
            step.tokens.extend(prompt.get(position..position + rows).unwrap_or_default());
            step.pieces.push(Piece { table: &entering.table, row, rows: *rows, position, prompt: true });
            if position + rows == prompt.len() {
                step.wanted.push(row + rows - 1);
            }
        }
        step
    }
}
