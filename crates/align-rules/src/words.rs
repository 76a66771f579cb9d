use crate::{Error, Result};

/// Takes a command line apart into words: at white space, with '…' and "…" for words that have some, and \ for the next
/// character as it is (not inside '…').
///
/// No shell is asked, so variables, wildcards and pipes mean nothing.
pub(crate) fn words(command: &str) -> Result<Vec<String>> {
    let wrong = |why: &str| Error::Command { command: command.to_owned(), why: why.to_owned() };
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (Some('\''), other) => word.get_or_insert_default().push(other),
            (_, '\\') => {
                let next = characters.next().ok_or_else(|| wrong("it ends with \\"))?;
                word.get_or_insert_default().push(next);
            }
            (Some(_), other) => word.get_or_insert_default().push(other),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, space) if space.is_whitespace() => words.extend(word.take()),
            (None, other) => word.get_or_insert_default().push(other),
        }
    }
    if quote.is_some() {
        return Err(wrong("a quotation mark is not closed"));
    }
    words.extend(word);
    if words.is_empty() { Err(wrong("it names no program")) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotation_marks_keep_words_together() {
        let line = r#"python3  'my scorer.py' --mark "a \" b" \$HOME '' it\'s"#;
        assert_eq!(
            words(line).unwrap(),
            ["python3", "my scorer.py", "--mark", "a \" b", "$HOME", "", "it's"]
        );
        for wrong in ["", "  \t", "a 'b", "a \"b\\\"", "a \\"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn quoted_words_come_back(list in prop::collection::vec("[^']*", 1..5)) {
            let line: Vec<String> = list.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(words(&line.join(" ")).unwrap(), list);
        }
    }
}
