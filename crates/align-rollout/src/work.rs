//! The work of one call, cut into jobs that threads take from one queue, and its results in order.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use align_core::align_types::{Completion, PromptGroup, TokenId, config::SamplingConfig};

use crate::{
    Error, Result, door,
    sequence::{Numbering, Sequence},
    settings::Settings,
    stop::StopRules,
};

/// Takes complete groups in the order of the prompts.
pub(crate) type Sink<'s> = dyn FnMut(PromptGroup) -> ControlFlow<()> + 's;

/// Takes finished samples in any order.
pub(crate) type Emit<'s> = dyn FnMut(Finished) -> ControlFlow<()> + 's;

/// What draws the samples.
pub(crate) trait Backend<'a> {
    fn settings(&self) -> &Settings<'a>;
    fn settings_mut(&mut self) -> &mut Settings<'a>;
    fn vocabulary(&self) -> usize;
    fn context(&self) -> Option<usize>;

    /// Takes the weights of the model as they are now.
    fn refresh(&mut self) -> Result<()> {
        Ok(())
    }

    /// Draws all samples; no sequence is longer than `capacity`.
    fn draw(&mut self, call: &Call<'_>, capacity: usize, sink: &mut Sink<'_>) -> Result<()>;
}

/// Checks a request and draws it.
pub(crate) fn run<'a>(
    backend: &mut impl Backend<'a>,
    numbering: Numbering,
    prompts: &[Vec<TokenId>],
    config: &SamplingConfig,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let decodes = backend.settings().decode.is_some();
    let limits = door::limits(backend.vocabulary(), backend.context(), decodes, prompts, config)?;
    let Some(capacity) = door::capacity(prompts, &limits) else { return Ok(()) };
    let call = Call { prompts, limits: &limits, config, numbering };
    backend.draw(&call, capacity, sink)
}

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'c> {
    pub(crate) prompts: &'c [Vec<TokenId>],
    /// Most tokens of a completion of each prompt.
    pub(crate) limits: &'c [usize],
    pub(crate) config: &'c SamplingConfig,
    pub(crate) numbering: Numbering,
}

impl<'c> Call<'c> {
    pub(crate) fn prompt(&self, index: usize) -> &'c [TokenId] {
        self.prompts.get(index).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn limit(&self, prompt: usize) -> usize {
        self.limits.get(prompt).copied().unwrap_or(0)
    }

    pub(crate) fn samples(&self) -> usize {
        self.prompts.len().saturating_mul(self.config.num_completions)
    }

    /// Cuts the samples into jobs for at most so many threads.
    pub(crate) fn work(self, threads: usize) -> Work<'c> {
        let threads = threads.clamp(1, self.samples().max(1));
        Work {
            call: self,
            threads,
            jobs: jobs(self.prompts.len(), self.config.num_completions, threads),
            next_job: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        }
    }
}

/// A prompt and those of its samples that one thread draws.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) prompt: usize,
    pub(crate) first_sample: usize,
    pub(crate) end_sample: usize,
}

/// What all threads of one call share; nothing of it is ever waited for.
#[derive(Debug)]
pub(crate) struct Work<'c> {
    pub(crate) call: Call<'c>,
    pub(crate) threads: usize,
    jobs: Vec<Job>,
    next_job: AtomicUsize,
    stopped: AtomicBool,
}

