//! The store of blobs, over `object_store`: put, get with ranges, fetch into a folder, sweep.

use std::{
    io,
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, buffered::BufWriter, local::LocalFileSystem};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{ArtifactKey, Staging, hash_file, list_files};
use crate::config::Config;
use crate::db::ArtifactFile;

/// Age from which a blob that nobody names may be swept.
const SWEEP_AGE: Duration = Duration::from_secs(24 * 3600);

/// Errors of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Text that cannot name a blob.
    #[error("expected a SHA-256 as 64 lower-case hexadecimal digits, found `{0}`")]
    BadDigest(String),
    /// A blob whose bytes are not those that its name promises.
    #[error("blob {expected}: its bytes have the SHA-256 {found}")]
    Damaged {
        /// Its name.
        expected: String,
        /// The hash of its bytes.
        found: String,
    },
    /// A path that would leave the folder that it is to be written into.
    #[error("expected a path below the artifact's folder, found `{0}`")]
    BadPath(String),
    /// The store refused, or has no such blob.
    #[error(transparent)]
    Store(#[from] object_store::Error),
    /// The local disk refused.
    #[error("{path}: {cause}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        cause: io::Error,
    },
}

impl StoreError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { path, cause }
    }
}

/// Bytes of a blob on their way out.
pub struct BlobStream {
    /// Size of the whole blob.
    pub bytes: u64,
    /// The part that the stream carries.
    pub range: Range<u64>,
    /// The part.
    pub stream: BoxStream<'static, object_store::Result<Bytes>>,
}

/// The store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ArtifactStore {
    objects: Arc<dyn ObjectStore>,
    staging: Staging,
}

/// Opens the store that the settings name: the door for kinds of stores.
///
/// # Errors
/// The folder cannot be created.
pub fn open_store(config: &Config) -> Result<ArtifactStore, StoreError> {
    let dir = config.store_dir();
    std::fs::create_dir_all(&dir).map_err(StoreError::io(&dir))?;
    // fsync: a row that names a blob is committed only after the blob would survive a power cut.
    let objects = LocalFileSystem::new_with_prefix(&dir)?.with_fsync(true);
    Ok(ArtifactStore { objects: Arc::new(objects), staging: Staging::new(dir.join("staging")) })
}

impl ArtifactStore {
    /// The place where uploads are staged.
    pub fn staging(&self) -> &Staging {
        &self.staging
    }

    /// Stores the bytes of a local file under their SHA-256 and returns the row for it, named `name`. The
    /// file stays where it is.
    ///
    /// # Errors
    /// The file cannot be read, or the store refuses (disk full).
    pub async fn put_file(&self, file: &Path, name: &str) -> Result<ArtifactFile, StoreError> {
        let path = file.to_owned();
        let hashed = tokio::task::spawn_blocking(move || hash_file(&path)).await;
        let (sha256, bytes) =
            hashed.map_err(io::Error::other).and_then(|result| result).map_err(StoreError::io(file))?;
        let location = ArtifactKey::blob(&sha256)?.path();
        if !self.has_fresh(&location).await? {
            let mut source = tokio::fs::File::open(file).await.map_err(StoreError::io(file))?;
            let mut sink = BufWriter::new(self.objects.clone(), location);
            tokio::io::copy(&mut source, &mut sink).await.map_err(StoreError::io(file))?;
            sink.shutdown().await.map_err(StoreError::io(file))?;
        }
        Ok(ArtifactFile { path: name.to_owned(), bytes: bytes as i64, sha256 })
    }

    /// Stores every file below a folder.
    ///
    /// # Errors
    /// A file cannot be read, the folder holds something that is not a file, or the store refuses (disk
    /// full).
    pub async fn put_folder(&self, dir: &Path) -> Result<Vec<ArtifactFile>, StoreError> {
        let mut files = Vec::new();
        for name in list_files(dir).map_err(StoreError::io(dir))? {
            files.push(self.put_file(&dir.join(&name), &name).await?);
        }
        Ok(files)
    }

