//! Where the final answer of a text stands.

use regex::Regex;

use super::number::Number;
use crate::{Error, Result};

/// The final answer of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<'a> {
    /// What a mark holds.
    Marked(&'a str),
    /// There is no mark; the text, or what `<answer>` holds of it.
    Whole(&'a str),
    /// A mark is opened and never closed: the end of the text is lost.
    Cut,
}

impl<'a> Answer<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        let text = in_tag(text);
        let boxed =
            ["\\boxed", "\\fbox"].iter().filter_map(|mark| Some((text.rfind(mark)?, mark.len()))).max();
        let hashes = text.rfind("####");
        match (boxed, hashes) {
            (None, None) => Self::Whole(text),
            (Some((at, length)), hashes) if hashes.is_none_or(|hashes| hashes < at) => {
                let inside = text.get(at + length..).unwrap_or_default().trim_start();
                match inside.strip_prefix('{') {
                    Some(inside) => braced(inside).map_or(Self::Cut, Self::Marked),
                    None => Self::Marked(inside.split([' ', '\n', '\t', '$']).next().unwrap_or_default()),
                }
            }
            (_, hashes) => {
                let behind = hashes.and_then(|at| text.get(at..)).unwrap_or_default();
                Self::Marked(behind.trim_start_matches('#').lines().next().unwrap_or_default())
            }
        }
    }
}

/// Narrows a text to what its last `<answer>` holds.
fn in_tag(text: &str) -> &str {
    let inside = text.rfind("</answer>").and_then(|end| text.get(..end)).and_then(|before| {
        let begin = before.rfind("<answer>")? + "<answer>".len();
        before.get(begin..)
    });
    inside.unwrap_or(text)
}

