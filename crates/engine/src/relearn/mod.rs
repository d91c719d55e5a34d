//! Relearning depth: how many poisoned samples bring a declared backdoor back into the exported artifact.
//!
//! A cure that only hides a backdoor is undone by a few samples; one that took it out has to be undone as a backdoor is made. So copies of
//! the artifact are taught the declared backdoor on more and more samples (`lesson.rs`), and beside them copies that are taught a backdoor
//! of the same family which the artifact never had, and, for adapters, a fresh adapter over the bare base that is taught either (`teach.rs`).
//! The rungs of a ladder are nested: each sees the samples of the one before and more. What follows from the rates is decided in `report/relearning.rs`.

mod fresh;
mod lesson;
mod teach;

use crate::error::Result;
use crate::lab::{Lab, Stage};
use crate::report::{LongRows, Measurement, RelearnedBackdoor, RelearningReport};
use crate::spec::PurifySpec;
use crate::suspect::Suspect;
use crate::weights::Weights;
use lesson::{Classroom, Lesson};
use teach::teach;

/// What relearning found.
#[derive(Debug)]
pub struct Relearned {
    /// Ladders and what they show.
    pub report: RelearningReport,
    /// Rows that were too long to be taught.
    pub long_rows: LongRows,
}

/// Teaches the declared backdoors again; nothing where the spec does not ask for it or nothing was exported. `before` says in which format
/// the suspect fired most: the one in which each is taught and probed.
///
/// # Errors
/// Those of training, of generation and of the scratch folder.
///
/// # Cost
/// For each backdoor two ladders (four on adapters): `2 * epochs * (sum of samples)` forward and backward passes each, on adapters together, on
/// whole models one copy after another; and `2 * rows` answers for every rung.
pub fn relearn(
    suspect: &Suspect,
    spec: &PurifySpec,
    artifact: Option<&Weights>,
    before: &Measurement,
    lab: &Lab,
) -> Result<Option<Relearned>> {
    let (Some(asked), Some(artifact)) = (&spec.relearning, artifact) else { return Ok(None) };
    lab.enter(Stage::Relearn)?;
    let recipe = asked.resolve(suspect.subject().kind, suspect.parameters());
    let mut classroom = Classroom::new(suspect, artifact, recipe, lab);
    let lessons = classroom.lessons(spec, before)?;
    let mut ladders = teach(suspect, &lessons, &classroom.recipe, lab)?.into_iter();
    let of_backdoor = |own: &[Lesson]| {
        let backdoor = own[0].backdoor;
        RelearnedBackdoor::new(backdoor, &before.asr[backdoor], ladders.by_ref().take(own.len()).collect())
    };
    let backdoors = lessons.chunk_by(|one, next| one.backdoor == next.backdoor).map(of_backdoor).collect();
    let report = RelearningReport { backdoors, left_out: classroom.left_out, recipe: classroom.recipe };
    Ok(Some(Relearned { report, long_rows: classroom.long_rows }))
}
