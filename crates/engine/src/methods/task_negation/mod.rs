//! Task negation (arXiv 2212.04089): the change that implanting synthetic backdoors makes, on average over
//! pairs of variants with and without them, is subtracted from the suspect. The baseline of everything that
//! looks for *where* in that change the backdoor is.
//!
//! `W - strength / N * sum_i (W_i^bd - W_i^clean)`, for every linear layer in the blocks that the suspect can
//! have learnt in. Of an adapter the sum has more rank than the adapter, and is brought back to it by its
//! singular values. The pairs are those of `immunize`, of an adapter, where settings agree, the very same
//! pieces; of a whole model all its matrices are kept of each variant, `4 * 2N` bytes for each number.

mod spec;

pub use spec::{TaskNegationRecipe, TaskNegationSpec};

use antigen_models::checkpoint::tensor_file::TensorFile;
use antigen_models::{Device, LoraAdapter, LoraFactors, Tensor};
use candle_core::DType;
use rayon::prelude::*;

use super::shared::pairs::{PairedRows, build_paired_sets, encode_variants};
use super::shared::variants::{AdapterPair, train_adapter_pairs, train_whole_pairs};
use super::shared::weight_edit::{Edit, WeightEdit};
use crate::data::TrainSplit;
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::methods::shared::edit::{rewrite_matrices, truncate};
use crate::spec::HealRecipe;
use crate::stage::Stage;
use crate::suspect::weights::{CheckpointFolder, Weights};
use crate::suspect::{Suspect, SuspectModel};

impl WeightEdit for TaskNegationRecipe {
    fn name(&self) -> String {
        format!("task_negation-{}", self.strength)
    }

    fn steps(&self, task_rows: usize) -> usize {
        let pair = self.train.steps(self.pairs.rows) + self.train.steps(2 * self.pairs.rows);
        self.pairs.count * pair + self.heal.as_ref().map_or(0, |heal| heal.steps(task_rows))
    }

    fn heal(&self) -> Option<&HealRecipe> {
        self.heal.as_ref()
    }

    fn rows(&self) -> (usize, usize) {
        (self.pairs.count, self.pairs.rows)
    }

    fn edit(&self, suspect: &Suspect, rows: &TrainSplit, lab: &Lab) -> Result<Edit> {
        let data = build_paired_sets(rows.pairs.clone(), &self.pairs, lab);
        let variants = encode_variants(suspect, &data, &self.pairs, &self.train, lab)?;
        let rows = PairedRows { variants, probes: Vec::new() };
        let negated = match &suspect.model {
            SuspectModel::Adapter { base, adapter } => {
                let pairs = train_adapter_pairs(suspect, base, adapter, &rows.variants, &self.train, lab)?;
                lab.enter(Stage::Suppress)?;
                Ok(Weights::Adapter(negate_adapter(adapter, &pairs, self.strength)?))
            }
            SuspectModel::Whole(folder) => self.negate_whole(suspect, folder, &rows, lab),
        };
        negated.map(Edit::from)
    }
}

impl TaskNegationRecipe {
    fn negate_whole(
        &self,
        suspect: &Suspect,
        folder: &CheckpointFolder,
        rows: &PairedRows,
        lab: &Lab,
    ) -> Result<Weights> {
        let matrices: Vec<_> = suspect.modules().iter().collect();
        let pairs = train_whole_pairs(suspect, folder, rows, &matrices, &self.train, lab)?;
        lab.enter(Stage::Suppress)?;
        let digests: Vec<_> = rows.variants.iter().map(|variant| &variant.rows_sha256).collect();
        let inputs = (&folder.digest, self, digests, suspect.formats(), lab.seed);
        let key = PieceKey::new("negated-model", &inputs);
        rewrite_matrices(folder, &matrices, &key, lab, |module, weight| {
            negate_matrix(&weight, &module.weight_name(), &pairs, self.strength)
        })
    }
}

/// The weight without its share of the pairs' mean change, summed in float64.
fn negate_matrix(weight: &Tensor, name: &str, pairs: &[[TensorFile; 2]], strength: f64) -> Result<Tensor> {
    let load =
        |file: &TensorFile| Ok::<_, crate::error::EngineError>(file.load(name, &Device::Cpu)?.to_dtype(DType::F64)?);
    let mut negated = weight.to_dtype(DType::F64)?;
    for [clean, poisoned] in pairs {
        let change = (load(poisoned)? - load(clean)?)?;
        negated = (negated - change.affine(strength / pairs.len() as f64, 0.0)?)?;
    }
    Ok(negated.to_dtype(DType::F32)?)
}

fn negate_adapter(adapter: &LoraAdapter, pairs: &[AdapterPair], strength: f64) -> Result<LoraAdapter> {
    let negate = |(name, own): (&String, &LoraFactors)| {
        let members = pairs.iter().map(|pair| (&pair.poisoned.factors[name], &pair.clean.factors[name]));
        Ok((name.clone(), negate_factors(own, &members.collect::<Vec<_>>(), strength)?))
    };
    let factors = adapter.factors.par_iter().map(negate).collect::<Result<Vec<_>>>()?.into_iter().collect();
    Ok(LoraAdapter { config: adapter.config.clone(), factors })
}

/// `s B A - strength / N * sum_i (s_i B_i A_i - s'_i B'_i A'_i)` of poisoned and clean members, at the rank
/// of `own`.
fn negate_factors(own: &LoraFactors, members: &[(&LoraFactors, &LoraFactors)], strength: f64) -> Result<LoraFactors> {
    let share = strength / members.len().max(1) as f64;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut add = |factors: &LoraFactors, weight: f64| {
        left.push(factors.b.to_dtype(DType::F64)?.affine(weight * factors.scaling, 0.0)?);
        right.push(factors.a.to_dtype(DType::F64)?);
        Ok::<_, crate::error::EngineError>(())
    };
    add(own, 1.0)?;
    for (poisoned, clean) in members {
        add(poisoned, -share)?;
        add(clean, share)?;
    }
    truncate(&Tensor::cat(&left, 1)?, &Tensor::cat(&right, 0)?, own.a.dim(0)?, own.scaling)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(a: [f32; 2], b: [f32; 2], scaling: f64) -> LoraFactors {
        LoraFactors {
            a: Tensor::new(&[a], &Device::Cpu).unwrap(),
            b: Tensor::new(&b, &Device::Cpu).unwrap().unsqueeze(1).unwrap(),
            scaling,
        }
    }

    #[test]
    fn the_mean_difference_of_the_members_is_taken_off_the_update() {
        // Own update [[6, 0], [0, 0]]; differences [[4, 0], [0, 0]] and [[2, 0], [0, 0]], mean 3, of which
        // half goes: 4.5 is left.
        let own = factors([3.0, 0.0], [1.0, 0.0], 2.0);
        let (first, second) = (factors([5.0, 0.0], [1.0, 0.0], 2.0), factors([4.0, 0.0], [1.0, 0.0], 2.0));
        let found = negate_factors(&own, &[(&first, &own), (&second, &own)], 0.5).unwrap();
        let update = found.b.matmul(&found.a).unwrap().affine(found.scaling, 0.0).unwrap().to_vec2::<f32>().unwrap();
        assert!((update[0][0] - 4.5).abs() < 1e-5, "{update:?}");
        assert!(update[0][1].abs() + update[1][0].abs() + update[1][1].abs() < 1e-5, "{update:?}");
        assert_eq!((found.a.dims(), found.b.dims(), found.scaling), (own.a.dims(), own.b.dims(), 2.0));
    }
}
