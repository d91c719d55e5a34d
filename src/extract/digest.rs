//! `Content-Digest` and `Repr-Digest` (RFC 9530), SHA-256 only. For a plain upload both speak about the same
//! bytes.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, request::Parts},
};
use base64::{Engine, prelude::BASE64_STANDARD};

use crate::error::Problem;

/// The SHA-256 that the request announces for its body, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncedDigest(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for AnnouncedDigest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        announced(&parts.headers).map(AnnouncedDigest)
    }
}

fn announced(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut found: Option<String> = None;
    for name in ["content-digest", "repr-digest"] {
        for value in headers.get_all(name) {
            let Some(digest) = sha256_of(name, value)? else { continue };
            if found.as_ref().is_some_and(|earlier| *earlier != digest) {
                return Err(Problem::malformed(name, "two digest headers announce different SHA-256 values"));
            }
            found = Some(digest);
        }
    }
    Ok(found)
}

/// The `sha-256` member of one header; members of other algorithms are skipped.
fn sha256_of(name: &str, value: &HeaderValue) -> Result<Option<String>, Problem> {
    let wrong = || Problem::malformed(name, "expected sha-256=:<44 characters of base64>:");
    let text = value.to_str().map_err(|_| wrong())?;
    let member = text.split(',').filter_map(|member| member.trim().split_once('='));
    let Some((_, encoded)) = member.into_iter().find(|(key, _)| *key == "sha-256") else { return Ok(None) };
    let encoded = encoded.trim().strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).ok_or_else(wrong)?;
    let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| wrong())?;
    if bytes.len() != 32 {
        return Err(wrong());
    }
    Ok(Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// The header value for a SHA-256 in hexadecimal digits; `None` when `sha256` is not one.
pub fn digest_header(sha256: &str) -> Option<HeaderValue> {
    let pairs = sha256.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Option<Vec<u8>> = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect();
    let bytes = bytes.filter(|bytes| bytes.len() == 32)?;
    HeaderValue::from_str(&format!("sha-256=:{}:", BASE64_STANDARD.encode(bytes))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of no bytes at all.
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_header_we_write_is_the_header_we_read() {
        let written = digest_header(EMPTY).unwrap();
        assert_eq!(written, "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:");
        let read = announced(&headers(&[("repr-digest", written.to_str().unwrap())])).unwrap();
        assert_eq!(read.as_deref(), Some(EMPTY));
    }

    #[test]
    fn other_algorithms_are_skipped_and_broken_values_refused() {
        assert_eq!(announced(&headers(&[("content-digest", "sha-512=:YWJj:")])).unwrap(), None);
        for broken in ["sha-256=YWJj", "sha-256=:YWJj:", "sha-256=:***:"] {
            assert!(announced(&headers(&[("content-digest", broken)])).is_err(), "{broken}");
        }
    }

    #[test]
    fn headers_that_contradict_each_other_are_refused() {
        let other = digest_header(&EMPTY.replace('e', "f")).unwrap();
        let pairs = [
            ("content-digest", other.to_str().unwrap()),
            ("repr-digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"),
        ];
        assert!(announced(&headers(&pairs)).is_err());
    }
}
