use std::path::Path;

use align_core::{
    BoxError, CausalLm,
    align_types::{Completion, Generator, PromptGroup, Purpose, RngStream, config::SamplingConfig},
};
use align_data::ShuffledRows;
use align_lm::{LlamaConfig, Model, ModelConfig};
use align_losses::{Dpo, DpoConfig, Reference, Sft, SftConfig};
use align_ppo::Scorer;
use align_rollout::auto_generator;
use serde::{Deserialize, Serialize};

use super::facts::{ANSWER_TOKENS, ByKey, END, Fact, Facts, Kind, VOCABULARY, text, unanswered, unknown};
use crate::{
    Result,
    on_policy::{
        study::{Chart, Columns, Measured, Method, Place, Tamper},
        train::{OnPolicySettings, Run, SLOTS},
    },
    progress::UnitProgress,
    style::policy::{Descent, Job, divergence, keep_reference, load, save},
};

/// The arm that every other one starts from.
const START: &str = "sft";
const MODEL: &str = "model";
const CURVE: &str = "Wrong answers on unknown facts";

/// Size of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    hidden: usize,
    feed_forward: usize,
    layers: usize,
    heads: usize,
}

/// One training with demonstrations or pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSettings {
    batch: usize,
    steps: u64,
    rate: f64,
}

/// What a size takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbstainSize {
    /// The model.
    model: ModelSettings,
    /// Facts, known and unknown.
    facts: usize,
    /// Times that each known fact stands among the demonstrations, in each phrasing.
    copies: usize,
    /// Share of the demonstrations that say "I do not know" instead.
    silent: f64,
    /// Fine-tuning.
    sft: StepSettings,
    /// Fine-tuning on more rows.
    more: StepSettings,
    /// DPO.
    dpo: StepSettings,
    /// Strength of its pull to the start.
    beta: f64,
    /// Answers to each question that the start gives before rows and pairs are made of them.
    own_answers: usize,
    /// PPO.
    on_policy: OnPolicySettings,
    /// Answers to each question of the test.
    test_samples: usize,
}

/// An arm, as the plan has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AbstainArm {
    /// The model is taught and fine-tuned.
    Start,
    /// Fine-tuning goes on with more "I do not know" rows.
    More {
        /// Whose answer is replaced: by lot, or where the model itself is wrong.
        blind: bool,
    },
    /// DPO: "I do not know" preferred over one wrong answer of the model.
    Dpo {
        /// Also prefers a right answer of the model over "I do not know".
        both: bool,
    },
    /// PPO.
    Ppo {
        /// Reward of a right answer.
        right: f64,
        /// Reward of "I do not know".
        abstained: f64,
        /// Reward of a wrong answer.
        wrong: f64,
    },
}

/// The experiment on facts.
#[derive(Debug)]
pub struct Abstain;

impl Method for Abstain {
    type Size = AbstainSize;
    type Arm = AbstainArm;

