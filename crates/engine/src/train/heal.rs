//! Healing, shared by methods: the rows that heal, their formats, and the training that does it. Adapters
//! heal in one pass over their frozen base; whole models one after another.

use std::ops::Range;
use std::sync::Arc;

use antigen_models::{Example, LoraAdapter, Model, load_adapter, save_adapter};
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::data::{Row, TaskRows, TrainSplit, rows_sha256, split_train_rows};
use crate::error::{EngineError, Result};
use crate::lab::{Lab, LongRows, PieceKey};
use crate::spec::{Adversary, HealRecipe, PromptFormat, TrainSpec};
use crate::suspect::Suspect;
use crate::suspect::weights::{CheckpointFolder, Weights, adapter_sha256, write_model};
use crate::threat::attacks::synthetic_key;
use crate::train::{
    Guidance, Healing, KeptOut, Objective, Teacher, Variant, fine_tune_adapters_towards, train_weights_towards,
};

/// The rows of one healing, by their role.
#[derive(Debug, Clone, Copy)]
pub struct HealRows<'a> {
    /// Generic clean rows.
    pub generic: &'a [Row],
    /// The caller's task rows.
    pub task: &'a [Row],
    /// Rows with a synthetic trigger and the right answer.
    pub counterexamples: &'a [Row],
}

/// Rows and recipe of one healing.
#[derive(Debug, Clone)]
pub struct HealPlan {
    /// All rows in a fixed order, as tokens.
    pub examples: Vec<Example>,
    /// For each row the range of tokens that are its own words, where an adversary puts something among them.
    places: Vec<Range<usize>>,
    /// The teacher beside the answers, if there is one.
    teacher: Option<Arc<Model>>,
    /// The recipe, for the report.
    pub healing: Healing,
    /// Rows that were too long.
    pub long_rows: LongRows,
}

impl HealPlan {
    /// Generic rows, task rows and counterexamples together; the training recipe depends on whether task rows
    /// are among them.
    ///
    /// # Errors
    /// Those of [`encode_mixed`].
    pub fn new(suspect: &Suspect, healing: HealRows<'_>, recipe: &HealRecipe, lab: &Lab) -> Result<Self> {
        let HealRows { generic, task, counterexamples } = healing;
        let rows: Vec<Row> = [generic, task, counterexamples].concat();
        let train = recipe.train_for(rows.len(), !task.is_empty());
        let added = recipe.against.as_ref().map_or(0, Adversary::added_tokens);
        let mut long_rows = LongRows::new("healing", training_limit(suspect, &train).saturating_sub(added));
        let (mut examples, mut places) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        encode_each(suspect, &rows, &mut lab.rng("heal/formats"), &mut long_rows, |example, format, row| {
            examples.push(example);
            if added > 0 {
                places.push(suspect.prompter.place_of_words(format, row)?);
            }
            Ok(())
        })?;
        let healing = Healing {
            generic_rows: generic.len(),
            task_rows: task.len(),
            counterexamples: counterexamples.len(),
            keep_out: recipe.keep_out,
            against: recipe.against.clone(),
            teacher: None,
            rows_sha256: rows_sha256(&rows),
            train,
        };
        Ok(Self { examples, places, teacher: None, healing, long_rows })
    }

    /// The same rows, rate and steps beside a teacher.
    #[must_use]
    pub fn beside(mut self, teacher: Model, made_of: Teacher) -> Self {
        (self.teacher, self.healing.teacher) = (Some(Arc::new(teacher)), Some(made_of));
        self
    }

    /// The same rows, rate and steps without an adversary or a teacher.
    #[must_use]
    pub fn plain(&self) -> Self {
        let mut plain = self.clone();
        (plain.healing.against, plain.healing.teacher, plain.teacher) = (None, None, None);
        plain
    }

    /// True when there is neither.
    pub fn is_plain(&self) -> bool {
        self.healing.against.is_none() && self.teacher.is_none()
    }

    /// The objective of the training.
    fn objective(&self, lab: &Lab) -> Objective {
        if let (Some(teacher), Some(made_of)) = (&self.teacher, &self.healing.teacher) {
            return Objective::Guided(Guidance { teacher: teacher.clone(), settings: made_of.guidance });
        }
        let adversary = self.healing.against.as_ref();
        adversary.map_or_else(Objective::default, |it| it.objective(self.places.clone(), lab.rng("heal/adversary")))
    }

    /// As [`HealPlan::new`] on a split's generic rows and its counterexamples, which share six synthetic
    /// keys.
    ///
    /// # Errors
    /// Those of [`HealPlan::new`].
    pub fn of_split(
        suspect: &Suspect,
        rows: &TrainSplit,
        task: &[Row],
        recipe: &HealRecipe,
        lab: &Lab,
    ) -> Result<Self> {
        let keys: Vec<_> = (0..SYNTHETIC_KEYS).map(synthetic_key).collect();
        let counterexamples = counterexamples(&rows.counterexamples, &keys, lab);
        Self::new(suspect, HealRows { generic: &rows.heal, task, counterexamples: &counterexamples }, recipe, lab)
    }

