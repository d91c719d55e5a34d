//! GGUF files, read strictly: header, metadata and tensor table; the numbers stay on disk.
//!
//! A GGUF file is: magic, version, counts, key-value pairs, tensor table, padding, data (specification:
//! `docs/gguf.md` of ggml). As with safetensors every number of the file is held against the file's true
//! length before it is used, what two readers could understand differently is refused, and nothing is kept
//! that is not needed: vocabularies are passed over.

mod llama;
mod reader;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Range;
use std::path::Path;

use serde_json::Value;

use super::encoding::Encoding;
use super::header::{HeaderError, HeaderLimits};
use super::quantised::UPLOAD_INSTEAD;
use super::{Checkpoint, Source};
use crate::error::{ModelError, Result};
use reader::FieldReader;

/// The first bytes of a GGUF file.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// Real files have about forty keys.
const MAX_KEYS: u64 = 4096;
/// Longer texts (chat templates, licences) are passed over.
const MAX_KEPT_TEXT: u64 = 256;
const MAX_ALIGNMENT: u64 = 1 << 16;

/// One metadata value, as far as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Metadatum {
    /// An integer of any width that fits.
    Integer(i64),
    /// float32 or float64.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A short text.
    Text(String),
    /// A list or a long text: passed over.
    Skipped,
}

/// One tensor of the table, checked.
#[derive(Debug, Clone)]
pub struct GgufTensor {
    /// Name in the file.
    pub name: String,
    /// The encoding of its numbers.
    pub encoding: Encoding,
    /// Extents, outermost first (the file has them the other way round).
    pub shape: Vec<usize>,
    /// The range of its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// The header of a GGUF file.
#[derive(Debug, Clone)]
pub struct GgufHeader {
    /// Metadata by key.
    pub metadata: BTreeMap<String, Metadatum>,
    /// Tensors in the order of their data.
    pub tensors: Vec<GgufTensor>,
}

/// Reads and checks the header of a file of `file_bytes` bytes.
///
/// # Errors
/// [`HeaderError`]; [`HeaderError::Field`] for what is particular to GGUF.
///
/// # Cost
/// Memory for keys, short values and the tensor table, within the limits; what is passed over is read but not
/// kept.
pub fn read_gguf(reader: impl Read, file_bytes: u64, limits: &HeaderLimits) -> Result<GgufHeader, HeaderError> {
    let mut fields = FieldReader::new(reader, file_bytes, limits.max_header_bytes);
    let (tensor_count, key_count) = read_preamble(&mut fields, limits)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..key_count {
        let at = fields.position();
        let key = fields.text(limits.max_name_bytes as u64)?;
        let value = read_metadatum(&mut fields)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(HeaderError::Field { expected: "each key once".into(), found: format!("`{key}` twice"), at });
        }
    }
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(read_tensor(&mut fields, limits)?);
    }
    let alignment = find_alignment(&metadata)?;
    let data_start = fields.position().next_multiple_of(alignment);
    check_names(&tensors)?;
    check_layout(&mut tensors, data_start, alignment, file_bytes)?;
    Ok(GgufHeader { metadata, tensors })
}

/// Magic, version and the two counts.
fn read_preamble(fields: &mut FieldReader<impl Read>, limits: &HeaderLimits) -> Result<(u64, u64), HeaderError> {
    let refuse = |expected: &str, found: String, at| Err(HeaderError::Field { expected: expected.into(), found, at });
    let magic: [u8; 4] = fields.bytes()?;
    if &magic != MAGIC {
        return refuse("the magic `GGUF`", format!("{magic:?}"), 0);
    }
    match fields.u32()? {
        2 | 3 => {}
        version if (1..=3).contains(&version.swap_bytes()) => {
            return refuse("a little-endian file", "a big-endian one: convert it on a little-endian machine".into(), 4);
        }
        version => return refuse("version 2 or 3", format!("version {version}"), 4),
    }
    let (tensors, keys) = (fields.u64()?, fields.u64()?);
    if tensors == 0 {
        return Err(HeaderError::NoTensors);
    }
    if tensors > limits.max_tensors as u64 {
        return Err(HeaderError::TooManyTensors { limit: limits.max_tensors });
    }
    if keys > MAX_KEYS {
        return refuse(&format!("at most {MAX_KEYS} keys"), keys.to_string(), 16);
    }
    Ok((tensors, keys))
}

