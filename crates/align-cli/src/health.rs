//! Which checks watch over a training run, in one table: `docs/metrics.md` has them too.
//!
//! A check that speaks without cause teaches people to read none. So bounds are wide, means are compared and not single
//! steps, and the loop asks that a change is six standard errors of the two means or more.

use align_types::config::{
    CurriculumConfig, DpoConfig, DpoLossType, FDivergence, KtoConfig, KtoLossType, RewardConfig, SftConfig,
    SftLossType, UnaConfig, UnaLossType,
};
use align_types::{HealthCheck, Move, Rule};

use crate::metrics::Place;

/// Steps of a mean, where a change or a level is looked for.
const STEPS: usize = 20;
/// Pairs that exclude chance: random answers are all in order in one of 2³² cases.
const PAIRS: usize = 32;
/// A reward difference at which the sigmoid's gradient is below 1e-6 of its largest.
const SATURATED: f64 = 15.0;
/// Nats per answer beyond which a policy has little in common with its reference.
const FAR: f64 = 50.0;
/// Nats by which an estimate that should not be negative may be so by rounding.
const ROUNDING: f64 = 0.1;
/// Iterations of a mean: each has a whole batch of samples, and a run has fewer of them than other methods have steps.
const ITERATIONS: usize = 10;
/// By which share of itself the length of answers grows where it is a sign beside others. Alone it takes a half, because
/// longer answers may be better ones.
const LONGER: f64 = 0.4;
/// How many times itself the KL grows where it is a sign beside others: in runs that go well it grows too.
const FARTHER: f64 = 2.0;
/// By which share of itself the entropy falls when little is left to explore: to a tenth.
const COLLAPSED: f64 = 0.9;
/// The share of answers without a reward above which that is no exception.
const ABSTAINED: f64 = 0.2;
/// By which share of themselves answers that end become fewer.
const UNENDED: f64 = 0.5;
/// By which share of themselves log-probabilities fall when answers are being forgotten.
const FORGOTTEN: f64 = 0.1;

/// What a saturated loss means, after the loss that it is.
macro_rules! flat {
    ($loss:literal) => {
        concat!(
            $loss,
            "the sigmoid is flat there, so that rows like these teach next to nothing; usually the run is past its best, ",
            "or --beta or --learning-rate is too large: compare with held-out rows (--eval-data, --keep-best) and stop ",
            "earlier"
        )
    };
}

/// Returns the checks of every method.
pub fn shared() -> Vec<HealthCheck> {
    let rises = Move::rises("loss").by_share(0.5, "loss", None);
    vec![
        HealthCheck {
            name: "no-gradient",
            rule: Rule::Stuck { metric: "grad_norm", value: 0.0, steps: 3 },
            meaning: "nothing is learned; usually the answers of each row are the same after cutting, every loss is past \
                      its margin, or weights and adapter are all frozen: look at the rows with `align data check` and \
                      raise --max-length, or stop here",
        },
        HealthCheck {
            name: "loss-rises",
            rule: Rule::Moved { moves: vec![rises], steps: STEPS },
            meaning: "the updates do harm; usually the learning rate is too large: lower --learning-rate, or give \
                      --warmup-steps",
        },
    ]
}

/// Returns the checks of `align sft`. The loss of dft, −p log p, rises while an unlikely token becomes likelier, up to
/// p = 1/e: there the answers themselves are watched.
pub fn sft(config: &SftConfig) -> Vec<HealthCheck> {
    const LIKELIHOOD: &str = "logps/completion";
    let mut checks = shared();
    if config.loss_type == SftLossType::Dft {
        checks.retain(|check| check.name != "loss-rises");
        let falls = Move::falls(LIKELIHOOD).by_share(FORGOTTEN, LIKELIHOOD, None);
        checks.push(HealthCheck {
            name: "likelihood-falls",
            rule: Rule::Moved { moves: vec![falls], steps: STEPS },
            meaning: "with --loss-type dft: the answers become less likely, which the loss does not show; usually the \
                      learning rate is too large: lower --learning-rate, or give --warmup-steps",
        });
    }
    checks
}

