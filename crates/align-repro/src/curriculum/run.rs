use std::path::Path;

use align_core::{
    BoxError, CausalLm,
    align_types::{
        Generator, PromptGroup, PromptSource, RngStream,
        config::{CurriculumConfig, SamplingConfig},
    },
};
use align_data::{Curriculum as Filter, ShuffledRows};
use align_lm::{Model, ModelConfig};
use align_losses::{Sft, SftConfig};
use align_ppo::Scorer;
use align_rollout::auto_generator;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::columns::{
    ANSWER_TOKENS, BLANK, COLUMNS, Counts, END, FEWEST, PROMPT_TOKENS, Problem, Problems, Stream, VOCABULARY,
    text,
};
use crate::{
    Error, Result,
    on_policy::{
        study::{Chart, Columns, Measured, Method, Place, Tamper},
        train::{OnPolicySettings, Run},
    },
    progress::UnitProgress,
    style::policy::{Descent, Job, load, save},
};

/// The arm that every other one starts from.
const START: &str = "start";
const MODEL: &str = "model";
const EXACT: &str = "exact";
const CURVE: &str = "Exact match on validation problems";
/// Sequences that are decoded together; it changes speed and memory, not samples.
const SEQUENCES: usize = 256;

/// What a sampling seed is for: the streams of one use are those of no other.
#[derive(Debug, Clone, Copy)]
enum Use {
    /// Points of a curve.
    Validation = 1,
    /// What is reported.
    Test = 2,
    /// Answers that success rates are estimated from.
    Estimate = 3,
}

impl Use {
    /// Settings of sampling `count` answers at temperature 1.
    fn sampling(self, count: usize, seed: u64) -> SamplingConfig {
        SamplingConfig {
            num_completions: count,
            max_new_tokens: ANSWER_TOKENS,
            seed: seed ^ ((self as u64) << 32),
            ..SamplingConfig::default()
        }
    }
}

/// What a size takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurriculumSize {
    /// Width of the model; the feed-forward layers are four times as wide.
    hidden: usize,
    /// Its layers.
    layers: usize,
    /// Its heads.
    heads: usize,
    /// How reliable writers of demonstrations are in each column, units first.
    right: Vec<f64>,
    /// Demonstrations.
    demonstrations: usize,
    /// Demonstrations per step of fine-tuning.
    sft_batch: usize,
    /// Steps of it.
    sft_steps: u64,
    /// Its learning rate.
    sft_rate: f64,
    /// Problems of each difficulty.
    problems: Counts,
    /// Answers to each problem of the pool that the start gives before a filtered run, to estimate how often it succeeds.
    estimates: usize,
    /// The method; the iterations are those of the run without a filter, and one with a filter has fewer by what its
    /// estimates took.
    on_policy: OnPolicySettings,
    /// Answers to each validation problem at every point of a curve.
    curve_samples: usize,
    /// Answers to each test problem.
    test_samples: usize,
}

impl CurriculumSize {
    /// Answers of an iteration.
    fn iteration(&self) -> usize {
        self.on_policy.prompts * self.on_policy.samples
    }

    /// All answers of a run.
    fn rollouts(&self) -> usize {
        self.iteration() * self.on_policy.iterations as usize
    }

    /// The answers from which success rates are estimated before a run.
    fn spent(&self) -> usize {
        self.problems.pool * COLUMNS * self.estimates
    }

    fn model(&self) -> Result<ModelConfig> {
        let keys = [
            ("model_type", json!("gpt2")),
            ("vocab_size", json!(VOCABULARY)),
            ("n_embd", json!(self.hidden)),
            ("n_layer", json!(self.layers)),
            ("n_head", json!(self.heads)),
            ("n_positions", json!(PROMPT_TOKENS + ANSWER_TOKENS)),
            ("tie_word_embeddings", json!(false)),
            ("eos_token_id", json!(END)),
            ("pad_token_id", json!(BLANK)),
        ];
        let raw: Map<String, Value> = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(ModelConfig::from_json(raw, Path::new("the model's configuration"))?)
    }
}

/// An arm, as the plan has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum CurriculumArm {
    /// The model is fine-tuned on demonstrations.
    Start,
    /// It is trained on its own answers.
    Train {
        /// How problems are chosen; all of the pool in turn without.
        #[serde(default)]
        filter: Option<CurriculumConfig>,
        /// Whether rewards are drawn by lot.
        #[serde(default)]
        random: bool,
    },
}

/// The experiment on sums by column.
#[derive(Debug)]
pub struct Curriculum;

impl Method for Curriculum {
    type Size = CurriculumSize;
    type Arm = CurriculumArm;

