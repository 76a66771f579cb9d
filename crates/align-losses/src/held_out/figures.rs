//! What of a row is averaged, under the names of the training metrics.

use align_core::evaluation::{PairMargin, RowValues};

use super::{Feedback, HeldOutMethod, Losses, Pair, Rows};

impl HeldOutMethod {
    /// β and the baseline of the implicit reward.
    fn scale(&self) -> (f64, f64) {
        match self {
            Self::Sft => (0.0, 0.0),
            Self::Dpo(config) => (config.beta, 0.0),
            Self::Kto { config, baseline } => (config.beta, *baseline),
            Self::Una(config) => (config.beta, 0.0),
        }
    }
}

/// Lists the values of all rows.
pub(super) fn values(kinds: &Rows, losses: &Losses, method: &HeldOutMethod) -> Vec<RowValues> {
    let mut list = of_losses(kinds, losses);
    list.extend(likelihood(&kinds.plain));
    list.extend(pairs(&kinds.pairs, method));
    list.extend(labels(&kinds.labelled, method));
    let (beta, _) = method.scale();
    list.push(each("rewards/scored", &kinds.scored, |one| beta * one.logps.ratio()));
    list.push(each("una/target", &kinds.scored, |one| one.target));
    let mut merged: Vec<RowValues> = Vec::new();
    for values in list.into_iter().filter(|values| !values.values.is_empty()) {
        // Pairs and labelled answers have numbers of one name, as in training.
        match merged.iter_mut().find(|known| known.name == values.name) {
            Some(known) => known.values.extend(values.values),
            None => merged.push(values),
        }
    }
    merged
}

/// The margin of a pair and its difference in length.
pub(super) fn margin(pair: &Pair, method: &HeldOutMethod) -> PairMargin {
    let (beta, _) = method.scale();
    PairMargin {
        row: pair.row,
        margin: beta * pair.chosen.ratio() - beta * pair.rejected.ratio(),
        difference: pair.chosen.tokens as f64 - pair.rejected.tokens as f64,
    }
}

fn each(name: &'static str, rows: &[Feedback], of: impl Fn(&Feedback) -> f64) -> RowValues {
    RowValues::new(name, rows.iter().map(|one| (one.row, of(one), 1.0)))
}

/// The losses: under one name, or one for each kind where rows are of several.
fn of_losses(kinds: &Rows, losses: &Losses) -> Vec<RowValues> {
    let kinds_there = [kinds.pairs.len(), kinds.labelled.len(), kinds.scored.len()];
    let several = kinds_there.iter().filter(|count| **count > 0).count() > 1;
    let name = |name| if several { name } else { "loss" };
    let pairs = kinds.pairs.iter().zip(&losses.pairs).map(|(pair, loss)| (pair.row, *loss, 1.0));
    let answers = |name, rows: &[Feedback], losses: &[f64]| {
        RowValues::new(name, rows.iter().zip(losses).map(|(one, loss)| (one.row, *loss, 1.0)))
    };
    vec![
        RowValues::new(name("loss/pairs"), pairs),
        answers(name("loss/binary"), &kinds.labelled, &losses.labelled),
        answers(name("loss/scored"), &kinds.scored, &losses.scored),
    ]
}

fn likelihood(rows: &[Feedback]) -> Vec<RowValues> {
    let tokens = |one: &Feedback| one.logps.tokens.max(1) as f64;
    let per_token = |name, sum: &dyn Fn(&Feedback) -> f64| {
        RowValues::new(name, rows.iter().map(|one| (one.row, sum(one) / tokens(one), tokens(one))))
    };
    let loss = per_token("loss", &|one| -one.logps.policy);
    let perplexity = RowValues { name: "perplexity", exponential: true, ..loss.clone() };
    let mut list = vec![loss, perplexity, each("logps/completion", rows, |one| one.logps.policy)];
    if rows.iter().all(|one| one.logps.reference.is_some()) {
        list.push(per_token("reference/loss", &|one| one.logps.ratio() - one.logps.policy));
        list.push(per_token("reference/difference", &|one| -one.logps.ratio()));
    }
    list
}

fn pairs(pairs: &[Pair], method: &HeldOutMethod) -> Vec<RowValues> {
    let (beta, _) = method.scale();
    let each = |name, of: &dyn Fn(&Pair) -> f64| {
        RowValues::new(name, pairs.iter().map(|pair| (pair.row, of(pair), 1.0)))
    };
    // Strict and of the two products, as training counts it.
    let right = |pair: &Pair| f64::from(u8::from(beta * pair.chosen.ratio() > beta * pair.rejected.ratio()));
    vec![
        each("rewards/chosen", &|pair| beta * pair.chosen.ratio()),
        each("rewards/rejected", &|pair| beta * pair.rejected.ratio()),
        each("rewards/margins", &|pair| margin(pair, method).margin),
        each("rewards/accuracies", &right),
        each("logps/chosen", &|pair| pair.chosen.policy),
        each("logps/rejected", &|pair| pair.rejected.policy),
    ]
}

fn labels(rows: &[Feedback], method: &HeldOutMethod) -> Vec<RowValues> {
    let (beta, baseline) = method.scale();
    let of = |name, label: f64, value: &dyn Fn(&Feedback) -> f64| {
        let class = rows.iter().filter(|one| one.target == label);
        RowValues::new(name, class.map(|one| (one.row, value(one), 1.0)))
    };
    let reward = |one: &Feedback| beta * one.logps.ratio();
    let right = |one: &Feedback| (one.logps.ratio() > baseline) == (one.target == 1.0);
    let mut list = vec![
        of("rewards/chosen", 1.0, &reward),
        of("rewards/rejected", 0.0, &reward),
        of("logps/chosen", 1.0, &|one| one.logps.policy),
        of("logps/rejected", 0.0, &|one| one.logps.policy),
        each("labels/accuracies", rows, |one| f64::from(u8::from(right(one)))),
    ];
    if let HeldOutMethod::Kto { .. } = method {
        list.push(each("kl", rows, |_| baseline));
    }
    list
}
