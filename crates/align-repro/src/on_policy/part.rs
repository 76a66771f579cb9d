//! A method as one part of an experiment: its settings, arms, figures, tables and curves.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{
    show,
    study::{Difference, Measured, Method, Place, Tamper},
};
use crate::{
    Error, Result,
    experiment::Arm,
    planned::Planned,
    study::{Findings, Results, Sample, Unit, UnitContext},
};

/// The settings of a method, as a plan has them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartSettings<S, A> {
    quick: S,
    /// Those of the full size without.
    #[serde(default = "none")]
    default: Option<S>,
    full: S,
    arms: BTreeMap<String, A>,
    figures: BTreeMap<String, Difference>,
}

impl<S, A> PartSettings<S, A> {
    /// Returns the settings of the arms by their names.
    pub fn arms(&self) -> &BTreeMap<String, A> {
        &self.arms
    }
}

fn none<S>() -> Option<S> {
    None
}

/// A method as one part of an experiment, or all of it.
#[derive(Debug)]
pub struct MethodPart<M: Method> {
    size: M::Size,
    settings: BTreeMap<String, M::Arm>,
    figures: BTreeMap<String, Difference>,
    /// Its arms in the order of the plan.
    arms: Vec<String>,
    experiment: String,
    tamper: Tamper,
}

impl<M: Method> MethodPart<M> {
    /// Takes the settings of the arms for which `belongs` says so, and checks that all that is said of these arms has a
    /// figure.
    ///
    /// # Errors
    /// [`Error::Plan`] for an arm without settings, a figure of an arm that does not exist, a claim or control without a
    /// figure.
    pub fn new(
        settings: PartSettings<M::Size, M::Arm>,
        planned: &Planned,
        belongs: impl Fn(&Arm) -> bool,
        tamper: Tamper,
    ) -> Result<Self> {
        let experiment = planned.experiment();
        let PartSettings { quick, default, full, arms: known, figures } = settings;
        let arms: Vec<String> =
            experiment.arms.iter().filter(|arm| belongs(arm)).map(|arm| arm.name.clone()).collect();
        if let Some(arm) = arms.iter().find(|arm| !known.contains_key(*arm)) {
            return Err(planned.fail(format!("arm {arm} has no settings")));
        }
        for (id, figure) in &figures {
            let mut named = std::iter::once(&figure.of).chain(&figure.minus);
            if let Some(arm) = named.find(|arm| !arms.contains(arm)) {
                return Err(planned.fail(format!("figure {id} names the arm {arm}, which does not exist")));
            }
        }
        let claims = experiment.claims.iter().map(|claim| (&claim.id, &claim.arms));
        let controls = experiment.controls.iter().map(|control| (&control.id, &control.arms));
        let without = |(id, named): &(&String, &Vec<String>)| {
            named.iter().any(|arm| arms.contains(arm)) && !figures.contains_key(*id)
        };
        if let Some((id, _)) = claims.chain(controls).find(without) {
            return Err(planned.fail(format!("{id} has no figure")));
        }
        for size in [&quick, &full].into_iter().chain(&default) {
            for (arm, settings) in &known {
                M::check(settings, size).map_err(|error| planned.fail(format!("arm {arm}: {error}")))?;
            }
        }
        let size = planned.size().choose(&quick, default.as_ref(), &full).clone();
        let experiment = experiment.name.clone();
        Ok(Self { size, settings: known, figures, arms, experiment, tamper })
    }

    fn settings_of(&self, arm: &str) -> Result<&M::Arm> {
        self.settings.get(arm).ok_or_else(|| Error::Plan {
            experiment: self.experiment.clone(),
            why: format!("arm {arm} has no settings"),
        })
    }

    /// Estimates the seconds of an arm on one core, for the remaining time only.
    pub fn cost(&self, arm: &str) -> f64 {
        self.settings.get(arm).map_or(1.0, |settings| M::cost(settings, &self.size))
    }

    /// Runs one unit on one thread.
    ///
    /// # Errors
    /// What the arm meets; [`Error::NonFinite`] for a number that is none.
    pub fn run(&self, unit: &Unit, context: &UnitContext<'_>) -> Result<Value> {
        let (arm, seed) = (unit.arm.as_str(), unit.seed.unwrap_or(0));
        let place = Place { size: &self.size, seed, tamper: self.tamper, arm, context };
        let measured = M::run(self.settings_of(arm)?, &place)?;
        if let Some((name, value)) = measured.metrics.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::NonFinite { what: format!("{} of {}", name, unit.id()), value: *value });
        }
        serde_json::to_value(measured).map_err(|e| Error::input(unit.id(), e))
    }

    /// Turns results into figures, a table, curves and samples.
    ///
    /// # Errors
    /// A figure that is not finite, or a result of another form.
    pub fn show(&self, results: &Results, findings: &mut Findings) -> Result<()> {
        let mut arms = Vec::new();
        for arm in &self.arms {
            let runs = results.of::<Measured>(arm)?;
            if !runs.is_empty() {
                arms.push((arm.clone(), runs));
            }
        }
        if arms.is_empty() {
            return Ok(());
        }
        for (id, figure) in &self.figures {
            findings.evidence.extend(show::evidence(id, figure, &arms)?.map(|found| (id.clone(), found)));
        }
        findings.tables.extend(M::TABLES.iter().filter_map(|columns| show::table(columns, &arms)));
        findings.figures.extend(M::CHARTS.iter().flat_map(|chart| show::charts(chart, &arms)));
        M::show(&arms, findings)?;
        let samples = arms.iter().filter_map(|(name, runs)| Some((name, runs.first()?.sample.clone()?)));
        for (name, (prompt, answer)) in samples {
            match findings.samples.iter_mut().find(|sample| sample.prompt == prompt) {
                Some(sample) => sample.answers.push((name.clone(), answer)),
                None => {
                    findings.samples.push(Sample { prompt, answers: vec![(name.clone(), answer)] });
                }
            }
        }
        Ok(())
    }
}
