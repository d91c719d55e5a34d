//! Conditional and partial downloads: `If-None-Match`, `Range`, `If-Range` (RFC 9110, sections 13 and 14).

use std::ops::Range;

use axum::http::{
    HeaderMap,
    header::{IF_NONE_MATCH, IF_RANGE, RANGE},
};

/// The answer to a conditional request for a representation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeAnswer {
    /// 304: the caller has these bytes.
    NotModified,
    /// 200.
    Whole,
    /// 206 with these bytes.
    Part(Range<u64>),
    /// 416.
    Unsatisfiable,
}

/// Decides by the request headers for a representation of `length_bytes` under the strong `etag` (with its
/// quotes).
///
/// Several ranges in one header are answered with the whole, which the RFC allows and no downloader needs.
pub fn answer_range(headers: &HeaderMap, etag: &str, length_bytes: u64) -> RangeAnswer {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    if text(IF_NONE_MATCH).is_some_and(|list| matches_any(list, etag)) {
        return RangeAnswer::NotModified;
    }
    // A date in If-Range never matches: we send no Last-Modified.
    if text(IF_RANGE).is_some_and(|validator| validator.trim() != etag) {
        return RangeAnswer::Whole;
    }
    match text(RANGE).and_then(|value| value.trim().strip_prefix("bytes=")) {
        Some(spec) if !spec.contains(',') => one_range(spec.trim(), length_bytes),
        _ => RangeAnswer::Whole,
    }
}

/// Weak comparison, as `If-None-Match` asks.
fn matches_any(list: &str, etag: &str) -> bool {
    list.trim() == "*" || list.split(',').any(|item| item.trim().trim_start_matches("W/") == etag)
}

fn one_range(spec: &str, length: u64) -> RangeAnswer {
    let Some((first, last)) = spec.split_once('-') else { return RangeAnswer::Whole };
    let range = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => return RangeAnswer::Whole,
        (Ok(first), Ok(last)) => first..last.saturating_add(1).min(length),
        (Ok(first), Err(_)) if last.is_empty() => first..length,
        (Err(_), Ok(suffix)) if first.is_empty() => length.saturating_sub(suffix)..length,
        _ => return RangeAnswer::Whole,
    };
    if range.is_empty() { RangeAnswer::Unsatisfiable } else { RangeAnswer::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "\"sha256-ab\"";

    fn answer(pairs: &[(axum::http::HeaderName, &str)]) -> RangeAnswer {
        let headers = pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        answer_range(&headers, TAG, 10)
    }

    #[test]
    fn ranges_count_from_either_end_and_stop_at_the_end() {
        for (spec, expected) in [
            ("bytes=0-3", RangeAnswer::Part(0..4)),
            ("bytes=4-", RangeAnswer::Part(4..10)),
            ("bytes=-3", RangeAnswer::Part(7..10)),
            ("bytes=-30", RangeAnswer::Part(0..10)),
            ("bytes=8-99", RangeAnswer::Part(8..10)),
            ("bytes=10-", RangeAnswer::Unsatisfiable),
            ("bytes=-0", RangeAnswer::Unsatisfiable),
            ("bytes=3-1", RangeAnswer::Whole),
            ("bytes=0-1,4-5", RangeAnswer::Whole),
            ("lines=1-2", RangeAnswer::Whole),
            ("bytes=18446744073709551615-18446744073709551615", RangeAnswer::Unsatisfiable),
        ] {
            assert_eq!(answer(&[(RANGE, spec)]), expected, "{spec}");
        }
    }

    #[test]
    fn a_part_is_only_given_of_the_version_that_the_caller_has() {
        assert_eq!(answer(&[(RANGE, "bytes=0-3"), (IF_RANGE, TAG)]), RangeAnswer::Part(0..4));
        assert_eq!(answer(&[(RANGE, "bytes=0-3"), (IF_RANGE, "\"sha256-old\"")]), RangeAnswer::Whole);
    }

    #[test]
    fn known_bytes_are_not_sent_again() {
        assert_eq!(answer(&[(IF_NONE_MATCH, "\"other\", W/\"sha256-ab\"")]), RangeAnswer::NotModified);
        assert_eq!(answer(&[(IF_NONE_MATCH, "*"), (RANGE, "bytes=0-1")]), RangeAnswer::NotModified);
        assert_eq!(answer(&[(IF_NONE_MATCH, "\"other\"")]), RangeAnswer::Whole);
    }
}