/// Returns the checks of `align dpo`.
pub fn dpo(config: &DpoConfig) -> Vec<HealthCheck> {
    let mut checks = shared();
    if config.uses_reference() {
        checks.push(separated("separated-from-the-start", "rewards/accuracies"));
        checks.push(displaced(config.beta));
    } else {
        checks.push(separated("separated-from-the-start", "reference_free/accuracies"));
        checks.push(displaced_without_reference());
    }
    if let Some(margins) = flat_in(config) {
        checks.push(saturated("saturated", margins, f64::NEG_INFINITY));
    }
    checks
}

/// Finds the metric of whose large values the gradient of the loss vanishes, where there is one: losses of two rewards or
/// of averages per token are flat in something else, and a smoothed sigmoid, a power or a likelihood nowhere.
fn flat_in(config: &DpoConfig) -> Option<&'static str> {
    use DpoLossType::{Discopop, ExoPair, Hinge, Sigmoid, Simpo};
    let of_sums = |loss: DpoLossType| match loss {
        Sigmoid => config.label_smoothing == 0.0,
        other => matches!(other, Hinge | ExoPair | Discopop),
    };
    let all_of_sums = config.losses().all(|(loss, _)| of_sums(loss));
    match config.loss_type.as_slice() {
        // The metric is of averages, too, where no other loss is beside it.
        [Simpo] if config.label_smoothing == 0.0 && config.simpo_alpha == 0.0 => {
            Some("reference_free/margins")
        }
        _ if config.f_divergence_type != FDivergence::ReverseKl || !all_of_sums => None,
        _ if config.uses_reference() => Some("rewards/margins"),
        _ => Some("reference_free/margins"),
    }
}

/// Returns the checks of `align kto`, whose baseline `kl` needs at least two rows in a batch.
pub fn kto(config: &KtoConfig, batch_size: usize) -> Vec<HealthCheck> {
    let mut checks = shared();
    checks.push(separated("separated-from-the-start", "labels/accuracies"));
    checks.push(forgotten(
        config.beta,
        "desirable answers become unlikely together with the undesirable ones, and probability goes to answers that \
         nobody rated; lower --learning-rate, raise --beta, or raise --desirable-weight",
    ));
    checks.push(match config.loss_type {
        // It has a gradient however wrong an answer is, and is flat only far on the right side of its shift.
        KtoLossType::Bco => {
            saturated_in("saturated", "labels/margins", f64::NEG_INFINITY, flat!("with --loss-type bco: "))
        }
        _ => {
            let meaning = flat!("with --loss-type kto or apo_zero_unpaired: ");
            saturated_in("saturated", "rewards/chosen", -SATURATED, meaning)
        }
    });
    if config.loss_type == KtoLossType::Kto {
        checks.push(far("kl"));
        if batch_size > 1 {
            checks.push(HealthCheck {
                name: "baseline-always-zero",
                rule: Rule::Always { metric: "kl", value: 0.0, steps: STEPS },
                meaning: "this is legal and common: mismatched answers never became likelier than under the reference, \
                          and the mean is clamped at 0; rewards were then compared with 0, and a larger --batch-size \
                          makes the estimate less noisy",
            });
        }
    }
    checks
}

/// Returns the checks of `align una`: those of a kind of rows are silent in a run without such rows.
pub fn una(config: &UnaConfig) -> Vec<HealthCheck> {
    let mut checks = shared();
    checks.push(separated("separated-from-the-start", "rewards/accuracies"));
    checks.push(separated("labels-separated-from-the-start", "labels/accuracies"));
    // Of scores alone a fall says nothing: a low score asks for it.
    checks.push(forgotten(
        config.beta,
        "good answers become unlikely together with the bad ones, and probability goes to answers that nobody rated; \
         common, and harmful when it goes on: read some samples, lower --learning-rate, or raise --beta",
    ));
    checks.push(saturated("saturated", "rewards/margins", f64::NEG_INFINITY));
    match config.loss_type {
        // A squared error of σ is flat on both sides.
        UnaLossType::Mse => {
            let flat = flat!("with --loss-type mse: ");
            checks.push(saturated_in("labels-saturated", "labels/margins", -SATURATED, flat));
            checks.push(saturated_in("scores-saturated", "rewards/scored", -SATURATED, flat));
        }
        // Its target of a score is inside of (0, 1), where it is flat nowhere.
        UnaLossType::Bce => {
            let flat = flat!("with --loss-type bce: ");
            checks.push(saturated_in("labels-saturated", "labels/margins", f64::NEG_INFINITY, flat));
        }
        _ => {}
    }
    checks
}

