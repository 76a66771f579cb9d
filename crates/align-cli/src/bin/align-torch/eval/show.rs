//! The report: a table for people, one JSON object for programs.

use align_cli::{Result, args::EvalArgs};
use align_core::{
    align_types::{Completion, PromptGroup},
    evaluation::{Divergence, DivergenceMean, PairAgreement, Prompts, Samples, WinRate},
    intervals::Estimate,
};
use align_losses::HeldOut;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::samples::stopped;
use crate::{
    failure,
    table::{Table, number},
};

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    reference: Option<String>,
    data: String,
    /// The loss of answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOutReport>,
    /// The model's samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<SamplesReport>,
    /// The reference's samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_samples: Option<SamplesReport>,
    /// The model against the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub win_rate: Option<WinRate>,
    /// The divergence from the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<Divergence>,
}

/// Figures of held-out rows.
#[derive(Debug, Serialize)]
pub struct HeldOutReport {
    method: &'static str,
    rows: usize,
    prompts: usize,
    figures: Map<String, Value>,
    #[serde(skip)]
    list: Vec<(&'static str, Estimate)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pairs: Option<PairAgreement>,
}

impl HeldOutReport {
    /// Averages what was found.
    ///
    /// # Errors
    /// A value that is not finite.
    pub fn new(method: &'static str, rows: &[PromptGroup], found: &HeldOut, seed: u64) -> Result<Self> {
        let prompts = Prompts::of(rows);
        let list = prompts.figures(&found.values, seed).map_err(failure::of)?;
        let pairs = (!found.margins.is_empty()).then(|| PairAgreement::of(&found.margins, &prompts, seed));
        let pairs = pairs.transpose().map_err(failure::of)?;
        let figures = list.iter().map(|(name, figure)| ((*name).to_owned(), json!(figure))).collect();
        Ok(Self { method, rows: rows.len(), prompts: prompts.count, figures, list, pairs })
    }
}

/// Figures of the samples of one model.
#[derive(Debug, Serialize)]
pub struct SamplesReport {
    rows: usize,
    prompts: usize,
    completions: usize,
    /// Tokens of a completion, the stop token included.
    length: Option<Estimate>,
    /// Share of completions that ended by themselves.
    stopped: Option<Estimate>,
    /// Their rewards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardReport>,
}

impl SamplesReport {
    /// Counts the samples.
    ///
    /// # Errors
    /// None that can be met: counts are finite.
    pub fn new(answers: &[Vec<Completion>], numbers: &Prompts, seed: u64) -> Result<Self> {
        let average = |what: &str, of: fn(&Completion) -> f64| {
            let values = answers.iter().enumerate();
            let values = values.flat_map(|(row, list)| list.iter().map(move |answer| (row, of(answer), 1.0)));
            numbers.average(what, values, seed).map_err(failure::of)
        };
        Ok(Self {
            rows: answers.len(),
            prompts: numbers.count,
            completions: answers.iter().map(Vec::len).sum(),
            length: average("length", |answer| answer.token_ids.len() as f64)?,
            stopped: average("stopped", |answer| f64::from(u8::from(stopped(answer))))?,
            reward: None,
        })
    }
}

/// Rewards of the samples of one model.
#[derive(Debug, Serialize)]
pub struct RewardReport {
    name: String,
    /// Their average; none where all abstained.
    mean: Option<Estimate>,
    /// Completions for which the reward abstained.
    abstained: usize,
}

impl RewardReport {
    /// Averages the rewards.
    ///
    /// # Errors
    /// A reward that is not finite.
    pub fn new(name: &str, scored: &[Samples], numbers: &Prompts, seed: u64) -> Result<Self> {
        let values = scored.iter().enumerate();
        let values = values.flat_map(|(row, samples)| {
            samples.rewards.iter().filter_map(move |reward| Some((row, (*reward)?, 1.0)))
        });
        Ok(Self {
            name: name.to_owned(),
            mean: numbers.average("reward", values, seed).map_err(failure::of)?,
            abstained: scored.iter().flat_map(|samples| &samples.rewards).filter(|r| r.is_none()).count(),
        })
    }
}

impl Report {
    /// Begins a report.
    pub fn new(flags: &EvalArgs) -> Self {
        Self {
            model: flags.model.display().to_string(),
            reference: flags.reference.as_ref().map(|folder| folder.display().to_string()),
            data: flags.data.display().to_string(),
            held_out: None,
            samples: None,
            reference_samples: None,
            win_rate: None,
            kl: None,
        }
    }