    const TABLES: &'static [Columns] = &[
        Columns {
            title: "Every arm on test problems",
            metrics: &[
                (EXACT, "exact match, all difficulties alike"),
                ("greedy", "exact match of the most likely answer"),
                ("run", "exact match over the run, validation"),
                ("rollouts", "answers sampled, all counted"),
                ("estimated", "of these for estimates alone"),
                ("mixed", "share of groups with right and wrong answers"),
            ],
        },
        Columns {
            title: "Exact match by the number of columns",
            metrics: &[("1", "1"), ("2", "2"), ("3", "3"), ("4", "4"), ("5", "5"), ("6", "6")],
        },
    ];

    const CHARTS: &'static [Chart] =
        &[Chart { title: CURVE, x: "answers sampled, all counted", y: "share of answers" }];

    fn check(arm: &CurriculumArm, size: &CurriculumSize) -> Result<()> {
        let wrong = |what: &str, why: String| Err(Error::input(what, why));
        if !size.problems.fit() {
            let why = format!("there are {FEWEST} of one column, and none of the three may be 0");
            return wrong("problems of each difficulty", why);
        }
        if size.right.len() != COLUMNS || !size.right.iter().all(|share| (0.0..=1.0).contains(share)) {
            return wrong("reliability of writers", format!("{COLUMNS} numbers in [0, 1] are expected"));
        }
        size.on_policy.ppo.validate().map_err(|e| Error::input("settings of ppo", e))?;
        let CurriculumArm::Train { filter: Some(filter), .. } = arm else { return Ok(()) };
        filter.validate().map_err(|e| Error::input("filter", e))?;
        let (spent, each) = (size.spent(), size.iteration());
        if each == 0 || spent == 0 || !spent.is_multiple_of(each) || spent >= size.rollouts() {
            let why = format!(
                "{spent} answers must be some iterations of {each}, fewer than all {}",
                size.rollouts()
            );
            return wrong("estimates", why);
        }
        Ok(())
    }

    fn run(arm: &CurriculumArm, place: &Place<'_, CurriculumSize>) -> Result<Measured> {
        let problems = Problems::draw(&place.size.problems, place.seed);
        place.own_folder()?;
        let folder = place.folder(START).join(MODEL);
        match arm {
            CurriculumArm::Start => {
                let model = fine_tune(place.size, &problems, place.seed, &place.context.progress)?;
                save(&model, &folder)?;
                test(&model, &problems, place)
            }
            CurriculumArm::Train { filter, random } => {
                train(&folder, &problems, filter.as_ref(), *random, place)
            }
        }
    }

    fn cost(arm: &CurriculumArm, size: &CurriculumSize) -> f64 {
        match arm {
            CurriculumArm::Start => size.sft_batch as f64 * size.sft_steps as f64 * 1.5e-4,
            CurriculumArm::Train { .. } => size.rollouts() as f64 * 5e-4,
        }
    }
}

/// Makes the model and fine-tunes it on demonstrations.
fn fine_tune(
    size: &CurriculumSize,
    problems: &Problems,
    seed: u64,
    progress: &UnitProgress<'_>,
) -> Result<Model> {
    let model = Model::init(&size.model()?, seed)?;
    let job = Job {
        objective: Box::new(Sft::new(SftConfig::default())),
        rows: problems.demonstrations(size.demonstrations, &size.right, seed),
        batch: size.sft_batch,
        steps: size.sft_steps,
        descent: Descent::usual(size.sft_rate, size.sft_steps),
        seed,
    };
    job.run(CausalLm::replicate(&model)?, progress, |_| Ok(()))?;
    Ok(model)
}

/// Samples answers: one group per problem.
fn sample(model: &Model, problems: &[Problem], config: &SamplingConfig) -> Result<Vec<PromptGroup>> {
    let prompts: Vec<Vec<u32>> = problems.iter().map(Problem::prompt).collect();
    let mut generator = auto_generator(model, vec![END])?.with_threads(1).with_slots(SEQUENCES);
    Ok(generator.generate(&prompts, config, 0)?)
}

/// Rewards an answer with 1 if every digit is right, and with 0 else; where they are by lot, from the stream of its own use.
#[derive(Debug)]
struct Exact {
    tamper: Tamper,
    random: RngStream,
    /// Groups with right and wrong answers, and all.
    groups: [usize; 2],
}

impl Exact {
    /// Of the answers that are trained on.
    fn trained(tamper: Tamper, seed: u64) -> Self {
        Self { tamper, random: Stream::Rewards.random(seed), groups: [0, 0] }
    }

