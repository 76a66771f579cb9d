//! `align data check`: what is in data files, before anybody trains on them.

use align_data::{
    ChatTemplate, Counted, DataConfig, DoctorReport, FileFindings, Inspection, LengthStats, Shown, Tokenizer,
    Unit,
};

use crate::{
    Error, Result,
    args::{self, DataCheckArgs},
    error::as_flags,
    talk,
};

/// Rows that are shown as the model reads them.
const SHOWN: usize = 3;

/// Longest text that is shown, in characters; the middle of a longer one is left out.
const SHOWN_CHARS: usize = 600;

/// Rows named after a problem that many have; `--json` names all.
const NAMED: usize = 10;

pub(super) fn run(check: &DataCheckArgs) -> Result<()> {
    let model = match &check.model {
        Some(folder) => {
            let tokenizer = Tokenizer::from_folder(folder)?;
            let template = ChatTemplate::from_folder(folder, tokenizer.special_tokens())?;
            Some((tokenizer, template))
        }
        None => None,
    };
    let config = DataConfig {
        max_length: Some(check.max_length),
        columns: args::columns(&check.columns),
        train_on: check.train_on.into(),
        ..DataConfig::default()
    };
    let report = align_data::inspect(&Inspection {
        files: &check.files,
        eval_files: &check.eval_data,
        model: model.as_ref().map(|(tokenizer, template)| (tokenizer, template.as_ref())),
        config: &config,
        shown: SHOWN,
    })?;
    if check.json {
        let json = serde_json::to_string_pretty(&report);
        let json = json.map_err(|e| Error::data(format!("the findings cannot be written: {e}"), []))?;
        talk::data(&(json + "\n"))?;
    } else {
        talk::data(&text(&report))?;
    }
    verdict(&report)
}

/// Turns findings that would stop a training run into an error.
fn verdict(report: &DoctorReport) -> Result<()> {
    let troubles: Vec<_> = report.all_files().filter_map(|file| file.trouble.as_ref()).collect();
    match troubles.as_slice() {
        [] => {}
        [one] => return Err(Error::data(as_flags(&one.message), one.hint.as_deref().map(as_flags))),
        several => {
            let lines = several.iter().map(|trouble| format!("\n  {}", as_flags(&trouble.message)));
            let all = report.all_files().count();
            let message =
                format!("{} of {all} files cannot be used{}", several.len(), lines.collect::<String>());
            return Err(Error::data(message, ["what is above says what each of them lacks".to_owned()]));
        }
    }
    let sum = |count: fn(&FileFindings) -> usize| report.all_files().map(count).sum::<usize>();
    match (sum(|file| file.report.bad_count), sum(|file| file.report.rows)) {
        (0, _) => Ok(()),
        (bad, rows) => Err(Error::data(
            format!("{bad} of {rows} rows cannot be used"),
            ["correct them; training commands can leave them out".to_owned()],
        )),
    }
}

fn text(report: &DoctorReport) -> String {
    let mut lines = Vec::new();
    for file in report.all_files() {
        about(file, report.unit, &mut lines);
        lines.push(String::new());
    }
    if let Some(overlap) = &report.overlap {
        let name = |what: &str, repeats: &[align_data::Repeat]| {
            let named = named(repeats.iter().map(|r| format!("{} is {}", r.row, r.of)));
            format!("{}: {what}{named}", repeats.len())
        };
        lines.push(name("rows to evaluate on that are trained on", &overlap.rows));
        lines.push(name("rows to evaluate on whose prompt is trained on", &overlap.prompts));
        lines.push(String::new());
    }
    lines.pop();
    lines.join("\n") + "\n"
}

fn about(file: &FileFindings, unit: Unit, lines: &mut Vec<String>) {
    let report = &file.report;
    let path = file.path.display();
    match report.files.first() {
        None => lines.push(format!("{path}: cannot be used")),
        Some(found) => {
            let form = if found.conversational { "messages" } else { "plain text" };
            lines.push(format!("{path}: {}, {form}", found.format.describe()));
        }
    }
    if let Some(trouble) = &file.trouble {
        lines.push(as_flags(&trouble.message));
        lines.extend(trouble.hint.as_deref().map(as_flags));
    } else if let Some(serves) = &file.serves {
        lines.push(format!("for: {serves}"));
    }
    if report.rows > 0 {
        lines.push(format!("rows: {} read, {} good, {} bad", report.rows, report.kept, report.bad_count));
    }
    if report.kept > 0 {
        lengths(file, unit, lines);
        counts(file, lines);
        problems(file, lines);
    }
    lines.extend(report.notices.iter().cloned());
    lines.extend(report.bad.iter().map(|bad| format!("bad: {}", as_flags(&bad.to_string()))));
    if report.bad_count > report.bad.len() {
        lines.push(format!("and {} more bad rows", report.bad_count - report.bad.len()));
    }
    file.examples.iter().for_each(|row| example(row, lines));
}