    /// Writes it as one line of JSON.
    ///
    /// # Errors
    /// None that can be met: the report has no keys that JSON does not know.
    pub fn json(&self) -> Result<String> {
        match serde_json::to_string(self) {
            Ok(text) => Ok(text + "\n"),
            Err(error) => Err(align_cli::Error::data(error.to_string(), [])),
        }
    }

    /// Writes it as a table.
    pub fn table(&self) -> String {
        let mut table = Table::default();
        if let Some(held_out) = &self.held_out {
            show_held_out(&mut table, held_out);
        }
        if let Some(samples) = &self.samples {
            show_samples(&mut table, &format!("samples of {}", self.model), samples);
        }
        if let (Some(samples), Some(reference)) = (&self.reference_samples, &self.reference) {
            show_samples(&mut table, &format!("samples of {reference}"), samples);
        }
        if let (Some(wins), Some(reference)) = (&self.win_rate, &self.reference) {
            show_wins(&mut table, wins, &self.model, reference);
        }
        if let Some(kl) = &self.kl {
            show_divergence(&mut table, kl);
        }
        table.text
    }
}

fn show_held_out(table: &mut Table, report: &HeldOutReport) {
    let HeldOutReport { method, rows, prompts, list, pairs, .. } = report;
    table.title(&format!("held-out, {method}: {rows} rows, {prompts} prompts"));
    for (name, figure) in list {
        table.line(name, figure, "");
    }
    let Some(pairs) = pairs else { return };
    table.pairs(pairs);
}

fn show_samples(table: &mut Table, title: &str, report: &SamplesReport) {
    let SamplesReport { prompts, completions, length, stopped, reward, .. } = report;
    table.title(&format!("{title}: {completions} completions of {prompts} prompts"));
    if let Some(length) = length {
        table.line("tokens", length, "");
    }
    if let Some(stopped) = stopped {
        table.line("ended by themselves", stopped, "");
    }
    let Some(RewardReport { name, mean, abstained }) = reward else { return };
    let note = if *abstained > 0 { format!("{name}; abstained: {abstained}") } else { name.clone() };
    match mean {
        Some(mean) => table.line("reward", mean, &note),
        None => table.plain("reward", &format!("none; {note}")),
    }
}

fn show_wins(table: &mut Table, wins: &WinRate, model: &str, reference: &str) {
    table.title(&format!("{model} against {reference}"));
    let WinRate { wins: won, ties, losses, prompts_without, .. } = wins;
    let without = match prompts_without {
        0 => String::new(),
        count => format!("; prompts without a reward: {count}"),
    };
    let error = wins.standard_error.map_or_else(String::new, |error| format!("s.e. {}, ", number(error)));
    let note = format!("{error}{won} wins, {ties} ties, {losses} losses{without}");
    table.line("win rate", &wins.rate, &note);
    table.line("reward difference", &wins.reward_difference, "paired by prompt");
    table.lengths("win rate", "model - reference", &wins.length_control);
}

fn show_divergence(table: &mut Table, kl: &Divergence) {
    table.title("KL to the reference, in nats, over samples of the model");
    let mut of = |name: &str, mean: &DivergenceMean, note: &str| {
        let error = mean.standard_error.map_or_else(String::new, |error| format!("s.e. {}", number(error)));
        let gap = if note.is_empty() || error.is_empty() { "" } else { ", " };
        table.line(&format!("sequence, {name}"), &mean.sequence, &format!("{error}{gap}{note}"));
        table.line(&format!("per token, {name}"), &mean.per_token, "");
    };
    of("whole vocabulary", &kl.full, "the least noisy");
    of("k1", &kl.k1, "");
    of("k3", &kl.k3, "");
}
