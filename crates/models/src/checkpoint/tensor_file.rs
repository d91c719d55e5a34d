//! One safetensors file on disk: its checked header, and its tensors by range.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use half::{bf16, f16};

use super::header::{Dtype, HeaderLimits, TensorEntry, read_header};
use crate::error::{ModelError, Result};

/// Bytes read and converted at a time: small enough to stay in the second-level cache.
const CHUNK_BYTES: usize = 256 << 10;

/// An opened safetensors file. Only its header is in memory.
#[derive(Debug, Clone)]
pub struct TensorFile {
    path: PathBuf,
    entries: Vec<TensorEntry>,
    index: HashMap<String, usize>,
}

impl TensorFile {
    /// Opens a file and checks its header under the default limits.
    ///
    /// # Errors
    /// [`ModelError::Io`], or [`ModelError::Format`] with the header's defect.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        let file_bytes = file.metadata().map_err(ModelError::io(path))?.len();
        let entries = read_header(BufReader::new(file), file_bytes, &HeaderLimits::default()).map_err(|defect| {
            ModelError::Format { path: path.into(), expected: "a safetensors file".into(), found: defect.to_string() }
        })?;
        let index = entries.iter().enumerate().map(|(i, entry)| (entry.name.clone(), i)).collect();
        Ok(Self { path: path.to_owned(), entries, index })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every tensor, in the order of the data.
    pub fn entries(&self) -> &[TensorEntry] {
        &self.entries
    }

    /// The header's entry of one tensor.
    pub fn find(&self, name: &str) -> Option<&TensorEntry> {
        self.index.get(name).map(|i| &self.entries[*i])
    }

    /// Loads one tensor as float32, from F32, F16 or BF16.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when it is missing or of another element type, [`ModelError::Io`].
    ///
    /// # Cost
    /// The tensor itself and one chunk of 256 KiB.
    pub fn load(&self, name: &str, device: &Device) -> Result<Tensor> {
        let (entry, values) = self.load_values(name)?;
        Ok(Tensor::from_vec(values, entry.shape.as_slice(), device)?)
    }

    /// As [`TensorFile::load`]; NaN and infinities are an error.
    ///
    /// # Errors
    /// Those of [`TensorFile::load`], and [`ModelError::NotFinite`].
    pub fn load_finite(&self, name: &str, device: &Device) -> Result<Tensor> {
        let (entry, values) = self.load_values(name)?;
        if !values.iter().all(|value| value.is_finite()) {
            return Err(ModelError::NotFinite(name.to_owned()));
        }
        Ok(Tensor::from_vec(values, entry.shape.as_slice(), device)?)
    }

    fn load_values(&self, name: &str) -> Result<(&TensorEntry, Vec<f32>)> {
        let entry = self.find(name).ok_or_else(|| ModelError::Tensor {
            tensor: name.to_owned(),
            expected: format!("to be in {}", self.path.display()),
            found: "no such tensor".into(),
        })?;
        let widen = widener(entry)?;
        let mut file = File::open(&self.path).map_err(ModelError::io(&self.path))?;
        file.seek(SeekFrom::Start(entry.range.start)).map_err(ModelError::io(&self.path))?;
        // The header reader held this count against the file's true length, so it is safe to reserve.
        let mut values = Vec::with_capacity(entry.elements() as usize);
        let mut chunk = vec![0u8; CHUNK_BYTES];
        let mut left = entry.range.end - entry.range.start;
        while left > 0 {
            let part = &mut chunk[..left.min(CHUNK_BYTES as u64) as usize];
            file.read_exact(part).map_err(ModelError::io(&self.path))?;
            widen(part, &mut values);
            left -= part.len() as u64;
        }
        Ok((entry, values))
    }
}

/// Appends little-endian elements to a vector of float32.
type Widen = fn(&[u8], &mut Vec<f32>);

fn widener(entry: &TensorEntry) -> Result<Widen> {
    match entry.dtype {
        Dtype::F32 => Ok(|bytes, out| out.extend(elements(bytes).map(f32::from_le_bytes))),
        Dtype::F16 => Ok(|bytes, out| out.extend(elements(bytes).map(|e| f16::from_le_bytes(e).to_f32()))),
        Dtype::Bf16 => Ok(|bytes, out| out.extend(elements(bytes).map(|e| bf16::from_le_bytes(e).to_f32()))),
        other => Err(ModelError::Tensor {
            tensor: entry.name.clone(),
            expected: "an element type of F32, F16 or BF16".into(),
            found: other.name().into(),
        }),
    }
}

/// Chunks of one element; a chunk of bytes always holds whole elements because 256 KiB is a multiple of each size.
fn elements<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}
