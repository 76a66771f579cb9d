//! Sums by column: two numbers are added digit by digit modulo 10, units first and without carry.
//!
//! The number of columns is the difficulty. Writers of demonstrations are the less reliable the higher the column, so that
//! who learns from them solves short problems nearly always, middle ones now and then, and long ones almost never.

use std::collections::BTreeSet;

use align_core::align_types::{Completion, PromptGroup, Purpose, RngStream, TokenId};
use serde::{Deserialize, Serialize};

/// Most columns of a problem; there are as many difficulties.
pub const COLUMNS: usize = 6;
/// Tokens of every prompt.
pub const PROMPT_TOKENS: usize = COLUMNS + 1;
/// Most tokens of an answer, the end included.
pub const ANSWER_TOKENS: usize = COLUMNS + 1;
/// Problems of one column, the fewest of all difficulties.
pub const FEWEST: usize = (BASE * BASE) as usize;

/// The digits of answers are the first tokens; then comes one token for every two digits that can stand in a column.
const BASE: TokenId = 10;
const FIRST_COLUMN: TokenId = BASE;
const EQUALS: TokenId = FIRST_COLUMN + BASE * BASE;
/// Stands for the columns that a problem does not have.
pub const BLANK: TokenId = EQUALS + 1;
/// Ends an answer.
pub const END: TokenId = EQUALS + 2;
/// Tokens of the vocabulary.
pub const VOCABULARY: usize = END as usize + 1;

/// The seed of the problems that are held out, which all runs share.
const TASK_SEED: u64 = 25;

/// What random numbers are drawn for; each has a stream of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stream {
    /// Problems.
    Problems,
    /// Demonstrations.
    Demonstrations,
    /// Rewards by lot of answers that are trained on.
    Rewards,
    /// Rewards by lot of answers that success rates are estimated from.
    Estimates,
}

impl Stream {
    /// Makes the stream of a seed.
    pub fn random(self, seed: u64) -> RngStream {
        RngStream::new(seed, Purpose::Synthetic, self as u64, 8)
    }
}

/// Two numbers with as many digits each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The digits that stand in a column together, units first.
    columns: Vec<[TokenId; 2]>,
}

impl Problem {
    /// Draws a problem with this number of columns.
    pub fn draw(columns: usize, random: &mut RngStream) -> Self {
        let mut digit = || random.below(BASE as usize) as TokenId;
        Self { columns: (0..columns).map(|_| [digit(), digit()]).collect() }
    }

    /// Returns the number of columns.
    pub fn difficulty(&self) -> usize {
        self.columns.len()
    }

    /// Writes the prompt: one token for every column, blanks, and EQUALS in the last place.
    pub fn prompt(&self) -> Vec<TokenId> {
        let mut tokens: Vec<TokenId> =
            self.columns.iter().map(|[a, b]| FIRST_COLUMN + a * BASE + b).collect();
        tokens.resize(COLUMNS, BLANK);
        tokens.push(EQUALS);
        tokens
    }

    /// Reads a prompt; nothing for tokens that are none.
    pub fn read(prompt: &[TokenId]) -> Option<Self> {
        let (&EQUALS, rest) = prompt.split_last()? else { return None };
        let digits = |token: &TokenId| {
            let pair = token.checked_sub(FIRST_COLUMN).filter(|pair| *pair < BASE * BASE)?;
            Some([pair / BASE, pair % BASE])
        };
        let columns: Vec<[TokenId; 2]> = rest.iter().map_while(digits).collect();
        let blanks = rest.get(columns.len()..)?;
        let whole = rest.len() == COLUMNS && blanks.iter().all(|token| *token == BLANK);
        (whole && !columns.is_empty()).then_some(Self { columns })
    }

    /// Returns the right answer, the end included.
    ///
    /// ```
    /// use align_repro::curriculum::columns::{END, Problem, text};
    /// let problem = Problem::read(&[88, 31, 111, 111, 111, 111, 110]).ok_or("no problem")?;
    /// assert_eq!(problem.answer(), [5, 3, END]);
    /// assert_eq!(text(&problem.prompt()), "7+8 2+1 =");
    /// # Ok::<(), &str>(())
    /// ```
    pub fn answer(&self) -> Vec<TokenId> {
        self.write(|_| 0)
    }

