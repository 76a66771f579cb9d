//! Final answers of mathematical problems.

mod answer;
mod expression;
mod number;
mod reader;

use align_types::RewardItem;

use self::{
    answer::{Answer, Numbers},
    expression::{Expressions, clean},
    number::Number,
};
use super::{Rule, columns, verdict};
use crate::Result;

/// Longest reference, in characters, that is compared as it stands although it marks no answer; a longer one, or one of
/// several lines, is a solution.
const LONGEST_REFERENCE: usize = 200;

/// 1 where the final answer of the completion is that of a column of the row, 0 elsewhere.
///
/// **The final answer** of a completion is, inside the last `<answer>…</answer>` where there is one: what the last
/// `\boxed{…}` or the last `####` (to the end of its line) holds, whichever comes later; without such a mark the whole
/// text where it is a number, else its last number. The reference is read in the same way from the column, but has no
/// last number: without a mark it is the whole text. A list holds several references, of which one must fit.
///
/// **Numbers** are integers and decimals with a sign, `,` between groups of three digits, an exponent (`1.5e3`,
/// `1.5 \times 10^3`), fractions (`3/4`, `\frac{3}{4}`, `\frac34`), mixed numbers (`1 1/2`), each with up to 38
/// digits. Around one may stand `$`, `x =`, a sign of currency, `%` or `percent`, and a unit: `°`, `\text{…}` or words in
/// letters behind a space, or short ones such as `cm` and `kg` without it. `hundred`, `thousand`, `million`, `billion`,
/// `trillion` and `dozen` are multiplied out. Integers are equal when they are the same; other numbers when they differ
/// by at most 10⁻⁶ of the reference, and from an integer by at most 0.01. The last number of a text is none that follows
/// ASCII letters as part of a word (`x2`), unless they are a command of LaTeX (`\le5`) or the code of a currency
/// (`USD18`). Where one side alone has a percent sign, both readings
/// of it are right: `50%` is 50 and 0.5.
///
/// **Other answers** (`\left(3, \frac{\pi}{2}\right)`) are compared as text, without white space, `$`, `\left`, `\text`
/// and other dress. Two spellings of one expression that differ otherwise count as different.
///
/// A row without the column is an error that names it. A reference in which no answer can be found (a solution without a
/// mark) makes the rule abstain. A completion without an answer has 0.
///
/// ```
/// use align_rules::rule;
/// use align_types::{Columns, RewardItem, score};
///
/// let columns = Columns::from_iter([("answer".to_owned(), "64 * 16 = 1024 clips.\n#### 1,024".into())]);
/// let item = |completion| RewardItem { prompt: "", messages: None, completion, columns: &columns, source: None };
/// let scores = score(&mut rule("rule:math-answer")?, &[item("so it is \\boxed{1024}"), item("1024, no: 24"), item("?")])?;
/// assert_eq!(scores.values(), [Some(1.0), Some(0.0), Some(0.0)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct MathAnswer {
    column: String,
    numbers: Numbers,
    expressions: Expressions,
}

/// What a reference asks for.
enum Reference {
    Number(Number),
    Expression(String),
}

impl MathAnswer {
    /// Takes the column that holds the reference.
    ///
    /// # Errors
    /// None that can be met: the expressions that find numbers are fixed.
    pub fn new(column: impl Into<String>) -> Result<Self> {
        Ok(Self { column: column.into(), numbers: Numbers::new()?, expressions: Expressions::new()? })
    }

    /// Reads a reference; `None` where no answer is found.
    fn reference(&self, text: &str) -> Option<Reference> {
        let answer = match Answer::of(text) {
            Answer::Marked(answer) => answer,
            Answer::Whole(text) => {
                let text = text.trim();
                let short = text.chars().nth(LONGEST_REFERENCE).is_none() && !text.contains('\n');
                short.then_some(text)?
            }
            Answer::Cut => return None,
        };
        if let Some(number) = Number::parse(&clean(answer)) {
            return Some(Reference::Number(number));
        }
        Some(self.expressions.normal(answer)).filter(|text| !text.is_empty()).map(Reference::Expression)
    }

    fn fits(&self, completion: &str, reference: &Reference) -> bool {
        let (answer, marked) = match Answer::of(completion) {
            Answer::Marked(answer) => (answer, true),
            Answer::Whole(text) => (text, false),
            Answer::Cut => return false,
        };
        match reference {
            Reference::Number(expected) => {
                let short = answer.len() <= LONGEST_REFERENCE;
                let whole = short.then(|| Number::parse(&clean(answer))).flatten();
                let found = whole.or_else(|| if marked { None } else { self.numbers.last(answer) });
                found.is_some_and(|found| found.equals(expected))
            }
            Reference::Expression(expected) => self.expressions.normal(answer) == *expected,
        }
    }
}

impl Rule for MathAnswer {
    fn score(&self, item: &RewardItem<'_>) -> std::result::Result<Option<f64>, String> {
        let texts = columns::references(item, &self.column)?;
        let references: Option<Vec<Reference>> = texts.iter().map(|text| self.reference(text)).collect();
        match references {
            None => Ok(None),
            Some(references) => verdict(references.iter().any(|one| self.fits(item.completion, one))),
        }
    }
}
