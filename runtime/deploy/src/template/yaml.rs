//! Text from the configuration as YAML: a value can never become a key, a number or a comment.

use std::fmt::Write as _;

/// A scalar that YAML reads back as this very text: bare where it is a plain word, else in double quotes.
pub(super) fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            ' '..='~' => quoted.push(c),
            // What is left is printable in some editors only, or moves the cursor.
            c => drop(write!(quoted, "\\U{:08x}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

/// Words and paths that mean themselves: with a letter or a slash in front they are no numbers.
fn is_plain(text: &str) -> bool {
    const TAKEN: [&str; 8] = ["true", "false", "yes", "no", "on", "off", "null", "y"];
    let first_is_letter = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let all_plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
    let lower = text.to_ascii_lowercase();
    first_is_letter && all_plain && lower != "n" && !TAKEN.contains(&lower.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_stay_bare() {
        for text in ["maintenance", "training-platform-dev", "models/", "e1", "a.b_c", "/aws/lambda/x"] {
            assert_eq!(scalar(text), text);
        }
        for text in
            ["", "10", "1e3", "0x1f", ".5", "-a", "true", "No", "~", "a: b", "a #b", "*a", "&a", "!Ref x", "{a}"]
        {
            assert_eq!(scalar(text), format!("\"{text}\""));
        }
    }

    #[test]
    fn quotes_and_control_characters_cannot_end_the_text() {
        assert_eq!(scalar("a\"b\\c\n\u{7f}é"), r#""a\"b\\c\U0000000a\U0000007f\U000000e9""#);
    }
}
