//! The place where unpacked files land: one flat folder, each file checked by name and first bytes, counted,
//! hashed, written.
//!
//! Every way an upload may come (folder, tar, zip, one file) ends in [`Receiver::receive`], so each rule
//! stands once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::rc::Rc;

use sha2::{Digest, Sha256};

use super::facts::FileFacts;
use super::limits::IntakeLimits;
use super::rejection::{Rejection, code};
use super::sniff::{HEAD_BYTES, Role, decide_role};

/// Counts unpacked bytes against the total and against the size of what was sent.
struct Meter {
    unpacked_bytes: u64,
    packed_bytes: u64,
    limits: IntakeLimits,
    /// Set by the first byte too many. It travels beside the `io::Error`, which archive readers wrap and
    /// rewrite.
    tripped: Option<Rejection>,
}

impl Meter {
    fn count(&mut self, bytes: u64) -> io::Result<()> {
        self.unpacked_bytes += bytes;
        let IntakeLimits { max_total_bytes, max_ratio, ratio_free_bytes, .. } = self.limits;
        let ceiling = self.packed_bytes.saturating_mul(max_ratio).max(ratio_free_bytes);
        if self.unpacked_bytes > max_total_bytes {
            let message = format!("expected at most {max_total_bytes} unpacked bytes, found more");
            self.tripped = Some(Rejection::new(code::TOO_LARGE, message));
        } else if self.unpacked_bytes > ceiling {
            let packed = self.packed_bytes;
            let message = format!("expected at most {ceiling} bytes out of an upload of {packed}, found more");
            self.tripped = Some(Rejection::new(code::BOMB, message));
        }
        match self.tripped {
            Some(_) => Err(io::Error::other("over the limits of an upload")),
            None => Ok(()),
        }
    }
}

/// A reader whose bytes count.
pub struct Metered<R> {
    inner: R,
    meter: Rc<RefCell<Meter>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        self.meter.borrow_mut().count(bytes as u64)?;
        Ok(bytes)
    }
}

/// Takes files one after the other into a folder.
pub struct Receiver<'a> {
    into: &'a Path,
    limits: &'a IntakeLimits,
    meter: Rc<RefCell<Meter>>,
    entries: usize,
    /// The one folder that all files lie in, once the first file was seen; empty for none.
    folder: Option<String>,
    /// Lower-cased, for systems that take `A` and `a` as one.
    taken_names: BTreeSet<String>,
    files: Vec<FileFacts>,
}

impl<'a> Receiver<'a> {
    /// `packed_bytes`: size of what was sent.
    pub fn new(into: &'a Path, limits: &'a IntakeLimits, packed_bytes: u64) -> Self {
        let meter = Meter { unpacked_bytes: 0, packed_bytes, limits: limits.clone(), tripped: None };
        let meter = Rc::new(RefCell::new(meter));
        let (taken_names, files) = (BTreeSet::new(), Vec::new());
        Self { into, limits, meter, entries: 0, folder: None, taken_names, files }
    }

    /// Wraps a reader so that what is read of it counts as unpacked.
    pub fn metered<R: Read>(&self, inner: R) -> Metered<R> {
        Metered { inner, meter: Rc::clone(&self.meter) }
    }

    /// The rejection behind an error of a metered reader; `otherwise` when the meter was not the cause.
    pub fn explain(&self, otherwise: Rejection) -> Rejection {
        self.meter.borrow_mut().tripped.take().unwrap_or(otherwise)
    }

    /// Counts one archive entry of any kind.
    ///
    /// # Errors
    /// [`code::TOO_MANY_FILES`].
    pub fn count_entry(&mut self) -> Result<(), Rejection> {
        self.entries += 1;
        let limit = self.limits.max_entries;
        match self.entries > limit {
            true => Err(Rejection::new(code::TOO_MANY_FILES, format!("expected at most {limit} entries, found more"))),
            false => Ok(()),
        }
    }

    /// Takes one regular file. `reader` must be metered unless it reads a file that already lies on our disk.
    ///
    /// # Errors
    /// The defect of its name, its content or its size.
    pub fn receive(&mut self, raw_name: &[u8], mut reader: impl Read) -> Result<(), Rejection> {
        let name = self.admit_name(raw_name)?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let broken = |error: io::Error| Rejection::new(code::BROKEN_ARCHIVE, error.to_string()).at(&name);
        reader.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(|e| self.explain(broken(e)))?;
        let role = decide_role(&name, &head)?;
        let path = self.into.join(&name);
        let (bytes, sha256) = self.copy(&path, role, io::Cursor::new(head).chain(reader), &broken)?;
        check_text(&path, role)?;
        self.files.push(FileFacts { path: name, bytes, sha256 });
        Ok(())
    }

