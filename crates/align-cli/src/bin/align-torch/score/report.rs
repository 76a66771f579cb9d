//! How far rewards can be trusted: what they say of answers of which is known which is better.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use align_cli::{Error, Result};
use align_core::{
    align_types::PromptGroup,
    evaluation::{PairAgreement, PairMargin, Prompts},
};
use align_rm::{Calibration, CalibrationPair, Probabilities, fit_temperature};
use serde::Serialize;
use serde_json::Value;

use crate::{
    failure,
    reward::order_of_pair,
    table::{Table, number},
};

/// The seed of the intervals.
const SEED: u64 = 0;

/// Subsets that are shown in a table; a file has all.
const SHOWN: usize = 20;

/// What the answers of a row are known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Known {
    /// A chosen and a rejected answer.
    Pairs,
    /// Answers with ranks: every two of different rank are compared.
    Rankings,
    /// Thumbs: a reward above 0 calls an answer good. Length is counted from the mean of all answers.
    Labels,
}

impl Known {
    /// Says what is known of a row.
    pub fn of(row: &PromptGroup) -> Option<Self> {
        let answers = &row.completions;
        match () {
            () if answers.iter().map(|answer| answer.name.as_str()).eq(["chosen", "rejected"]) => {
                Some(Self::Pairs)
            }
            () if answers.len() > 1 && answers.iter().all(|answer| answer.rank.is_some()) => {
                Some(Self::Rankings)
            }
            () if !answers.is_empty() && answers.iter().all(|answer| answer.label.is_some()) => {
                Some(Self::Labels)
            }
            () => None,
        }
    }
}

/// Comparisons of answers, collected row by row.
#[derive(Debug)]
pub struct Comparisons {
    known: Option<Known>,
    list: Vec<PairMargin>,
    /// The digest of each row's prompt.
    prompts: Vec<u64>,
    /// Two answers of equal rank, which are not compared.
    equal_ranks: usize,
    subsets: Vec<Subsets>,
}

/// The values of one column.
#[derive(Debug)]
struct Subsets {
    column: String,
    names: HashMap<String, usize>,
    /// The value of each row.
    of_rows: Vec<usize>,
    found: bool,
}

impl Comparisons {
    /// Begins, with columns whose values make subsets.
    pub fn new(columns: &[String]) -> Self {
        let subsets = |column: &String| Subsets {
            column: column.clone(),
            names: HashMap::new(),
            of_rows: Vec::new(),
            found: false,
        };
        let subsets = columns.iter().map(subsets).collect();
        Self { known: None, list: Vec::new(), prompts: Vec::new(), equal_ranks: 0, subsets }
    }

    /// Takes a row with the rewards of its answers.
    ///
    /// # Errors
    /// [`Error::Data`] with a row whose answers cannot be compared, or are not of the first row's kind.
    pub fn take(&mut self, row: &PromptGroup, rewards: &[f64]) -> Result<()> {
        let known = Known::of(row).ok_or_else(|| unknown(row))?;
        if *self.known.get_or_insert(known) != known {
            return Err(unknown(row));
        }
        let length =
            |answer: usize| row.completions.get(answer).map_or(0.0, |answer| answer.token_ids.len() as f64);
        let reward = |answer: usize| rewards.get(answer).copied().unwrap_or(f64::NAN);
        let index = self.prompts.len();
        let mut add = |better: usize, worse: usize| {
            let (margin, difference) = (reward(better) - reward(worse), length(better) - length(worse));
            self.list.push(PairMargin { row: index, margin, difference });
        };
        match known {
            Known::Pairs | Known::Rankings => {
                let ranks = match known {
                    Known::Pairs => order_of_pair(row).map(Some).to_vec(),
                    _ => row.completions.iter().map(|answer| answer.rank).collect(),
                };
                for (first, a) in ranks.iter().enumerate() {
                    for (second, b) in ranks.iter().enumerate().skip(first + 1) {
                        match a.cmp(b) {
                            std::cmp::Ordering::Less => add(first, second),
                            std::cmp::Ordering::Greater => add(second, first),
                            std::cmp::Ordering::Equal => self.equal_ranks += 1,
                        }
                    }
                }
            }
            Known::Labels => {
                for (index_of, answer) in row.completions.iter().enumerate() {
                    let sign = if answer.label == Some(true) { 1.0 } else { -1.0 };
                    let (margin, difference) = (sign * reward(index_of), sign * length(index_of));
                    self.list.push(PairMargin { row: index, margin, difference });
                }
            }
        }
        let mut hasher = DefaultHasher::new();
        match row.prompt.len() {
            // Texts without a prompt of their own have none in common.
            0 | 1 => index.hash(&mut hasher),
            _ => row.prompt.hash(&mut hasher),
        }
        self.prompts.push(hasher.finish());
        self.subsets.iter_mut().for_each(|subsets| subsets.take(row));
        Ok(())
    }

