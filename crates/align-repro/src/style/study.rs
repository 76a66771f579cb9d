//! The study of an experiment whose arms are lines of its plan: an objective, a form of feedback, what is done
//! to it.

use std::collections::BTreeMap;

use align_core::align_types::PromptGroup;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    feedback::{self, Form, Recipe, Scramble},
    policy::{self, PolicySettings, Requests, Worth},
    show,
    sweep::{self, ArmResult, Balance, Loss, Sweep, SweepSettings},
};
use crate::{
    Error, Result,
    experiment::Arm,
    outcome::Outcome,
    planned::Planned,
    store::{read, write},
    study::{Findings, Results, Study, Texts, Unit, UnitContext},
};

/// The arm that every other one starts from.
pub const SFT: &str = "sft";

const MODEL: &str = "model";
const FEEDBACK: &str = "feedback.json";
const RESULT: &str = "result.json";

/// An arm, as the plan has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ArmSettings {
    /// What it minimises.
    pub loss: Loss,
    /// What it is told.
    pub feedback: Form,
    /// What is done to the feedback.
    #[serde(default)]
    pub scramble: Scramble,
    /// Share of desirable rows that is kept.
    #[serde(default = "all")]
    pub keep_desirable: f64,
    /// Share of undesirable rows that is kept.
    #[serde(default = "all")]
    pub keep_undesirable: f64,
    /// Offset of the scores by request, in points of gold.
    #[serde(default)]
    pub offset: f64,
    /// How far the range that scores are scaled from goes beyond them, in points of gold.
    #[serde(default)]
    pub widen: f64,
    /// Class weights of KTO.
    #[serde(default)]
    pub balance: Balance,
    /// The betas that it sweeps; those of the size without.
    #[serde(default)]
    pub betas: Option<Vec<f64>>,
    /// The arm whose chosen setting it takes; it sweeps the grid itself without one.
    #[serde(default)]
    pub like: Option<String>,
}

fn all() -> f64 {
    1.0
}

/// How a figure comes out of the arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields, rename_all = "kebab-case")]
pub enum Figure {
    /// Gold on test requests of one arm minus another, at each one's chosen setting, paired by seed.
    Best {
        /// The arm.
        of: String,
        /// The other; may be `sft`.
        minus: String,
    },
    /// The same where both policies are at the KL of the plan.
    Matched {
        /// The arm.
        of: String,
        /// The other.
        minus: String,
    },
    /// KTO's z0 in nats: mean over the updates of the chosen setting, over seeds.
    Baseline {
        /// The arm.
        of: String,
    },
    /// Seeds at which the weights of two arms are not the same bits.
    Bits {
        /// The arm.
        of: String,
        /// The other.
        minus: String,
    },
}

/// The answers that feedback is given on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedbackSettings {
    /// Answers of each training request, even.
    pub answers: usize,
    /// Standard deviation of the noise of a score, in points of gold.
    pub noise: f64,
}

/// What a size takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeSettings {
    /// The policy.
    pub policy: PolicySettings,
    /// The answers.
    pub feedback: FeedbackSettings,
    /// The grid.
    pub sweep: SweepSettings,
}

/// All settings of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Of `--quick`.
    pub quick: SizeSettings,
    /// Of the full size.
    pub full: SizeSettings,
    /// The arms but for `sft`.
    pub arms: BTreeMap<String, ArmSettings>,
    /// The figures of claims and controls.
    pub figures: BTreeMap<String, Figure>,
}

/// A deliberate fault. Tests show that each changes the verdict; the program knows only [`Tamper::None`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tamper {
    /// None.
    #[default]
    None,
    /// Every arm is told the contrary of what it should be told.
    Reverse,
    /// What arms are told is drawn by lot.
    Random,
    /// UNA on pairs is given other pairs than DPO.
    OtherPairs,
    /// KTO has lost its z0, and the wrong one too.
    NoBaseline,
}

/// What the user asked for.
pub type Options = crate::study::Options<Tamper>;

/// An experiment of this environment, ready to run.
#[derive(Debug)]
pub struct StyleStudy {
    texts: Texts,
    planned: Planned,
    settings: Settings,
    tamper: Tamper,
}

