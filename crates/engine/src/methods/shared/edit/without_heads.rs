//! A whole model without some of its attention heads.

use antigen_models::Stored;

use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::methods::shared::head_pruning::{HeadSet, output_inputs, remove_heads};
use crate::suspect::Suspect;
use crate::suspect::weights::{CheckpointFolder, Weights, write_model};
use crate::train::{Directions, KeptOut};

/// The whole model in `folder` without these heads, and the parts that a training must keep out of it so that
/// they stay gone.
///
/// # Errors
/// Those of the model and of the scratch folder.
pub fn without_heads(
    suspect: &Suspect,
    folder: &CheckpointFolder,
    heads: &HeadSet,
    lab: &Lab,
) -> Result<(Weights, Vec<KeptOut>)> {
    let mut model = suspect.load_whole(folder)?;
    let key = PieceKey::new("pruned-heads", &(&folder.digest, heads));
    let dir = lab.piece(&key, |to| {
        let _ = remove_heads(&mut model, heads)?;
        write_model(&model, &folder.dir, to)
    })?;
    let kept_out = output_inputs(&model, heads).into_iter().map(|(module, inputs)| KeptOut {
        weight: module.weight_name(),
        directions: Directions::Axes(inputs),
        of_rows: module.stored == Stored::OutIn,
    });
    let kept_out = kept_out.collect();
    Ok((Weights::Checkpoint(CheckpointFolder { dir, digest: key.as_str().to_owned() }), kept_out))
}
