//! What is measured on: rows with answers, and prompts to sample for.

use align_cli::{
    Error, Result, args,
    args::{EvalArgs, Measure, MethodName},
    talk,
};
use align_core::align_types::PromptGroup;
use align_data::{DataConfig, Kind, TextPrompt, Truncation};

use super::left_out;
use crate::{generate, logprobs, model::Folder, rows};

/// Rows with answers, and their loss.
pub struct HeldOutRows {
    /// The rows.
    pub rows: Vec<PromptGroup>,
    /// Which loss; never `auto`.
    pub method: MethodName,
}

/// What a file holds for this command.
pub struct Data {
    /// Rows with answers, where their loss is measured.
    pub held_out: Option<HeldOutRows>,
    /// Prompts, where answers are sampled.
    pub prompts: Option<Vec<TextPrompt>>,
}

impl Data {
    /// Reads what is measured on.
    ///
    /// # Errors
    /// [`Error::Data`] for rows that cannot be used; [`Error::Usage`] where nothing is left to measure, or not what was
    /// asked for.
    pub fn read(flags: &EvalArgs, folder: &Folder, context: usize) -> Result<Self> {
        let config = DataConfig {
            max_length: Some(flags.max_length.map_or(context, |given| given.min(context))),
            truncation: if flags.max_length.is_some() { Truncation::KeepStart } else { Truncation::Error },
            bad_rows: flags.bad_rows.into(),
            columns: args::columns(&flags.columns),
            sft_on_chosen: true,
            ..DataConfig::default()
        };
        let held_out = if flags.wants(Measure::HeldOut) { held_out(flags, folder, &config)? } else { None };
        let prompts = if samples(flags)? { Some(prompts(flags, folder, &config, context)?) } else { None };
        if held_out.is_none() && prompts.is_none() {
            return Err(Error::usage(
                "there is nothing to measure",
                [
                    "--reference DIR measures the loss of answers against it, and the divergence from it"
                        .to_owned(),
                    "--reward-model, --reward or --reward-command measures rewards of sampled answers"
                        .to_owned(),
                ],
            ));
        }
        Ok(Self { held_out, prompts })
    }
}

/// Says whether answers are to be sampled.
fn samples(flags: &EvalArgs) -> Result<bool> {
    let rewards = flags.wants(Measure::Rewards) && flags.rewards.count() > 0;
    let divergence = flags.wants(Measure::Kl) && flags.reference.is_some();
    if let (true, Some(flag)) = (divergence, flags.off_policy()) {
        let why = format!("under {flag} samples are none of the model's own distribution");
        left_out(flags, Measure::Kl, "the divergence from the reference", &why)?;
        return Ok(rewards);
    }
    Ok(rewards || divergence)
}

fn held_out(flags: &EvalArgs, folder: &Folder, config: &DataConfig) -> Result<Option<HeldOutRows>> {
    use Kind::{Language, Preference, Prompt, PromptCompletion, Scored, Unpaired};
    let kinds: &[Kind] = match flags.held_out.method {
        MethodName::Auto => &[Language, PromptCompletion, Preference, Unpaired, Scored, Prompt],
        MethodName::Sft => &[Language, PromptCompletion],
        MethodName::Dpo => &[Preference],
        MethodName::Kto => &[Unpaired],
        MethodName::Una => &[Preference, Unpaired, Scored],
    };
    let files = std::slice::from_ref(&flags.data);
    let (rows, report) =
        align_data::load_rows(files, kinds, &folder.tokenizer, folder.template.as_ref(), config)
            .map_err(logprobs::refused)?;
    let method = match flags.held_out.method {
        MethodName::Auto => rows.first().and_then(of_row),
        named => Some(named),
    };
    let what = "the loss of answers";
    let Some(method) = method else {
        left_out(flags, Measure::HeldOut, what, "the rows have prompts without answers that a loss is for")?;
        return Ok(None);
    };
    if method != MethodName::Sft && flags.reference.is_none() {
        left_out(flags, Measure::HeldOut, what, "it compares with a reference policy, --reference DIR")?;
        return Ok(None);
    }
    flags.held_out.check_method(method)?;
    rows::tell(&report);
    Ok(Some(HeldOutRows { rows, method }))
}

/// Chooses the loss for rows like this one; none for a prompt without answers.
fn of_row(row: &PromptGroup) -> Option<MethodName> {
    let first = row.completions.first()?;
    Some(match (first.label, first.reward, row.completions.len()) {
        (Some(_), ..) => MethodName::Kto,
        (_, Some(_), _) => MethodName::Una,
        (.., 2) => MethodName::Dpo,
        _ => MethodName::Sft,
    })
}

fn prompts(
    flags: &EvalArgs,
    folder: &Folder,
    config: &DataConfig,
    context: usize,
) -> Result<Vec<TextPrompt>> {
    let config = DataConfig { max_length: None, truncation: Truncation::KeepStart, ..config.clone() };
    let files = std::slice::from_ref(&flags.data);
    let (mut prompts, report) =
        align_data::load_text_prompts(files, &folder.tokenizer, folder.template.as_ref(), &config)?;
    if report.bad_count > 0 {
        let (bad, rows) = (report.bad_count, report.rows);
        talk::warn(&format!("{}: {bad} of {rows} rows are bad and were skipped", flags.data.display()));
    }
    if let Some(most) = flags.max_prompts.filter(|most| *most < prompts.len()) {
        talk::say(&format!("sampling for the first {most} of {} prompts", prompts.len()));
        prompts.truncate(most);
    }
    let groups: Vec<PromptGroup> = prompts.iter().map(|prompt| prompt.group.clone()).collect();
    generate::check_room(&groups, context)?;
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use align_core::align_types::Completion;

    use super::*;

    #[test]
    fn the_loss_follows_from_the_row() {
        let row = |answers: Vec<Completion>| of_row(&PromptGroup::new(vec![1], answers));
        let plain = || Completion::new(vec![2]);
        assert_eq!(row(vec![]), None);
        assert_eq!(row(vec![plain()]), Some(MethodName::Sft));
        assert_eq!(row(vec![plain(), plain()]), Some(MethodName::Dpo));
        assert_eq!(row(vec![Completion { label: Some(false), ..plain() }]), Some(MethodName::Kto));
        assert_eq!(row(vec![Completion { reward: Some(0.5), ..plain() }]), Some(MethodName::Una));
    }
}