    /// Answers as a writer does who is right in each column with its own probability and else counts one too many.
    pub fn demonstration(&self, right: &[f64], random: &mut RngStream) -> Vec<TokenId> {
        self.write(|column| {
            let is_right = right.get(column).is_none_or(|right| random.uniform() < *right);
            TokenId::from(!is_right)
        })
    }

    fn write(&self, mut error: impl FnMut(usize) -> TokenId) -> Vec<TokenId> {
        let digit = |(column, [a, b]): (usize, &[TokenId; 2])| (a + b + error(column)) % BASE;
        self.columns.iter().enumerate().map(digit).chain([END]).collect()
    }

    /// The problem as a prompt without answers.
    pub fn group(&self) -> PromptGroup {
        PromptGroup::new(self.prompt(), Vec::new())
    }
}

/// How many problems of each difficulty there are for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// To be trained on.
    pub pool: usize,
    /// For curves and the choice of settings.
    pub validation: usize,
    /// For what is reported.
    pub test: usize,
}

impl Counts {
    /// Says whether there are so many problems of every difficulty.
    pub fn fit(&self) -> bool {
        let all = [self.pool, self.validation, self.test];
        all.iter().all(|count| (1..=FEWEST).contains(count)) && all.iter().sum::<usize>() <= FEWEST
    }
}

/// Problems by what they are for; none is in two lists, and each list has as many of every difficulty.
#[derive(Debug, Clone)]
pub struct Problems {
    /// To be trained on; other ones with every seed.
    pub pool: Vec<Problem>,
    /// For curves and the choice of settings; the same with every seed.
    pub validation: Vec<Problem>,
    /// For what is reported; the same with every seed.
    pub test: Vec<Problem>,
}

impl Problems {
    /// Draws problems; `counts` must [fit](Counts::fit).
    pub fn draw(counts: &Counts, seed: u64) -> Self {
        let mut taken = BTreeSet::new();
        let mut shared = Stream::Problems.random(TASK_SEED);
        let test = balanced(counts.test, &mut shared, &mut taken);
        let validation = balanced(counts.validation, &mut shared, &mut taken);
        // Another seed than that of the held-out problems would do; another index as well keeps the two apart.
        let mut own = RngStream::new(seed, Purpose::Synthetic, 0, 9);
        let pool = balanced(counts.pool, &mut own, &mut taken);
        Self { pool, validation, test }
    }

    /// Writes demonstrations of problems of all difficulties, none of which is held out.
    pub fn demonstrations(&self, count: usize, right: &[f64], seed: u64) -> Vec<PromptGroup> {
        let held_out: BTreeSet<&Problem> = self.validation.iter().chain(&self.test).collect();
        let mut random = Stream::Demonstrations.random(seed);
        let mut rows = Vec::with_capacity(count);
        while rows.len() < count {
            let problem = Problem::draw(1 + random.below(COLUMNS), &mut random);
            if !held_out.contains(&problem) {
                let answer = Completion::new(problem.demonstration(right, &mut random));
                rows.push(PromptGroup::new(problem.prompt(), vec![answer]));
            }
        }
        rows
    }
}

/// Draws as many problems of every difficulty as are wanted and not yet taken, and takes them.
fn balanced(count: usize, random: &mut RngStream, taken: &mut BTreeSet<Problem>) -> Vec<Problem> {
    let mut problems = Vec::with_capacity(count * COLUMNS);
    for columns in 1..=COLUMNS {
        let mut found = 0;
        while found < count && taken.iter().filter(|one| one.difficulty() == columns).count() < FEWEST {
            let problem = Problem::draw(columns, random);
            if taken.insert(problem.clone()) {
                problems.push(problem);
                found += 1;
            }
        }
    }
    problems
}

