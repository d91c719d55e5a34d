//! One safetensors file on disk: its checked header, and its tensors by range.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::encoding::Encoding;
use super::header::{HeaderLimits, TensorEntry, read_header};
use super::values::ValueReader;
use crate::error::{ModelError, Result};

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
    /// The tensor itself and one piece of 65,536 numbers.
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
        let Some(encoding) = Encoding::of_dtype(entry.dtype).filter(Encoding::is_plain) else {
            return Err(ModelError::Tensor {
                tensor: entry.name.clone(),
                expected: "an element type of F32, F16 or BF16".into(),
                found: entry.dtype.name().into(),
            });
        };
        // The header reader held the range against the file's true length.
        Ok((entry, ValueReader::open(&self.path, entry.range.clone(), encoding, None)?.read_all()?))
    }
}
