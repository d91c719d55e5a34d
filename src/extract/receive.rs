//! Request bodies that are files: streamed to disk with a running SHA-256, in constant memory, never longer
//! than allowed.

use std::{path::Path, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    http::{
        HeaderMap,
        header::{CONTENT_ENCODING, CONTENT_LENGTH},
    },
};
use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::error::{ApiResult, Kind, Problem};

/// Silence on the wire after which a sender counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes, and the time, that are read and dropped after a refusal.
const DRAIN_BYTES: usize = 32 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// The facts that are known of a file before its first byte arrives.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Its exact size, if announced.
    pub bytes: Option<u64>,
    /// Its SHA-256 in hexadecimal digits, once for every place that announced one.
    pub sha256: Vec<String>,
    /// The most that may arrive.
    pub limit_bytes: u64,
}

/// A file that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// Refuses by its headers what would be refused after its last byte.
pub fn check_headers(headers: &HeaderMap, expected: &Expected) -> ApiResult<()> {
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Problem::new(Kind::UnsupportedMediaType, "expected the file as it is, found a Content-Encoding"));
    }
    match headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(bytes) => check_length(bytes, expected, bytes),
        None => Ok(()),
    }
}

/// Writes `body` to the new file `target` and compares it with what is expected. After an error the file may
/// hold anything: the caller removes it.
pub async fn receive_file(body: Body, target: &Path, expected: &Expected) -> ApiResult<Received> {
    let mut chunks = body.into_data_stream();
    let outcome = write_chunks(&mut chunks, target, expected).await;
    if outcome.is_err() {
        drain(&mut chunks).await;
    }
    outcome
}

/// Reads on for a moment: a sender that is still writing when the connection closes sees a broken pipe
/// instead of the refusal.
async fn drain(chunks: &mut BodyDataStream) {
    let read = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // What is still coming after that is its sender's loss.
    let _ = tokio::time::timeout(DRAIN_TIME, read).await;
}

async fn write_chunks(chunks: &mut BodyDataStream, target: &Path, expected: &Expected) -> ApiResult<Received> {
    let mut file = tokio::fs::File::create(target).await?;
    let mut hasher = Sha256::new();
    let mut received = 0u64;
    while let Some(chunk) = next_chunk(chunks).await? {
        received += chunk.len() as u64;
        check_length(received, expected, received.max(expected.bytes.unwrap_or(0)))?;
        hasher.update(&chunk);
        file.write_all(&chunk).await?;
    }
    file.sync_all().await?;
    check_length(received, expected, received)?;
    let sha256 = format!("{:x}", hasher.finalize());
    match expected.sha256.iter().find(|announced| **announced != sha256) {
        Some(announced) => {
            let detail = format!("expected bytes with the SHA-256 {announced}, found {sha256} after {received} bytes");
            Err(Problem::new(Kind::DigestMismatch, detail))
        }
        None => Ok(Received { bytes: received, sha256 }),
    }
}

async fn next_chunk(chunks: &mut BodyDataStream) -> ApiResult<Option<Bytes>> {
    let broken = |why: String| Problem::new(Kind::LengthMismatch, format!("the body broke off: {why}"));
    match tokio::time::timeout(PATIENCE, chunks.next()).await {
        Err(_) => Err(broken(format!("no byte for {} seconds", PATIENCE.as_secs()))),
        Ok(Some(Err(cause))) => Err(broken(cause.to_string())),
        Ok(chunk) => Ok(chunk.transpose().unwrap_or_default()),
    }
}

/// `bytes` so far, of `total` that there will be at least.
fn check_length(bytes: u64, expected: &Expected, total: u64) -> ApiResult<()> {
    if bytes > expected.limit_bytes {
        let detail = format!("expected at most {} bytes, found {bytes} or more", expected.limit_bytes);
        return Err(Problem::new(Kind::PayloadTooLarge, detail));
    }
    match expected.bytes {
        Some(announced) if announced != total => {
            Err(Problem::new(Kind::LengthMismatch, format!("expected the announced {announced} bytes, found {total}")))
        }
        _ if total == 0 => {
            Err(Problem::new(Kind::LengthMismatch, "expected a file, found no bytes at all").with_code("upload.empty"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    async fn receive(body: &'static str, expected: Expected) -> ApiResult<Received> {
        let dir = tempfile::tempdir().unwrap();
        receive_file(Body::from(body), &dir.path().join("file"), &expected).await
    }

    #[tokio::test]
    async fn what_arrives_as_announced_is_taken() {
        let expected = Expected { bytes: Some(3), sha256: vec![ABC.to_owned()], limit_bytes: 3 };
        assert_eq!(receive("abc", expected).await.unwrap(), Received { bytes: 3, sha256: ABC.to_owned() });
    }

    #[tokio::test]
    async fn every_difference_has_its_own_kind() {
        let limit_bytes = 10;
        let announced = |bytes, sha256: &[&str]| Expected {
            bytes,
            sha256: sha256.iter().map(|digest| (*digest).to_owned()).collect(),
            limit_bytes,
        };
        for (body, expected, kind) in [
            ("abcd", announced(Some(3), &[]), Kind::LengthMismatch),
            ("ab", announced(Some(3), &[]), Kind::LengthMismatch),
            ("", announced(None, &[]), Kind::LengthMismatch),
            ("abd", announced(None, &[ABC]), Kind::DigestMismatch),
            ("0123456789a", announced(None, &[]), Kind::PayloadTooLarge),
        ] {
            assert_eq!(receive(body, expected).await.unwrap_err().kind, kind, "{body}");
        }
    }
}
