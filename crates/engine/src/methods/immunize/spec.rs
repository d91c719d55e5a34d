//! The settings of `immunize`: the request, in which a caller may override defaults, and the complete recipe
//! that results.
//!
//! [`ImmunizeSpec`] is the request; [`ImmunizeSpec::resolve`] fills it from the preset, from the kind of
//! suspect and from its size, and the resulting [`ImmunizeRecipe`] is the one that runs and that the report
//! shows. All defaults and learning rates are decided here.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{EngineError, Result};
use crate::methods::{CLEAN_ROWS, Facts, MethodRecipe, Request, TASK_ROWS};
use crate::spec::rates::variants_training;
use crate::spec::{
    BehaviourFamily, HealRecipe, HealSpec, Known, PairsSpec, SubjectKind, SuspectFacts, TrainSpec, is_default, limits,
};

/// Request for the immunization signature. A section that is given replaces the preset's section as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImmunizeSpec {
    /// The preset that fills the sections that are not given.
    pub preset: Preset,
    /// The synthetic backdoors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs: Option<PairsSpec>,
    /// Training of the variants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<TrainSpec>,
    /// Channel scores (Eq. 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<ScoreSpec>,
    /// The source of shared directions.
    #[serde(skip_serializing_if = "is_default")]
    pub directions: DirectionSource,
    /// Suppressions to try; each is healed and measured, the first is exported. Null means the preset's; for
    /// an adapter on attention only, the shared direction of rank 1 in the output of the attention's output
    /// matrices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppress: Option<Vec<SuppressSpec>>,
    /// Attention heads that are suppressed beside everything in `suppress`; null suppresses none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<HeadsSpec>,
    /// Healing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heal: Option<HealSpec>,
}

/// A set of defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Six short pairs of mixed behaviour families, shared subspace of rank 1; channels are measured beside
    /// it. A whole model has twelve pairs that train longer, a subspace of rank 2, and it heals longer, with
    /// 200 counterexamples.
    #[default]
    Default,
    /// The published recipe: six insults on 500 rows each, 5 epochs; 35 % of an adapter's channels, 3 % of a
    /// whole model's.
    Paper,
}

/// Channel scores (Eq. 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreSpec {
    /// Lambda: weight of the agreement between pairs against the size of the change.
    pub consistency_weight: f64,
    /// The parts of the score that count.
    #[serde(skip_serializing_if = "is_default")]
    pub parts: ScoreParts,
    /// The unit that one score is about.
    #[serde(skip_serializing_if = "is_default")]
    pub grouping: ScoreGrouping,
}

/// The parts of the channel score that count (Table 4 of the paper).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoreParts {
    /// Size of the change and agreement between pairs.
    #[default]
    Both,
    /// Size of the change alone.
    Norm,
    /// Agreement between pairs alone; it takes two pairs.
    Alignment,
}

/// The unit that one channel score is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoreGrouping {
    /// A channel of one matrix, as released: with a ratio of 0.35 up to 72 % of the neurons lose one of their
    /// three parts.
    #[default]
    Matrix,
    /// A neuron of a layer: its channels of gate, up and down together are scored as one and go together.
    Layer,
}

/// The source of the directions that pairs share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DirectionSource {
    /// The difference between the members of each pair in their weights.
    #[default]
    Weights,
    /// Their difference in the inputs or outputs of each matrix, on the residual side, where they answer the
    /// pair's triggered rows: one vector a pair, so that there are no more directions than pairs.
    Activations,
}

/// A suppression: the part that is taken out of the suspect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SuppressSpec {
    /// The directions that the pairs share: out of the inputs of gate and up and the outputs of down. In an
    /// adapter its own update loses them, in a whole model the matrices themselves.
    Subspace {
        /// Number of directions per matrix.
        rank: usize,
        /// The matrices.
        #[serde(default, skip_serializing_if = "is_default")]
        on: SubspacePlace,
        /// Share of the part in those directions that is taken away, above 0, at most 1.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        strength: f64,
    },
    /// The highest-scoring channels of each MLP matrix, as published.
    Channels {
        /// Fraction of the channels of each matrix.
        ratio: f64,
        /// The new values of a whole model's channels; null means `xavier_slice`. An adapter's become 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reinitialise: Option<Reinitialise>,
    },
}