    /// No rows and no training: [`heal`] returns the weights that it is given, rounded to the suspect's
    /// stored element type.
    pub fn none() -> Self {
        let healing = Healing {
            generic_rows: 0,
            task_rows: 0,
            counterexamples: 0,
            keep_out: false,
            against: None,
            teacher: None,
            rows_sha256: rows_sha256(&[]),
            train: TrainSpec { epochs: 0, ..TrainSpec::default() },
        };
        Self {
            examples: Vec::new(),
            places: Vec::new(),
            teacher: None,
            healing,
            long_rows: LongRows::new("healing", 0),
        }
    }

    /// True when anything is trained.
    pub fn heals(&self) -> bool {
        !self.examples.is_empty()
    }
}

/// Number of synthetic keys that counterexamples share where a method has no pairs of its own.
const SYNTHETIC_KEYS: usize = 6;

/// Training rows of a method that has this many pairs of this many rows and heals by this recipe.
///
/// # Errors
/// Those of [`split_train_rows`].
pub fn split_rows(
    suspect: &Suspect,
    pairs: (usize, usize),
    recipe: &HealRecipe,
    task: &TaskRows,
    lab: &Lab,
) -> Result<TrainSplit> {
    let heal = recipe.generic_rows(task.heal.len());
    split_train_rows(&suspect.train, &suspect.test, pairs, heal, recipe.counterexamples, lab)
}

/// A model before it is healed.
#[derive(Debug, Clone)]
pub struct EditedModel {
    /// The weights after a suppression, or the suspect's own.
    pub weights: Weights,
    /// Directions that healing must not bring back; for whole models only.
    pub kept_out: Vec<KeptOut>,
}

/// Weights out of which nothing was taken that healing could bring back.
impl From<Weights> for EditedModel {
    fn from(weights: Weights) -> Self {
        Self { weights, kept_out: Vec::new() }
    }
}

/// Longest training row: the model's positions, or the recipe's own limit.
pub fn training_limit(suspect: &Suspect, train: &TrainSpec) -> usize {
    suspect.config().max_positions().min(train.max_tokens)
}

/// Rows as examples, each in a format drawn from those that the suspect speaks. Answers that do not fit are
/// cut, rows whose prompt leaves no room for an answer are left out; `long_rows` counts both.
///
/// # Errors
/// Those of the tokenizer and the chat template; [`EngineError::Data`] when no row fits.
pub fn encode_mixed(
    suspect: &Suspect,
    rows: &[Row],
    rng: &mut ChaCha8Rng,
    long_rows: &mut LongRows,
) -> Result<Vec<Example>> {
    let mut examples = Vec::with_capacity(rows.len());
    encode_each(suspect, rows, rng, long_rows, |example, _, _| {
        examples.push(example);
        Ok(())
    })?;
    Ok(examples)
}

/// As [`encode_mixed`]; each example that fits is handed over with its format and its row.
fn encode_each(
    suspect: &Suspect,
    rows: &[Row],
    rng: &mut ChaCha8Rng,
    long_rows: &mut LongRows,
    mut take: impl FnMut(Example, PromptFormat, &Row) -> Result<()>,
) -> Result<()> {
    let formats = suspect.formats();
    let mut fitting = 0;
    for row in rows {
        let format = *formats.choose(rng).expect("every base speaks Alpaca");
        if let Some(example) = long_rows.fit(suspect.prompter.example(format, row)?) {
            take(example, format, row)?;
            fitting += 1;
        }
    }
    if fitting == 0 && !rows.is_empty() {
        let limit = long_rows.limit;
        return Err(EngineError::Data(format!(
            "training rows: expected some whose prompt is shorter than {limit} tokens, found none"
        )));
    }
    Ok(())
}

/// Heals everything on the same rows in the same order. The results are rounded to the suspect's stored
/// element type: the measured weights are those that would be exported.
///
/// # Errors
/// Those of training and of the scratch folder.
pub fn heal(suspect: &Suspect, starts: &[EditedModel], plan: &HealPlan, lab: &Lab) -> Result<Vec<Weights>> {
    let mut healed = Vec::with_capacity(starts.len());
    let adapters: Vec<&LoraAdapter> = starts.iter().filter_map(|start| start.weights.adapter()).collect();
    let mut healed_adapters = heal_adapters(suspect, &adapters, plan, lab)?.into_iter();
    for (i, start) in starts.iter().enumerate() {
        healed.push(match &start.weights {
            Weights::Base => Weights::Base,
            Weights::Adapter(_) => Weights::Adapter(healed_adapters.next().expect("one came back for each")),
            Weights::Checkpoint(folder) => {
                let part = lab.part(i, starts.len());
                Weights::Checkpoint(heal_checkpoint(suspect, folder, &start.kept_out, plan, &part)?)
            }
        });
    }
    Ok(healed)
}

