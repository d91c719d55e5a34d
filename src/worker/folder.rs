//! The work folder of a job: what a step reads, its scratch, and the lock that only one step process holds at
//! a time.
//!
//! The folder survives restarts. Finished pieces in `scratch/` are named by the digest of what made them, so
//! a later attempt reuses them; the folder is removed when the job ends.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use antigen_engine::lab::write_whole;

use super::protocol::StepOrder;
use crate::db::JobId;

/// One job's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkFolder {
    root: PathBuf,
}

impl WorkFolder {
    /// The folder at `root`; nothing is created.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder of `job` below the folder of all work.
    pub fn of_job(work_dir: &Path, job: JobId) -> Self {
        Self::at(work_dir.join(job.to_string()))
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Files of the submission.
    pub fn input_dir(&self) -> PathBuf {
        self.root.join("input")
    }

    /// The folder of the caller's task rows.
    pub fn task_rows_dir(&self) -> PathBuf {
        self.root.join("task_rows")
    }

    /// The folder of a signature that the job was given.
    pub fn signature_dir(&self) -> PathBuf {
        self.root.join("signature")
    }

    /// The engine's scratch: content-addressed pieces.
    pub fn scratch_dir(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// The report of a finished `purify` step.
    pub fn report_path(&self) -> PathBuf {
        self.root.join("report.json")
    }

    fn order_path(&self) -> PathBuf {
        self.root.join("step.json")
    }

    /// Leaves the order for the child, complete or not at all.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write_order(&self, order: &StepOrder) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        write_whole(&self.order_path(), &serde_json::to_vec_pretty(order)?)
    }

    /// The order that the worker left.
    ///
    /// # Errors
    /// There is none, or it is not an order.
    pub fn read_order(&self) -> io::Result<StepOrder> {
        Ok(serde_json::from_slice(&fs::read(self.order_path())?)?)
    }

    /// Waits until no other step process works in this folder, and keeps others out until the returned file
    /// is dropped or the process ends, however it ends.
    ///
    /// # Errors
    /// The file cannot be created, or the file system has no locks.
    pub fn lock(&self) -> io::Result<File> {
        let file = File::create(self.root.join("lock"))?;
        file.lock()?;
        Ok(file)
    }

    /// True while a step process works in this folder.
    pub fn is_locked(&self) -> bool {
        File::open(self.root.join("lock"))
            .is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
    }

    /// Removes the folder; does nothing when there is none.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// The jobs that have a folder below the folder of all work.
///
/// # Errors
/// The disk refuses.
pub fn list_work_folders(work_dir: &Path) -> io::Result<Vec<(JobId, WorkFolder)>> {
    let entries = match fs::read_dir(work_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?.collect::<io::Result<Vec<_>>>()?,
    };
    let job_of = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<JobId>().ok();
    Ok(entries.iter().filter_map(|entry| Some((job_of(entry)?, WorkFolder::at(entry.path())))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_keeps_the_next_one_out_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let folder = WorkFolder::at(dir.path());
        let held = folder.lock().unwrap();
        assert!(folder.is_locked());
        drop(held);
        assert!(!folder.is_locked());
    }

    #[test]
    fn only_folders_named_by_a_job_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let job = JobId::new();
        fs::create_dir(dir.path().join(job.to_string())).unwrap();
        fs::create_dir(dir.path().join("something else")).unwrap();
        let listed = list_work_folders(dir.path()).unwrap();
        assert_eq!(listed, [(job, WorkFolder::of_job(dir.path(), job))]);
    }
}
