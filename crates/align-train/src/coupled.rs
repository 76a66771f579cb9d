use align_core::{Coupling, PackedBatch, Packs, Part, Trainable, align_types::PromptGroup, no_grad};

use crate::engine::{Engine, Worker, refused};
use crate::{Result, parallel};

/// A batch whose rows depend on each other, and the rows that the objective asked for, arranged for the threads.
pub(crate) struct Survey {
    groups: Vec<PromptGroup>,
    packs: Packs,
}

impl<M: Trainable + ?Sized> Engine<M> {
    /// Asks the objective for the rows it must know of the whole batch; `None` when rows do not depend on each
    /// other.
    pub(crate) fn survey(&self, groups: &[PromptGroup]) -> Result<Option<Survey>> {
        let surveyed = self.objective().map(|objective| objective.survey(groups)).transpose()?.flatten();
        let compute = self.compute_settings();
        Ok(surveyed.map(|surveyed| Survey {
            groups: groups.to_vec(),
            packs: Packs::new(surveyed, compute.threads, compute.micro_batch_tokens),
        }))
    }

    /// Measures the surveyed rows with the weights of now, on all threads and without gradient, and lets the
    /// objective see all of them.
    pub(crate) fn couple(&mut self, survey: &Survey) -> Result<Coupling> {
        let measures = self.measures(&survey.packs)?;
        match self.objective() {
            Some(objective) => Ok(objective.couple(&survey.groups, &measures)?),
            None => Ok(Coupling::default()),
        }
    }

    /// Asks the objective for its numbers of each group, in the order of the batch.
    pub(crate) fn measures(&mut self, packs: &Packs) -> Result<Vec<Vec<f64>>> {
        self.check_parts(packs)?;
        let mut measures = vec![Vec::new(); packs.len()];
        let pairs: Vec<(&mut Worker<M>, &Part)> = self.workers_mut().iter_mut().zip(&packs.parts).collect();
        let measured = parallel::map(pairs, |(worker, part)| worker.measure(part))?;
        for (part, measured) in packs.parts.iter().zip(measured) {
            for (place, measure) in part.places.iter().zip(measured?) {
                if let Some(slot) = measures.get_mut(*place) {
                    *slot = measure;
                }
            }
        }
        Ok(measures)
    }
}

impl<M: Trainable + ?Sized> Worker<M> {
    /// Measures the rows of a part, in its order.
    fn measure(&mut self, part: &Part) -> Result<Vec<Vec<f64>>> {
        let _guard = no_grad();
        let mut measures = Vec::with_capacity(part.groups.len());
        for range in &part.micro_batches {
            let groups = part.groups.get(range.clone()).unwrap_or_default();
            let rows = |source| refused(part, range, source);
            let batch = PackedBatch::new(groups).map_err(rows)?;
            measures.extend(self.objective.measure(self.model.as_ref(), &batch, groups).map_err(rows)?);
        }
        Ok(measures)
    }
}

/// The notes of some groups of a part.
pub(crate) fn notes_of(coupling: &Coupling, part: &Part, range: &std::ops::Range<usize>) -> Vec<Vec<f64>> {
    let places = part.places.get(range.clone()).unwrap_or_default();
    places.iter().map(|place| coupling.notes.get(*place).cloned().unwrap_or_default()).collect()
}
