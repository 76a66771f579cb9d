//! `align ppo`: PPO and its relatives, on samples of the policy itself.

mod costs;
mod dry_run;
mod earlier;
mod models;
mod prompts;
mod samples;
mod scorer;
mod steps;

use std::path::Path;

use align_cli::{Error, Result, args::PpoArgs, health, talk};
use align_core::{
    BoxError, ValueModel,
    align_types::{
        HealthCheck, PromptGroup,
        config::{CriticKind, PpoConfig},
    },
};
use align_data::Kind;
use align_lm::{Companions, Model, ModelConfig, SaveDtype, ValueNetwork};
use align_ppo::{Figure, Parts, Ppo as Iterations, RewardBaseline, Sampler, Settings};
use align_rollout::AutoGenerator;
use align_train::{Engine, Hooks, RunJob, Unit};
use serde_json::{Map, Value};

use crate::{
    command::{Command, Run},
    failure, generate, inputs,
    model::{self, Folder},
    reference, rewards,
    train::{Method, Setup},
    tuning::Tuning,
};
use earlier::Earlier;
use models::{CriticStart, Learner, Policy};
use prompts::Prompts;
use samples::SampleLog;
use scorer::Summands;
use steps::{Counted, Totals};

/// The folder of a separate critic in the run folder.
const CRITIC: &str = "critic";

/// Proximal policy optimisation and its relatives.
struct Ppo<'a>(&'a PpoArgs);

impl Method for Ppo<'_> {
    fn name(&self) -> &'static str {
        "ppo"
    }

    fn unit(&self) -> Unit {
        Unit::Groups
    }

    fn reference<'a>(&'a self, base: &'a Path) -> Option<&'a Path> {
        self.0.has_reference().then(|| self.0.kl.ref_model.as_deref().unwrap_or(base))
    }

    fn reads<'a>(&'a self, base: &'a Path) -> Vec<(&'static str, &'a Path)> {
        let flags = self.0;
        let mut reads: Vec<(&'static str, &Path)> = Vec::new();
        reads.extend(self.reference(base).map(|folder| ("--ref-model", folder)));
        reads.extend(flags.critic.critic_model.iter().map(|folder| ("--critic-model", folder.as_path())));
        reads.extend(flags.rewards.reward_model.iter().map(|folder| ("--reward-model", folder.as_path())));
        reads.extend(flags.ptx.ptx_data.iter().map(|file| ("--ptx-data", file.as_path())));
        reads.extend(flags.ptx.ptx_eval_data.iter().map(|file| ("--ptx-eval-data", file.as_path())));
        reads
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Prompt]
    }

    fn health(&self) -> Vec<HealthCheck> {
        health::ppo(self.0.curriculum.config().as_ref())
    }
}

/// Trains.
///
/// # Errors
/// Everything that can be refused is refused before anything is written.
pub fn run(flags: &PpoArgs, settings: &toml::Table) -> Result<()> {
    let method = Ppo(flags);
    let command = Command::new(&flags.train, settings, &method)?;
    let Some(opened) = command.look()? else { return Ok(()) };
    if let Some(flag) = flags.off_policy() {
        talk::warn(&format!(
            "{flag}: answers are drawn from fewer tokens than the policy has, while ratios and divergence are those of the \
             whole policy"
        ));
    }
    let read = Read::new(&command, flags)?;
    if flags.train.dry_run {
        return dry_run::show(flags, settings, &read, command.device);
    }
    read.train(&command, opened)
}

/// What was read and found in order.
struct Read<'a> {
    flags: &'a PpoArgs,
    folder: Folder,
    tuning: Tuning<'a>,
    /// Parameters of the adapter, where one is trained.
    trained: Option<usize>,
    critic: Option<CriticStart>,
    prompts: Prompts,
}