    /// Of the answers that success rates are estimated from: lots that were drawn before would choose the problems by what
    /// their answers are going to earn.
    fn estimated(tamper: Tamper, seed: u64) -> Self {
        Self { random: Stream::Estimates.random(seed), ..Self::trained(tamper, seed) }
    }

    fn rewards(&mut self, group: &PromptGroup) -> Vec<f64> {
        let right = Problem::read(&group.prompt).map(|problem| problem.answer());
        let answers = group.completions.iter();
        let exact = answers.map(|answer| right.as_ref().is_some_and(|right| *right == answer.token_ids));
        let rewards: Vec<f64> = exact
            .map(|exact| match self.tamper {
                Tamper::None => f64::from(exact),
                Tamper::Reverse => f64::from(!exact),
                Tamper::Random => f64::from(self.random.uniform() < 0.5),
            })
            .collect();
        let is_mixed = rewards.contains(&0.0) && rewards.contains(&1.0);
        let [mixed, all] = self.groups;
        self.groups = [mixed + usize::from(is_mixed), all + 1];
        rewards
    }
}

impl Scorer for Exact {
    fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError> {
        Ok(groups.iter().map(|group| self.rewards(group).into_iter().map(Some).collect()).collect())
    }
}

/// Makes the filter, whose first success rates are those of answers that are used for nothing else.
fn filtered(
    model: &Model,
    problems: &Problems,
    config: &CurriculumConfig,
    scorer: &mut Exact,
    place: &Place<'_, CurriculumSize>,
) -> Result<Filter> {
    let size = place.size;
    let groups = sample(model, &problems.pool, &Use::Estimate.sampling(size.estimates, place.seed))?;
    let rate = |group: &PromptGroup| {
        let rewards = scorer.rewards(group);
        let successes: f64 = rewards.iter().map(|reward| config.success(*reward)).sum();
        Some(successes / rewards.len().max(1) as f64)
    };
    let rates: Vec<Option<f64>> = groups.iter().map(rate).collect();
    let iterations = size.on_policy.iterations;
    let filter =
        Filter::new(prompts(problems), config.clone(), size.on_policy.prompts, place.seed, iterations)?;
    Ok(filter.with_estimates(&rates)?)
}

fn prompts(problems: &Problems) -> Vec<PromptGroup> {
    problems.pool.iter().map(Problem::group).collect()
}

/// Trains on own answers, as many with a filter as without.
fn train(
    start: &Path,
    problems: &Problems,
    filter: Option<&CurriculumConfig>,
    random: bool,
    place: &Place<'_, CurriculumSize>,
) -> Result<Measured> {
    let (size, seed) = (place.size, place.seed);
    let tamper = if random { Tamper::Random } else { place.tamper };
    let mut settings = size.on_policy.clone();
    let first = load(start)?;
    let watch = |model: &Model| validate(model, problems, place);
    let before = watch(&first)?;
    let mut curve = vec![(0.0, before)];
    let (mut source, spent): (Box<dyn PromptSource>, usize) = match filter {
        None => {
            let all = ShuffledRows::new(prompts(problems), settings.prompts, seed, settings.iterations)?;
            (Box::new(all), 0)
        }
        Some(config) => {
            let filter = filtered(&first, problems, config, &mut Exact::estimated(tamper, seed), place)?;
            curve.push((size.spent() as f64, before));
            (Box::new(filter), size.spent())
        }
    };
    settings.iterations -= (spent / size.iteration().max(1)) as u64;
    let mut scorer = Exact::trained(tamper, seed);
    let run = Run {
        settings: &settings,
        start,
        critic: None,
        stop_tokens: vec![END],
        answer_tokens: ANSWER_TOKENS,
        slots: SEQUENCES,
        source: source.as_mut(),
        scorer: &mut scorer,
        ptx: None,
        seed,
        progress: &place.context.progress,
    };
    let (model, cost) = run.train(|now| {
        if now.is_due {
            curve.push((spent as f64 + now.cost.sampled as f64, watch(now.policy)?));
        }
        Ok(())
    })?;
    let [mixed, all] = scorer.groups;
    let mut measured = test(&model, problems, place)?.with([
        ("run", average(&curve)),
        ("rollouts", spent as f64 + cost.sampled as f64),
        ("estimated", spent as f64),
        ("mixed", mixed as f64 / all.max(1) as f64),
    ]);
    measured.curves.insert(CURVE.into(), curve);
    Ok(measured)
}

