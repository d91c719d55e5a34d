//! Immunization signature (arXiv 2603.13461, Algorithm 1), with the shared subspace beside the published
//! channels.
//!
//! Synthetic backdoors are trained into copies of the suspect, the part that their updates have in common is
//! taken out of the suspect, and the suspect is healed. Differences from the paper: six *short* pairs of
//! mixed behaviour families (less training makes a delta that is shared instead of the pair's own) and, by
//! default, directions of the residual stream instead of whole channels.
//!
//! Read `Algorithm::run` first; each line of it is a file. The differences between adapters and whole
//! models are behind `Setting`: `adapter.rs` trains all variants in one pass and works in factor space,
//! `whole.rs` trains one variant after another, keeps them on disk and reads them a block of channels at a
//! time, so that memory does not grow with the number of pairs.

mod adapter;
mod deltas;
mod extract;
mod given;
mod head_scores;
mod removal;
mod report;
mod score;
mod setting;
mod signature;
mod spec;
mod stored;
mod whole;

use std::path::Path;

use antigen_models::ModuleKind;

pub use report::{ModuleSignature, SelectedHead, SignatureSummary};
pub use spec::{
    DirectionSource, HeadPart, HeadsScope, HeadsSpec, ImmunizeRecipe, ImmunizeSpec, Preset, Reinitialise,
    ScoreGrouping, ScoreParts, ScoreSpec, SubspacePlace, SuppressSpec,
};

use self::adapter::AdapterSetting;
use self::extract::{Wanted, differential_deltas, extract_signature, score_channels};
use self::removal::Removal;
use self::setting::Setting;
use self::signature::Signature;
use self::whole::WholeSetting;
use super::shared::controls::{ControlPlans, Start, make_controls};
use super::shared::pairs::{PairData, PairedRows, build_paired_sets, encode_variants};
use super::shared::read_rows::ReadRows;
use super::{Details, Method, MethodRecipe, Purified, PurifiedCandidate, Removed, SignatureFile, Untouched};
use crate::data::{Row, TaskRows, TrainSplit, rows_sha256};
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::spec::{ControlSpec, HealRecipe};
use crate::stage::Stage;
use crate::suspect::weights::Weights;
use crate::suspect::{Suspect, SuspectModel, single_digest};
use crate::threat::attacks::synthetic_key;
use crate::train::heal::{EditedModel, HealPlan, HealRows, counterexamples, heal, split_rows};

impl Method for ImmunizeRecipe {
    fn name(&self) -> String {
        self.suppress[0].name()
    }

    fn heal(&self) -> Option<&HealRecipe> {
        Some(&self.heal)
    }

    fn steps(&self, task_rows: usize) -> usize {
        let pair = self.train.steps(self.pairs.rows) + self.train.steps(2 * self.pairs.rows);
        self.pairs.count * pair + self.heal.steps(task_rows) * self.suppress.len()
    }

    fn alone(&self) -> Option<MethodRecipe> {
        Some(Self { suppress: self.suppress[..1].to_vec(), ..self.clone() }.into())
    }

    /// A given signature has everything that the recipe suppresses.
    fn check(&self, suspect: &Suspect) -> Result<()> {
        suspect.given_signature.as_deref().map_or(Ok(()), |path| given::open_given(path, self, suspect).map(drop))
    }

    fn purify(&self, suspect: &Suspect, task: &TaskRows, controls: &[ControlSpec], lab: &Lab) -> Result<Purified> {
        match &suspect.model {
            SuspectModel::Adapter { base, adapter } => {
                Algorithm { recipe: self, controls, setting: &AdapterSetting { suspect, base, adapter }, lab }.run(task)
            }
            SuspectModel::Whole(folder) => {
                Algorithm { recipe: self, controls, setting: &WholeSetting::new(suspect, folder), lab }.run(task)
            }
        }
    }
}