/// The matrices that lose the shared directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubspacePlace {
    /// The MLP's.
    #[default]
    Mlp,
    /// The attention's.
    Attention,
    /// The attention's output alone.
    AttentionOutput,
}

/// The new values of a whole model's suppressed channels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reinitialise {
    /// Xavier-uniform over the channel alone: bound sqrt(6 / (d + 1)), as released.
    #[default]
    XavierSlice,
    /// Xavier-uniform over the whole matrix: bound sqrt(6 / (in + out)).
    XavierMatrix,
    /// Normal with deviation 0.02, as Llama starts.
    #[serde(rename = "normal_0.02")]
    Normal,
    /// Zero.
    Zero,
}

/// Suppression of attention heads by `s(layer, head)`: size and agreement of the pairs' changes of the head's
/// blocks, summed over queries, keys, values and output. Heads that share keys and values share their part of
/// the score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadsSpec {
    /// Number of heads.
    pub count: usize,
    /// The unit of that number, the whole model or each layer: the paper does not say.
    pub scope: HeadsScope,
    /// The parts of a head that are suppressed. Keys and values only where all query heads of their group are
    /// selected.
    pub parts: Vec<HeadPart>,
}

/// The unit in which a number of heads is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeadsScope {
    /// Heads of the whole model.
    #[default]
    Model,
    /// Heads of each layer.
    Layer,
}

/// The part of a head that one attention matrix holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadPart {
    /// Queries: rows.
    Q,
    /// Keys: rows of the head's group.
    K,
    /// Values: rows of the head's group.
    V,
    /// Output: columns.
    O,
}

fn one() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_one(value: &f64) -> bool {
    *value == 1.0
}

impl Default for ScoreSpec {
    fn default() -> Self {
        Self { consistency_weight: 0.01, parts: ScoreParts::default(), grouping: ScoreGrouping::default() }
    }
}

impl SuppressSpec {
    fn resolve(self, kind: SubjectKind) -> Self {
        match self {
            Self::Channels { ratio, reinitialise: None } if kind == SubjectKind::Checkpoint => {
                Self::Channels { ratio, reinitialise: Some(Reinitialise::default()) }
            }
            other => other,
        }
    }
}

impl ImmunizeRecipe {
    /// For an adapter on attention only, when the caller names no suppression: the outputs of its output
    /// matrices. Measured on such an adapter of the tiny world (attack success 0.99, extended task skill 1.00
    /// before): output alone leaves 0.00 and 0.90, queries, keys and values with it 0.00 and 0.23, half the
    /// strength 0.59 and 0.92.
    fn suppress_attention_output(&mut self) {
        self.suppress = vec![SuppressSpec::Subspace { rank: 1, on: SubspacePlace::AttentionOutput, strength: 1.0 }];
    }
}

impl Default for HeadsSpec {
    fn default() -> Self {
        Self { count: 2, scope: HeadsScope::Model, parts: vec![HeadPart::Q, HeadPart::O] }
    }
}

impl SuppressSpec {
    /// Directions of the MLP's matrices, whole.
    pub fn subspace(rank: usize) -> Self {
        Self::Subspace { rank, on: SubspacePlace::Mlp, strength: 1.0 }
    }

