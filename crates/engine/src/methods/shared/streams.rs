//! Inputs of matrices from the residual stream, or their outputs to it, where a model answers some rows.

use std::collections::BTreeMap;

use antigen_models::kernels::gather_rows;
use antigen_models::layers::{ModuleIdx, Pass};
use antigen_models::taps::Tap;
use antigen_models::{BoundAdapter, Example, LoraAdapter, Model, ModuleShape, Packed, Stored, Tensor};

use crate::error::Result;

/// Rows of one pass.
const ROWS_AT_A_TIME: usize = 8;

/// The stream at each of `modules`, by name, `[d]`: the input of a matrix that reads the stream, the output,
/// without its bias, of one that writes it; means over the places from which response tokens are predicted.
///
/// # Errors
/// Those of the device.
pub(crate) fn mean_streams(
    model: &Model,
    adapter: Option<&LoraAdapter>,
    modules: &[&ModuleShape],
    examples: &[Example],
) -> Result<BTreeMap<String, Tensor>> {
    let adapters: Vec<_> =
        adapter.map(|a| BoundAdapter::bind(a, model.linear_modules())).transpose()?.into_iter().collect();
    let mut inputs = InputSums { places: Vec::new(), sums: Ok(BTreeMap::new()) };
    let mut places = 0;
    for batch in examples.chunks(ROWS_AT_A_TIME) {
        let packed = Packed::new(batch, 1.0);
        inputs.places = packed.targets.iter().map(|target| target.row).collect();
        places += inputs.places.len();
        let rows = packed.rows.in_one_group();
        let pass = Pass { params: model.params(), rows: &rows, adapters: &adapters, cache: None };
        model.forward(model.embed(&packed.tokens)?, pass, &mut inputs)?;
    }
    let sums = inputs.sums?;
    let stream = |module: &&ModuleShape| {
        let place = model.linear_modules().iter().position(|other| other.name == module.name);
        let place = ModuleIdx(place.expect("the module is the model's"));
        let input = (&sums[&place] / places as f64)?;
        let stream = if module.kind.writes_residual() { written(model, &adapters, place, &input)? } else { input };
        Ok((module.name.clone(), stream.squeeze(0)?))
    };
    modules.iter().map(stream).collect()
}

/// The output of a matrix, with its part of an adapter, for the mean input `[1, in]`: the mean of outputs,
/// because the matrix is linear.
fn written(model: &Model, adapters: &[BoundAdapter], place: ModuleIdx, input: &Tensor) -> Result<Tensor> {
    let module = &model.linear_modules()[place.0];
    let weight = model.weight_of(module);
    let output = if module.stored == Stored::OutIn { input.matmul(&weight.t()?)? } else { input.matmul(weight)? };
    match adapters.first().and_then(|adapter| adapter.factors(place)) {
        Some(factors) => {
            let update = input.matmul(&factors.a.t()?)?.matmul(&factors.b.t()?)?;
            Ok((output + (update * factors.scaling)?)?)
        }
        None => Ok(output),
    }
}

/// Adds up the inputs of linear layers at some places.
struct InputSums {
    /// Rows of the pass.
    places: Vec<u32>,
    /// `[1, in]` each.
    sums: Result<BTreeMap<ModuleIdx, Tensor>>,
}

impl InputSums {
    fn add(&mut self, module: ModuleIdx, input: &Tensor) -> Result<()> {
        let Ok(sums) = &mut self.sums else { return Ok(()) };
        let own = gather_rows(input, &self.places)?.sum_keepdim(0)?;
        let sum = match sums.get(&module) {
            Some(sum) => (sum + own)?,
            None => own,
        };
        sums.insert(module, sum);
        Ok(())
    }
}

impl Tap for InputSums {
    fn hidden_state(&mut self, _: usize, _: &Tensor) {}

    fn linear_input(&mut self, module: ModuleIdx, input: &Tensor) {
        if let Err(error) = self.add(module, input) {
            self.sums = Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use antigen_models::{Device, FamilyConfig, ModuleKind, PeftConfig, build_fresh_model};
    use rand::Rng;
    use serde_json::json;

    use super::*;
    use crate::lab::rng;

    fn model() -> Model {
        let config = FamilyConfig::from_json(&json!({
            "model_type": "llama", "vocab_size": 13, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
        }));
        let mut rng = rng(1, "model");
        build_fresh_model(config.unwrap(), &Device::Cpu, |_, shape| {
            let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0)).collect();
            Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
        })
        .unwrap()
    }

    /// Hidden states, as they pass.
    struct States(Vec<Vec<Vec<f32>>>);

    impl Tap for States {
        fn hidden_state(&mut self, _: usize, hidden: &Tensor) {
            self.0.push(hidden.to_vec2().unwrap());
        }
    }

    #[test]
    fn what_attention_and_mlp_write_where_a_response_is_predicted_makes_the_mean_step_of_the_first_block() {
        let model = model();
        let mut numbers = rng(2, "adapter");
        let adapter = LoraAdapter::fresh(PeftConfig::new(2, 4, &["down_proj"], ""), model.config(), &mut || {
            numbers.random_range(-1.0..1.0)
        });
        let mut adapter = adapter.unwrap();
        adapter.factors.values_mut().for_each(|factors| factors.b = (factors.b.ones_like().unwrap() * 0.3).unwrap());
        let examples = [vec![3, 1, 4, 1, 5], vec![2, 6, 5]].map(|tokens| Example { tokens, response_start: 2 });
        let first = |kind| model.linear_modules().iter().find(|m| m.layer == 0 && m.kind == kind).unwrap();
        let modules = [ModuleKind::Output, ModuleKind::Down, ModuleKind::Gate].map(first);
        let streams = mean_streams(&model, Some(&adapter), &modules, &examples).unwrap();
        let numbers = |kind| streams[&first(kind).name].to_vec1::<f32>().unwrap();
        let (attention, mlp) = (numbers(ModuleKind::Output), numbers(ModuleKind::Down));
        assert_eq!(numbers(ModuleKind::Gate).len(), 8);

        let packed = Packed::new(&examples, 1.0);
        let bound = [BoundAdapter::bind(&adapter, model.linear_modules()).unwrap()];
        let rows = packed.rows.in_one_group();
        let pass = Pass { params: model.params(), rows: &rows, adapters: &bound, cache: None };
        let mut states = States(Vec::new());
        model.forward(model.embed(&packed.tokens).unwrap(), pass, &mut states).unwrap();
        // The responses' three and one tokens are predicted from rows 1, 2, 3 and, behind four rows, 1.
        for i in 0..8 {
            let steps = [1, 2, 3, 5].map(|row: usize| states.0[1][row][i] - states.0[0][row][i]);
            let expected = steps.iter().sum::<f32>() / 4.0;
            assert!((attention[i] + mlp[i] - expected).abs() < 1e-4, "{i}: {} and {expected}", attention[i] + mlp[i]);
        }
    }
}
