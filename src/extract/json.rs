//! JSON bodies, with the place of every mistake as a JSON pointer.

use axum::{
    body::HttpBody,
    extract::{FromRequest, OptionalFromRequest, Request},
    http::header::CONTENT_TYPE,
};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use crate::error::{Kind, Problem};

/// A JSON body. Wrong media type: 415; broken syntax: 400; right syntax but wrong data: 422 with a pointer;
/// too long: 413.
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(&request) {
            return Err(Problem::new(Kind::UnsupportedMediaType, "expected Content-Type: application/json"));
        }
        let body =
            Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status().as_u16() {
                413 => Problem::new(Kind::PayloadTooLarge, "the JSON body is longer than the service reads"),
                _ => Problem::new(Kind::MalformedRequest, rejection.body_text()),
            })?;
        parse(&body).map(Json)
    }
}

/// A request without a body and without a media type has none, instead of a wrong one.
impl<S: Send + Sync, T: DeserializeOwned> OptionalFromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        if !request.headers().contains_key(CONTENT_TYPE) && request.body().is_end_stream() {
            return Ok(None);
        }
        <Self as FromRequest<S>>::from_request(request, state).await.map(Some)
    }
}

fn is_json(request: &Request) -> bool {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads JSON and turns every mistake into the problem that names its place.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let pointer = pointer_of(error.path());
        let cause = error.into_inner();
        match cause.classify() {
            serde_json::error::Category::Data => Problem::invalid(pointer, without_position(&cause.to_string())),
            _ => Problem::new(Kind::MalformedRequest, format!("the body is not JSON: {cause}")),
        }
    })?;
    reader.end().map_err(|cause| Problem::new(Kind::MalformedRequest, format!("the body is not JSON: {cause}")))?;
    Ok(value)
}

/// The pointer says where: line and column of what may have been written by a program help nobody.
fn without_position(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(what, _)| what)
}

/// RFC 6901: `~` and `/` inside a name are escaped.
fn pointer_of(path: &Path) -> String {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("/{index}")),
            Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            // A variant name is no step into the document; an unknown step cannot be named.
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        #[allow(dead_code)]
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    struct Item {
        #[allow(dead_code)]
        count: u32,
    }

    #[test]
    fn a_wrong_value_is_named_by_its_pointer() {
        let problem = parse::<Order>(br#"{"items":[{"count":1},{"count":-2}]}"#).unwrap_err();
        assert_eq!(problem.kind, Kind::InvalidRequest);
        assert_eq!(problem.errors[0].pointer, "/items/1/count");
    }

    #[test]
    fn an_unknown_field_is_named() {
        let problem = parse::<Order>(br#"{"items":[],"colour/shade":1}"#).unwrap_err();
        assert_eq!(problem.errors[0].pointer, "/colour~1shade");
        assert!(problem.detail.contains("unknown field"), "{}", problem.detail);
    }

    #[test]
    fn broken_syntax_and_trailing_text_are_malformed() {
        for body in [&b"{"[..], b"{\"items\":[]} x", b""] {
            assert_eq!(parse::<Order>(body).unwrap_err().kind, Kind::MalformedRequest);
        }
    }
}
