//! Whole models on disk.

use std::path::Path;

use antigen_models::Model;
use antigen_models::checkpoint::copy_checkpoint;

use crate::error::Result;

/// Writes `model` as a copy of the checkpoint folder `like`, which it was loaded from: the same files, shards, names and element types,
/// with the model's numbers.
///
/// # Errors
/// [`crate::error::EngineError::Model`] for a number that the stored element type cannot hold, or when the disk refuses.
///
/// # Cost
/// One tensor at a time beside the model.
pub fn write_model(model: &Model, like: &Path, to: &Path) -> Result<()> {
    let params = model.params();
    Ok(copy_checkpoint(like, to, |entry| {
        // Some exports of tied models store the head a second time; it must stay equal to the embedding.
        let tied = || {
            let is_twin = |tensor: &&antigen_models::Tensor| tensor.dims() == entry.shape;
            params.iter().map(|(_, _, tensor)| tensor).find(is_twin).filter(|_| entry.name == "lm_head.weight")
        };
        Ok(params.find(&entry.name).map(|id| params.get(id)).or_else(tied).cloned())
    })?)
}
