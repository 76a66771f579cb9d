//! Which parts of a conversation the assistant wrote.

use std::ops::Range;

use serde_json::Value;

use crate::template::Rendered;

/// Renders the first turns of a conversation, with or without the header of an answer.
pub(crate) type RenderPrefix<'a> = dyn Fn(&[Value], bool) -> Result<Rendered, String> + 'a;

/// Finds what the assistant wrote, as ranges of the bytes of the rendered conversation, turns from `first` on.
///
/// A template with `{% generation %}` blocks says it itself. Otherwise the conversation is rendered up to each of
/// the assistant's turns and through it: what lies between is the turn, what the template writes behind its end
/// marker included. The header of the turn ends where the prefix with the generation prompt and the whole diverge.
pub(crate) fn assistant_spans(
    messages: &[Value],
    first: usize,
    whole: &Rendered,
    marks: bool,
    render: &RenderPrefix<'_>,
) -> Result<Vec<Range<usize>>, String> {
    if marks {
        return Ok(whole.generated.clone());
    }
    let is_assistant = |turn: &Value| turn.get("role").and_then(Value::as_str) == Some("assistant");
    let turns = messages.iter().enumerate().skip(first).filter(|(_, turn)| is_assistant(turn));
    turns.map(|(index, _)| span_of_turn(messages, index, &whole.text, render)).collect()
}

fn span_of_turn(
    messages: &[Value],
    index: usize,
    whole: &str,
    render: &RenderPrefix<'_>,
) -> Result<Range<usize>, String> {
    let number = index + 1;
    let prefix = |turns: usize, header: bool| {
        render(messages.get(..turns).unwrap_or(messages), header)
            .map(|rendered| rendered.text)
            .map_err(|e| format!("turn {number} cannot be told from the others: {e}; {WAY_OUT}"))
    };
    if index == 0 {
        return Err(format!("the first turn is the assistant's, and nothing comes before it; {WAY_OUT}"));
    }
    let before = prefix(index, false)?;
    let header = common_prefix(&prefix(index, true)?, whole);
    let through = if number == messages.len() { whole.to_owned() } else { prefix(number, false)? };
    if whole.starts_with(&through) && header >= before.len() && header <= through.len() {
        Ok(header..through.len())
    } else {
        Err(format!(
            "the chat template writes turn {number} differently when other turns follow, so what the assistant \
             wrote cannot be told from the rest; {WAY_OUT}"
        ))
    }
}

const WAY_OUT: &str =
    "mark it with {% generation %} in the template, or train on the last answer (train-on last-answer)";

/// Counts the bytes with which both begin, whole characters only.
fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    same.map(|(c, _)| c.len_utf8()).sum()
}

/// Finds the tokens that hold any byte of the spans, as ranges in ascending order that do not touch.
pub(crate) fn tokens_of(spans: &[Range<usize>], offsets: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for span in spans {
        let inside = |token: &Range<usize>| token.start < span.end && token.end > span.start;
        let Some(first) = offsets.iter().position(inside) else { continue };
        let end = offsets.iter().rposition(inside).map_or(first, |last| last + 1);
        match ranges.last_mut() {
            Some(last) if last.end >= first => last.end = last.end.max(end),
            _ => ranges.push(first..end),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_touch_a_span_belong_to_it() {
        let offsets = [0..2, 2..4, 4..4, 4..7, 7..9];
        assert_eq!(tokens_of(&[2..4], &offsets), [1..2]);
        assert_eq!(tokens_of(&[3..5], &offsets), [1..4]);
        assert_eq!(tokens_of(&[0..1, 8..9], &offsets), [0..1, 4..5]);
        // Spans whose tokens touch are one range.
        assert_eq!(tokens_of(&[0..2, 2..3], &offsets), [0..2]);
        assert!(tokens_of(&[9..12], &offsets).is_empty() && tokens_of(&[], &offsets).is_empty());
    }

    #[test]
    fn common_beginnings_are_whole_characters() {
        assert_eq!(common_prefix("aé1", "aé2"), 3);
        // Both letters begin with the same byte.
        assert_eq!(common_prefix("é", "è"), 0);
    }
}