    const TABLES: &'static [Columns] = &[Columns {
        title: "Every arm on held-out prompts",
        metrics: &[
            ("unknown/wrong", "wrong, unknown facts"),
            ("unknown/abstained", "'I do not know', unknown facts"),
            ("known/right", "right, known facts"),
            ("known/abstained", "'I do not know', known facts"),
            ("known/wrong", "wrong, known facts"),
            ("score", "mean of +1, 0, -4"),
            ("kl", "KL to the start, nats per answer"),
        ],
    }];

    const CHARTS: &'static [Chart] =
        &[Chart { title: CURVE, x: "samples", y: "share of the samples of an iteration" }];

    fn run(arm: &AbstainArm, place: &Place<'_, AbstainSize>) -> Result<Measured> {
        let facts = Facts::draw(place.size.facts, place.seed);
        place.own_folder()?;
        let progress = &place.context.progress;
        let start = place.folder(START).join(MODEL);
        let mut curve = Vec::new();
        let model = match arm {
            AbstainArm::Start => {
                let model = teach(place.size, &facts, place.seed, progress)?;
                save(&model, &start)?;
                model
            }
            AbstainArm::More { blind } => {
                let model = load(&start)?;
                let rows = more(&model, place, &facts, *blind)?;
                train(Sft::new(SftConfig::default()), rows, &place.size.more, &model, place)?;
                model
            }
            AbstainArm::Dpo { both } => {
                let model = load(&start)?;
                let rows = pairs(&model, place, &facts, *both)?;
                let config = DpoConfig { beta: place.size.beta, ..DpoConfig::default() };
                let dpo = Dpo::new(config, Reference::Precomputed)?.starting_at_reference();
                train(dpo, rows, &place.size.dpo, &model, place)?;
                model
            }
            AbstainArm::Ppo { right, abstained, wrong } => {
                let worth = [*right, *abstained, *wrong];
                reward(place, &facts, &start, worth, &mut curve)?
            }
        };
        let mut measured = test(&model, &load(&start)?, &facts, place)?;
        if !curve.is_empty() {
            measured.curves.insert(CURVE.into(), curve);
        }
        Ok(measured)
    }

    fn cost(arm: &AbstainArm, size: &AbstainSize) -> f64 {
        let steps = |settings: &StepSettings| settings.batch as f64 * settings.steps as f64 * 4e-4;
        match arm {
            AbstainArm::Start => steps(&size.sft),
            AbstainArm::More { .. } => steps(&size.more),
            AbstainArm::Dpo { .. } => 2.0 * steps(&size.dpo),
            AbstainArm::Ppo { .. } => {
                let run = &size.on_policy;
                (run.prompts * run.samples) as f64 * run.iterations as f64 * 2e-3
            }
        }
    }
}

/// Makes the model and fine-tunes it: known facts with their values or, by lot, "I do not know"; every question as text.
fn teach(size: &AbstainSize, facts: &Facts, seed: u64, progress: &UnitProgress<'_>) -> Result<Model> {
    let config = LlamaConfig {
        vocab_size: VOCABULARY,
        hidden_size: size.model.hidden,
        intermediate_size: size.model.feed_forward,
        num_hidden_layers: size.model.layers,
        num_attention_heads: size.model.heads,
        num_key_value_heads: size.model.heads,
        head_dim: size.model.hidden / size.model.heads.max(1),
        max_position_embeddings: 16,
        ..LlamaConfig::default()
    };
    let model = Model::init(&ModelConfig::llama(config)?, seed)?;
    let mut random = RngStream::new(seed, Purpose::Synthetic, 1, 5);
    let mut rows = Vec::new();
    for fact in facts.known.iter().chain(&facts.known_test) {
        for question in fact.questions() {
            for _ in 0..size.copies {
                let answer = if random.uniform() < size.silent { unknown() } else { fact.answer() };
                rows.push(PromptGroup::new(question.clone(), vec![answer]));
            }
        }
    }
    rows.extend(facts.all().flat_map(Fact::questions).map(|question| unanswered(&question)));
    job(Sft::new(SftConfig::default()), rows, &size.sft, seed).run(
        CausalLm::replicate(&model)?,
        progress,
        |_| Ok(()),
    )?;
    Ok(model)
}

fn job(
    objective: impl align_core::Objective + 'static,
    rows: Vec<PromptGroup>,
    settings: &StepSettings,
    seed: u64,
) -> Job {
    let StepSettings { batch, steps, rate } = *settings;
    Job { objective: Box::new(objective), rows, batch, steps, descent: Descent::usual(rate, steps), seed }
}

fn train(
    objective: impl align_core::Objective + 'static,
    rows: Vec<PromptGroup>,
    settings: &StepSettings,
    model: &Model,
    place: &Place<'_, AbstainSize>,
) -> Result<()> {
    let job = job(objective, rows, settings, place.seed);
    job.run(CausalLm::replicate(model)?, &place.context.progress, |_| Ok(())).map(|_| ())
}

/// Questions about the facts that policies are aligned on, in every phrasing.
fn training_questions(facts: &Facts) -> Vec<(Fact, Vec<u32>)> {
    let all = facts.known.iter().chain(&facts.unknown);
    all.flat_map(|fact| fact.questions().map(move |question| (*fact, question))).collect()
}