    /// Makes the report.
    ///
    /// # Errors
    /// [`Error::Data`] where there is nothing to compare, or no row has a column that is asked for.
    pub fn report(mut self) -> Result<Report> {
        if self.known == Some(Known::Labels) {
            self.center_lengths();
        }
        let prompts = numbered(&self.prompts);
        let missing = self.subsets.iter().find(|subsets| !subsets.found && !subsets.of_rows.is_empty());
        if let Some(Subsets { column, .. }) = missing {
            return Err(Error::data(
                format!("--subset-column {column}: no row has this column"),
                ["columns that a format is made of, such as prompt, make no subsets".to_owned()],
            ));
        }
        if self.list.is_empty() {
            return Err(Error::data(
                format!(
                    "there is nothing to compare: {} pairs of answers have equal ranks",
                    self.equal_ranks
                ),
                ["rows with ranks that differ are needed".to_owned()],
            ));
        }
        let found = measured(&self.list, &prompts, None)?;
        let temperature = Temperature::of(&self.list, &prompts)?;
        let subsets = self
            .subsets
            .iter()
            .map(|subsets| Ok((subsets.column.clone(), subsets.agreements(&self.list, &prompts)?)));
        Ok(Report {
            kind: self.known,
            rows: self.prompts.len(),
            prompts: prompts.count,
            comparisons: self.list.len(),
            equal_ranks: self.equal_ranks,
            agreement: found.agreement,
            probabilities: found.raw,
            temperature,
            subsets: subsets.collect::<Result<_>>()?,
        })
    }

    /// Of single answers only the length beside that of others says something.
    fn center_lengths(&mut self) {
        let lengths: f64 = self.list.iter().map(|pair| pair.difference.abs()).sum();
        let mean = lengths / self.list.len().max(1) as f64;
        for pair in &mut self.list {
            // The sign is that of the label.
            pair.difference -= mean.copysign(pair.difference);
        }
    }
}

/// What is said of a row of which it is not known which answer is better.
pub fn unknown(row: &PromptGroup) -> Error {
    Error::data(
        format!("{}: it is not known which answer of this row is better", row.describe(0)),
        ["a report is made of pairs, of rankings or of labels; leave --report out to score other rows"
            .to_owned()],
    )
}

impl Subsets {
    fn take(&mut self, row: &PromptGroup) {
        let value = match row.columns.get(&self.column) {
            None | Some(Value::Null) => "(none)".to_owned(),
            Some(value) => {
                self.found = true;
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            }
        };
        let next = self.names.len();
        self.of_rows.push(*self.names.entry(value).or_insert(next));
    }

    fn agreements(&self, all: &[PairMargin], prompts: &Prompts) -> Result<BTreeMap<String, Subset>> {
        let mut lists: Vec<Vec<PairMargin>> = vec![Vec::new(); self.names.len()];
        for pair in all {
            let subset = self.of_rows.get(pair.row).and_then(|subset| lists.get_mut(*subset));
            subset.into_iter().for_each(|list| list.push(*pair));
        }
        let subset = |(name, index): (&String, &usize)| {
            let list = lists.get(*index).map(Vec::as_slice).unwrap_or_default();
            if list.is_empty() {
                return Ok(None);
            }
            let agreement = PairAgreement::of(list, prompts, SEED).map_err(failure::of)?;
            Ok(Some((name.clone(), Subset { comparisons: list.len(), agreement })))
        };
        self.names.iter().filter_map(|entry| Result::transpose(subset(entry))).collect()
    }
}

/// Measures comparisons; a temperature must come from others.
fn measured(list: &[PairMargin], prompts: &Prompts, temperature: Option<f64>) -> Result<Calibration> {
    let pair = |pair: &PairMargin| CalibrationPair {
        chosen: pair.margin,
        rejected: 0.0,
        chosen_length: pair.difference,
        rejected_length: 0.0,
        subset: None,
    };
    let pairs: Vec<CalibrationPair> = list.iter().map(pair).collect();
    let of_row = |pair: &PairMargin| prompts.of_rows.get(pair.row).copied().unwrap_or(usize::MAX);
    let prompts = Prompts { of_rows: list.iter().map(of_row).collect(), count: prompts.count };
    Calibration::of(&pairs, &prompts, temperature, SEED).map_err(failure::of)
}

/// The temperature that makes σ(difference / temperature) a probability.
///
/// It is fitted on the prompts of even number, and what it gives is measured on the others.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Temperature {
    /// It is known.
    Fitted {
        /// Comparisons that it was fitted on.
        fitted_on: usize,
        /// Comparisons that it was measured on.
        measured_on: usize,
        /// The figures of those, temperature included.
        #[serde(flatten)]
        scaled: Box<Probabilities>,
    },
    /// It cannot be fitted.
    Unknown {
        /// Why.
        unknown: String,
    },
}

