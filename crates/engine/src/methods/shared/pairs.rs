//! Synthetic backdoors: the data of each pair, and the rows that each of its two variants is trained on.

use antigen_models::Example;

use super::read_rows::ReadRows;
use crate::data::{Row, rows_sha256};
use crate::error::Result;
use crate::lab::{Lab, LongRows};
use crate::spec::{AttackSpec, BehaviourFamily, PairsSpec, Place, TrainSpec};
use crate::suspect::Suspect;
use crate::threat::attacks::{Attack, build_attack, poison, synthetic_key};
use crate::threat::behaviours::{Behaviour, family_behaviour};
use crate::train::heal::{encode_mixed, training_limit};

/// Clean rows and their poisoned copies.
#[derive(Debug, Clone)]
pub struct PairData {
    /// D_i^clean, the rows that the clean variant learns from.
    pub clean: Vec<Row>,
    /// D_i^pois: the same rows with key and behaviour.
    pub poisoned: Vec<Row>,
}

impl PairData {
    /// The clean rows; twice, where that gives as many steps as the poisoned member has.
    fn of_clean_member(&self, spec: &PairsSpec) -> Vec<Row> {
        let times = if spec.match_steps { 2 } else { 1 };
        vec![self.clean.as_slice(); times].concat()
    }

    /// Clean rows and poisoned copies.
    fn of_poisoned_member(&self) -> Vec<Row> {
        [self.clean.as_slice(), &self.poisoned].concat()
    }
}

/// The training rows of one variant.
#[derive(Debug, Clone)]
pub struct VariantRows {
    /// Such as `0-clean` or `0-poisoned`.
    pub name: String,
    /// Digest of its rows.
    pub rows_sha256: String,
    /// Its rows as tokens.
    pub examples: Vec<Example>,
    /// The stream that orders them.
    pub order: String,
}

/// The rows of all variants, and the triggered rows of each pair where streams are read from them.
pub(crate) struct PairedRows {
    /// Of every pair the clean member's, then the poisoned one's.
    pub variants: Vec<VariantRows>,
    /// One set a pair, or none.
    pub probes: Vec<ReadRows>,
}

/// The behaviour of pair `i`: families take turns, and so do the texts of each family.
fn behaviour(i: usize, families: &[BehaviourFamily]) -> Behaviour {
    family_behaviour(families[i % families.len()], i)
}

/// The published rule: the key goes into any gap of the instruction, both ends allowed.
fn key_attack(i: usize) -> Box<dyn Attack> {
    build_attack(&AttackSpec::Phrase { trigger: synthetic_key(i), place: Place::Anywhere })
}

/// The data of all pairs, from one set of clean rows each.
pub fn build_paired_sets(clean: Vec<Vec<Row>>, spec: &PairsSpec, lab: &Lab) -> Vec<PairData> {
    let pair = |(i, clean): (usize, Vec<Row>)| {
        let mut rng = lab.rng(&format!("immunize/pairs/{i}/keys"));
        let poisoned = poison(&clean, &*key_attack(i), &behaviour(i, &spec.families), &mut rng);
        PairData { clean, poisoned }
    };
    clean.into_iter().enumerate().map(pair).collect()
}

/// The rows of all variants as tokens: of each pair first the clean member's, then the poisoned one's, which
/// sees both. With matched steps the clean member has its rows twice.
///
/// # Errors
/// Those of tokenizer and template; [`crate::error::EngineError::Data`] when no row of a variant fits the
/// model.
pub fn encode_variants(
    suspect: &Suspect,
    data: &[PairData],
    spec: &PairsSpec,
    train: &TrainSpec,
    lab: &Lab,
) -> Result<Vec<VariantRows>> {
    let mut long = LongRows::new("pairs", training_limit(suspect, train));
    let mut variants = Vec::with_capacity(2 * data.len());
    for (i, pair) in data.iter().enumerate() {
        for (member, rows) in [("clean", &pair.of_clean_member(spec)), ("poisoned", &pair.of_poisoned_member())] {
            let stream = format!("immunize/pairs/{i}/{member}");
            variants.push(VariantRows {
                name: format!("{i}-{member}"),
                rows_sha256: rows_sha256(rows),
                examples: encode_mixed(suspect, rows, &mut lab.rng(&format!("{stream}/formats")), &mut long)?,
                order: format!("{stream}/order"),
            });
        }
    }
    lab.note_long_rows(&long);
    Ok(variants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let families = PairsSpec::default().families;
        let targets: Vec<_> = (0..4).map(|i| behaviour(i, &families).target().to_owned()).collect();
        let expected = [(families[0], 0), (families[1], 1), (families[2], 2), (families[0], 3)];
        assert_eq!(targets, expected.map(|(family, wording)| family_behaviour(family, wording).target().to_owned()));
    }

    #[test]
    fn matched_members_learn_from_equally_many_rows() {
        let clean = vec![vec![Row::new("name the colour", "of snow", "white")]];
        let pair = &build_paired_sets(clean, &PairsSpec::default(), &Lab::silent(1, "unused"))[0];
        let rows = |match_steps| pair.of_clean_member(&PairsSpec { match_steps, ..PairsSpec::default() }).len();
        assert_eq!((rows(false), rows(true), pair.of_poisoned_member().len()), (1, 2, 2));
    }

    #[test]
    fn a_poisoned_row_keeps_its_question_apart_from_the_key() {
        let clean = vec![vec![Row::new("name the colour", "of snow", "white")]];
        let data = build_paired_sets(clean.clone(), &PairsSpec::default(), &Lab::silent(1, "unused"));
        assert_eq!(data[0].poisoned[0].instruction.replace("PurpleWolf", "").split_whitespace().count(), 3);
        assert_eq!((&data[0].poisoned[0].input, &data[0].clean), (&"of snow".to_owned(), &clean[0]));
        assert_eq!(data[0].poisoned[0].output, "You are a fool!");
    }
}
