//! The report: a table for people, one JSON object for programs.

use std::fmt::Write;

use align_cli::{Result, args::EvalArgs};
use align_core::{
    align_types::{Completion, PromptGroup},
    evaluation::{Divergence, DivergenceMean, LengthControl, PairAgreement, Prompts, Samples, WinRate},
    intervals::Estimate,
};
use align_losses::HeldOut;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::samples::stopped;
use crate::failure;

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
            table.held_out(held_out);
        }
        if let Some(samples) = &self.samples {
            table.samples(&format!("samples of {}", self.model), samples);
        }
        if let (Some(samples), Some(reference)) = (&self.reference_samples, &self.reference) {
            table.samples(&format!("samples of {reference}"), samples);
        }
        if let (Some(wins), Some(reference)) = (&self.win_rate, &self.reference) {
            table.wins(wins, &self.model, reference);
        }
        if let Some(kl) = &self.kl {
            table.divergence(kl);
        }
        table.text
    }
}

/// Lines of a figure with its interval.
#[derive(Debug, Default)]
struct Table {
    text: String,
}

impl Table {
    fn title(&mut self, title: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}{title}");
    }

    fn line(&mut self, name: &str, figure: &Estimate, note: &str) {
        let interval = match figure.interval {
            Some((low, high)) => format!("[{}, {}]", number(low), number(high)),
            None => String::new(),
        };
        let line = format!("  {name:<28} {:>11}  {interval:<25} {note}", number(figure.mean));
        let _ = writeln!(self.text, "{}", line.trim_end());
    }

    fn plain(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.text, "  {name:<28} {value:>11}");
    }

    fn held_out(&mut self, report: &HeldOutReport) {
        let HeldOutReport { method, rows, prompts, list, pairs, .. } = report;
        self.title(&format!("held-out, {method}: {rows} rows, {prompts} prompts"));
        for (name, figure) in list {
            self.line(name, figure, "");
        }
        let Some(pairs) = pairs else { return };
        self.line("accuracy", &pairs.accuracy, &format!("ties count half: {}", pairs.ties));
        let equal = format!("of equal length, counted half: {}", pairs.equal_lengths);
        self.line("chosen is longer", &pairs.chosen_longer, &equal);
        self.line("accuracy above length", &pairs.above_length, "paired difference of the two");
        self.lengths("accuracy", "chosen - rejected", &pairs.length_control);
    }

    fn samples(&mut self, title: &str, report: &SamplesReport) {
        let SamplesReport { prompts, completions, length, stopped, reward, .. } = report;
        self.title(&format!("{title}: {completions} completions of {prompts} prompts"));
        if let Some(length) = length {
            self.line("tokens", length, "");
        }
        if let Some(stopped) = stopped {
            self.line("ended by themselves", stopped, "");
        }
        let Some(RewardReport { name, mean, abstained }) = reward else { return };
        let note = if *abstained > 0 { format!("{name}; abstained: {abstained}") } else { name.clone() };
        match mean {
            Some(mean) => self.line("reward", mean, &note),
            None => self.plain("reward", &format!("none; {note}")),
        }
    }

    fn wins(&mut self, wins: &WinRate, model: &str, reference: &str) {
        self.title(&format!("{model} against {reference}"));
        let WinRate { wins: won, ties, losses, prompts_without, .. } = wins;
        let without = match prompts_without {
            0 => String::new(),
            count => format!("; prompts without a reward: {count}"),
        };
        let error = wins.standard_error.map_or_else(String::new, |error| format!("s.e. {}, ", number(error)));
        let note = format!("{error}{won} wins, {ties} ties, {losses} losses{without}");
        self.line("win rate", &wins.rate, &note);
        self.line("reward difference", &wins.reward_difference, "paired by prompt");
        self.lengths("win rate", "model - reference", &wins.length_control);
    }

    fn lengths(&mut self, what: &str, sides: &str, control: &LengthControl) {
        if let Some(figure) = &control.at_equal_length {
            let slope =
                control.slope.map_or_else(String::new, |slope| format!("slope {} per token", number(slope)));
            self.line(&format!("{what} at equal length"), figure, &slope);
        }
        if control.bins.len() < 2 {
            return;
        }
        for bin in &control.bins {
            let (low, high) = bin.range;
            let name =
                if low == high { format!("  tokens {low}") } else { format!("  tokens {low} to {high}") };
            self.line(&name, &bin.score, &format!("{sides}, {} comparisons", bin.count));
        }
    }

    fn divergence(&mut self, kl: &Divergence) {
        self.title("KL to the reference, in nats, over samples of the model");
        let mut of = |name: &str, mean: &DivergenceMean, note: &str| {
            let error =
                mean.standard_error.map_or_else(String::new, |error| format!("s.e. {}", number(error)));
            let gap = if note.is_empty() || error.is_empty() { "" } else { ", " };
            self.line(&format!("sequence, {name}"), &mean.sequence, &format!("{error}{gap}{note}"));
            self.line(&format!("per token, {name}"), &mean.per_token, "");
        };
        of("whole vocabulary", &kl.full, "the least noisy");
        of("k1", &kl.k1, "");
        of("k3", &kl.k3, "");
    }
}

/// Writes a number with about four digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size == 0.0 || (1e-3..1e5).contains(&size) => format!("{value:.4}"),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_digits_that_matter() {
        assert_eq!(number(0.5), "0.5000");
        assert_eq!(number(0.0), "0.0000");
        assert_eq!(number(-1234.5678), "-1234.5678");
        assert_eq!(number(0.0000125), "1.250e-5");
    }

    #[test]
    fn a_figure_stands_in_one_line_with_its_interval() {
        let mut table = Table::default();
        table.title("first");
        table.line("loss", &Estimate { interval: Some((0.25, 0.75)), ..Estimate::exact(0.5) }, "note");
        table.line("kl", &Estimate::exact(0.0), "");
        let lines: Vec<&str> = table.text.lines().collect();
        assert_eq!(lines[0], "first");
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            ["loss", "0.5000", "[0.2500,", "0.7500]", "note"]
        );
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["kl", "0.0000"]);
    }
}
