//! "Is DPO Superior to PPO for LLM Alignment?" (2404.10719), first version: the theorem, the 8 × 8 study, and
//! SFT and DPO of a small Llama as an illustration.

mod answer;
pub mod exact;
pub mod pairs;
pub mod sequence;
pub mod theorem;
pub mod toy;

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    Error, Result,
    claim::Evidence,
    experiment::{Arm, Experiment, Size},
    outcome::Outcome,
    report::figure::{Figure, LineChart, Point, Series},
    study::{Findings, Results, Study, Unit, UnitContext},
};
use pairs::{PairsSettings, PairsStudy};
use theorem::TheoremResult;
use toy::{ToyResult, ToySettings};

/// The plan, fixed before the run.
pub const PLAN: &str = include_str!("../../plans/dpo-vs-ppo.toml");

/// The name on the command line.
pub const NAME: &str = "dpo-vs-ppo";

/// A deliberate fault. Tests show that each changes the verdict; the program knows only [`Tamper::None`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tamper {
    /// None.
    #[default]
    None,
    /// DPO sees chosen and rejected exchanged, which flips the sign of its margin.
    FlipMargin,
    /// The labels of the preference data are fair coins.
    ShuffleLabels,
}

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What every experiment is told; another plan is not for this one.
    pub common: crate::study::Options<Tamper>,
    /// Files of preference pairs; pairs made from a rule when empty.
    pub data: Vec<PathBuf>,
    /// A model folder; a small new model when none.
    pub model: Option<PathBuf>,
    /// Replaces the plan's settings by cheap ones, for tests.
    pub settings: Option<Settings>,
}

/// The settings of the parts, as the plan has them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The 8 × 8 study.
    pub toy: ToySettings,
    /// The illustration.
    pub pairs: PairsSettings,
}

/// The experiment, ready to run.
#[derive(Debug)]
pub struct DpoVsPpo {
    experiment: Experiment,
    settings: Settings,
    size: Size,
    options: Options,
    pairs: PairsStudy,
}

impl DpoVsPpo {
    /// Reads the plan and checks the options against it.
    ///
    /// # Errors
    /// [`Error::Usage`] for arms that do not exist; [`Error::Plan`].
    pub fn new(options: Options) -> Result<Self> {
        if options.common.plan.is_some() {
            return Err(Error::usage("--plan", format!("{NAME} runs its own plan only")));
        }
        let experiment = Experiment::from_plan(NAME, PLAN)?;
        experiment.select(&options.common.arms)?;
        let read = || experiment.settings.clone().try_into::<Settings>();
        let settings = match options.settings.clone() {
            Some(settings) => settings,
            None => read().map_err(|e| Error::Plan { experiment: NAME.into(), why: e.to_string() })?,
        };
        let size = options.common.size.unwrap_or(Size::Full);
        let pairs = PairsStudy::new(&settings.pairs, size, &options)?;
        Ok(Self { experiment, settings, size, options, pairs })
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn seeds(&self, part: &str) -> u64 {
        let planned = self.experiment.sizes.get(&self.size).and_then(|b| b.seeds.get(part)).copied();
        match (part, self.options.common.seeds) {
            // Exact figures have no seeds.
            ("theorem", _) => 1,
            (_, Some(seeds)) => seeds,
            ("pairs", None) => self.pairs.seeds().or(planned).unwrap_or(1),
            (_, None) => planned.unwrap_or(1),
        }
    }

    fn arms(&self) -> Result<Vec<&Arm>> {
        self.experiment.select(&self.options.common.arms)
    }
}

/// Rough seconds on one core, for the remaining time only.
fn cost(study: &DpoVsPpo, arm: &Arm) -> f64 {
    match arm.part.as_str() {
        "theorem" => 2.0,
        "toy" => 8.0,
        _ => study.pairs.cost(&arm.name),
    }
}

impl Study for DpoVsPpo {
    fn experiment(&self) -> &Experiment {
        &self.experiment
    }

