//! More rank for an adapter that answers as before.

use candle_core::Tensor;

use super::{LoraAdapter, LoraFactors, PeftConfig, fresh_rows};
use crate::error::Result;

impl LoraAdapter {
    /// The same update with room for more: every layer gets the rank `rank`, or the widest rank of this
    /// adapter if that is more. New rows of `a` start as in [`LoraAdapter::fresh`], new columns of `b` are
    /// zero. Layers, order of draws and element type stay; differences in scaling go into `b`, so that one
    /// scaling, the largest, holds for all.
    ///
    /// # Errors
    /// Those of tensor arithmetic.
    pub fn widened(&self, rank: usize, rng: &mut dyn FnMut() -> f32) -> Result<Self> {
        let rank = self.factors.values().map(|factors| factors.a.dims()[0]).fold(rank, usize::max);
        let scaling = self.factors.values().map(|factors| factors.scaling).fold(0.0, f64::max);
        let alpha = ((scaling * rank as f64).round() as u32).max(1);
        let targets: Vec<&str> = self.factors.keys().map(String::as_str).collect();
        let mut config = PeftConfig::new(rank, alpha, &targets, "");
        config.dtype = self.config.dtype;
        let scaling = f64::from(alpha) / rank as f64;
        let widen = |(name, factors): (&String, &LoraFactors)| Ok((name.clone(), factors.widened(rank, scaling, rng)?));
        Ok(Self { config, factors: self.factors.iter().map(widen).collect::<Result<_>>()? })
    }
}

impl LoraFactors {
    fn widened(&self, rank: usize, scaling: f64, rng: &mut dyn FnMut() -> f32) -> Result<Self> {
        let ((had, inputs), outputs) = (self.a.dims2()?, self.b.dims()[0]);
        let new = fresh_rows(rank - had, inputs, self.a.device(), rng)?;
        let none = Tensor::zeros((outputs, rank - had), self.b.dtype(), self.b.device())?;
        let b = self.b.affine(self.scaling / scaling, 0.0)?;
        Ok(Self { a: Tensor::cat(&[&self.a, &new], 0)?, b: Tensor::cat(&[&b, &none], 1)?, scaling })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::Device;

    use super::*;

    fn factors(rank: usize, scaling: f64) -> LoraFactors {
        let numbers = |n: usize| (0..n).map(|i| i as f32 * 0.25 - 1.0).collect::<Vec<_>>();
        LoraFactors {
            a: Tensor::from_vec(numbers(rank * 3), (rank, 3), &Device::Cpu).unwrap(),
            b: Tensor::from_vec(numbers(2 * rank), (2, rank), &Device::Cpu).unwrap(),
            scaling,
        }
    }

    fn update(factors: &LoraFactors) -> Vec<f32> {
        let product = factors.b.matmul(&factors.a).unwrap().affine(factors.scaling, 0.0).unwrap();
        product.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_widened_adapter_has_the_rank_and_the_same_update() {
        let narrow = LoraAdapter {
            config: PeftConfig::new(2, 4, &["x"], ""),
            factors: BTreeMap::from([("layers.0.x".into(), factors(2, 2.0)), ("layers.1.x".into(), factors(1, 0.5))]),
        };
        let wide = narrow.widened(4, &mut || 0.5).unwrap();
        assert_eq!((wide.config.r, wide.config.lora_alpha), (4, 8.0));
        for (name, was) in &narrow.factors {
            let is = &wide.factors[name];
            assert_eq!((is.a.dims(), is.b.dims(), is.scaling), (&[4, 3][..], &[2, 4][..], 2.0));
            assert_eq!(update(is), update(was), "{name}");
        }
        assert_eq!(narrow.widened(1, &mut || 0.5).unwrap().config.r, 2, "no rank is lost");
    }
}
