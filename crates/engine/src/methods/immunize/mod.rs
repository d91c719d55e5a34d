//! Immunization signature (arXiv 2603.13461, Algorithm 1), with the shared subspace beside the published channels.
//!
//! We train synthetic backdoors into copies of the suspect, look at what their updates have in common, take that out of the suspect, and
//! heal. Differences from the paper: six *short* pairs of mixed behaviour families (less training makes a delta that is shared instead
//! of the pair's own) and, by default, directions of the residual stream instead of whole channels.
//!
//! Read [`Algorithm::run`] first; each line is a file. What differs between adapters and whole models is behind [`Setting`]:
//! `adapter.rs` trains all variants in one pass and works in factor space, `whole.rs` trains one variant after another, keeps them on
//! disk and reads them a block of channels at a time, so that memory does not grow with the number of pairs.

mod adapter;
mod deltas;
mod given;
mod heads;
mod removal;
mod score;
mod setting;
mod signature;
mod stored;
mod whole;

use std::path::PathBuf;

use antigen_models::ModuleKind;

use self::adapter::AdapterSetting;
use self::removal::Removal;
use self::setting::Setting;
use self::signature::Signature;
use self::whole::WholeSetting;
use super::controls::{Start, make_controls};
use super::pairs::PairData;
use super::read_rows::ReadRows;
use super::{Method, Purified, PurifiedCandidate, SignatureFile, pairs};
use crate::attacks::synthetic_key;
use crate::data::{OwnRows, Row, TrainSplit, rows_sha256};
use crate::error::Result;
use crate::heal::{HealPlan, Wounded, counterexamples, heal, split_rows};
use crate::lab::{Lab, PieceKey, Stage};
use crate::report::{LongRows, SignatureSummary, Untouched};
use crate::spec::{ControlSpec, DirectionSource, ImmunizeRecipe, SuppressSpec};
use crate::suspect::{Suspect, single_digest};
use crate::weights::Weights;

/// The method with its complete recipe.
pub(super) struct Immunize {
    pub recipe: ImmunizeRecipe,
    pub controls: Vec<ControlSpec>,
}

impl Method for Immunize {
    /// A given signature has what the recipe suppresses.
    fn check(&self, suspect: &Suspect) -> Result<()> {
        suspect
            .given_signature
            .as_deref()
            .map_or(Ok(()), |path| given::open_given(path, &self.recipe, suspect).map(drop))
    }

    fn purify(&self, suspect: &Suspect, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        match (&suspect.weights, suspect.base()) {
            (Weights::Adapter(adapter), Some(base)) => self.run(&AdapterSetting { suspect, base, adapter }, own, lab),
            (Weights::Checkpoint(folder), _) => self.run(&WholeSetting::new(suspect, folder), own, lab),
            _ => Ok(Purified::untouched(Untouched::NothingToWorkOn("there is nothing beside the base.".into()))),
        }
    }
}

impl Immunize {
    fn run<S: Setting>(&self, setting: &S, own: &OwnRows, lab: &Lab) -> Result<Purified> {
        Algorithm { recipe: &self.recipe, controls: &self.controls, setting, suspect: setting.suspect(), lab }.run(own)
    }
}

/// One run of Algorithm 1.
struct Algorithm<'a, S> {
    recipe: &'a ImmunizeRecipe,
    controls: &'a [ControlSpec],
    setting: &'a S,
    suspect: &'a Suspect,
    lab: &'a Lab,
}

