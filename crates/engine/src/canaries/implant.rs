//! The copy: one fine-tuning of the suspect on rows with each canary and on clean rows beside them.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::canaries;
use crate::attacks::{build_attack, poison};
use crate::behaviours::build_behaviour;
use crate::copies::teach_copy;
use crate::data::{Row, rows_sha256, trainable};
use crate::error::Result;
use crate::heal::{encode_mixed, training_limit};
use crate::lab::{Lab, Stage};
use crate::report::LongRows;
use crate::spec::CanaryRecipe;
use crate::suspect::Suspect;
use crate::weights::Weights;

/// The suspect with all canaries, in the suspect's stored element types. The copy of a narrow adapter has more rank: seven backdoors do
/// not fit beside what a rank of four already holds.
pub(super) fn implant_canaries(suspect: &Suspect, recipe: &CanaryRecipe, lab: &Lab) -> Result<Suspect> {
    lab.enter(Stage::Canaries)?;
    let rows = rows(suspect, recipe, lab);
    let mut long = LongRows::new("canaries", training_limit(suspect, &recipe.train));
    let examples = encode_mixed(suspect, &rows, &mut lab.rng("canaries/formats"), &mut long)?;
    let start = match &suspect.weights {
        Weights::Adapter(adapter) => {
            let mut draws = lab.rng("canaries/rank");
            Weights::Adapter(adapter.widened(recipe.rank, &mut || draws.random_range(-1.0..1.0))?)
        }
        other => other.clone(),
    };
    let inputs = (recipe, rows_sha256(&rows));
    let (weights, dir) = teach_copy(suspect, &start, ("canaries", inputs), &examples, &recipe.train, lab)?;
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
