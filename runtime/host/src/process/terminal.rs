//! Makes untrusted text safe for a terminal.

use std::iter::Peekable;
use std::str::CharIndices;

/// A control string that has not ended after this many characters is taken to have no end.
const CONTROL_STRING_CHARS_MAX: usize = 4096;

/// Returns `text` without terminal control sequences, so that a function cannot move the cursor, set
/// the title or rewrite what a person sees.
///
/// Keeps line breaks and tabs; a carriage return becomes a line break. Characters that reorder or hide
/// the text around them go as well.
pub fn sanitize(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text.char_indices().peekable();
    while let Some((index, character)) = rest.next() {
        match character {
            '\n' | '\t' => clean.push(character),
            '\r' if rest.peek().is_some_and(|(_, next)| *next == '\n') => {}
            '\r' => clean.push('\n'),
            '\u{1b}' => skip_escape(text, index, &mut rest),
            '\u{9b}' => skip_csi(&mut rest),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut rest),
            _ if character.is_control() || reorders(character) => {}
            _ => clean.push(character),
        }
    }
    clean
}

fn reorders(character: char) -> bool {
    matches!(character,
        '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Skips what follows an ESC.
fn skip_escape(text: &str, escape: usize, rest: &mut Peekable<CharIndices<'_>>) {
    match text[escape + 1..].chars().next() {
        Some('[') => {
            rest.next();
            skip_csi(rest);
        }
        Some(']' | 'P' | 'X' | '^' | '_') => {
            rest.next();
            skip_string(rest);
        }
        // Intermediate bytes and one final byte: character sets, resets, saved cursors.
        Some(' '..='~') => {
            while rest.next_if(|(_, c)| (' '..='/').contains(c)).is_some() {}
            rest.next_if(|(_, c)| ('0'..='~').contains(c));
        }
        _ => {}
    }
}

/// Skips the parameters and the final byte of a control sequence.
fn skip_csi(rest: &mut Peekable<CharIndices<'_>>) {
    while rest.next_if(|(_, c)| (' '..='?').contains(c)).is_some() {}
    rest.next_if(|(_, c)| ('@'..='~').contains(c));
}

/// Skips a control string (a title, a link) up to its terminator. One without an end loses only its
/// introducer: the text after it is shown, not swallowed.
fn skip_string(rest: &mut Peekable<CharIndices<'_>>) {
    let mut ahead = rest.clone();
    for _ in 0..CONTROL_STRING_CHARS_MAX {
        match ahead.next() {
            Some((_, '\u{7}' | '\u{9c}')) => {
                *rest = ahead;
                return;
            }
            Some((_, '\u{1b}')) => {
                // ESC \ ends the string; any other ESC cancels it and begins something new.
                if ahead.next_if(|(_, c)| *c == '\\').is_some() {
                    *rest = ahead;
                }
                return;
            }
            Some(_) => {}
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        let text = "epoch 3\tloss 0.25\nGrüße, 日本語 🎉\n";
        assert_eq!(sanitize(text), text);
    }

    #[test]
    fn colours_and_cursor_movements_go() {
        assert_eq!(sanitize("\x1b[1;31mred\x1b[0m \x1b[2J\x1b[10;20Hhere\x1b[?25l"), "red here");
    }

    #[test]
    fn titles_and_links_go() {
        assert_eq!(sanitize("\x1b]0;owned\x07text"), "text");
        assert_eq!(sanitize("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\"), "link");
        assert_eq!(sanitize("\x1bPq#0;2\x1b\\after"), "after");
    }

    #[test]
    fn other_escapes_go_with_their_final_byte() {
        assert_eq!(sanitize("\x1b(Ba\x1bcb\x1b7c\x1b"), "abc");
    }

    #[test]
    fn eight_bit_controls_go() {
        assert_eq!(sanitize("\u{9b}31mred\u{9d}0;title\u{9c}!"), "red!");
    }

    #[test]
    fn bells_backspaces_and_nulls_go() {
        assert_eq!(sanitize("a\x07b\x08c\0d\x7fe"), "abcde");
    }

    #[test]
    fn a_progress_bar_becomes_lines() {
        assert_eq!(sanitize("10%\r20%\r\ndone"), "10%\n20%\ndone");
    }

    #[test]
    fn text_after_an_unterminated_string_is_shown() {
        assert_eq!(sanitize("\x1b]0;title without end"), "0;title without end");
    }

    #[test]
    fn a_string_cancelled_by_a_sequence_does_not_hide_it() {
        assert_eq!(sanitize("\x1b]0;x\x1b[31mred"), "0;xred");
    }

    #[test]
    fn an_unfinished_sequence_does_not_eat_the_next_line() {
        assert_eq!(sanitize("\x1b[31\nnext"), "\nnext");
    }

    #[test]
    fn marks_that_reorder_text_go() {
        assert_eq!(sanitize("a\u{202e}b\u{2066}c"), "abc");
    }

    #[test]
    fn many_unterminated_strings_take_no_quadratic_time() {
        let text = "\x1b]".repeat(200_000);
        assert_eq!(sanitize(&text), "");
    }
}
