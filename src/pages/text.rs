//! Hostile text made visible. Names, prompts and answers come from whoever made the model: characters that
//! would hide or reorder text are shown as escapes, and everything is escaped for HTML.

use std::fmt::Write;

use minijinja::{Error, Output, State, Value, escape_formatter};

/// The formatter of every `{{ expression }}` in our templates. The templating engine's own escapes are sound
/// too, but turn every slash into an entity, which makes the source of a page hard to read.
pub(super) fn visible_formatter(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) if !value.is_safe() => Ok(out.write_str(&escape(&visible(text)))?),
        _ => escape_formatter(out, state, value),
    }
}

/// For text and for quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// `text` with control, direction and invisible characters written as `\u{…}`.
pub(super) fn visible(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, character| {
        match character {
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            _ if is_hidden(character) => {
                write!(shown, "\\u{{{:x}}}", character as u32).expect("writing to a string cannot fail");
            }
            _ => shown.push(character),
        }
        shown
    })
}

/// Control characters except the line feed, which a browser shows as space; direction marks, overrides and
/// isolates; joiners and fillers without width; tags.
fn is_hidden(character: char) -> bool {
    (character.is_control() && character != '\n')
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_would_reorder_or_hide_is_shown_as_escapes() {
        assert_eq!(visible("safe \u{202e}gpj.exe"), "safe \\u{202e}gpj.exe");
        assert_eq!(visible("a\u{200b}b\0\x1b[31m"), "a\\u{200b}b\\u{0}\\u{1b}[31m");
        assert_eq!(visible("two\r\nlines\t"), "two\\r\nlines\\t");
    }

    #[test]
    fn ordinary_text_of_any_script_stays() {
        for text in ["Grüße, 你好, שלום", "a < b & c", "emoji 🙂"] {
            assert_eq!(visible(text), text);
        }
    }
}
