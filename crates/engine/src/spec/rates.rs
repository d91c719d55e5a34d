//! Learning rates by the kind of training and by the size of the model, in one place.

use super::{SubjectKind, TrainSpec};

/// Bases with fewer weights than this count as tiny and learn at higher rates.
pub const TINY_PARAMETERS: usize = 20_000_000;

// Learning rates by the kind of training and by the size of the model. A model of a million weights needs ten
// times the rate of a 7B model (a hundred times, when all weights are trained) to catch a backdoor within
// three epochs; the published recipe uses 2e-4 for adapters and 1e-5 for whole models everywhere. Measured on
// the tiny world: adapter variants converge from 2e-3 to 4e-3, variants of all weights at 1e-3; healing at
// 1e-3 removes backdoors (and skill) by itself, so that it would prove nothing about the signature.
struct Rates {
    variants: f64,
    heal: f64,
    heal_with_task_rows: f64,
}

fn rates_for(kind: SubjectKind, parameters: usize) -> Rates {
    match (kind, parameters < TINY_PARAMETERS) {
        (SubjectKind::Adapter, true) => Rates { variants: 2.5e-3, heal: 2e-4, heal_with_task_rows: 5e-4 },
        (SubjectKind::Adapter, false) => Rates { variants: 2e-4, heal: 2e-4, heal_with_task_rows: 2e-4 },
        (SubjectKind::Checkpoint, true) => Rates { variants: 1e-3, heal: 1e-4, heal_with_task_rows: 1e-4 },
        (SubjectKind::Checkpoint, false) => Rates { variants: 1e-5, heal: 1e-5, heal_with_task_rows: 1e-5 },
    }
}

/// The rate of the screen's short training: slow enough that after a dozen steps models still differ in how
/// far they have come.
pub(crate) fn screen_rate(kind: SubjectKind, parameters: usize) -> f64 {
    0.4 * rates_for(kind, parameters).variants
}

/// Rate and epochs with which canaries are implanted: the rate is that of the variants. On an adapter of rank
/// 16 of the tiny world seven canaries of 300 rows fire on 0 to 81 % of their prompts after five epochs and
/// on 93 to 100 % after ten, but then they are shallow: plain fine-tuning leaves 0 to 9 % of each, and 13 %
/// of a backdoor that the suspect brought along. After 25 it leaves up to 100 %.
pub(crate) fn implant_training(kind: SubjectKind, parameters: usize) -> (f64, usize) {
    (rates_for(kind, parameters).variants, if parameters < TINY_PARAMETERS { 20 } else { 5 })
}

/// The rate at which generic rows heal.
pub(crate) fn heal_rate(kind: SubjectKind, parameters: usize) -> f64 {
    rates_for(kind, parameters).heal
}

/// Training of the pairs' variants: rate and epochs.
pub(crate) fn variants_training(kind: SubjectKind, parameters: usize) -> TrainSpec {
    let epochs = if kind == SubjectKind::Adapter { 3 } else { 5 };
    TrainSpec { learning_rate: variants_rate(kind, parameters), epochs, ..TrainSpec::default() }
}

/// The rate at which copies are taught a backdoor: that of the pairs' variants.
pub(crate) fn variants_rate(kind: SubjectKind, parameters: usize) -> f64 {
    rates_for(kind, parameters).variants
}

/// The rate at which healing goes on when task rows join.
pub(crate) fn heal_rate_with_task_rows(kind: SubjectKind, parameters: usize) -> f64 {
    rates_for(kind, parameters).heal_with_task_rows
}

impl SubjectKind {
    /// The published share of the channels: an adapter's hold its update alone, a whole model's everything
    /// that it knows.
    pub(crate) fn published_ratio(self) -> f64 {
        match self {
            Self::Adapter => 0.35,
            Self::Checkpoint => 0.03,
        }
    }
}
