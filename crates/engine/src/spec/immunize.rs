//! The settings of `immunize`: what a caller may override, and the complete recipe that results.
//!
//! [`ImmunizeSpec`] is the request; [`ImmunizeSpec::resolve`] fills it from the preset, from what was submitted and from its size, and the
//! resulting [`ImmunizeRecipe`] is what runs and what the report shows. All defaults and learning rates are decided here.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Adversary, BehaviourFamily, Known, SubjectKind, TrainSpec, limits};
use crate::error::{EngineError, Result};

/// Bases with fewer weights than this count as tiny and learn at higher rates.
pub const TINY_PARAMETERS: usize = 20_000_000;

/// Request for the immunization signature. A section that is given replaces the preset's section as a whole.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImmunizeSpec {
    /// Where sections that are not given come from.
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
    /// What shared directions are read from.
    #[serde(skip_serializing_if = "is_default")]
    pub directions: DirectionSource,
    /// Suppressions to try; each is healed and measured, the first is exported. Null means the preset's; for an adapter on attention only,
    /// the shared direction of rank 1 of what the attention's output writes.
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
    /// Six short pairs of mixed behaviour families, shared subspace of rank 1; channels are measured beside it. A whole model has twelve
    /// pairs that train longer, a subspace of rank 2, and it heals longer, with 200 counterexamples.
    #[default]
    Default,
    /// The published recipe: six insults on 500 rows each, 5 epochs; 35 % of an adapter's channels, 3 % of a whole model's.
    Paper,
}

/// The synthetic backdoors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PairsSpec {
    /// N, how many pairs of variants.
    pub count: usize,
    /// Clean rows of each pair; the poisoned variant sees them once more with key and behaviour.
    pub rows: usize,
    /// Behaviour families, used in turn. The signature finds backdoors of the families it was made from.
    pub families: Vec<BehaviourFamily>,
    /// Whether the clean variant sees its rows twice and so takes as many steps as the poisoned one. As published it takes half of them.
    #[serde(skip_serializing_if = "is_default")]
    pub match_steps: bool,
}

/// Channel scores (Eq. 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreSpec {
    /// Lambda: weight of the agreement between pairs against the size of the change.
    pub consistency_weight: f64,
    /// Which parts of the score count.
    #[serde(skip_serializing_if = "is_default")]
    pub parts: ScoreParts,
    /// What one score is about.
    #[serde(skip_serializing_if = "is_default")]
    pub grouping: ScoreGrouping,
}

/// Which parts of the channel score count (Table 4 of the paper).
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

/// What one channel score is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScoreGrouping {
    /// A channel of one matrix, as released: with a ratio of 0.35 up to 72 % of the neurons lose one of their three parts.
    #[default]
    Matrix,
    /// A neuron of a layer: its channels of gate, up and down together are scored as one and go together.
    Layer,
}

/// What the directions that pairs share are read from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DirectionSource {
    /// How the members of each pair differ in their weights.
    #[default]
    Weights,
    /// How they differ in what each matrix reads, or writes, where they answer the pair's triggered rows: one vector a pair, so that there are
    /// no more directions than pairs.
    Activations,
}

/// What is taken out of the suspect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SuppressSpec {
    /// The directions that the pairs share: out of what gate and up read and of what down writes. In an adapter its own update loses
    /// them, in a whole model the matrices themselves.
    Subspace {
        /// How many directions per matrix.
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
        /// What a whole model's channels become; null means `xavier_slice`. An adapter's become 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reinitialise: Option<Reinitialise>,
    },
}

/// Which matrices lose the shared directions.
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

/// What the suppressed channels of a whole model become.
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

/// Suppression of attention heads by `s(layer, head)`: size and agreement of the pairs' changes of the head's blocks, summed over
/// queries, keys, values and output. Heads that share keys and values share their part of the score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HeadsSpec {
    /// How many heads.
    pub count: usize,
    /// Of the whole model or of each layer: the paper does not say.
    pub scope: HeadsScope,
    /// What of a head is suppressed. Keys and values only where all query heads of their group are selected.
    pub parts: Vec<HeadPart>,
}

/// What a number of heads counts.
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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> f64 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_one(value: &f64) -> bool {
    *value == 1.0
}

