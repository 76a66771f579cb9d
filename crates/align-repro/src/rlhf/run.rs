use std::path::{Path, PathBuf};

use align_core::{
    CausalLm, Objective, PackedBatch, ScoreModel,
    align_types::{Completion, Generator, PromptGroup, Purpose, RngStream, config::SamplingConfig},
    no_grad,
    tch::Kind,
};
use align_data::ShuffledRows;
use align_lm::Model;
use align_rm::{RewardConfig, RewardModelObjective};
use align_rollout::auto_generator;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    on_policy::{
        rated::{Rated, scale},
        study::{Chart, Columns, Measured, Method, Place, Tamper},
        train::{OnPolicySettings, Run, SLOTS},
    },
    reward::{
        model::{TrainSettings, load as load_reward, read_texts, save as save_reward, scores, with_head},
        world::{Answer, Answers, END, Stream, WorldSettings},
    },
    store::{read, write},
    style::{
        gold::{ANSWER_TOKENS, Request},
        policy::{Descent, Job, Requests, divergence, load, save},
    },
};

/// The arm that every other one starts from.
const START: &str = "sft";
const MODEL: &str = "model";
/// Mean and standard deviation of a reward model's scores.
const SCALE: &str = "scale.json";
const SCORE_CURVE: &str = "Score by the reward model";
const KL_CURVE: &str = "KL to the start";

/// What a size takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RlhfSize {
    /// Width and layers of all models.
    hidden: usize,
    layers: usize,
    /// Demonstrations, and the steps over them; the learning rate and answers per update of reward models.
    train: TrainSettings,
    /// The writers of demonstrations.
    world: WorldSettings,
    /// Rankings of the policy's own answers.
    rankings: usize,
    /// Answers of each.
    width: usize,
    /// Noisy gold is rounded to multiples of this before it is ranked.
    grade: f64,
    /// Passes over the rankings.
    epochs: u64,
    /// PPO.
    on_policy: OnPolicySettings,
    /// Weight of the language-modelling term in the arm that has it.
    ptx_coef: f64,
    /// Rows of language modelling in an iteration.
    ptx_rows: usize,
    /// Held-out texts whose loss is read.
    held_out: usize,
    /// Answers to each test request.
    test_samples: usize,
}

/// An arm, as the plan has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum RlhfArm {
    /// Fine-tuning on demonstrations.
    Sft,
    /// A reward model of rankings.
    Reward {
        /// Whether each ranking's scores are dealt out anew among its answers.
        shuffled: bool,
    },
    /// PPO.
    Ppo {
        /// The reward model.
        reward: String,
        /// Whether it has the language-modelling term.
        ptx: bool,
    },
}

/// The three stages.
#[derive(Debug)]
pub struct Rlhf;

impl Method for Rlhf {
    type Size = RlhfSize;
    type Arm = RlhfArm;

    const TABLES: &'static [Columns] = &[Columns {
        title: "Every arm on held-out prompts",
        metrics: &[
            ("gold", "gold, held-out requests"),
            ("kl", "KL to the start, nats per answer"),
            ("earlier", "loss on held-out earlier texts, nats per token"),
            ("accuracy", "reward model: held-out pairs ranked as gold does"),
            ("ties", "share of compared answers that tie"),
        ],
    }];

    const CHARTS: &'static [Chart] = &[
        Chart { title: SCORE_CURVE, x: "samples", y: "mean score, standard deviations" },
        Chart { title: KL_CURVE, x: "samples", y: "nats per answer" },
    ];

    fn run(arm: &RlhfArm, place: &Place<'_, RlhfSize>) -> Result<Measured> {
        let own = place.own_folder()?;
        let requests = Requests::split(place.seed);
        let start = place.folder(START).join(MODEL);
        match arm {
            RlhfArm::Sft => {
                let size = place.size;
                let shape = (size.hidden, size.layers);
                let progress = &place.context.progress;
                let model = read_texts(&size.train, &size.world, shape, (place.seed, 0), progress)?;
                save(&model, &start)?;
                test(&model, &model, &requests, place)
            }
            RlhfArm::Reward { shuffled } => reward_model(&start, *shuffled, &requests, &own, place),
            RlhfArm::Ppo { reward, ptx } => {
                let mut curves = [Vec::new(), Vec::new()];
                let model = optimise(&start, &place.folder(reward), *ptx, &requests, place, &mut curves)?;
                let mut measured = test(&model, &load(&start)?, &requests, place)?;
                let titles = [SCORE_CURVE, KL_CURVE].map(str::to_owned);
                measured.curves.extend(titles.into_iter().zip(curves).filter(|(_, curve)| !curve.is_empty()));
                Ok(measured)
            }
        }
    }

    fn cost(arm: &RlhfArm, size: &RlhfSize) -> f64 {
        match arm {
            RlhfArm::Sft => size.train.text_batch as f64 * size.train.text_steps as f64 * 5e-4,
            RlhfArm::Reward { .. } => (size.rankings * size.width) as f64 * size.epochs as f64 * 1e-3,
            RlhfArm::Ppo { .. } => {
                let run = &size.on_policy;
                (run.prompts * run.samples) as f64 * run.iterations as f64 * 2e-3
            }
        }
    }
}