/// Samples answers at temperature 1.
fn ask(model: &Model, questions: &[Vec<u32>], count: usize, seed: u64) -> Result<Vec<PromptGroup>> {
    let config =
        SamplingConfig { num_completions: count, max_new_tokens: ANSWER_TOKENS, seed, ..Default::default() };
    Ok(auto_generator(model, vec![END])?.with_threads(1).generate(questions, &config, 0)?)
}

/// The start's own answers to the training questions, with what they are.
fn own_answers(
    model: &Model,
    place: &Place<'_, AbstainSize>,
    facts: &Facts,
) -> Result<Vec<(Fact, PromptGroup)>> {
    let asked = training_questions(facts);
    let questions: Vec<Vec<u32>> = asked.iter().map(|(_, question)| question.clone()).collect();
    let answers = ask(model, &questions, place.size.own_answers, place.seed)?;
    Ok(asked.into_iter().map(|(fact, _)| fact).zip(answers).collect())
}

fn first_of(fact: &Fact, group: &PromptGroup, kind: Kind) -> Option<Completion> {
    let found = group.completions.iter().find(|answer| fact.judge(&answer.token_ids) == kind);
    found.map(|answer| Completion::new(answer.token_ids.clone()))
}

/// Rows of more fine-tuning: half of the answers by lot, or those where the model's own is wrong, are "I do not know".
fn more(
    model: &Model,
    place: &Place<'_, AbstainSize>,
    facts: &Facts,
    blind: bool,
) -> Result<Vec<PromptGroup>> {
    let mut random = RngStream::new(place.seed, Purpose::Synthetic, 2, 5);
    let rows = own_answers(model, place, facts)?.into_iter().map(|(fact, group)| {
        let first = group.completions.first().map(|answer| fact.judge(&answer.token_ids));
        let silent = if blind { random.uniform() < 0.5 } else { first == Some(Kind::Wrong) };
        PromptGroup::new(group.prompt, vec![if silent { unknown() } else { fact.answer() }])
    });
    Ok(rows.collect())
}

/// Pairs of "I do not know" over a wrong answer of the model, and where asked of a right answer over "I do not know".
fn pairs(
    model: &Model,
    place: &Place<'_, AbstainSize>,
    facts: &Facts,
    both: bool,
) -> Result<Vec<PromptGroup>> {
    let mut rows = Vec::new();
    for (fact, group) in own_answers(model, place, facts)? {
        let row = |chosen, rejected| PromptGroup::new(group.prompt.clone(), vec![chosen, rejected]);
        rows.extend(first_of(&fact, &group, Kind::Wrong).map(|wrong| row(unknown(), wrong)));
        let right = first_of(&fact, &group, Kind::Right).filter(|_| both);
        rows.extend(right.map(|right| row(right, unknown())));
    }
    if place.tamper == Tamper::Reverse {
        rows.iter_mut().for_each(|row| row.completions.reverse());
    }
    keep_reference(model, &mut rows)?;
    Ok(rows)
}

/// Rewards answers by what they are.
struct Judge {
    facts: ByKey,
    /// Of a right answer, of "I do not know", of a wrong answer.
    worth: [f64; 3],
    tamper: Tamper,
    random: RngStream,
    wrong_on_unknown: (usize, usize),
    unknown: std::collections::BTreeSet<Vec<u32>>,
}

impl Scorer for Judge {
    fn score(&mut self, groups: &[PromptGroup]) -> Result<Vec<Vec<Option<f64>>>, BoxError> {
        let [right, abstained, wrong] = self.worth;
        self.wrong_on_unknown = (0, 0);
        let mut scores = Vec::with_capacity(groups.len());
        for group in groups {
            let fact = self.facts.of(&group.prompt);
            let is_unknown = self.unknown.contains(&group.prompt);
            let mut row = Vec::with_capacity(group.completions.len());
            for answer in &group.completions {
                let kind = fact.map(|fact| fact.judge(&answer.token_ids));
                if is_unknown {
                    self.wrong_on_unknown.0 += usize::from(kind == Some(Kind::Wrong));
                    self.wrong_on_unknown.1 += 1;
                }
                let score = kind.map(|kind| match kind {
                    Kind::Right => right,
                    Kind::Abstained => abstained,
                    Kind::Wrong => wrong,
                });
                row.push(match self.tamper {
                    Tamper::None => score,
                    Tamper::Reverse => score.map(|score| -score),
                    Tamper::Random => Some(self.random.uniform()),
                });
            }
            scores.push(row);
        }
        Ok(scores)
    }