fn read_metadatum(fields: &mut FieldReader<impl Read>) -> Result<Metadatum, HeaderError> {
    let at = fields.position();
    Ok(match fields.u32()? {
        0 => Metadatum::Integer(fields.bytes::<1>()?[0].into()),
        1 => Metadatum::Integer(i8::from_le_bytes(fields.bytes()?).into()),
        2 => Metadatum::Integer(u16::from_le_bytes(fields.bytes()?).into()),
        3 => Metadatum::Integer(i16::from_le_bytes(fields.bytes()?).into()),
        4 => Metadatum::Integer(fields.u32()?.into()),
        5 => Metadatum::Integer(i32::from_le_bytes(fields.bytes()?).into()),
        // The shortest decimal of a float32 is what the converter was given: 1e-5, not 9.99999974737875e-6.
        6 => Metadatum::Float(f32::from_le_bytes(fields.bytes()?).to_string().parse().unwrap_or(f64::NAN)),
        7 => match fields.bytes::<1>()? {
            [bit @ 0..=1] => Metadatum::Bool(bit == 1),
            [other] => {
                return Err(HeaderError::Field { expected: "0 or 1".into(), found: other.to_string(), at: at + 4 });
            }
        },
        8 => fields.short_text(MAX_KEPT_TEXT)?.map_or(Metadatum::Skipped, Metadatum::Text),
        9 => skip_list(fields)?,
        10 => i64::try_from(fields.u64()?).map_or(Metadatum::Skipped, Metadatum::Integer),
        11 => Metadatum::Integer(i64::from_le_bytes(fields.bytes()?)),
        12 => Metadatum::Float(f64::from_le_bytes(fields.bytes()?)),
        other => {
            let (expected, found) = ("a value type of 0 to 12".into(), other.to_string());
            return Err(HeaderError::Field { expected, found, at });
        }
    })
}

/// Passes over a list: its element type, its length, its elements.
fn skip_list(fields: &mut FieldReader<impl Read>) -> Result<Metadatum, HeaderError> {
    let at = fields.position();
    let (kind, length) = (fields.u32()?, fields.u64()?);
    let element_bytes = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        8 => {
            for _ in 0..length {
                fields.short_text(0)?;
            }
            return Ok(Metadatum::Skipped);
        }
        other => {
            let expected = "a list of numbers or texts".into();
            return Err(HeaderError::Field { expected, found: format!("a list of type {other}"), at });
        }
    };
    // A product beyond 64 bits is more than any file has.
    fields.skip(length.saturating_mul(element_bytes))?;
    Ok(Metadatum::Skipped)
}

/// Reads one row of the table; the range is still relative to the data.
fn read_tensor(fields: &mut FieldReader<impl Read>, limits: &HeaderLimits) -> Result<GgufTensor, HeaderError> {
    let name = fields.text(limits.max_name_bytes as u64)?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(HeaderError::BadName { limit: limits.max_name_bytes, found: format!("{name:?}") });
    }
    let dimensions = fields.u32()?;
    if !(1..=4).contains(&dimensions) {
        return Err(HeaderError::BadShape { name, found: format!("{dimensions} dimensions") });
    }
    let mut extents = Vec::new();
    for _ in 0..dimensions {
        extents.push(fields.u64()?);
    }
    let (kind, start) = (fields.u32()?, fields.u64()?);
    let encoding = match Encoding::of_ggml(kind) {
        Ok(encoding) => encoding,
        Err(found) => return Err(HeaderError::GgmlType { name, found }),
    };
    let bad_shape = |name: String| HeaderError::BadShape { name, found: format!("{extents:?} of {}", encoding.name) };
    let elements = extents.iter().try_fold(1u64, |product, extent| product.checked_mul(*extent)).filter(|n| *n > 0);
    // Blocks lie along a row: each row is of whole blocks.
    let is_whole = extents[0].is_multiple_of(encoding.elements as u64);
    let bytes = elements.filter(|_| is_whole).and_then(|elements| encoding.bytes_of(elements));
    let Some(end) = bytes.and_then(|bytes| start.checked_add(bytes)) else { return Err(bad_shape(name)) };
    let shape = extents.iter().rev().map(|extent| usize::try_from(*extent)).collect::<Result<_, _>>();
    match shape {
        Ok(shape) => Ok(GgufTensor { name, encoding, shape, range: start..end }),
        Err(_) => Err(bad_shape(name)),
    }
}

fn find_alignment(metadata: &BTreeMap<String, Metadatum>) -> Result<u64, HeaderError> {
    match metadata.get("general.alignment") {
        None => Ok(32),
        Some(Metadatum::Integer(n @ 8..)) if n.count_ones() == 1 && n.unsigned_abs() <= MAX_ALIGNMENT => {
            Ok(n.unsigned_abs())
        }
        Some(other) => {
            let expected = format!("general.alignment to be a power of two of 8 to {MAX_ALIGNMENT}");
            Err(HeaderError::Field { expected, found: format!("{other:?}"), at: 24 })
        }
    }
}

