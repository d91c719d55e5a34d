//! Variants of the suspect, trained with and without synthetic backdoors: of an adapter all in one pass over
//! its base, of a whole model one after another, each kept on disk. Methods that compare the members of pairs
//! share them, as pieces.

use antigen_models::checkpoint::header::Dtype;
use antigen_models::checkpoint::tensor_file::TensorFile;
use antigen_models::checkpoint::write_tensor_file;
use antigen_models::{LoraAdapter, Model, ModuleShape, load_adapter, save_adapter};

use super::pairs::{PairedRows, VariantRows};
use super::read_rows::ReadRows;
use super::streams::mean_streams;
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::spec::TrainSpec;
use crate::stage::Stage;
use crate::suspect::weights::CheckpointFolder;
use crate::suspect::{Suspect, stored_exactly};
use crate::train::{Variant, fine_tune_adapters, train_weights};

/// The two members of a pair, both grown from the suspect.
#[derive(Debug, Clone)]
pub(crate) struct AdapterPair {
    /// Trained on clean rows.
    pub clean: LoraAdapter,
    /// Trained on clean and poisoned rows.
    pub poisoned: LoraAdapter,
}

/// Trains both members of every pair in one pass over the base.
///
/// # Errors
/// Those of training and of the scratch folder.
pub(crate) fn train_adapter_pairs(
    suspect: &Suspect,
    base: &Model,
    adapter: &LoraAdapter,
    variants: &[VariantRows],
    train: &TrainSpec,
    lab: &Lab,
) -> Result<Vec<AdapterPair>> {
    lab.enter(Stage::Pairs)?;
    let digests: Vec<_> = variants.iter().map(|variant| (&variant.name, &variant.rows_sha256)).collect();
    let key = PieceKey::new("pairs", &(suspect.key(), suspect.formats(), train, digests, lab.seed));
    let folder = lab.piece(&key, |folder| {
        let learners = variants.iter().map(|rows| Variant {
            start: adapter,
            examples: &rows.examples,
            shuffle: lab.rng(&rows.order),
        });
        let trained = fine_tune_adapters(base, learners.collect(), train, lab)?;
        for (rows, trained) in variants.iter().zip(trained) {
            save_adapter(&stored_exactly(trained.adapter), &folder.join(&rows.name))?;
        }
        Ok(())
    })?;
    let load = |rows: &VariantRows| load_adapter(&folder.join(&rows.name), base.config(), base.device());
    variants
        .as_chunks()
        .0
        .iter()
        .map(|[clean, poisoned]| Ok(AdapterPair { clean: load(clean)?, poisoned: load(poisoned)? }))
        .collect()
}

/// Trains one variant after another, each from the suspect's files, and keeps of each the weights of
/// `matrices`, and their streams on the pair's probes where there are any: of every pair the clean member's,
/// then the poisoned one's.
///
/// # Errors
/// Those of training and of the scratch folder.
///
/// # Cost
/// The model and its training state in memory; `4 * 2N` bytes on disk for each number of the matrices.
pub(crate) fn train_whole_pairs(
    suspect: &Suspect,
    folder: &CheckpointFolder,
    rows: &PairedRows,
    matrices: &[&ModuleShape],
    train: &TrainSpec,
    lab: &Lab,
) -> Result<Vec<[TensorFile; 2]>> {
    lab.enter(Stage::Pairs)?;
    let PairedRows { variants, probes } = rows;
    let train_one = |i: usize| {
        let part = lab.part(i, variants.len());
        train_whole_variant(suspect, folder, &variants[i], probes.get(i / 2), matrices, train, &part)
    };
    (0..variants.len() / 2).map(|pair| Ok([train_one(2 * pair)?, train_one(2 * pair + 1)?])).collect()
}

fn train_whole_variant(
    suspect: &Suspect,
    folder: &CheckpointFolder,
    rows: &VariantRows,
    probes: Option<&ReadRows>,
    matrices: &[&ModuleShape],
    train: &TrainSpec,
    lab: &Lab,
) -> Result<TensorFile> {
    let names: Vec<_> = matrices.iter().map(|module| &module.name).collect();
    let inputs = (&folder.digest, suspect.formats(), train, &rows.name, &rows.rows_sha256, lab.seed);
    let key = match probes {
        None => PieceKey::new("variant", &(inputs, names)),
        Some(probes) => PieceKey::new("variant", &(inputs, names, &probes.rows_sha256)),
    };
    let kept = lab.piece(&key, |to| {
        let mut model = suspect.load_whole(folder)?;
        train_weights(&mut model, &rows.examples, train, lab.rng(&rows.order), lab)?;
        let mut tensors: Vec<_> =
            matrices.iter().map(|module| (module.weight_name(), model.weight_of(module).clone())).collect();
        if let Some(probes) = probes {
            let streams = mean_streams(&model, None, matrices, &probes.examples)?;
            tensors.extend(streams.into_iter().map(|(module, stream)| (stream_name(&module), stream)));
        }
        Ok(write_tensor_file(&to.join(VARIANT_FILE), &tensors, Some(Dtype::F32))?)
    })?;
    Ok(TensorFile::open(&kept.join(VARIANT_FILE))?)
}

/// The name of a module's stream in a variant's file.
pub(crate) fn stream_name(module: &str) -> String {
    format!("{module}.stream")
}

/// Name of a variant's file within its piece.
const VARIANT_FILE: &str = "variant.safetensors";