    fn metrics(&self) -> Vec<(String, f64, usize)> {
        let (wrong, all) = self.wrong_on_unknown;
        vec![(CURVE.to_owned(), wrong as f64 / all.max(1) as f64, all.max(1))]
    }
}

/// Trains with PPO.
fn reward(
    place: &Place<'_, AbstainSize>,
    facts: &Facts,
    start: &Path,
    worth: [f64; 3],
    curve: &mut Vec<(f64, f64)>,
) -> Result<Model> {
    let settings = &place.size.on_policy;
    let prompts: Vec<PromptGroup> = training_questions(facts)
        .into_iter()
        .map(|(_, question)| PromptGroup::new(question, Vec::new()))
        .collect();
    let mut source = ShuffledRows::new(prompts, settings.prompts, place.seed, settings.iterations)?;
    let mut judge = Judge {
        facts: facts.by_key(),
        worth,
        tamper: place.tamper,
        random: RngStream::new(place.seed, Purpose::Synthetic, 3, 5),
        wrong_on_unknown: (0, 0),
        unknown: facts.unknown.iter().flat_map(Fact::questions).collect(),
    };
    let run = Run {
        settings,
        start,
        critic: None,
        stop_tokens: vec![END],
        answer_tokens: ANSWER_TOKENS,
        slots: SLOTS,
        source: &mut source,
        scorer: &mut judge,
        ptx: None,
        seed: place.seed,
        progress: &place.context.progress,
    };
    let (model, _) = run.train(|now| {
        if now.iteration == 1 || now.iteration.is_multiple_of(settings.every) {
            curve.extend(now.report.metric(CURVE).map(|wrong| (now.cost.sampled as f64, wrong)));
        }
        Ok(())
    })?;
    Ok(model)
}

/// Asks about the facts that no policy was aligned on, in every phrasing.
fn test(model: &Model, start: &Model, facts: &Facts, place: &Place<'_, AbstainSize>) -> Result<Measured> {
    let mut measured = Measured::default();
    let by_key = facts.by_key();
    let (mut kl, mut answers, mut score) = (0.0, 0.0, 0.0);
    for (name, tested) in [("known", &facts.known_test), ("unknown", &facts.unknown_test)] {
        let questions: Vec<Vec<u32>> = tested.iter().flat_map(Fact::questions).collect();
        let groups = ask(model, &questions, place.size.test_samples, place.seed ^ (1 << 32))?;
        kl += divergence(model, start, &groups)?;
        let mut kinds = [0.0; 3];
        for group in &groups {
            let fact = by_key.of(&group.prompt);
            for kind in group.completions.iter().filter_map(|answer| fact.map(|f| f.judge(&answer.token_ids)))
            {
                kinds.iter_mut().skip(kind as usize).take(1).for_each(|count| *count += 1.0);
            }
        }
        let all: f64 = kinds.iter().sum::<f64>().max(1.0);
        let [right, abstained, wrong] = kinds;
        answers += all;
        score += right - 4.0 * wrong;
        for (kind, count) in [("right", right), ("abstained", abstained), ("wrong", wrong)] {
            measured.metrics.insert(format!("{name}/{kind}"), count / all);
        }
        if let Some(group) = groups.first().filter(|_| name == "unknown") {
            let answer = group.completions.first().map(|answer| text(&answer.token_ids)).unwrap_or_default();
            measured.sample = Some((text(&group.prompt), answer));
        }
    }
    Ok(measured.with([("score", score / answers), ("kl", kl / answers)]))
}