/// Writes tokens for people; blanks are left out.
pub fn text(tokens: &[TokenId]) -> String {
    if let Some(problem) = Problem::read(tokens) {
        let columns = problem.columns.iter().map(|[a, b]| format!("{a}+{b} "));
        return columns.chain(["=".to_owned()]).collect();
    }
    let name = |token: &TokenId| match *token {
        EQUALS => "=".to_owned(),
        BLANK => "blank".to_owned(),
        END => ".".to_owned(),
        token if token < FIRST_COLUMN => token.to_string(),
        token => format!("{}+{}", (token - FIRST_COLUMN) / BASE, token % BASE),
    };
    tokens.iter().map(name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COUNTS: Counts = Counts { pool: 20, validation: 10, test: 30 };

    #[test]
    fn no_problem_is_in_two_lists_and_each_list_is_balanced() {
        let problems = Problems::draw(&COUNTS, 3);
        let lists = [(&problems.pool, 20), (&problems.validation, 10), (&problems.test, 30)];
        for (list, count) in lists {
            for columns in 1..=COLUMNS {
                assert_eq!(list.iter().filter(|one| one.difficulty() == columns).count(), count);
            }
        }
        let all: BTreeSet<&Problem> = lists.iter().flat_map(|(list, _)| list.iter()).collect();
        assert_eq!(all.len(), 60 * COLUMNS);
        let other = Problems::draw(&COUNTS, 4);
        assert_eq!((&other.test, &other.validation), (&problems.test, &problems.validation));
        assert_ne!(other.pool, problems.pool);
    }

    #[test]
    fn all_problems_of_one_column_can_be_taken_and_no_more() {
        let all = Counts { pool: 60, validation: 10, test: 30 };
        assert!(all.fit() && !Counts { pool: 61, ..all }.fit() && !Counts { test: 0, ..all }.fit());
        assert_eq!(Problems::draw(&all, 0).pool.len(), 60 * COLUMNS);
        assert!(Problems::draw(&Counts { pool: 61, ..all }, 0).pool.len() < 61 * COLUMNS);
    }

    #[test]
    fn demonstrations_are_right_as_often_as_the_plan_says_and_of_no_held_out_problem() {
        let problems = Problems::draw(&COUNTS, 1);
        let rows = problems.demonstrations(6000, &[1.0, 0.5, 0.0, 1.0, 1.0, 1.0], 1);
        let held_out: BTreeSet<Vec<TokenId>> =
            problems.test.iter().chain(&problems.validation).map(Problem::prompt).collect();
        let mut long = 0.0;
        let mut second = 0.0;
        for row in &rows {
            assert!(!held_out.contains(&row.prompt));
            let right = Problem::read(&row.prompt).unwrap().answer();
            let written = &row.completions[0].token_ids;
            assert_eq!(written.len(), right.len());
            assert_eq!(written[0], right[0]);
            if right.len() > 3 {
                assert_eq!(written[2], (right[2] + 1) % 10);
                assert_eq!(written[3..], right[3..]);
                (long, second) = (long + 1.0, second + f64::from(u8::from(written[1] == right[1])));
            }
        }
        // 4000 of them have three columns or more; five standard errors of a share of one half.
        assert!((second / long - 0.5f64).abs() < 2.5 / long.sqrt(), "{second} of {long}");
    }

    proptest! {
        #[test]
        fn a_prompt_is_read_as_it_was_written(columns in 1usize..=COLUMNS, seed: u64) {
            let problem = Problem::draw(columns, &mut RngStream::new(seed, Purpose::Synthetic, 0, 0));
            let prompt = problem.prompt();
            prop_assert_eq!(prompt.len(), PROMPT_TOKENS);
            prop_assert_eq!(Problem::read(&prompt), Some(problem.clone()));
            prop_assert_eq!(problem.answer().len(), columns + 1);
            prop_assert!(prompt.iter().chain(&problem.answer()).all(|token| (*token as usize) < VOCABULARY));
        }

        #[test]
        fn other_tokens_are_no_prompt(tokens in prop::collection::vec(prop_oneof![8u32..114, Just(BLANK), Just(EQUALS)], 0..9)) {
            if let Some(problem) = Problem::read(&tokens) {
                prop_assert_eq!(problem.prompt(), tokens);
            }
        }
    }
}
