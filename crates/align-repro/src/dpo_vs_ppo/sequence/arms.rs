//! The arms: how a policy goes on from the fine-tuned one.

use std::collections::BTreeMap;

use align_lm::Model;
use serde::{Deserialize, Serialize};

use super::{
    curves::CHARTS,
    on_policy::{Change, Shared, train},
    policy::{PolicySettings, Use, fine_tune, measure},
    rounds::{Learn, Rounds, UpdateSettings},
    show,
    task::{Stream, Task},
};
use crate::{
    Result,
    on_policy::study::{Chart, Columns, Measured, Method, Place},
    store::{read, write},
    study::Findings,
    style::policy::{load, save},
};

/// The arm that every other one starts from.
pub(crate) const START: &str = "sft";
/// The folder of a policy within that of its arm.
pub(crate) const MODEL: &str = "model";
/// The arm whose samples the offline arms share.
const SAMPLES: &str = "samples";
const SAMPLES_FILE: &str = "samples.json";
const TEST_FILE: &str = "test.json";

/// What a size takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SequenceSize {
    /// The policy.
    pub policy: PolicySettings,
    /// Updates.
    pub updates: UpdateSettings,
    /// Prompts that are sampled over a whole arm.
    pub prompts: usize,
    /// Answers to each.
    pub samples: usize,
    /// Rounds of the arms whose reference is set anew.
    pub rounds: u64,
    /// Rounds of the arms whose reference stays.
    pub online_rounds: u64,
    /// Pairs of each of these, whoever samples.
    pub online_pairs: usize,
    /// The arms that train on their own samples.
    pub on_policy: Shared,
    /// Validation prompts of a point of the curves.
    pub curve_prompts: usize,
    /// Answers to each test prompt at temperature 1.
    pub test_samples: usize,
}

/// An arm, as the plan has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SequenceArm {
    /// Fine-tuning on demonstrations.
    Sft,
    /// Answers of the fine-tuned policy, drawn once for all offline arms.
    Samples,
    /// Learns from these answers.
    Offline {
        /// What it makes of them.
        learn: Learn,
        /// Whether the better side of every pair is drawn by lot.
        #[serde(default)]
        shuffled: bool,
    },
    /// Samples rounds of answers from the current policy; reference and optimiser are set anew in every round.
    Iterative {
        /// What it makes of a round.
        learn: Learn,
    },
    /// Samples smaller rounds with the same number of pairs each; reference and optimiser stay.
    Online {
        /// What it makes of a round.
        learn: Learn,
        /// Whether the fine-tuned policy answers instead of the current one.
        #[serde(default)]
        frozen: bool,
    },
    /// Trains on its own samples in turn: PPO and its relatives.
    OnPolicy(Change),
}

/// Part 3 of the experiment.
#[derive(Debug)]
pub struct Sequence;

impl Method for Sequence {
    type Size = SequenceSize;
    type Arm = SequenceArm;

