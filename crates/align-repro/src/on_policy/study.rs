//! The study of an experiment whose arms end in named numbers and whose figures are differences of them.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::show;
use crate::{
    Error, Result,
    experiment::{Arm, Experiment, Size},
    outcome::Outcome,
    study::{Findings, Results, Sample, Study, Texts, Unit, UnitContext},
};

/// A deliberate fault. Tests show that each changes the verdict; the program knows only [`Tamper::None`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tamper {
    /// None.
    #[default]
    None,
    /// Rewards have the wrong sign.
    Reverse,
    /// Rewards are drawn by lot.
    Random,
}

/// What the user asked for.
pub type Options = crate::study::Options<Tamper>;

/// What an arm with a seed leads to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Numbers by name; those of [`Method::METRICS`] are shown in the table.
    pub metrics: BTreeMap<String, f64>,
    /// Curves by the title of their chart: points (x, y).
    pub curves: BTreeMap<String, Vec<(f64, f64)>>,
    /// What was asked and answered.
    pub sample: Option<(String, String)>,
}

impl Measured {
    /// Adds numbers.
    pub fn with<'a>(mut self, metrics: impl IntoIterator<Item = (&'a str, f64)>) -> Self {
        self.metrics.extend(metrics.into_iter().map(|(name, value)| (name.to_owned(), value)));
        self
    }
}

/// A figure of a claim or control: a number of one arm less that of another, paired by seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// The number.
    pub metric: String,
    /// The arm.
    pub of: String,
    /// The other arm; the number itself without one.
    #[serde(default)]
    pub minus: Option<String>,
    /// The number of the other arm, where it is another one.
    #[serde(default)]
    pub minus_metric: Option<String>,
}

/// A chart of an experiment.
#[derive(Debug, Clone, Copy)]
pub struct Chart {
    /// Its title, under which arms keep their curves.
    pub title: &'static str,
    /// The horizontal axis.
    pub x: &'static str,
    /// The vertical axis.
    pub y: &'static str,
}

/// What is an experiment's own.
pub trait Method: Sync {
    /// Settings of a size.
    type Size: DeserializeOwned + std::fmt::Debug + Sync;
    /// Settings of an arm.
    type Arm: DeserializeOwned + std::fmt::Debug + Sync;
    /// Columns of the table: the number and what it is.
    const METRICS: &'static [(&'static str, &'static str)];
    /// The charts.
    const CHARTS: &'static [Chart];

    /// Runs an arm with a seed on one thread.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the user stops the run; what the arm itself meets.
    fn run(arm: &Self::Arm, place: &Place<'_, Self::Size>) -> Result<Measured>;

    /// Estimates the seconds of an arm on one core, for the remaining time only.
    fn cost(arm: &Self::Arm, size: &Self::Size) -> f64;
}

/// Where an arm is run.
#[derive(Debug)]
pub struct Place<'a, S> {
    /// Settings of the size.
    pub size: &'a S,
    /// The seed.
    pub seed: u64,
    /// A deliberate fault, for tests.
    pub tamper: Tamper,
    /// The arm's name.
    pub arm: &'a str,
    /// Progress and folders.
    pub context: &'a UnitContext<'a>,
}

impl<S> Place<'_, S> {
    /// Returns the folder of an arm with this seed.
    pub fn folder(&self, arm: &str) -> PathBuf {
        self.context.folder(arm, self.seed)
    }

    /// Makes this arm's own folder.
    ///
    /// # Errors
    /// The system refuses.
    pub fn own_folder(&self) -> Result<PathBuf> {
        let folder = self.folder(self.arm);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("make the folder", &folder, e))?;
        Ok(folder)
    }
}

/// All settings of a plan.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings<S, A> {
    quick: S,
    full: S,
    arms: BTreeMap<String, A>,
    figures: BTreeMap<String, Difference>,
}

/// An experiment, ready to run.
#[derive(Debug)]
pub struct MethodStudy<M: Method> {
    texts: Texts,
    plan: String,
    experiment: Experiment,
    settings: Settings<M::Size, M::Arm>,
    size: Size,
    options: Options,
}

