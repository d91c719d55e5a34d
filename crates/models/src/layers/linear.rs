//! A linear layer, with or without bias, with any number of LoRA variants over it.
//!
//! `y = x Wᵀ + b + s (x Aᵀ) Bᵀ` (Hu et al., arXiv 2106.09685). All variants share the product with `W`; each
//! adds its own low-rank product to its own rows. Backward never forms `B A` and touches `W`'s gradient only
//! when `W` is trained.

use candle_core::Tensor;

use super::{Gradients, Pass};
use crate::error::Result;
use crate::kernels::{add_matmul, add_matmul_nt, add_to_rows, column_sums, matmul, matmul_nt, matmul_tn, scale};
use crate::modules::{ModuleIdx, Stored};
use crate::params::ParamId;

/// One linear layer: `[t, in] -> [t, out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The module that adapters know it as; `None` if they cannot sit on it (poolers and heads of
    /// classifiers).
    pub module: Option<ModuleIdx>,
    /// The weight, `[out, in]` or `[in, out]`.
    pub weight: ParamId,
    /// The one of the two that it is.
    pub stored: Stored,
    /// The bias `[out]`, if it has one.
    pub bias: Option<ParamId>,
}

/// `x Aᵀ` of every variant that adapts this layer, `[rows, r]`: all that backward needs beside the input.
#[derive(Debug, Default)]
pub struct LinearTrace {
    reduced: Vec<Tensor>,
}

impl Linear {
    /// `[t, in] -> [t, out]`.
    pub fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<(Tensor, LinearTrace)> {
        let [result] = Self::forward_each([self], x, pass)?;
        Ok(result)
    }

    /// As [`Linear::forward`], for layers that read the same rows and are stored the same way round: `x` is
    /// prepared once.
    pub fn forward_each<const N: usize>(
        layers: [&Self; N],
        x: &Tensor,
        pass: Pass<'_>,
    ) -> Result<[(Tensor, LinearTrace); N]> {
        let (weights, precision) = (layers.map(|layer| pass.params.get(layer.weight)), pass.params.precision());
        let transposed = layers[0].stored == Stored::OutIn;
        let results = match layers.map(|layer| pass.prepared(layer.weight)) {
            prepared if prepared.iter().all(Option::is_some) => {
                let places = prepared.map(|place| place.expect("all are there"));
                precision.matmul_prepared(x, std::array::from_fn(|i| (weights[i], places[i])), transposed)?
            }
            _ if transposed => precision.matmul_nt_each(x, weights)?,
            _ => precision.matmul_each(x, weights)?,
        };
        let traces = layers.iter().zip(&results).map(|(layer, y)| layer.finish(x, y, pass));
        let mut traces = traces.collect::<Result<Vec<_>>>()?.into_iter();
        Ok(results.map(|y| (y, traces.next().expect("a trace for each layer"))))
    }

    /// Adds bias and adapters to the product with the weight, in place.
    fn finish(&self, x: &Tensor, y: &Tensor, pass: Pass<'_>) -> Result<LinearTrace> {
        if let Some(bias) = self.bias {
            add_to_rows(y, pass.params.get(bias))?;
        }
        let mut trace = LinearTrace::default();
        for (_, rows, factors) in pass.adapted(self.module) {
            let reduced = matmul_nt(&x.narrow(0, rows.start, rows.len())?, &factors.a)?;
            add_matmul_nt(y, rows, &reduced, &factors.b, factors.scaling)?;
            trace.reduced.push(reduced);
        }
        Ok(trace)
    }

    /// Gradient of the input; gradients of what is trained go to `gradients`.
    ///
    /// # Shapes
    /// `x` `[t, in]`, `dy` `[t, out]` -> `[t, in]`.
    pub fn backward(
        &self,
        x: &Tensor,
        trace: &LinearTrace,
        dy: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        Self::backward_each([self], x, [trace], [dy], pass, gradients)
    }

    /// Gradient of the rows that all `layers` read, as [`Linear::backward`].
    pub fn backward_each<const N: usize>(
        layers: [&Self; N],
        x: &Tensor,
        traces: [&LinearTrace; N],
        dys: [&Tensor; N],
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let (weights, precision) = (layers.map(|layer| pass.params.get(layer.weight)), pass.params.precision());
        let stored = layers[0].stored;
        let dx = match stored {
            Stored::OutIn => precision.matmul_sum(dys, weights)?,
            Stored::InOut => precision.matmul_nt_sum(dys, weights)?,
        };
        if gradients.trains_weights() {
            let d_weights = match stored {
                Stored::OutIn => precision.matmul_tn_each(dys, x)?,
                Stored::InOut => {
                    let products = dys.iter().map(|dy| precision.matmul_tn(x, dy));
                    products.collect::<Result<Vec<_>>>()?.try_into().expect("a gradient for each layer")
                }
            };
            for ((layer, dy), d_weight) in layers.iter().zip(dys).zip(d_weights) {
                gradients.add_weight(layer.weight, || Ok(d_weight))?;
                if let Some(bias) = layer.bias {
                    gradients.add_weight(bias, || column_sums(dy))?;
                }
            }
        }
        for ((layer, trace), dy) in layers.iter().zip(traces).zip(dys) {
            layer.backward_of_adapters(x, trace, dy, &dx, pass, gradients)?;
        }
        Ok(dx)
    }

    /// Adds the adapters' part to `dx`.
    fn backward_of_adapters(
        &self,
        x: &Tensor,
        trace: &LinearTrace,
        dy: &Tensor,
        dx: &Tensor,
        pass: Pass<'_>,
        gradients: &mut Gradients,
    ) -> Result<()> {
        for ((variant, rows, factors), reduced) in pass.adapted(self.module).zip(&trace.reduced) {
            let dy = dy.narrow(0, rows.start, rows.len())?;
            let d_reduced = matmul(&dy, &factors.b)?;
            scale(&d_reduced, factors.scaling)?;
            if let Some(module) = self.module {
                gradients.add_factors(variant, module, || {
                    let a = matmul_tn(&d_reduced, &x.narrow(0, rows.start, rows.len())?)?;
                    let b = matmul_tn(&dy, reduced)?;
                    scale(&b, factors.scaling)?;
                    Ok((a, b))
                })?;
            }
            add_matmul(dx, rows, &d_reduced, &factors.a, 1.0)?;
        }
        Ok(())
    }
}