/// One run of Algorithm 1.
struct Algorithm<'a, S> {
    recipe: &'a ImmunizeRecipe,
    controls: &'a [ControlSpec],
    setting: &'a S,
    lab: &'a Lab,
}

impl<S: Setting> Algorithm<'_, S> {
    fn run(&self, task: &TaskRows) -> Result<Purified> {
        if let Some(reason) = self.nothing_to_work_on() {
            return Ok(Purified::untouched(Untouched::NothingToWorkOn(reason)));
        }
        let (suspect, lab, wanted) = (self.setting.suspect(), self.lab, self.wanted());
        let rows = self.split_rows(task)?;
        let signature = match &suspect.given_signature {
            Some(path) => self.open_signature(path)?,
            None => {
                let data = self.build_paired_sets(&rows)?; // D_i^clean, D_i^pois
                self.keep_signature(&rows, &wanted, || {
                    let pairs = self.fine_tune_pairs(&data, &wanted)?; // theta_i^bd, theta_i^clean
                    let deltas = differential_deltas(self.setting, &pairs, &wanted, lab)?; // Eq. 1
                    let scores = score_channels(self.setting, &deltas, &wanted, lab)?; // Eq. 2
                    extract_signature::<S>(&deltas, scores, &wanted, lab) // S
                })?
            }
        };
        let suppressed = self.suppress_signature(&signature.0)?;
        let plan = self.heal_plan(&rows, task.healing(self.recipe.heal.task_rows))?;
        let healed = self.heal(suppressed, &plan)?;
        self.beside_controls(healed, signature, &rows, &plan)
    }

    /// The signature is read from MLP matrices, unless the recipe names attention.
    fn nothing_to_work_on(&self) -> Option<String> {
        if self.setting.modules().any(|module| self.reads_directions(module.kind)) || self.recipe.heads.is_some() {
            return None;
        }
        let has_output = self.setting.modules().any(|module| module.kind == ModuleKind::Output);
        Some(if has_output {
            "the adapter changes attention only, and none of the suppressions that were asked for works there; without any, or with a subspace \
             `on` the `attention_output`, the signature is read from what attention writes."
                .into()
        } else {
            "the adapter changes attention only, and not the attention's output; the signature is read from MLP matrices or from that output, \
             and projecting queries, keys and values would destroy what the adapter was made for."
                .into()
        })
    }

    /// True where scores and directions of such a matrix are wanted: of the MLP always, of attention where a
    /// suppression names it.
    fn reads_directions(&self, kind: ModuleKind) -> bool {
        kind.is_mlp() || self.recipe.suppress.iter().any(|spec| removal::touches(spec, kind))
    }

    fn wanted(&self) -> Wanted<'_> {
        let recipe = self.recipe;
        Wanted {
            pairs: recipe.pairs.count,
            score: &recipe.score,
            directions: recipe.directions,
            rank: recipe.suppress.iter().map(directions).max().unwrap_or(0),
            modules: self.setting.modules().filter(|module| self.reads_directions(module.kind)).collect(),
            attention: self.setting.modules().filter(|m| recipe.heads.is_some() && !m.kind.is_mlp()).collect(),
        }
    }

    fn split_rows(&self, task: &TaskRows) -> Result<TrainSplit> {
        let pairs = (self.recipe.pairs.count, self.recipe.pairs.rows);
        split_rows(self.setting.suspect(), pairs, &self.recipe.heal, task, self.lab)
    }

    /// A signature that another job has found.
    fn open_signature(&self, path: &Path) -> Result<(Signature, SignatureFile)> {
        let suspect = self.setting.suspect();
        let signature = given::open_given(path, self.recipe, suspect)?;
        let digest = suspect.subject().signature.clone().expect("a given signature has its digest");
        let summary = self.summary(&signature, digest.sha256);
        Ok((signature, SignatureFile { path: None, summary }))
    }

    fn build_paired_sets(&self, rows: &TrainSplit) -> Result<PairedRows> {
        let (suspect, recipe, lab) = (self.setting.suspect(), self.recipe, self.lab);
        let data = build_paired_sets(rows.pairs.clone(), &recipe.pairs, lab);
        let variants = encode_variants(suspect, &data, &recipe.pairs, &recipe.train, lab)?;
        let of_pair = |pair: &PairData| ReadRows::of(suspect, &pair.poisoned, "probes", lab);
        let from_streams = recipe.directions == DirectionSource::Activations;
        let probes = data.iter().filter(|_| from_streams).map(of_pair).collect::<Result<_>>()?;
        Ok(PairedRows { variants, probes })
    }

    fn fine_tune_pairs(&self, data: &PairedRows, wanted: &Wanted<'_>) -> Result<S::Pairs> {
        let matrices: Vec<_> = wanted.modules.iter().chain(&wanted.attention).copied().collect();
        self.setting.fine_tune_pairs(data, &matrices, &self.recipe.train, self.lab)
    }

    /// The extracted signature as a piece; always read back, so that a resumed run and an undisturbed one see
    /// the same rounded numbers.
    fn keep_signature(
        &self,
        rows: &TrainSplit,
        wanted: &Wanted<'_>,
        extract: impl FnOnce() -> Result<Signature>,
    ) -> Result<(Signature, SignatureFile)> {
        let key = self.signature_key(rows, wanted.rank);
        let path = self.lab.piece(&key, |folder| extract()?.save(&folder.join(SIGNATURE_FILE)))?.join(SIGNATURE_FILE);
        let signature = Signature::load(&path)?;
        let summary = self.summary(&signature, single_digest(&path)?.sha256);
        Ok((signature, SignatureFile { path: Some(path), summary }))
    }

    fn signature_key(&self, rows: &TrainSplit, rank: usize) -> PieceKey {
        let (recipe, suspect) = (self.recipe, self.setting.suspect());
        let rows: Vec<_> = rows.pairs.iter().map(|rows| rows_sha256(rows)).collect();
        let inputs = (suspect.key(), suspect.formats(), rows, &recipe.pairs, &recipe.train, &recipe.score);
        let attention: Vec<_> = recipe.suppress.iter().filter_map(removal::place_beyond_mlp).collect();
        let wanted = (rank, attention, recipe.heads.is_some(), recipe.directions);
        PieceKey::new("signature", &(inputs, wanted, self.lab.seed))
    }

    fn summary(&self, signature: &Signature, sha256: String) -> SignatureSummary {
        let heads = self.recipe.heads.as_ref();
        SignatureSummary {
            pairs: signature.pairs,
            modules: signature.summary(),
            heads: heads.map(|heads| head_scores::select(&signature.heads, heads)).unwrap_or_default(),
            sha256,
        }
    }

    /// The suspect after each of the suppressions that were asked for.
    fn suppress_signature(&self, signature: &Signature) -> Result<Vec<EditedModel>> {
        self.lab.enter(Stage::Suppress)?;
        self.recipe.suppress.iter().map(|spec| self.suppress(signature, spec)).collect()
    }

    fn suppress(&self, signature: &Signature, spec: &SuppressSpec) -> Result<EditedModel> {
        let suspect = self.setting.suspect();
        let heads = self.recipe.heads.as_ref().map(|heads| (heads, suspect.config().attention_heads()));
        let modules: Vec<_> = self.setting.modules().collect();
        let removal = Removal::new(&modules, signature, spec, heads);
        let kept_out = if self.recipe.heal.keep_out { removal.kept_out(&modules) } else { Vec::new() };
        Ok(EditedModel { weights: self.setting.suppress(&removal, self.lab)?, kept_out })
    }

    fn heal_plan(&self, rows: &TrainSplit, task: &[Row]) -> Result<HealPlan> {
        let keys: Vec<_> = (0..self.recipe.pairs.count).map(synthetic_key).collect();
        let counterexamples = counterexamples(&rows.counterexamples, &keys, self.lab);
        let rows = HealRows { generic: &rows.heal, task, counterexamples: &counterexamples };
        HealPlan::new(self.setting.suspect(), rows, &self.recipe.heal, self.lab)
    }

    fn heal(&self, suppressed: Vec<EditedModel>, plan: &HealPlan) -> Result<Vec<PurifiedCandidate>> {
        self.lab.enter(Stage::Heal)?;
        let healed = heal(self.setting.suspect(), &suppressed, plan, self.lab)?;
        let candidate = |(spec, weights): (&SuppressSpec, Weights)| PurifiedCandidate {
            name: spec.name(),
            removed: Removed::Signature(spec.clone()),
            healing: plan.healing.clone(),
            weights,
        };
        Ok(self.recipe.suppress.iter().zip(healed).map(candidate).collect())
    }

    fn beside_controls(
        &self,
        candidates: Vec<PurifiedCandidate>,
        (signature, file): (Signature, SignatureFile),
        rows: &TrainSplit,
        plan: &HealPlan,
    ) -> Result<Purified> {
        let start = |control| self.start(control, &signature);
        let plans = ControlPlans { plan, generic: || self.heal_plan(rows, &[]) };
        let (controls, left_out) = make_controls(self.controls, start, self.setting.suspect(), plans, self.lab)?;
        self.lab.note_long_rows(&plan.long_rows);
        Ok(Purified { candidates, controls, left_out, details: Details::Signature(file), untouched: None })
    }

    /// The start of a control of this method.
    fn start(&self, control: ControlSpec, signature: &Signature) -> Result<Start> {
        let exported = &self.recipe.suppress[0];
        let has_mlp = self.setting.modules().any(|module| module.kind.is_mlp());
        Ok(match control {
            ControlSpec::RandomChannels if !has_mlp => {
                Start::LeftOut("channels are drawn from MLP matrices, and the adapter has none")
            }
            ControlSpec::RandomChannels | ControlSpec::RandomSubspace => {
                let mut rng = self.lab.rng(&format!("controls/{}", control.name()));
                let random = signature::random_signature(signature, &mut rng);
                let spec = self.random_suppression(control);
                let description = format!("{} drawn at random instead of by the signature, healed alike", spec.name());
                Start::model(description, self.suppress(&random, &spec)?)
            }
            ControlSpec::WithoutTaskRows => {
                let description = format!("{} healed on generic rows only", exported.name());
                Start::model(description, self.suppress(signature, exported)?)
            }
            ControlSpec::WithoutHealing => {
                Start::model(format!("{} without healing", exported.name()), self.suppress(signature, exported)?)
            }
            ControlSpec::PlainFineTuning | ControlSpec::AdapterDropped => Start::plain(self.setting.suspect()),
        })
    }

    /// The suppression that a random control imitates: the recipe's own of that kind, or the published size.
    fn random_suppression(&self, control: ControlSpec) -> SuppressSpec {
        let channels = control == ControlSpec::RandomChannels;
        let same_kind = |spec: &&SuppressSpec| matches!(spec, SuppressSpec::Channels { .. }) == channels;
        let kind = self.setting.suspect().subject().kind;
        let fallback = || if channels { SuppressSpec::published_channels(kind) } else { SuppressSpec::subspace(1) };
        self.recipe.suppress.iter().find(same_kind).cloned().unwrap_or_else(fallback)
    }
}

/// Name of the signature's file within its piece.
const SIGNATURE_FILE: &str = "signature.safetensors";

// One direction is kept even when only channels are suppressed: reports and the random control of rank one
// use it.
fn directions(spec: &SuppressSpec) -> usize {
    match spec {
        SuppressSpec::Subspace { rank, .. } => *rank,
        SuppressSpec::Channels { .. } => 1,
    }
}
