//! A stack machine with three slots that counts modulo 97.

use align_core::align_types::TokenId;

use super::vocabulary::{ADD, END, MUL, RSUB, SUB, VARIABLES, variable};

/// Values the stack holds.
pub const SLOTS: usize = 3;
/// Numbers are counted modulo this.
pub const MODULUS: u32 = 97;

/// Values of the variables a to e, each below [`MODULUS`].
pub type Inputs = [u32; VARIABLES];

/// How a run of the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halt {
    /// With exactly one value.
    Value(u32),
    /// A value was pushed onto a full stack.
    Overflow,
    /// An operation found fewer than two values, or the end not exactly one.
    Broken,
    /// A token is no instruction.
    Illegal,
}

/// Runs instructions (without END) on a stack of at most `slots` values.
///
/// A variable pushes its input; an operation takes y from the top, then x, and pushes x + y, x − y, y − x or x · y.
///
/// ```
/// use align_repro::dpo_vs_ppo::sequence::{machine::{Halt, SLOTS, run}, vocabulary::{FIRST_VARIABLE, SUB}};
/// let inputs = [5, 7, 0, 0, 0];
/// assert_eq!(run(&[FIRST_VARIABLE, FIRST_VARIABLE + 1, SUB], &inputs, SLOTS), Halt::Value(95));
/// ```
pub fn run(program: &[TokenId], inputs: &Inputs, slots: usize) -> Halt {
    let mut stack: Vec<u32> = Vec::with_capacity(SLOTS);
    for token in program {
        let next = match (variable(*token), *token) {
            (Some(index), _) => inputs.get(index).copied(),
            (None, ADD | SUB | RSUB | MUL) => {
                let (Some(y), Some(x)) = (stack.pop(), stack.pop()) else { return Halt::Broken };
                Some(apply(*token, x, y))
            }
            _ => None,
        };
        let Some(value) = next else { return Halt::Illegal };
        if stack.len() >= slots {
            return Halt::Overflow;
        }
        stack.push(value);
    }
    match stack.as_slice() {
        [value] => Halt::Value(*value),
        _ => Halt::Broken,
    }
}

fn apply(operation: TokenId, x: u32, y: u32) -> u32 {
    let value = match operation {
        ADD => x + y,
        SUB => x + MODULUS - y,
        RSUB => y + MODULUS - x,
        _ => x * y,
    };
    value % MODULUS
}

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// The right value on every hidden test.
    Pass,
    /// A wrong value on some test.
    Wrong,
    /// An operation lacks values, the end has not exactly one, or the stack overflows on the way to a wrong value.
    Broken,
    /// Right on a larger stack, too deep for this one.
    Overflow,
    /// A token that is no instruction.
    Illegal,
    /// No END.
    Endless,
}

impl Grade {
    /// All grades with the names that their shares have among the metrics.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Pass, "pass"),
        (Self::Wrong, "wrong"),
        (Self::Broken, "broken"),
        (Self::Overflow, "overflow"),
        (Self::Illegal, "illegal"),
        (Self::Endless, "endless"),
    ];

    /// The reward: 1 for a program that passes, 0 otherwise.
    pub fn reward(self) -> f64 {
        f64::from(u8::from(self == Self::Pass))
    }
}

/// Grades an answer against hidden tests, assignments with the values that are right.
///
/// Any program with the right values passes, whatever its order of operands. END ends the answer and may stand nowhere
/// else in it.
pub fn grade(answer: &[TokenId], tests: &[(Inputs, u32)]) -> Grade {
    let Some((&END, program)) = answer.split_last() else { return Grade::Endless };
    if !program.iter().all(|token| is_instruction(*token)) {
        return Grade::Illegal;
    }
    let right =
        |slots| tests.iter().all(|(inputs, value)| run(program, inputs, slots) == Halt::Value(*value));
    // Whether a program breaks depends on its instructions alone.
    match run(program, &Inputs::default(), SLOTS) {
        Halt::Value(_) if right(SLOTS) => Grade::Pass,
        Halt::Value(_) => Grade::Wrong,
        Halt::Overflow if right(program.len()) => Grade::Overflow,
        _ => Grade::Broken,
    }
}