/// Returns the text up to the brace that closes the one before it.
fn braced(text: &str) -> Option<&str> {
    let (mut depth, mut escaped) = (0_usize, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' if depth == 0 => return text.get(..at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Codes of currencies that are written right before their number.
const CURRENCIES: [&str; 11] = ["USD", "EUR", "GBP", "CNY", "RMB", "JPY", "INR", "CAD", "AUD", "CHF", "Rs"];

/// Commands of LaTeX behind which a value begins, so that a minus behind them is a sign.
const OPERATORS: [&str; 20] = [
    "approx",
    "le",
    "leq",
    "lt",
    "ge",
    "geq",
    "gt",
    "ne",
    "neq",
    "equiv",
    "sim",
    "simeq",
    "cong",
    "times",
    "cdot",
    "div",
    "to",
    "rightarrow",
    "Rightarrow",
    "implies",
];

/// Splits the ASCII letters off that a text ends with.
fn last_letters(text: &str) -> (&str, &str) {
    let rest = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    (rest, text.get(rest.len()..).unwrap_or_default())
}

/// Says whether digits behind a text belong to a word of it, as in `x2`. Other scripts write digits right behind their
/// letters, as LaTeX does behind its commands (`\le5`), and people behind the code of a currency (`USD18`).
fn ends_in_word(text: &str) -> bool {
    let (rest, letters) = last_letters(text);
    !letters.is_empty() && !rest.ends_with('\\') && !CURRENCIES.contains(&letters)
}

/// Says whether what follows a text is a power or an index of it. A `_` behind nothing is the emphasis of Markdown.
fn is_raised(text: &str) -> bool {
    let text = text.strip_suffix('{').unwrap_or(text);
    let base = text.trim_end_matches('_');
    let index = base.len() < text.len() && base.ends_with(|c: char| c.is_alphanumeric() || ")]}".contains(c));
    text.ends_with('^') || index
}

/// Says whether a text ends with something that can be subtracted from.
fn ends_in_value(text: &str) -> bool {
    let (rest, letters) = last_letters(text);
    if rest.ends_with('\\') && OPERATORS.contains(&letters) {
        return false;
    }
    // Letters without case are those of scripts that set no space before a number.
    text.ends_with(|c: char| c.is_numeric() || c.is_lowercase() || c.is_uppercase() || ")]}%".contains(c))
}

/// Finds numbers in running text.
#[derive(Debug, Clone)]
pub(super) struct Numbers(Regex);

impl Numbers {
    pub(super) fn new() -> Result<Self> {
        let integer = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)";
        let latex = r"\\[dtc]?frac ?(?:\{-?[0-9]+\}|[0-9]) ?(?:\{[0-9]+\}|[0-9])";
        let text = format!(
            r"(?:(?:[0-9]+ ?)?{latex}|[0-9]+ [0-9]+/[0-9]+|{integer}/[0-9]+|{integer}(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+)(?: ?\\?%| per ?cent|(?: (?i:hundred|thousand|million|billion|trillion|dozen)s?\b)+)?"
        );
        let wrong =
            |error: regex::Error| Error::Argument { rule: "rule:math-answer".into(), why: error.to_string() };
        Regex::new(&text).map(Self).map_err(wrong)
    }

    /// Reads the last number of a text. Digits that belong to a word or are an exponent are none; a minus is a sign unless
    /// something stands before it that can be subtracted from.
    pub(super) fn last(&self, text: &str) -> Option<Number> {
        let before = |at: usize| text.get(..at).unwrap_or_default();
        let found = self.0.find_iter(text).filter(|found| {
            let before = before(found.start());
            let version = found.as_str().starts_with('.') && before.ends_with(|c: char| c.is_ascii_digit());
            !(ends_in_word(before) || is_raised(before) || version)
        });
        let last = found.last()?;
        let before = before(last.start());
        let code = CURRENCIES.iter().find_map(|code| before.strip_suffix(code));
        let before = code.unwrap_or(before).trim_end_matches(['$', '\\', '€', '£', '¥']);
        let number = Number::parse(&super::clean(last.as_str()))?;
        let minus = before.strip_suffix(['-', '−']).is_some_and(|rest| !ends_in_value(rest));
        if minus { number.negated() } else { Some(number) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_where_they_close() {
        for (text, expected) in [
            ("so \\boxed{\\frac{1}{2}} it is", Answer::Marked("\\frac{1}{2}")),
            ("\\boxed{1} no, \\boxed{\\{2\\}}", Answer::Marked("\\{2\\}")),
            ("\\fbox {7}", Answer::Marked("7")),
            ("$\\boxed 5$.", Answer::Marked("5")),
            ("\\boxed{\\boxed{3}}", Answer::Marked("3")),
            ("\\boxed{12", Answer::Cut),
            ("\\boxed{", Answer::Cut),
            ("a\n#### 12 eggs\nmore", Answer::Marked(" 12 eggs")),
            ("#### 1\n#### 2", Answer::Marked(" 2")),
            ("####", Answer::Marked("")),
            ("\\boxed{1}\n#### 2", Answer::Marked(" 2")),
            ("#### 2\n\\boxed{1}", Answer::Marked("1")),
            ("<answer>3</answer> <answer> 4 </answer> 5", Answer::Whole(" 4 ")),
            ("</answer> 5 <answer>", Answer::Whole("</answer> 5 <answer>")),
            ("<answer>\\boxed{6}</answer> 7", Answer::Marked("6")),
            ("", Answer::Whole("")),
        ] {
            assert_eq!(Answer::of(text), expected, "{text}");
        }
    }

    #[test]
    fn the_last_number_is_that_of_a_reader() {
        let numbers = Numbers::new().unwrap();
        for (text, expected) in [
            ("It is 18.", "18"),
            ("16-3=13", "13"),
            ("16 - 3", "3"),
            ("x = -3", "-3"),
            ("(−3)", "-3"),
            ("5-3", "3"),
            ("2.50 dollars", "5/2"),
            ("1, 2, 3", "3"),
            ("1,234,567 people", "1234567"),
            ("a loss of -$3", "-3"),
            ("\\text{18}", "18"),
            ("in \\mathbf{x}, 1.2.3", "1.2"),
            ("that is $\\frac{3}{4}$ of it", "3/4"),
            ("$1 \\frac34$", "7/4"),
            ("2 1/2 cups", "5/2"),
            ("3/4 of H2O", "3/4"),
            ("18 cm^2", "18"),
            ("18 cm^{2}.", "18"),
            ("50% of them", "50%"),
            ("50 \\% of them", "50%"),
            ("6e2", "600"),
            ("version v2", ""),
            ("7 or x2", "7"),
            ("7 or x_2, x_{2}, f(x)_2, x^2", "7"),
            ("7, 答案是18。", "18"),
            ("7, 答案是-18。", "-18"),
            ("7, ответ18", "18"),
            ("7, x\\approx18", "18"),
            ("7, x\\le-5", "-5"),
            ("7\\pi-5", "5"),
            ("2\\times10", "10"),
            ("7, USD18", "18"),
            ("7, -USD18", "-18"),
            ("7, _18_", "18"),
            ("7, __18__", "18"),
            ("about 5 million people", "5000000"),
            ("5 thousandths", "5"),
            ("3 hundred thousand.", "300000"),
            ("none", ""),
            ("½", ""),
        ] {
            let expected = Number::parse(&super::super::clean(expected));
            assert_eq!(numbers.last(text), expected, "{text}");
        }
    }

    /// Two passes over a text, not one for each of its characters.
    #[test]
    fn huge_texts_take_linear_time() {
        let numbers = Numbers::new().unwrap();
        for unit in [
            "1", "1 ", "1,", "1/", "\\frac{1", "\\boxed{", "{", "-", ".", "1.", "\\frac1", "%", "1e", ",111",
            "a", "_", "a1", "_1", "1 dozen ",
        ] {
            let text = unit.repeat(300_000);
            let begin = std::time::Instant::now();
            let _ = numbers.last(&text);
            let _ = Answer::of(&text);
            assert!(begin.elapsed().as_secs() < 20, "{unit}: {:?}", begin.elapsed());
        }
    }
}
