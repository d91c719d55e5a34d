//! A penalty on weights, beside the loss that training minimises.

use antigen_models::Tensor;
use antigen_models::error::Result;
use antigen_models::kernels::sum_of_squares;
use antigen_models::params::ParamId;

/// A penalty on some weights beside the loss: `l1 * sum |w| + l2 * sum over matrices of ||W||`.
#[derive(Debug, Clone)]
pub struct Penalty {
    /// The weights.
    pub weights: Vec<ParamId>,
    /// Factor of the sum of magnitudes.
    pub l1: f64,
    /// Factor of the sum of norms; not squared.
    pub l2: f64,
}

impl Penalty {
    /// Adds the penalty's part to the gradient of a weight, where it is one of its own.
    ///
    /// # Errors
    /// Those of the device.
    pub fn add_to(&self, gradient: &mut Tensor, id: ParamId, weight: &Tensor) -> Result<()> {
        if self.weights.contains(&id) {
            *gradient = (&*gradient + self.gradient(weight)?)?;
        }
        Ok(())
    }

    /// `l1 * sign(w) + l2 * w / ||W||`.
    fn gradient(&self, weight: &Tensor) -> Result<Tensor> {
        let norm = sum_of_squares(weight)?.sqrt().max(f64::MIN_POSITIVE);
        Ok(((weight.sign()? * self.l1)? + (weight * (self.l2 / norm))?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_pulls_each_weight_towards_zero_by_its_sign_and_its_share_of_the_norm() {
        let penalty = Penalty { weights: Vec::new(), l1: 0.5, l2: 10.0 };
        let weight = Tensor::new(&[[3f32, -4.0], [0.0, 0.0]], &antigen_models::Device::Cpu).unwrap();
        // The norm is 5: 0.5 + 10 * 3/5, -0.5 - 10 * 4/5.
        assert_eq!(penalty.gradient(&weight).unwrap().to_vec2::<f32>().unwrap(), [[6.5, -8.5], [0.0, 0.0]]);
    }
}
