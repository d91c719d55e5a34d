//! The copy: one fine-tuning of the suspect on rows with each canary and on clean rows beside them.

use antigen_models::{Example, load_adapter, save_adapter};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::canaries;
use crate::attacks::{build_attack, poison};
use crate::behaviours::build_behaviour;
use crate::data::{Row, rows_sha256, trainable};
use crate::error::{EngineError, Result};
use crate::heal::{encode_mixed, training_limit};
use crate::lab::{Lab, PieceKey, Stage};
use crate::report::LongRows;
use crate::spec::CanaryRecipe;
use crate::suspect::Suspect;
use crate::train::{Variant, fine_tune_adapters, train_weights};
use crate::weights::{CheckpointFolder, Weights, write_model};

/// The suspect with all canaries, in the suspect's stored element types. The copy of a narrow adapter has more rank: seven backdoors do
/// not fit beside what a rank of four already holds.
pub(super) fn implant_canaries(suspect: &Suspect, recipe: &CanaryRecipe, lab: &Lab) -> Result<Suspect> {
    lab.enter(Stage::Canaries)?;
    let rows = rows(suspect, recipe, lab);
    let mut long = LongRows::new("canaries", training_limit(suspect, &recipe.train));
    let examples = encode_mixed(suspect, &rows, &mut lab.rng("canaries/formats"), &mut long)?;
    let key = PieceKey::new("canaries", &(suspect.key(), suspect.formats(), recipe, rows_sha256(&rows), lab.seed));
    let dir = lab.piece(&key, |folder| train(suspect, &examples, recipe, folder, lab))?;
    let weights = match suspect.weights {
        Weights::Checkpoint(_) => {
            Weights::Checkpoint(CheckpointFolder { dir: dir.clone(), digest: key.as_str().to_owned() })
        }
        Weights::Adapter(_) | Weights::Base => {
            Weights::Adapter(load_adapter(&dir, suspect.config(), suspect.device())?)
        }
    };
    suspect.with_weights(weights, &dir)
}

/// Clean rows, and for each canary rows of its own, as far as there are that many.
fn rows(suspect: &Suspect, recipe: &CanaryRecipe, lab: &Lab) -> Vec<Row> {
    let pool: Vec<&Row> = trainable(&suspect.train, &suspect.test).collect();
    let mut rng = lab.rng("canaries/rows");
    let mut rows: Vec<Row> = pool.choose_multiple(&mut rng, recipe.clean_rows).map(|row| (*row).clone()).collect();
    for canary in canaries() {
        let victims: Vec<Row> =
            pool.choose_multiple(&mut rng, recipe.poisoned_rows).map(|row| (*row).clone()).collect();
        rows.extend(poison(&victims, &*build_attack(&canary.attack), &build_behaviour(&canary.behaviour), &mut rng));
    }
    rows.shuffle(&mut rng);
    rows
}

fn train(
    suspect: &Suspect,
    examples: &[Example],
    recipe: &CanaryRecipe,
    folder: &std::path::Path,
    lab: &Lab,
) -> Result<()> {
    let order = lab.rng("canaries/order");
    match (&suspect.weights, suspect.base()) {
        (Weights::Adapter(adapter), Some(base)) => {
            let mut draws = lab.rng("canaries/rank");
            let roomy = adapter.widened(recipe.rank, &mut || draws.random_range(-1.0..1.0))?;
            let variant = Variant { start: &roomy, examples, shuffle: order };
            let trained = fine_tune_adapters(base, vec![variant], &recipe.train, lab)?;
            Ok(save_adapter(&trained[0].adapter, folder)?)
        }
        (Weights::Checkpoint(start), _) => {
            let mut model = suspect.load_whole(start)?;
            train_weights(&mut model, examples, &recipe.train, order, lab)?;
            write_model(&model, &start.dir, folder)
        }
        _ => Err(EngineError::Data("expected an adapter or a whole model to implant canaries into".into())),
    }
}
