//! The study of an experiment whose arms end in named numbers and whose figures are differences of them.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::part::MethodPart;
use crate::{
    Error, Result,
    experiment::Arm,
    outcome::Outcome,
    planned::Planned,
    study::{Findings, Results, Study, Texts, Unit, UnitContext},
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
    /// Numbers by name; those of [`Method::TABLES`] are shown.
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

/// A table with a row for every arm that measures any of its numbers.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Its title.
    pub title: &'static str,
    /// The numbers and what they are.
    pub metrics: &'static [(&'static str, &'static str)],
}

/// What is an experiment's own.
pub trait Method: Sync {
    /// Settings of a size.
    type Size: DeserializeOwned + Clone + std::fmt::Debug + Sync;
    /// Settings of an arm.
    type Arm: DeserializeOwned + std::fmt::Debug + Sync;
    /// The tables of all arms.
    const TABLES: &'static [Columns];
    /// The charts.
    const CHARTS: &'static [Chart];

    /// Checks that the settings of an arm go with those of a size.
    ///
    /// # Errors
    /// Why they do not.
    fn check(arm: &Self::Arm, size: &Self::Size) -> Result<()> {
        let _ = (arm, size);
        Ok(())
    }

    /// Runs an arm with a seed on one thread.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the user stops the run; what the arm itself meets.
    fn run(arm: &Self::Arm, place: &Place<'_, Self::Size>) -> Result<Measured>;

    /// Estimates the seconds of an arm on one core, for the remaining time only.
    fn cost(arm: &Self::Arm, size: &Self::Size) -> f64;

    /// Adds tables and figures of its own; `arms` are those that were run, with one result per seed.
    ///
    /// # Errors
    /// A figure that is not finite.
    fn show(arms: &[(String, Vec<Measured>)], findings: &mut Findings) -> Result<()> {
        let _ = (arms, findings);
        Ok(())
    }
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

/// An experiment that is one method, ready to run.
#[derive(Debug)]
pub struct MethodStudy<M: Method> {
    texts: Texts,
    planned: Planned,
    part: MethodPart<M>,
}

impl<M: Method> MethodStudy<M> {
    /// Reads the plan and checks the options against it.
    ///
    /// # Errors
    /// [`Error::Usage`] for arms that do not exist; [`Error::Plan`].
    pub fn new(texts: Texts, options: Options) -> Result<Self> {
        let planned = Planned::new(texts.name, texts.plan, &options)?;
        let part = MethodPart::new(planned.settings()?, &planned, |_| true, options.tamper)?;
        Ok(Self { texts, planned, part })
    }
}

impl<M: Method> Study for MethodStudy<M> {
    fn planned(&self) -> &Planned {
        &self.planned
    }

    fn cost(&self, arm: &Arm) -> f64 {
        self.part.cost(&arm.name)
    }

    fn run(&self, unit: &Unit, context: &UnitContext<'_>) -> Result<Value> {
        self.part.run(unit, context)
    }

    fn findings(&self, results: &Results) -> Result<Findings> {
        let mut findings = Findings::default();
        self.part.show(results, &mut findings)?;
        findings.deviations.extend(self.texts.deviations.iter().map(ToString::to_string));
        Ok(findings)
    }

    fn answer(&self, outcome: &Outcome) -> Vec<String> {
        (self.texts.answer)(outcome)
    }
}
