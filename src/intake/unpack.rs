//! The forms an upload may take, each turned into a series of plain files for the [`Receiver`].
//!
//! Archive crates are used to read structure only. Their own unpacking (which makes links, folders and
//! permissions) never runs.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use tar::EntryType;
use zip::ZipArchive;

use super::receiver::Receiver;
use super::rejection::{Rejection, code};

/// Longest name record of a tar archive that is read, in bytes.
const MAX_NAME_RECORD_BYTES: u64 = 64 << 10;
/// Bytes that a zip's list of members may take to read; it is read whole before the first member.
const MAX_ZIP_DIRECTORY_BYTES: u64 = 4 << 20;

fn broken(error: impl ToString) -> Rejection {
    Rejection::new(code::BROKEN_ARCHIVE, format!("expected a whole archive, found: {}", error.to_string()))
}

/// Takes the files of a folder: plain files only, no folders in it.
///
/// # Errors
/// [`code::LINK`], [`code::SPECIAL_FILE`], [`code::LAYOUT`], and those of [`Receiver::receive`].
pub fn receive_folder(folder: &Path, receiver: &mut Receiver<'_>) -> Result<(), Rejection> {
    let io = |error| Rejection::from((folder, error));
    let mut entries = fs::read_dir(folder).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
    entries.sort_by_key(|entry| entry.file_name());
    for entry in entries {
        receiver.count_entry()?;
        let (name, path) = (entry.file_name(), entry.path());
        let place = name.to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(|error| Rejection::from((path.as_path(), error)))?;
        if kind.is_symlink() {
            return Err(refuse_link(&place));
        }
        if kind.is_dir() {
            return Err(Rejection::new(code::LAYOUT, "expected files only, found a folder").at(place));
        }
        if !kind.is_file() {
            return Err(refuse_special(&place, "a device, pipe or socket"));
        }
        let file = File::open(&path).map_err(|error| Rejection::from((path.as_path(), error)))?;
        let reader = receiver.metered(file);
        receiver.receive(name.as_encoded_bytes(), reader)?;
    }
    Ok(())
}

/// Takes the files of a tar archive, gzipped or not.
///
/// # Errors
/// [`code::BROKEN_ARCHIVE`], [`code::LINK`], [`code::SPECIAL_FILE`], and those of [`Receiver::receive`].
pub fn receive_tar(file: File, is_gzipped: bool, receiver: &mut Receiver<'_>) -> Result<(), Rejection> {
    let buffered = BufReader::with_capacity(256 << 10, file);
    let stream: Box<dyn Read> = if is_gzipped { Box::new(MultiGzDecoder::new(buffered)) } else { Box::new(buffered) };
    let mut archive = tar::Archive::new(receiver.metered(stream));
    // Raw: the crate would read name records of any length into memory.
    let entries = archive.entries().map_err(|error| receiver.explain(broken(error)))?.raw(true);
    let mut long_name = None;
    for entry in entries {
        let mut entry = entry.map_err(|error| receiver.explain(broken(error)))?;
        receiver.count_entry()?;
        let kind = entry.header().entry_type();
        let own_name = entry.path_bytes().into_owned();
        if let Some(name) = read_name_record(&mut entry, kind).map_err(|rejection| receiver.explain(rejection))? {
            long_name = name.or(long_name);
            continue;
        }
        let name = long_name.take().unwrap_or(own_name);
        let place = String::from_utf8_lossy(&name).into_owned();
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                let left = entry.size();
                receiver.receive(&name, Exactly { inner: entry, left })?;
            }
            EntryType::Directory => check_folder_name(&name)?,
            EntryType::Symlink | EntryType::Link => return Err(refuse_link(&place)),
            EntryType::GNUSparse => return Err(refuse_special(&place, "a sparse file; pack it without --sparse")),
            _ => return Err(refuse_special(&place, "a device, pipe or unknown entry")),
        }
    }
    Ok(())
}

/// Reads an entry that only carries names for the next one. `None`: it is no such entry. `Some(None)`: it
/// names nothing.
fn read_name_record(entry: &mut impl Read, kind: EntryType) -> Result<Option<Option<Vec<u8>>>, Rejection> {
    if !matches!(kind, EntryType::GNULongName | EntryType::XHeader | EntryType::XGlobalHeader) {
        return Ok(None);
    }
    let mut record = Vec::new();
    entry.take(MAX_NAME_RECORD_BYTES + 1).read_to_end(&mut record).map_err(broken)?;
    if record.len() as u64 > MAX_NAME_RECORD_BYTES {
        return Err(broken(format!("a name record of more than {MAX_NAME_RECORD_BYTES} bytes")));
    }
    match kind {
        EntryType::GNULongName => {
            let end = record.iter().position(|byte| *byte == 0).unwrap_or(record.len());
            record.truncate(end);
            Ok(Some(Some(record)))
        }
        EntryType::XHeader => Ok(Some(find_extended_name(&record)?)),
        _ => Ok(Some(None)),
    }
}

