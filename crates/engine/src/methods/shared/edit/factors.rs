//! An adapter's update `s B A`, edited in its factors: a channel of the update is a row of B where the layer
//! reads the residual stream and a column of A where it writes there.

use antigen_models::LoraFactors;
use candle_core::{DType, Tensor};

use crate::error::Result;

/// Makes these channels of the update zero; `writes` is true of a layer that writes to the residual stream.
///
/// # Errors
/// Those of the device.
pub fn zero_channels(factors: &mut LoraFactors, writes: bool, channels: &[usize]) -> Result<()> {
    if channels.is_empty() {
        return Ok(());
    }
    let count = if writes { factors.a.dim(1)? } else { factors.b.dim(0)? };
    let mut keep = vec![1f32; count];
    channels.iter().for_each(|&j| keep[j] = 0.0);
    let keep = Tensor::from_vec(keep, count, factors.a.device())?;
    if writes {
        factors.a = factors.a.broadcast_mul(&keep.unsqueeze(0)?)?;
    } else {
        factors.b = factors.b.broadcast_mul(&keep.unsqueeze(1)?)?;
    }
    Ok(())
}

/// Euclidean norm of every channel of the update, from the factors alone: row j of `s B A` has the square
/// `s^2 b_j (A A^T) b_j^T`, column j `s^2 a_j^T (B^T B) a_j`.
///
/// # Errors
/// Those of the device.
pub fn update_norms(factors: &LoraFactors, writes: bool) -> Result<Vec<f64>> {
    let (a, b) = (factors.a.to_dtype(DType::F64)?, factors.b.to_dtype(DType::F64)?);
    let (channels, gram) = if writes { (a.t()?.contiguous()?, b.t()?.matmul(&b)?) } else { (b, a.matmul(&a.t()?)?) };
    let squares = (channels.matmul(&gram)? * channels)?.sum(1)?.to_vec1::<f64>()?;
    // Rounding may push the square of a channel that is zero below it.
    Ok(squares.into_iter().map(|square| factors.scaling.abs() * square.max(0.0).sqrt()).collect())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    // s B A = 2 * [[1, 0], [0, 2], [1, 1]] * [[3, 0, 4], [0, 1, 0]] = [[6, 0, 8], [0, 4, 0], [6, 2, 8]].
    fn factors() -> LoraFactors {
        LoraFactors {
            a: Tensor::new(&[[3f32, 0.0, 4.0], [0.0, 1.0, 0.0]], &Device::Cpu).unwrap(),
            b: Tensor::new(&[[1f32, 0.0], [0.0, 2.0], [1.0, 1.0]], &Device::Cpu).unwrap(),
            scaling: 2.0,
        }
    }

    #[test]
    fn norms_from_the_factors_are_those_of_the_rows_and_columns_of_the_update() {
        let close = |found: Vec<f64>, squares: [f64; 3]| {
            found.iter().zip(squares).all(|(norm, square)| (norm - square.sqrt()).abs() < 1e-12)
        };
        assert!(close(update_norms(&factors(), false).unwrap(), [100.0, 16.0, 104.0]));
        assert!(close(update_norms(&factors(), true).unwrap(), [72.0, 20.0, 128.0]));
    }

    #[test]
    fn a_zeroed_channel_has_no_norm_and_the_others_keep_theirs() {
        for writes in [false, true] {
            let mut cut = factors();
            zero_channels(&mut cut, writes, &[2]).unwrap();
            let (was, is) = (update_norms(&factors(), writes).unwrap(), update_norms(&cut, writes).unwrap());
            assert_eq!((is[2], &is[..2]), (0.0, &was[..2]));
        }
    }
}
