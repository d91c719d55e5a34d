//! The weight of one linear layer, the same way round for every family.

use antigen_models::{Device, ModuleShape, Stored, Tensor};

use crate::error::Result;

/// A weight as `[outputs, inputs]`, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// The numbers; row `a` makes output `a`.
    pub numbers: Vec<f32>,
    /// Numbers in a row.
    pub inputs: usize,
}

impl Matrix {
    /// Reads a weight, or a factor that lies `[outputs, inputs]`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn read(weight: &Tensor, stored: Stored) -> Result<Self> {
        let weight = match stored {
            Stored::OutIn => weight.clone(),
            Stored::InOut => weight.t()?.contiguous()?,
        };
        Ok(Self { inputs: weight.dim(1)?, numbers: weight.flatten_all()?.to_vec1()? })
    }

    /// The weight as its file has it.
    ///
    /// # Errors
    /// Those of the device.
    pub fn write(self, stored: Stored, device: &Device) -> Result<Tensor> {
        let shape = (self.numbers.len() / self.inputs, self.inputs);
        let weight = Tensor::from_vec(self.numbers, shape, device)?;
        Ok(match stored {
            Stored::OutIn => weight,
            Stored::InOut => weight.t()?.contiguous()?,
        })
    }

    /// Euclidean norm of every channel: of the columns where the matrix writes to the residual stream, of the
    /// rows elsewhere.
    pub fn channel_norms(&self, module: &ModuleShape) -> Vec<f64> {
        let squares = self.channel_sums(module, |_, number| f64::from(number).powi(2));
        squares.into_iter().map(f64::sqrt).collect()
    }

    /// The sum of `score(column, number)` over every channel.
    pub fn channel_sums(&self, module: &ModuleShape, score: impl Fn(usize, f32) -> f64) -> Vec<f64> {
        let rows = self.numbers.chunks_exact(self.inputs);
        if !module.kind.writes_residual() {
            return rows.map(|row| row.iter().enumerate().map(|(b, &number)| score(b, number)).sum()).collect();
        }
        let mut sums = vec![0.0; self.inputs];
        for row in rows {
            sums.iter_mut().zip(row).enumerate().for_each(|(b, (sum, &number))| *sum += score(b, number));
        }
        sums
    }

    /// Makes these channels zero.
    pub fn zero_channels(&mut self, module: &ModuleShape, channels: &[usize]) {
        let writes = module.kind.writes_residual();
        for &channel in channels {
            if writes {
                self.numbers.iter_mut().skip(channel).step_by(self.inputs).for_each(|number| *number = 0.0);
            } else {
                self.numbers[channel * self.inputs..][..self.inputs].fill(0.0);
            }
        }
    }
}

/// Zeroes every number whose magnitude is at most the one at index `floor(n * ratio)` of the sorted
/// magnitudes: at least one more than the share says, as published (CROW's `prune_magnitude`, which is
/// Wanda's).
pub fn zero_up_to(numbers: &mut [f32], ratio: f64) {
    if numbers.is_empty() {
        return;
    }
    let mut magnitudes: Vec<f32> = numbers.iter().map(|number| number.abs()).collect();
    let index = ((numbers.len() as f64 * ratio) as usize).min(numbers.len() - 1);
    let (_, &mut threshold, _) = magnitudes.select_nth_unstable_by(index, f32::total_cmp);
    numbers.iter_mut().filter(|number| number.abs() <= threshold).for_each(|number| *number = 0.0);
}

#[cfg(test)]
mod tests {
    use antigen_models::ModuleKind;

    use super::*;

    fn module(kind: ModuleKind) -> ModuleShape {
        ModuleShape { name: "m".into(), kind, layer: 0, out_features: 2, in_features: 3, stored: Stored::OutIn }
    }

    #[test]
    fn either_way_round_is_read_alike_and_written_back_as_it_lay() {
        let weight = Tensor::new(&[[1f32, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::Cpu).unwrap();
        let lying = weight.t().unwrap().contiguous().unwrap();
        for (stored, tensor) in [(Stored::OutIn, &weight), (Stored::InOut, &lying)] {
            let matrix = Matrix::read(tensor, stored).unwrap();
            assert_eq!(matrix, Matrix { numbers: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], inputs: 3 });
            let back = matrix.write(stored, &Device::Cpu).unwrap();
            assert_eq!(back.to_vec2::<f32>().unwrap(), tensor.to_vec2::<f32>().unwrap());
        }
    }

    #[test]
    fn channels_are_rows_of_what_reads_and_columns_of_what_writes() {
        let matrix = Matrix { numbers: vec![3.0, 4.0, 0.0, 0.0, 3.0, 1.0], inputs: 3 };
        let root_ten = 10f64.sqrt();
        for (kind, norms, without_one) in [
            (ModuleKind::Up, vec![5.0, root_ten], [3.0, 4.0, 0.0, 0.0, 0.0, 0.0]),
            (ModuleKind::Down, vec![3.0, 5.0, 1.0], [3.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
        ] {
            let module = module(kind);
            assert_eq!(matrix.channel_norms(&module), norms);
            let mut cut = matrix.clone();
            cut.zero_channels(&module, &[1]);
            assert_eq!(cut.numbers, without_one);
        }
    }

    #[test]
    fn the_threshold_is_the_magnitude_at_the_published_index_and_goes_itself() {
        // Sorted magnitudes 0.5, 1, 2, 3, 4: index floor(5 * 0.4) = 2 holds 2.
        let mut numbers = [3.0, -2.0, 0.5, -1.0, 4.0];
        zero_up_to(&mut numbers, 0.4);
        assert_eq!(numbers, [3.0, 0.0, 0.0, 0.0, 4.0]);
        zero_up_to(&mut numbers, 1.0);
        assert_eq!(numbers, [0.0; 5]);
        zero_up_to(&mut [], 0.5);
    }
}