impl Work<'_> {
    pub(crate) fn next_job(&self) -> Option<Job> {
        self.jobs.get(self.next_job.fetch_add(1, Ordering::Relaxed)).copied()
    }

    /// Says whether another thread failed or nobody listens any more.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Appends to a sequence what `draw` makes of its next uniform number, a token and its log-probability; hands the
    /// completion out and says `true` if it was the last.
    pub(crate) fn advance(
        &self,
        sequence: &mut Sequence,
        draw: impl FnOnce(f64) -> (TokenId, f64),
        stop: &StopRules<'_>,
        emit: &mut Emit<'_>,
    ) -> Result<bool> {
        let (token, log_prob) = draw(sequence.stream.uniform());
        let Sequence { prompt, sample, .. } = *sequence;
        let limit = self.call.limit(prompt);
        let Some(completion) = sequence.push(token, log_prob, stop, limit)? else {
            return Ok(false);
        };
        if let ControlFlow::Break(()) = emit(Finished { prompt, sample, completion }) {
            self.stop();
        }
        Ok(true)
    }

    /// Runs a worker on the calling thread.
    pub(crate) fn here(
        &self,
        worker: impl FnOnce(&mut Emit<'_>) -> Result<()>,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let mut groups = Groups::new(&self.call);
        worker(&mut |finished| groups.take(finished, sink))
    }

    /// Runs each worker on a thread of its own.
    pub(crate) fn on_threads<W>(
        &self,
        workers: impl IntoIterator<Item = W>,
        sink: &mut Sink<'_>,
    ) -> Result<()>
    where
        W: FnOnce(&mut Emit<'_>) -> Result<()> + Send,
    {
        thread::scope(|scope| {
            let (sender, results) = mpsc::channel();
            let spawn = |worker: W| {
                let sender = sender.clone();
                scope.spawn(move || {
                    let drawn = worker(&mut |finished| match sender.send(Ok(finished)) {
                        Ok(()) => ControlFlow::Continue(()),
                        Err(_) => ControlFlow::Break(()),
                    });
                    if let Err(error) = drawn {
                        self.stop();
                        // Without a listener there is nobody to tell.
                        let _ = sender.send(Err(error));
                    }
                })
            };
            let threads: Vec<_> = workers.into_iter().map(spawn).collect();
            drop(sender);
            let result = self.collect(results, sink);
            self.stop();
            // A thread that panicked has sent nothing more: without this its samples would be missing silently.
            let sound = threads.into_iter().map(|thread| thread.join().is_ok()).fold(true, |a, b| a & b);
            match (result, sound) {
                (Ok(_), false) | (Ok(false), true) => Err(Error::Thread),
                (result, _) => result.map(|_| ()),
            }
        })
    }

    /// Takes results until all groups are out or nobody wants more; `false` when some are missing.
    fn collect(&self, results: mpsc::Receiver<Result<Finished>>, sink: &mut Sink<'_>) -> Result<bool> {
        let mut groups = Groups::new(&self.call);
        for finished in results {
            if groups.take(finished?, sink).is_break() {
                return Ok(true);
            }
        }
        Ok(groups.next == self.call.prompts.len())
    }
}

/// Cuts the samples into jobs: one per prompt, or several where there are fewer prompts than threads.
fn jobs(prompts: usize, samples: usize, threads: usize) -> Vec<Job> {
    let parts = threads.div_ceil(prompts.max(1)).min(samples);
    let size = samples.div_ceil(parts.max(1)).max(1);
    let job = |prompt| {
        (0..samples).step_by(size).map(move |first| Job {
            prompt,
            first_sample: first,
            end_sample: samples.min(first + size),
        })
    };
    (0..prompts).flat_map(job).collect()
}

/// A finished sample.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) prompt: usize,
    pub(crate) sample: usize,
    pub(crate) completion: Completion,
}

/// Puts finished samples into their groups and hands complete groups out in order.
struct Groups<'c> {
    call: &'c Call<'c>,
    /// Samples that came, and their places.
    open: BTreeMap<usize, (usize, Vec<Completion>)>,
    next: usize,
}

impl<'c> Groups<'c> {
    fn new(call: &'c Call<'c>) -> Self {
        Self { call, open: BTreeMap::new(), next: 0 }
    }

    fn take(&mut self, finished: Finished, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let samples = self.call.config.num_completions;
        let group = self.open.entry(finished.prompt);
        let (count, places) = group.or_insert_with(|| (0, vec![Completion::default(); samples]));
        *count += 1;
        if let Some(place) = places.get_mut(finished.sample) {
            *place = finished.completion;
        }
        while let Some(entry) = self.open.first_entry() {
            if *entry.key() != self.next || entry.get().0 < samples {
                break;
            }
            let (prompt, (_, completions)) = entry.remove_entry();
            self.next += 1;
            sink(PromptGroup::new(self.call.prompt(prompt).to_vec(), completions))?;
        }
        ControlFlow::Continue(())
    }
}
