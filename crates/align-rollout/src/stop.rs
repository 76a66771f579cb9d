use align_core::align_types::TokenId;

use crate::BoxError;

/// Turns the tokens of a completion into text without special tokens.
pub(crate) type Decode<'a> = dyn Fn(&[TokenId]) -> Result<String, BoxError> + 'a;

/// Text that is kept before a possible stop string. A decoder may write the first and the last characters of a
/// piece otherwise than inside the whole (a stripped space, half a character); no match may lie in that part.
const MARGIN_BYTES: usize = 32;

/// When a completion ends.
pub(crate) struct StopRules<'c> {
    pub(crate) tokens: &'c [TokenId],
    pub(crate) strings: &'c [String],
    pub(crate) decode: Option<&'c Decode<'c>>,
}

/// The part of a completion that a new token can still make a stop string with.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    start: usize,
}

impl StopRules<'_> {
    /// Says whether the last token is a stop token or completes a stop string.
    ///
    /// Only the tail is decoded for each token, so that the work for a completion grows with its length, not with the square.
    pub(crate) fn reached(&self, tokens: &[TokenId], tail: &mut Tail) -> Result<bool, BoxError> {
        if tokens.last().is_some_and(|token| self.tokens.contains(token)) {
            return Ok(true);
        }
        let (Some(decode), Some(longest)) = (self.decode, self.strings.iter().map(String::len).max()) else {
            return Ok(false);
        };
        let text = decode(tokens.get(tail.start..).unwrap_or(tokens))?;
        if earliest(&text, self.strings).is_some() {
            return Ok(tail.start == 0 || earliest(&decode(tokens)?, self.strings).is_some());
        }
        let needed = longest + MARGIN_BYTES;
        if text.len() > 2 * needed {
            while let Some(shorter) = tokens.get(tail.start + 1..) {
                if decode(shorter)?.len() < needed {
                    break;
                }
                tail.start += 1;
            }
        }
        Ok(false)
    }

    /// Decodes a completion without its stop token and cuts it before the first stop string.
    pub(crate) fn text(&self, tokens: &[TokenId]) -> Result<Option<String>, BoxError> {
        let Some(decode) = self.decode else { return Ok(None) };
        let without_stop = match tokens.split_last() {
            Some((last, rest)) if self.tokens.contains(last) => rest,
            _ => tokens,
        };
        let mut text = decode(without_stop)?;
        if let Some(end) = earliest(&text, self.strings) {
            text.truncate(end);
        }
        Ok(Some(text))
    }
}

/// Finds where the first of the strings begins.
fn earliest(text: &str, strings: &[String]) -> Option<usize> {
    strings.iter().filter_map(|string| text.find(string.as_str())).min()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One token per byte: characters of several bytes are split across tokens, too.
    fn bytes(tokens: &[TokenId]) -> Result<String, BoxError> {
        let bytes: Vec<u8> = tokens.iter().map(|t| *t as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Counts the tokens until the rules end the text.
    fn tokens_until_stop(text: &str, strings: &[String]) -> Option<usize> {
        let rules = StopRules { tokens: &[], strings, decode: Some(&bytes) };
        let tokens: Vec<TokenId> = text.bytes().map(u32::from).collect();
        let mut tail = Tail::default();
        (1..=tokens.len()).find(|n| rules.reached(&tokens[..*n], &mut tail).unwrap())
    }

    proptest! {
        /// The search in the tail finds what a search in the whole text finds, at the same token.
        #[test]
        fn the_tail_suffices(text in "[abé]{0,400}", strings in prop::collection::vec("[abé]{3,12}", 1..3)) {
            let expected = strings.iter().filter_map(|s| text.find(s.as_str()).map(|at| at + s.len())).min();
            prop_assert_eq!(tokens_until_stop(&text, &strings), expected);
        }
    }

    #[test]
    fn the_tail_is_short_and_late_stops_are_found() {
        let strings = vec!["END".to_owned()];
        let seen = std::cell::Cell::new(0);
        let counting = |tokens: &[TokenId]| {
            seen.set(seen.get() + tokens.len());
            bytes(tokens)
        };
        let rules = StopRules { tokens: &[], strings: &strings, decode: Some(&counting) };
        let tokens: Vec<TokenId> = ("x".repeat(10_000) + "END").bytes().map(u32::from).collect();
        let mut tail = Tail::default();
        let end = (1..=tokens.len()).find(|n| rules.reached(&tokens[..*n], &mut tail).unwrap());
        assert_eq!(end, Some(10_003));
        // Decoding everything for each token would be 50 million tokens; the tail has at most 2 * 35 bytes, is
        // decoded once per token and once more when it is shortened, and the match is confirmed once.
        assert!(seen.get() <= 2 * 71 * 10_003 + 10_003, "{}", seen.get());
        assert_eq!(rules.text(&tokens).unwrap().unwrap().len(), 10_000);
    }

    #[test]
    fn the_stop_token_is_no_text() {
        let rules = StopRules { tokens: &[33], strings: &[], decode: Some(&bytes) };
        assert!(rules.reached(&[72, 105, 33], &mut Tail::default()).unwrap());
        assert_eq!(rules.text(&[72, 105, 33]).unwrap().as_deref(), Some("Hi"));
        assert_eq!(rules.text(&[72, 33, 105]).unwrap().as_deref(), Some("H!i"));
    }

    #[test]
    fn text_is_cut_at_the_first_of_several_stop_strings() {
        let strings = vec!["lo".to_owned(), "ll".to_owned()];
        let rules = StopRules { tokens: &[], strings: &strings, decode: Some(&bytes) };
        let tokens: Vec<TokenId> = "hello".bytes().map(u32::from).collect();
        assert_eq!(rules.text(&tokens).unwrap().as_deref(), Some("he"));
    }
}