impl<S: Setting> Algorithm<'_, S> {
    fn run(&self, own: &OwnRows) -> Result<Purified> {
        if let Some(reason) = self.nothing_to_work_on() {
            return Ok(Purified::untouched(Untouched::NothingToWorkOn(reason)));
        }
        let pairs = (self.recipe.pairs.count, self.recipe.pairs.rows);
        let rows = split_rows(self.suspect, pairs, &self.recipe.heal, own, self.lab)?;
        let mut long_rows = Vec::new();
        let (signature, file) = self.signature(&rows, &mut long_rows)?;
        let plan = self.heal_plan(&rows, own.healing(self.recipe.heal.own_rows))?;
        let candidates = self.candidates(&signature, &plan)?;
        let start = |control| self.start(control, &signature);
        let generic = || self.heal_plan(&rows, &[]);
        let (controls, left_out) = make_controls(self.controls, start, self.suspect, (&plan, generic), self.lab)?;
        long_rows.push(plan.long_rows);
        long_rows.retain(LongRows::any);
        Ok(Purified { candidates, controls, signature: Some(file), left_out, long_rows, ..Purified::default() })
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

    /// Whether scores and directions of such a matrix are wanted: of the MLP always, of attention where a suppression names it.
    fn reads_directions(&self, kind: ModuleKind) -> bool {
        kind.is_mlp() || self.recipe.suppress.iter().any(|spec| removal::touches(spec, kind))
    }

    /// Pairs, deltas, scores and shared directions; or those that another job has found, where they are given.
    fn signature(&self, rows: &TrainSplit, long_rows: &mut Vec<LongRows>) -> Result<(Signature, SignatureFile)> {
        if let Some(path) = &self.suspect.given_signature {
            let signature = given::open_given(path, self.recipe, self.suspect)?;
            let digest = self.suspect.subject().signature.clone().expect("a given signature has its digest");
            let summary = self.summary(&signature, digest.sha256);
            return Ok((signature, SignatureFile { path: None, summary }));
        }
        let (signature, path) = self.extract(rows, long_rows)?;
        let summary = self.summary(&signature, single_digest(&path)?.sha256);
        Ok((signature, SignatureFile { path: Some(path), summary }))
    }

    fn extract(&self, rows: &TrainSplit, long_rows: &mut Vec<LongRows>) -> Result<(Signature, PathBuf)> {
        let (recipe, lab) = (self.recipe, self.lab);
        let data = pairs::build_paired_sets(rows.pairs.clone(), &recipe.pairs, lab);
        let variants = pairs::encode_variants(self.suspect, &data, (&recipe.pairs, &recipe.train), lab, long_rows)?;
        let wanted = signature::Wanted {
            pairs: recipe.pairs.count,
            score: &recipe.score,
            directions: recipe.directions,
            rank: recipe.suppress.iter().map(directions).max().unwrap_or(0),
            modules: self.setting.modules().filter(|module| self.reads_directions(module.kind)).collect(),
            attention: self.setting.modules().filter(|m| recipe.heads.is_some() && !m.kind.is_mlp()).collect(),
        };
        let matrices: Vec<_> = wanted.modules.iter().chain(&wanted.attention).copied().collect();
        let probes = self.probes(&data, long_rows)?;
        let pairs = self.setting.fine_tune_pairs((&variants, &probes), &matrices, &recipe.train, lab)?;
        let key = self.signature_key(rows, wanted.rank);
        signature::extract_signature(self.setting, &pairs, &wanted, &key, lab)
    }

    fn summary(&self, signature: &Signature, sha256: String) -> SignatureSummary {
        let heads = self.recipe.heads.as_ref();
        SignatureSummary {
            pairs: signature.pairs,
            modules: signature.summary(),
            heads: heads.map(|heads| heads::select(&signature.heads, heads)).unwrap_or_default(),
            sha256,
        }
    }

    /// The triggered rows of each pair, where directions are read from what members make of them.
    fn probes(&self, data: &[PairData], long_rows: &mut Vec<LongRows>) -> Result<Vec<ReadRows>> {
        if self.recipe.directions == DirectionSource::Weights {
            return Ok(Vec::new());
        }
        let of_pair = |pair: &PairData| ReadRows::of(self.suspect, &pair.poisoned, "probes", long_rows, self.lab);
        data.iter().map(of_pair).collect()
    }

    fn signature_key(&self, rows: &TrainSplit, rank: usize) -> PieceKey {
        let (recipe, suspect) = (self.recipe, self.suspect);
        let inputs = (suspect.key(), suspect.formats(), rows_key(rows), &recipe.pairs, &recipe.train, &recipe.score);
        let attention: Vec<_> = recipe.suppress.iter().filter_map(removal::place_beyond_mlp).collect();
        let wanted = (rank, attention, recipe.heads.is_some(), recipe.directions);
        PieceKey::new("signature", &(inputs, wanted, self.lab.seed))
    }

    fn heal_plan(&self, rows: &TrainSplit, own: &[Row]) -> Result<HealPlan> {
        let keys: Vec<_> = (0..self.recipe.pairs.count).map(synthetic_key).collect();
        let counterexamples = counterexamples(&rows.counterexamples, &keys, self.lab);
        HealPlan::new(self.suspect, (&rows.heal, own, &counterexamples), &self.recipe.heal, self.lab)
    }

    fn candidates(&self, signature: &Signature, plan: &HealPlan) -> Result<Vec<PurifiedCandidate>> {
        self.lab.enter(Stage::Suppress)?;
        let suppressed =
            self.recipe.suppress.iter().map(|spec| self.remove(signature, spec)).collect::<Result<Vec<_>>>()?;
        self.lab.enter(Stage::Heal)?;
        let healed = heal(self.suspect, &suppressed, plan, self.lab)?;
        let candidate = |(spec, weights): (&SuppressSpec, Weights)| PurifiedCandidate {
            name: spec.name(),
            suppression: Some(spec.clone()),
            heads: None,
            healing: plan.healing.clone(),
            weights,
        };
        Ok(self.recipe.suppress.iter().zip(healed).map(candidate).collect())
    }

    fn remove(&self, signature: &Signature, spec: &SuppressSpec) -> Result<Wounded> {
        let heads = self.recipe.heads.as_ref().map(|heads| (heads, self.suspect.config().attention_heads()));
        let modules: Vec<_> = self.setting.modules().collect();
        let removal = Removal::new(&modules, signature, spec, heads);
        let kept_out = if self.recipe.heal.keep_out { removal.kept_out(&modules) } else { Vec::new() };
        Ok(Wounded { weights: self.setting.suppress(&removal, self.lab)?, kept_out })
    }

    /// What a control of this method starts from.
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
                Start::model(description, self.remove(&random, &spec)?)
            }
            ControlSpec::WithoutOwnRows => {
                let description = format!("{} healed on generic rows only", exported.name());
                Start::model(description, self.remove(signature, exported)?)
            }
            ControlSpec::WithoutHealing => {
                Start::model(format!("{} without healing", exported.name()), self.remove(signature, exported)?)
            }
            ControlSpec::PlainFineTuning | ControlSpec::AdapterDropped => Start::plain(self.suspect),
        })
    }

    /// The suppression that a random control imitates: the recipe's own of that kind, or the published size.
    fn random_suppression(&self, control: ControlSpec) -> SuppressSpec {
        let channels = control == ControlSpec::RandomChannels;
        let same_kind = |spec: &&SuppressSpec| matches!(spec, SuppressSpec::Channels { .. }) == channels;
        let fallback =
            || if channels { self.suspect.subject().kind.published_channels() } else { SuppressSpec::subspace(1) };
        self.recipe.suppress.iter().find(same_kind).cloned().unwrap_or_else(fallback)
    }
}

// One direction is kept even when only channels are suppressed: reports and the random control of rank one use it.
fn directions(spec: &SuppressSpec) -> usize {
    match spec {
        SuppressSpec::Subspace { rank, .. } => *rank,
        SuppressSpec::Channels { .. } => 1,
    }
}

fn rows_key(rows: &TrainSplit) -> Vec<String> {
    rows.pairs.iter().map(|rows| rows_sha256(rows)).collect()
}
