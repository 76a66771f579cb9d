//! The tokens of the task.

use align_core::align_types::TokenId;

/// Fills prompts up; a token like any other.
pub const BLANK: TokenId = 0;
/// Begins a prompt.
pub const BEGIN: TokenId = 1;
/// Ends a prompt.
pub const EQUALS: TokenId = 2;
/// Opens an operand.
pub const OPEN: TokenId = 3;
/// Closes an operand.
pub const CLOSE: TokenId = 4;
/// The variable a; b to e follow.
pub const FIRST_VARIABLE: TokenId = 5;
/// Variables.
pub const VARIABLES: usize = 5;
/// x + y in a prompt.
pub const PLUS: TokenId = 10;
/// x − y in a prompt.
pub const MINUS: TokenId = 11;
/// x · y in a prompt.
pub const TIMES: TokenId = 12;
/// x + y on the stack.
pub const ADD: TokenId = 13;
/// x − y on the stack, y being its top.
pub const SUB: TokenId = 14;
/// y − x on the stack, y being its top.
pub const RSUB: TokenId = 15;
/// x · y on the stack.
pub const MUL: TokenId = 16;
/// Ends an answer.
pub const END: TokenId = 17;
/// Tokens of the vocabulary.
pub const TOKENS: usize = 18;

const NAMES: [&str; TOKENS] =
    ["_", "B", "=", "(", ")", "a", "b", "c", "d", "e", "+", "-", "*", "ADD", "SUB", "RSUB", "MUL", "END"];

/// Returns the index of a variable; nothing for other tokens.
pub fn variable(token: TokenId) -> Option<usize> {
    let index = token.checked_sub(FIRST_VARIABLE)? as usize;
    (index < VARIABLES).then_some(index)
}

/// Writes tokens out, without blanks.
pub fn text(tokens: &[TokenId]) -> String {
    let name = |token: &TokenId| NAMES.get(*token as usize).copied().unwrap_or("?");
    let words: Vec<&str> = tokens.iter().filter(|token| **token != BLANK).map(name).collect();
    words.join(" ")
}

/// Reads what [`text`] wrote; unknown words are left out.
#[cfg(test)]
pub(super) fn tokens(text: &str) -> Vec<TokenId> {
    let find = |word: &str| NAMES.iter().position(|name| *name == word).map(|index| index as TokenId);
    text.split(' ').filter_map(find).collect()
}
