//! Who is alive on this machine: each worker holds the lock of a file named after it, and the lock goes when
//! the process goes.
//!
//! Leases alone would do: they run out. This finds the steps of a killed worker at the next sweep instead, so
//! that a restarted server continues at once.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// A worker's entry, valid until dropped or until its process ends.
#[derive(Debug)]
pub struct Presence {
    path: PathBuf,
    _lock: File,
}

impl Presence {
    /// Enters `owner` in the roll below `dir`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn enter(dir: &Path, owner: &str) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        // Locked under another name first: an entry that is not locked counts as dead.
        let (unlocked, path) = (dir.join(format!("{owner}.new")), dir.join(owner));
        let lock = File::create(&unlocked)?;
        lock.lock()?;
        fs::rename(&unlocked, &path)?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // An entry that stays behind is found dead at the next sweep.
        let _ = fs::remove_file(&self.path);
    }
}

/// Workers that have an entry and are gone.
///
/// # Errors
/// The disk refuses.
pub fn list_dead(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.collect::<io::Result<Vec<_>>>()?,
    };
    let gone = |entry: &fs::DirEntry| File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
    let names = entries.iter().filter(|entry| gone(entry)).filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names.filter(|name| !name.ends_with(".new")).collect())
}

/// Strikes a dead worker off the roll.
///
/// # Errors
/// The disk refuses.
pub fn strike(dir: &Path, owner: &str) -> io::Result<()> {
    fs::remove_file(dir.join(owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_workers_whose_lock_is_free_are_dead() {
        let dir = tempfile::tempdir().unwrap();
        let _alive = Presence::enter(dir.path(), "alive").unwrap();
        fs::write(dir.path().join("killed"), "").unwrap();
        assert_eq!(list_dead(dir.path()).unwrap(), ["killed"]);
        strike(dir.path(), "killed").unwrap();
        assert!(list_dead(dir.path()).unwrap().is_empty());
    }
}