    const TABLES: &'static [Columns] = &[
        Columns {
            title: "Every arm on test prompts",
            metrics: &[
                ("greedy", "greedy pass@1"),
                ("sampled", "sampled pass@1"),
                ("pass_at_n", "pass@8"),
                ("ratio", "sampled pass@1 as a multiple of SFT's"),
                ("kl", "KL to SFT, nats per answer"),
                ("entropy", "entropy, nats per token"),
            ],
        },
        Columns {
            title: "What every arm took",
            metrics: &[
                ("answers", "answers sampled"),
                ("rows", "pairs or passing answers"),
                ("updates", "updates"),
                ("trained_tokens", "tokens trained on"),
                ("sft_steps", "steps of SFT"),
                ("validation", "greedy pass@1 on validation"),
            ],
        },
        Columns {
            title: "Why sampled answers fail, shares of all answers",
            metrics: &[
                ("wrong", "wrong value"),
                ("broken", "broken"),
                ("overflow", "right but too deep"),
                ("illegal", "illegal token"),
                ("endless", "no END"),
            ],
        },
        Columns {
            title: "Where the last pairs went, log-ratios to the reference",
            metrics: &[("better_ratio", "better answers"), ("worse_ratio", "worse answers")],
        },
    ];

    const CHARTS: &'static [Chart] = CHARTS;

    fn run(arm: &SequenceArm, place: &Place<'_, SequenceSize>) -> Result<Measured> {
        let own = place.own_folder()?;
        let task = Task::new();
        let mut rounds = Rounds::new(place, &task);
        let start = place.folder(START).join(MODEL);
        match arm {
            SequenceArm::Sft => {
                let tuned = fine_tune(&place.size.policy, &task, place.seed, &place.context.progress)?;
                save(&tuned.model, &start)?;
                rounds.spent.add(tuned.work);
                let measured = read_test(&tuned.model, &tuned.model, &task, place)?;
                write(&own.join(TEST_FILE), &measured.metrics)?;
                let chosen = [("sft_steps", tuned.steps as f64), ("validation", tuned.validation)];
                Ok(measured.with(chosen).with(rounds.numbers()))
            }
            SequenceArm::Samples => {
                let prompts = task.prompts(place.size.prompts, &mut Stream::Offline.random(place.seed, 0));
                let groups = rounds.sample(&load(&start)?, &prompts, 0)?;
                write(&own.join(SAMPLES_FILE), &groups)?;
                Ok(Measured::default().with(rounds.numbers()))
            }
            SequenceArm::Offline { learn, shuffled } => {
                let model = load(&start)?;
                let groups = rounds.shared(&place.folder(SAMPLES).join(SAMPLES_FILE))?;
                rounds.learn(&model, groups, (learn, *shuffled), 0)?;
                finish(&model, rounds, &task, place)
            }
            SequenceArm::Iterative { learn } => {
                let model = load(&start)?;
                rounds.iterate(&model, learn)?;
                finish(&model, rounds, &task, place)
            }
            SequenceArm::Online { learn, frozen } => {
                let (model, reference) = (load(&start)?, load(&start)?);
                let file = place.folder(SAMPLES).join(SAMPLES_FILE);
                let answers = frozen.then(|| rounds.shared(&file)).transpose()?;
                rounds.online(&model, &reference, learn, answers)?;
                finish(&model, rounds, &task, place)
            }
            SequenceArm::OnPolicy(change) => {
                let (model, cost) = train(change, &task, &mut rounds.curves, place)?;
                rounds.spent.spend(cost);
                finish(&model, rounds, &task, place)
            }
        }
    }

    fn cost(arm: &SequenceArm, size: &SequenceSize) -> f64 {
        let answers = (size.prompts * size.samples) as f64;
        let training = |learn: &Learn| learn.epochs as f64 * if learn.beta.is_some() { 6e-4 } else { 2e-4 };
        match arm {
            SequenceArm::Sft => size.policy.steps.first().map_or(0.0, |steps| 4.0 + *steps as f64 * 0.12),
            SequenceArm::Samples => answers * 5e-4,
            SequenceArm::Offline { learn, .. } => answers * (6e-4 + training(learn)),
            SequenceArm::Iterative { learn } | SequenceArm::Online { learn, .. } => {
                answers * (1.1e-3 + training(learn))
            }
            SequenceArm::OnPolicy(_) => answers * 3e-3,
        }
    }

    fn check(arm: &SequenceArm, size: &SequenceSize) -> Result<()> {
        match arm {
            SequenceArm::OnPolicy(change) => change.settings(size).map(|_| ()),
            _ => Ok(()),
        }
    }

    fn show(arms: &[(String, Vec<Measured>)], findings: &mut Findings) -> Result<()> {
        show::show(arms, findings);
        Ok(())
    }
}

fn finish(
    model: &Model,
    rounds: Rounds<'_>,
    task: &Task,
    place: &Place<'_, SequenceSize>,
) -> Result<Measured> {
    let mut measured = test(model, task, place)?.with(rounds.numbers());
    measured.curves = rounds.curves.finish();
    Ok(measured)
}

/// Reads a policy on test prompts, beside the fine-tuned one.
pub(crate) fn test(model: &Model, task: &Task, place: &Place<'_, SequenceSize>) -> Result<Measured> {
    let start = place.folder(START);
    let measured = read_test(model, &load(&start.join(MODEL))?, task, place)?;
    let before: BTreeMap<String, f64> = read(&start.join(TEST_FILE))?;
    let sampled = |metrics: &BTreeMap<String, f64>| metrics.get("sampled").copied().unwrap_or(0.0);
    // One answer at least: a policy that never passes would make the ratio infinite.
    let one = 1.0 / (task.test.len() * place.size.test_samples).max(1) as f64;
    let ratio = sampled(&measured.metrics) / sampled(&before).max(one);
    Ok(measured.with([("ratio", ratio)]))
}

fn read_test(
    model: &Model,
    reference: &Model,
    task: &Task,
    place: &Place<'_, SequenceSize>,
) -> Result<Measured> {
    measure(model, reference, (task, &task.test), place.size.test_samples, Use::Test.seed(place.seed))
}
