//! Algorithm 1 on a whole model: all weights are trained, one variant after another.
//!
//! # Memory
//! With P weights of which the largest block (or the embedding with the head) has G, and residual width d,
//! the peak is about `4 P + 8 P + 4 G` bytes for the model, the two moments of AdamW and the gradients of one
//! group, plus the activations of one batch; or, while deltas are read, [`BLOCK_BYTES`] and `24 d^2` bytes,
//! if that is more. **The number of pairs N occurs only in the scores**: `4 N (N + 1)` bytes for each channel
//! of one layer's MLP matrices. A variant goes to disk when it is trained, and the next one starts from the
//! suspect's files again. On disk lie the matrices that the signature reads, `4 * 2N` bytes for each of their
//! numbers, and the whole model once for every candidate and control, twice where it is healed.
//!
//! # Suppression
//! The projection is applied to the weights W themselves: the inputs of gate and up lose the shared
//! directions (`W - W V V^T`), and so do the outputs of down (`W - V V^T W`). Channels are drawn anew, as
//! published.

use antigen_models::checkpoint::tensor_file::TensorFile;
use antigen_models::{Device, ModuleShape, Stored, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::removal::{ModuleRemoval, Removal, channels_are_rows};
use super::setting::Setting;
use super::spec::Reinitialise;
use super::stored::StoredDeltas;
use crate::error::Result;
use crate::lab::{Lab, PieceKey, normal};
use crate::methods::shared::edit::rewrite_matrices;
use crate::methods::shared::pairs::PairedRows;
use crate::methods::shared::variants::{stream_name, train_whole_pairs};
use crate::spec::TrainSpec;
use crate::suspect::Suspect;
use crate::suspect::weights::{CheckpointFolder, Weights};

/// Deltas in memory at a time.
const BLOCK_BYTES: usize = 64 << 20;

/// A whole model on disk.
pub(super) struct WholeSetting<'a> {
    suspect: &'a Suspect,
    folder: &'a CheckpointFolder,
}

impl<'a> WholeSetting<'a> {
    /// The setting of this suspect, whose weights lie in `folder`.
    pub fn new(suspect: &'a Suspect, folder: &'a CheckpointFolder) -> Self {
        Self { suspect, folder }
    }
}

impl Setting for WholeSetting<'_> {
    type Pairs = Vec<[TensorFile; 2]>;
    type Deltas = StoredDeltas;
    const LAYERS_AT_ONCE: usize = 1;

    fn suspect(&self) -> &Suspect {
        self.suspect
    }

    fn modules(&self) -> impl Iterator<Item = &ModuleShape> {
        self.suspect.modules().iter()
    }

    fn fine_tune_pairs(
        &self,
        rows: &PairedRows,
        matrices: &[&ModuleShape],
        train: &TrainSpec,
        lab: &Lab,
    ) -> Result<Vec<[TensorFile; 2]>> {
        train_whole_pairs(self.suspect, self.folder, rows, matrices, train, lab)
    }

    fn streams(&self, pairs: &Vec<[TensorFile; 2]>, module: &ModuleShape) -> Result<Vec<[Tensor; 2]>> {
        let load = |file: &TensorFile| file.load(&stream_name(&module.name), &Device::Cpu);
        pairs.iter().map(|[clean, poisoned]| Ok([load(clean)?, load(poisoned)?])).collect()
    }

    fn deltas(&self, pairs: &Vec<[TensorFile; 2]>, module: &ModuleShape) -> Result<StoredDeltas> {
        StoredDeltas::open(pairs, module, BLOCK_BYTES)
    }

    /// Copies the suspect's files and changes the named matrices in them, one at a time.
    fn suppress(&self, removal: &Removal, lab: &Lab) -> Result<Weights> {
        let key = PieceKey::new("suppressed-model", &(&self.folder.digest, removal, lab.seed));
        let changed: Vec<_> = self.modules().filter(|module| removal.modules.contains_key(&module.name)).collect();
        rewrite_matrices(self.folder, &changed, &key, lab, |module, matrix| {
            let part = &removal.modules[&module.name];
            let mut rng = lab.rng(&format!("immunize/reinitialise/{}", module.name));
            let numbers = changed_matrix(module, matrix.flatten_all()?.to_vec1()?, part, removal, &mut rng);
            Ok(Tensor::from_vec(numbers, matrix.shape(), matrix.device())?)
        })
    }
}

/// The numbers of a matrix, as they lie, after a removal.
fn changed_matrix(
    module: &ModuleShape,
    mut numbers: Vec<f32>,
    part: &ModuleRemoval,
    removal: &Removal,
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let lies_in_out = module.stored == Stored::InOut;
    let columns = if lies_in_out { module.out_features } else { module.in_features };
    let channels_are_rows = channels_are_rows(module);
    for direction in &part.directions {
        project_out(&mut numbers, columns, channels_are_rows, direction, part.strength);
    }
    let width = module.residual_width();
    let bounds = (width, module.in_features + module.out_features);
    for &channel in &part.channels {
        let fresh = (0..width).map(|_| draw(removal.reinitialise, bounds, rng));
        for (k, number) in fresh.enumerate() {
            let at = if channels_are_rows { channel * columns + k } else { k * columns + channel };
            numbers[at] = number;
        }
    }
    numbers
}

