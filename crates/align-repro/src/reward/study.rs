//! The study of an experiment on reward models whose arms are lines of its plan.

use std::path::PathBuf;

use align_core::{CausalLm, ScoreModel};
use align_lm::SaveDtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    best_of_n::{CurvePoint, Fit},
    data::{Form, Recipe, Scramble},
    figure::Runs,
    model,
    policy::{self, Optimise},
    proxy::Proxy,
    settings::{ArmSettings, Choice, How, Settings, SizeSettings, Which},
    trial::{Trial, agreement, difference},
    world::{Answers, Stream},
};
use crate::{
    Error, Result,
    experiment::Arm,
    on_policy::{self, part::MethodPart},
    outcome::Outcome,
    planned::Planned,
    store::write,
    study::{Findings, Results, Study, Unit, UnitContext},
    style::policy::Requests,
};

pub(super) const MODEL: &str = "model";
pub(super) const SCORED: &str = "scored.json";

/// A deliberate fault. Tests show that each changes the verdict; the program knows only [`Tamper::None`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tamper {
    /// None.
    #[default]
    None,
    /// Every comparison is turned.
    Reverse,
    /// Comparisons say nothing.
    Shuffle,
    /// Arms that choose pairs take the easiest for those at the boundary, and the other way round.
    OtherChoice,
}

/// What the user asked for.
pub type Options = crate::study::Options<Tamper>;

/// What differs between two experiments of this environment besides their plans.
pub type Texts = crate::study::Texts;

/// An experiment on reward models, ready to run.
#[derive(Debug)]
pub struct RewardStudy {
    texts: Texts,
    planned: Planned,
    settings: Settings,
    tamper: Tamper,
    /// The policies that are trained on the rewards.
    policy: Option<MethodPart<Optimise>>,
}

/// A reward model on held-out pairs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Updates so far.
    pub updates: u64,
    /// How often each row was seen.
    pub epochs: f64,
    /// Share of held-out pairs that it orders as gold does; equal scores count one half.
    pub accuracy: f64,
    /// The same on hard pairs, at the end, where there are such pairs.
    pub hard: Option<f64>,
    /// Mean of −log σ(r(better) − r(worse)) on held-out pairs.
    pub nll: f64,
}

/// What an arm leads to.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ArmResult {
    /// Held-out pairs along the training, or once.
    pub checkpoints: Vec<Checkpoint>,
    /// Share of held-out pairs with noisy labels that it orders as they do, where there are such pairs: by this, a model is
    /// chosen.
    pub validation: Option<f64>,
    /// Best-of-n.
    pub curve: Vec<CurvePoint>,
    /// What was fitted to its gold.
    pub fit: Option<Fit>,
    /// Trainable numbers.
    pub parameters: usize,
    /// Rows, comparisons in them, flat tokens that went forward and backward.
    pub rows: usize,
    /// See `rows`.
    pub comparisons: usize,
    /// See `rows`.
    pub tokens: usize,
    /// The arm that was chosen, by [`ArmSettings::BestSingle`].
    pub chosen: Option<String>,
    /// Mean |gold difference| of the pairs it has chosen.
    pub distance: Option<f64>,
}

/// A training run of comparisons.
struct Training<'a> {
    start: &'a str,
    rows: &'a Recipe,
    epochs: f64,
    order: u64,
    choice: Option<&'a Choice>,
    how: How,
}

impl RewardStudy {
    /// Reads the plan and checks the options against it.
    ///
    /// # Errors
    /// [`Error::Usage`] for arms that do not exist; [`Error::Plan`].
    pub fn new(texts: Texts, options: Options) -> Result<Self> {
        let planned = Planned::new(texts.name, texts.plan, &options)?;
        let fail = |why: String| planned.fail(why);
        let mut settings: Settings = planned.settings()?;
        let policies = settings.policy.take();
        for arm in &planned.experiment().arms {
            let needs = if is_policy(arm) {
                let known = policies.as_ref().and_then(|policies| policies.arms().get(&arm.name));
                known.map(|known| known.needs())
            } else {
                settings.arms.get(&arm.name).map(ArmSettings::needs)
            };
            let needs = needs.ok_or_else(|| fail(format!("arm {} has no settings", arm.name)))?;
            if let Some(other) = needs.into_iter().find(|other| !arm.needs.contains(other)) {
                return Err(fail(format!("arm {} uses {other} and does not need it", arm.name)));
            }
        }
        settings.check_figures(&planned)?;
        for size in [&settings.quick, &settings.full] {
            let most = size.best_of_n.samples;
            if let Some(n) = size.best_of_n.counts.iter().find(|n| **n == 0 || **n > most) {
                return Err(fail(format!("best-of-{n} of {most} samples")));
            }
        }
        // A fault of the comparisons reaches policies through the reward models.
        let sound = on_policy::study::Tamper::None;
        let policy =
            policies.map(|policies| MethodPart::new(policies, &planned, is_policy, sound)).transpose()?;
        Ok(Self { texts, planned, settings, tamper: options.tamper, policy })
    }

