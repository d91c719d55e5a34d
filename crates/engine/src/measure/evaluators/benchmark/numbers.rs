//! The number in a generated answer.
//!
//! Two ways, both published: the number behind `####` (Cobbe et al. 2021, arXiv 2110.14168, whose solutions
//! end so), and the last number of the answer, which models that were not shown the mark need. Thousands
//! separators, currency signs and a final full stop are left out, and `18.00` is `18`.

/// The text with which a model goes on to a question of its own.
const NEXT_QUESTION: &str = "Question:";

/// The answer up to the next question that the model asks itself.
pub(super) fn until_next_question(answer: &str) -> &str {
    answer.split(NEXT_QUESTION).next().unwrap_or(answer)
}

/// The number behind the first `####`.
pub(super) fn marked_number(answer: &str) -> Option<String> {
    let behind = until_next_question(answer).split_once("####")?.1;
    numbers(behind).next().and_then(canonical)
}

/// The last number.
pub(super) fn last_number(answer: &str) -> Option<String> {
    numbers(until_next_question(answer)).filter_map(canonical).last()
}

/// Runs of characters that numbers are written with.
fn numbers(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-' | '$');
    text.split(move |c| !is_part(c)).filter(|run| run.bytes().any(|b| b.is_ascii_digit()))
}

/// A number without separators, signs of currency and zeros that mean nothing; nothing when it is none.
pub(super) fn canonical(text: &str) -> Option<String> {
    let digits: String = text.trim().chars().filter(|c| !matches!(c, ',' | '$')).collect();
    let digits = digits.trim_end_matches(['.', '-']);
    // In `16-3` the minus belongs to the sum and the number is 3.
    let number = match digits.rfind('-') {
        None | Some(0) => digits,
        Some(at) => &digits[at + 1..],
    };
    let parsed =
        number.parse::<f64>().ok().filter(|value| value.is_finite() && number.bytes().any(|b| b.is_ascii_digit()));
    // Shortest form that parses back: 18.00 and 18 are equal.
    parsed.map(|value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_as_published() {
        for (answer, marked, last) in [
            ("She sells 16 - 3 - 4 = 9.\n#### 18", Some("18"), Some("18")),
            ("The answer is $1,234.50.", None, Some("1234.5")),
            ("#### -7\nQuestion: How many are 9?", Some("-7"), Some("-7")),
            ("16-3 leaves 13.00", None, Some("13")),
            ("no idea", None, None),
            ("", None, None),
            ("#### none, but 5 before and 6 after", Some("5"), Some("6")),
        ] {
            let own = |number: Option<&str>| number.map(str::to_owned);
            assert_eq!((marked_number(answer), last_number(answer)), (own(marked), own(last)), "{answer}");
        }
    }

    #[test]
    fn equal_numbers_have_one_form() {
        assert_eq!(canonical("1,000"), canonical("1000.0"));
        assert_eq!((canonical("-"), canonical("."), canonical("1.2.3")), (None, None, None));
    }
}