/// Returns the checks of `align reward`.
pub fn reward(config: &RewardConfig) -> Vec<HealthCheck> {
    let mut checks = shared();
    checks.push(HealthCheck {
        name: "separated-from-the-start",
        rule: Rule::FromTheStart { metric: "rewards/accuracies", bound: 1.0, rows: PAIRS },
        meaning: "there is nothing to learn; usually the model was trained on these comparisons already, or a formatting \
                  artefact tells chosen from rejected (length, a missing end of sequence, a template on one side): read \
                  some rows with `align data check`",
    });
    checks.push(HealthCheck {
        name: "saturated",
        rule: Rule::Outside { metric: "rewards/margins", low: f64::NEG_INFINITY, high: SATURATED, steps: STEPS },
        meaning: "the sigmoid is flat there, so that comparisons like these teach next to nothing and rewards are far \
                  surer than held-out accuracy allows; lower --learning-rate, give --label-smoothing, or stop earlier \
                  (--eval-data, --keep-best)",
    });
    checks.push(HealthCheck {
        name: "equal-rewards",
        rule: Rule::Outside { metric: "rewards/ties", low: 0.0, high: 0.5, steps: STEPS },
        meaning: "most comparisons are between equal rewards; usually the model reads the same token of both answers, \
                  because they end in what pad_token_id names or differ only in what was left out of them",
    });
    if config.score_weight > 0.0 && config.pair_weight == 0.0 && config.binary_weight == 0.0 {
        checks.retain(|check| check.name != "separated-from-the-start" && check.name != "saturated");
    }
    checks
}

/// Returns the checks of methods that sample from the policy: their KL to the reference and the length of samples.
pub fn sampling(kl: &'static str, length: &'static str) -> Vec<HealthCheck> {
    let drift = |name, change: Move, meaning| HealthCheck {
        name,
        rule: Rule::Moved { moves: vec![change.by_share(0.5, length, None)], steps: STEPS },
        meaning,
    };
    vec![
        far(kl),
        HealthCheck {
            name: "kl-negative",
            rule: Rule::Outside { metric: kl, low: -ROUNDING, high: f64::INFINITY, steps: STEPS },
            meaning: "an estimate of a KL cannot stay below 0; usually sampling and training do not see the same tokens, \
                      temperature or weights",
        },
        drift(
            "length-drift",
            Move::rises(length),
            "answers grow, and rewards often pay for length alone; read some, and compare rewards at equal length",
        ),
        drift(
            "length-collapse",
            Move::falls(length),
            "answers shrink, and rewards often pay for saying little; read some, and compare rewards at equal length",
        ),
    ]
}

