//! A strict reader of safetensors headers.
//!
//! A safetensors file is: header length (8 bytes, little endian), header (a JSON object), data. The reference
//! reader accepts repeated tensor names; two readers of one file can then see two models. This one refuses
//! every ambiguity, and believes no number before it was held against the file's true length. It reads the
//! header and nothing behind it.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::strict_json::Pairs;

/// The largest header that a file may have.
#[derive(Debug, Clone, Copy)]
pub struct HeaderLimits {
    /// Largest header that is read into memory, in bytes.
    pub max_header_bytes: u64,
    /// Most tensors in one file.
    pub max_tensors: usize,
    /// Longest tensor name, in bytes.
    pub max_name_bytes: usize,
}

impl Default for HeaderLimits {
    /// 32 MiB, 262,144 tensors, 512 bytes: ten times the largest public checkpoints.
    fn default() -> Self {
        Self { max_header_bytes: 32 << 20, max_tensors: 1 << 18, max_name_bytes: 512 }
    }
}

/// Element types of a safetensors file that have whole bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the format's own; `name` and `bytes` say the rest")]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    F64,
    I64,
    U64,
}

impl Dtype {
    const ALL: [Self; 16] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::F8E5M2,
        Self::F8E4M3,
        Self::F8E8M0,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::Bf16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::F64,
        Self::I64,
        Self::U64,
    ];

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8E5M2 => "F8_E5M2",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E8M0 => "F8_E8M0",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E5M2 | Self::F8E4M3 | Self::F8E8M0 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

/// One tensor as the header declares it, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Full name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Extents, outermost first. Empty for a scalar.
    pub shape: Vec<usize>,
    /// The range of its bytes, counted from the start of the *file*.
    pub range: Range<u64>,
}

impl TensorEntry {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        (self.range.end - self.range.start) / self.dtype.bytes()
    }
}

/// A defect of the header of a safetensors or GGUF file. One variant per defect; each says what was expected,
/// what was found, and where.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message is its documentation")]
pub enum HeaderError {
    #[error("the file could not be read: {0}")]
    Io(#[from] io::Error),
    #[error("expected a header of at most {limit} bytes, found a declared length of {declared} bytes at byte 0")]
    TooLarge { declared: u64, limit: u64 },
    #[error("expected {expected} bytes, found a file of {found} bytes: it is cut short")]
    Truncated { expected: u64, found: u64 },
    #[error("expected a header in UTF-8, found an invalid byte at byte {at}")]
    NotUtf8Name { at: u64 },
    #[error("expected a JSON object of tensors as header, found: {0}")]
    NotJson(String),
    #[error("expected at most {limit} tensors, found more")]
    TooManyTensors { limit: usize },
    #[error("expected at least one tensor, found none")]
    NoTensors,
    #[error("expected a tensor name of 1 to {limit} printable bytes, found {found}")]
    BadName { limit: usize, found: String },
    #[error("tensor `{0}`: expected once, found twice in the header")]
    DuplicateName(String),
    #[error("tensor `{name}`: expected a known element type, found `{found}`")]
    BadDtype { name: String, found: String },
    #[error("tensor `{name}`: expected at most 8 dimensions whose product fits in 64 bits, found {found}")]
    BadShape { name: String, found: String },
    #[error("tensor `{name}`: its shape needs {expected} bytes, its offsets span {found}")]
    SizeMismatch { name: String, expected: u64, found: String },
    #[error("tensor `{name}`: expected to start at data byte {expected}, found {found}: it overlaps `{other}`")]
    Overlap { name: String, other: String, expected: u64, found: u64 },
    #[error("expected no gap, found {bytes} bytes at data byte {at} that belong to no tensor")]
    Hole { at: u64, bytes: u64 },
    #[error("expected {expected}, found {found} at byte {at}")]
    Field { expected: String, found: String, at: u64 },
    #[error("tensor `{name}`: expected F32, F16, BF16, Q4_0 to Q8_0 or Q2_K to Q6_K, found {found}")]
    GgmlType { name: String, found: String },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// The tensors as the header's JSON has them; the free-form `__metadata__` is checked for its form and
/// dropped.
struct RawHeader(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawHeaderVisitor)
    }
}

struct RawHeaderVisitor;

impl<'de> Visitor<'de> for RawHeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<Pairs<String>>()?;
                continue;
            }
            let tensor = map.next_value().map_err(|e| A::Error::custom(format_args!("in `{name}`: {e}")))?;
            tensors.push((name, tensor));
        }
        Ok(RawHeader(tensors))
    }
}

