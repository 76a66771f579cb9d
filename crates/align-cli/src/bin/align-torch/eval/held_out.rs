//! Loss, accuracy and margins of rows that have answers.

use align_cli::{
    Result,
    args::{EvalArgs, MethodName},
};
use align_core::{Objective, align_types::PromptGroup};
use align_lm::Model;
use align_losses::{AnswerLogProbs, HeldOut, HeldOutMethod, Kto, Reference, held_out, kto_baseline};
use serde_json::{Value, json};

use super::{Bench, RowNumbers, data::HeldOutRows, go_on, show::HeldOutReport};
use crate::{
    failure,
    logprobs::{self, row_number},
    model,
    progress::Progress,
};

/// Measures the rows, and adds what each row says to `rows`.
///
/// # Errors
/// Rows that the method cannot take; the models fail; [`align_cli::Error::Interrupted`].
pub fn measure(
    bench: &Bench<'_>,
    data: &HeldOutRows,
    context: usize,
    rows: &mut RowNumbers,
) -> Result<HeldOutReport> {
    let flags = bench.flags;
    let logps = bench.answers(&data.rows)?;
    let method = method(bench, data, context)?;
    let seed = flags.sampling.seed;
    let found = held_out(&data.rows, &logps, &method).map_err(failure::of)?;
    for (index, (row, logps)) in data.rows.iter().zip(&logps).enumerate() {
        let answers: Vec<Value> = row
            .completions
            .iter()
            .zip(logps)
            .map(|(answer, logps)| {
                json!({
                    "name": if answer.name.is_empty() { "completion" } else { &answer.name },
                    "tokens": logps.tokens,
                    "logp": logps.policy,
                    "reference_logp": logps.reference,
                })
            })
            .collect();
        let entry = rows.entry(row_number(row)).or_default();
        entry.insert("loss".into(), losses(&found, index));
        entry.insert("answers".into(), json!(answers));
    }
    let name = match data.method {
        MethodName::Dpo => "dpo",
        MethodName::Kto => "kto",
        MethodName::Una => "una",
        MethodName::Sft | MethodName::Auto => "sft",
    };
    HeldOutReport::new(name, &data.rows, &found, seed)
}

/// The losses of one row: one number for one item, a list for several.
fn losses(found: &HeldOut, row: usize) -> Value {
    let start = found.items.partition_point(|item| item.row < row);
    let of_row = found.items.iter().skip(start).take_while(|item| item.row == row);
    let losses: Vec<f64> = of_row.map(|item| item.loss).collect();
    match losses.as_slice() {
        [one] => json!(one),
        list => json!(list),
    }
}

fn method(bench: &Bench<'_>, data: &HeldOutRows, context: usize) -> Result<HeldOutMethod> {
    let flags: &EvalArgs = bench.flags;
    Ok(match data.method {
        MethodName::Sft | MethodName::Auto => HeldOutMethod::Sft,
        MethodName::Dpo => HeldOutMethod::Dpo(flags.held_out.dpo_config()),
        MethodName::Una => HeldOutMethod::Una(flags.held_out.una_config()),
        MethodName::Kto => {
            let config = flags.held_out.kto_config();
            // All rows are one batch: the baseline is that of the data set.
            let objective = Kto::new(config.clone(), Reference::Precomputed).map_err(failure::of)?;
            let most = flags.max_length.map_or(context, |given| given.min(context));
            let mismatched = objective.with_max_length(most).survey(&data.rows).map_err(failure::of)?;
            let logps = bench.answers(&mismatched.unwrap_or_default())?;
            let ratio = |answer: &AnswerLogProbs| Some(answer.policy - answer.reference?);
            let ratios: Vec<f64> = logps.iter().flatten().filter_map(ratio).collect();
            HeldOutMethod::Kto { config, baseline: kto_baseline(&ratios) }
        }
    })
}

impl Bench<'_> {
    /// Computes the log-probability of every answer under the model and, where there is one, the reference.
    fn answers(&self, rows: &[PromptGroup]) -> Result<Vec<Vec<AnswerLogProbs>>> {
        let policy = self.sums(&self.model, rows)?;
        let reference = self.reference.as_ref().map(|model| self.sums(model, rows)).transpose()?;
        let mut reference = reference.unwrap_or_default().into_iter();
        let mut sums = policy.into_iter();
        let answer = |(policy, tokens)| AnswerLogProbs {
            policy,
            reference: reference.next().map(|(sum, _): (f64, usize)| sum),
            tokens,
        };
        let mut answers = sums.by_ref().map(answer);
        Ok(rows.iter().map(|row| answers.by_ref().take(row.completions.len()).collect()).collect())
    }

    /// Computes the summed log-probability and the number of tokens of every answer.
    fn sums(&self, model: &Model, rows: &[PromptGroup]) -> Result<Vec<(f64, usize)>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut replicas =
            model::replicas(model.replica().map_err(failure::of)?, self.flags.machine.threads())?;
        let mut progress = Progress::new(rows.len(), 0, self.flags.machine.no_progress);
        let tokens = self.flags.micro_batch_tokens;
        let sums = logprobs::sums(&mut replicas, rows, tokens, &mut progress, go_on)?;
        progress.finish();
        Ok(sums)
    }
}
