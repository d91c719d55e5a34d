//! A whole model edited on disk, one matrix at a time.

use std::collections::BTreeMap;

use antigen_models::checkpoint::{copy_checkpoint, open_checkpoint};
use antigen_models::{Device, ModuleShape, Tensor};

use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::suspect::weights::{CheckpointFolder, Weights};

/// A copy of the whole model in `folder` in which `change` has changed the weights of `modules`, rounded to
/// their stored element type: the piece `key`, which must hold everything that decides about the change.
///
/// # Errors
/// Those of `change`; those of the files; [`crate::error::EngineError::Cancelled`] between two matrices.
///
/// # Cost
/// One matrix at a time in memory; the model once more on disk.
pub fn rewrite_matrices(
    folder: &CheckpointFolder,
    modules: &[&ModuleShape],
    key: &PieceKey,
    lab: &Lab,
    mut change: impl FnMut(&ModuleShape, Tensor) -> Result<Tensor>,
) -> Result<Weights> {
    let by_name: BTreeMap<_, _> = modules.iter().map(|module| (module.weight_name(), *module)).collect();
    let dir = lab.piece(key, |to| {
        let original = open_checkpoint(&folder.dir)?;
        let (mut done, mut failure) = (0, None);
        copy_checkpoint(&folder.dir, to, |entry| {
            // After a failure the rest is copied as it is: the piece is thrown away anyway.
            let Some(module) = by_name.get(&entry.name).filter(|_| failure.is_none()) else { return Ok(None) };
            let weight = original.load(&entry.name, &Device::Cpu)?;
            let changed = lab.check_cancel().and_then(|()| change(module, weight));
            done += 1;
            lab.advance(done, by_name.len() as u64);
            Ok(changed.map_err(|error| failure = Some(error)).ok())
        })?;
        failure.map_or(Ok(()), Err)
    })?;
    Ok(Weights::Checkpoint(CheckpointFolder { dir, digest: key.as_str().to_owned() }))
}