/// Returns the checks of `align ppo`. The loss is none of them: it says nothing of progress where advantages have mean 0.
pub fn ppo(curriculum: Option<&CurriculumConfig>) -> Vec<HealthCheck> {
    const LENGTH: &str = "completions/mean_length";
    const ENDED: &str = "val/num_eos_tokens";
    let moved =
        |name, moves, meaning| HealthCheck { name, rule: Rule::Moved { moves, steps: ITERATIONS }, meaning };
    let mut checks = shared();
    checks.retain(|check| check.name != "loss-rises");
    checks.extend(sampling("objective/kl", LENGTH));
    checks.extend([
        // 2307.04964, section 5: before a collapse the reward still rises, and KL and length jump.
        moved(
            "reward-hacking",
            vec![
                Move::rises("objective/scores"),
                Move::rises("objective/kl").by_share(FARTHER, "objective/kl", None),
                Move::rises(LENGTH).by_share(LONGER, LENGTH, None),
            ],
            "the policy may have found what the reward overlooks, often length itself; read some samples, judge them by \
             something else than the reward, raise --kl-coef, or stop earlier",
        ),
        // 2503.14476, figure 2: with symmetric clipping the entropy falls to nearly 0 within a few hundred steps.
        moved(
            "entropy-collapse",
            vec![Move::falls("objective/entropy").by_share(COLLAPSED, "objective/entropy", None)],
            "answers to a prompt are nearly all the same, and there is little left to choose from; right where a prompt \
             has one right answer, otherwise lower --learning-rate, raise --kl-coef, or allow more upwards than \
             downwards (--cliprange-high)",
        ),
        moved(
            "endings-vanish",
            // A smaller batch has fewer endings, too, and no more answers that are cut.
            vec![Move::falls(ENDED).by_share(UNENDED, ENDED, None), Move::rises("completions/clipped_ratio")],
            "more and more answers run into --max-new-tokens without an end, and their rewards are those of texts cut \
             off; give --missing-eos-penalty, or raise --max-new-tokens",
        ),
        HealthCheck {
            name: "scores-do-not-count",
            rule: Rule::Stuck { metric: "completions/bootstrapped", value: 1.0, steps: 2 },
            meaning: "every answer reached --max-new-tokens without an end, so that none of their scores is learned from: \
                      the critic's value goes on in their place; raise --max-new-tokens, or let such scores count with \
                      --truncated score",
        },
        HealthCheck {
            name: "answers-without-reward",
            rule: Rule::Outside { metric: "completions/abstained", low: 0.0, high: ABSTAINED, steps: ITERATIONS },
            meaning: "many answers have no reward and are not learned from, so that nothing holds the policy back from more \
                      of them; usually they are too long for a reward model (lower --max-new-tokens), or a program or \
                      rule cannot judge them: look at completions.jsonl",
        },
        HealthCheck {
            name: "no-signal-within-groups",
            rule: Rule::Stuck { metric: "groups/without_signal", value: 1.0, steps: 3 },
            meaning: "all answers to a prompt are given the same, whatever they are, so that the reward says nothing of \
                      what to answer: advantages within groups (rloo, grpo, dapo) are all 0, and a critic's are its own \
                      errors; usually the reward looks at the prompt alone, or every prompt is solved always or never: \
                      read some samples, or choose prompts with --curriculum",
        },
        HealthCheck {
            name: "equal-rewards",
            rule: Rule::Stuck { metric: "objective/scores_std", value: 0.0, steps: 2 },
            meaning: "all answers are given the same, and nothing can be learned of it but to stay near the reference; \
                      usually the reward looks for something that no answer has, or that all have: read some samples \
                      with their rewards",
        },
    ]);
    if curriculum.is_some_and(|config| config.threshold.is_none()) {
        checks.push(HealthCheck {
            name: "curriculum-out-of-range",
            rule: Rule::Outside { metric: "objective/scores", low: 0.0, high: 1.0, steps: 2 },
            meaning: "--curriculum takes the reward itself for the success of an answer, clipped to 0..1, and so knows of \
                      most prompts no more than always or never; say with --curriculum-threshold above which reward an \
                      answer is a success",
        });
    }
    checks
}

