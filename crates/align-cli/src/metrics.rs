//! Every number that a run shows, in one table: `docs/metrics.md` is made from it, and tests hold runs to it.

use std::fmt::Write;

use crate::health;

/// Where a number is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `metrics.jsonl` of every training command.
    Training,
    /// `metrics.jsonl` of `align sft`.
    Sft,
    /// `metrics.jsonl` of `align dpo`, `align kto` and `align una`.
    Offline,
    /// `metrics.jsonl` of `align dpo` alone.
    Dpo,
    /// `metrics.jsonl` of `align kto` alone.
    Kto,
    /// `metrics.jsonl` of `align una` alone.
    Una,
    /// `metrics.jsonl` of `align reward`.
    Reward,
    /// `metrics.jsonl` of `align ppo`.
    Ppo,
    /// `summary.json`.
    Summary,
}

impl Place {
    /// All places, in the order of the page.
    pub const ALL: [Self; 9] = [
        Self::Training,
        Self::Sft,
        Self::Offline,
        Self::Dpo,
        Self::Kto,
        Self::Una,
        Self::Reward,
        Self::Ppo,
        Self::Summary,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Training => "`metrics.jsonl`, every training command",
            Self::Sft => "`metrics.jsonl`, `align sft`",
            Self::Offline => "`metrics.jsonl`, `align dpo`, `align kto` and `align una`",
            Self::Dpo => "`metrics.jsonl`, `align dpo` alone",
            Self::Kto => "`metrics.jsonl`, `align kto` alone",
            Self::Una => "`metrics.jsonl`, `align una` alone",
            Self::Reward => "`metrics.jsonl`, `align reward`",
            Self::Ppo => "`metrics.jsonl`, `align ppo`",
            Self::Summary => "`summary.json`",
        }
    }
}

/// The definition of one number.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Where it is found.
    pub place: Place,
    /// Its name there.
    pub name: &'static str,
    /// How it is computed.
    pub formula: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What is usual.
    pub expected: &'static str,
    /// What another value means.
    pub otherwise: &'static str,
}

const fn metric(
    place: Place,
    name: &'static str,
    formula: &'static str,
    unit: &'static str,
    expected: &'static str,
    otherwise: &'static str,
) -> Metric {
    Metric { place, name, formula, unit, expected, otherwise }
}

