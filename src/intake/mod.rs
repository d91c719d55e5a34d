//! Quarantine: decides what an upload is without running, unpickling or believing any of it.
//!
//! The way of an upload: `sniff` names its form, `unpack` and `receiver` turn it into a flat folder of hashed
//! files, `inspect` reads headers and configuration and looks for weights that are no numbers, `check` holds
//! it against a base. Nothing here knows of purification. Start at [`inspect_upload`].

mod check;
mod facts;
mod inspect;
mod limits;
mod receiver;
mod rejection;
mod scan;
pub mod sniff;
mod unpack;
mod vocabulary;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

pub use check::check_against_base;
pub use facts::{AdapterFacts, ArtifactFacts, ArtifactKind, FileFacts};
pub use limits::IntakeLimits;
pub use rejection::{Rejection, code};

pub use inspect::{ADAPTER_CONFIG, TOKENIZER};
use receiver::Receiver;
use sniff::{Content, HEAD_BYTES, sniff};

/// Inspects an upload and unpacks it into `into`, which must be empty or absent.
///
/// `staged` is one file (tar, tar.gz, zip, or a single safetensors file) or a folder of plain files.
/// Afterwards `into` is a flat PEFT or checkpoint folder; after a rejection it holds nothing, and is gone if
/// it was absent before.
///
/// Memory stays constant but for safetensors headers, which [`IntakeLimits::max_header_bytes`] bounds.
///
/// # Errors
/// The first defect found, with one of the codes of [`code`].
pub fn inspect_upload(staged: &Path, limits: &IntakeLimits, into: &Path) -> Result<ArtifactFacts, Rejection> {
    let was_absent = prepare_folder(into)?;
    let facts = receive_upload(staged, limits, into).and_then(|files| inspect::inspect_files(into, files, limits));
    if facts.is_err() {
        clear_folder(into, was_absent);
    }
    facts
}

/// Creates the folder, or checks that it is empty; says whether it was absent.
fn prepare_folder(into: &Path) -> Result<bool, Rejection> {
    let io = |error| Rejection::from((into, error));
    match fs::read_dir(into) {
        Ok(mut entries) => match entries.next() {
            None => Ok(false),
            Some(_) => Err(Rejection::new(code::IO, "expected an empty folder to unpack into, found files in it")),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(into).map_err(io)?;
            Ok(true)
        }
        Err(error) => Err(io(error)),
    }
}

/// Best effort: the rejection is what the caller must hear of.
fn clear_folder(into: &Path, remove_itself: bool) {
    let _ = fs::remove_dir_all(into);
    if !remove_itself {
        let _ = fs::create_dir_all(into);
    }
}

fn receive_upload(staged: &Path, limits: &IntakeLimits, into: &Path) -> Result<Vec<FileFacts>, Rejection> {
    let io = |error| Rejection::from((staged, error));
    let metadata = fs::metadata(staged).map_err(io)?;
    let mut receiver = Receiver::new(into, limits, if metadata.is_dir() { u64::MAX } else { metadata.len() });
    if metadata.is_dir() {
        unpack::receive_folder(staged, &mut receiver)?;
        return receiver.finish();
    }
    let mut head = Vec::with_capacity(HEAD_BYTES);
    File::open(staged).and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut head)).map_err(io)?;
    if head.is_empty() {
        return Err(Rejection::new(code::EMPTY, "expected an adapter or a checkpoint, found an upload of 0 bytes"));
    }
    let file = File::open(staged).map_err(io)?;
    match sniff(&head) {
        Content::Tar => unpack::receive_tar(file, false, &mut receiver)?,
        Content::Gzip => unpack::receive_tar(file, true, &mut receiver)?,
        Content::Zip => unpack::receive_zip(file, &mut receiver)?,
        content => return Err(refuse_single_file(content)),
    }
    receiver.finish()
}

/// The reason for which a lone file that is no archive cannot be an artifact.
fn refuse_single_file(content: Content) -> Rejection {
    let (code, message) = match content {
        Content::Safetensors => (
            code::MISSING_FILE,
            "expected `adapter_config.json` or `config.json` beside the weights, found one safetensors file alone: \
             send both, or an archive of both",
        ),
        Content::Gguf => (
            code::MISSING_FILE,
            "expected `tokenizer.json` beside the weights, found one GGUF file alone: send both, or an archive of both",
        ),
        Content::OldGgml => (code::QUANTISED, sniff::OLD_GGML),
        Content::Pickle => (code::PICKLE, "expected safetensors, found a pickle: loading it would run it"),
        Content::Program => (code::REMOTE_CODE, "expected weights, found a program: nothing of an upload is ever run"),
        _ => (code::UNKNOWN_FORMAT, "expected a tar, tar.gz or zip archive, or safetensors with its configuration"),
    };
    Rejection::new(code, message)
}