/// What the SFT arm leads to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftResult {
    /// On test requests.
    pub worth: Worth,
    /// Share of pairs that the noise turns.
    pub turned: f64,
    /// Answers with feedback.
    pub answers: usize,
    /// Mean and standard deviation of their gold.
    pub gold: (f64, f64),
    /// The first test prompt and an answer to it.
    pub sample: (String, String),
}

impl StyleStudy {
    /// Reads the plan and checks the options against it.
    ///
    /// # Errors
    /// [`Error::Usage`] for arms that do not exist; [`Error::Plan`].
    pub fn new(texts: Texts, options: Options) -> Result<Self> {
        let planned = Planned::new(texts.name, texts.plan, &options)?;
        let settings: Settings = planned.settings()?;
        for arm in planned.experiment().arms.iter().filter(|arm| arm.name != SFT) {
            let known = settings
                .arms
                .get(&arm.name)
                .ok_or_else(|| planned.fail(format!("arm {} has no settings", arm.name)))?;
            let shares = [known.keep_desirable, known.keep_undesirable];
            if let Some(share) = shares.into_iter().find(|share| !(*share > 0.0 && *share <= 1.0)) {
                let why =
                    format!("arm {} keeps {share} of the rows of a label, which is not in (0, 1]", arm.name);
                return Err(planned.fail(why));
            }
            if let Some(like) = known.like.as_ref().filter(|like| !arm.needs.contains(like)) {
                return Err(planned.fail(format!("arm {} is like {like} and does not need it", arm.name)));
            }
        }
        Ok(Self { texts, planned, settings, tamper: options.tamper })
    }

    /// Returns the settings of the size that is run.
    pub fn settings(&self) -> &SizeSettings {
        self.planned.size().choose(&self.settings.quick, None, &self.settings.full)
    }

    fn prepare(&self, seed: u64, context: &UnitContext<'_>) -> Result<SftResult> {
        let settings = self.settings();
        let requests = Requests::split(seed);
        let model = policy::fine_tune(&settings.policy, &requests, seed, &context.progress)?;
        let folder = context.folder(SFT, seed);
        policy::save(&model, &folder.join(MODEL))?;
        let mut groups = policy::sample(&model, &requests.train, settings.feedback.answers, seed)?;
        policy::keep_reference(&model, &mut groups)?;
        feedback::score(&requests.train, &mut groups, settings.feedback.noise, seed);
        write(&folder.join(FEEDBACK), &groups)?;
        let gold = |(request, group): (&super::gold::Request, &PromptGroup)| {
            group.completions.iter().map(|c| request.gold(&c.token_ids)).collect::<Vec<f64>>()
        };
        let gold: Vec<f64> = requests.train.iter().zip(&groups).flat_map(gold).collect();
        let mean = gold.iter().sum::<f64>() / gold.len().max(1) as f64;
        let variance = gold.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / gold.len().max(1) as f64;
        let result = SftResult {
            worth: sweep::measure_on_test(&model, &model, &requests, &settings.sweep, seed)?,
            turned: feedback::disagreement(&requests.train, &groups),
            answers: gold.len(),
            gold: (mean, variance.sqrt()),
            sample: show::first_sample(&model, &requests)?,
        };
        write(&folder.join(RESULT), &result)?;
        Ok(result)
    }

