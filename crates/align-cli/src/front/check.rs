//! `align data check`: what is in data files, before anybody trains on them.

use align_data::{
    BadRows, ChatTemplate, DataConfig, DataReport, Error as DataError, Kind, SpecialTokens, Tokenizer,
};
use align_types::PromptGroup;
use serde_json::json;

use crate::{
    Error, Result,
    args::{self, DataCheckArgs},
    talk,
};

/// Rows that are shown as the model reads them.
const SHOWN: usize = 3;

/// Longest row that is shown, in characters; the middle of a longer one is left out.
const SHOWN_CHARS: usize = 600;

/// Renders messages where there is no model to say how: only their lengths are looked at.
const PLAIN_TEMPLATE: &str = "{% for message in messages %}{{ message.content }}\n{% endfor %}";

pub(super) fn run(check: &DataCheckArgs) -> Result<()> {
    let (tokenizer, template) = match &check.model {
        Some(folder) => {
            let tokenizer = Tokenizer::from_folder(folder)?;
            let template = ChatTemplate::from_folder(folder, tokenizer.special_tokens())?;
            (tokenizer, template)
        }
        None => bytes()?,
    };
    let config = DataConfig {
        max_length: None,
        bad_rows: BadRows::Skip,
        columns: args::columns(&check.columns),
        ..DataConfig::default()
    };
    let load = |config: &DataConfig| {
        align_data::load_rows(&check.files, Kind::ALL, &tokenizer, template.as_ref(), config)
    };
    let (groups, report) = match load(&config) {
        // The list of bad rows says more than that nothing was left.
        Err(DataError::NothingLeft { .. }) => load(&DataConfig { bad_rows: BadRows::Refuse, ..config })?,
        other => other?,
    };
    let unit = if check.model.is_some() { "tokens" } else { "bytes" };
    let histogram = histogram(&groups);
    if check.json {
        let value = json!({"unit": unit, "report": report, "histogram": histogram_json(&histogram)});
        talk::data(&format!("{value:#}\n"))?;
    } else {
        talk::data(&text(&report, unit, &histogram))?;
        if check.model.is_some() {
            talk::data(&examples(&groups, &tokenizer)?)?;
        }
    }
    match report.bad_count {
        0 => Ok(()),
        bad => Err(Error::data(
            format!("{bad} of {} rows cannot be used", report.rows),
            ["correct them, or train with --bad-rows skip".to_owned()],
        )),
    }
}

/// A tokenizer whose tokens are bytes, to measure and check rows where no model is given.
fn bytes() -> Result<(Tokenizer, Option<ChatTemplate>)> {
    let tokenizer = Tokenizer::train_byte_level::<&str>(&[], 256, &SpecialTokens::default())?;
    Ok((tokenizer, Some(ChatTemplate::new(PLAIN_TEMPLATE, [])?)))
}

/// Counts rows by the power of two that their length (prompt with its longest answer) reaches.
fn histogram(groups: &[PromptGroup]) -> Vec<(usize, usize)> {
    let mut bins: Vec<(usize, usize)> = Vec::new();
    for group in groups {
        let longest = group.completions.iter().map(|c| c.token_ids.len()).max().unwrap_or(0);
        let bin = (group.prompt.len() + longest).max(1).ilog2() as usize;
        while bins.len() <= bin {
            bins.push((1 << bins.len(), 0));
        }
        if let Some((_, count)) = bins.get_mut(bin) {
            *count += 1;
        }
    }
    let first = bins.iter().position(|(_, count)| *count > 0).unwrap_or(0);
    bins.split_off(first)
}

fn histogram_json(bins: &[(usize, usize)]) -> Vec<serde_json::Value> {
    bins.iter().map(|(from, count)| json!({"from": from, "below": from * 2, "rows": count})).collect()
}

fn text(report: &DataReport, unit: &str, histogram: &[(usize, usize)]) -> String {
    let mut lines = Vec::new();
    for file in &report.files {
        let form = if file.conversational { "messages" } else { "plain text" };
        lines.push(format!(
            "{}: {}, {form}, {} rows",
            file.path.display(),
            file.format.describe(),
            file.rows
        ));
    }
    lines.push(format!("rows: {} read, {} good, {} bad", report.rows, report.kept, report.bad_count));
    for (name, lengths) in [
        ("prompt", report.lengths.prompt),
        ("answer", report.lengths.completion),
        ("prompt and longest answer", report.lengths.total),
    ] {
        lines.push(format!(
            "{name}, {unit}: least {}, median {}, mean {:.1}, 95 % {}, most {}",
            lengths.min, lengths.median, lengths.mean, lengths.p95, lengths.max
        ));
    }
    let most = histogram.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
    for (from, count) in histogram {
        let bar = "#".repeat((count * 40).div_ceil(most));
        lines.push(format!("  {from:>7} to {:>7} {count:>8} {bar}", from * 2 - 1));
    }
    for (what, counted) in [
        ("answers that begin inside the prompt's last token", &report.merged_boundary),
        ("answers without an end-of-sequence token", &report.without_eos),
        ("rows whose answers are all the same", &report.identical_answers),
    ] {
        if let (1.., Some(example)) = (counted.count, &counted.example) {
            lines.push(format!("{}: {what}, first: {example}", counted.count));
        }
    }
    if !report.ignored_columns.is_empty() {
        lines.push(format!("columns that training does not read: {}", report.ignored_columns.join(", ")));
    }
    lines.extend(report.notices.iter().cloned());
    lines.extend(report.bad.iter().map(|bad| format!("bad: {bad}")));
    lines.join("\n") + "\n"
}

/// Shows rows as the model reads them, the trained tokens between » and «.
fn examples(groups: &[PromptGroup], tokenizer: &Tokenizer) -> Result<String> {
    let mut lines = String::new();
    for (index, group) in groups.iter().take(SHOWN).enumerate() {
        lines.push_str(&format!(
            "\n{}\n{}\n",
            group.describe(index),
            shorten(&tokenizer.decode(&group.prompt, false)?)
        ));
        for completion in &group.completions {
            let text = shorten(&tokenizer.decode(&completion.token_ids, false)?);
            lines.push_str(&format!("  {} »{text}«\n", completion.name));
        }
    }
    Ok(lines)
}

fn shorten(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= SHOWN_CHARS {
        return text.to_owned();
    }
    let half = SHOWN_CHARS / 2;
    let (head, tail) = (chars.iter().take(half), chars.iter().skip(chars.len() - half));
    format!("{} [...] {}", head.collect::<String>(), tail.collect::<String>())
}