    /// True when the blob is there and young enough that no sweep takes it before its row is written; an old
    /// one is written again.
    async fn has_fresh(&self, location: &object_store::path::Path) -> Result<bool, StoreError> {
        match self.objects.head(location).await {
            Ok(meta) => Ok((Utc::now() - meta.last_modified).to_std().unwrap_or_default() < SWEEP_AGE / 2),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The bytes of a blob, or a part of them.
    ///
    /// # Errors
    /// There is no such blob, or the range does not lie within it.
    pub async fn get(&self, sha256: &str, range: Option<Range<u64>>) -> Result<BlobStream, StoreError> {
        let options = GetOptions { range: range.map(GetRange::Bounded), ..GetOptions::default() };
        let found = self.objects.get_opts(&ArtifactKey::blob(sha256)?.path(), options).await?;
        Ok(BlobStream { bytes: found.meta.size, range: found.range.clone(), stream: found.into_stream() })
    }

    /// Writes the files of an artifact into a folder. Files that are there with the right bytes are left
    /// alone; a file appears complete or not at all.
    ///
    /// # Errors
    /// A blob is missing or damaged, a path would leave the folder, or the disk refuses.
    pub async fn fetch_to(&self, files: &[ArtifactFile], dir: &Path) -> Result<(), StoreError> {
        for file in files {
            let target = join_below(dir, &file.path)?;
            if !is_complete(&target, file) {
                self.fetch_file(file, &target).await?;
            }
        }
        Ok(())
    }

    async fn fetch_file(&self, file: &ArtifactFile, target: &Path) -> Result<(), StoreError> {
        let folder = target.parent().unwrap_or(target);
        tokio::fs::create_dir_all(folder).await.map_err(StoreError::io(folder))?;
        let partial = target.with_extension("partial");
        let mut sink = tokio::fs::File::create(&partial).await.map_err(StoreError::io(&partial))?;
        let mut hasher = Sha256::new();
        let mut blob = self.get(&file.sha256, None).await?.stream;
        while let Some(chunk) = blob.try_next().await? {
            hasher.update(&chunk);
            sink.write_all(&chunk).await.map_err(StoreError::io(&partial))?;
        }
        sink.sync_all().await.map_err(StoreError::io(&partial))?;
        let found = format!("{:x}", hasher.finalize());
        if found != file.sha256 {
            return Err(StoreError::Damaged { expected: file.sha256.clone(), found });
        }
        tokio::fs::rename(&partial, target).await.map_err(StoreError::io(target))
    }

    /// The blobs that are old enough to be swept, should nobody name them.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn list_old_blobs(&self) -> Result<Vec<String>, StoreError> {
        let newest = Utc::now() - SWEEP_AGE;
        let blobs = self.objects.list(Some(&ArtifactKey::BLOBS.into()));
        let old = blobs.try_filter(|meta| std::future::ready(meta.last_modified < newest));
        let names = old.map(|meta| Ok::<_, StoreError>(meta?.location.filename().unwrap_or_default().to_owned()));
        names.try_collect().await
    }

    /// Removes a blob.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn delete_blob(&self, sha256: &str) -> Result<(), StoreError> {
        Ok(self.objects.delete(&ArtifactKey::blob(sha256)?.path()).await?)
    }

    /// Answers when the store does.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn check_ready(&self) -> Result<(), StoreError> {
        self.objects.list_with_delimiter(None).await?;
        Ok(())
    }
}

/// Artifact paths come from uploads: refused here once more, whatever inspection said.
fn join_below(dir: &Path, path: &str) -> Result<PathBuf, StoreError> {
    let relative = Path::new(path);
    let plain = !path.is_empty() && relative.components().all(|part| matches!(part, Component::Normal(_)));
    if plain { Ok(dir.join(relative)) } else { Err(StoreError::BadPath(path.to_owned())) }
}

fn is_complete(target: &Path, file: &ArtifactFile) -> bool {
    hash_file(target).is_ok_and(|(sha256, _)| sha256 == file.sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(dir: &Path) -> ArtifactStore {
        open_store(&Config { data_dir: dir.to_owned(), ..Config::default() }).unwrap()
    }

    async fn read(store: &ArtifactStore, sha256: &str, range: Option<Range<u64>>) -> Vec<u8> {
        let chunks: Vec<Bytes> = store.get(sha256, range).await.unwrap().stream.try_collect().await.unwrap();
        chunks.concat()
    }

    #[tokio::test]
    async fn equal_files_are_one_blob_and_come_back_in_full_and_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        std::fs::create_dir(dir.path().join("in")).unwrap();
        std::fs::write(dir.path().join("in/a"), "purified").unwrap();
        std::fs::write(dir.path().join("in/b"), "purified").unwrap();
        let files = store.put_folder(&dir.path().join("in")).await.unwrap();
        assert_eq!(files[0].sha256, files[1].sha256);
        assert_eq!(read(&store, &files[0].sha256, None).await, b"purified");
        assert_eq!(read(&store, &files[0].sha256, Some(2..5)).await, b"rif");
        store.fetch_to(&files, &dir.path().join("out")).await.unwrap();
        assert_eq!(std::fs::read(dir.path().join("out/b")).unwrap(), b"purified");
    }

    #[tokio::test]
    async fn a_path_that_leaves_the_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        std::fs::write(dir.path().join("x"), "x").unwrap();
        let mut file = store.put_file(&dir.path().join("x"), "x").await.unwrap();
        for bad in ["../x", "/x", "a/../../x", ""] {
            file.path = bad.to_owned();
            let error = store.fetch_to(std::slice::from_ref(&file), &dir.path().join("out")).await.unwrap_err();
            assert!(matches!(error, StoreError::BadPath(_)), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn damaged_bytes_are_noticed_and_not_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        std::fs::write(dir.path().join("x"), "right").unwrap();
        let file = store.put_file(&dir.path().join("x"), "x").await.unwrap();
        let blob = dir.path().join("store").join(ArtifactKey::blob(&file.sha256).unwrap().path().as_ref());
        std::fs::write(blob, "wrong").unwrap();
        let error = store.fetch_to(&[file], &dir.path().join("out")).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(!dir.path().join("out/x").exists());
    }
}
