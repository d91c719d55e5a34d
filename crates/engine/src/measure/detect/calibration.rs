//! The calibration of the screen: measurements of clean suspects over one base, as a file beside the base.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Uptake;
use crate::error::{EngineError, Result};
use crate::lab::sha256_hex;
use crate::spec::{ScreenRecipe, SubjectKind};
use crate::suspect::{FileDigest, Subject, Suspect};

/// Name of the file beside a base.
pub const CALIBRATION_FILE: &str = "susceptibility.json";
/// Name and version of its schema.
const SCHEMA: &str = "antigen.susceptibility/1";
/// Fewer clean suspects than this say nothing about the next one.
pub(super) const FEWEST_CLEAN: usize = 20;
/// The calibration of the base that ships, written by `antigen calibrate`.
const BUILTIN: &[u8] = include_bytes!("../../../fixtures/tiny-world/susceptibility.json");

/// Screens of suspects that we trained ourselves and know to be clean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// `antigen.susceptibility/1`.
    pub schema: String,
    /// Version of the engine.
    pub engine: String,
    /// Files of the base that decide about results.
    pub base: Vec<FileDigest>,
    /// Digest of the rows that the screen draws from.
    pub train_rows_sha256: String,
    /// Adapters and whole models are apart: they are trained at different rates.
    pub groups: Vec<CalibrationGroup>,
}

/// Suspects of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CalibrationGroup {
    /// Adapters or whole models.
    pub kind: SubjectKind,
    /// The recipe by which they were screened.
    pub recipe: ScreenRecipe,
    /// Clean suspects: the threshold follows from these alone.
    pub clean: Vec<Calibrated>,
    /// Poisoned ones, to show that they stand apart; no number follows from them.
    pub poisoned: Vec<Calibrated>,
}

/// One screened suspect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    /// Its name in the zoo.
    pub name: String,
    /// Its making, in words.
    pub about: String,
    /// The screen's measurement.
    pub uptake: Uptake,
}

impl Calibration {
    /// A calibration without groups for a base of these files and for the rows of a suspect over it.
    pub fn for_base(base: Vec<FileDigest>, suspect: &Suspect) -> Self {
        Self {
            schema: SCHEMA.into(),
            engine: env!("CARGO_PKG_VERSION").into(),
            base,
            train_rows_sha256: train_rows(suspect.subject()).unwrap_or_default().into(),
            groups: Vec::new(),
        }
    }

    /// The calibration that ships with the tiny world.
    pub fn builtin() -> Self {
        serde_json::from_slice(BUILTIN).expect("the shipped calibration is tested")
    }

    /// The calibration beside a base, if there is one; otherwise that of the base that ships, which fits no
    /// other.
    ///
    /// # Errors
    /// [`EngineError::Data`] when the file is not a calibration.
    pub fn find(base_dir: &Path) -> Result<Self> {
        let path = base_dir.join(CALIBRATION_FILE);
        if !path.exists() {
            return Ok(Self::builtin());
        }
        let bytes = fs::read(&path).map_err(EngineError::io(&path))?;
        let wrong = |why: String| EngineError::Data(format!("{CALIBRATION_FILE}: expected a calibration: {why}"));
        let calibration: Self = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if calibration.schema != SCHEMA {
            return Err(wrong(format!("expected schema {SCHEMA}, found {}", calibration.schema)));
        }
        Ok(calibration)
    }

    /// This calibration, and those groups of an older one of the same base and rows whose kind it lacks.
    pub fn or_groups_of(mut self, older: Self) -> Self {
        if (&older.base, &older.train_rows_sha256) == (&self.base, &self.train_rows_sha256) {
            let missing = |group: &CalibrationGroup| self.groups.iter().all(|own| own.kind != group.kind);
            let kept: Vec<_> = older.groups.into_iter().filter(missing).collect();
            self.groups.splice(0..0, kept);
        }
        self
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.bytes()).map_err(EngineError::io(path))
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("calibrations always serialise");
        bytes.push(b'\n');
        bytes
    }

    /// The group that this suspect may be compared with and the digest of the whole, or the reason why there
    /// is none.
    pub(super) fn group_for(
        &self,
        suspect: &Suspect,
        recipe: &ScreenRecipe,
    ) -> Result<(&CalibrationGroup, String), String> {
        let subject = suspect.subject();
        if !self.is_about(subject) {
            return Err(
                "the only calibration at hand is of another base; `antigen calibrate` makes one for this.".into()
            );
        }
        if train_rows(subject) != Some(self.train_rows_sha256.as_str()) {
            return Err("the calibration of this base was made with other training rows than this job has.".into());
        }
        let of_kind = self.groups.iter().find(|group| group.kind == subject.kind);
        let Some(group) = of_kind else {
            return Err("the calibration of this base has no suspects of this kind.".into());
        };
        if !recipe.is_part_of(&group.recipe) {
            return Err("the calibration of this base was made with another recipe.".into());
        }
        match group.clean.len() {
            n if n < FEWEST_CLEAN => {
                Err(format!("expected at least {FEWEST_CLEAN} clean suspects in the calibration, found {n}."))
            }
            _ => Ok((group, sha256_hex(&self.bytes()))),
        }
    }

    // Whole models name no base; one that has the base's very configuration and tokenizer was grown from it,
    // or from a twin.
    fn is_about(&self, subject: &Subject) -> bool {
        match subject.kind {
            SubjectKind::Adapter => subject.base == self.base,
            SubjectKind::Checkpoint => ["config.json", "tokenizer.json"].iter().all(|name| {
                let digest = |files: &[FileDigest]| files.iter().find(|f| f.path == *name).map(|f| f.sha256.clone());
                digest(&subject.checkpoint).is_some_and(|found| Some(found) == digest(&self.base))
            }),
        }
    }
}

fn train_rows(subject: &Subject) -> Option<&str> {
    subject.rows.iter().find(|rows| rows.role == "train").map(|rows| rows.sha256.as_str())
}
