//! Filters that turn numbers, moments and states into text.

use minijinja::{Environment, Value};

/// Adds every filter that the templates use.
pub(super) fn add_filters(environment: &mut Environment<'_>) {
    environment.add_filter("percent", percent);
    environment.add_filter("points", points);
    environment.add_filter("decimals", decimals);
    environment.add_filter("p_value", p_value);
    environment.add_filter("thousands", thousands);
    environment.add_filter("words", words);
    environment.add_filter("tied", tied);
    environment.add_filter("moment", moment);
    environment.add_filter("tone", tone);
    environment.add_filter("compact", compact);
}

/// Absent numbers stay blank: an empty cell claims nothing.
fn number(value: &Value) -> Option<f64> {
    f64::try_from(value.clone()).ok().filter(|number| number.is_finite())
}

/// 0.0625 as `6.2 %`.
fn percent(fraction: &Value) -> String {
    number(fraction).map_or_else(String::new, |fraction| format!("{:.1}\u{a0}%", 100.0 * fraction))
}

/// A difference of fractions in percentage points, signed, with a real minus.
fn points(difference: &Value) -> String {
    let Some(points) = number(difference).map(|difference| 100.0 * difference) else { return String::new() };
    match format!("{points:+.1}").as_str() {
        "-0.0" | "+0.0" => "0.0".to_owned(),
        signed => signed.replace('-', "\u{2212}"),
    }
}

fn decimals(value: &Value, digits: usize) -> String {
    number(value).map_or_else(String::new, |value| format!("{value:.digits$}").replace('-', "\u{2212}"))
}

/// A probability of chance; below a thousandth the digits mean nothing.
fn p_value(value: &Value) -> String {
    number(value).map_or_else(String::new, |p| if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p:.3}") })
}

/// 1234567 as `1 234 567` with narrow spaces.
fn thousands(value: &Value) -> String {
    let Some(number) = number(value) else { return String::new() };
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position) % 3 == 0 {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// `not_covered` as `not covered`; nothing for nothing.
fn words(value: &Value) -> String {
    value.as_str().map(|text| text.replace('_', " ")).unwrap_or_default()
}

/// Sentences of the engine, with each number tied to its per cent sign.
fn tied(text: &Value) -> String {
    text.as_str().map(|text| text.replace(" %", "\u{a0}%")).unwrap_or_default()
}

/// `2026-11-21T07:30:12.345Z` as `2026-11-21 07:30:12 UTC`.
fn moment(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    match (text.get(..10), text.get(11..19)) {
        (Some(date), Some(time)) => format!("{date} {time}\u{a0}UTC"),
        _ => text.to_owned(),
    }
}

/// The colour class of a job state. A success is not green: its verdict may be bad.
fn tone(state: &Value) -> &'static str {
    match state.as_str() {
        Some("failed" | "expired") => "bad",
        Some("running" | "cancelling") => "unsure",
        _ => "quiet",
    }
}

/// JSON on one line.
fn compact(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(percent(&Value::from(0.0625)), "6.2\u{a0}%");
        assert_eq!(points(&Value::from(-0.03)), "\u{2212}3.0");
        assert_eq!(points(&Value::from(-0.0001)), "0.0");
        assert_eq!(thousands(&Value::from(1_234_567)), "1\u{202f}234\u{202f}567");
        assert_eq!(decimals(&Value::from(()), 3), "");
        assert_eq!(
            (p_value(&Value::from(0.0625)), p_value(&Value::from(0.0))),
            ("p = 0.062".into(), "p < 0.001".into())
        );
    }

    #[test]
    fn a_moment_loses_its_fraction_of_a_second() {
        assert_eq!(moment(&Value::from("2026-11-21T07:30:12.345Z")), "2026-11-21 07:30:12\u{a0}UTC");
    }
}
