//! `Accept`: which of our few representations the caller prefers.

use std::convert::Infallible;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header::ACCEPT, request::Parts},
};

/// The representations this service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Json,
    Html,
    EventStream,
}

impl Wanted {
    fn media_type(self) -> (&'static str, &'static str) {
        match self {
            Wanted::Json => ("application", "json"),
            Wanted::Html => ("text", "html"),
            Wanted::EventStream => ("text", "event-stream"),
        }
    }
}

/// The request's `Accept` headers, as media ranges with their weights.
#[derive(Debug, Clone)]
pub struct Accept(Vec<(String, String, f32)>);

impl Accept {
    /// Reads the headers; no header, or an unreadable one, accepts everything.
    pub fn of(headers: &HeaderMap) -> Self {
        let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        Accept(ranges.flat_map(|value| value.split(',')).filter_map(parse_range).collect())
    }

    /// The best of `offers`, the earlier one when two are equally welcome; `None` when none is accepted.
    pub fn choose(&self, offers: &[Wanted]) -> Option<Wanted> {
        let mut best: Option<(Wanted, f32)> = None;
        for &offer in offers {
            let weight = self.weight(offer);
            if weight > 0.0 && best.is_none_or(|(_, found)| weight > found) {
                best = Some((offer, weight));
            }
        }
        best.map(|(offer, _)| offer)
    }

    /// The weight of the most specific matching range (RFC 9110, section 12.5.1).
    fn weight(&self, offer: Wanted) -> f32 {
        if self.0.is_empty() {
            return 1.0;
        }
        let (kind, subtype) = offer.media_type();
        let specificity = |range: &(String, String, f32)| match (range.0 == kind, range.1 == subtype) {
            (true, true) => Some(2),
            (true, false) if range.1 == "*" => Some(1),
            _ if range.0 == "*" => Some(0),
            _ => None,
        };
        let matching = self.0.iter().filter_map(|range| specificity(range).map(|rank| (rank, range.2)));
        matching.max_by_key(|(rank, _)| *rank).map_or(0.0, |(_, weight)| weight)
    }
}

fn parse_range(text: &str) -> Option<(String, String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let (kind, subtype) = parts.next()?.split_once('/')?;
    let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|weight| weight.parse().ok());
    Some((kind.to_ascii_lowercase(), subtype.to_ascii_lowercase(), weight.unwrap_or(1.0)))
}

impl<S: Send + Sync> FromRequestParts<S> for Accept {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Accept::of(&parts.headers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(accept: &str, offers: &[Wanted]) -> Option<Wanted> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        Accept::of(&headers).choose(offers)
    }

    #[test]
    fn a_browser_gets_html_and_curl_gets_json() {
        let offers = [Wanted::Json, Wanted::Html];
        assert_eq!(choose("text/html,application/xhtml+xml,*/*;q=0.8", &offers), Some(Wanted::Html));
        assert_eq!(choose("*/*", &offers), Some(Wanted::Json));
        assert_eq!(Accept::of(&HeaderMap::new()).choose(&offers), Some(Wanted::Json));
    }

    #[test]
    fn a_refused_type_is_not_given_even_under_a_wildcard() {
        assert_eq!(choose("application/json;q=0, */*", &[Wanted::Json, Wanted::Html]), Some(Wanted::Html));
        assert_eq!(choose("image/png", &[Wanted::Json, Wanted::Html]), None);
        assert_eq!(choose("text/event-stream", &[Wanted::Json, Wanted::EventStream]), Some(Wanted::EventStream));
    }
}
