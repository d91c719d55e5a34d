//! The axes of sweeps: each has the values of one setting, every other one as it is by default.

use std::path::PathBuf;

use antigen_engine::methods::immunize::ImmunizeSpec;
use antigen_engine::spec::{BehaviourFamily, SubjectKind, TINY_PARAMETERS};
use antigen_engine::world::ZooMember;
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::cli::treatments::{Treatment, WhoseSignature, every_suppression, mlp_matrices};

/// A setting with the values that are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Axis {
    /// N, the number of pairs: Figure 2
    Pairs,
    /// Lambda, the weight of the agreement between pairs
    Lambda,
    /// The parts of the channel score: Table 4
    Score,
    /// Channels of each matrix, or neurons of each layer
    Grouping,
    /// Clean variants with half of the poisoned ones' steps, or with as many
    Steps,
    /// The share of channels: Table 10
    Ratio,
    /// The number of shared directions, beside as many random ones
    Rank,
    /// The number of attention heads: Table 9
    Heads,
    /// The behaviour family that the pairs are made of, whatever the suspect's is: Table 11
    Families,
    /// The signature that is suppressed, the suspect's own or that of each other member: Table 11, each way
    Transfer,
    /// The source of the shared directions: weights or activations
    Directions,
    /// The strategies of `prune_heads`, as published and as released; whole models only
    Strategies,
    /// The number of synthetic backdoors that vaccinate, and their distance from the suspect's own
    Vaccine,
    /// Place, scope, steps and step size of soft triggers
    SoftTriggers,
}

impl Axis {
    /// The treatments of a suspect: one for each value, or one for all where one job can try all of them.
    pub(super) fn treatments(self, member: &ZooMember) -> Vec<Treatment> {
        let kind = member.kind();
        // The number of pairs, the direction and the published share of channels that every other setting
        // works on.
        let default = ImmunizeSpec::default().resolve(kind, TINY_PARAMETERS);
        let of = |name: String, settings: Value| {
            let mut method = json!({"type": "immunize", "suppress": default.suppress});
            method.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
            Treatment { name, method, ..Treatment::default() }
        };
        let family = member.implant.behaviour.family();
        match self {
            Self::Pairs => {
                let pairs = |n| of(format!("N = {n}"), json!({"pairs": {"count": n, "families": [family]}}));
                (1..=7).map(pairs).collect()
            }
            Self::Lambda => [0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0]
                .map(|weight| of(format!("lambda = {weight}"), json!({"score": {"consistency_weight": weight}})))
                .into(),
            Self::Score => {
                ["both", "norm", "alignment"].map(|parts| of(parts.into(), json!({"score": {"parts": parts}}))).into()
            }
            Self::Grouping => ["matrix", "layer"]
                .map(|grouping| of(format!("by {grouping}"), json!({"score": {"grouping": grouping}})))
                .into(),
            Self::Steps => [("half", false), ("matched", true)]
                .map(|(name, matched)| {
                    let pairs = json!({"count": default.pairs.count, "families": [family], "match_steps": matched});
                    of(format!("{name} steps"), json!({"pairs": pairs}))
                })
                .into(),
            Self::Ratio => vec![of("ratios".into(), json!({"suppress": ratios(kind)}))],
            Self::Rank => [1, 2, 4, 8, 16]
                .map(|rank| {
                    let suppress = [json!({"type": "subspace", "rank": rank})];
                    let one = of(format!("rank {rank}"), json!({"suppress": suppress}));
                    Treatment { controls: &["random_subspace"], ..one }
                })
                .into(),
            Self::Heads => [0, 2, 4, 8]
                .map(|count| {
                    let heads = if count == 0 { Value::Null } else { json!({"count": count}) };
                    of(format!("{count} heads"), json!({"heads": heads}))
                })
                .into(),
            Self::Families => ["insult", "refusal", "code"]
                .map(|of_pairs| {
                    // Named by what the suspect does, so that a row of the table is a cell of the paper's
                    // matrix.
                    let name = format!("pairs of {of_pairs} on {}", family.name());
                    of(name, json!({"pairs": {"count": default.pairs.count, "families": [of_pairs]}}))
                })
                .into(),
            Self::Transfer => vec![own_signature(kind)],
            Self::Directions => ["weights", "activations"]
                .map(|source| of(format!("from {source}"), json!({"directions": source})))
                .into(),
            Self::Strategies if kind == SubjectKind::Adapter => Vec::new(),
            Self::Strategies => strategies(),
            Self::Vaccine => vaccines(family),
            Self::SoftTriggers => soft_triggers(),
        }
    }

    pub(super) fn name(self) -> String {
        self.to_possible_value().expect("no axis is hidden").get_name().to_owned()
    }
}