fn lengths(file: &FileFindings, unit: Unit, lines: &mut Vec<String>) {
    let lengths = &file.report.lengths;
    let parts = [
        ("prompt", lengths.prompt),
        ("answer", lengths.completion),
        ("prompt and longest answer", lengths.total),
    ];
    for (name, LengthStats { count, min, median, mean, p95, max }) in parts {
        if count > 0 {
            lines.push(format!(
                "{name}, {unit}: least {min}, median {median}, mean {mean:.1}, 95 % {p95}, most {max}"
            ));
        }
    }
    let most = file.histogram.iter().map(|bin| bin.rows).max().unwrap_or(1).max(1);
    for bin in &file.histogram {
        let bar = "#".repeat((bin.rows * 40).div_ceil(most));
        lines.push(format!("  {:>7} to {:>7} {:>8} {bar}", bin.from, bin.below - 1, bin.rows));
    }
    if let Some(cuts) = &file.cuts
        && let Some(limit) = cuts.max_length
    {
        lines.push(format!(
            "--max-length {limit} cuts {} rows by {} tokens together and drops {} of which nothing to train on is left",
            cuts.cut, cuts.tokens, cuts.dropped
        ));
    }
}

fn counts(file: &FileFindings, lines: &mut Vec<String>) {
    if let Some(labels) = &file.labels {
        let all = labels.good + labels.bad;
        let share = 100.0 * labels.good as f64 / all.max(1) as f64;
        lines.push(format!("labels: {} up, {} down ({share:.0} % up)", labels.good, labels.bad));
    }
    if let Some(scores) = &file.scores {
        lines.push(format!("scores: {} to {}, mean {:.3}", scores.min, scores.max, scores.mean));
    }
}

fn problems(file: &FileFindings, lines: &mut Vec<String>) {
    let report = &file.report;
    for (what, Counted { count, example }) in [
        ("answers that begin inside the prompt's last token", &report.merged_boundary),
        ("answers without an end-of-sequence token", &report.without_eos),
    ] {
        if let (1.., Some(example)) = (count, example) {
            lines.push(format!("{count}: {what}, first: {example}"));
        }
    }
    for (what, rows) in [
        ("rows whose answers are all the same", &file.identical_answers),
        ("rankings whose answers all have the same rank", &file.all_tied),
    ] {
        if !rows.is_empty() {
            let places = rows.iter().map(|row| format!("{}:{row}", file.path.display()));
            lines.push(format!("{}: {what}{}", rows.len(), named(places)));
        }
    }
    if !file.duplicates.is_empty() {
        let places = file.duplicates.iter().map(|repeat| format!("{} is {}", repeat.row, repeat.of));
        lines.push(format!("{}: rows that were there before{}", file.duplicates.len(), named(places)));
    }
    if !report.ignored_columns.is_empty() {
        lines.push(format!("columns that training does not read: {}", report.ignored_columns.join(", ")));
    }
}

/// Lists the first places, and says how many more there are.
fn named(mut places: impl ExactSizeIterator<Item = String>) -> String {
    let first: Vec<_> = places.by_ref().take(NAMED).collect();
    match (first.is_empty(), places.len()) {
        (true, _) => String::new(),
        (false, 0) => format!(": {}", first.join(", ")),
        (false, more) => format!(": {} and {more} more", first.join(", ")),
    }
}

/// Shows a row as the model reads it, the trained tokens between » and «.
fn example(row: &Shown, lines: &mut Vec<String>) {
    lines.push(format!("\n{}\n{}", row.row, shorten(&row.prompt)));
    for answer in &row.answers {
        let marked = answer.iter().map(|span| {
            let text = shorten(&span.text);
            if span.trained { format!("»{text}«") } else { text }
        });
        lines.push(format!("  {}", marked.collect::<String>()));
    }
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
