//! "Is DPO Superior to PPO for LLM Alignment?" (2404.10719): the theorem, the 8 × 8 study, every method on a sequence task
//! with an exact reward, and SFT and DPO of a small Llama as an illustration.

mod answer;
pub mod exact;
pub mod pairs;
pub mod sequence;
pub mod theorem;
pub mod toy;

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Error, Result,
    claim::Evidence,
    experiment::Arm,
    on_policy::{
        self,
        part::{MethodPart, PartSettings},
    },
    outcome::Outcome,
    planned::Planned,
    report::figure::{Figure, LineChart, Point, Series},
    study::{Findings, Results, Study, Unit, UnitContext},
};
use pairs::{PairsSettings, PairsStudy};
use sequence::{Sequence, SequenceArm, SequenceSize};
use theorem::TheoremResult;
use toy::{ToyResult, ToySettings};

/// The plan, fixed before the run.
pub const PLAN: &str = include_str!("../../plans/dpo-vs-ppo.toml");

/// The part of the plan whose arms are those of [`sequence`].
const SEQUENCE: &str = "sequence";

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
    /// Rewards of sampled answers are drawn by lot.
    RandomReward,
}

impl Tamper {
    /// Returns what the fault is where answers are graded: pairs follow from grades.
    fn of_grades(self) -> on_policy::study::Tamper {
        match self {
            Self::None => on_policy::study::Tamper::None,
            Self::FlipMargin => on_policy::study::Tamper::Reverse,
            Self::ShuffleLabels | Self::RandomReward => on_policy::study::Tamper::Random,
        }
    }
}

/// What the user asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What every experiment is told.
    pub common: crate::study::Options<Tamper>,
    /// Files of preference pairs; pairs made from a rule when empty.
    pub data: Vec<PathBuf>,
    /// A model folder; a small new model when none.
    pub model: Option<PathBuf>,
}

/// The settings of the parts, as the plan has them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The 8 × 8 study.
    pub toy: ToySettings,
    /// The sequence task.
    pub sequence: PartSettings<SequenceSize, SequenceArm>,
    /// The illustration.
    pub pairs: PairsSettings,
}

/// The experiment, ready to run.
#[derive(Debug)]
pub struct DpoVsPpo {
    planned: Planned,
    toy: ToySettings,
    tamper: Tamper,
    sequence: MethodPart<Sequence>,
    pairs: PairsStudy,
}

impl DpoVsPpo {
    /// Reads the plan and checks the options against it.
    ///
    /// # Errors
    /// [`Error::Usage`] for arms that do not exist; [`Error::Plan`].
    pub fn new(options: Options) -> Result<Self> {
        let mut planned = Planned::new(NAME, PLAN, &options.common)?;
        // No size runs the illustration unasked; giving pairs or a model for it asks for it.
        if !options.data.is_empty() || options.model.is_some() {
            planned = planned.with_part(pairs::PART);
        }
        let settings: Settings = planned.settings()?;
        let pairs = PairsStudy::new(&settings.pairs, planned.size(), &options)?;
        let tamper = options.common.tamper;
        let belongs = |arm: &Arm| arm.part == SEQUENCE;
        let sequence = MethodPart::new(settings.sequence, &planned, belongs, tamper.of_grades())?;
        Ok(Self { planned, toy: settings.toy, tamper, sequence, pairs })
    }
}

impl Study for DpoVsPpo {
    fn planned(&self) -> &Planned {
        &self.planned
    }

    fn cost(&self, arm: &Arm) -> f64 {
        match arm.part.as_str() {
            "theorem" => 2.0,
            "toy" => 8.0,
            SEQUENCE => self.sequence.cost(&arm.name),
            _ => self.pairs.cost(&arm.name),
        }
    }

    fn seeds(&self, arm: &Arm) -> u64 {
        match (arm.part.as_str(), self.planned.asked_seeds(), self.pairs.seeds()) {
            // Exact figures have no seeds.
            ("theorem", ..) => 1,
            ("pairs", None, Some(seeds)) => seeds,
            _ => self.planned.seeds(arm),
        }
    }

    fn is_batched(&self, arm: &Arm) -> bool {
        matches!(arm.part.as_str(), "theorem" | "toy")
    }

    fn inputs(&self) -> Result<Value> {
        let mut inputs = self.planned.inputs(&self.ran());
        if let Some(inputs) = inputs.as_object_mut() {
            inputs.insert("pairs".into(), self.pairs.inputs()?);
        }
        Ok(inputs)
    }

    fn run(&self, unit: &Unit, context: &UnitContext<'_>) -> Result<Value> {
        let arm = self.planned.experiment().arm(&unit.arm);
        let value = match arm.map(|arm| (arm, arm.part.as_str())) {
            Some((_, "theorem")) => serde_json::to_value(theorem::run(self.tamper, &context.progress)?),
            Some((arm, "toy")) => {
                let settings = self.toy.arms.get(&unit.arm);
                let settings = settings
                    .ok_or_else(|| self.planned.fail(format!("settings.toy.arms has no {}", unit.arm)))?;
                let seeds = self.seeds(arm);
                serde_json::to_value(toy::run(settings, &self.toy, seeds, self.tamper, &context.progress)?)
            }
            Some((_, SEQUENCE)) => return self.sequence.run(unit, context),
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
        for arm in self.planned.experiment().arms.iter().filter(|a| a.part == "toy") {
            for result in results.of::<ToyResult>(&arm.name)? {
                rows.push((arm.name.clone(), result));
            }
        }
        self.sequence.show(results, &mut findings)?;
        toy::show(&rows, &self.toy, &mut findings)?;
        self.pairs.show(results, &mut findings)?;
        findings.deviations.extend(answer::deviations());
        findings.deviations.extend(sequence::DEVIATIONS.iter().map(ToString::to_string));
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
