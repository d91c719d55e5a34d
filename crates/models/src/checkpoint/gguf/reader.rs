//! Fields of a GGUF header, each held against what is left of the file before it is read.

use std::io::{self, Read};

use super::super::header::HeaderError;

/// Reads fields in order and counts where it is.
pub(super) struct FieldReader<R> {
    inner: R,
    position: u64,
    file_bytes: u64,
    max_header_bytes: u64,
}

impl<R: Read> FieldReader<R> {
    pub fn new(inner: R, file_bytes: u64, max_header_bytes: u64) -> Self {
        Self { inner, position: 0, file_bytes, max_header_bytes }
    }

    /// Bytes read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves the position past `count` bytes that are about to be read, if the file and the limit have them.
    fn admit(&mut self, count: u64) -> Result<(), HeaderError> {
        let end = self.position.saturating_add(count);
        if end > self.file_bytes {
            return Err(HeaderError::Truncated { expected: end, found: self.file_bytes });
        }
        if end > self.max_header_bytes {
            return Err(HeaderError::TooLarge { declared: end, limit: self.max_header_bytes });
        }
        self.position = end;
        Ok(())
    }

    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        self.admit(N as u64)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Result<u32, HeaderError> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, HeaderError> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// Passes over `count` bytes.
    pub fn skip(&mut self, count: u64) -> Result<(), HeaderError> {
        self.admit(count)?;
        let passed = io::copy(&mut self.inner.by_ref().take(count), &mut io::sink())?;
        // The file may have been cut since its length was asked.
        if passed == count { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
    }

    /// A text of at most `limit` bytes, which is also the most that is allocated.
    pub fn text(&mut self, limit: u64) -> Result<String, HeaderError> {
        let at = self.position;
        let length = self.u64()?;
        if length > limit {
            let (expected, found) = (format!("a name of at most {limit} bytes"), format!("a length of {length}"));
            return Err(HeaderError::Field { expected, found, at });
        }
        self.text_of(length)
    }

    /// A text if it has at most `limit` bytes; a longer one is passed over.
    pub fn short_text(&mut self, limit: u64) -> Result<Option<String>, HeaderError> {
        let length = self.u64()?;
        if length > limit {
            self.skip(length)?;
            return Ok(None);
        }
        self.text_of(length).map(Some)
    }

    fn text_of(&mut self, length: u64) -> Result<String, HeaderError> {
        let at = self.position;
        self.admit(length)?;
        let mut bytes = vec![0; length as usize];
        self.inner.read_exact(&mut bytes)?;
        String::from_utf8(bytes)
            .map_err(|error| HeaderError::NotUtf8Name { at: at + error.utf8_error().valid_up_to() as u64 })
    }
}