impl<'a> Read<'a> {
    fn new(command: &Command<'a>, flags: &'a PpoArgs) -> Result<Self> {
        let base = command.base;
        let folder = model::open(base)?;
        let given = flags.kl.ref_model.as_deref();
        reference::check(given, &folder)?;
        let tuning = Tuning::of(&flags.train);
        let trained = tuning.check(&folder.config)?;
        let config = flags.ppo_config();
        let has_own = config.advantage.uses_critic() && config.critic == CriticKind::Separate;
        let critic = has_own.then(|| CriticStart::choose(flags, base, &folder)).transpose()?;
        let mut context = folder.config.context_length();
        for other in given.into_iter().chain(critic.as_ref().map(|critic| critic.folder.as_path())) {
            context = context.min(ModelConfig::read(other).map_err(failure::of)?.context_length());
        }
        let longest = models::room_for_scores(&flags.rewards.reward_model, base, context)?;
        let prompts = prompts::read(flags, &folder, context, longest)?;
        Ok(Self { flags, folder, tuning, trained, critic, prompts })
    }

    /// Computes what a run is only continued with the same of.
    fn inputs(&self, command: &Command<'_>) -> Result<String> {
        let mut folders = self.tuning.folders(command.base);
        let reference = command.method.reference(command.base).filter(|path| !folders.contains(path));
        folders.extend(reference);
        let mut inputs = self.prompts.fingerprint(&folders)?;
        // A reward model reads texts, with a tokenizer, a template and a scale of its own.
        for folder in &self.flags.rewards.reward_model {
            inputs += &inputs::everything(folder)?;
        }
        Ok(inputs)
    }

    fn train(&self, command: &Command<'_>, opened: Option<Run>) -> Result<()> {
        let Self { flags, folder, tuning, prompts, .. } = self;
        let (train, config) = (&flags.train, flags.train.train_config());
        let method = flags.ppo_config();
        let checkpoint = match &opened {
            Some((_, Some(checkpoint))) => Some(checkpoint.model_dir()),
            _ => None,
        };
        let done = opened.iter().flat_map(|(_, checkpoint)| checkpoint).map(|found| found.state.step).next();
        let inputs = self.inputs(command)?;
        // Before models that take long to load: what cannot be started is known at once.
        let sum = rewards::load(&flags.rewards, &train.machine, command.device, config.micro_batch_tokens)?;
        let options = model::trained(train, command.device);
        let places = (command.base, checkpoint.as_deref());
        let policy = Policy::load(&method, tuning, places, &options, train.seed)?;
        let setup = Setup {
            train,
            folder,
            policy: policy.model(),
            tuning,
            base: command.base,
            continued: checkpoint.is_some(),
            reference: model::frozen(&train.machine, command.device),
            threads: config.threads,
            micro_batch_tokens: config.micro_batch_tokens,
            max_length: train.rows.max_length.min(folder.config.context_length()),
        };
        let Learner { mut engine, layout, threads } = policy.learner(flags, &setup)?;
        let critic =
            self.critic.as_ref().map(|start| self.critic(start, &options, done.is_some())).transpose()?;
        let mut critic_engine: Option<Engine<dyn ValueModel>> =
            critic.as_ref().map(|critic| models::critic_learner(critic, &method, &setup)).transpose()?;
        let companions = Companions::read(command.base).map_err(failure::of)?;
        let relative = method.reward_baseline == RewardBaseline::Reference;
        let answering =
            relative.then(|| reference::load(&setup, flags.kl.ref_model.as_deref())).transpose()?;

        let total_steps = config.total_steps(prompts.rows.train.len());
        let mut source = prompts.source(flags, total_steps)?;
        let mut ptx = prompts.ptx_source(flags, total_steps)?;
        let figures = self.figures(policy.model())?;
        let mut generator = self.generator(policy.model())?;
        let mut reference_generator = answering.as_ref().map(|model| self.generator(model)).transpose()?;
        let mut scorer = Summands::new(sum, prompts);
        let sampler = sampler(flags, &mut generator)?;
        let (run, start) = command.begin(opened)?;
        command.write_environment(&run)?;
        let span = (done.unwrap_or(0), total_steps);
        let mut log = SampleLog::open(train.watch.samples, prompts, command.output, &config, span)?;

        let parts = Parts {
            source: source.as_mut(),
            generator: sampler,
            scorer: &mut scorer,
            policy: engine.as_mut(),
            layout,
            critic: match &mut critic_engine {
                Some(critic) => Some(critic),
                None => None,
            },
            reference_generator: match &mut reference_generator {
                Some(generator) => Some(generator),
                None => None,
            },
            ptx: match &mut ptx {
                Some(ptx) => Some(ptx),
                None => None,
            },
            eval: prompts.rows.eval.clone().into_vec()?,
            observer: Some(Box::new(|step: u64, groups: &[&PromptGroup]| log.observe(step, groups))),
            figures,
        };
        let settings = Settings {
            config: method,
            sampling: flags.sampling_config(),
            seed: train.seed,
            learning_rate: train.optimizer.learning_rate,
        };
        let totals = Totals::default();
        let iterations = Iterations::new(settings, parts).map_err(failure::of)?;
        let mut steps = Counted { iterations, totals: &totals };
        let mut summary = prompts.summary();
        if matches!(tuning, Tuning::Full) {
            summary.insert("model_dtype".into(), policy.model().source_dtype().into());
        }
        let save = |to: &Path| Ok(policy.save(to, SaveDtype::F32, tuning, &companions)?);
        // Whoever reads the folder knows nothing of the units that values were trained in.
        let save_final = |to: &Path| {
            Ok(policy.save_in_units(totals.scale(), to, SaveDtype::Source, tuning, &companions)?)
        };
        let before_finish = |_: u64| -> Result<Map<String, Value>, BoxError> {
            critic.as_ref().map_or(Ok(()), |critic| save_critic(critic, totals.scale(), command.output))?;
            Ok(Map::from_iter([("completions_sampled".to_owned(), totals.sampled().into())]))
        };
        let mut hooks = Hooks::new(&save);
        hooks.save_final = Some(&save_final);
        hooks.before_finish = Some(&before_finish);
        let job = RunJob {
            folder: &run,
            start,
            steps: &mut steps,
            keep_best: train.watch.keep_best.clone(),
            total_steps,
            config: &config,
            optimizer: &train.optimizer_config(),
            unit: command.method.unit(),
            threads,
            inputs,
            summary,
        };
        let outcome = align_train::run(job, command.equip(hooks)).map_err(failure::of)?;
        drop(steps);
        command.end(outcome)?;
        // The run is whole, and what is found now does not take it back.
        scorer.finish()
    }

