use align_core::{
    evaluation::{PairAgreement, PairMargin, Prompts},
    intervals::Estimate,
};

use super::{Feedback, HeldOutMethod, Losses, Pair, Rows};
use crate::Result;

/// Averages over rows, under the names of the training metrics.
pub(super) struct Figures<'a> {
    prompts: &'a Prompts,
    seed: u64,
    pub list: Vec<(&'static str, Estimate)>,
}

impl<'a> Figures<'a> {
    pub(super) fn new(prompts: &'a Prompts, seed: u64) -> Self {
        Self { prompts, seed, list: Vec::new() }
    }

    /// Adds the average of (row, value, weight), if there is one.
    fn add(&mut self, name: &'static str, values: impl IntoIterator<Item = (usize, f64, f64)>) -> Result<()> {
        let average = self.prompts.average(name, values, self.seed)?;
        self.list.extend(average.map(|average| (name, average)));
        Ok(())
    }

    /// The mean loss: one figure, or one for each kind where rows are of several.
    pub(super) fn losses(&mut self, kinds: &Rows, losses: &Losses) -> Result<()> {
        let several = [kinds.pairs.len(), kinds.labelled.len(), kinds.scored.len()];
        let several = several.iter().filter(|count| **count > 0).count() > 1;
        let name = |name| if several { name } else { "loss" };
        let pairs = kinds.pairs.iter().zip(&losses.pairs).map(|(pair, loss)| (pair.row, *loss, 1.0));
        self.add(name("loss/pairs"), pairs)?;
        let of = |rows: &[Feedback], losses: &[f64]| -> Vec<(usize, f64, f64)> {
            rows.iter().zip(losses).map(|(one, loss)| (one.row, *loss, 1.0)).collect()
        };
        self.add(name("loss/binary"), of(&kinds.labelled, &losses.labelled))?;
        self.add(name("loss/scored"), of(&kinds.scored, &losses.scored))
    }

    /// What each kind of rows has beside its loss.
    pub(super) fn kinds(&mut self, kinds: &Rows, method: &HeldOutMethod) -> Result<Option<PairAgreement>> {
        let (beta, baseline) = match method {
            HeldOutMethod::Sft => (0.0, 0.0),
            HeldOutMethod::Dpo(config) => (config.beta, 0.0),
            HeldOutMethod::Kto { config, baseline } => (config.beta, *baseline),
            HeldOutMethod::Una(config) => (config.beta, 0.0),
        };
        self.likelihood(&kinds.plain)?;
        let agreement = if kinds.pairs.is_empty() { None } else { Some(self.pairs(&kinds.pairs, beta)?) };
        self.labels(&kinds.labelled, beta, baseline)?;
        if let HeldOutMethod::Kto { .. } = method {
            self.list.push(("kl", Estimate::exact(baseline)));
        }
        self.add("rewards/scored", kinds.scored.iter().map(|one| (one.row, beta * one.logps.ratio(), 1.0)))?;
        self.add("una/target", kinds.scored.iter().map(|one| (one.row, one.target, 1.0)))?;
        Ok(agreement)
    }

    fn likelihood(&mut self, rows: &[Feedback]) -> Result<()> {
        let tokens = |one: &Feedback| one.logps.tokens.max(1) as f64;
        self.add("loss", rows.iter().map(|one| (one.row, -one.logps.policy / tokens(one), tokens(one))))?;
        if let Some((_, loss)) = self.list.last().filter(|_| !rows.is_empty()) {
            let interval = loss.interval.map(|(low, high)| (low.exp(), high.exp()));
            let perplexity = Estimate { mean: loss.mean.exp(), interval, ..*loss };
            self.list.push(("perplexity", perplexity));
        }
        self.add("logps/completion", rows.iter().map(|one| (one.row, one.logps.policy, 1.0)))?;
        if rows.iter().any(|one| one.logps.reference.is_none()) {
            return Ok(());
        }
        let of = |one: &Feedback, sum: f64| (one.row, sum / tokens(one), tokens(one));
        self.add(
            "reference/loss",
            rows.iter().map(|one| of(one, one.logps.ratio() - one.logps.policy)),
        )?;
        self.add("reference/difference", rows.iter().map(|one| of(one, -one.logps.ratio())))
    }

    fn pairs(&mut self, pairs: &[Pair], beta: f64) -> Result<PairAgreement> {
        let margin = |pair: &Pair| beta * (pair.chosen.ratio() - pair.rejected.ratio());
        // Strict and of the two products, as training counts it.
        let right = |pair: &Pair| f64::from(u8::from(beta * pair.chosen.ratio() > beta * pair.rejected.ratio()));
        let mut add = |name, of: &dyn Fn(&Pair) -> f64| self.add(name, pairs.iter().map(|pair| (pair.row, of(pair), 1.0)));
        add("rewards/chosen", &|pair| beta * pair.chosen.ratio())?;
        add("rewards/rejected", &|pair| beta * pair.rejected.ratio())?;
        add("rewards/margins", &margin)?;
        add("rewards/accuracies", &right)?;
        add("logps/chosen", &|pair| pair.chosen.policy)?;
        add("logps/rejected", &|pair| pair.rejected.policy)?;
        let margins: Vec<PairMargin> = pairs
            .iter()
            .map(|pair| PairMargin {
                row: pair.row,
                margin: margin(pair),
                difference: pair.chosen.tokens as f64 - pair.rejected.tokens as f64,
            })
            .collect();
        PairAgreement::of(&margins, self.prompts, self.seed)
    }

    fn labels(&mut self, rows: &[Feedback], beta: f64, baseline: f64) -> Result<()> {
        let of = |label: f64, value: &dyn Fn(&Feedback) -> f64| -> Vec<(usize, f64, f64)> {
            rows.iter().filter(|one| one.target == label).map(|one| (one.row, value(one), 1.0)).collect()
        };
        let reward = |one: &Feedback| beta * one.logps.ratio();
        self.add("rewards/chosen", of(1.0, &reward))?;
        self.add("rewards/rejected", of(0.0, &reward))?;
        self.add("logps/chosen", of(1.0, &|one| one.logps.policy))?;
        self.add("logps/rejected", of(0.0, &|one| one.logps.policy))?;
        let right = |one: &Feedback| (one.logps.ratio() > baseline) == (one.target == 1.0);
        self.add("labels/accuracies", rows.iter().map(|one| (one.row, f64::from(u8::from(right(one))), 1.0)))
    }
}