fn check_names(tensors: &[GgufTensor]) -> Result<(), HeaderError> {
    let mut names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(HeaderError::DuplicateName(pair[0].to_owned())),
        None => Ok(()),
    }
}

/// Sorts by position, requires that the tensors tile the data but for padding, and moves the ranges to file
/// positions.
fn check_layout(
    tensors: &mut [GgufTensor],
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<(), HeaderError> {
    tensors.sort_by(|x, y| (x.range.start, x.range.end, &x.name).cmp(&(y.range.start, y.range.end, &y.name)));
    let data_bytes =
        file_bytes.checked_sub(data_start).ok_or(HeaderError::Truncated { expected: data_start, found: file_bytes })?;
    let (mut end_of_previous, mut previous) = (0u64, String::from("the header"));
    for tensor in tensors {
        let Range { start, end } = tensor.range;
        if start < end_of_previous {
            let name = tensor.name.clone();
            return Err(HeaderError::Overlap { name, other: previous, expected: end_of_previous, found: start });
        }
        if end > data_bytes {
            return Err(HeaderError::Truncated { expected: data_start.saturating_add(end), found: file_bytes });
        }
        let padded = end_of_previous.next_multiple_of(alignment);
        if start != padded {
            return Err(HeaderError::Hole { at: end_of_previous, bytes: start - end_of_previous });
        }
        end_of_previous = end;
        previous.clone_from(&tensor.name);
        tensor.range = start + data_start..end + data_start;
    }
    match data_bytes > end_of_previous.next_multiple_of(alignment) {
        true => Err(HeaderError::Hole { at: end_of_previous, bytes: data_bytes - end_of_previous }),
        false => Ok(()),
    }
}

/// Opens the header of a GGUF file under the default limits.
///
/// # Errors
/// [`ModelError::Io`]; [`ModelError::Quantised`] for a block format that is not read; [`ModelError::Format`].
pub(super) fn open_header(path: &Path) -> Result<GgufHeader> {
    let file = File::open(path).map_err(ModelError::io(path))?;
    let file_bytes = file.metadata().map_err(ModelError::io(path))?.len();
    read_gguf(BufReader::new(file), file_bytes, &HeaderLimits::default()).map_err(|defect| match defect {
        HeaderError::GgmlType { name, found } => ModelError::Quantised {
            scheme: format!("GGUF {found}"),
            found: format!("tensor `{name}` in {}", super::file_name(path)),
            instead: UPLOAD_INSTEAD.into(),
        },
        defect => {
            ModelError::Format { path: path.into(), expected: "a sound GGUF file".into(), found: defect.to_string() }
        }
    })
}

/// Opens a GGUF file as the checkpoint it was converted from: names, layout and configuration of
/// `config.json` checkpoints.
///
/// # Errors
/// Those of the header, and [`ModelError::Unsupported`] for an architecture or a setting that is not read, by
/// name.
pub(super) fn open_checkpoint(dir: &Path, path: &Path) -> Result<Checkpoint> {
    let header = open_header(path)?;
    let converted = llama::convert(path, &header)?;
    let sources = converted.tensors.into_iter().map(|(name, tensor, heads)| {
        let GgufTensor { encoding, shape, range, .. } = tensor.clone();
        (name, Source { file: 0, shape, range, encoding: Ok(encoding), scales: None, interleaved: heads })
    });
    let sources = sources.collect();
    let storage = describe(&header.tensors);
    Ok(Checkpoint { dir: dir.into(), config_json: converted.config, files: vec![path.into()], sources, storage })
}

/// The configuration that a GGUF file carries.
///
/// # Errors
/// Those of [`open_checkpoint`].
pub(super) fn read_config(path: &Path) -> Result<Value> {
    Ok(llama::convert(path, &open_header(path)?)?.config)
}

/// `gguf q4_0 + q6_k`: the formats that were widened, that of most bytes first; `gguf f16` when none was.
fn describe(tensors: &[GgufTensor]) -> String {
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    let has_blocks = tensors.iter().any(|tensor| !tensor.encoding.is_plain());
    for tensor in tensors.iter().filter(|tensor| !has_blocks || !tensor.encoding.is_plain()) {
        *bytes.entry(tensor.encoding.name).or_default() += tensor.range.end - tensor.range.start;
    }
    let mut names: Vec<(&str, u64)> = bytes.into_iter().collect();
    names.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let names: Vec<String> = names.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    format!("gguf {}", names.join(" + "))
}

#[cfg(test)]
pub(super) mod tests;