    /// A short name that tells apart the suppressions of one job, such as `subspace-1` or `channels-0.2`.
    pub fn name(&self) -> String {
        match self {
            Self::Subspace { rank, on, strength } => {
                let on = match on {
                    SubspacePlace::Mlp => "",
                    SubspacePlace::Attention => "-attention",
                    SubspacePlace::AttentionOutput => "-attention-output",
                };
                let strength = if is_one(strength) { String::new() } else { format!("-by-{strength}") };
                format!("subspace-{rank}{on}{strength}")
            }
            Self::Channels { ratio, reinitialise } => {
                let by = match reinitialise {
                    None | Some(Reinitialise::XavierSlice) => "",
                    Some(Reinitialise::XavierMatrix) => "-xavier-matrix",
                    Some(Reinitialise::Normal) => "-normal",
                    Some(Reinitialise::Zero) => "-zero",
                };
                format!("channels-{ratio}{by}")
            }
        }
    }
}

/// Everything `immunize` does, with no choice left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImmunizeRecipe {
    /// The synthetic backdoors.
    pub pairs: PairsSpec,
    /// Training of the variants.
    pub train: TrainSpec,
    /// Channel scores.
    pub score: ScoreSpec,
    /// The source of shared directions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub directions: DirectionSource,
    /// Suppressions; the first is exported.
    pub suppress: Vec<SuppressSpec>,
    /// Attention heads that are suppressed beside each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<HeadsSpec>,
    /// Healing.
    pub heal: HealRecipe,
}

impl SuppressSpec {
    /// The published suppression of channels.
    pub fn published_channels(kind: SubjectKind) -> Self {
        let reinitialise = (kind == SubjectKind::Checkpoint).then(Reinitialise::default);
        Self::Channels { ratio: kind.published_ratio(), reinitialise }
    }
}

impl ImmunizeSpec {
    /// The complete recipe for a suspect of this kind with `parameters` weights in its base, or in itself.
    pub fn resolve(&self, kind: SubjectKind, parameters: usize) -> ImmunizeRecipe {
        let channels = SuppressSpec::published_channels(kind);
        let (pairs, heal) = (PairsSpec::default_for(kind), HealSpec::default_for(kind));
        let train = variants_training(kind, parameters);
        let (pairs, train, suppress, heal) = match (self.preset, kind) {
            (Preset::Default, SubjectKind::Adapter) => (pairs, train, vec![SuppressSpec::subspace(1), channels], heal),
            (Preset::Default, SubjectKind::Checkpoint) => {
                (pairs, train, vec![SuppressSpec::subspace(2), channels], heal)
            }
            (Preset::Paper, _) => {
                let pairs = PairsSpec { rows: 500, families: vec![BehaviourFamily::Insult], ..PairsSpec::default() };
                let heal = HealSpec { rows: 200, task_rows: 200, ..HealSpec::default() };
                (pairs, TrainSpec { epochs: 5, ..train }, vec![channels], heal)
            }
        };
        ImmunizeRecipe {
            pairs: self.pairs.clone().unwrap_or(pairs),
            train: self.train.clone().unwrap_or(train),
            score: self.score.clone().unwrap_or_default(),
            directions: self.directions,
            suppress: self.suppress.clone().unwrap_or(suppress).into_iter().map(|s| s.resolve(kind)).collect(),
            heads: self.heads.clone(),
            heal: self.heal.clone().unwrap_or(heal).resolve(kind, parameters),
        }
    }

    /// The complete recipe for a suspect of which this is known. Where the caller chose no synthetic
    /// backdoors, they imitate the declared families, and first of all the one that the screen found.
    fn resolve_for(&self, known: &Known) -> ImmunizeRecipe {
        let mut recipe = self.resolve(known.kind, known.parameters);
        if self.suppress.is_none() && !known.has_mlp {
            recipe.suppress_attention_output();
        }
        if self.pairs.is_none() {
            recipe.pairs.imitate(&known.declared, known.found);
        }
        recipe
    }
}

impl Request for ImmunizeSpec {
    fn recipe(&self, known: &Known) -> MethodRecipe {
        self.resolve_for(known).into()
    }