impl<M: Method> MethodStudy<M> {
    /// Reads the plan and checks the options against it.
    ///
    /// # Errors
    /// [`Error::Usage`] for arms that do not exist; [`Error::Plan`].
    pub fn new(texts: Texts, options: Options) -> Result<Self> {
        let fail = |why: String| Error::Plan { experiment: texts.name.into(), why };
        let plan = options.plan.clone().unwrap_or_else(|| texts.plan.to_owned());
        let experiment = Experiment::from_plan(texts.name, &plan)?;
        experiment.select(&options.arms)?;
        let settings: Settings<M::Size, M::Arm> =
            experiment.settings.clone().try_into().map_err(|e: toml::de::Error| fail(e.to_string()))?;
        if let Some(arm) = experiment.arms.iter().find(|arm| !settings.arms.contains_key(&arm.name)) {
            return Err(fail(format!("arm {} has no settings", arm.name)));
        }
        for (id, figure) in &settings.figures {
            let mut arms = std::iter::once(&figure.of).chain(&figure.minus);
            if let Some(arm) = arms.find(|arm| experiment.arm(arm).is_none()) {
                return Err(fail(format!("figure {id} names the arm {arm}, which does not exist")));
            }
        }
        let mut ids =
            experiment.claims.iter().map(|c| &c.id).chain(experiment.controls.iter().map(|c| &c.id));
        if let Some(id) = ids.find(|id| !settings.figures.contains_key(*id)) {
            return Err(fail(format!("{id} has no figure")));
        }
        let size = options.size.unwrap_or(Size::Full);
        Ok(Self { texts, plan, experiment, settings, size, options })
    }

    /// Returns the plan as it is run.
    pub fn plan(&self) -> &str {
        &self.plan
    }

    fn size_settings(&self) -> &M::Size {
        match self.size {
            Size::Quick => &self.settings.quick,
            Size::Full => &self.settings.full,
        }
    }

    fn seeds(&self, arm: &Arm) -> u64 {
        let planned = self.experiment.sizes.get(&self.size).and_then(|b| b.seeds.get(&arm.part)).copied();
        self.options.seeds.or(planned).unwrap_or(1)
    }

    fn arms(&self) -> Result<Vec<&Arm>> {
        self.experiment.select(&self.options.arms)
    }

    fn arm(&self, name: &str) -> Result<&M::Arm> {
        self.settings.arms.get(name).ok_or_else(|| Error::Plan {
            experiment: self.texts.name.into(),
            why: format!("arm {name} has no settings"),
        })
    }
}

impl<M: Method> Study for MethodStudy<M> {
    fn experiment(&self) -> &Experiment {
        &self.experiment
    }

    fn units(&self) -> Result<Vec<Unit>> {
        Ok(crate::study::units(&self.arms()?, |arm| {
            let seeds = (0..self.seeds(arm)).map(|index| self.options.first_seed + index).collect();
            (seeds, self.arm(&arm.name).map_or(1.0, |settings| M::cost(settings, self.size_settings())))
        }))
    }

    fn ran(&self) -> Vec<(String, u64)> {
        let arms = self.arms().unwrap_or_default();
        arms.into_iter().map(|arm| (arm.name.clone(), self.seeds(arm))).collect()
    }

    fn inputs(&self) -> Result<Value> {
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "plan": self.plan,
            "size": self.size,
            "ran": self.ran(),
            "first_seed": self.options.first_seed,
        }))
    }

    fn run(&self, unit: &Unit, context: &UnitContext<'_>) -> Result<Value> {
        let place = Place {
            size: self.size_settings(),
            seed: unit.seed.unwrap_or(0),
            tamper: self.options.tamper,
            arm: &unit.arm,
            context,
        };
        let measured = M::run(self.arm(&unit.arm)?, &place)?;
        if let Some((name, value)) = measured.metrics.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::NonFinite { what: format!("{} of {}", name, unit.id()), value: *value });
        }
        serde_json::to_value(measured).map_err(|e| Error::input(unit.id(), e))
    }

    fn findings(&self, results: &Results) -> Result<Findings> {
        let mut findings = Findings::default();
        let mut arms = Vec::new();
        for arm in &self.experiment.arms {
            let runs = results.of::<Measured>(&arm.name)?;
            if !runs.is_empty() {
                arms.push((arm.name.clone(), runs));
            }
        }
        for (id, figure) in &self.settings.figures {
            findings.evidence.extend(show::evidence(id, figure, &arms)?.map(|found| (id.clone(), found)));
        }
        findings.tables.push(show::table(M::METRICS, &arms));
        findings.figures.extend(M::CHARTS.iter().filter_map(|chart| show::chart(chart, &arms)));
        let samples = arms.iter().filter_map(|(name, runs)| Some((name, runs.first()?.sample.clone()?)));
        for (name, (prompt, answer)) in samples {
            match findings.samples.iter_mut().find(|sample| sample.prompt == prompt) {
                Some(sample) => sample.answers.push((name.clone(), answer)),
                None => {
                    findings.samples.push(Sample { prompt, answers: vec![(name.clone(), answer)] });
                }
            }
        }
        findings.deviations.extend(self.texts.deviations.iter().map(ToString::to_string));
        Ok(findings)
    }

    fn answer(&self, outcome: &Outcome) -> Vec<String> {
        (self.texts.answer)(outcome)
    }
}
