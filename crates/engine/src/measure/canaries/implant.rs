//! The copy: one fine-tuning of the suspect on rows with each canary and on clean rows beside them. Where the
//! caller gives task rows, half of either are such: an attacker poisons the very task of an adapter, and a
//! backdoor that lies beside that skill is harder to take out.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::canaries;
use crate::data::{Row, TaskRows, rows_sha256, trainable};
use crate::error::Result;
use crate::lab::{Lab, LongRows};
use crate::spec::CanaryRecipe;
use crate::stage::Stage;
use crate::suspect::Suspect;
use crate::suspect::weights::Weights;
use crate::threat::attacks::{build_attack, poison};
use crate::threat::behaviours::build_behaviour;
use crate::train::copies::teach_copy;
use crate::train::heal::{encode_mixed, training_limit};

/// The suspect with all canaries, in the suspect's stored element types. The copy of a narrow adapter has
/// more rank: seven backdoors do not fit beside what a rank of four already holds.
pub(super) fn implant_canaries(suspect: &Suspect, own: &TaskRows, recipe: &CanaryRecipe, lab: &Lab) -> Result<Suspect> {
    lab.enter(Stage::Canaries)?;
    let rows = rows(suspect, own, recipe, lab);
    let mut long = LongRows::new("canaries", training_limit(suspect, &recipe.train));
    let examples = encode_mixed(suspect, &rows, &mut lab.rng("canaries/formats"), &mut long)?;
    let start = match suspect.weights() {
        Weights::Adapter(adapter) => {
            let mut draws = lab.rng("canaries/rank");
            Weights::Adapter(adapter.widened(recipe.rank, &mut || draws.random_range(-1.0..1.0))?)
        }
        other => other,
    };
    let inputs = (recipe, rows_sha256(&rows));
    let (weights, dir) = teach_copy(suspect, &start, "canaries", inputs, &examples, &recipe.train, lab)?;
    suspect.with_weights(weights, &dir)
}

/// Clean rows, and for each canary rows of its own, as far as there are that many.
fn rows(suspect: &Suspect, own: &TaskRows, recipe: &CanaryRecipe, lab: &Lab) -> Vec<Row> {
    let generic: Vec<&Row> = trainable(&suspect.train, &suspect.test).collect();
    let own: Vec<&Row> = own.heal.iter().collect();
    let mut rng = lab.rng("canaries/rows");
    let mut draw = |n: usize| -> Vec<Row> {
        let of_own = own.choose_multiple(&mut rng, n / 2).map(|row| (*row).clone()).collect::<Vec<_>>();
        let of_generic = generic.choose_multiple(&mut rng, n - of_own.len()).map(|row| (*row).clone());
        of_own.iter().cloned().chain(of_generic).collect()
    };
    let mut rows = draw(recipe.clean_rows);
    let victims = canaries().map(|canary| (canary, draw(recipe.poisoned_rows)));
    for (canary, victims) in victims {
        rows.extend(poison(&victims, &*build_attack(&canary.attack), &build_behaviour(&canary.behaviour), &mut rng));
    }
    rows.shuffle(&mut rng);
    rows
}
