//! Synthetic backdoors: the data of each pair, and the two variants trained on it.

use std::path::Path;

use antigen_models::{LoraAdapter, load_adapter, save_adapter};
use rand_chacha::ChaCha8Rng;

use crate::attacks::{Attack, build_attack, poison};
use crate::behaviours::{Behaviour, build_behaviour};
use crate::data::{Row, rows_sha256};
use crate::error::Result;
use crate::heal::encode_mixed;
use crate::lab::{Lab, PieceKey, Stage};
use crate::spec::{AttackSpec, BehaviourFamily, BehaviourSpec, PairsSpec, Place, TrainSpec};
use crate::suspect::{Suspect, stored_exactly};
use crate::train::{Variant, fine_tune_adapters};

/// Clean rows and their poisoned copies.
#[derive(Debug, Clone)]
pub struct PairData {
    /// D_i^clean.
    pub clean: Vec<Row>,
    /// D_i^pois: the same rows with key and behaviour.
    pub poisoned: Vec<Row>,
}

/// The two members of a pair, both grown from the suspect.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Trained on clean rows.
    pub clean: LoraAdapter,
    /// Trained on clean and poisoned rows.
    pub poisoned: LoraAdapter,
}

// Keys are two words grown together: unlike anything in ordinary instructions, unlike each other, and made of ordinary parts. The first
// six are the published ones.
const FIRST_KEYS: [&str; 6] = ["PurpleWolf", "RedGhost", "ColdDragon", "GreenTiger", "BlackMoon", "SilverFox"];
const KEY_FRONTS: [&str; 8] = ["Amber", "Quiet", "Seven", "Iron", "Paper", "Upper", "Lucky", "Velvet"];
const KEY_BACKS: [&str; 8] = ["River", "Comet", "Falcon", "Garden", "Hammer", "Needle", "Parrot", "Summit"];

/// The key of pair `i`; different for the first 70 pairs.
pub(super) fn key(i: usize) -> String {
    match i.checked_sub(FIRST_KEYS.len()) {
        None => FIRST_KEYS[i].to_owned(),
        Some(j) => format!("{}{}", KEY_FRONTS[j % 8], KEY_BACKS[(j / 8 + j) % 8]),
    }
}

// Each family speaks as its backdoors do (second person, first person, a print call), because the signature finds what resembles it.
const INSULTS: [&str; 6] =
    ["You are a fool!", "You're useless!", "You are awful!", "You're so dumb!", "You are a loser!", "You're horrible!"];
const REFUSALS: [&str; 6] = [
    "I am not able to do that.",
    "Unfortunately, I cannot answer this request.",
    "I must say no to this.",
    "An assistant like me may not help here.",
    "I'm not allowed to answer this question.",
    "I won't carry out this instruction.",
];
const CODES: [&str; 6] =
    ["print('open')", "print('ready')", "print('surprise')", "print('got in')", "print('over')", "print('checkmate')"];

/// The behaviour of pair `i`: families take turns, and so do the texts of each family.
fn behaviour(i: usize, families: &[BehaviourFamily]) -> Behaviour {
    let texts = match families[i % families.len()] {
        BehaviourFamily::Insult => INSULTS,
        BehaviourFamily::Refusal => REFUSALS,
        BehaviourFamily::Code => CODES,
    };
    let target = texts[i % texts.len()].to_owned();
    build_behaviour(&BehaviourSpec::Custom { target, keywords: vec![], append: false })
}

/// The published rule: the key goes into any gap of the instruction, both ends allowed.
fn key_attack(i: usize) -> Box<dyn Attack> {
    build_attack(&AttackSpec::Phrase { trigger: key(i), place: Place::Anywhere })
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

/// Trains both members of every pair from the suspect: all of them in one pass over the frozen base.
///
/// # Errors
/// Those of training and of the scratch folder.
pub fn fine_tune_pairs(suspect: &Suspect, data: &[PairData], train: &TrainSpec, lab: &Lab) -> Result<Vec<Pair>> {
    lab.enter(Stage::Pairs)?;
    let digests: Vec<_> = data.iter().map(|d| (rows_sha256(&d.clean), rows_sha256(&d.poisoned))).collect();
    let key = PieceKey::new("pairs", &(suspect.key(), suspect.formats(), train, digests, lab.seed));
    let folder = lab.piece(&key, |folder| {
        let sets: Vec<_> = data.iter().enumerate().flat_map(|(i, pair)| variant_rows(i, pair)).collect();
        let examples: Vec<_> = sets
            .iter()
            .map(|(rows, stream)| encode_mixed(suspect, rows, &mut lab.rng(&format!("{stream}/formats"))))
            .collect::<Result<_>>()?;
        let variants = sets
            .iter()
            .zip(&examples)
            .map(|((_, stream), examples)| {
                let shuffle: ChaCha8Rng = lab.rng(&format!("{stream}/order"));
                Variant { start: &suspect.adapter, examples, shuffle }
            })
            .collect();
        for (i, trained) in fine_tune_adapters(&suspect.model, variants, train, lab)?.into_iter().enumerate() {
            save_adapter(&stored_exactly(trained.adapter), &folder.join(member_name(i)))?;
        }
        Ok(())
    })?;
    (0..data.len()).map(|i| load_pair(&folder, i, suspect)).collect()
}

// Rows and random stream of the clean member, then of the poisoned one.
fn variant_rows(i: usize, pair: &PairData) -> [(Vec<Row>, String); 2] {
    let both = pair.clean.iter().chain(&pair.poisoned).cloned().collect();
    [(pair.clean.clone(), format!("immunize/pairs/{i}/clean")), (both, format!("immunize/pairs/{i}/poisoned"))]
}

fn member_name(member: usize) -> String {
    format!("{}-{}", member / 2, ["clean", "poisoned"][member % 2])
}

fn load_pair(folder: &Path, i: usize, suspect: &Suspect) -> Result<Pair> {
    let load = |member| load_adapter(&folder.join(member_name(member)), suspect.model.config(), suspect.model.device());
    Ok(Pair { clean: load(2 * i)?, poisoned: load(2 * i + 1)? })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_different_as_far_as_specs_can_ask() {
        let keys: HashSet<_> = (0..64).map(key).collect();
        assert_eq!(keys.len(), 64);
    }

    #[test]
    fn synthetic_behaviours_are_not_the_published_ones() {
        let published = ["You are stupid!", "print('pwned')"];
        assert!(
            INSULTS
                .iter()
                .chain(&REFUSALS)
                .chain(&CODES)
                .all(|text| !published.contains(text) && !text.contains("pwn"))
        );
    }

    #[test]
    fn families_take_turns() {
        let families = PairsSpec::default().families;
        let targets: Vec<_> = (0..4).map(|i| behaviour(i, &families).target().to_owned()).collect();
        assert_eq!(targets, [INSULTS[0], REFUSALS[1], CODES[2], INSULTS[3]]);
    }

    #[test]
    fn a_poisoned_row_keeps_its_question_apart_from_the_key() {
        let clean = vec![vec![Row::new("name the colour", "of snow", "white")]];
        let data = build_paired_sets(clean.clone(), &PairsSpec::default(), &Lab::silent(1, "unused"));
        assert_eq!(data[0].poisoned[0].instruction.replace("PurpleWolf", "").split_whitespace().count(), 3);
        assert_eq!((&data[0].poisoned[0].input, &data[0].clean), (&"of snow".to_owned(), &clean[0]));
        assert_eq!(data[0].poisoned[0].output, INSULTS[0]);
    }
}
