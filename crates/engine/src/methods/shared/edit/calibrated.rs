//! Edits that look at activations: calibration rows go through the model block by block, each block is edited
//! by the inputs of its linear layers on them, and the next one reads the output of the edited block, as in
//! Wanda's code.
//!
//! # Memory
//! The model, and one hidden state for each token of the rows.

use std::collections::BTreeMap;

use antigen_models::kernels::on_worker;
use antigen_models::layers::{ModuleIdx, Pass, Rows};
use antigen_models::taps::{NoTap, Tap};
use antigen_models::{
    BoundAdapter, Example, LoraAdapter, LoraFactors, Model, ModuleShape, Packed, load_adapter, save_adapter,
};
use candle_core::{DType, Tensor};

use super::Matrix;
use crate::error::Result;
use crate::lab::{Lab, PieceKey};
use crate::suspect::Suspect;
use crate::suspect::weights::{CheckpointFolder, Weights, write_model};

/// Rows of one pass.
const ROWS_AT_A_TIME: usize = 8;

/// Sizes of one linear layer's inputs on the calibration rows: means over their tokens, from float64 sums.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reads {
    /// Mean square of each of its inputs, `[in]`.
    pub input: Vec<f64>,
    /// Mean square of each of the numbers that an adapter's B reads there, `x A^T`: `[r]`; empty without an
    /// adapter.
    pub reduced: Vec<f64>,
}

/// The whole model in `folder` with every linear layer of its blocks as `change` leaves it: the piece `key`,
/// which must hold everything that decides about the change. `change` sees a weight and the mean square of
/// each of its inputs.
///
/// # Errors
/// Those of the model and of the scratch folder; [`crate::error::EngineError::Cancelled`] between two blocks.
pub fn rewrite_calibrated(
    suspect: &Suspect,
    folder: &CheckpointFolder,
    key: &PieceKey,
    examples: &[Example],
    lab: &Lab,
    change: impl Fn(&ModuleShape, &mut Matrix, &[f64]),
) -> Result<Weights> {
    let dir = lab.piece(key, |to| {
        let mut model = suspect.load_whole(folder)?;
        let mut stream = Stream::enter(&model, examples)?;
        for layer in 0..model.config().layers() {
            lab.check_cancel()?;
            for (module, reads) in stream.reads(&model, None, layer)? {
                change_weight(&mut model, module, |shape, matrix| change(shape, matrix, &reads.input))?;
            }
            stream.advance(&model, None, layer)?;
            lab.advance(layer as u64 + 1, model.config().layers() as u64);
        }
        write_model(&model, &folder.dir, to)
    })?;
    Ok(Weights::Checkpoint(CheckpointFolder { dir, digest: key.as_str().to_owned() }))
}

fn change_weight(model: &mut Model, module: ModuleIdx, change: impl FnOnce(&ModuleShape, &mut Matrix)) -> Result<()> {
    let shape = model.linear_modules()[module.0].clone();
    let id = model.weight_id(&shape);
    let mut matrix = Matrix::read(model.params().get(id), shape.stored)?;
    change(&shape, &mut matrix);
    let weight = matrix.write(shape.stored, model.device())?;
    model.params_mut().set(id, weight);
    Ok(())
}

/// As [`rewrite_calibrated`], of an adapter over its base: `change` sees the factors on one layer and the
/// inputs of both of them.
///
/// # Errors
/// As [`rewrite_calibrated`], and those of `change`.
pub fn edit_calibrated(
    base: &Model,
    adapter: &LoraAdapter,
    key: &PieceKey,
    examples: &[Example],
    lab: &Lab,
    change: impl Fn(&mut LoraFactors, &Reads) -> Result<()>,
) -> Result<Weights> {
    let folder = lab.piece(key, |to| {
        let mut edited = adapter.clone();
        let mut stream = Stream::enter(base, examples)?;
        for layer in 0..base.config().layers() {
            lab.check_cancel()?;
            let bound = BoundAdapter::bind(&edited, base.linear_modules())?;
            for (module, reads) in stream.reads(base, Some(&bound), layer)? {
                if let Some(factors) = edited.factors.get_mut(&base.linear_modules()[module.0].name) {
                    change(factors, &reads)?;
                }
            }
            let bound = BoundAdapter::bind(&edited, base.linear_modules())?;
            stream.advance(base, Some(&bound), layer)?;
            lab.advance(layer as u64 + 1, base.config().layers() as u64);
        }
        Ok(save_adapter(&edited, to)?)
    })?;
    Ok(Weights::Adapter(load_adapter(&folder, base.config(), base.device())?))
}

/// The calibration rows on their way through the blocks.
struct Stream {
    /// Rows of each pass and the hidden states in front of the next block, `[t, d]`.
    passes: Vec<(Rows, Tensor)>,
}

impl Stream {
    /// The rows in front of the first block. Every token counts once: rows share no beginnings.
    fn enter(model: &Model, examples: &[Example]) -> Result<Self> {
        let enter = |examples: &[Example]| {
            let packed = Packed::new(examples, 1.0);
            let rows = packed.rows.in_one_group();
            let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
            let hidden = model.enter(model.embed(&packed.tokens)?, pass)?;
            Ok((rows, hidden))
        };
        Ok(Self { passes: examples.chunks(ROWS_AT_A_TIME).map(enter).collect::<Result<_>>()? })
    }

