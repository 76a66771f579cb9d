//! The code side of an experiment: units, results, findings.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    Error, Result,
    claim::Evidence,
    experiment::{Arm, Size},
    outcome::Outcome,
    planned::Planned,
    progress::UnitProgress,
    report::figure::Figure,
};

/// One piece of work: an arm with one seed (or with all of its seeds in one batch).
///
/// Units are what runs in parallel, what is kept on disk and what `--resume` does not run again. The result of
/// a unit depends on nothing but its arm, its seeds and the results of the units it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// The arm.
    pub arm: String,
    /// The seed; none for arms that run all their seeds together.
    pub seed: Option<u64>,
    /// Indices of the units that must be finished before, into the list that holds this one.
    pub needs: Vec<usize>,
    /// Rough seconds on one core, for the remaining time only.
    pub cost: f64,
}

impl Unit {
    /// Returns the name of the unit in files and messages.
    pub fn id(&self) -> String {
        match self.seed {
            Some(seed) => format!("{}-seed-{seed}", self.arm),
            None => self.arm.clone(),
        }
    }
}

/// What a unit is given.
#[derive(Debug)]
pub struct UnitContext<'a> {
    /// Says how far the unit is, and whether the user wants it to stop.
    pub progress: UnitProgress<'a>,
    /// A folder of the run for the artefacts of all units (models); a unit makes its own folder inside.
    pub work: &'a Path,
}

impl UnitContext<'_> {
    /// Returns the folder for the artefacts of an arm with a seed.
    pub fn folder(&self, arm: &str, seed: u64) -> PathBuf {
        self.work.join(format!("{arm}-seed-{seed}"))
    }
}

/// The results of all units, by arm and seed.
#[derive(Debug, Default)]
pub struct Results(BTreeMap<String, BTreeMap<u64, Value>>);

impl Results {
    /// Adds the result of a unit.
    pub fn insert(&mut self, unit: &Unit, value: Value) {
        self.0.entry(unit.arm.clone()).or_default().insert(unit.seed.unwrap_or(0), value);
    }

    /// Returns the results of an arm in the order of the seeds; nothing when it was not run.
    ///
    /// # Errors
    /// [`Error::Damaged`] for a result of another form than the arm's.
    pub fn of<T: DeserializeOwned>(&self, arm: &str) -> Result<Vec<T>> {
        let read = |(seed, value): (&u64, &Value)| {
            serde_json::from_value(value.clone()).map_err(|error| Error::Damaged {
                path: format!("units/{arm}, seed {seed}").into(),
                why: error.to_string(),
            })
        };
        self.0.get(arm).into_iter().flatten().map(read).collect()
    }
}

/// A table of a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Column heads.
    pub head: Vec<String>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
    /// How to read it; may be empty.
    pub note: String,
}

/// What a model wrote before and after.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// Name of the model and what it wrote.
    pub answers: Vec<(String, String)>,
}

/// What an experiment makes of the results of its units.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// The figures of claims and controls by their ids; those of arms that were not run are missing.
    pub evidence: BTreeMap<String, Evidence>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Curves and grids.
    pub figures: Vec<Figure>,
    /// Samples.
    pub samples: Vec<Sample>,
    /// Where the run departs from the paper and from the plan.
    pub deviations: Vec<String>,
}

/// The code of an experiment.
pub trait Study: Sync {
    /// Returns the plan with what the user asked of it.
    fn planned(&self) -> &Planned;

    /// Estimates the seconds of a unit of an arm on one core, for the remaining time only.
    fn cost(&self, arm: &Arm) -> f64;

    /// Counts the seeds of an arm.
    fn seeds(&self, arm: &Arm) -> u64 {
        self.planned().seeds(arm)
    }

    /// Says whether an arm runs all of its seeds in one unit.
    fn is_batched(&self, arm: &Arm) -> bool {
        let _ = arm;
        false
    }

    /// Returns what is to be run, every unit after the units it needs.
    ///
    /// # Errors
    /// A selection that does not fit the plan.
    fn units(&self) -> Result<Vec<Unit>> {
        let mut units: Vec<Unit> = Vec::new();
        for arm in self.planned().arms()? {
            let seeds = match self.is_batched(arm) {
                true => vec![None],
                false => self.planned().seed_list(self.seeds(arm)),
            };
            for seed in seeds {
                let needed = |(_, unit): &(usize, &Unit)| arm.needs.contains(&unit.arm) && unit.seed == seed;
                let needs = units.iter().enumerate().filter(needed).map(|(index, _)| index).collect();
                units.push(Unit { arm: arm.name.clone(), seed, needs, cost: self.cost(arm) });
            }
        }
        Ok(units)
    }

    /// Returns the arms that are run with the number of their seeds.
    fn ran(&self) -> Vec<(String, u64)> {
        let arms = self.planned().arms().unwrap_or_default();
        arms.into_iter().map(|arm| (arm.name.clone(), self.seeds(arm))).collect()
    }

    /// Returns what a unit's result depends on (the plan, versions of data and models), for `--resume`.
    ///
    /// # Errors
    /// A file that cannot be read.
    fn inputs(&self) -> Result<Value> {
        Ok(self.planned().inputs(&self.ran()))
    }

    /// Runs one unit on one thread.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the user stops the run; what the unit itself meets.
    fn run(&self, unit: &Unit, context: &UnitContext<'_>) -> Result<Value>;

    /// Turns results into figures.
    ///
    /// # Errors
    /// A figure that is not finite, or a result of another form.
    fn findings(&self, results: &Results) -> Result<Findings>;

    /// Says what the judged claims mean, in three sentences.
    fn answer(&self, outcome: &Outcome) -> Vec<String>;
}

/// What the user asked for; `T` is the deliberate faults that tests know.
#[derive(Debug, Clone, Default)]
pub struct Options<T> {
    /// The size; without one that of the plan.
    pub size: Option<Size>,
    /// Replaces the number of seeds of the parts that have several.
    pub seeds: Option<u64>,
    /// The first seed: tuning uses seeds that are not reported.
    pub first_seed: u64,
    /// Arms to run; those of the size when empty.
    pub arms: Vec<String>,
    /// A deliberate fault, for tests.
    pub tamper: T,
    /// Replaces the plan, for tuning on seeds that are not reported and for tests; the report prints it.
    pub plan: Option<String>,
}

/// What differs between two experiments of one environment besides their plans.
#[derive(Debug, Clone, Copy)]
pub struct Texts {
    /// The name on the command line.
    pub name: &'static str,
    /// The plan, fixed before the run.
    pub plan: &'static str,
    /// Says in three sentences what the verdicts mean.
    pub answer: fn(&Outcome) -> Vec<String>,
    /// Where the experiment departs from the paper.
    pub deviations: &'static [&'static str],
}