    fn takes_signature(&self) -> bool {
        true
    }

    fn published(&self) -> Vec<(&'static str, MethodRecipe)> {
        let paper = Self { preset: Preset::Paper, ..Self::default() };
        let of = |kind| paper.recipe(&Known::of_seven_billion(kind));
        vec![("paper", of(SubjectKind::Adapter)), ("paper_whole_model", of(SubjectKind::Checkpoint))]
    }

    fn facts(&self) -> Facts {
        Facts {
            summary: "Fine-tunes pairs of variants with and without synthetic backdoors, finds what their differences share, removes it from the \
                  adapter or the whole model and heals it",
            source: Some("arXiv 2603.13461"),
            needs: &[
                CLEAN_ROWS,
                TASK_ROWS,
                "a guess of the behaviour's family: the screen's, the declared one, or all in turn",
            ],
            failures: &[
                "an adapter of attention alone, unless its output projection is adapted too: projecting queries, keys and values destroys its skill",
                "a backdoor of which the cut leaves a garbled rest: long healing then removes less of it than plain fine-tuning does",
                "the published channels of a whole model (3 %): on our suspects they leave most of the attack success, about what random ones leave",
                "refusals in whole models: two directions, the default, leave up to a third of the attack success; four left none, at the price of skill that differs much between suspects",
                "the signature of another suspect, where the two backdoors do different things",
                "an independent run of the published recipe on Llama-3.1-8B left 69.5 % of the attack success",
            ],
        }
    }

    fn check_for(&self, at: &str, suspect: SuspectFacts) -> Result<()> {
        let kind = suspect.kind;
        if kind == SubjectKind::Adapter && self.heal.as_ref().is_some_and(|heal| heal.keep_out == Some(true)) {
            let why = "expected a whole model: an adapter's directions are those of its product, not of a weight";
            return Err(EngineError::spec(format!("{at}/heal/keep_out"), why));
        }
        let suppress = self.suppress.iter().flatten().enumerate();
        for (i, one) in suppress.filter(|_| kind == SubjectKind::Adapter) {
            if matches!(one, SuppressSpec::Channels { reinitialise: Some(_), .. }) {
                let field = format!("{at}/suppress/{i}/reinitialise");
                return Err(EngineError::spec(
                    field,
                    "expected none, because an adapter's channels become 0; found one",
                ));
            }
        }
        Ok(())
    }

    fn validate(&self, at: &str) -> Result<()> {
        self.pairs.as_ref().map_or(Ok(()), |pairs| pairs.validate(&format!("{at}/pairs")))?;
        if let Some(train) = &self.train {
            limits::train(&format!("{at}/train"), train)?;
        }
        if let Some(score) = &self.score {
            limits::between(&format!("{at}/score/consistency_weight"), score.consistency_weight, 0.0, 1e3)?;
            let alone = self.pairs.as_ref().is_some_and(|pairs| pairs.count < 2);
            if score.parts == ScoreParts::Alignment && alone {
                let why = "expected at least 2 pairs, whose agreement can be scored; found 1";
                return Err(EngineError::spec(format!("{at}/pairs/count"), why));
            }
        }
        if let Some(heads) = &self.heads {
            limits::count(&format!("{at}/heads/count"), heads.count, 1, 1 << 16)?;
            limits::count(&format!("{at}/heads/parts"), heads.parts.len(), 1, 4)?;
            limits::distinct(&format!("{at}/heads/parts"), &heads.parts)?;
        }
        if let Some(suppress) = &self.suppress {
            validate_suppress(&format!("{at}/suppress"), suppress)?;
        }
        self.heal.as_ref().map_or(Ok(()), |heal| heal.validate(&format!("{at}/heal")))
    }
}

