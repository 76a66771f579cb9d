use align_core::align_types::PromptGroup;

use super::{AnswerLogProbs, HeldOutMethod};
use crate::{Error, Result, UnaConfig};

/// A preference pair.
#[derive(Debug)]
pub(super) struct Pair {
    pub row: usize,
    pub chosen: AnswerLogProbs,
    pub rejected: AnswerLogProbs,
}

/// An answer with what it is compared with: a label (1 or 0), a score, or nothing.
#[derive(Debug)]
pub(super) struct Feedback {
    pub row: usize,
    pub answer: usize,
    pub logps: AnswerLogProbs,
    pub target: f64,
}

/// The rows by kind.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub pairs: Vec<Pair>,
    pub labelled: Vec<Feedback>,
    pub scored: Vec<Feedback>,
    pub plain: Vec<Feedback>,
}

impl Rows {
    pub(super) fn new(
        groups: &[PromptGroup],
        logps: &[Vec<AnswerLogProbs>],
        method: &HeldOutMethod,
    ) -> Result<Self> {
        if groups.len() != logps.len() {
            let why = format!("of {} rows for {}", logps.len(), groups.len());
            return Err(Error::input("log-probabilities", why));
        }
        let mut rows = Self::default();
        for (row, (group, logps)) in groups.iter().zip(logps).enumerate() {
            rows.add(row, group, logps, method).map_err(|why| Error::input(group.describe(row), why))?;
        }
        Ok(rows)
    }

    fn add(
        &mut self,
        row: usize,
        group: &PromptGroup,
        logps: &[AnswerLogProbs],
        method: &HeldOutMethod,
    ) -> Result<(), String> {
        if logps.len() != group.completions.len() {
            return Err(format!("{} log-probabilities for {} answers", logps.len(), group.completions.len()));
        }
        let likelihood = matches!(method, HeldOutMethod::Sft);
        if !likelihood && logps.iter().any(|answer| answer.reference.is_none()) {
            return Err("the method compares with a reference, and there is none".into());
        }
        let numbers = |answer: &AnswerLogProbs| {
            answer.policy.is_finite() && answer.reference.is_none_or(f64::is_finite)
        };
        if !logps.iter().all(numbers) {
            return Err("a log-probability is not finite".into());
        }
        let unjudged =
            group.completions.iter().all(|answer| answer.label.is_none() && answer.reward.is_none());
        if let ([chosen, rejected], true, false) = (logps, unjudged, likelihood) {
            if matches!(method, HeldOutMethod::Kto { .. }) {
                return Err("a pair without labels; KTO takes labelled answers".into());
            }
            self.pairs.push(Pair { row, chosen: *chosen, rejected: *rejected });
            return Ok(());
        }
        for (answer, (completion, logps)) in group.completions.iter().zip(logps).enumerate() {
            let feedback = |target| Feedback { row, answer, logps: *logps, target };
            match (method, completion.label, completion.reward) {
                (HeldOutMethod::Sft, ..) => self.plain.push(feedback(0.0)),
                (HeldOutMethod::Kto { .. } | HeldOutMethod::Una(_), Some(label), None) => {
                    self.labelled.push(feedback(f64::from(u8::from(label))));
                }
                (HeldOutMethod::Una(config), None, Some(score)) => {
                    self.scored.push(feedback(target(config, score)?));
                }
                (HeldOutMethod::Dpo(_), ..) => return Err("no pair, and the loss is one of pairs".into()),
                (HeldOutMethod::Kto { .. }, ..) => return Err("an answer has no label".into()),
                _ => return Err("neither a pair, nor a label or a score on every answer".into()),
            }
        }
        Ok(())
    }
}

/// Brings a score to what the loss compares with.
fn target(config: &UnaConfig, score: f64) -> Result<f64, String> {
    if config.loss_type.uses_reference_rewards() {
        return Err(format!("{:?} is not measured on held-out rows", config.loss_type));
    }
    config.scale(score).ok_or_else(|| match config.check_range(score, score) {
        Err(error) => error.to_string(),
        Ok(()) => format!("the score {score} does not fit"),
    })
}