/// The table.
pub const METRICS: &[Metric] = &[
    metric(
        Place::Training,
        "step",
        "number of the optimiser step, from 1; the other values are those before its update",
        "steps",
        "rises by `--log-every`",
        "a gap means lines were lost",
    ),
    metric(
        Place::Training,
        "loss",
        "Σ weight · Σ terms / denominator of the whole optimiser batch",
        "nats",
        "falls, with noise",
        "rising: the learning rate is too large; not finite: the run stops",
    ),
    metric(
        Place::Training,
        "learning_rate",
        "peak rate × schedule(step), warm-up included",
        "1",
        "as `--lr-scheduler` has it",
        "0 at the start means warm-up",
    ),
    metric(
        Place::Training,
        "grad_norm",
        "√Σ g² over all trained weights, before clipping",
        "nats per unit of weight",
        "0.1 to 10, falling",
        "far above `--max-grad-norm` at every step: every update is clipped; 0: nothing is learned",
    ),
    metric(
        Place::Training,
        "tokens",
        "tokens of prompts and answers trained on so far, each prompt once per row",
        "tokens",
        "rises by batch size × mean row length per step",
        "slower: rows are short or cut",
    ),
    metric(
        Place::Training,
        "tokens_per_second",
        "tokens / wall seconds since the last logged step",
        "tokens / s",
        "steady",
        "falling: the machine is shared or swaps",
    ),
    metric(
        Place::Training,
        "peak_rss_mb",
        "largest resident memory of the process so far",
        "MB (10⁶ bytes)",
        "flat after the first steps",
        "rising: a leak",
    ),
    metric(
        Place::Training,
        "time",
        "wall time since the start of the run, earlier processes of a resumed run included",
        "s",
        "rises",
        "jumps: evaluations and checkpoints take time too",
    ),
    metric(
        Place::Sft,
        "groups_per_second",
        "rows / wall seconds since the last logged step",
        "rows / s",
        "steady",
        "as tokens_per_second",
    ),
    metric(
        Place::Sft,
        "logps/completion",
        "mean over answers of Σ log π(token)",
        "nats per answer",
        "rises towards 0",
        "falling: the model forgets the answers",
    ),
    metric(
        Place::Offline,
        "rewards/chosen",
        "mean of β h over chosen (desirable) answers, h = log π − log π_ref of the whole answer",
        "nats",
        "0 at step 1, then around 0 or rising",
        "strongly negative: the good answers become unlikely too; lower the learning rate or add `--loss-type sft`",
    ),
    metric(
        Place::Offline,
        "rewards/rejected",
        "mean of β h over rejected (undesirable) answers",
        "nats",
        "0 at step 1, then falls",
        "rising above rewards/chosen: labels may be swapped",
    ),
    metric(
        Place::Offline,
        "logps/chosen",
        "mean of log π over chosen (desirable) answers, summed over the answer's tokens",
        "nats per answer",
        "negative, slowly changing",
        "falling fast: the policy leaves the data",
    ),
    metric(
        Place::Offline,
        "logps/rejected",
        "mean of log π over rejected (undesirable) answers, summed over the answer's tokens",
        "nats per answer",
        "negative, falls",
        "rising: labels may be swapped",
    ),
    metric(
        Place::Offline,
        "rewards/margins",
        "mean of β (h_chosen − h_rejected) of each pair; in `una` of its pairs, in `kto` absent",
        "nats",
        "0 at step 1, then rises",
        "falling or stuck at 0: nothing is learned",
    ),
    metric(
        Place::Offline,
        "rewards/accuracies",
        "share of pairs with a chosen reward strictly above the rejected one; in `una` of its pairs, in `kto` absent",
        "share, 0 to 1",
        "0 at step 1 (ties), then above 0.5",
        "1.0 on training and 0.5 on held-out rows: overfitting",
    ),
    metric(
        Place::Dpo,
        "pairs_per_second",
        "pairs / wall seconds since the last logged step",
        "pairs / s",
        "steady",
        "as tokens_per_second",
    ),
    metric(
        Place::Dpo,
        "loss/NAME",
        "a summand of the loss before its weight, where there are several: each `--loss-type`, and the likelihood in cpo and orpo (`cpo_nll`, `orpo_nll`)",
        "nats",
        "falls",
        "one rises while the other falls: weigh them with `--loss-weights`",
    ),
    metric(
        Place::Dpo,
        "reference_free/chosen",
        "mean of β log π(chosen), with `--reference-free` in place of rewards/chosen",
        "nats",
        "negative",
        "as logps/chosen",
    ),
    metric(
        Place::Dpo,
        "reference_free/rejected",
        "mean of β log π(rejected), with `--reference-free`",
        "nats",
        "negative, falls",
        "as logps/rejected",
    ),
    metric(
        Place::Dpo,
        "reference_free/margins",
        "mean of β (log π(chosen) − log π(rejected)), with `--reference-free`",
        "nats",
        "rises",
        "longer answers have lower values: lengths weigh in",
    ),
    metric(
        Place::Dpo,
        "reference_free/accuracies",
        "share of pairs with log π(chosen) strictly above log π(rejected), with `--reference-free`",
        "share, 0 to 1",
        "rises above 0.5",
        "as rewards/accuracies",
    ),
    metric(
        Place::Kto,
        "groups_per_second",
        "rows / wall seconds since the last logged step",
        "rows / s",
        "steady",
        "as tokens_per_second",
    ),
    metric(
        Place::Kto,
        "kl",
        "baseline z0 = max(0, mean of h over answers under the prompt of the next row), of the whole batch; in `apo_zero_unpaired` 0, in `bco` absent",
        "nats per answer",
        "0 at step 1, then 0 or small",
        "large: the policy likes every answer better than its reference, whatever the prompt",
    ),
    metric(
        Place::Kto,
        "bco/shift",
        "running mean of β h over all answers, with `--loss-type bco`",
        "nats",
        "near 0, slowly changing",
        "strongly negative: all answers become unlikely",
    ),
    metric(
        Place::Una,
        "groups_per_second",
        "rows / wall seconds since the last logged step",
        "rows / s",
        "steady",
        "as tokens_per_second",
    ),
    metric(
        Place::Una,
        "loss/pairs",
        "mean of −log σ(β (h_chosen − h_rejected)) over the pairs of the batch",
        "nats",
        "ln 2 at step 1, then falls",
        "rising: the learning rate is too large",
    ),
    metric(
        Place::Una,
        "loss/binary",
        "mean of the loss over the labelled answers of the batch",
        "1 (mse) or nats (bce)",
        "1/4 (mse) or ln 2 (bce) at step 1, then falls",
        "rising: the learning rate is too large",
    ),
    metric(
        Place::Una,
        "loss/scored",
        "mean of the loss over the scored answers of the batch",
        "1 (mse), nats (bce), or squares of the reward's unit",
        "falls",
        "stuck: the scores may be out of reach of σ(β h); raise beta",
    ),
    metric(
        Place::Una,
        "rewards/scored",
        "mean of β h over scored answers",
        "nats",
        "0 at step 1, then towards logit(mean score)",
        "one sign for all answers of a prompt takes its mass from answers that are not in the data",
    ),
    metric(
        Place::Una,
        "una/prediction",
        "mean of what the loss compares with the target: σ(β h), or β h in raw_mse, qrpo and a_star_po",
        "as the target",
        "0.5 or 0 at step 1, then towards una/target",
        "far from una/target at the end: too few steps, or a rate too small",
    ),
    metric(
        Place::Una,
        "una/target",
        "mean of the targets: scaled scores, or what qrpo and a_star_po make of them",
        "1, or the reward's unit",
        "steady",
        "near 0 or 1: check --score-min and --score-max",
    ),
    metric(
        Place::Reward,
        "groups_per_second",
        "rows / wall seconds since the last logged step",
        "rows / s",
        "steady",
        "as tokens_per_second",
    ),
    metric(
        Place::Reward,
        "loss/pairs",
        "mean over prompts of the mean of −log σ(r_better − r_worse) over the comparisons of the prompt, with margins, preferences, smoothing and ties as the flags have them",
        "nats",
        "near ln 2 at step 1, then falls",
        "rising: the learning rate is too large",
    ),
    metric(
        Place::Reward,
        "loss/centering",
        "mean of (r_better + r_worse)² over the comparisons of a prompt and over prompts, with `--center-rewards-coefficient`",
        "squares of rewards",
        "falls to less than 1",
        "large: raise the coefficient, or leave it out where scores are normalised afterwards",
    ),
    metric(
        Place::Reward,
        "loss/binary",
        "mean of −log σ(r) over good and −log σ(−r) over bad labelled answers",
        "nats",
        "near ln 2 at step 1, then falls",
        "rising: the learning rate is too large",
    ),
    metric(
        Place::Reward,
        "loss/scored",
        "mean over scored answers of (r − score)², or with `--score-loss bce` of the cross-entropy of σ(r)",
        "squares of the score's unit, or nats",
        "falls to less than the variance of the scores",
        "stuck at their variance: the model says the same of every answer",
    ),
    metric(
        Place::Reward,
        "rewards/chosen",
        "mean reward of the better answers of comparisons and of answers with thumbs up",
        "raw rewards (logits)",
        "rises above rewards/rejected",
        "only the difference is learned from pairs: a drift of both means nothing",
    ),
    metric(
        Place::Reward,
        "rewards/rejected",
        "mean reward of the worse answers of comparisons and of answers with thumbs down",
        "raw rewards (logits)",
        "below rewards/chosen",
        "as rewards/chosen",
    ),
    metric(
        Place::Reward,
        "rewards/margins",
        "mean of r_better − r_worse over comparisons",
        "raw rewards (logits)",
        "near 0 at step 1, then rises",
        "rising on and on while held-out accuracy stands still: overfitting",
    ),
    metric(
        Place::Reward,
        "rewards/accuracies",
        "share of comparisons with the better answer's reward above the other's, equal rewards as one half; ties of the data are not counted",
        "share, 0 to 1",
        "near 0.5 at step 1, then above",
        "1.0 on training and 0.5 on held-out rows: overfitting; compare with the length baseline of the summary",
    ),
    metric(
        Place::Reward,
        "rewards/ties",
        "share of comparisons with two rewards that are the same number",
        "share, 0 to 1",
        "0",
        "above 0: answers are the same tokens, or the model reads the same token of both",
    ),
    metric(
        Place::Reward,
        "rewards/mean",
        "mean reward of all answers",
        "raw rewards (logits)",
        "anything from pairs and rankings; with scores their mean",
        "far from 0: `--center-rewards-coefficient`, or normalise",
    ),
    metric(
        Place::Reward,
        "pair_band/step",
        "with `--pair-band`, the number of steps that were done when the pairs in use were chosen",
        "steps",
        "rises by `--pair-band-every`",
        "-",
    ),
    metric(
        Place::Reward,
        "pair_band/inside",
        "pairs whose |r_chosen − r_rejected| lay inside the band then: those that are trained on",
        "pairs",
        "-",
        "few: the same pairs come again and again; widen the band",
    ),
    metric(
        Place::Reward,
        "pair_band/below",
        "pairs that were dropped because their rewards lay closer together",
        "pairs",
        "-",
        "-",
    ),
    metric(
        Place::Reward,
        "pair_band/above",
        "pairs that were dropped because their rewards lay further apart",
        "pairs",
        "rises as the model learns",
        "-",
    ),
    metric(
        Place::Ppo,
        "groups_per_second",
        "prompts / wall seconds since the last logged iteration",
        "prompts / s",
        "steady",
        "as tokens_per_second",
    ),
    metric(
        Place::Ppo,
        "objective/kl",
        "mean over answers of Σ (log π − log π_ref) over their tokens, π the policy that is trained, before the updates",
        "nats per answer",
        "0 at step 1, then rises slowly",
        "far above the target, or rising with the reward: the policy leaves its reference",
    ),
    metric(
        Place::Ppo,
        "objective/kl_per_token",
        "the same sum over all answers / all tokens",
        "nats per token",
        "0 at step 1, then small",
        "as objective/kl",
    ),
    metric(
        Place::Ppo,
        "objective/kl_first_reference",
        "as objective/kl, to the reference that training began with, with `--ref-ema`",
        "nats per answer",
        "rises slowly",
        "as objective/kl",
    ),
    metric(
        Place::Ppo,
        "objective/entropy",
        "mean over answers of Σ −log π over their tokens",
        "nats per answer",
        "falls slowly",
        "falls to nearly 0: answers are all the same",
    ),
    metric(
        Place::Ppo,
        "objective/scores",
        "mean reward of an answer, before anything is subtracted, scaled or clipped",
        "the reward's unit",
        "rises",
        "falls: the learning rate is too large, or the pull to the reference too strong",
    ),
    metric(
        Place::Ppo,
        "objective/non_score_reward",
        "mean over answers with a score of what their tokens are rewarded beside it: −β KL, penalties, scaling; before `--whiten-rewards`",
        "the reward's unit",
        "0 or below",
        "far below 0: the pull to the reference outweighs the reward",
    ),
    metric(
        Place::Ppo,
        "objective/rlhf_reward",
        "mean over answers with a score of the sum of the rewards of their tokens, before `--whiten-rewards`",
        "the reward's unit",
        "rises",
        "as objective/scores",
    ),
    metric(
        Place::Ppo,
        "val/num_eos_tokens",
        "share of answers that ended by themselves (TRL's name)",
        "share, 0 to 1",
        "near 1",
        "as completions/clipped_ratio",
    ),
    metric(
        Place::Ppo,
        "completions/abstained",
        "share of answers for which the reward abstained; nothing is learned from them",
        "share, 0 to 1",
        "0",
        "many: look at the reward",
    ),
    metric(
        Place::Ppo,
        "completions/bootstrapped",
        "share of answers with a reward that go on with the critic's value instead, because they reached `--max-new-tokens`; absent without any",
        "share, 0 to 1",
        "small",
        "near 1: nothing is learned from scores; raise `--max-new-tokens`, or give `--truncated score`",
    ),
    metric(
        Place::Ppo,
        "policy/entropy_avg",
        "mean entropy of the policy's distribution at the tokens of answers",
        "nats",
        "falls slowly",
        "falls to nearly 0: there is nothing left to explore",
    ),
    metric(
        Place::Ppo,
        "policy/approxkl_avg",
        "mean over updates of ½ mean (log ρ)², ρ the importance ratio of a token",
        "nats per token",
        "below 0.05",
        "large: the updates of an iteration go too far; fewer epochs, a lower rate, or `--target-kl`",
    ),
    metric(
        Place::Ppo,
        "policy/clipfrac_avg",
        "mean over updates of the share of tokens whose clipped term is the smaller one",
        "share, 0 to 1",
        "below 0.3",
        "large: as policy/approxkl_avg",
    ),
    metric(
        Place::Ppo,
        "val/ratio",
        "mean over updates of the mean importance ratio",
        "1",
        "1 at the first update of each iteration, then near 1",
        "far from 1: as policy/approxkl_avg",
    ),
    metric(
        Place::Ppo,
        "val/clipfrac_avg",
        "mean over updates of the share of tokens whose clipped value loss is the larger one",
        "share, 0 to 1",
        "below 0.3",
        "large: the critic moves fast; lower `--critic-learning-rate`",
    ),
    metric(
        Place::Ppo,
        "val/explained_variance",
        "1 − variance of (return − value) / variance of returns",
        "1",
        "rises towards 1",
        "below 0: the critic is worse than a constant; give `--critic-warmup`",
    ),
    metric(
        Place::Ppo,
        "loss/policy_avg",
        "the policy's loss, mean over updates",
        "the reward's unit",
        "around 0: advantages have mean 0",
        "says nothing of progress",
    ),
    metric(
        Place::Ppo,
        "loss/value_avg",
        "½ mean squared error of the values, the larger of clipped and not: the whole loss of a separate critic",
        "squares of the reward's unit",
        "falls",
        "rising: the critic does not keep up",
    ),
    metric(
        Place::Ppo,
        "loss/kl_avg",
        "mean of the KL estimate in the loss, before its weight (`--kl-placement loss`)",
        "nats per token",
        "0 at step 1, then small",
        "as objective/kl",
    ),
    metric(
        Place::Ppo,
        "loss/entropy_avg",
        "mean of the entropy in the loss, before its weight (`--entropy-coef`)",
        "nats per token",
        "falls slowly",
        "as policy/entropy_avg",
    ),
    metric(
        Place::Ppo,
        "loss/ptx_avg",
        "mean loss of a token of `--ptx-data`, before its weight; held out, of `--ptx-eval-data`",
        "nats per token",
        "stays or falls",
        "rising: what was learned before is forgotten; raise `--ptx-coef`",
    ),
    metric(
        Place::Ppo,
        "critic/grad_norm",
        "√Σ g² over the critic's weights, before clipping",
        "the reward's unit per unit of weight",
        "falling",
        "as grad_norm",
    ),
    metric(
        Place::Ppo,
        "kl_coef",
        "weight β of the KL divergence, after the controller of `--kl-target`",
        "1",
        "`--kl-coef`, or what the controller makes of it",
        "runs away: the target is out of reach",
    ),
    metric(
        Place::Ppo,
        "groups/discarded",
        "prompts that were sampled for the iteration and not trained on (`--dynamic-sampling on`); absent without any",
        "prompts",
        "few",
        "many: most prompts are always or never solved; see `--curriculum`",
    ),
    metric(
        Place::Ppo,
        "groups/ties",
        "prompts whose answers have equal scores, so that online-dpo makes no pair of them",
        "prompts",
        "few",
        "all: nothing is learned",
    ),
    metric(
        Place::Ppo,
        "sampling/sampling_logp_difference/mean",
        "mean of the absolute difference log π − log μ over tokens, μ what the sampler says of its own samples",
        "nats",
        "rounding, 1e-6; with `--overlap` the change of one iteration",
        "large without `--overlap`: sampler and training disagree",
    ),
    metric(
        Place::Ppo,
        "sampling/sampling_logp_difference/max",
        "the largest of them",
        "nats",
        "1e-4; with `--overlap` larger",
        "as its mean",
    ),
    metric(
        Place::Ppo,
        "sampling/importance_sampling_ratio/mean",
        "mean of min(π / μ, 2) over tokens, which weighs advantages with `--overlap`",
        "1",
        "near 1",
        "far from 1: samples are too old",
    ),
    metric(
        Place::Ppo,
        "val/skipped_minibatches",
        "minibatches skipped for `--max-ratio`; absent without any",
        "minibatches",
        "absent",
        "many: as policy/approxkl_avg",
    ),
    metric(
        Place::Ppo,
        "val/empty_minibatches",
        "minibatches without an answer to learn from; absent without any",
        "minibatches",
        "absent",
        "many: rewards abstain, or answers are masked",
    ),
    metric(
        Place::Ppo,
        "val/stopped_early",
        "1 where `--target-kl` ended the updates of the iteration; absent elsewhere",
        "-",
        "absent, or now and then",
        "always: lower the rate or the number of epochs",
    ),
    metric(
        Place::Ppo,
        "objective/scores_std",
        "standard deviation (biased) of the scores of all answers of the iteration, before they are scaled or clipped",
        "the reward's unit",
        "above 0",
        "0: all answers are given the same, and nothing can be learned of it",
    ),
    metric(
        Place::Ppo,
        "rewards/NAME/mean",
        "mean of a component of the reward over the answers that it did not abstain on, before its weight",
        "the component's unit",
        "rises with the score",
        "one rises while another falls: the sum is bought with it; look at the weights",
    ),
    metric(
        Place::Ppo,
        "completions/mean_length",
        "mean tokens of an answer, stop token included",
        "tokens",
        "changes slowly",
        "a jump while the reward rises: the reward pays for length",
    ),
    metric(
        Place::Ppo,
        "completions/clipped_ratio",
        "share of the answers that reached `--max-new-tokens` without a stop token",
        "share, 0 to 1",
        "small, or falling",
        "rising: rewards are those of texts cut off; give `--missing-eos-penalty`, or raise `--max-new-tokens`",
    ),
    metric(
        Place::Ppo,
        "completions/most_frequent_share",
        "answers that are the most frequent one, token by token, over all answers of the iteration",
        "share, 0 to 1",
        "near 1 / answers where answers are long",
        "rising: the policy gives one answer to everything",
    ),
    metric(
        Place::Ppo,
        "curriculum/success",
        "with `--curriculum edge`, the mean estimated success rate of the prompts of the iteration that were sampled before; absent where none was",
        "share, 0 to 1",
        "near 0.5",
        "near 0 or 1: few prompts are at the edge of what the policy can do",
    ),
    metric(
        Place::Ppo,
        "curriculum/unseen",
        "share of the prompts of the iteration that were never sampled before",
        "share, 0 to 1",
        "1 at first, then `explore`, 0 once all were seen",
        "-",
    ),
    metric(
        Place::Ppo,
        "curriculum/replayed",
        "share of the prompts of the iteration that are outside of `--curriculum-range` and were looked at again by plan",
        "share, 0 to 1",
        "at most `replay`",
        "-",
    ),
    metric(
        Place::Ppo,
        "curriculum/fallback",
        "share of the prompts of the iteration that are outside of `--curriculum-range` and were taken because too few are inside",
        "share, 0 to 1",
        "0",
        "above 0: widen `--curriculum-range`, or the data are too easy or too hard",
    ),
    metric(
        Place::Ppo,
        "curriculum/filtered",
        "share of all prompts sampled so far whose estimated success rate is outside of `--curriculum-range`",
        "share, 0 to 1",
        "grows as prompts are mastered",
        "near 1: as curriculum/fallback",
    ),
    metric(
        Place::Ppo,
        "episodes",
        "samples drawn so far, those of groups that were discarded included",
        "answers",
        "rises by batch size × `--num-completions` per iteration",
        "faster: dynamic sampling discards groups",
    ),
    metric(
        Place::Ppo,
        "advantages/mean",
        "mean over tokens of the advantages before they are normalised",
        "units of the reward",
        "around 0",
        "far from 0: the critic is biased",
    ),
    metric(
        Place::Ppo,
        "advantages/std",
        "standard deviation of the same",
        "units of the reward",
        "steady",
        "0: nothing is learned",
    ),
    metric(
        Place::Ppo,
        "returns/mean",
        "mean of what the critic is to predict, over tokens; of Σ rewards over samples without a critic",
        "units of the reward",
        "follows objective/rlhf_reward",
        "far from it: values behind answers that were cut off dominate",
    ),
    metric(
        Place::Ppo,
        "returns/std",
        "standard deviation of the same",
        "units of the reward",
        "steady",
        "near 0: all samples are worth the same",
    ),
    metric(
        Place::Ppo,
        "groups/without_signal",
        "share of prompts all of whose samples have the same reward",
        "1",
        "below 0.5",
        "near 1: the prompts are too easy or too hard; see `--curriculum`",
    ),
    metric(
        Place::Ppo,
        "completions/alone",
        "answers that are left out, as no other answer to their prompt has a reward",
        "answers",
        "0",
        "many: the reward abstains often",
    ),
    metric(
        Place::Ppo,
        "completions/masked",
        "answers that are left out because they reached the token limit, with `--mask-truncated`",
        "answers",
        "few",
        "most: raise --max-new-tokens",
    ),
    metric(
        Place::Ppo,
        "val/nothing_to_learn",
        "iterations in a row, this one included, without an update, as no answer had an advantage",
        "iterations",
        "absent",
        "8 end the run: the reward does not tell answers apart",
    ),
    metric(
        Place::Summary,
        "steps",
        "optimiser steps done",
        "steps",
        "those of the run",
        "fewer never happens in a finished run",
    ),
    metric(
        Place::Summary,
        "rows",
        "rows trained on, counted once per step that took them",
        "rows",
        "steps × batch size, less the last smaller batches",
        "-",
    ),
    metric(Place::Summary, "tokens", "as in `metrics.jsonl`", "tokens", "-", "-"),
    metric(Place::Summary, "final", "the last line of `metrics.jsonl`", "as there", "as there", "as there"),
    metric(
        Place::Summary,
        "best",
        "metric, value, step and checkpoint that `--keep-best` kept",
        "as there",
        "late in the run",
        "early: overfitting after that step",
    ),
    metric(
        Place::Summary,
        "wall_time",
        "seconds of training (train), waiting for rows (data), held-out rows (eval), checkpoints (save) and all together (total)",
        "s",
        "train is most of total",
        "much data: reading is slow; much save: raise `--save-every`",
    ),
    metric(
        Place::Summary,
        "peak_rss_mb",
        "largest resident memory of the last process",
        "MB (10⁶ bytes)",
        "below the machine's memory",
        "near it: lower `--micro-batch-tokens`",
    ),
    metric(
        Place::Summary,
        "warnings",
        "what the health checks said: step, check and message of each; see below",
        "-",
        "an empty list",
        "read the messages; each check speaks at most once in a run",
    ),
    metric(
        Place::Summary,
        "completions_sampled",
        "answers that `align ppo` sampled for training, those of prompts that were not trained on included",
        "answers",
        "iterations × batch size × `--num-completions`",
        "more: prompts were discarded (`groups/discarded`)",
    ),
    metric(
        Place::Summary,
        "rows_cut",
        "rows that lost tokens to `--max-length` or `--max-prompt-length`",
        "rows",
        "0, or few",
        "many: raise `--max-length`",
    ),
    metric(
        Place::Summary,
        "rows_skipped",
        "bad rows dropped by `--bad-rows skip`",
        "rows",
        "0",
        "many: look with `align data check`",
    ),
    metric(
        Place::Summary,
        "rows_dropped",
        "rows whose prompt left no room for an answer",
        "rows",
        "0",
        "many: raise `--max-length`",
    ),
    metric(
        Place::Summary,
        "data",
        "what was found in the training rows, with those cut and dropped; `eval_data`, `ptx_data` and `ptx_eval_data` likewise",
        "-",
        "-",
        "-",
    ),
    metric(
        Place::Summary,
        "data_shares",
        "for each file of `--data`: its rows, its weight with `--data-weights`, and its rows in an epoch",
        "rows",
        "the weights' shares of all rows",
        "-",
    ),
];