    /// Returns the settings of the size that is run.
    pub fn settings(&self) -> &SizeSettings {
        self.planned.size().choose(&self.settings.quick, None, &self.settings.full)
    }

    pub(super) fn fail(&self, why: String) -> Error {
        self.planned.fail(why)
    }

    pub(super) fn arm(&self, name: &str) -> Result<&ArmSettings> {
        self.settings.arms.get(name).ok_or_else(|| self.fail(format!("arm {name} has no settings")))
    }

    /// Tells initialisations of one seed apart.
    fn init(&self, start: &str) -> Result<u64> {
        match self.arm(start)? {
            ArmSettings::Start { init, .. } => Ok(*init),
            _ => Err(self.fail(format!("arm {start} is no start"))),
        }
    }

    fn start(&self, arm: &str, seed: u64, context: &UnitContext<'_>) -> Result<ArmResult> {
        let ArmSettings::Start { hidden, layers, init } = self.arm(arm)? else {
            return Err(self.fail(format!("arm {arm} is no start")));
        };
        let settings = self.settings();
        let size = (*hidden, *layers);
        let (train, world) = (&settings.train, &settings.world);
        let model = model::read_texts(train, world, size, (seed, *init), &context.progress)?;
        model.save(&folder(context, arm, seed), SaveDtype::F32)?;
        let parameters = model.parameters().iter().map(|p| p.tensor.numel()).sum();
        Ok(ArmResult { parameters, ..ArmResult::default() })
    }

    fn train(
        &self,
        arm: &str,
        training: &Training<'_>,
        seed: u64,
        context: &UnitContext<'_>,
    ) -> Result<ArmResult> {
        let settings = self.settings();
        // Heads are equal where the start is: WARM's condition.
        let head = seed ^ (self.init(training.start)? << 32);
        let model = model::with_head(&folder(context, training.start, seed), head)?;
        let requests = Requests::split(seed);
        let recipe = self.broken(training.rows);
        let mut rows = recipe.rows(&settings.world, &recipe.answers(&settings.world, &requests, seed), seed);
        let mut result = ArmResult {
            parameters: model.parameters().iter().map(|p| p.tensor.numel()).sum(),
            ..ArmResult::default()
        };
        if let Some(choice) = training.choice {
            let chosen = self.choose(choice, &recipe, seed, context)?;
            let distance: f64 = chosen.iter().map(|pair| pair.gold_difference().abs()).sum();
            result.distance = Some(distance / chosen.len().max(1) as f64);
            // The present model's own pairs come without the turned labels of what is chosen.
            let own = Recipe { flip: 0.0, ..recipe.clone() };
            rows = own.rows(&settings.world, &own.answers(&settings.world, &requests, seed), seed);
            rows.extend(recipe.rows(&settings.world, &chosen, seed.wrapping_add(1)));
        }
        result.rows = rows.len();
        result.comparisons = rows.iter().map(|r| r.completions.len() * (r.completions.len() - 1) / 2).sum();
        let width = rows.first().map_or(1, |row| row.completions.len()).max(1);
        let batch = (settings.train.answers / width).max(1);
        let per_epoch = rows.len().div_ceil(batch).max(1) as f64;
        let updates = (per_epoch * training.epochs).round().max(1.0) as u64;
        let trial = Trial::of(settings, seed, !training.how.pairs_only);
        let readings = training.how.readings.unwrap_or(settings.checkpoints);
        let every = (updates / readings.max(1)).max(1);
        let mut checkpoints = Vec::new();
        let order = seed.wrapping_mul(1000).wrapping_add(training.order);
        let work = (updates, order);
        result.tokens = model::train(&model, rows, &settings.train, work, &context.progress, |done| {
            if done.is_multiple_of(every) && updates - done >= every {
                let (accuracy, nll) = agreement(&trial.pairs, &model::scores(&model, &trial.pairs)?);
                let epochs = done as f64 / per_epoch;
                checkpoints.push(Checkpoint { updates: done, epochs, accuracy, hard: None, nll });
            }
            Ok(())
        })?;
        result.checkpoints = checkpoints;
        let folder = folder(context, arm, seed);
        model::save(&model, &folder)?;
        let scored = trial.score(|answers| model::scores(&model, answers))?;
        write(&folder.join(SCORED), &scored)?;
        Proxy::of_model(arm, &scored.pairs).keep(&context.folder(arm, seed))?;
        trial.judge(&scored, settings, seed, (updates, updates as f64 / per_epoch), &mut result)?;
        Ok(result)
    }