    fn train(&self, arm: &str, seed: u64, context: &UnitContext<'_>) -> Result<ArmResult> {
        let fail = || self.planned.fail(format!("arm {arm} has no settings"));
        let settings = self.settings.arms.get(arm).ok_or_else(fail)?;
        let folder = context.folder(SFT, seed);
        let load = || policy::load(&folder.join(MODEL));
        let reference = load()?.frozen_copy()?;
        let scored: Vec<PromptGroup> = read(&folder.join(FEEDBACK))?;
        let start: SftResult = read(&folder.join(RESULT))?;
        let (scramble, loss) = self.broken(settings);
        let recipe = Recipe {
            form: settings.feedback,
            scramble,
            keep_desirable: settings.keep_desirable,
            keep_undesirable: settings.keep_undesirable,
            offset: settings.offset,
            widen: settings.widen,
            seed,
        };
        let sweep = Sweep {
            settings: &self.grid(settings),
            loss,
            balance: settings.balance,
            reference: &reference,
            start: start.worth,
            rows: &recipe.rows(&scored),
            requests: &Requests::split(seed),
            seed,
            progress: &context.progress,
        };
        let result = match &settings.like {
            None => sweep.run(load)?,
            Some(like) => sweep.run_like(&read(&context.folder(like, seed).join(RESULT))?, load)?,
        };
        let folder = context.folder(arm, seed);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io("make the folder", &folder, e))?;
        write(&folder.join(RESULT), &result)?;
        Ok(result)
    }

    /// The grid of an arm.
    fn grid(&self, arm: &ArmSettings) -> SweepSettings {
        let sweep = self.settings().sweep.clone();
        SweepSettings { betas: arm.betas.clone().unwrap_or_else(|| sweep.betas.clone()), ..sweep }
    }

    /// The arm's feedback and loss, broken where a test asks for it.
    fn broken(&self, arm: &ArmSettings) -> (Scramble, Loss) {
        let scores = matches!(arm.feedback, Form::Scores | Form::ThresholdLabels);
        match self.tamper {
            Tamper::None => (arm.scramble, arm.loss),
            Tamper::Reverse => (Scramble::Reverse, arm.loss),
            Tamper::Random if scores => (Scramble::Permute, arm.loss),
            Tamper::Random => (Scramble::FlipHalf, arm.loss),
            Tamper::OtherPairs if arm.feedback == Form::Pairs && arm.loss == Loss::UnaMse => {
                (Scramble::FlipHalf, arm.loss)
            }
            Tamper::NoBaseline if matches!(arm.loss, Loss::Kto | Loss::KtoWrongBaseline) => {
                (arm.scramble, Loss::KtoNoBaseline)
            }
            Tamper::OtherPairs | Tamper::NoBaseline => (arm.scramble, arm.loss),
        }
    }
}

impl Study for StyleStudy {
    fn planned(&self) -> &Planned {
        &self.planned
    }

    fn cost(&self, arm: &Arm) -> f64 {
        let sweep = &self.settings().sweep;
        let runs = match self.settings.arms.get(&arm.name).filter(|arm| arm.like.is_none()) {
            Some(swept) => sweep.rates.len() * swept.betas.as_ref().unwrap_or(&sweep.betas).len(),
            None => 1,
        };
        (runs * sweep.batch) as f64 * sweep.updates as f64 * 1e-3
    }

    fn run(&self, unit: &Unit, context: &UnitContext<'_>) -> Result<Value> {
        let seed = unit.seed.unwrap_or(0);
        let value = match unit.arm.as_str() {
            SFT => serde_json::to_value(self.prepare(seed, context)?),
            arm => serde_json::to_value(self.train(arm, seed, context)?),
        };
        value.map_err(|e| Error::input(unit.id(), e))
    }

    fn findings(&self, results: &Results) -> Result<Findings> {
        let mut findings = Findings::default();
        let sft = results.of::<SftResult>(SFT)?;
        let mut arms = Vec::new();
        for arm in self.planned.experiment().arms.iter().filter(|arm| arm.name != SFT) {
            let runs = results.of::<ArmResult>(&arm.name)?;
            if !runs.is_empty() {
                arms.push((arm.name.clone(), runs));
            }
        }
        let runs = show::Runs { sft: &sft, arms: &arms, sweep: &self.settings().sweep };
        for (id, figure) in &self.settings.figures {
            findings.evidence.extend(runs.evidence(id, figure)?.map(|evidence| (id.clone(), evidence)));
        }
        runs.show(&self.settings.arms, &mut findings)?;
        findings.deviations.push(format!("The gold reward: {}.", super::gold::RULE));
        findings.deviations.extend(self.texts.deviations.iter().map(ToString::to_string));
        Ok(findings)
    }

    fn answer(&self, outcome: &Outcome) -> Vec<String> {
        (self.texts.answer)(outcome)
    }
}