/// Healing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealSpec {
    /// Generic clean rows: twice as many as own rows where that is more, up to 2,000, and what there is where the training file is too short
    /// for that (200 are the least). With fewer, own rows cost general skill; with more, few own rows no longer hold the own skill.
    pub rows: usize,
    /// The caller's own rows that join, at most; they are used only when the caller gives some. The more there are, the more of the
    /// artifact's own skill is left: see "Own rows" in docs/BENCHMARKS.md.
    pub own_rows: usize,
    /// Rows with a synthetic trigger and the right answer.
    pub counterexamples: usize,
    /// Whether the directions that were removed from a whole model are taken out again after every step: own rows can bring a backdoor
    /// back. Null means yes for whole models; adapters cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_out: Option<bool>,
    /// Steps at most: where the rows are many, the passes over them become fewer, at least one. Null means 800 for an adapter whose training
    /// is not given either, and no limit otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Training on generic rows; null means by the size of the base.
    pub train: Option<TrainSpec>,
    /// Training when own rows join; null means by the size of the base.
    pub train_with_own_rows: Option<TrainSpec>,
}

impl Default for PairsSpec {
    fn default() -> Self {
        Self {
            count: 6,
            rows: 50,
            families: vec![BehaviourFamily::Insult, BehaviourFamily::Refusal, BehaviourFamily::Code],
            match_steps: false,
        }
    }
}

impl PairsSpec {
    /// Makes pairs of what the suspect is known to do: the declared families, where there are any, take the place of the mixture, and one
    /// that was found has the first turn. A signature of mixed families holds less of each: see "Whole models" in docs/BENCHMARKS.md.
    fn imitate(&mut self, declared: &[BehaviourFamily], found: Option<BehaviourFamily>) {
        if !declared.is_empty() {
            self.families = declared.to_vec();
        }
        if let Some(family) = found {
            self.families.retain(|other| *other != family);
            self.families.insert(0, family);
        }
    }
}

impl Default for ScoreSpec {
    fn default() -> Self {
        Self { consistency_weight: 0.01, parts: ScoreParts::default(), grouping: ScoreGrouping::default() }
    }
}

impl Default for HealSpec {
    fn default() -> Self {
        Self {
            rows: 400,
            own_rows: 2000,
            counterexamples: 0,
            keep_out: None,
            max_steps: None,
            train: None,
            train_with_own_rows: None,
        }
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
    /// For an adapter on attention only, when the caller names no suppression: what its output matrices write. Measured on such an adapter
    /// of the tiny world (attack success 0.99, own extended skill 1.00 before): output alone leaves 0.00 and 0.90, queries, keys and
    /// values with it 0.00 and 0.23, half the strength 0.59 and 0.92.
    fn suppress_attention_output(&mut self) {
        self.suppress = vec![SuppressSpec::Subspace { rank: 1, on: SubspacePlace::AttentionOutput, strength: 1.0 }];
    }
}

impl HealRecipe {
    /// Training for healing on this many rows, with or without own ones among them.
    pub fn train_for(&self, rows: usize, has_own_rows: bool) -> TrainSpec {
        let train = if has_own_rows { &self.train_with_own_rows } else { &self.train };
        let steps_of_pass = rows.div_ceil(train.batch_rows).max(1);
        let passes = self.max_steps.map_or(train.epochs, |most| (most / steps_of_pass).clamp(1, train.epochs));
        TrainSpec { epochs: passes, ..train.clone() }
    }

    /// Generic rows beside this many own rows: what the recipe says, or twice as many as own rows where that is more, of a training file that
    /// is long enough; of a shorter one what is there.
    pub fn generic_rows(&self, own_rows: usize) -> RangeInclusive<usize> {
        let twice = (2 * own_rows.min(self.own_rows)).min(MOST_ROWS);
        self.rows.min(LEAST_ROWS)..=self.rows.max(twice)
    }