/// Finds what a number of `metrics.jsonl` means in the runs of a command (`dpo`, for example), or in those of another
/// where that command's own table lacks it.
pub fn definition(command: &str, name: &str) -> Option<&'static Metric> {
    let named = || METRICS.iter().filter(|metric| metric.place != Place::Summary && is_named(metric, name));
    let own = format!("`align {command}`");
    named().find(|metric| metric.place.title().contains(&own)).or_else(|| named().next())
}

/// Lists the names that `--keep-best` takes for a training command, which is found at `places`.
pub fn held_out(places: &[Place]) -> Vec<&'static str> {
    let held_out = |metric: &&Metric| {
        places.contains(&metric.place)
            && !metric.name.ends_with("_per_second")
            && !metric.name.contains("NAME")
    };
    std::iter::once("loss").chain(METRICS.iter().filter(held_out).map(|metric| metric.name)).collect()
}

/// Says whether a number of a run is the one that the table names: a name in capitals stands for any.
pub fn is_named(metric: &Metric, name: &str) -> bool {
    match metric.name.split_once("NAME") {
        Some((before, after)) => {
            let rest = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            rest.is_some_and(|rest| !rest.is_empty())
        }
        None => metric.name == name,
    }
}

/// Writes the table as a Markdown page.
pub fn markdown() -> String {
    let mut page = "\
# Metrics

Every number that a run shows. Made from the table in `crates/align-cli/src/metrics.rs`, and a test keeps the two equal.
Values of a step are those before its update. Nothing depends on `--micro-batch-tokens`: sums and counts are combined over
the whole optimiser batch before they are divided. Values on held-out rows have `eval/` before their name and are
those after the step's update. The event files beside `metrics.jsonl` have the same numbers for TensorBoard, rounded to
32 bits; a number that is not finite is `null` in `metrics.jsonl` and itself in an event file.
"
    .to_owned();
    for place in Place::ALL {
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "\n## {}\n\n| name | formula | unit | expected | otherwise |\n| --- | --- | --- | --- | --- |\n",
            place.title()
        );
        for m in METRICS.iter().filter(|m| m.place == place) {
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {} |",
                m.name, m.formula, m.unit, m.expected, m.otherwise
            );
        }
    }
    page.push_str(&health_checks());
    page
}

fn health_checks() -> String {
    let mut part = "
## Health checks

Training looks at the metrics of every step, logged or not, and says one line on stderr when one of these holds, at most
once in a run; `warnings` in `summary.json` has the same. A change or a distance is *clear* from six standard errors of
the means on. A resumed run goes on with what its checkpoint knows. Nothing that is learned depends on them.

| command | check | speaks when | what it usually means |
| --- | --- | --- | --- |
"
    .to_owned();
    for place in Place::ALL {
        for check in health::documented(place) {
            let title = place.title();
            let command = title.split_once(", ").map_or(title, |(_, command)| command);
            let command = command.strip_suffix(" alone").unwrap_or(command);
            // Writing to a string cannot fail.
            let _ = writeln!(part, "| {command} | `{}` | {} | {} |", check.name, check.rule, check.meaning);
        }
    }
    part
}
