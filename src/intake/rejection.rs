//! The refusal of an upload: a stable code for programs, a sentence for people, and the place.

use std::path::Path;

use serde::Serialize;
use utoipa::ToSchema;

/// One refused upload. The first defect found ends the inspection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rejection {
    /// Stable name of the defect, `intake.<defect>`.
    #[schema(value_type = String, example = "intake.pickle")]
    pub code: &'static str,
    /// The expectation and the finding.
    pub message: String,
    /// The place: a path inside the upload, a tensor, a configuration field.
    pub at: Option<String>,
}

impl Rejection {
    /// A rejection without a place.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: show(&message.into(), 1000), at: None }
    }

    /// Names the place.
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.at = Some(show(&place.into(), 200));
        self
    }

    /// True when the service failed rather than the upload: nothing was decided about the bytes.
    pub fn is_ours(&self) -> bool {
        matches!(self.code, code::IO | code::STORAGE_FULL)
    }
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.at {
            Some(place) => write!(formatter, "{}: {} (at {place})", self.code, self.message),
            None => write!(formatter, "{}: {}", self.code, self.message),
        }
    }
}

impl std::error::Error for Rejection {}

/// Every code, in one place. A code is public: it may get company, never another meaning.
pub mod code {
    /// The service could not read or write its own disk; nothing is wrong with the upload.
    pub const IO: &str = "intake.io";
    /// The service's disk is full.
    pub const STORAGE_FULL: &str = "intake.storage_full";

    /// No bytes, or no files.
    pub const EMPTY: &str = "intake.empty";
    /// Neither safetensors nor an archive that is taken.
    pub const UNKNOWN_FORMAT: &str = "intake.unknown_format";
    /// The archive's own structure is damaged.
    pub const BROKEN_ARCHIVE: &str = "intake.broken_archive";
    /// An archive inside the upload.
    pub const NESTED_ARCHIVE: &str = "intake.nested_archive";
    /// A pickle: loading one runs it.
    pub const PICKLE: &str = "intake.pickle";
    /// Program text, or a configuration that asks for it.
    pub const REMOTE_CODE: &str = "intake.remote_code";
    /// A file that is no part of an adapter or a checkpoint.
    pub const UNKNOWN_FILE: &str = "intake.unknown_file";
    /// A symbolic or hard link.
    pub const LINK: &str = "intake.link";
    /// A device, pipe, socket or sparse entry.
    pub const SPECIAL_FILE: &str = "intake.special_file";
    /// A name that leaves the upload, or that not every system can hold.
    pub const PATH: &str = "intake.path";
    /// Folders inside folders, or files of one artifact in several folders.
    pub const LAYOUT: &str = "intake.layout";
    /// Two files of one name.
    pub const DUPLICATE_FILE: &str = "intake.duplicate_file";
    /// More bytes than are taken.
    pub const TOO_LARGE: &str = "intake.too_large";
    /// More files or archive entries than are taken.
    pub const TOO_MANY_FILES: &str = "intake.too_many_files";
    /// Unpacks to far more than it was packed.
    pub const BOMB: &str = "intake.decompression_bomb";
    /// An adapter or a checkpoint lacks a file.
    pub const MISSING_FILE: &str = "intake.missing_file";
    /// A text file is not text, or a JSON file not JSON.
    pub const BAD_TEXT: &str = "intake.bad_text";

    /// A safetensors header larger than is taken.
    pub const HEADER_TOO_LARGE: &str = "intake.header_too_large";
    /// A safetensors header that is no JSON object of tensors.
    pub const HEADER_NOT_JSON: &str = "intake.header_not_json";
    /// A safetensors header that is not UTF-8.
    pub const NAME_NOT_UTF8: &str = "intake.name_not_utf8";
    /// A safetensors file that ends before its data does.
    pub const TRUNCATED: &str = "intake.truncated";
    /// A safetensors file without tensors.
    pub const NO_TENSORS: &str = "intake.no_tensors";
    /// More tensors than are taken.
    pub const TOO_MANY_TENSORS: &str = "intake.too_many_tensors";
    /// An empty, overlong or unprintable tensor name.
    pub const TENSOR_NAME: &str = "intake.tensor_name";
    /// Two tensors of one name.
    pub const DUPLICATE_TENSOR: &str = "intake.duplicate_tensor";
    /// An element type that is unknown or not taken.
    pub const DTYPE: &str = "intake.dtype";
    /// A tensor whose shape and bytes disagree.
    pub const TENSOR_SIZE: &str = "intake.tensor_size";
    /// Two tensors share bytes.
    pub const TENSOR_OVERLAP: &str = "intake.tensor_overlap";
    /// Bytes that belong to no tensor.
    pub const TENSOR_HOLE: &str = "intake.tensor_hole";
    /// A GGUF header that says something impossible.
    pub const GGUF: &str = "intake.gguf";
    /// Weights quantised in a way that is not read, refused by name.
    pub const QUANTISED: &str = "intake.quantised";
    /// A tokenizer with token numbers beyond the rows of the embedding.
    pub const VOCABULARY: &str = "intake.vocabulary";
    /// A weight is NaN or infinite.
    pub const NOT_FINITE: &str = "intake.not_finite";

    /// A configuration file says something impossible.
    pub const CONFIG: &str = "intake.config";
    /// An adapter of rank 0.
    pub const RANK_ZERO: &str = "intake.rank_zero";
    /// A valid feature that Antigen does not do, refused by name.
    pub const UNSUPPORTED: &str = "intake.unsupported";
    /// A target module that the base does not have.
    pub const UNKNOWN_TARGET: &str = "intake.unknown_target";
    /// Made for another base.
    pub const WRONG_BASE: &str = "intake.wrong_base";
    /// A tensor is missing, one too many, or of another shape than the configuration gives it.
    pub const TENSOR_MISMATCH: &str = "intake.tensor_mismatch";
}

/// Text that may come from the submitter, made fit to be shown: characters that hide or turn text escaped,
/// the rest cut.
fn show(text: &str, max_characters: usize) -> String {
    let mut out = String::new();
    for character in text.chars().take(max_characters) {
        let hides = matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        match hides || character.is_control() {
            true => out.extend(character.escape_unicode()),
            false => out.push(character),
        }
    }
    out
}

impl From<(&Path, std::io::Error)> for Rejection {
    fn from((path, error): (&Path, std::io::Error)) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => code::STORAGE_FULL,
            _ => code::IO,
        };
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self::new(code, error.to_string()).at(name)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn text_of_the_submitter_cannot_hide_or_turn_what_is_shown() {
        let rejection = Rejection::new(code::PATH, "\u{202e}x\n").at("a\u{0}b".repeat(200));
        assert_eq!(rejection.message, "\\u{202e}x\\u{a}");
        assert!(rejection.at.unwrap().starts_with("a\\u{0}ba"));
        assert_eq!(Rejection::new(code::PATH, "x".repeat(5000)).message.len(), 1000);
    }

    #[test]
    fn a_full_disk_is_ours_and_a_pickle_is_not() {
        let full = Rejection::from((Path::new("/srv/staging/model.safetensors"), Error::from(ErrorKind::StorageFull)));
        assert_eq!((full.code, full.at.as_deref()), (code::STORAGE_FULL, Some("model.safetensors")));
        assert!(full.is_ours());
        assert!(!Rejection::new(code::PICKLE, "").is_ours());
    }
}