    /// Steps of training when the caller gives this many own rows; one against an adversary counts as the plain ones that it costs.
    pub(super) fn steps(&self, own_rows: usize) -> usize {
        let own = own_rows.min(self.own_rows);
        let rows = self.generic_rows(own).end() + own + self.counterexamples;
        self.against.as_ref().map_or(1, Adversary::cost) * self.train_for(rows, own > 0).steps(rows)
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
    /// What shared directions are read from.
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

/// Everything healing does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HealRecipe {
    /// Generic clean rows.
    pub rows: usize,
    /// Own rows, at most.
    pub own_rows: usize,
    /// Rows with a synthetic trigger and the right answer.
    pub counterexamples: usize,
    /// Whether removed directions are taken out again after every step.
    #[serde(default)]
    pub keep_out: bool,
    /// Steps at most: passes become fewer, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Training on generic rows.
    pub train: TrainSpec,
    /// Training when own rows join.
    pub train_with_own_rows: TrainSpec,
    /// What makes it harder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Adversary>,
}

// Learning rates by what is trained and by the size of the model. A model of a million weights needs ten times the rate of a 7B model
// (a hundred times, when all weights are trained) to catch a backdoor within three epochs; the published recipe uses 2e-4 for adapters
// and 1e-5 for whole models everywhere. Measured on the tiny world: adapter variants converge from 2e-3 to 4e-3, variants of all
// weights at 1e-3; healing at 1e-3 removes backdoors (and skill) by itself, so that it would prove nothing about the signature.
struct Rates {
    variants: f64,
    heal: f64,
    heal_with_own_rows: f64,
}

fn rates_for(kind: SubjectKind, parameters: usize) -> Rates {
    match (kind, parameters < TINY_PARAMETERS) {
        (SubjectKind::Adapter, true) => Rates { variants: 2.5e-3, heal: 2e-4, heal_with_own_rows: 5e-4 },
        (SubjectKind::Adapter, false) => Rates { variants: 2e-4, heal: 2e-4, heal_with_own_rows: 2e-4 },
        (SubjectKind::Checkpoint, true) => Rates { variants: 1e-3, heal: 1e-4, heal_with_own_rows: 1e-4 },
        (SubjectKind::Checkpoint, false) => Rates { variants: 1e-5, heal: 1e-5, heal_with_own_rows: 1e-5 },
    }
}

/// The rate of the screen's short training: slow enough that after a dozen steps models still differ in how far they have come.
pub(super) fn screen_rate(kind: SubjectKind, parameters: usize) -> f64 {
    0.4 * rates_for(kind, parameters).variants
}

/// Rate and epochs with which canaries are implanted: the rate is that of the variants. On an adapter of rank 16 of the tiny world seven
/// canaries of 300 rows fire on 0 to 81 % of their prompts after five epochs and on 93 to 100 % after ten, but then they are shallow: plain
/// fine-tuning leaves 0 to 9 % of each, and 13 % of a backdoor that the suspect brought along. After 25 it leaves up to 100 %.
pub(super) fn implant_training(kind: SubjectKind, parameters: usize) -> (f64, usize) {
    (rates_for(kind, parameters).variants, if parameters < TINY_PARAMETERS { 20 } else { 5 })
}

/// The rate at which generic rows heal.
pub(super) fn heal_rate(kind: SubjectKind, parameters: usize) -> f64 {
    rates_for(kind, parameters).heal
}

/// The rate at which copies are taught a backdoor: that of the pairs' variants.
pub(super) fn variants_rate(kind: SubjectKind, parameters: usize) -> f64 {
    rates_for(kind, parameters).variants
}

/// More generic rows than this nobody has measured.
const MOST_ROWS: usize = 2000;

/// Fewer generic rows than this do not heal; a recipe may ask for fewer.
const LEAST_ROWS: usize = 200;

/// An adapter of the tiny world keeps its own skill with 800 steps of healing on 3,200 rows as well as with 2,000, and not with 400.
const HEALING_STEPS: usize = 800;

impl SubjectKind {
    /// The published share of the channels: an adapter's hold its update alone, a whole model's everything that it knows.
    pub(super) fn published_ratio(self) -> f64 {
        match self {
            Self::Adapter => 0.35,
            Self::Checkpoint => 0.03,
        }
    }

