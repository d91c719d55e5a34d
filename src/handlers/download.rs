//! Answers with bytes of the store: whole, in part, or not at all because the caller has them.
//!
//! A download is a list of segments of known length, so one blob and a tar of many blobs resume in the same
//! way.

use std::ops::Range;

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
        },
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::app::App;
use crate::artifacts::ArtifactStore;
use crate::db::ArtifactFile;
use crate::error::{ApiResult, Kind, Problem};
use crate::extract::{RangeAnswer, answer_range, digest_header};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// Files in a tar begin and end at multiples of this.
const TAR_BLOCK: u64 = 512;

/// A piece of a download.
#[derive(Debug, Clone)]
enum Segment {
    Bytes(Bytes),
    Blob { sha256: String, bytes: u64 },
}

/// Something to send.
#[derive(Debug)]
pub(super) struct Download {
    /// The name under which a browser saves it.
    file_name: String,
    media_type: &'static str,
    /// Without quotes.
    etag: String,
    /// Of the whole, if it is known without reading it.
    sha256: Option<String>,
    segments: Vec<Segment>,
}

impl Download {
    /// One file.
    pub(super) fn file(file: ArtifactFile, media_type: &'static str) -> Self {
        let blob = Segment::Blob { sha256: file.sha256.clone(), bytes: file.bytes.cast_unsigned() };
        Download {
            file_name: file.path,
            media_type,
            etag: format!("sha256-{}", file.sha256),
            sha256: Some(file.sha256),
            segments: vec![blob],
        }
    }

    /// All files as a tar. The same files give the same bytes: no times, owners or modes of this machine.
    pub(super) fn tar(name: &str, digest: &str, files: Vec<ArtifactFile>) -> ApiResult<Self> {
        let mut segments = Vec::with_capacity(3 * files.len() + 1);
        for file in files {
            let bytes = file.bytes.cast_unsigned();
            segments.push(Segment::Bytes(tar_header(&file)?));
            segments.push(Segment::Blob { sha256: file.sha256, bytes });
            segments.push(zeros(bytes.next_multiple_of(TAR_BLOCK) - bytes));
        }
        segments.push(zeros(2 * TAR_BLOCK));
        let (file_name, etag) = (format!("{name}.tar"), format!("sha256-{digest}-tar"));
        Ok(Download { file_name, media_type: "application/x-tar", etag, sha256: None, segments })
    }

    /// The answer to a request with these headers.
    pub(super) fn answer(self, app: &App, request: &HeaderMap) -> ApiResult<Response> {
        let length = self.segments.iter().map(Segment::len).sum();
        let etag = format!("\"{}\"", self.etag);
        let (status, range) = match answer_range(request, &etag, length) {
            RangeAnswer::NotModified => (StatusCode::NOT_MODIFIED, None),
            RangeAnswer::Whole => (StatusCode::OK, Some(0..length)),
            RangeAnswer::Part(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
            RangeAnswer::Unsatisfiable => return Err(unsatisfiable(length)),
        };
        let body = match &range {
            Some(range) => stream_segments(app.store.clone(), cut(self.segments, range.clone())),
            None => Body::empty(),
        };
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(ETAG, ascii(&etag)?);
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        if let Some(digest) = self.sha256.as_deref().and_then(digest_header) {
            headers.insert(REPR_DIGEST, digest);
        }
        if let Some(range) = range {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media_type));
            headers.insert(CONTENT_DISPOSITION, ascii(&attachment(&self.file_name))?);
            headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
            if status == StatusCode::PARTIAL_CONTENT {
                headers.insert(CONTENT_RANGE, ascii(&format!("bytes {}-{}/{length}", range.start, range.end - 1))?);
            }
        }
        Ok(response)
    }
}

impl Segment {
    fn len(&self) -> u64 {
        match self {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::Blob { bytes, .. } => *bytes,
        }
    }
}

fn ascii(text: &str) -> ApiResult<HeaderValue> {
    HeaderValue::from_str(text).map_err(Problem::internal)
}