/// Takes `strength` of the part along `direction` out of every channel: a row of the matrix, or a column.
fn project_out(numbers: &mut [f32], columns: usize, channels_are_rows: bool, direction: &[f32], strength: f64) {
    if channels_are_rows {
        for row in numbers.chunks_exact_mut(columns) {
            let part: f64 = row.iter().zip(direction).map(|(w, v)| f64::from(*w) * f64::from(*v)).sum();
            row.iter_mut().zip(direction).for_each(|(w, v)| *w = reduced(*w, strength * part, *v));
        }
        return;
    }
    let mut parts = vec![0f64; columns];
    for (row, v) in numbers.chunks_exact(columns).zip(direction) {
        parts.iter_mut().zip(row).for_each(|(part, w)| *part += f64::from(*w) * f64::from(*v));
    }
    for (row, v) in numbers.chunks_exact_mut(columns).zip(direction) {
        row.iter_mut().zip(&parts).for_each(|(w, part)| *w = reduced(*w, strength * part, *v));
    }
}

fn reduced(number: f32, part: f64, direction: f32) -> f32 {
    (f64::from(number) - part * f64::from(direction)) as f32
}

/// One number of a channel that starts again; `(d, in + out)` are the channel's and the matrix's extents.
fn draw(how: Reinitialise, (width, both): (usize, usize), rng: &mut ChaCha8Rng) -> f32 {
    let uniform = |bound: f64, rng: &mut ChaCha8Rng| rng.random_range(-bound..bound) as f32;
    match how {
        Reinitialise::XavierSlice => uniform((6.0 / (width as f64 + 1.0)).sqrt(), rng),
        Reinitialise::XavierMatrix => uniform((6.0 / both as f64).sqrt(), rng),
        Reinitialise::Normal => 0.02 * normal(rng),
        Reinitialise::Zero => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use antigen_models::ModuleKind;

    use super::super::signature::random_direction;
    use super::*;
    use crate::lab::rng;

    // Eight channels over a stream of width five.
    fn module(kind: ModuleKind, stored: Stored) -> ModuleShape {
        let (out_features, in_features) = if kind.writes_residual() { (5, 8) } else { (8, 5) };
        ModuleShape { name: "m".into(), kind, layer: 0, out_features, in_features, stored }
    }

    fn every_way_round() -> Vec<ModuleShape> {
        [ModuleKind::Gate, ModuleKind::Down]
            .into_iter()
            .flat_map(|kind| [Stored::OutIn, Stored::InOut].map(|stored| module(kind, stored)))
            .collect()
    }

    // The channels of a matrix, whichever way round it lies.
    fn channels(module: &ModuleShape, numbers: &[f32]) -> Vec<Vec<f32>> {
        let (rows, columns) = match module.stored {
            Stored::OutIn => (module.out_features, module.in_features),
            Stored::InOut => (module.in_features, module.out_features),
        };
        let rows: Vec<&[f32]> = numbers.chunks_exact(columns).take(rows).collect();
        if rows.len() == 8 {
            return rows.into_iter().map(<[f32]>::to_vec).collect();
        }
        (0..columns).map(|j| rows.iter().map(|row| row[j]).collect()).collect()
    }

    fn numbers() -> Vec<f32> {
        let mut rng = rng(2, "test");
        (0..40).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    fn changed(module: &ModuleShape, part: &ModuleRemoval, reinitialise: Reinitialise) -> Vec<Vec<f32>> {
        let removal = Removal { modules: BTreeMap::new(), reinitialise };
        channels(module, &changed_matrix(module, numbers(), part, &removal, &mut rng(3, "test")))
    }

    #[test]
    fn every_channel_loses_its_part_in_the_directions_and_keeps_the_rest() {
        let mut rng = rng(1, "directions");
        let first = random_direction(5, &[], &mut rng);
        let second = random_direction(5, std::slice::from_ref(&first), &mut rng);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        for module in every_way_round() {
            let directions = vec![first.clone(), second.clone()];
            let other = random_direction(5, &directions, &mut rng);
            let part = ModuleRemoval { directions, strength: 1.0, channels: vec![] };
            for (was, is) in channels(&module, &numbers()).iter().zip(changed(&module, &part, Reinitialise::Zero)) {
                assert!(dot(&is, &first).abs() < 1e-6 && dot(&is, &second).abs() < 1e-6, "{module:?}");
                assert!((dot(was, &other) - dot(&is, &other)).abs() < 1e-6, "{module:?}");
            }
        }
    }

    #[test]
    fn only_the_selected_channels_start_again() {
        let part = ModuleRemoval { channels: vec![2, 7], ..ModuleRemoval::default() };
        for module in every_way_round() {
            let (was, is) = (channels(&module, &numbers()), changed(&module, &part, Reinitialise::Zero));
            for j in 0..8 {
                let expected = if [2, 7].contains(&j) { &vec![0.0; 5] } else { &was[j] };
                assert_eq!(&is[j], expected, "{module:?}");
            }
        }
    }

    #[test]
    fn each_start_has_its_spread() {
        let mut rng = rng(5, "spread");
        for (how, deviation) in [
            (Reinitialise::XavierSlice, (2.0f64 / 101.0).sqrt()),
            (Reinitialise::XavierMatrix, (2.0f64 / 400.0).sqrt()),
            (Reinitialise::Normal, 0.02),
            (Reinitialise::Zero, 0.0),
        ] {
            let squares: f64 = (0..20_000).map(|_| f64::from(draw(how, (100, 400), &mut rng)).powi(2)).sum();
            assert!(((squares / 20_000.0).sqrt() - deviation).abs() < 0.03 * deviation + 1e-12, "{how:?}");
        }
    }
}
