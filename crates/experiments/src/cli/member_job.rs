//! A whole job on a member of a zoo, in a folder of its own: several commands run one on many members.

use std::{
    fs,
    path::{Path, PathBuf},
};

use antigen_engine::data::{Row, write_rows};
use antigen_engine::job::PurifySpec;
use antigen_engine::run::{Outcome, run};
use antigen_engine::suspect::Submission;
use antigen_engine::world::ZooMember;
use anyhow::Context;
use serde::de::DeserializeOwned;

use super::zoo::Site;

/// A job, with everything that it is given beside the member.
pub(super) struct MemberJob<'a> {
    pub spec: &'a PurifySpec,
    pub task_rows: &'a [Row],
    /// The signature of another member, to be suppressed instead of its own.
    pub signature: Option<&'a PathBuf>,
    /// True where the screen has the base's calibration to look with.
    pub screened: bool,
    /// True where the scratch stays, for a later job that needs the same pieces.
    pub keep_pieces: bool,
}

/// The value that an earlier run of the command has left in this file, if it came so far.
pub(super) fn finished<T: DeserializeOwned>(file: &Path) -> anyhow::Result<Option<T>> {
    if !file.exists() {
        return Ok(None);
    }
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{}", file.display()))
}

/// Runs the job in `folder`, where its task rows stay; the scratch there is removed once `keep` has taken
/// what is wanted of the outcome.
pub(super) fn run_member<T>(
    site: &Site,
    member: &ZooMember,
    job: &MemberJob<'_>,
    folder: &Path,
    keep: impl FnOnce(Outcome) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut submission = submission(site, member, job.task_rows, folder)?;
    submission.signature = job.signature.cloned();
    submission.calibration_dir = job.screened.then(|| site.folders.base.clone());
    let work = folder.join("work");
    let mut lab = site.lab.with_seed(job.spec.seed);
    lab.scratch.clone_from(&work);
    let outcome = run(&submission, job.spec, &lab).with_context(|| format!("the job of {}", member.name))?;
    let kept = keep(outcome)?;
    if !job.keep_pieces {
        fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    }
    Ok(kept)
}

/// The member as a caller would submit it, over a base without calibration; its task rows are written to
/// `folder`, where `work` is made for scratch.
pub(super) fn submission(
    site: &Site,
    member: &ZooMember,
    task_rows: &[Row],
    folder: &Path,
) -> anyhow::Result<Submission> {
    let work = folder.join("work");
    fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
    let file = folder.join("task-rows.jsonl");
    write_rows(&file, task_rows)?;
    Ok(Submission { task_rows: Some(file), ..site.folders.submission(member) })
}