fn unsatisfiable(length: u64) -> Problem {
    let value = HeaderValue::from_str(&format!("bytes */{length}")).expect("digits and signs make a header value");
    Problem::new(Kind::RangeNotSatisfiable, format!("the file has {length} bytes")).with_header(CONTENT_RANGE, value)
}

/// RFC 6266. The plain name is for old programs and keeps only harmless characters.
fn attachment(name: &str) -> String {
    let harmless = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let plain: String = name.chars().map(|character| if harmless(character) { character } else { '_' }).collect();
    if plain == name {
        return format!("attachment; filename=\"{plain}\"");
    }
    let encoded: String = name
        .bytes()
        .map(|byte| if harmless(byte as char) { (byte as char).to_string() } else { format!("%{byte:02X}") })
        .collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

fn zeros(count: u64) -> Segment {
    static ZEROS: [u8; 2 * TAR_BLOCK as usize] = [0; 2 * TAR_BLOCK as usize];
    Segment::Bytes(Bytes::from_static(&ZEROS[..count as usize]))
}

fn tar_header(file: &ArtifactFile) -> ApiResult<Bytes> {
    let mut header = tar::Header::new_ustar();
    header.set_path(&file.path)?;
    header.set_size(file.bytes.cast_unsigned());
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

/// The part of each segment that lies in `range` of their concatenation.
fn cut(segments: Vec<Segment>, range: Range<u64>) -> Vec<(Segment, Range<u64>)> {
    let mut start = 0;
    let mut parts = Vec::new();
    for segment in segments {
        let end = start + segment.len();
        let (first, last) = (range.start.max(start), range.end.min(end));
        if first < last {
            parts.push((segment, first - start..last - start));
        }
        start = end;
    }
    parts
}

fn stream_segments(store: ArtifactStore, parts: Vec<(Segment, Range<u64>)>) -> Body {
    let opened =
        stream::iter(parts).then(move |(segment, range)| {
            let store = store.clone();
            async move {
                open_segment(&store, segment, range).await.inspect_err(|error| tracing::error!(%error, "download"))
            }
        });
    Body::from_stream(opened.try_flatten())
}

type Chunks = stream::BoxStream<'static, anyhow::Result<Bytes>>;

async fn open_segment(store: &ArtifactStore, segment: Segment, range: Range<u64>) -> anyhow::Result<Chunks> {
    match segment {
        Segment::Bytes(bytes) => {
            let part = bytes.slice(range.start as usize..range.end as usize);
            Ok(stream::once(std::future::ready(Ok(part))).boxed())
        }
        Segment::Blob { sha256, .. } => {
            let blob = store.get(&sha256, Some(range)).await?;
            Ok(blob.stream.map_err(anyhow::Error::from).boxed())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &'static str) -> Segment {
        Segment::Bytes(Bytes::from_static(text.as_bytes()))
    }

    fn joined(range: Range<u64>) -> String {
        let parts = cut(vec![bytes("abc"), bytes(""), bytes("defg"), bytes("h")], range);
        let text = |(segment, range): (Segment, Range<u64>)| match segment {
            Segment::Bytes(bytes) => {
                String::from_utf8(bytes[range.start as usize..range.end as usize].to_vec()).unwrap()
            }
            Segment::Blob { .. } => unreachable!("this test has no blobs"),
        };
        parts.into_iter().map(text).collect()
    }

    #[test]
    fn any_range_of_the_segments_is_that_range_of_their_concatenation() {
        for start in 0..8 {
            for end in start + 1..=8 {
                assert_eq!(joined(start..end), "abcdefgh"[start as usize..end as usize]);
            }
        }
    }

    #[test]
    fn a_hostile_name_cannot_leave_its_header() {
        assert_eq!(attachment("a.bin"), "attachment; filename=\"a.bin\"");
        assert_eq!(attachment("a\"\r\nb"), "attachment; filename=\"a___b\"; filename*=UTF-8''a%22%0D%0Ab");
    }
}