    /// The inputs of every linear layer of the block.
    fn reads(&self, model: &Model, adapter: Option<&BoundAdapter>, layer: usize) -> Result<BTreeMap<ModuleIdx, Reads>> {
        let mut sums = SquareSums { adapter, reads: BTreeMap::new(), failure: None };
        let mut tokens = 0;
        for (rows, hidden) in &self.passes {
            run_block(model, adapter, layer, (rows, hidden), &mut sums)?;
            tokens += rows.len();
        }
        if let Some(error) = sums.failure {
            return Err(error);
        }
        let mut reads = sums.reads;
        for read in reads.values_mut() {
            read.input.iter_mut().chain(&mut read.reduced).for_each(|sum| *sum /= tokens as f64);
        }
        Ok(reads)
    }

    /// Takes the rows through the block.
    fn advance(&mut self, model: &Model, adapter: Option<&BoundAdapter>, layer: usize) -> Result<()> {
        for (rows, hidden) in &mut self.passes {
            *hidden = run_block(model, adapter, layer, (rows, hidden), &mut NoTap)?;
        }
        Ok(())
    }
}

fn run_block(
    model: &Model,
    adapter: Option<&BoundAdapter>,
    layer: usize,
    (rows, hidden): (&Rows, &Tensor),
    tap: &mut (dyn Tap + Send),
) -> Result<Tensor> {
    let adapters = adapter.map(std::slice::from_ref).unwrap_or_default();
    let pass = Pass { params: model.params(), rows, adapters, cache: None };
    Ok(on_worker(|| model.run_block(layer, hidden, pass, tap))?)
}

/// Adds up the squares of the inputs of linear layers.
struct SquareSums<'a> {
    adapter: Option<&'a BoundAdapter>,
    reads: BTreeMap<ModuleIdx, Reads>,
    failure: Option<crate::error::EngineError>,
}

impl Tap for SquareSums<'_> {
    fn hidden_state(&mut self, _: usize, _: &Tensor) {}

    fn linear_input(&mut self, module: ModuleIdx, input: &Tensor) {
        if let Err(error) = self.add(module, input) {
            self.failure.get_or_insert(error);
        }
    }
}

impl SquareSums<'_> {
    fn add(&mut self, module: ModuleIdx, input: &Tensor) -> Result<()> {
        let reads = self.reads.entry(module).or_default();
        add_squares(&mut reads.input, input)?;
        if let Some(factors) = self.adapter.and_then(|adapter| adapter.factors(module)) {
            add_squares(&mut reads.reduced, &input.matmul(&factors.a.t()?)?)?;
        }
        Ok(())
    }
}

fn add_squares(sums: &mut Vec<f64>, rows: &Tensor) -> Result<()> {
    let squares = rows.to_dtype(DType::F64)?.sqr()?.sum(0)?.to_vec1::<f64>()?;
    sums.resize(squares.len(), 0.0);
    sums.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
    Ok(())
}

#[cfg(test)]
mod tests {
    use antigen_models::{Device, FamilyConfig, ModuleKind, build_fresh_model};
    use serde_json::json;

    use super::*;

    /// Two blocks over a stream of four; tokens 0, 1 and 2 are (3, 4, 0, 0), (0, 0, 1, 1) and (2, 0, 0, 0),
    /// norms scale by one, every other weight is a quarter.
    fn model() -> Model {
        let config = FamilyConfig::from_json(&json!({
            "model_type": "llama", "vocab_size": 3, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 0.0, "tie_word_embeddings": true,
        }));
        build_fresh_model(config.unwrap(), &Device::Cpu, |name, shape| match name {
            "model.embed_tokens.weight" => {
                Ok(Tensor::new(&[[3f32, 4.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 0.0, 0.0]], &Device::Cpu)?)
            }
            _ => Ok(Tensor::full(if shape.len() == 1 { 1f32 } else { 0.25 }, shape, &Device::Cpu)?),
        })
        .unwrap()
    }

    // The last token of a row is never read: six tokens are, of which 0 comes three times, 1 twice and 2
    // once.
    fn examples() -> Vec<Example> {
        [vec![0, 1, 0, 2], vec![0, 1, 2, 0]].map(|tokens| Example { tokens, response_start: 1 }).into()
    }

    fn query(model: &Model, layer: usize) -> ModuleIdx {
        let at = |module: &ModuleShape| module.layer == layer && module.kind == ModuleKind::Query;
        ModuleIdx(model.linear_modules().iter().position(at).unwrap())
    }

    fn close(found: &[f64], expected: &[f64]) -> bool {
        found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    #[test]
    fn mean_squares_are_those_of_what_the_layer_reads() {
        // Normed: (1.2, 1.6, 0, 0), (0, 0, sqrt 2, sqrt 2) and (2, 0, 0, 0). Tokens read: 0 1 0 and 0 1 2.
        let model = model();
        let reads = Stream::enter(&model, &examples()).unwrap().reads(&model, None, 0).unwrap();
        let found = &reads[&query(&model, 0)];
        let expected = [(3.0 * 1.44 + 4.0) / 6.0, 3.0 * 2.56 / 6.0, 4.0 / 6.0, 4.0 / 6.0];
        assert!(close(&found.input, &expected), "{found:?}");
        assert!(found.reduced.is_empty());
        assert_eq!(reads.len(), 7);
    }

    #[test]
    fn the_next_block_reads_what_comes_out_of_the_edited_one() {
        let mut model = model();
        let mut stream = Stream::enter(&model, &examples()).unwrap();
        let first = stream.reads(&model, None, 0).unwrap().remove(&query(&model, 0)).unwrap();
        for module in 0..7 {
            change_weight(&mut model, ModuleIdx(module), |_, matrix| matrix.numbers.fill(0.0)).unwrap();
        }
        stream.advance(&model, None, 0).unwrap();
        let second = stream.reads(&model, None, 1).unwrap().remove(&query(&model, 1)).unwrap();
        // A block of zeros adds nothing to the stream.
        assert_eq!(second, first);
    }
}
