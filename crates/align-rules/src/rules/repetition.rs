//! Repeated n-grams.

use std::{collections::HashSet, hash::Hash};

use align_types::RewardItem;

use super::Rule;
use crate::{Error, Result};

/// Longest n-gram: longer ones say nothing about repetition, and take long to compare.
const LONGEST: usize = 100;

/// What is counted: sequences of `n` words, or of `n` characters.
///
/// Written `N` or `N,characters`. A word is a run of anything but white space, in lower case; characters (in lower case,
/// white space included) are for languages that write no spaces between words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grams {
    n: usize,
    characters: bool,
}

impl Default for Grams {
    /// Three words.
    fn default() -> Self {
        Self { n: 3, characters: false }
    }
}

impl Grams {
    /// Reads what is to be counted.
    ///
    /// # Errors
    /// [`Error::Argument`] for no number from 1 to 100, or another unit.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::Argument {
            rule: "rule:repetition".into(),
            why: format!("`{text}`: expected N or N,characters, with N from 1 to {LONGEST}"),
        };
        let (n, unit) = text.split_once(',').unwrap_or((text, "words"));
        let n = n.trim().parse().ok().filter(|n| (1..=LONGEST).contains(n)).ok_or_else(wrong)?;
        match unit.trim() {
            "words" => Ok(Self { n, characters: false }),
            "characters" => Ok(Self { n, characters: true }),
            _ => Err(wrong()),
        }
    }

    /// Divides the number of different n-grams by the number of all; `None` for a text that has none.
    fn distinct(&self, text: &str) -> Option<f64> {
        let text = text.to_lowercase();
        if self.characters {
            share(&text.chars().collect::<Vec<_>>(), self.n)
        } else {
            share(&text.split_whitespace().collect::<Vec<_>>(), self.n)
        }
    }
}

fn share<T: Hash + Eq>(sequence: &[T], n: usize) -> Option<f64> {
    let all = (sequence.len() + 1).checked_sub(n).filter(|count| *count > 0)?;
    let different: HashSet<&[T]> = sequence.windows(n).collect();
    Some(different.len() as f64 / all as f64)
}

/// Minus the share of repeated n-grams: −(1 − D / G) for G n-grams of which D are different, from −1 to 0. A text too
/// short to have an n-gram repeats nothing and has 0.
///
/// The sign makes it a reward: without repetition it is at its best.
#[derive(Debug, Clone, Copy, Default)]
pub struct Repetition(
    /// What is counted.
    pub Grams,
);

impl Rule for Repetition {
    fn score(&self, item: &RewardItem<'_>) -> std::result::Result<Option<f64>, String> {
        Ok(Some(self.0.distinct(item.completion).map_or(0.0, |distinct| distinct - 1.0)))
    }
}

/// Distinct-n (1510.03055) of one completion: D / G for G n-grams of which D are different, above 0 and at
/// most 1. It abstains for a text too short to have an n-gram.
#[derive(Debug, Clone, Copy, Default)]
pub struct Distinct(
    /// What is counted.
    pub Grams,
);

impl Rule for Distinct {
    fn score(&self, item: &RewardItem<'_>) -> std::result::Result<Option<f64>, String> {
        Ok(self.0.distinct(item.completion))
    }
}