    /// The published suppression of channels.
    pub fn published_channels(self) -> SuppressSpec {
        let reinitialise = (self == Self::Checkpoint).then(Reinitialise::default);
        SuppressSpec::Channels { ratio: self.published_ratio(), reinitialise }
    }
}

impl ImmunizeSpec {
    /// The complete recipe for a suspect of this kind with `parameters` weights in its base, or in itself.
    pub fn resolve(&self, kind: SubjectKind, parameters: usize) -> ImmunizeRecipe {
        let rates = rates_for(kind, parameters);
        let at = |learning_rate, epochs| TrainSpec { learning_rate, epochs, ..TrainSpec::default() };
        let channels = kind.published_channels();
        let generic = HealSpec::default();
        let (pairs, epochs, suppress, heal) = match (self.preset, kind) {
            (Preset::Default, SubjectKind::Adapter) => {
                (PairsSpec::default(), 3, vec![SuppressSpec::subspace(1), channels], generic)
            }
            // A backdoor in all weights holds faster than one in an adapter: see "Whole models" in docs/BENCHMARKS.md for what each of
            // these numbers was chosen by. Twelve short pairs share more than six of twice the rows; healing is gentle and long, at 2e-4
            // it brought backdoors back.
            (Preset::Default, SubjectKind::Checkpoint) => {
                let pairs = PairsSpec { count: 12, ..PairsSpec::default() };
                let heal = HealSpec { rows: MOST_ROWS, counterexamples: 200, ..generic };
                (pairs, 5, vec![SuppressSpec::subspace(2), channels], heal)
            }
            (Preset::Paper, _) => {
                let pairs = PairsSpec { rows: 500, families: vec![BehaviourFamily::Insult], ..PairsSpec::default() };
                (pairs, 5, vec![channels], HealSpec { rows: 200, own_rows: 200, ..generic })
            }
        };
        let heal = self.heal.clone().unwrap_or(heal);
        // As many steps as were measured: rows that are many need not be seen as often.
        let healing_epochs = if heal.rows > 1000 { 4 } else { 5 };
        ImmunizeRecipe {
            pairs: self.pairs.clone().unwrap_or(pairs),
            train: self.train.clone().unwrap_or_else(|| at(rates.variants, epochs)),
            score: self.score.clone().unwrap_or_default(),
            directions: self.directions,
            suppress: self.suppress.clone().unwrap_or(suppress).into_iter().map(|s| s.resolve(kind)).collect(),
            heads: self.heads.clone(),
            heal: HealRecipe {
                rows: heal.rows,
                own_rows: heal.own_rows,
                counterexamples: heal.counterexamples,
                keep_out: heal.keep_out.unwrap_or(kind == SubjectKind::Checkpoint),
                max_steps: heal.max_steps.or_else(|| {
                    let given = heal.train.is_some() || heal.train_with_own_rows.is_some();
                    (kind == SubjectKind::Adapter && !given).then_some(HEALING_STEPS)
                }),
                train: heal.train.unwrap_or_else(|| at(rates.heal, healing_epochs)),
                train_with_own_rows: heal
                    .train_with_own_rows
                    .unwrap_or_else(|| at(rates.heal_with_own_rows, healing_epochs)),
                against: None,
            },
        }
    }

    /// The complete recipe for a suspect of which this is known: what was found in it, and then what was declared, decides about the
    /// synthetic backdoors where the caller did not.
    pub(super) fn resolve_for(&self, known: &Known) -> ImmunizeRecipe {
        let mut recipe = self.resolve(known.kind, known.parameters);
        if self.suppress.is_none() && !known.has_mlp {
            recipe.suppress_attention_output();
        }
        if self.pairs.is_none() {
            recipe.pairs.imitate(&known.declared, known.found);
        }
        recipe
    }

    pub(super) fn check_for(&self, at: &str, kind: SubjectKind) -> Result<()> {
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

    pub(super) fn validate(&self, at: &str) -> Result<()> {
        self.pairs.as_ref().map_or(Ok(()), |pairs| validate_pairs(&format!("{at}/pairs"), pairs))?;
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
        self.heal.as_ref().map_or(Ok(()), |heal| validate_heal(&format!("{at}/heal"), heal))
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

pub(super) fn validate_pairs(at: &str, pairs: &PairsSpec) -> Result<()> {
    limits::count(&format!("{at}/count"), pairs.count, 1, 64)?;
    limits::count(&format!("{at}/rows"), pairs.rows, 1, 100_000)?;
    limits::count(&format!("{at}/families"), pairs.families.len(), 1, BehaviourFamily::ALL.len())?;
    limits::distinct(&format!("{at}/families"), &pairs.families)
}

pub(super) fn validate_heal(at: &str, heal: &HealSpec) -> Result<()> {
    limits::count(&format!("{at}/rows"), heal.rows, 1, 1_000_000)?;
    limits::count(&format!("{at}/own_rows"), heal.own_rows, 0, 1_000_000)?;
    limits::count(&format!("{at}/counterexamples"), heal.counterexamples, 0, 1_000_000)?;
    heal.max_steps.map_or(Ok(()), |steps| limits::count(&format!("{at}/max_steps"), steps, 1, usize::MAX))?;
    for (name, train) in [("train", &heal.train), ("train_with_own_rows", &heal.train_with_own_rows)] {
        if let Some(train) = train {
            limits::train(&format!("{at}/{name}"), train)?;
        }
    }
    Ok(())
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
        let heal = Some(HealSpec { train_with_own_rows: train, ..HealSpec::default() });
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
        spec.check_for("/method", Checkpoint).unwrap();
        let error = spec.check_for("/method", Adapter).unwrap_err().to_string();
        assert!(error.contains("/method/suppress/1/reinitialise"), "{error}");
    }
}