    /// Loads the critic; a resumed run puts the weights of its checkpoint into it.
    fn critic(
        &self,
        start: &CriticStart,
        options: &align_lm::LoadOptions,
        resumed: bool,
    ) -> Result<ValueNetwork> {
        if !resumed {
            talk::say(&start.describe());
        }
        start.load(options, self.flags.train.seed, &self.flags.rewards)
    }

    /// Makes what an evaluation measures beside answers to held-out prompts.
    fn figures<'g>(&self, policy: &Model) -> Result<Vec<Figure<'g>>> {
        let rows = self.prompts.ptx.eval.clone().into_vec()?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let config = self.flags.train.train_config();
        let mut earlier = Earlier::new(policy, rows, config.threads, config.micro_batch_tokens)?;
        let measure = Box::new(move || earlier.measure());
        Ok(vec![Figure { name: PpoConfig::PTX_LOSS.to_owned(), measure }])
    }

    fn generator<'g>(&'g self, model: &'g Model) -> Result<AutoGenerator<'g>> {
        let sampler = generate::sampler(model, &self.folder.tokenizer)?;
        Ok(sampler.with_threads(self.flags.train.machine.threads()))
    }
}

/// Says when the generator samples.
fn sampler<'a>(flags: &PpoArgs, generator: &'a mut AutoGenerator<'_>) -> Result<Sampler<'a>> {
    match (flags.method.overlap, generator) {
        (false, generator) => Ok(Sampler::InTurn(generator)),
        (true, AutoGenerator::Engine(engine)) => Ok(Sampler::OneStepOff(engine.as_mut())),
        (true, _) => Err(Error::usage(
            "--overlap: sampling beside training needs the engine of processors, which has weights of its own",
            ["it takes Llama-like models in float32 without --load-in-4bit, on --device cpu".to_owned()],
        )),
    }
}

/// Writes the critic beside the model, in units of the reward. A run that is killed meanwhile writes it again.
fn save_critic(critic: &ValueNetwork, (mean, std): (f64, f64), run: &Path) -> Result<(), BoxError> {
    let folder = run.join(CRITIC);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(Error::write(&folder))?;
    }
    Ok(critic.rescaled(mean, std)?.save(&folder, SaveDtype::F32)?)
}
