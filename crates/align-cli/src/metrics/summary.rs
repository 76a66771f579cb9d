//! The numbers of `summary.json`.

use super::{Metric, Place, metric};

/// Their definitions.
pub(super) const METRICS: &[Metric] = &[
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
        "seconds of training (train), waiting for rows (data), held-out rows (eval), checkpoints (save) and all together \
         (total); of `align ppo` in place of train: sample (with `--overlap` the wait for samples), score, logprobs, advantages, \
         update",
        "s",
        "train, or update, is most of total",
        "much data: reading is slow; much save: raise `--save-every`; much sample or score: see docs/scaling.md",
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