impl Temperature {
    fn of(list: &[PairMargin], prompts: &Prompts) -> Result<Self> {
        let is_even =
            |pair: &&PairMargin| prompts.of_rows.get(pair.row).is_some_and(|prompt| prompt % 2 == 0);
        let (even, odd): (Vec<&PairMargin>, Vec<&PairMargin>) = list.iter().partition(is_even);
        if odd.is_empty() {
            return Ok(Self::Unknown { unknown: "there is one prompt alone".to_owned() });
        }
        let margins: Vec<f64> = even.iter().map(|pair| pair.margin).collect();
        let temperature = match fit_temperature(&margins) {
            Ok(temperature) => temperature,
            Err(error) => return Ok(Self::Unknown { unknown: error.to_string() }),
        };
        let odd: Vec<PairMargin> = odd.into_iter().copied().collect();
        let found = measured(&odd, prompts, Some(temperature))?;
        Ok(Self::Fitted {
            fitted_on: even.len(),
            measured_on: odd.len(),
            scaled: Box::new(found.scaled.unwrap_or(found.raw)),
        })
    }
}

/// What is known of one subset.
#[derive(Debug, Serialize)]
pub struct Subset {
    comparisons: usize,
    #[serde(flatten)]
    agreement: PairAgreement,
}

/// How often rewards are right, and how much of that is length.
#[derive(Debug, Serialize)]
pub struct Report {
    kind: Option<Known>,
    rows: usize,
    prompts: usize,
    comparisons: usize,
    equal_ranks: usize,
    #[serde(flatten)]
    agreement: PairAgreement,
    /// Of σ(difference of rewards).
    probabilities: Probabilities,
    temperature: Temperature,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    subsets: BTreeMap<String, BTreeMap<String, Subset>>,
}

impl Report {
    /// Shows the report.
    pub fn show(&self, table: &mut Table) {
        let Self { rows, prompts, comparisons, .. } = self;
        let equal = match self.equal_ranks {
            0 => String::new(),
            equal => format!("; {equal} of equal rank are not compared"),
        };
        let what = if self.kind == Some(Known::Labels) { "labels" } else { "comparisons" };
        table.title(&format!("{comparisons} {what} in {rows} rows of {prompts} prompts{equal}"));
        table.pairs(&self.agreement);
        show_probabilities(table, "sigmoid(difference)", &self.probabilities);
        match &self.temperature {
            Temperature::Fitted { fitted_on, measured_on, scaled } => {
                let title = format!(
                    "sigmoid(difference / {}), the temperature fitted on {fitted_on} comparisons, measured on the other \
                     {measured_on}",
                    number(scaled.temperature)
                );
                show_probabilities(table, &title, scaled);
            }
            Temperature::Unknown { unknown } => table.title(&format!("no temperature: {unknown}")),
        }
        for (column, subsets) in &self.subsets {
            let mut list: Vec<_> = subsets.iter().collect();
            list.sort_by_key(|(_, subset)| std::cmp::Reverse(subset.comparisons));
            let more = list.len().saturating_sub(SHOWN);
            let more = if more > 0 {
                format!(" (the {SHOWN} largest; {more} more in the file)")
            } else {
                String::new()
            };
            table.title(&format!("accuracy by {column}{more}"));
            for (name, Subset { comparisons, agreement }) in list.into_iter().take(SHOWN) {
                let longer = number(agreement.chosen_longer.mean);
                let note = format!("{comparisons} comparisons; chosen is longer {longer}");
                table.line(name, &agreement.accuracy, &note);
            }
        }
    }
}

fn show_probabilities(table: &mut Table, what: &str, found: &Probabilities) {
    table.title(&format!("{what} as the probability of being right"));
    table.line("calibration error (ECE)", &found.calibration_error, "");
    table.line("Brier score", &found.brier, "0.25: a coin");
    table.line("negative log-likelihood", &found.nll, "0.6931: a coin");
}

/// Numbers prompts by their digests.
fn numbered(digests: &[u64]) -> Prompts {
    let mut known = HashMap::new();
    let mut of_rows = Vec::with_capacity(digests.len());
    for digest in digests {
        let next = known.len();
        of_rows.push(*known.entry(*digest).or_insert(next));
    }
    Prompts { of_rows, count: known.len() }
}

#[cfg(test)]
mod tests {
    use align_core::align_types::Completion;

    use super::*;

    fn row(prompt: u32, answers: Vec<Completion>) -> PromptGroup {
        PromptGroup::new(vec![0, prompt], answers)
    }

