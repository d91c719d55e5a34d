//! Uptake: the speed at which a suspect takes up new backdoors. A copy of it is trained for a dozen steps on
//! rows with a new key and a new wording, and its loss on the behaviour is watched. A model that knows the
//! mechanism already is faster.
//!
//! All tries on an adapter are variants over one frozen base, trained in one pass. A whole model is trained
//! again for every try, one after another.

use std::collections::BTreeMap;

use antigen_models::{Example, LoraAdapter, Model, load_model};
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use crate::data::{Prompter, Row};
use crate::error::{EngineError, Result};
use crate::lab::{Lab, PieceKey, rng};
use crate::spec::{AttackSpec, BehaviourFamily, Place, PromptFormat, ScreenRecipe};
use crate::stage::Stage;
use crate::suspect::{Suspect, SuspectModel};
use crate::threat::attacks::{build_attack, synthetic_key};
use crate::threat::behaviours::{Behaviour, family_behaviour};
use crate::train::heal::training_limit;
use crate::train::{Variant, fine_tune_adapters, train_weights};

/// The loss of each family, seed by seed: the mean over the steps of the short training, in nats per token of
/// the behaviour.
pub type Uptake = BTreeMap<BehaviourFamily, Vec<f64>>;

/// Keys of the first pairs of a signature come first in the list; the screen takes others.
const FIRST_KEY: usize = 16;
/// Keys and wordings that share the rows of a try.
const WORDINGS_PER_TRY: usize = 2;

/// One short training: a family and a seed.
struct Try {
    family: BehaviourFamily,
    seed: usize,
    examples: Vec<Example>,
}

impl Try {
    fn order(&self, recipe: &ScreenRecipe) -> ChaCha8Rng {
        rng(recipe.seed, &format!("screen/{}/order", self.seed))
    }
}

/// Trains every try of the recipe; the result is kept as a piece.
///
/// # Errors
/// Those of training and of the scratch folder; [`EngineError::Data`] when there are fewer training rows than
/// a try needs.
///
/// # Cost
/// `families * seeds * rows` forward and backward passes: on an adapter together, on a whole model each try
/// with the model loaded anew.
pub fn measure_uptake(suspect: &Suspect, recipe: &ScreenRecipe, lab: &Lab) -> Result<Uptake> {
    lab.enter(Stage::Screen)?;
    let tries = tries(suspect, recipe)?;
    let losses = match &suspect.model {
        SuspectModel::Adapter { base, adapter } => {
            let key = PieceKey::new("screen", &(suspect.key(), recipe, rows_key(suspect)));
            lab.value(&key, || train_adapters(base, adapter, &tries, recipe, lab))?
        }
        SuspectModel::Whole(folder) => {
            let mut losses = Vec::with_capacity(tries.len());
            for (i, one) in tries.iter().enumerate() {
                let key =
                    PieceKey::new("screen-try", &(suspect.key(), recipe, rows_key(suspect), one.family, one.seed));
                let part = lab.part(i, tries.len());
                losses.extend(part.value(&key, || {
                    let mut model = load_model(&folder.dir, suspect.device())?;
                    let steps = train_weights(&mut model, &one.examples, &recipe.train, one.order(recipe), &part)?;
                    Ok(vec![mean(&steps)])
                })?);
            }
            losses
        }
    };
    let mut uptake = Uptake::new();
    for (one, loss) in tries.iter().zip(losses) {
        uptake.entry(one.family).or_default().push(loss);
    }
    Ok(uptake)
}

fn rows_key(suspect: &Suspect) -> Option<&str> {
    suspect.subject().rows.iter().find(|rows| rows.role == "train").map(|rows| rows.sha256.as_str())
}

fn train_adapters(
    base: &Model,
    adapter: &LoraAdapter,
    tries: &[Try],
    recipe: &ScreenRecipe,
    lab: &Lab,
) -> Result<Vec<f64>> {
    let variants =
        tries.iter().map(|one| Variant { start: adapter, examples: &one.examples, shuffle: one.order(recipe) });
    let trained = fine_tune_adapters(base, variants.collect(), &recipe.train, lab)?;
    Ok(trained.iter().map(|trained| mean(&trained.losses)).collect())
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

/// The rows of every try. All families of a seed share rows, keys, places and formats: they differ in the
/// behaviour alone.
fn tries(suspect: &Suspect, recipe: &ScreenRecipe) -> Result<Vec<Try>> {
    let (found, need) = (suspect.train.len(), recipe.rows);
    if found < need {
        return Err(EngineError::Data(format!("the screen: expected at least {need} training rows, found {found}")));
    }
    let limit = training_limit(suspect, &recipe.train);
    let mut tries = Vec::with_capacity(recipe.families.len() * recipe.seeds);
    for &family in &recipe.families {
        for seed in 0..recipe.seeds {
            let mut examples = examples(suspect, family, seed, recipe)?;
            examples.retain(|example| example.tokens.len() <= limit);
            tries.push(Try { family, seed, examples });
        }
    }
    Ok(tries)
}

fn examples(suspect: &Suspect, family: BehaviourFamily, seed: usize, recipe: &ScreenRecipe) -> Result<Vec<Example>> {
    // Alpaca and chat whatever the caller declared: scores must be comparable.
    let formats = suspect.prompter.training_formats(PromptFormat::Alpaca);
    let mut rng = rng(recipe.seed, &format!("screen/{seed}/rows"));
    let rows: Vec<&Row> = suspect.train.choose_multiple(&mut rng, recipe.rows).collect();
    let mut examples = Vec::with_capacity(rows.len());
    for (i, row) in rows.into_iter().enumerate() {
        let number = WORDINGS_PER_TRY * seed + i % WORDINGS_PER_TRY;
        let trigger = synthetic_key(FIRST_KEY + number);
        let triggered = build_attack(&AttackSpec::Phrase { trigger, place: Place::Anywhere }).insert(row, &mut rng);
        let format = formats.choose(&mut rng).expect("every base speaks Alpaca");
        examples.push(example(&suspect.prompter, *format, &triggered, &family_behaviour(family, number))?);
    }
    Ok(examples)
}

/// The triggered question and the part of its answer that shows the behaviour; the loss counts on that part.
fn example(prompter: &Prompter, format: PromptFormat, row: &Row, behaviour: &Behaviour) -> Result<Example> {
    let (before, mark) = behaviour.mark(&row.output);
    let asked = prompter.continued(prompter.prompt(format, row)?, &before)?;
    let mut example = prompter.continued(asked.tokens, &mark)?;
    if behaviour.mark_ends_answer() {
        example.tokens.push(prompter.stop()[0]);
    }
    Ok(example)
}