fn is_instruction(token: TokenId) -> bool {
    variable(token).is_some() || matches!(token, ADD | SUB | RSUB | MUL)
}

#[cfg(test)]
mod tests {
    use super::super::vocabulary::tokens;
    use super::*;

    const INPUTS: Inputs = [5, 7, 2, 90, 0];

    fn halt(program: &str) -> Halt {
        run(&tokens(program), &INPUTS, SLOTS)
    }

    /// By hand, modulo 97, with a = 5, b = 7, c = 2, d = 90, e = 0.
    #[test]
    fn operations_take_the_top_as_their_second_operand() {
        for (program, value) in [
            ("a", 5),
            ("a b ADD", 12),
            ("a b SUB", 95),
            ("a b RSUB", 2),
            ("d a MUL", 62),             // 450 = 4 * 97 + 62
            ("d b ADD", 0),              // 97
            ("e a SUB", 92),             // -5
            ("a b c MUL ADD", 19),       // 5 + 14
            ("a b ADD c d ADD MUL", 37), // 12 * 92 = 1104 = 11 * 97 + 37
        ] {
            assert_eq!(halt(program), Halt::Value(value), "{program}");
        }
    }

    #[test]
    fn what_the_stack_cannot_hold_or_lacks_ends_the_run() {
        for program in ["a b c d", "a b c d ADD ADD ADD", "a b c a"] {
            assert_eq!(halt(program), Halt::Overflow, "{program}");
        }
        assert_eq!(run(&tokens("a b c d ADD ADD ADD"), &INPUTS, 4), Halt::Value(7)); // 104
        for program in ["", "ADD", "a MUL", "a b", "a b ADD SUB", "a b c ADD"] {
            assert_eq!(halt(program), Halt::Broken, "{program}");
        }
        for program in ["a b +", "(", "END", "a = SUB"] {
            assert_eq!(halt(program), Halt::Illegal, "{program}");
        }
        assert_eq!(run(&[99], &INPUTS, SLOTS), Halt::Illegal);
    }

    /// Hidden tests of a − b · c.
    fn tests() -> Vec<(Inputs, u32)> {
        // 5 - 14 = -9, 1 - 6 = -5, 96 - 96 * 96 = 96 - 1 = 95 (96 is -1).
        vec![(INPUTS, 88), ([1, 2, 3, 4, 5], 92), ([96, 96, 96, 0, 0], 95)]
    }

    #[test]
    fn grades_say_why_a_program_fails() {
        for (answer, expected) in [
            ("a b c MUL SUB END", Grade::Pass),
            ("b c MUL a RSUB END", Grade::Pass),
            ("c b MUL a RSUB END", Grade::Pass),
            ("b c MUL a SUB END", Grade::Wrong),
            ("a b c MUL RSUB END", Grade::Wrong),
            ("a b SUB c MUL END", Grade::Wrong),
            ("a e e b c MUL ADD ADD SUB END", Grade::Broken), // too deep and, with e, wrong on the second test
            ("a b c MUL SUB a END", Grade::Broken),
            ("END", Grade::Broken),
            ("ADD END", Grade::Broken),
            ("a b c MUL SUB", Grade::Endless),
            ("", Grade::Endless),
            ("a b c * SUB END", Grade::Illegal),
            ("a END b c MUL SUB END", Grade::Illegal),
            ("a b c d e ( END", Grade::Illegal),
            // a + 0 is on the stack below: d - d, too deep for three slots.
            ("a d d SUB b c MUL ADD SUB END", Grade::Overflow),
        ] {
            assert_eq!(grade(&tokens(answer), &tests()), expected, "{answer}");
        }
        assert!(Grade::ALL.iter().all(|(grade, _)| grade.reward() == f64::from(*grade == Grade::Pass)));
    }
}
