//! Relearning depth: the number of poisoned samples that bring a declared backdoor back into the exported
//! artifact.
//!
//! A cure that only hides a backdoor is undone by a few samples; one that took it out has to be undone as a
//! backdoor is made. So copies of the artifact are taught the declared backdoor on more and more samples
//! (`setup.rs`), and beside them copies that are taught a backdoor of the same family which the artifact
//! never had, and, for adapters, a fresh adapter over the bare base that is taught either (`teach.rs`). The
//! points of a curve are nested: each sees the samples of the one before and more.
//! `measure/evidence/relearning.rs` decides what follows from the rates.

mod fresh;
mod setup;
mod teach;

use crate::error::Result;
use crate::lab::Lab;
use crate::measure::evidence::{Measurement, RelearnedBackdoor, RelearningReport};
use crate::spec::{EvaluatorSpec, RelearningRecipe};
use crate::stage::Stage;
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;
use setup::{Experiment, Setup};
use teach::teach;

/// Teaches the declared backdoors again; nothing without a recipe, or where nothing was exported. `before`
/// says in which format the suspect fired most: the one in which each is taught and probed.
///
/// # Errors
/// Those of training, of generation and of the scratch folder.
///
/// # Cost
/// For each backdoor two curves (four on adapters): `2 * epochs * (sum of samples)` forward and backward
/// passes each, on adapters together, on whole models one copy after another; and `2 * rows` answers for
/// every point.
pub fn relearn(
    suspect: &Suspect,
    recipe: Option<RelearningRecipe>,
    evaluators: &[EvaluatorSpec],
    artifact: Option<&Weights>,
    before: &Measurement,
    lab: &Lab,
) -> Result<Option<RelearningReport>> {
    let (Some(recipe), Some(artifact)) = (recipe, artifact) else { return Ok(None) };
    lab.enter(Stage::Relearn)?;
    let mut setup = Setup::new(suspect, artifact, recipe, lab);
    let experiments = setup.experiments(evaluators, before)?;
    let mut curves = teach(suspect, &experiments, &setup.recipe, lab)?.into_iter();
    let of_backdoor = |own: &[Experiment]| {
        let backdoor = own[0].backdoor;
        RelearnedBackdoor::new(backdoor, &before.asr[backdoor], curves.by_ref().take(own.len()).collect())
    };
    let backdoors = experiments.chunk_by(|one, next| one.backdoor == next.backdoor).map(of_backdoor).collect();
    let report = RelearningReport { backdoors, left_out: setup.left_out, recipe: setup.recipe };
    lab.note_long_rows(&setup.long_rows);
    Ok(Some(report))
}