    fn units(&self) -> Result<Vec<Unit>> {
        let mut units: Vec<Unit> = Vec::new();
        for arm in self.arms()? {
            let seeds: Vec<Option<u64>> = match arm.part.as_str() {
                "pairs" => {
                    (0..self.seeds("pairs")).map(|seed| Some(self.options.common.first_seed + seed)).collect()
                }
                _ => vec![None],
            };
            for seed in seeds {
                let is_needed =
                    |(_, unit): &(usize, &Unit)| arm.needs.contains(&unit.arm) && unit.seed == seed;
                let needs = units.iter().enumerate().filter(is_needed).map(|(index, _)| index).collect();
                units.push(Unit { arm: arm.name.clone(), seed, needs, cost: cost(self, arm) });
            }
        }
        Ok(units)
    }

    fn ran(&self) -> Vec<(String, u64)> {
        let arms = self.arms().unwrap_or_default();
        arms.into_iter().map(|arm| (arm.name.clone(), self.seeds(&arm.part))).collect()
    }

    fn inputs(&self) -> Result<Value> {
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "plan": PLAN,
            "size": self.size,
            "ran": self.ran(),
            "first_seed": self.options.common.first_seed,
            "pairs": self.pairs.inputs()?,
        }))
    }

    fn run(&self, unit: &Unit, context: &UnitContext<'_>) -> Result<Value> {
        let tamper = self.options.common.tamper;
        let value = match self.experiment.arm(&unit.arm).map(|a| a.part.as_str()) {
            Some("theorem") => serde_json::to_value(theorem::run(tamper, &context.progress)?),
            Some("toy") => {
                let arm = self.settings.toy.arms.get(&unit.arm).ok_or_else(|| Error::Plan {
                    experiment: NAME.into(),
                    why: format!("settings.toy.arms has no {}", unit.arm),
                })?;
                let seeds = self.seeds("toy");
                serde_json::to_value(toy::run(arm, &self.settings.toy, seeds, tamper, &context.progress)?)
            }
            _ => serde_json::to_value(self.pairs.run(unit, context)?),
        };
        value.map_err(|e| Error::input(unit.id(), e))
    }

    fn findings(&self, results: &Results) -> Result<Findings> {
        let mut findings = Findings::default();
        for result in results.of::<TheoremResult>("theorem")? {
            let exact = |(id, value): (&String, &f64)| (id.clone(), Evidence::exact(*value));
            findings.evidence.extend(result.figures.iter().map(exact));
            findings.figures.push(Figure::Lines(transient_chart(&result)));
        }
        let mut rows = Vec::new();
        for arm in self.experiment.arms.iter().filter(|a| a.part == "toy") {
            for result in results.of::<ToyResult>(&arm.name)? {
                rows.push((arm.name.clone(), result));
            }
        }
        toy::show(&rows, &self.settings.toy, &mut findings)?;
        self.pairs.show(results, &mut findings)?;
        findings.deviations.extend(answer::deviations());
        findings.deviations.extend(self.pairs.deviations());
        Ok(findings)
    }

    fn answer(&self, outcome: &Outcome) -> Vec<String> {
        answer::answer(outcome)
    }
}

fn transient_chart(result: &TheoremResult) -> LineChart {
    let series = |name: &str, path: &[(f64, f64)]| Series {
        name: name.to_owned(),
        points: path.iter().map(|(x, y)| Point { x: *x, y: *y, low: *y, high: *y }).collect(),
    };
    LineChart {
        title: "A response in no pair, under gradient descent on DPO with independent logits".into(),
        x_label: "step".into(),
        y_label: "its probability".into(),
        series: vec![
            series("chosen .2, rejected .78 at the start", &result.rises),
            series("chosen .78, rejected .2 at the start", &result.falls),
        ],
        note: "The theorem is about sets of minimisers; without shared parameters the drift to unseen responses is \
               passing."
            .into(),
    }
}
