//! The prompt inside a pair of transcripts: their common beginning.

use crate::example::Content;

/// What opens an answer in the plain-text transcripts of Anthropic.
const ASSISTANT: &str = "\n\nAssistant:";

/// Splits a chosen and a rejected transcript into their common prompt and the two answers.
pub(crate) fn split(chosen: Content, rejected: Content) -> Result<(Content, Content, Content), String> {
    match (chosen, rejected) {
        (Content::Text(chosen), Content::Text(rejected)) => split_text(&chosen, &rejected),
        (Content::Messages(chosen), Content::Messages(rejected)) => {
            let shared = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            // Each answer keeps a message even when both are the same.
            let shared = shared.min(chosen.len().saturating_sub(1)).min(rejected.len().saturating_sub(1));
            if shared == 0 {
                return Err(
                    "`chosen` and `rejected` do not begin with the same message, so there is no prompt"
                        .into(),
                );
            }
            let part = |list: &[_]| Content::Messages(list.to_vec());
            let (prompt, chosen_answer) = chosen.split_at(shared);
            Ok((part(prompt), part(chosen_answer), part(rejected.split_at(shared).1)))
        }
        _ => {
            Err("one of `chosen` and `rejected` is text, the other a message list; make both the same".into())
        }
    }
}

fn split_text(chosen: &str, rejected: &str) -> Result<(Content, Content, Content), String> {
    let shared: usize =
        chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let common = chosen.get(..shared).unwrap_or_default();
    let at = match common.rfind(ASSISTANT) {
        Some(start) => start + ASSISTANT.len(),
        None if chosen == rejected => {
            return Err("`chosen` and `rejected` are the same text; give a `prompt` column".into());
        }
        // As TRL does: a space before the answers belongs to the answers.
        None => common.strip_suffix(' ').unwrap_or(common).len(),
    };
    if at == 0 {
        return Err(
            "`chosen` and `rejected` have no common beginning, so there is no prompt; give a `prompt` column"
                .into(),
        );
    }
    let part = |text: &str, from, to| Content::Text(text.get(from..to).unwrap_or_default().to_owned());
    Ok((part(chosen, 0, at), part(chosen, at, chosen.len()), part(rejected, at, rejected.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(chosen: &str, rejected: &str) -> (String, String, String) {
        let Ok((Content::Text(p), Content::Text(c), Content::Text(r))) =
            split(Content::Text(chosen.into()), Content::Text(rejected.into()))
        else {
            return Default::default();
        };
        (p, c, r)
    }

    #[test]
    fn transcripts_are_cut_after_the_last_common_assistant() {
        let shared = "\n\nHuman: hi\n\nAssistant: Hello.\n\nHuman: why?\n\nAssistant:";
        let (p, c, r) = texts(&format!("{shared} Because I can."), &format!("{shared} Because of you."));
        assert_eq!((p.as_str(), c.as_str(), r.as_str()), (shared, " Because I can.", " Because of you."));
        // Answers that go on with another turn keep it.
        let (p, c, _) = texts(&format!("{shared} A\n\nHuman: x\n\nAssistant: y"), &format!("{shared} B"));
        assert_eq!((p.as_str(), c.as_str()), (shared, " A\n\nHuman: x\n\nAssistant: y"));
        // Identical transcripts still have a prompt.
        assert_eq!(texts(&format!("{shared} A"), &format!("{shared} A")).0, shared);
    }

    #[test]
    fn other_text_is_cut_where_it_differs() {
        assert_eq!(texts("Sky is blue", "Sky is grey"), ("Sky is".into(), " blue".into(), " grey".into()));
        assert_eq!(texts("ganz über", "ganz übel"), ("ganz übe".into(), "r".into(), "l".into()));
        assert!(split(Content::Text("a".into()), Content::Text("b".into())).is_err());
        assert!(split(Content::Text("a".into()), Content::Text("a".into())).is_err());
        assert!(split(Content::Text("a".into()), Content::Messages(vec![])).is_err());
    }

    #[test]
    fn message_lists_share_their_first_messages() {
        let m = |t: &str| serde_json::json!({"role": "user", "content": t});
        let list = |texts: &[&str]| Content::Messages(texts.iter().map(|t| m(t)).collect());
        let (p, c, r) = split(list(&["a", "b", "c"]), list(&["a", "b", "d", "e"])).unwrap();
        assert_eq!((p, c, r), (list(&["a", "b"]), list(&["c"]), list(&["d", "e"])));
        let (p, c, r) = split(list(&["a", "b"]), list(&["a", "b"])).unwrap();
        assert_eq!((p, c, r), (list(&["a"]), list(&["b"]), list(&["b"])));
        assert!(split(list(&["a"]), list(&["b"])).is_err());
        assert!(split(list(&["a"]), list(&["a", "b"])).is_err());
    }
}