/// Reads and checks the header of a file of `file_bytes` bytes; returns the tensors in the order of their
/// data.
///
/// # Errors
/// One variant of [`HeaderError`] per defect.
///
/// # Cost
/// Memory of a small multiple of the header, and only after its declared length was checked against limit and
/// file.
pub fn read_header(
    mut reader: impl Read,
    file_bytes: u64,
    limits: &HeaderLimits,
) -> Result<Vec<TensorEntry>, HeaderError> {
    let text = read_header_text(&mut reader, file_bytes, limits)?;
    let data_start = 8 + text.len() as u64;
    let RawHeader(tensors) = serde_json::from_str(&text).map_err(|e| HeaderError::NotJson(e.to_string()))?;
    if tensors.len() > limits.max_tensors {
        return Err(HeaderError::TooManyTensors { limit: limits.max_tensors });
    }
    let entries = tensors.into_iter().map(|(name, raw)| check_tensor(name, &raw, limits));
    let mut entries = entries.collect::<Result<Vec<_>, _>>()?;
    check_names(&entries)?;
    check_layout(&mut entries, data_start, file_bytes)?;
    Ok(entries)
}

fn read_header_text(reader: &mut impl Read, file_bytes: u64, limits: &HeaderLimits) -> Result<String, HeaderError> {
    if file_bytes < 8 {
        return Err(HeaderError::Truncated { expected: 8, found: file_bytes });
    }
    let mut length = [0u8; 8];
    reader.read_exact(&mut length)?;
    let declared = u64::from_le_bytes(length);
    if declared > limits.max_header_bytes {
        return Err(HeaderError::TooLarge { declared, limit: limits.max_header_bytes });
    }
    if declared > file_bytes - 8 {
        return Err(HeaderError::Truncated { expected: declared + 8, found: file_bytes });
    }
    let mut bytes = vec![0u8; declared as usize];
    reader.read_exact(&mut bytes)?;
    let text = String::from_utf8(bytes)
        .map_err(|error| HeaderError::NotUtf8Name { at: 8 + error.utf8_error().valid_up_to() as u64 })?;
    if !text.starts_with('{') {
        return Err(HeaderError::NotJson("the first byte is not `{`".into()));
    }
    Ok(text)
}

/// Checks what can be checked of one tensor alone. The range is still relative to the data.
fn check_tensor(name: String, raw: &RawTensor, limits: &HeaderLimits) -> Result<TensorEntry, HeaderError> {
    if name.is_empty() || name.len() > limits.max_name_bytes || name.chars().any(char::is_control) {
        let found = format!("{} bytes: {:?}", name.len(), name.chars().take(40).collect::<String>());
        return Err(HeaderError::BadName { limit: limits.max_name_bytes, found });
    }
    let Some(dtype) = Dtype::from_name(&raw.dtype) else {
        return Err(HeaderError::BadDtype { name, found: raw.dtype.chars().take(40).collect() });
    };
    let bytes = raw.shape.iter().try_fold(dtype.bytes(), |product, extent| product.checked_mul(*extent));
    let (Some(bytes), true) = (bytes, raw.shape.len() <= 8) else {
        let found = format!("{:?}", raw.shape.iter().take(9).collect::<Vec<_>>());
        return Err(HeaderError::BadShape { name, found });
    };
    let [begin, end] = raw.data_offsets;
    if end.checked_sub(begin) != Some(bytes) {
        return Err(HeaderError::SizeMismatch { name, expected: bytes, found: format!("{begin}..{end}") });
    }
    // An extent beside a zero extent is bounded by nothing else.
    let shape = raw.shape.iter().map(|extent| usize::try_from(*extent)).collect::<Result<_, _>>();
    let shape = shape.map_err(|_| HeaderError::BadShape { name: name.clone(), found: format!("{:?}", raw.shape) })?;
    Ok(TensorEntry { name, dtype, shape, range: begin..end })
}

fn check_names(entries: &[TensorEntry]) -> Result<(), HeaderError> {
    let mut names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(HeaderError::DuplicateName(pair[0].to_owned())),
        None if entries.is_empty() => Err(HeaderError::NoTensors),
        None => Ok(()),
    }
}

/// Sorts by position, requires that the tensors tile the data exactly, and moves the ranges to file
/// positions.
fn check_layout(entries: &mut [TensorEntry], data_start: u64, file_bytes: u64) -> Result<(), HeaderError> {
    entries.sort_by(|x, y| (x.range.start, x.range.end, &x.name).cmp(&(y.range.start, y.range.end, &y.name)));
    let data_bytes = file_bytes - data_start;
    let mut position = 0;
    let mut previous = String::from("the header");
    for entry in entries {
        let Range { start, end } = entry.range;
        if start < position {
            let (name, other) = (entry.name.clone(), previous);
            return Err(HeaderError::Overlap { name, other, expected: position, found: start });
        }
        if start > position {
            return Err(HeaderError::Hole { at: position, bytes: start - position });
        }
        if end > data_bytes {
            return Err(HeaderError::Truncated { expected: data_start.saturating_add(end), found: file_bytes });
        }
        position = end;
        previous.clone_from(&entry.name);
        entry.range = start + data_start..end + data_start;
    }
    if position < data_bytes {
        return Err(HeaderError::Hole { at: position, bytes: data_bytes - position });
    }
    Ok(())
}
