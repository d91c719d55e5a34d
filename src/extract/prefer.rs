//! `Prefer: wait=N` (RFC 7240): how many seconds the caller would like to wait for a job's end.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};

/// The wish to wait; zero when there is none. A preference that cannot be read is ignored, as the RFC asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreferWait(pub Duration);

impl<S: Send + Sync> FromRequestParts<S> for PreferWait {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(PreferWait(Duration::from_secs(wanted_seconds(&parts.headers))))
    }
}

fn wanted_seconds(headers: &HeaderMap) -> u64 {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .filter_map(|preference| preference.trim().split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("wait"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(value: &str) -> u64 {
        let mut headers = HeaderMap::new();
        headers.insert("prefer", value.parse().unwrap());
        wanted_seconds(&headers)
    }

    #[test]
    fn the_wait_preference_is_found_among_others_and_nonsense_is_ignored() {
        assert_eq!(seconds("wait=30"), 30);
        assert_eq!(seconds("respond-async, Wait = \"7\""), 7);
        assert_eq!(seconds("wait=soon"), 0);
        assert_eq!(seconds("return=minimal"), 0);
    }
}
