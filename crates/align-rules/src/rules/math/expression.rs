//! The dress of LaTeX and Markdown around answers.

use std::borrow::Cow;

use regex::Regex;

use crate::{Error, Result};

/// What means nothing, and what stands for something else.
const DRESS: [(&str, &str); 25] = [
    // The end of a line, before what else begins with a backslash.
    ("\\\\", "\u{1}"),
    ("\\!", ""),
    ("{,}", ","),
    ("\\,", ""),
    ("\\;", " "),
    ("\\:", " "),
    ("\\ ", " "),
    ("~", " "),
    ("\u{a0}", " "),
    ("\\$", ""),
    ("$", ""),
    ("**", ""),
    ("\\(", ""),
    ("\\)", ""),
    ("\\[", ""),
    ("\\]", ""),
    ("\\displaystyle", ""),
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("°", ""),
    ("\\%", "%"),
    ("−", "-"),
];

/// Commands whose argument is text.
const WRAPPERS: [&str; 8] = [
    "\\text{",
    "\\mbox{",
    "\\mathrm{",
    "\\textrm{",
    "\\textbf{",
    "\\mathbf{",
    "\\textit{",
    "\\operatorname{",
];

/// Takes off what says nothing about the value.
pub(super) fn clean(text: &str) -> String {
    // Thousands are written ",\! " in some places, with a space that is none.
    let mut text = without_spaces_behind(text, "\\!").into_owned();
    for (dress, value) in DRESS {
        if text.contains(dress) {
            text = text.replace(dress, value);
        }
    }
    without_marks(text.trim()).to_owned()
}

/// Takes the marks off that end a sentence. Behind a digit `!` is none of them: 5! is 120.
fn without_marks(text: &str) -> &str {
    let mut text = text.trim_end_matches(['.', ',', ';', ':']).trim_end();
    while text.ends_with('!') {
        let rest = text.trim_end_matches('!');
        if rest.ends_with(|c: char| c.is_ascii_digit()) {
            break;
        }
        text = rest.trim_end().trim_end_matches(['.', ',', ';', ':']).trim_end();
    }
    text
}

fn without_spaces_behind<'a>(text: &'a str, mark: &str) -> Cow<'a, str> {
    if !text.contains(mark) {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split(mark);
    let first = parts.next().unwrap_or_default().to_owned();
    Cow::Owned(parts.fold(first, |all, part| all + mark + part.trim_start()))
}

/// Brings answers that are no numbers into one form.
#[derive(Debug, Clone)]
pub(super) struct Expressions {
    bare_argument: Regex,
    bare_denominator: Regex,
    plain_fraction: Regex,
    latex_fraction: Regex,
}

impl Expressions {
    pub(super) fn new() -> Result<Self> {
        let regex = |text: &str| {
            let wrong = |error: regex::Error| Error::Argument {
                rule: "rule:math-answer".into(),
                why: error.to_string(),
            };
            Regex::new(text).map_err(wrong)
        };
        Ok(Self {
            bare_argument: regex(r"\\(frac|sqrt)([0-9])")?,
            bare_denominator: regex(r"(\\frac\{[^{}]*\})([0-9])")?,
            // Behind a letter, a power or another fraction the slash divides more than the digits before it.
            plain_fraction: regex(r"(^|[^0-9A-Za-z^_/.)])([0-9]+)/([0-9]+)")?,
            latex_fraction: regex(r"\\frac\{([0-9]+)\}\{([0-9]+)\}")?,
        })
    }

    /// Writes an answer without dress and white space, fractions and roots in one way, words in lower case.
    pub(super) fn normal(&self, text: &str) -> String {
        let text = unwrapped(&clean(text)).replace("\\left", "").replace("\\right", "");
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let text = without_name(&text);
        let text = self.bare_argument.replace_all(text, "\\$1{$2}");
        let text = self.bare_denominator.replace_all(&text, "$1{$2}");
        // In parentheses, or the 2 of 2\frac{1}{3} would become a digit of the numerator.
        let text = self.plain_fraction.replace_all(&text, "$1($2/$3)");
        let text = self.latex_fraction.replace_all(&text, "($1/$2)");
        let letter = text.strip_prefix('(').and_then(|text| text.strip_suffix(')'));
        let text = letter.filter(|text| text.len() == 1 && text.is_ascii()).unwrap_or(&text);
        if text.chars().all(char::is_alphabetic) { text.to_lowercase() } else { text.to_owned() }
    }
}

/// Takes `y=` and `x\in` off.
fn without_name(text: &str) -> &str {
    let mut characters = text.chars();
    if !characters.next().is_some_and(|c| c.is_ascii_alphabetic()) {
        return text;
    }
    let rest = characters.as_str();
    let value = rest.strip_prefix("\\in").filter(|rest| !rest.starts_with(char::is_alphabetic));
    value.or(rest.strip_prefix('=').filter(|rest| !rest.contains('='))).unwrap_or(text)
}

/// Takes `\text{` and its closing brace off, and keeps what stands between them.
fn unwrapped(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut open = Vec::new();
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if let Some(inside) = WRAPPERS.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
            open.push(false);
            rest = inside;
            continue;
        }
        let keep = match character {
            '{' => {
                open.push(true);
                true
            }
            '}' => open.pop().unwrap_or(true),
            _ => true,
        };
        kept.extend(keep.then_some(character));
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_expression_has_one_form() {
        let expressions = Expressions::new().unwrap();
        for (one, other) in [
            ("\\left( 3, \\frac{\\pi}{2} \\right)", "$(3,\\dfrac{\\pi}2)$"),
            ("11\\sqrt2", "11 \\sqrt{2}."),
            ("\\text{Evelyn}", "evelyn"),
            ("\\text{(C)}", "C"),
            ("x \\in [-2,7]", "[-2, 7]"),
            ("y = 2x + 3", "2x+3"),
            (
                "\\begin{pmatrix} -1/3 \\\\ 2/3 \\end{pmatrix}",
                "\\begin{pmatrix}-\\frac13\\\\\\frac{2}{3}\\end{pmatrix}",
            ),
            ("\\text{a \\mbox{b}}{c}", "ab{c}"),
            ("6 - 5i", "6-5i"),
            ("\\frac{1}{3}\\pi", "1/3 \\pi"),
            ("(1/2, -3/4)", "(\\frac12, -\\frac{3}{4})"),
            ("Monday!", "monday"),
            ("n.!", "n"),
        ] {
            assert_eq!(expressions.normal(one), expressions.normal(other), "{one}");
            assert!(!expressions.normal(one).is_empty());
        }
        for (one, other) in [
            ("p - q", "q - p"),
            ("\\frac{\\pi}{2}", "\\frac{\\pi}{3}"),
            ("X", "\\X"),
            ("(3,4]", "(3,4)"),
            ("2\\frac{1}{3}\\pi", "\\frac{21}{3}\\pi"),
            ("x^2/3", "x^\\frac{2}{3}"),
            ("5!", "5"),
        ] {
            assert_ne!(expressions.normal(one), expressions.normal(other), "{one}");
        }
    }
}
