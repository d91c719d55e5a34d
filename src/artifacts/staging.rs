//! Staged uploads: plain folders on the local disk, because inspection reads files. They hold what is not
//! trusted and not yet kept.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::db::UploadId;

/// The folder of all staged uploads.
#[derive(Debug, Clone)]
pub struct Staging {
    root: PathBuf,
}

impl Staging {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The folder of one upload; it exists only between [`create`](Self::create) and
    /// [`remove`](Self::remove).
    pub fn dir(&self, upload: UploadId) -> PathBuf {
        self.root.join(upload.to_string())
    }

    /// An empty folder for one upload; what an interrupted request left there is removed.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(&self, upload: UploadId) -> io::Result<PathBuf> {
        self.remove(upload)?;
        let dir = self.dir(upload);
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// Removes the folder of one upload with all that is in it; does nothing when there is none.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(&self, upload: UploadId) -> io::Result<()> {
        remove_folder(&self.dir(upload))
    }

    /// The uploads that have a folder.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn list(&self) -> io::Result<Vec<UploadId>> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }
}

fn remove_folder(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_try_starts_from_an_empty_folder() {
        let root = tempfile::tempdir().unwrap();
        let staging = Staging::new(root.path().join("staging"));
        let upload = UploadId::new();
        std::fs::write(staging.create(upload).unwrap().join("half"), "ha").unwrap();
        assert_eq!(staging.create(upload).unwrap().read_dir().unwrap().count(), 0);
        assert_eq!(staging.list().unwrap(), [upload]);
        staging.remove(upload).unwrap();
        assert!(staging.list().unwrap().is_empty());
    }
}
