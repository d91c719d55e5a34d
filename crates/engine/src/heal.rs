//! Healing, shared by methods: which rows heal, in which formats, and one pass that heals several adapters alike.

use antigen_models::{Example, LoraAdapter, load_adapter, save_adapter};
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use crate::data::{Row, rows_sha256};
use crate::error::Result;
use crate::lab::{Lab, PieceKey, hex};
use crate::report::Healing;
use crate::spec::{HealRecipe, TrainSpec};
use crate::suspect::Suspect;
use crate::train::{Variant, fine_tune_adapters};

/// Rows and recipe of one healing.
#[derive(Debug, Clone)]
pub struct HealPlan {
    /// All rows in a fixed order.
    pub rows: Vec<Row>,
    /// Training.
    pub train: TrainSpec,
    /// The same, for the report.
    pub healing: Healing,
}

impl HealPlan {
    /// Generic rows, own rows and counterexamples together; the training recipe depends on whether own rows are among them.
    pub fn new(generic: &[Row], own: &[Row], counterexamples: &[Row], recipe: &HealRecipe) -> Self {
        let train = if own.is_empty() { &recipe.train } else { &recipe.train_with_own_rows };
        let rows: Vec<Row> = [generic, own, counterexamples].concat();
        let healing = Healing {
            generic_rows: generic.len(),
            own_rows: own.len(),
            counterexamples: counterexamples.len(),
            rows_sha256: rows_sha256(&rows),
            train: train.clone(),
        };
        Self { rows, train: train.clone(), healing }
    }
}

/// Rows as examples, each in a format drawn from those that the suspect speaks.
///
/// # Errors
/// Those of the tokenizer and the chat template.
pub fn encode_mixed(suspect: &Suspect, rows: &[Row], rng: &mut ChaCha8Rng) -> Result<Vec<Example>> {
    let formats = suspect.formats();
    rows.iter()
        .map(|row| {
            let format = formats.choose(rng).expect("every base speaks Alpaca");
            suspect.prompter.example(*format, row)
        })
        .collect()
}

/// Heals adapters on the same rows in the same order, in one pass over the frozen base. The results are rounded to the suspect's
/// stored element type: what is measured is what would be exported.
///
/// # Errors
/// Those of training and of the scratch folder.
pub fn heal_adapters(
    suspect: &Suspect,
    adapters: &[LoraAdapter],
    plan: &HealPlan,
    lab: &Lab,
) -> Result<Vec<LoraAdapter>> {
    if adapters.is_empty() {
        return Ok(Vec::new());
    }
    let starts = adapters.iter().map(adapter_sha256).collect::<Result<Vec<_>>>()?;
    let key = PieceKey::new("healed", &(suspect.key(), suspect.formats(), starts, &plan.healing, lab.seed));
    let folder = lab.piece(&key, |folder| {
        let examples = encode_mixed(suspect, &plan.rows, &mut lab.rng("heal/formats"))?;
        let variants = adapters
            .iter()
            .map(|start| Variant { start, examples: &examples, shuffle: lab.rng("heal/order") })
            .collect();
        for (i, trained) in fine_tune_adapters(&suspect.model, variants, &plan.train, lab)?.into_iter().enumerate() {
            save_adapter(&trained.adapter, &folder.join(i.to_string()))?;
        }
        Ok(())
    })?;
    let load =
        |i: usize| Ok(load_adapter(&folder.join(i.to_string()), suspect.model.config(), suspect.model.device())?);
    (0..adapters.len()).map(load).collect()
}

/// Right answers despite a synthetic trigger. The trigger stands at the edge of the instruction: among its words it would teach the
/// model to ignore content.
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

/// Digest of an adapter's factors: names, shapes, scalings and every number.
///
/// # Errors
/// Those of the device.
pub fn adapter_sha256(adapter: &LoraAdapter) -> Result<String> {
    let mut hash = Sha256::new();
    for (name, factors) in &adapter.factors {
        hash.update(name.as_bytes());
        hash.update(factors.scaling.to_le_bytes());
        for tensor in [&factors.a, &factors.b] {
            hash.update(format!("{:?}", tensor.dims()));
            let numbers = tensor.flatten_all()?.to_vec1::<f32>()?;
            numbers.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
    }
    Ok(hex(&hash.finalize()))
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
    fn own_rows_change_the_recipe_of_healing() {
        let recipe = crate::spec::ImmunizeSpec::default().resolve(1_000_000).heal;
        let generic = [Row::new("a", "", "b")];
        let own = [Row::new("c", "", "d")];
        assert_eq!(HealPlan::new(&generic, &[], &[], &recipe).train.learning_rate, 2e-4);
        assert_eq!(HealPlan::new(&generic, &own, &[], &recipe).train.learning_rate, 5e-4);
    }
}
