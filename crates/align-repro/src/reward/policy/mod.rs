//! Policies that are trained on a reward with PPO and no penalty on the divergence, and what gold says of them along the way
//! (2210.10760, section 3; 2401.12187, section 5).

mod course;

use std::path::Path;

use align_core::align_types::{Completion, PromptGroup};
use align_data::ShuffledRows;
use align_lm::Model;
use serde::{Deserialize, Serialize};

use self::course::{Course, HALVES, Reading};
use super::{
    proxy::{Judge, Proxy},
    study::MODEL,
};
use crate::{
    Error, Result,
    on_policy::{
        study::{Chart, Columns, Measured, Method, Place},
        train::{OnPolicySettings, Run, SLOTS},
    },
    style::{
        gold::{ANSWER_TOKENS, Request},
        policy::{Requests, divergence, load, sample},
    },
};

/// The part of a plan whose arms are policies.
pub const PART: &str = "policy";

const GOLD_CURVE: &str = "PPO: gold reward";
const PROXY_CURVE: &str = "PPO: proxy reward";

/// What a size takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySize {
    /// Answers to each held-out request at each point, in each of the two halves.
    samples: usize,
    /// The KL at which policies are compared, nats per answer.
    equal_kl: f64,
    /// PPO.
    on_policy: OnPolicySettings,
}

/// A policy, as the plan has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyArm {
    /// The arm with the language model that it begins as.
    start: String,
    /// The arm with the reward.
    reward: String,
}

impl PolicyArm {
    /// The arms whose files it reads; the models of an average are those that the reward needs.
    pub(super) fn needs(&self) -> Vec<String> {
        vec![self.start.clone(), self.reward.clone()]
    }
}

/// PPO on a reward.
#[derive(Debug)]
pub struct Optimise;

impl Method for Optimise {
    type Size = PolicySize;
    type Arm = PolicyArm;

    const TABLES: &'static [Columns] = &[
        Columns {
            title: "PPO without a penalty: gold and proxy",
            metrics: &[
                ("rise", "gold, peak − start"),
                ("fall", "gold, peak − end"),
                ("gain", "gold, end − start"),
                ("proxy-gain", "proxy, end − start"),
                ("proxy-after", "proxy, end − peak of gold"),
                ("equal", "gold at equal KL − start"),
            ],
        },
        Columns {
            title: "PPO without a penalty: how far it goes",
            metrics: &[
                ("peak", "√KL at the peak of gold"),
                ("peak-samples", "samples until there"),
                ("end", "√KL at the end"),
                ("a", "a of d (a − b log d)"),
                ("b", "b"),
                ("distinct-start", "distinct tokens, start"),
                ("distinct", "distinct tokens, end"),
            ],
        },
    ];

    const CHARTS: &'static [Chart] = &[
        Chart {
            title: GOLD_CURVE,
            x: "square root of the KL, nats",
            y: "gold, standard deviations of the start",
        },
        Chart {
            title: PROXY_CURVE,
            x: "square root of the KL, nats",
            y: "proxy, standard deviations of the start",
        },
    ];

    fn check(_: &PolicyArm, size: &PolicySize) -> Result<()> {
        size.on_policy.ppo.validate().map_err(|e| Error::input("settings of ppo", e))
    }

    fn run(arm: &PolicyArm, place: &Place<'_, PolicySize>) -> Result<Measured> {
        let model = |arm: &str| place.folder(arm).join(MODEL);
        let proxy = Proxy::of(&place.folder(&arm.reward))?;
        let start = model(&arm.start);
        let mut observer = Observer {
            place,
            requests: Requests::split(place.seed).test,
            start: load(&start)?,
            judge: proxy.judge(model, place.seed, 1)?,
        };
        let mut course = Course::default();
        let first = load(&start)?;
        observer.look(&first, 0, &mut course)?;
        let last = optimise(&start, proxy.judge(model, place.seed, 0)?, place, |policy, sampled| {
            observer.look(policy, sampled, &mut course)
        })?;
        let mut measured = Measured::default().with(course.metrics(place.size.equal_kl));
        let curves = [(GOLD_CURVE, course.gold()), (PROXY_CURVE, course.proxy())];
        measured.curves.extend(curves.map(|(title, curve)| (title.to_owned(), curve)));
        measured.sample = observer.example(&last)?;
        Ok(measured)
    }

    fn cost(_: &PolicyArm, size: &PolicySize) -> f64 {
        let run = &size.on_policy;
        (run.prompts * run.samples) as f64 * run.iterations as f64 * 1e-3
    }
}

/// Trains a policy on a reward; `after` sees it at every point of the curves, with the samples so far.
fn optimise(
    start: &Path,
    mut judge: Judge,
    place: &Place<'_, PolicySize>,
    mut after: impl FnMut(&Model, u64) -> Result<()>,
) -> Result<Model> {
    let settings = &place.size.on_policy;
    let requests = Requests::split(place.seed).train;
    let prompts: Vec<PromptGroup> =
        requests.iter().map(|request| PromptGroup::new(request.prompt(), Vec::new())).collect();
    let mut source = ShuffledRows::new(prompts, settings.prompts, place.seed, settings.iterations)?;
    let run = Run {
        settings,
        start,
        critic: None,
        stop_tokens: Vec::new(),
        answer_tokens: ANSWER_TOKENS,
        slots: SLOTS,
        source: &mut source,
        scorer: &mut judge,
        ptx: None,
        seed: place.seed,
        progress: &place.context.progress,
    };
    let (model, _) =
        run.train(|now| if now.is_due { after(now.policy, now.cost.sampled) } else { Ok(()) })?;
    Ok(model)
}

/// Reads policies on held-out requests.
struct Observer<'a> {
    place: &'a Place<'a, PolicySize>,
    requests: Vec<Request>,
    start: Model,
    judge: Judge,
}

impl Observer<'_> {
    /// Other random numbers than those of the training.
    fn seed(&self) -> u64 {
        self.place.seed ^ (2 << 32)
    }

    /// Adds a point to the course of a policy.
    fn look(&mut self, policy: &Model, sampled: u64, course: &mut Course) -> Result<()> {
        let each = self.place.size.samples;
        let groups = sample(policy, &self.requests, HALVES * each, self.seed())?;
        let count = (groups.len() * HALVES * each).max(1) as f64;
        let kl = divergence(policy, &self.start, &groups)? / count;
        let proxy = self.judge.scores(&groups)?;
        let golds = |(request, group): (&Request, &PromptGroup)| {
            group.completions.iter().map(|answer| request.gold(&answer.token_ids)).collect::<Vec<f64>>()
        };
        let gold: Vec<Vec<f64>> = self.requests.iter().zip(&groups).map(golds).collect();
        let distinct = groups.iter().flat_map(|group| &group.completions).map(distinct).sum::<f64>() / count;
        course.add(Reading { sampled, kl, distinct }, &gold, &proxy);
        Ok(())
    }

    /// What a policy answers to the first held-out request.
    fn example(&self, policy: &Model) -> Result<Option<(String, String)>> {
        let first = self.requests.get(..1).unwrap_or_default();
        let groups = sample(policy, first, 1, self.seed())?;
        let text = |group: &PromptGroup| {
            let answer = group.completions.first()?;
            Some((Request::text(&group.prompt), Request::text(&answer.token_ids)))
        };
        Ok(groups.first().and_then(text))
    }
}

/// Share of an answer's tokens that differ from one another.
fn distinct(answer: &Completion) -> f64 {
    let different: std::collections::BTreeSet<_> = answer.token_ids.iter().collect();
    different.len() as f64 / answer.token_ids.len().max(1) as f64
}
