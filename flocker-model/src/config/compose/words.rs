//! Splits a command into words as a shell would, without one.

use thiserror::Error;

/// Why a command cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum WordsError {
    #[error("a `{0}` has no partner")]
    Unclosed(char),
    #[error("a `\\` stands at the end")]
    Dangling,
}

/// Splits at blanks, and takes away quotes and backslashes, as POSIX says; nothing else has a meaning.
pub(super) fn split(text: &str) -> Result<Vec<Box<str>>, WordsError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\\' => {
                let next = characters.next().ok_or(WordsError::Dangling)?;
                // A line that ends with a backslash goes on in the next one.
                if next != '\n' {
                    word.get_or_insert_default().push(next);
                }
            }
            '\'' | '"' => quoted(character, &mut characters, word.get_or_insert_default())?,
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    Ok(words.into_iter().map(Into::into).collect())
}

fn quoted(quote: char, characters: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), WordsError> {
    while let Some(character) = characters.next() {
        match character {
            _ if character == quote => return Ok(()),
            '\\' if quote == '"' => match characters.next().ok_or(WordsError::Unclosed(quote))? {
                '\n' => {}
                next @ ('"' | '\\' | '$' | '`') => word.push(next),
                next => word.extend(['\\', next]),
            },
            _ => word.push(character),
        }
    }
    Err(WordsError::Unclosed(quote))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(words: &[Box<str>]) -> String {
        let quoted = words
            .iter()
            .map(|word| format!("'{}'", word.replace('\'', r"'\''")));
        quoted.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_command_is_split_as_a_shell_would() {
        for (text, words) in [
            ("", &[][..]),
            ("  a\tb\n c ", &["a", "b", "c"]),
            (r#"echo "a b" 'c  d' e\ f"#, &["echo", "a b", "c  d", "e f"]),
            (r#"a"b"'c'd '' """#, &["abcd", "", ""]),
            (r#""\"\\\$\`\n" '\n'"#, &[r#""\$`\n"#, r"\n"]),
            ("a\\\nb # && ; | > $X", &["ab", "#", "&&", ";", "|", ">", "$X"]),
        ] {
            let expected: Vec<Box<str>> = words.iter().map(|&word| word.into()).collect();
            assert_eq!(split(text), Ok(expected.clone()), "{text}");
            assert_eq!(split(&join(&expected)), Ok(expected), "{text}");
        }
        assert_eq!(split("a 'b"), Err(WordsError::Unclosed('\'')));
        assert_eq!(split(r#"a "b\"#), Err(WordsError::Unclosed('"')));
        assert_eq!(split(r"a\"), Err(WordsError::Dangling));
    }
}