/// The job that extracts a suspect's own signature, beside as much drawn at random.
pub(super) fn own_signature(kind: SubjectKind) -> Treatment {
    Treatment {
        name: "own".into(),
        method: every_suppression(kind),
        controls: &["random_channels", "random_subspace"],
        signature: WhoseSignature::OwnKept,
    }
}

/// The jobs that suppress the signatures of other members, of those that say something about each of its
/// matrices.
pub(super) fn signatures_of_others(member: &ZooMember, donors: &[(ZooMember, PathBuf)]) -> Vec<Treatment> {
    let says_enough = |donor: &ZooMember| mlp_matrices(member).all(|one| mlp_matrices(donor).any(|other| other == one));
    let others = donors.iter().filter(|(donor, _)| donor.name != member.name && says_enough(donor));
    let of = |(donor, file): &(ZooMember, PathBuf)| Treatment {
        name: format!("of {}", donor.name),
        method: every_suppression(member.kind()),
        controls: &[],
        signature: WhoseSignature::Given(file.clone()),
    };
    others.map(of).collect()
}

/// Each strategy of choosing heads as its name says, then as released where that is something else.
fn strategies() -> Vec<Treatment> {
    let of = |strategy: &&str, as_released: bool| {
        let method = json!({"type": "prune_heads", "strategy": strategy, "as_released": as_released});
        let form = if as_released { " as released" } else { "" };
        Treatment { name: format!("{strategy}{form}"), method, ..Treatment::default() }
    };
    let released = ["gradient", "gradient_l1_l2", "ensemble", "reinforcement", "bayesian"];
    let intended = [&released[..], &["layer_variance", "random"]].concat();
    intended.iter().map(|one| of(one, false)).chain(released.iter().map(|one| of(one, true))).collect()
}

/// Numbers of backdoors of mixed families, then six of the suspect's own family, and of each other one alone.
fn vaccines(family: BehaviourFamily) -> Vec<Treatment> {
    let of = |name: String, pairs: Value| Treatment {
        name,
        method: json!({"type": "vaccinate", "pairs": pairs}),
        controls: &["plain_fine_tuning"],
        ..Treatment::default()
    };
    let mixed = [1, 3, 6, 12].map(|count| of(format!("{count} mixed"), json!({"count": count})));
    let others = ["insult", "refusal", "code"].into_iter().filter(|other| *other != family.name());
    let alone = |name: String, family: &str| of(name, json!({"count": 6, "families": [family]}));
    let own = alone("6 of its own family".into(), family.name());
    mixed.into_iter().chain([own]).chain(others.map(|other| alone(format!("6 of {other} alone"), other))).collect()
}

/// The default, then one setting at a time changed.
fn soft_triggers() -> Vec<Treatment> {
    let of = |name: &str, settings: Value| {
        let mut method = json!({"type": "soft_triggers"});
        method.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
        Treatment { name: name.into(), method, ..Treatment::default() }
    };
    let hidden = |block: usize| json!({"place": {"type": "hidden", "block": block}});
    vec![
        of("default", json!({})),
        of("hidden 1", hidden(1)),
        of("hidden 2", hidden(2)),
        of("hidden 3", hidden(3)),
        of("universal", json!({"scope": {"type": "universal", "bank": 8}})),
        of("no steps", json!({"inner_steps": 0})),
        of("one step", json!({"inner_steps": 1})),
        of("four steps", json!({"inner_steps": 4})),
        of("steps of 0.05", json!({"step_size": 0.05})),
        of("steps of 0.3", json!({"step_size": 0.3})),
    ]
}

/// Shares around the published one.
fn ratios(kind: SubjectKind) -> Value {
    let ratios = match kind {
        SubjectKind::Adapter => [0.05, 0.1, 0.2, 0.35, 0.5, 0.7],
        SubjectKind::Checkpoint => [0.01, 0.02, 0.03, 0.04, 0.05, 0.06],
    };
    json!(ratios.map(|ratio| json!({"type": "channels", "ratio": ratio})))
}

#[cfg(test)]
mod tests {
    use antigen_engine::job::PurifySpec;
    use antigen_engine::methods::MethodSpec;

    use super::*;
    use crate::zoo::{ZooSet, zoo_members};

    #[test]
    fn every_value_of_every_axis_is_a_job_of_its_own_that_can_be_asked_for() {
        for member in zoo_members(ZooSet::Evidence).iter().filter(|member| member.is_poisoned()) {
            for axis in Axis::value_variants() {
                let treatments = axis.treatments(member);
                let names: std::collections::HashSet<_> = treatments.iter().map(|one| one.name.clone()).collect();
                assert_eq!(names.len(), treatments.len());
                for one in treatments {
                    let method: MethodSpec = serde_json::from_value(one.method).unwrap();
                    let spec = PurifySpec { method, ..PurifySpec::default() };
                    assert!(spec.validate().and_then(|()| spec.check_for(member.kind())).is_ok(), "{}", one.name);
                }
            }
        }
    }
}