/// The `path` of a pax record. Records that change what the next entry is are refused: we would misread it.
fn find_extended_name(record: &[u8]) -> Result<Option<Vec<u8>>, Rejection> {
    let mut name = None;
    for extension in tar::PaxExtensions::new(record) {
        let extension = extension.map_err(broken)?;
        match extension.key_bytes() {
            b"path" => name = Some(extension.value_bytes().to_vec()),
            b"linkpath" => return Err(Rejection::new(code::LINK, "expected plain files, found a link")),
            key if key == b"size" || key.starts_with(b"GNU.sparse") => {
                let key = String::from_utf8_lossy(key);
                let message =
                    format!("expected plain entries, found the pax record `{key}`; use --format=gnu, or a zip");
                return Err(Rejection::new(code::SPECIAL_FILE, message));
            }
            _ => {}
        }
    }
    Ok(name)
}

/// Takes the files of a zip archive.
///
/// # Errors
/// [`code::BROKEN_ARCHIVE`], [`code::DUPLICATE_FILE`], [`code::LINK`], and those of [`Receiver::receive`].
pub fn receive_zip(file: File, receiver: &mut Receiver<'_>) -> Result<(), Rejection> {
    let allowance = Rc::new(Cell::new(Some(MAX_ZIP_DIRECTORY_BYTES)));
    let reader = Allowed { inner: BufReader::new(file), left: Rc::clone(&allowance) };
    let mut archive = ZipArchive::new(reader).map_err(broken)?;
    allowance.set(None);
    if archive.has_duplicate_names() {
        return Err(Rejection::new(code::DUPLICATE_FILE, "expected each name once in the archive, found one twice"));
    }
    for i in 0..archive.len() {
        receiver.count_entry()?;
        let member = archive.by_index(i).map_err(broken)?;
        let name = member.name_raw().to_vec();
        let place = String::from_utf8_lossy(&name).into_owned();
        // The upper half of the external attributes is the Unix mode; its type bits name links and devices.
        match member.unix_mode().unwrap_or(0) & 0o170_000 {
            _ if member.is_symlink() => return Err(refuse_link(&place)),
            0 | 0o100_000 | 0o040_000 => {}
            _ => return Err(refuse_special(&place, "a device, pipe or socket")),
        }
        if member.is_dir() {
            check_folder_name(&name)?;
            continue;
        }
        let reader = receiver.metered(member);
        receiver.receive(&name, reader)?;
    }
    Ok(())
}

/// Folders make nothing, but a name that climbs out is an attack all the same.
fn check_folder_name(name: &[u8]) -> Result<(), Rejection> {
    let is_root = name.iter().all(|byte| matches!(byte, b'.' | b'/')) && !name.windows(2).any(|pair| pair == b"..");
    match is_root && !name.starts_with(b"/") {
        true => Ok(()),
        false => super::receiver::split_name(name).map(|_| ()),
    }
}

fn refuse_link(place: &str) -> Rejection {
    Rejection::new(code::LINK, "expected plain files, found a symbolic or hard link").at(place)
}

fn refuse_special(place: &str, found: &str) -> Rejection {
    Rejection::new(code::SPECIAL_FILE, format!("expected plain files, found {found}")).at(place)
}

/// A reader that must give so many bytes: the tar crate takes an archive that ends inside a file for a
/// shorter file.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(bytes as u64);
        match bytes == 0 && self.left > 0 && !buffer.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends inside this file")),
            false => Ok(bytes),
        }
    }
}

/// A reader that may be read only so far while an allowance is set.
struct Allowed<R> {
    inner: R,
    left: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Allowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        if let Some(left) = self.left.get() {
            let rest =
                left.checked_sub(bytes as u64).ok_or_else(|| io::Error::other("a list of members beyond 4 MiB"))?;
            self.left.set(Some(rest));
        }
        Ok(bytes)
    }
}

impl<R: Seek> Seek for Allowed<R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner.seek(position)
    }
}
