//! Any text that the caller declares.

use super::Behaviour;

/// Without keywords the whole target is the keyword.
pub(super) fn build(target: &str, keywords: &[String], appends: bool) -> Behaviour {
    let keywords = if keywords.is_empty() { vec![target.to_owned()] } else { keywords.to_vec() };
    Behaviour { target: target.to_owned(), keywords, appends, opening: String::new() }
}