/// Samples answers at temperature 1.
fn sample(model: &Model, requests: &[Request], count: usize, seed: u64) -> Result<Vec<Answers>> {
    let prompts: Vec<Vec<u32>> = requests.iter().map(Request::prompt).collect();
    let config =
        SamplingConfig { num_completions: count, max_new_tokens: ANSWER_TOKENS, seed, ..Default::default() };
    let groups = auto_generator(model, Vec::new())?.with_threads(1).generate(&prompts, &config, 0)?;
    let judged = |(request, group): (&Request, PromptGroup)| {
        let judge =
            |answer: Completion| Answer { gold: request.gold(&answer.token_ids), tokens: answer.token_ids };
        Answers { request: *request, answers: group.completions.into_iter().map(judge).collect() }
    };
    Ok(requests.iter().zip(groups).map(judged).collect())
}

/// Ranks answers by rounded noisy gold; rankings in which all answers tie are left out. Also returns the share of tied
/// comparisons.
fn rank(answers: &[Answers], shuffled: bool, place: &Place<'_, RlhfSize>) -> (Vec<PromptGroup>, f64) {
    let mut random = RngStream::new(place.seed, Purpose::Synthetic, 1, 6);
    let sign = if place.tamper == Tamper::Reverse { -1.0 } else { 1.0 };
    let shuffled = shuffled || place.tamper == Tamper::Random;
    let (mut rows, mut ties, mut pairs) = (Vec::new(), 0usize, 0usize);
    for answers in answers {
        let mut grades: Vec<f64> = answers
            .answers
            .iter()
            .map(|answer| answer.gold + place.size.world.noise * random.normal())
            .map(|score| sign * (score / place.size.grade).round())
            .collect();
        if shuffled {
            random.shuffle(&mut grades);
        }
        let mut group = answers.group();
        let mut equal = 0;
        for (answer, grade) in group.completions.iter_mut().zip(&grades) {
            answer.rank = Some(1 + grades.iter().filter(|other| *other > grade).count() as u32);
            equal += grades.iter().filter(|other| *other == grade).count() - 1;
        }
        let all = grades.len() * grades.len().saturating_sub(1);
        (ties, pairs) = (ties + equal, pairs + all);
        if equal < all {
            rows.push(group);
        }
    }
    (rows, ties as f64 / pairs.max(1) as f64)
}

/// Trains a reward model on rankings of the fine-tuned policy's answers.
fn reward_model(
    start: &Path,
    shuffled: bool,
    requests: &Requests,
    own: &Path,
    place: &Place<'_, RlhfSize>,
) -> Result<Measured> {
    let size = place.size;
    let asked: Vec<Request> = requests.train.iter().cycle().take(size.rankings).copied().collect();
    let answers = sample(&load(start)?, &asked, size.width, place.seed)?;
    let (rows, ties) = rank(&answers, shuffled, place);
    if rows.is_empty() {
        return Err(Error::input("rankings", "every answer ties with every other"));
    }
    let batch = (size.train.answers / size.width.max(1)).max(1);
    let model = with_head(start, place.seed)?;
    let objective: Box<dyn Objective<dyn ScoreModel>> =
        Box::new(RewardModelObjective::new(RewardConfig::default())?);
    let steps = size.epochs * rows.len().div_ceil(batch) as u64;
    let job = Job::<dyn ScoreModel> {
        objective,
        batch,
        steps,
        rows,
        descent: Descent::usual(size.train.rate, steps),
        seed: place.seed,
    };
    job.run(ScoreModel::replicate(&model)?, &place.context.progress, |_| Ok(()))?;
    save_reward(&model, &own.join(MODEL))?;
    write(&own.join(SCALE), &scale(&scores(&model, &answers)?))?;
    let pairs = size.world.test_pairs(requests, false, &mut Stream::Test.random(place.seed, 0));
    let scored = scores(&model, &pairs)?;
    let agrees = |(pair, scores): (&Answers, &Vec<f64>)| match scores.as_slice() {
        [first, second] => f64::from(u8::from((first - second) * pair.gold_difference() > 0.0)),
        _ => 0.0,
    };
    let right: f64 = pairs.iter().zip(&scored).map(agrees).sum();
    Ok(Measured::default().with([("accuracy", right / pairs.len().max(1) as f64), ("ties", ties)]))
}