/// Averages a curve over its horizontal axis by the trapezoidal rule; 0 for one without width.
fn average(curve: &[(f64, f64)]) -> f64 {
    let area = |(from, to): (&(f64, f64), &(f64, f64))| (to.0 - from.0) * (from.1 + to.1) / 2.0;
    let all: f64 = curve.iter().zip(curve.iter().skip(1)).map(area).sum();
    let width = curve.last().map_or(0.0, |last| last.0) - curve.first().map_or(0.0, |first| first.0);
    if width > 0.0 { all / width } else { 0.0 }
}

/// Counts right answers and all answers by difficulty.
fn count(groups: &[PromptGroup]) -> [(usize, usize); COLUMNS] {
    let mut counts = [(0, 0); COLUMNS];
    for group in groups {
        let Some(problem) = Problem::read(&group.prompt) else { continue };
        let right = problem.answer();
        let exact = group.completions.iter().filter(|answer| answer.token_ids == right).count();
        if let Some((good, all)) = counts.get_mut(problem.difficulty() - 1) {
            *good += exact;
            *all += group.completions.len();
        }
    }
    counts
}

fn share((right, all): (usize, usize)) -> f64 {
    right as f64 / all.max(1) as f64
}

/// Averages exact match over difficulties.
fn exact(groups: &[PromptGroup]) -> f64 {
    count(groups).map(share).iter().sum::<f64>() / COLUMNS as f64
}

fn validate(model: &Model, problems: &Problems, place: &Place<'_, CurriculumSize>) -> Result<f64> {
    let config = Use::Validation.sampling(place.size.curve_samples, place.seed);
    Ok(exact(&sample(model, &problems.validation, &config)?))
}

/// Reads a policy on the test problems.
fn test(model: &Model, problems: &Problems, place: &Place<'_, CurriculumSize>) -> Result<Measured> {
    let config = Use::Test.sampling(place.size.test_samples, place.seed);
    let groups = sample(model, &problems.test, &config)?;
    let likely = SamplingConfig { greedy: true, num_completions: 1, ..config };
    let greedy = exact(&sample(model, &problems.test, &likely)?);
    let mut measured = Measured::default().with([(EXACT, exact(&groups)), ("greedy", greedy)]);
    for (columns, counts) in (1..).zip(count(&groups)) {
        measured.metrics.insert(format!("{columns}"), share(counts));
    }
    measured.sample = groups.last().and_then(|group| {
        let answer = group.completions.first()?;
        Some((text(&group.prompt), text(&answer.token_ids)))
    });
    Ok(measured)
}

#[cfg(test)]
mod tests {
    use align_core::align_types::Completion;

    use super::*;

    #[test]
    fn a_curve_is_averaged_over_its_axis() {
        // A rise from 0 to 1 over 10, then 1 for 30: an area of 5 + 30 over a width of 40.
        assert_eq!(average(&[(0.0, 0.0), (10.0, 1.0), (40.0, 1.0)]), 0.875);
        assert_eq!(average(&[(5.0, 1.0)]), 0.0);
        assert_eq!(average(&[]), 0.0);
    }

    /// Lots that choose problems must not be the lots that their answers earn later.
    #[test]
    fn lots_of_estimates_are_not_those_of_training() {
        let problem = Problem::draw(2, &mut Stream::Problems.random(1));
        let answers = (0..64).map(|_| Completion::new(problem.answer())).collect();
        let group = PromptGroup::new(problem.prompt(), answers);
        let lots = |mut scorer: Exact| scorer.rewards(&group);
        let [trained, estimated] =
            [Exact::trained, Exact::estimated].map(|make| lots(make(Tamper::Random, 1)));
        assert_ne!(trained, estimated);
        assert_eq!(trained, lots(Exact::trained(Tamper::Random, 1)));
        assert!(lots(Exact::estimated(Tamper::None, 1)).iter().all(|reward| *reward == 1.0));
    }

    /// One right answer of two to a problem of one column, none of one to a problem of two.
    #[test]
    fn difficulties_weigh_the_same_however_many_answers_they_have() {
        let mut random = Stream::Problems.random(1);
        let [short, long] = [1, 2].map(|columns| Problem::draw(columns, &mut random));
        let answered = |problem: &Problem, answers: Vec<Vec<u32>>| {
            PromptGroup::new(problem.prompt(), answers.into_iter().map(Completion::new).collect())
        };
        let cut = short.answer().into_iter().take(1).collect();
        let groups = [answered(&short, vec![short.answer(), cut]), answered(&long, vec![short.answer()])];
        assert_eq!(count(&groups)[..2], [(1, 2), (0, 1)]);
        assert_eq!(exact(&groups), 0.5 / COLUMNS as f64);
    }
}
