//! A linear layer, with or without bias, with any number of LoRA variants over it.
//!
//! `y = x Wᵀ + b + s (x Aᵀ) Bᵀ` (Hu et al., arXiv 2106.09685). All variants share the product with `W`; each adds its own low-rank
//! product to its own rows. Backward never forms `B A` and touches `W`'s gradient only when `W` is trained.

use candle_core::Tensor;

use super::{Gradients, Pass};
use crate::error::Result;
use crate::families::Stored;
use crate::kernels::{add_matmul, add_matmul_nt, add_to_rows, column_sums, matmul, matmul_nt, matmul_tn, scale};
use crate::params::ParamId;

/// Index of an adaptable linear layer in `Model::linear_modules`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleIdx(pub usize);

/// One linear layer: `[t, in] -> [t, out]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Which module adapters know it as; `None` if they cannot sit on it (poolers and heads of classifiers).
    pub module: Option<ModuleIdx>,
    /// The weight, `[out, in]` or `[in, out]`.
    pub weight: ParamId,
    /// Which of the two.
    pub stored: Stored,
    /// The bias `[out]`, if it has one.
    pub bias: Option<ParamId>,
}

/// What backward needs beside the input: `x Aᵀ` of every variant that adapts this layer, `[rows, r]`.
#[derive(Debug, Default)]
pub struct LinearTrace {
    reduced: Vec<Tensor>,
}

impl Linear {
    /// `[t, in] -> [t, out]`.
    pub fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<(Tensor, LinearTrace)> {
        let (weight, precision) = (pass.params.get(self.weight), pass.params.precision());
        let y = match self.stored {
            Stored::OutIn => precision.matmul_nt(x, weight)?,
            Stored::InOut => precision.matmul(x, weight)?,
        };
        if let Some(bias) = self.bias {
            add_to_rows(&y, pass.params.get(bias))?;
        }
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
        let dx = self.input_gradient(dy, pass, dx)?;
        let precision = pass.params.precision();
        gradients.add_weight(self.weight, || match self.stored {
            Stored::OutIn => precision.matmul_tn(dy, x),
            Stored::InOut => precision.matmul_tn(x, dy),
        })?;
        if let Some(bias) = self.bias {
            gradients.add_weight(bias, || column_sums(dy))?;
        }
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
            add_matmul(&dx, rows, &d_reduced, &factors.a, 1.0)?;
        }
        Ok(dx)
    }

    /// `dy W`, without any adapter, fresh or added to `dx`.
    fn input_gradient(&self, dy: &Tensor, pass: Pass<'_>, dx: Option<Tensor>) -> Result<Tensor> {
        let (weight, precision, rows) = (pass.params.get(self.weight), pass.params.precision(), 0..dy.dims2()?.0);
        match (dx, self.stored) {
            (None, Stored::OutIn) => precision.matmul(dy, weight),
            (None, Stored::InOut) => precision.matmul_nt(dy, weight),
            (Some(dx), Stored::OutIn) => precision.add_matmul(&dx, rows, dy, weight, 1.0).map(|()| dx),
            (Some(dx), Stored::InOut) => precision.add_matmul_nt(&dx, rows, dy, weight, 1.0).map(|()| dx),
        }
    }
}