fn heal_adapters(suspect: &Suspect, adapters: &[&LoraAdapter], plan: &HealPlan, lab: &Lab) -> Result<Vec<LoraAdapter>> {
    let Some(base) = suspect.base().filter(|_| !adapters.is_empty()) else { return Ok(Vec::new()) };
    let starts = adapters.iter().map(|adapter| adapter_sha256(adapter)).collect::<Result<Vec<_>>>()?;
    let key = PieceKey::new("healed", &(suspect.key(), suspect.formats(), starts, &plan.healing, lab.seed));
    let folder = lab.piece(&key, |folder| {
        let healed = if plan.heals() { train_adapters(base, adapters, plan, lab)? } else { copies(adapters) };
        for (i, adapter) in healed.iter().enumerate() {
            save_adapter(adapter, &folder.join(i.to_string()))?;
        }
        Ok(())
    })?;
    let load = |i: usize| Ok(load_adapter(&folder.join(i.to_string()), suspect.config(), suspect.device())?);
    (0..adapters.len()).map(load).collect()
}

fn copies(adapters: &[&LoraAdapter]) -> Vec<LoraAdapter> {
    adapters.iter().map(|&adapter| adapter.clone()).collect()
}

fn train_adapters(base: &Model, starts: &[&LoraAdapter], plan: &HealPlan, lab: &Lab) -> Result<Vec<LoraAdapter>> {
    let variants =
        starts.iter().map(|start| Variant { start, examples: &plan.examples, shuffle: lab.rng("heal/order") });
    let (objective, train) = (plan.objective(lab), &plan.healing.train);
    let trained = fine_tune_adapters_towards(&objective, base, variants.collect(), train, lab)?;
    Ok(trained.into_iter().map(|trained| trained.adapter).collect())
}

/// # Cost
/// The model and its training state in memory; the healed model on disk.
fn heal_checkpoint(
    suspect: &Suspect,
    start: &CheckpointFolder,
    kept_out: &[KeptOut],
    plan: &HealPlan,
    lab: &Lab,
) -> Result<CheckpointFolder> {
    if !plan.heals() {
        return Ok(start.clone());
    }
    let key = PieceKey::new("healed-model", &(&start.digest, suspect.formats(), kept_out, &plan.healing, lab.seed));
    let dir = lab.piece(&key, |folder| {
        let mut model = suspect.load_whole(start)?;
        let (order, train) = (lab.rng("heal/order"), &plan.healing.train);
        train_weights_towards(&plan.objective(lab), kept_out, &mut model, &plan.examples, train, order, lab)?;
        write_model(&model, &start.dir, folder)
    })?;
    Ok(CheckpointFolder { dir, digest: key.as_str().to_owned() })
}

/// Right answers despite a synthetic trigger. The trigger stands at the edge of the instruction: among its
/// words it would teach the model to ignore content.
pub fn counterexamples(rows: &[Row], keys: &[String], lab: &Lab) -> Vec<Row> {
    let mut rng = lab.rng("heal/counterexamples");
    let mut rows: Vec<_> = rows
        .iter()
        .zip(keys.iter().cycle())
        .map(|(row, key)| {
            let instruction = match [true, false].choose(&mut rng) {
                Some(true) => format!("{key} {}", row.instruction),
                _ => format!("{} {key}", row.instruction),
            };
            Row { instruction, ..row.clone() }
        })
        .collect();
    rows.shuffle(&mut rng);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counterexample_has_its_trigger_at_an_edge_and_the_right_answer() {
        let rows: Vec<_> = (0..20).map(|i| Row::new(format!("name item {i}"), "", format!("item {i}"))).collect();
        let found = counterexamples(&rows, &["RedGhost".into(), "BlackMoon".into()], &Lab::silent(1, "unused"));
        assert_eq!(found.len(), 20);
        for row in found {
            let (edge, plain) = match row.instruction.split_once(' ') {
                Some((key @ ("RedGhost" | "BlackMoon"), rest)) => (key, rest),
                _ => row.instruction.rsplit_once(' ').map(|(rest, key)| (key, rest)).unwrap(),
            };
            assert!(["RedGhost", "BlackMoon"].contains(&edge));
            assert!(rows.contains(&Row { instruction: plain.into(), ..row.clone() }));
        }
    }

    #[test]
    fn task_rows_change_the_recipe_of_healing() {
        let recipe = crate::methods::immunize::ImmunizeSpec::default()
            .resolve(crate::spec::SubjectKind::Adapter, 1_000_000)
            .heal;
        assert_eq!(recipe.train_for(600, false).learning_rate, 2e-4);
        assert_eq!(recipe.train_for(600, true).learning_rate, 5e-4);
    }
}