/// Texts of the writers that no other part of the run has seen.
fn texts(requests: &[Request], count: usize, index: u64, place: &Place<'_, RlhfSize>) -> Vec<PromptGroup> {
    let mut random = Stream::Demonstrations.random(place.seed, 1000 + index);
    place.size.world.answers(requests, count, 1, &mut random).iter().map(Answers::group).collect()
}

/// The last stage.
fn optimise(
    start: &Path,
    reward: &Path,
    with_ptx: bool,
    requests: &Requests,
    place: &Place<'_, RlhfSize>,
    [score, kl]: &mut [Vec<(f64, f64)>; 2],
) -> Result<Model> {
    let size = place.size;
    let mut settings = size.on_policy.clone();
    let (seed, iterations) = (place.seed, settings.iterations);
    settings.ppo.ptx_coef = if with_ptx { size.ptx_coef } else { 0.0 };
    let prompts: Vec<PromptGroup> =
        requests.train.iter().map(|request| PromptGroup::new(request.prompt(), Vec::new())).collect();
    let mut source = ShuffledRows::new(prompts, settings.prompts, seed, iterations)?;
    let rows = texts(&requests.train, size.train.texts, 0, place);
    let mut earlier = ShuffledRows::new(rows, size.ptx_rows.max(1), seed, iterations)?;
    let folder: PathBuf = reward.join(MODEL);
    let mut scorer = Rated::new(load_reward(&folder)?, read(&reward.join(SCALE))?).with_end(END);
    let run = Run {
        settings: &settings,
        start,
        critic: Some(&folder),
        stop_tokens: Vec::new(),
        answer_tokens: ANSWER_TOKENS,
        slots: SLOTS,
        source: &mut source,
        scorer: &mut scorer,
        ptx: if with_ptx { Some(&mut earlier) } else { None },
        seed,
        progress: &place.context.progress,
    };
    let (model, _) = run.train(|now| {
        if now.iteration == 1 || now.iteration.is_multiple_of(settings.every) {
            let at = now.cost.sampled as f64;
            score.extend(now.report.metric("objective/scores").map(|value| (at, value)));
            kl.extend(now.report.metric("objective/kl").map(|value| (at, value)));
        }
        Ok(())
    })?;
    Ok(model)
}

/// Reads what a policy is worth on held-out requests, and what earlier texts cost it.
fn test(model: &Model, start: &Model, requests: &Requests, place: &Place<'_, RlhfSize>) -> Result<Measured> {
    let answers = sample(model, &requests.test, place.size.test_samples, place.seed ^ (2 << 32))?;
    let groups: Vec<PromptGroup> = answers
        .iter()
        .map(|group| {
            let bare = |answer: &Answer| Completion::new(answer.tokens.clone());
            PromptGroup::new(group.request.prompt(), group.answers.iter().map(bare).collect())
        })
        .collect();
    let count: usize = answers.iter().map(|group| group.answers.len()).sum();
    let count = count.max(1) as f64;
    let gold: f64 = answers.iter().flat_map(|group| &group.answers).map(|answer| answer.gold).sum();
    let kl = divergence(model, start, &groups)?;
    let earlier = loss(model, &texts(&requests.test, place.size.held_out, 1, place))?;
    let mut measured =
        Measured::default().with([("gold", gold / count), ("kl", kl / count), ("earlier", earlier)]);
    measured.sample = answers.first().and_then(|group| {
        let answer = group.answers.first()?;
        Some((Request::text(&group.request.prompt()), Request::text(&answer.tokens)))
    });
    Ok(measured)
}

/// Mean of −log π over the tokens of texts.
fn loss(model: &Model, texts: &[PromptGroup]) -> Result<f64> {
    let _guard = no_grad();
    let sums = model.token_log_probs(&PackedBatch::new(texts)?, 1.0)?.sums()?;
    let tokens: usize = texts.iter().map(PromptGroup::completion_tokens).sum();
    Ok(-sums.f_sum(Kind::Double)?.f_double_value(&[])? / tokens.max(1) as f64)
}