    fn answer(length: usize) -> Completion {
        Completion::new(vec![1; length])
    }

    /// Ranks 1, 2, 2 with rewards 3, 1, 4: the best answer is above the second and below the third, and these two are
    /// not compared. Lengths 2, 5, 1: the better answer is once shorter and once longer.
    #[test]
    fn rankings_are_all_their_comparisons_but_ties() {
        let ranked = |length, rank| Completion { rank: Some(rank), ..answer(length) };
        let mut comparisons = Comparisons::new(&[]);
        comparisons.take(&row(1, vec![ranked(2, 1), ranked(5, 2), ranked(1, 2)]), &[3.0, 1.0, 4.0]).unwrap();
        let pairs: Vec<_> = comparisons.list.iter().map(|pair| (pair.margin, pair.difference)).collect();
        assert_eq!(pairs, [(2.0, -3.0), (-1.0, 1.0)]);
        let report = comparisons.report().unwrap();
        assert_eq!((report.agreement.accuracy.mean, report.equal_ranks, report.comparisons), (0.5, 1, 2));
    }

    /// Three pairs whose chosen answers have the higher reward by 1: one without the column `preference`, one that it turns
    /// about, and one of which it says that neither is better.
    #[test]
    fn a_preference_says_which_answer_of_a_pair_is_better() {
        let named = |name: &str| Completion { name: name.into(), ..answer(1) };
        let mut comparisons = Comparisons::new(&[]);
        for preference in [None, Some(0.1), Some(0.5)] {
            let mut pair = row(1, vec![named("chosen"), named("rejected")]);
            pair.columns.extend(preference.map(|p| ("preference".to_owned(), p.into())));
            comparisons.take(&pair, &[2.0, 1.0]).unwrap();
        }
        assert_eq!(comparisons.list.iter().map(|pair| pair.margin).collect::<Vec<_>>(), [1.0, -1.0]);
        assert_eq!(comparisons.report().unwrap().equal_ranks, 1);
    }

    /// Good answers of 6 and 2 tokens with rewards 1 and -1, a bad one of 1 token with reward -2: two of three are
    /// right. The mean length is 3: the first is longer and good, the second shorter and good, the third shorter and bad.
    #[test]
    fn labels_are_right_by_the_sign_and_length_is_counted_from_the_mean() {
        let labelled = |length, good| vec![Completion { label: Some(good), ..answer(length) }];
        let mut comparisons = Comparisons::new(&[]);
        for (length, good, reward) in [(6, true, 1.0), (2, true, -1.0), (1, false, -2.0)] {
            comparisons.take(&row(length as u32, labelled(length, good)), &[reward]).unwrap();
        }
        let report = comparisons.report().unwrap();
        assert!((report.agreement.accuracy.mean - 2.0 / 3.0).abs() < 1e-12);
        assert!((report.agreement.chosen_longer.mean - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn subsets_are_the_values_of_a_column() {
        let mut comparisons = Comparisons::new(&["source".to_owned()]);
        for (value, margin) in [(Some("a"), 1.0), (Some("a"), -1.0), (Some("b"), 1.0), (None, 1.0)] {
            let pair = vec![Completion::named("chosen", vec![1]), Completion::named("rejected", vec![2])];
            let mut row = row(7, pair);
            row.columns.extend(value.map(|value| ("source".to_owned(), value.into())));
            comparisons.take(&row, &[margin, 0.0]).unwrap();
        }
        let report = comparisons.report().unwrap();
        let found: Vec<_> = report.subsets["source"]
            .iter()
            .map(|(name, subset)| (name.as_str(), subset.comparisons, subset.agreement.accuracy.mean))
            .collect();
        assert_eq!(found, [("(none)", 1, 1.0), ("a", 2, 0.5), ("b", 1, 1.0)]);
        let mut comparisons = Comparisons::new(&["nothing".to_owned()]);
        comparisons.take(&row(1, vec![Completion { label: Some(true), ..answer(1) }]), &[1.0]).unwrap();
        assert!(comparisons.report().unwrap_err().to_string().contains("--subset-column nothing"));
    }

    #[test]
    fn rows_without_a_better_answer_are_refused() {
        let scored = Completion { reward: Some(1.0), ..answer(1) };
        let error = Comparisons::new(&[]).take(&row(1, vec![scored]), &[0.0]).unwrap_err().to_string();
        assert!(error.contains("not known which answer"), "{error}");
        let tied = |rank| Completion { rank: Some(rank), ..answer(1) };
        let mut ties = Comparisons::new(&[]);
        ties.take(&row(1, vec![tied(1), tied(1)]), &[0.0, 1.0]).unwrap();
        assert!(ties.report().unwrap_err().to_string().contains("nothing to compare"));
    }
}
