//! Weights of an upload: header defects told as rejections, and weights that are no numbers.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use antigen_models::checkpoint::gguf::{GgufHeader, read_gguf};
use antigen_models::checkpoint::header::{Dtype, HeaderError, HeaderLimits, TensorEntry, read_header};
use antigen_models::checkpoint::{Checkpoint, UPLOAD_INSTEAD};

use super::inspect::reject;
use super::limits::IntakeLimits;
use super::rejection::{Rejection, code};

/// Longest tensor name taken, in bytes.
const MAX_NAME_BYTES: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;

/// Reads the header of one safetensors file of an artifact.
///
/// # Errors
/// The code of the header's defect.
pub fn read_entries(dir: &Path, name: &str, limits: &IntakeLimits) -> Result<Vec<TensorEntry>, Rejection> {
    read_checked(dir, name, limits, "a sound safetensors file", read_header)
}

/// Reads the header of a GGUF file.
///
/// # Errors
/// The code of the header's defect; [`code::QUANTISED`] for a block format that is not read.
pub fn read_gguf_header(dir: &Path, name: &str, limits: &IntakeLimits) -> Result<GgufHeader, Rejection> {
    read_checked(dir, name, limits, "a sound GGUF file", read_gguf)
}

fn read_checked<T>(
    dir: &Path,
    name: &str,
    limits: &IntakeLimits,
    expected: &str,
    read: impl FnOnce(BufReader<File>, u64, &HeaderLimits) -> Result<T, HeaderError>,
) -> Result<T, Rejection> {
    let path = dir.join(name);
    let io = |error| Rejection::from((path.as_path(), error));
    let file = File::open(&path).map_err(io)?;
    let file_bytes = file.metadata().map_err(io)?.len();
    let IntakeLimits { max_header_bytes, max_tensors, .. } = *limits;
    let limits = HeaderLimits { max_header_bytes, max_tensors, max_name_bytes: MAX_NAME_BYTES };
    read(BufReader::new(file), file_bytes, &limits).map_err(|defect| {
        let message = match &defect {
            HeaderError::GgmlType { .. } => format!("{defect}: {UPLOAD_INSTEAD}"),
            defect => format!("expected {expected}; {defect}"),
        };
        Rejection::new(header_code(&defect), message).at(name)
    })
}

/// Refuses element types that no weights come in.
///
/// # Errors
/// [`code::DTYPE`] for anything but F32, F16 and BF16.
pub fn check_dtypes<'a>(name: &str, entries: impl IntoIterator<Item = &'a TensorEntry>) -> Result<(), Rejection> {
    let is_number = |entry: &&TensorEntry| matches!(entry.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16);
    match entries.into_iter().find(|entry| !is_number(entry)) {
        None => Ok(()),
        Some(entry) => {
            let message = format!("tensor `{}`: expected F32, F16 or BF16, found {}", entry.name, entry.dtype.name());
            Err(Rejection::new(code::DTYPE, message).at(name))
        }
    }
}

fn header_code(defect: &HeaderError) -> &'static str {
    match defect {
        HeaderError::Io(_) => code::IO,
        HeaderError::TooLarge { .. } => code::HEADER_TOO_LARGE,
        HeaderError::Truncated { .. } => code::TRUNCATED,
        HeaderError::NotUtf8Name { .. } => code::NAME_NOT_UTF8,
        HeaderError::NotJson(_) => code::HEADER_NOT_JSON,
        HeaderError::TooManyTensors { .. } => code::TOO_MANY_TENSORS,
        HeaderError::NoTensors => code::NO_TENSORS,
        HeaderError::BadName { .. } => code::TENSOR_NAME,
        HeaderError::DuplicateName(_) => code::DUPLICATE_TENSOR,
        HeaderError::BadDtype { .. } => code::DTYPE,
        HeaderError::BadShape { .. } | HeaderError::SizeMismatch { .. } => code::TENSOR_SIZE,
        HeaderError::Overlap { .. } => code::TENSOR_OVERLAP,
        HeaderError::Hole { .. } => code::TENSOR_HOLE,
        HeaderError::Field { .. } => code::GGUF,
        HeaderError::GgmlType { .. } => code::QUANTISED,
    }
}

/// Streams every weight of a file past its element type's test for NaN and infinities.
///
/// # Errors
/// [`code::NOT_FINITE`] with the tensor and the position.
pub fn scan_weights(dir: &Path, name: &str, entries: &[TensorEntry]) -> Result<(), Rejection> {
    let path = dir.join(name);
    let io = |error| Rejection::from((path.as_path(), error));
    let mut file = File::open(&path).map_err(io)?;
    let mut chunk = vec![0u8; CHUNK_BYTES];
    for entry in entries {
        file.seek(SeekFrom::Start(entry.range.start)).map_err(io)?;
        let total = entry.range.end - entry.range.start;
        let mut done = 0;
        while done < total {
            let part = &mut chunk[..(total - done).min(CHUNK_BYTES as u64) as usize];
            file.read_exact(part).map_err(io)?;
            if let Some(element) = find_not_finite(part, entry.dtype) {
                let element = done / entry.dtype.bytes() + element as u64;
                let message = format!("expected numbers, found NaN or an infinity at element {element}");
                return Err(Rejection::new(code::NOT_FINITE, message).at(format!("{name}: {}", entry.name)));
            }
            done += part.len() as u64;
        }
    }
    Ok(())
}

/// Reads every number of a quantised checkpoint as it will be used, scales multiplied in.
///
/// # Errors
/// [`code::NOT_FINITE`] with the tensor and the position.
pub fn scan_widened(checkpoint: &Checkpoint) -> Result<(), Rejection> {
    let mut piece = Vec::new();
    for name in checkpoint.names() {
        let mut reader = checkpoint.read(name).map_err(|error| reject(error, name))?;
        let mut done = 0;
        while reader.read_piece(&mut piece).map_err(|error| reject(error, name))? {
            if let Some(at) = piece.iter().position(|number| !number.is_finite()) {
                let message = format!("expected numbers, found NaN or an infinity at element {}", done + at);
                return Err(Rejection::new(code::NOT_FINITE, message).at(name));
            }
            done += piece.len();
            piece.clear();
        }
    }
    Ok(())
}

/// Index of the first element whose exponent bits are all set, which is what NaN and the infinities have in
/// common.
fn find_not_finite(bytes: &[u8], dtype: Dtype) -> Option<usize> {
    let find_half = |exponent: u16| {
        let mut elements = bytes.as_chunks::<2>().0.iter();
        elements.position(|element| u16::from_le_bytes(*element) & exponent == exponent)
    };
    match dtype {
        Dtype::F16 => find_half(0x7c00),
        Dtype::Bf16 => find_half(0x7f80),
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().position(|element| !f32::from_le_bytes(*element).is_finite()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_type_has_its_own_pattern_of_not_finite() {
        let find = |dtype, words: &[u16]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            find_not_finite(&bytes, dtype)
        };
        // 0x7bff is the largest float16, 0x7f7f the largest bfloat16; 0x7c00 is infinite only as float16.
        assert_eq!(find(Dtype::F16, &[0x3c00, 0x7bff, 0xfc00]), Some(2));
        assert_eq!(find(Dtype::Bf16, &[0x7c00, 0x7f7f, 0x7fc0]), Some(2));
        assert_eq!(find(Dtype::F32, &[0, 0x3f80, 0, 0x7f80]), Some(1));
        assert_eq!(find(Dtype::F32, &[0xffff, 0x7f7f]), None);
    }
}