    /// Every file taken, sorted by name.
    ///
    /// # Errors
    /// [`code::EMPTY`].
    pub fn finish(mut self) -> Result<Vec<FileFacts>, Rejection> {
        self.files.sort_by(|x, y| x.path.cmp(&y.path));
        match self.files.is_empty() {
            true => Err(Rejection::new(code::EMPTY, "expected the files of an adapter or a checkpoint, found none")),
            false => Ok(self.files),
        }
    }

    fn copy(
        &self,
        path: &Path,
        role: Role,
        mut reader: impl Read,
        broken: &dyn Fn(io::Error) -> Rejection,
    ) -> Result<(u64, String), Rejection> {
        let limit = match role {
            Role::Weights => self.limits.max_total_bytes,
            Role::Config | Role::Text => self.limits.max_text_bytes,
            Role::LargeJson | Role::Opaque => self.limits.max_tokenizer_bytes,
        };
        let mut file = File::create_new(path).map_err(|error| Rejection::from((path, error)))?;
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0u64, vec![0u8; 256 << 10]);
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.explain(broken(error))),
            };
            bytes += count as u64;
            if bytes > limit {
                let message = format!("expected a file of at most {limit} bytes, found more");
                return Err(Rejection::new(code::TOO_LARGE, message).at(file_name(path)));
            }
            hash.update(&buffer[..count]);
            file.write_all(&buffer[..count]).map_err(|error| Rejection::from((path, error)))?;
        }
        Ok((bytes, format!("{:x}", hash.finalize())))
    }

    /// Turns an archive's name into a flat one: at most one folder, the same for all, no way out.
    fn admit_name(&mut self, raw: &[u8]) -> Result<String, Rejection> {
        let (folder, name) = split_name(raw)?;
        let place = String::from_utf8_lossy(raw);
        if *self.folder.get_or_insert_with(|| folder.clone()) != folder {
            let message = "expected all files of one artifact in one folder, found a second folder";
            return Err(Rejection::new(code::LAYOUT, message).at(place));
        }
        if !self.taken_names.insert(name.to_lowercase()) {
            return Err(Rejection::new(code::DUPLICATE_FILE, "expected each file once, found it twice").at(place));
        }
        if self.taken_names.len() > self.limits.max_files {
            let message = format!("expected at most {} files, found more", self.limits.max_files);
            return Err(Rejection::new(code::TOO_MANY_FILES, message).at(place));
        }
        Ok(name)
    }
}

/// Checks a name of an archive: `name` or `folder/name`, a leading `./` apart. Returns folder (or empty) and
/// name.
///
/// # Errors
/// [`code::PATH`], [`code::LAYOUT`].
pub fn split_name(raw: &[u8]) -> Result<(String, String), Rejection> {
    let place = String::from_utf8_lossy(raw).into_owned();
    let refuse = |code, message: &str| Err(Rejection::new(code, message).at(&place));
    let Ok(text) = std::str::from_utf8(raw) else {
        return refuse(code::PATH, "expected a file name in UTF-8, found other bytes");
    };
    if text.starts_with('/') || text.contains(['\\', ':']) || text.chars().any(char::is_control) {
        return refuse(code::PATH, "expected a relative name of printable characters, without `\\` and `:`");
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") || parts.iter().any(|part| part.len() > 200) {
        return refuse(code::PATH, "expected a name inside the upload with parts of at most 200 bytes");
    }
    match parts.as_slice() {
        [name] => Ok((String::new(), (*name).to_owned())),
        [folder, name] => Ok(((*folder).to_owned(), (*name).to_owned())),
        [] => refuse(code::PATH, "expected a file name, found none"),
        _ => refuse(code::LAYOUT, "expected files at the top or in one folder, found a folder in a folder"),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Text must be UTF-8 and JSON must be JSON; read in pieces.
fn check_text(path: &Path, role: Role) -> Result<(), Rejection> {
    let file = || File::open(path).map(io::BufReader::new).map_err(|error| Rejection::from((path, error)));
    let bad = |message: String| Err(Rejection::new(code::BAD_TEXT, message).at(file_name(path)));
    let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    match role {
        Role::Weights | Role::Opaque => Ok(()),
        Role::Config | Role::LargeJson if is_json => match serde_json::from_reader::<_, serde::de::IgnoredAny>(file()?)
        {
            Ok(_) => Ok(()),
            Err(error) => bad(format!("expected JSON, found: {error}")),
        },
        // At most `max_text_bytes`, so reading it whole is cheap.
        _ => match fs::read_to_string(path) {
            Ok(_) => Ok(()),
            Err(error) => bad(format!("expected text in UTF-8, found: {error}")),
        },
    }
}