/// Lists the checks of a command for the page of metrics.
pub(crate) fn documented(place: Place) -> Vec<HealthCheck> {
    let mut checks = match place {
        Place::Training => return shared(),
        Place::Sft => sft(&SftConfig { loss_type: SftLossType::Dft, ..SftConfig::default() }),
        Place::Dpo => {
            let free = DpoConfig { reference_free: true, ..DpoConfig::default() };
            [dpo(&DpoConfig::default()), dpo(&free)].concat()
        }
        Place::Kto => {
            let bco = KtoConfig { loss_type: KtoLossType::Bco, ..KtoConfig::default() };
            with_new(kto(&KtoConfig::default(), 2), kto(&bco, 2))
        }
        Place::Una => {
            let bce = UnaConfig { loss_type: UnaLossType::Bce, ..UnaConfig::default() };
            with_new(una(&UnaConfig::default()), una(&bce))
        }
        Place::Reward => reward(&RewardConfig::default()),
        Place::Ppo => ppo(Some(&CurriculumConfig::default())),
        _ => Vec::new(),
    };
    let common = shared();
    checks.retain(|check| !common.contains(check));
    checks
}

/// Adds the checks of another loss that are not among those of the first.
fn with_new(mut checks: Vec<HealthCheck>, of_another: Vec<HealthCheck>) -> Vec<HealthCheck> {
    let new: Vec<_> = of_another.into_iter().filter(|check| !checks.contains(check)).collect();
    checks.extend(new);
    checks
}

fn separated(name: &'static str, accuracies: &'static str) -> HealthCheck {
    HealthCheck {
        name,
        rule: Rule::FromTheStart { metric: accuracies, bound: 1.0, rows: PAIRS },
        meaning: "there is nothing to learn; usually a formatting artefact tells good answers from bad ones (length, a \
                  missing end of sequence, a template on one side), the model was trained on these rows already, or \
                  --ref-model is not its reference: read some rows with `align data check`",
    }
}

/// Likelihood displacement, 2410.08847.
fn displaced(beta: f64) -> HealthCheck {
    let falls = |metric, of| Move::falls(metric).by_share(FORGOTTEN, of, Some(("β", beta)));
    let moves = vec![
        falls("rewards/chosen", "logps/chosen"),
        falls("rewards/rejected", "logps/rejected"),
        Move::rises("rewards/margins"),
    ];
    HealthCheck {
        name: "likelihood-displacement",
        rule: Rule::Moved { moves, steps: STEPS },
        meaning: DISPLACED,
    }
}

fn displaced_without_reference() -> HealthCheck {
    let falls = |metric| Move::falls(metric).by_share(FORGOTTEN, metric, None);
    let moves = vec![falls("logps/chosen"), falls("logps/rejected"), Move::rises("reference_free/margins")];
    HealthCheck {
        name: "likelihood-displacement",
        rule: Rule::Moved { moves, steps: STEPS },
        meaning: DISPLACED,
    }
}

const DISPLACED: &str = "the chosen answers become unlikely too, only less so than the rejected ones, and probability \
                         goes to answers that nobody rated (likelihood displacement); common, and harmful when it goes \
                         on: read some samples, lower --learning-rate, raise --beta, or add the likelihood of the chosen \
                         answers (--loss-type sft)";

/// As [`displaced`], where good and bad answers are not those of pairs.
fn forgotten(beta: f64, meaning: &'static str) -> HealthCheck {
    let falls = |metric, of| Move::falls(metric).by_share(FORGOTTEN, of, Some(("β", beta)));
    let moves = vec![falls("rewards/chosen", "logps/chosen"), falls("rewards/rejected", "logps/rejected")];
    HealthCheck { name: "likelihood-displacement", rule: Rule::Moved { moves, steps: STEPS }, meaning }
}

fn saturated(name: &'static str, reward: &'static str, low: f64) -> HealthCheck {
    saturated_in(name, reward, low, flat!(""))
}

fn saturated_in(name: &'static str, reward: &'static str, low: f64, meaning: &'static str) -> HealthCheck {
    HealthCheck { name, rule: Rule::Outside { metric: reward, low, high: SATURATED, steps: STEPS }, meaning }
}

fn far(kl: &'static str) -> HealthCheck {
    HealthCheck {
        name: "kl-out-of-range",
        rule: Rule::Outside { metric: kl, low: f64::NEG_INFINITY, high: FAR, steps: STEPS },
        meaning: "the policy has left its reference, where rewards mean little; lower --learning-rate, or strengthen the \
                  pull to the reference",
    }
}