    /// Chooses as many pairs of the pool as the recipe has, by the margins of the present model.
    fn choose(
        &self,
        choice: &Choice,
        recipe: &Recipe,
        seed: u64,
        context: &UnitContext<'_>,
    ) -> Result<Vec<Answers>> {
        let world = &self.settings().world;
        let requests = Requests::split(seed);
        let pool = world.answers(&requests.train, choice.pool, 2, &mut Stream::Pool.random(seed, 0));
        let present = model::load(&folder(context, &choice.present, seed))?;
        let margins = model::scores(&present, &pool)?;
        let mut order: Vec<(f64, Answers)> =
            margins.iter().map(|scores| difference(scores).abs()).zip(pool).collect();
        match self.swapped(choice.which) {
            Which::Boundary => order.sort_by(|a, b| a.0.total_cmp(&b.0)),
            Which::Easiest => order.sort_by(|a, b| b.0.total_cmp(&a.0)),
            // They come in no order.
            Which::Random => {}
        }
        Ok(order.into_iter().take(recipe.count).map(|(_, pair)| pair).collect())
    }

    /// The arm's comparisons, broken where a test asks for it.
    fn broken(&self, recipe: &Recipe) -> Recipe {
        let scramble = match self.tamper {
            Tamper::Reverse => Scramble::Reverse,
            Tamper::Shuffle => Scramble::Shuffle,
            Tamper::None | Tamper::OtherChoice => recipe.scramble,
        };
        Recipe { scramble, ..recipe.clone() }
    }

    fn swapped(&self, which: Which) -> Which {
        match (self.tamper, which) {
            (Tamper::OtherChoice, Which::Boundary) => Which::Easiest,
            (Tamper::OtherChoice, Which::Easiest) => Which::Boundary,
            _ => which,
        }
    }

    /// Rough seconds on one core, for the remaining time only.
    fn seconds(&self, arm: &str) -> f64 {
        let settings = self.settings();
        let scoring = settings.best_of_n.requests * settings.best_of_n.samples;
        let answers = match self.settings.arms.get(arm) {
            Some(ArmSettings::Start { .. }) => settings.train.text_batch * settings.train.text_steps as usize,
            Some(ArmSettings::Trained { rows, epochs, choice, .. }) => {
                let pairs = if rows.form == Form::Apart { rows.width.saturating_sub(1) } else { 1 };
                let own = rows.count * rows.width * pairs * (1 + usize::from(choice.is_some()));
                (own as f64 * epochs) as usize + scoring / 3
            }
            Some(ArmSettings::Scores { of } | ArmSettings::BestSingle { of }) => of.len() * scoring / 3,
            _ => scoring / 3,
        };
        (answers + 100) as f64 * 1e-3
    }
}

/// Says whether an arm is a policy, and not a reward or where one begins.
fn is_policy(arm: &Arm) -> bool {
    arm.part == policy::PART
}

/// The folder of an arm's model.
pub(super) fn folder(context: &UnitContext<'_>, arm: &str, seed: u64) -> PathBuf {
    context.folder(arm, seed).join(MODEL)
}

impl Study for RewardStudy {
    fn planned(&self) -> &Planned {
        &self.planned
    }

    fn cost(&self, arm: &Arm) -> f64 {
        match &self.policy {
            Some(policy) if is_policy(arm) => policy.cost(&arm.name),
            _ => self.seconds(&arm.name),
        }
    }

    fn run(&self, unit: &Unit, context: &UnitContext<'_>) -> Result<Value> {
        let (arm, seed) = (unit.arm.as_str(), unit.seed.unwrap_or(0));
        let policy =
            self.policy.as_ref().filter(|_| self.planned.experiment().arm(arm).is_some_and(is_policy));
        if let Some(policy) = policy {
            return policy.run(unit, context);
        }
        let result = match self.arm(arm)? {
            ArmSettings::Start { .. } => self.start(arm, seed, context)?,
            ArmSettings::Trained { start, rows, epochs, order, choice, how } => {
                let choice = choice.as_ref();
                let training = Training { start, rows, epochs: *epochs, order: *order, choice, how: *how };
                self.train(arm, &training, seed, context)?
            }
            _ => self.combine(arm, seed, context)?,
        };
        serde_json::to_value(result).map_err(|e| Error::input(unit.id(), e))
    }

    fn findings(&self, results: &Results) -> Result<Findings> {
        let mut findings = Findings::default();
        let mut arms = Vec::new();
        for arm in self.planned.experiment().arms.iter().filter(|arm| !is_policy(arm)) {
            let runs = results.of::<ArmResult>(&arm.name)?;
            if !runs.is_empty() {
                arms.push((arm.name.clone(), runs));
            }
        }
        let runs = Runs { arms: &arms };
        for (id, figure) in &self.settings.figures {
            findings.evidence.extend(runs.evidence(id, figure)?.map(|evidence| (id.clone(), evidence)));
        }
        runs.show(&mut findings);
        if let Some(policy) = &self.policy {
            policy.show(results, &mut findings)?;
        }
        findings.deviations.push(format!("The gold reward: {}.", crate::style::gold::RULE));
        findings.deviations.extend(self.texts.deviations.iter().map(ToString::to_string));
        Ok(findings)
    }

    fn answer(&self, outcome: &Outcome) -> Vec<String> {
        (self.texts.answer)(outcome)
    }
}
