//! A linear layer without bias, with any number of LoRA variants over it.
//!
//! `y = x Wᵀ + s (x Aᵀ) Bᵀ` (Hu et al., arXiv 2106.09685). All variants share the product with `W`; each adds its own low-rank
//! product to its own rows. Backward never forms `B A` and touches `W`'s gradient only when `W` is trained.

use candle_core::Tensor;

use super::{Gradients, Pass};
use crate::error::Result;
use crate::kernels::{add_matmul, add_matmul_nt, matmul, matmul_nt, matmul_tn, scale};
use crate::params::ParamId;

/// Index of an adaptable linear layer in `Model::linear_modules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleIdx(pub usize);

/// One linear layer: `[t, in] -> [t, out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Which module adapters know it as.
    pub module: ModuleIdx,
    /// The weight `[out, in]`.
    pub weight: ParamId,
}

/// What backward needs beside the input: `x Aᵀ` of every variant that adapts this layer, `[rows, r]`.
#[derive(Debug, Default)]
pub struct LinearTrace {
    reduced: Vec<Tensor>,
}

impl Linear {
    /// `[t, in] -> [t, out]`.
    pub fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<(Tensor, LinearTrace)> {
        let y = pass.params.precision().matmul_nt(x, pass.params.get(self.weight))?;
        let mut trace = LinearTrace::default();
        for (_, rows, factors) in pass.adapted(self.module) {
            let reduced = matmul_nt(&x.narrow(0, rows.start, rows.len())?, &factors.a)?;
            add_matmul_nt(&y, rows, &reduced, &factors.b, factors.scaling)?;
            trace.reduced.push(reduced);
        }
        Ok((y, trace))
    }

    /// Gradient of the input, added to `dx` where the caller has one already; gradients of what is trained go to `gradients`.
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
        dx: Option<Tensor>,
    ) -> Result<Tensor> {
        let (weight, precision) = (pass.params.get(self.weight), pass.params.precision());
        let dx = match dx {
            Some(dx) => {
                precision.add_matmul(&dx, 0..pass.rows.len(), dy, weight, 1.0)?;
                dx
            }
            None => precision.matmul(dy, weight)?,
        };
        gradients.add_weight(self.weight, || precision.matmul_tn(dy, x))?;
        for ((variant, rows, factors), reduced) in pass.adapted(self.module).zip(&trace.reduced) {
            let dy = dy.narrow(0, rows.start, rows.len())?;
            let d_reduced = matmul(&dy, &factors.b)?;
            scale(&d_reduced, factors.scaling)?;
            gradients.add_factors(variant, self.module, || {
                let a = matmul_tn(&d_reduced, &x.narrow(0, rows.start, rows.len())?)?;
                let b = matmul_tn(&dy, reduced)?;
                scale(&b, factors.scaling)?;
                Ok((a, b))
            })?;
            add_matmul(&dx, rows, &d_reduced, &factors.a, 1.0)?;
        }
        Ok(dx)
    }
}