fn validate_suppress(at: &str, suppress: &[SuppressSpec]) -> Result<()> {
    limits::count(at, suppress.len(), 1, 8)?;
    for (i, one) in suppress.iter().enumerate() {
        match one {
            SuppressSpec::Subspace { rank, strength, .. } => {
                limits::count(&format!("{at}/{i}/rank"), *rank, 1, 64)?;
                limits::above(&format!("{at}/{i}/strength"), *strength, 0.0, 1.0)?;
            }
            SuppressSpec::Channels { ratio, .. } => limits::above(&format!("{at}/{i}/ratio"), *ratio, 0.0, 1.0)?,
        }
    }
    limits::distinct(at, &suppress.iter().map(SuppressSpec::name).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    use SubjectKind::{Adapter, Checkpoint};

    #[test]
    fn a_tiny_base_learns_faster_and_a_large_one_at_the_published_rate() {
        let spec = ImmunizeSpec::default();
        assert_eq!(spec.resolve(Adapter, 1_250_000).train.learning_rate, 2.5e-3);
        assert_eq!(spec.resolve(Adapter, 7_000_000_000).train.learning_rate, 2e-4);
        assert_eq!(spec.resolve(Checkpoint, 7_000_000_000).heal.train.learning_rate, 1e-5);
    }

    #[test]
    fn more_rows_heal_in_fewer_passes_unless_the_training_is_given() {
        let recipe = ImmunizeSpec::default().resolve(Adapter, 1_250_000).heal;
        assert_eq!([600, 3200, 100_000].map(|rows| recipe.train_for(rows, true).epochs), [5, 2, 1]);
        assert_eq!([0, 200, 700, 5000].map(|own| *recipe.generic_rows(own).end()), [400, 400, 1400, 2000]);
        let train = Some(TrainSpec { epochs: 7, ..TrainSpec::default() });
        let heal = Some(HealSpec { train_with_task_rows: train, ..HealSpec::default() });
        let recipe = ImmunizeSpec { heal, ..ImmunizeSpec::default() }.resolve(Adapter, 1_250_000).heal;
        assert_eq!(recipe.train_for(100_000, true).epochs, 7);
    }

    #[test]
    fn a_given_section_replaces_the_preset_s() {
        let train = TrainSpec { learning_rate: 1e-3, epochs: 1, ..TrainSpec::default() };
        let spec = ImmunizeSpec { preset: Preset::Paper, train: Some(train.clone()), ..ImmunizeSpec::default() };
        let recipe = spec.resolve(Adapter, 1_250_000);
        assert_eq!((recipe.train, recipe.pairs.rows), (train, 500));
    }

    #[test]
    fn the_first_suppression_of_the_default_is_a_small_shared_subspace() {
        for (kind, rank) in [(Adapter, 1), (Checkpoint, 2)] {
            assert_eq!(ImmunizeSpec::default().resolve(kind, 1).suppress[0], SuppressSpec::subspace(rank));
        }
    }

    #[test]
    fn the_published_recipe_of_a_whole_model_draws_three_of_a_hundred_channels_anew() {
        let recipe = ImmunizeSpec { preset: Preset::Paper, ..ImmunizeSpec::default() }.resolve(Checkpoint, 1);
        let channels = SuppressSpec::Channels { ratio: 0.03, reinitialise: Some(Reinitialise::XavierSlice) };
        assert_eq!((recipe.suppress, recipe.pairs.count, recipe.pairs.rows), (vec![channels], 6, 500));
    }

    #[test]
    fn an_adapter_s_channels_cannot_be_drawn_anew() {
        let anew = SuppressSpec::Channels { ratio: 0.1, reinitialise: Some(Reinitialise::Zero) };
        let spec = ImmunizeSpec { suppress: Some(vec![SuppressSpec::subspace(1), anew]), ..ImmunizeSpec::default() };
        spec.check_for("/method", Checkpoint.into()).unwrap();
        let error = spec.check_for("/method", Adapter.into()).unwrap_err().to_string();
        assert!(error.contains("/method/suppress/1/reinitialise"), "{error}");
    }
}
