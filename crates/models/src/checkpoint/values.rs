//! The numbers of one tensor, read in order and a piece at a time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::encoding::Encoding;
use super::fp8::ScaleGrid;
use crate::error::{ModelError, Result};

/// Numbers read and converted at a time: whole blocks of every encoding, and small enough for the
/// second-level cache.
const PIECE_ELEMENTS: u64 = 1 << 16;

/// Reads the numbers of one tensor as float32 in the order of the file.
#[derive(Debug)]
pub struct ValueReader {
    path: PathBuf,
    file: File,
    encoding: Encoding,
    scales: Option<ScaleGrid>,
    bytes_left: u64,
    elements_read: u64,
    buffer: Vec<u8>,
}

impl ValueReader {
    /// Opens a file at the bytes of one tensor. The range must have been held against the file's true length.
    pub(super) fn open(path: &Path, range: Range<u64>, encoding: Encoding, scales: Option<ScaleGrid>) -> Result<Self> {
        let mut file = File::open(path).map_err(ModelError::io(path))?;
        file.seek(SeekFrom::Start(range.start)).map_err(ModelError::io(path))?;
        let bytes_left = range.end - range.start;
        Ok(Self { path: path.to_owned(), file, encoding, scales, bytes_left, elements_read: 0, buffer: Vec::new() })
    }

    /// Appends the next piece, of 65,536 numbers but for the last; says whether there was one.
    ///
    /// # Errors
    /// [`ModelError::Io`].
    pub fn read_piece(&mut self, out: &mut Vec<f32>) -> Result<bool> {
        let piece = PIECE_ELEMENTS / self.encoding.elements as u64 * self.encoding.bytes as u64;
        self.buffer.resize(piece.min(self.bytes_left) as usize, 0);
        self.file.read_exact(&mut self.buffer).map_err(ModelError::io(&self.path))?;
        let start = out.len();
        self.encoding.widen(&self.buffer, out);
        if let Some(scales) = &self.scales {
            scales.multiply(self.elements_read, &mut out[start..]);
        }
        self.bytes_left -= self.buffer.len() as u64;
        self.elements_read += (out.len() - start) as u64;
        Ok(out.len() > start)
    }

    /// Every number that is left.
    ///
    /// # Errors
    /// [`ModelError::Io`].
    pub fn read_all(mut self) -> Result<Vec<f32>> {
        let elements = self.bytes_left / self.encoding.bytes as u64 * self.encoding.elements as u64;
        let mut out = Vec::with_capacity(elements as usize);
        while self.read_piece(&mut out)? {}
        Ok(out)
    }
}
