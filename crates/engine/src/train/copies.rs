//! Copies of the suspect that are taught something: canaries, a vaccine.

use std::path::PathBuf;

use antigen_models::{Example, load_adapter, save_adapter};
use serde::Serialize;

use crate::error::{EngineError, Result};
use crate::lab::{Lab, PieceKey};
use crate::spec::TrainSpec;
use crate::suspect::Suspect;
use crate::suspect::weights::{CheckpointFolder, Weights, write_model};
use crate::train::{Variant, fine_tune_adapters, train_weights};

/// One fine-tuning of `start`, which goes over the suspect's base or is a whole model like it; returns the
/// copy and the folder where it lies. `kind` names the piece and the stream that orders the rows; `inputs`
/// are everything else that decides about the bytes.
///
/// # Errors
/// Those of training and of the scratch folder.
pub(crate) fn teach_copy(
    suspect: &Suspect,
    start: &Weights,
    kind: &str,
    inputs: impl Serialize,
    examples: &[Example],
    train: &TrainSpec,
    lab: &Lab,
) -> Result<(Weights, PathBuf)> {
    let key = PieceKey::new(kind, &(suspect.key(), start.digest()?, suspect.formats(), inputs, train, lab.seed));
    let order = lab.rng(&format!("{kind}/order"));
    let dir = lab.piece(&key, |folder| match (start, suspect.base()) {
        (Weights::Adapter(adapter), Some(base)) => {
            let variant = Variant { start: adapter, examples, shuffle: order };
            Ok(save_adapter(&fine_tune_adapters(base, vec![variant], train, lab)?[0].adapter, folder)?)
        }
        (Weights::Checkpoint(files), _) => {
            let mut model = suspect.load_whole(files)?;
            train_weights(&mut model, examples, train, order, lab)?;
            write_model(&model, &files.dir, folder)
        }
        _ => Err(EngineError::Data("expected an adapter or a whole model to teach, found the base alone".into())),
    })?;
    let copy = match start {
        Weights::Checkpoint(_) => {
            Weights::Checkpoint(CheckpointFolder { dir: dir.clone(), digest: key.as_str().to_owned() })
        }
        _ => Weights::Adapter(load_adapter(&dir, suspect.config(), suspect.device())?),
    };
    Ok((copy, dir))
}
