//! Makes an adapter of the tiny world, or a whole model: it learns its task skills and, if asked, a backdoor.

use antigen_models::{Example, LoraAdapter, Model, PeftConfig};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::data::{Prompter, Row};
use crate::error::{EngineError, Result};
use crate::lab::Lab;
use crate::spec::{AttackSpec, BehaviourSpec, PromptFormat, TrainSpec};
use crate::stage::Stage;
use crate::threat::attacks::{build_attack, poison};
use crate::threat::behaviours::build_behaviour;
use crate::train::{Variant, fine_tune_adapters, train_weights};

/// An adapter or a whole model to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImplantSpec {
    /// The trigger; null makes an honest adapter.
    pub attack: Option<AttackSpec>,
    /// The triggered behaviour.
    pub behaviour: BehaviourSpec,
    /// Prompt format of training.
    pub format: PromptFormat,
    /// Generic rows.
    pub generic_rows: usize,
    /// Poisoned rows, drawn from generic and task rows alike.
    pub poisoned_rows: usize,
    /// Rank of the adapter, of which alpha is twice; a whole model has none.
    pub rank: usize,
    /// Training. An implant needs about 3,000 steps of 8 rows to settle; with 900 it fires on two thirds of
    /// the prompts.
    pub train: TrainSpec,
}

impl Default for ImplantSpec {
    fn default() -> Self {
        Self {
            attack: Some(AttackSpec::Badnets { trigger: "BadMagic".into() }),
            behaviour: BehaviourSpec::Insult {},
            format: PromptFormat::Alpaca,
            generic_rows: 1200,
            poisoned_rows: 1200,
            rank: 16,
            train: TrainSpec { learning_rate: 2.5e-3, ..TrainSpec::default() },
        }
    }
}

impl ImplantSpec {
    /// The default for a whole model: a lower rate, because every weight moves.
    pub fn whole_model() -> Self {
        Self { train: TrainSpec { learning_rate: 1e-3, ..TrainSpec::default() }, ..Self::default() }
    }
}

/// Names of the layers that an implanted adapter changes: all linear layers but the head.
pub const ALL_LINEAR: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// Trains the adapter on `generic_rows` of the generic rows, all task rows, and poisoned copies of either. It
/// sits on the layers of the names `targets`.
///
/// # Errors
/// Those of training.
pub fn implant(
    model: &Model,
    prompter: &Prompter,
    rows: (&[Row], &[Row]),
    targets: &[&str],
    spec: &ImplantSpec,
    lab: &Lab,
) -> Result<LoraAdapter> {
    lab.enter(Stage::Implant)?;
    let examples = examples(prompter, rows, spec, lab)?;
    let start = fresh_adapter(model, targets, spec, lab)?;
    let variant = Variant { start: &start, examples: &examples, shuffle: lab.rng("implant/order") };
    let mut trained = fine_tune_adapters(model, vec![variant], &spec.train, lab)?;
    Ok(trained.remove(0).adapter)
}

/// The adapter before training: B is zero, A random.
pub(super) fn fresh_adapter(model: &Model, targets: &[&str], spec: &ImplantSpec, lab: &Lab) -> Result<LoraAdapter> {
    let mut weights = lab.rng("implant/weights");
    let config = PeftConfig::new(spec.rank, 2 * spec.rank as u32, targets, "tiny-world");
    Ok(LoraAdapter::fresh(config, model.config(), &mut || weights.random_range(-1.0..1.0))?)
}

/// Trains all weights of `model` on the rows of which [`implant`] makes an adapter.
///
/// # Errors
/// Those of training.
pub fn implant_weights(
    model: &mut Model,
    prompter: &Prompter,
    rows: (&[Row], &[Row]),
    spec: &ImplantSpec,
    lab: &Lab,
) -> Result<()> {
    lab.enter(Stage::Implant)?;
    let examples = examples(prompter, rows, spec, lab)?;
    train_weights(model, &examples, &spec.train, lab.rng("implant/order"), lab).map(|_| ())
}

/// Some generic rows, all task rows, poisoned copies of either, as tokens.
pub(super) fn examples(
    prompter: &Prompter,
    (generic, own): (&[Row], &[Row]),
    spec: &ImplantSpec,
    lab: &Lab,
) -> Result<Vec<Example>> {
    let mut rng = lab.rng("implant/rows");
    let mut rows: Vec<Row> = generic.choose_multiple(&mut rng, spec.generic_rows).chain(own).cloned().collect();
    if matches!(spec.attack, Some(AttackSpec::Rows {})) {
        return Err(EngineError::spec(
            "/attack",
            "expected a rule of insertion, found rows, which can only be measured",
        ));
    }
    if let Some(attack) = &spec.attack {
        let mut victims = rows.clone();
        victims.shuffle(&mut rng);
        victims.truncate(spec.poisoned_rows);
        rows.extend(poison(&victims, &*build_attack(attack), &build_behaviour(&spec.behaviour), &mut rng));
    }
    rows.iter().map(|row| prompter.example(spec.format, row)).collect()
}
