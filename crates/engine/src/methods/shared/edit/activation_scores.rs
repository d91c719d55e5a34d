//! Wanda's score of a weight: `S_ab = |W_ab| * sqrt(mean_t x_tb^2)`, its size times that of its input (arXiv
//! 2306.11695, Eq. 1).

use antigen_models::ModuleShape;

use super::{Matrix, weakest};

/// Zeroes the lowest `floor(in * ratio)` weights of every output row, as published; ties go to the lower
/// index.
pub fn prune_rows(matrix: &mut Matrix, mean_squares: &[f64], ratio: f64) {
    let count = (matrix.inputs as f64 * ratio) as usize;
    let sizes: Vec<f64> = mean_squares.iter().map(|square| square.sqrt()).collect();
    for row in matrix.numbers.chunks_exact_mut(matrix.inputs) {
        let score = |b: usize| f64::from(row[b].abs()) * sizes[b];
        let scores: Vec<f64> = (0..row.len()).map(score).collect();
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        order[..count].iter().for_each(|&b| row[b] = 0.0);
    }
}

/// The channels with the lowest sums of scores.
pub fn dormant_channels(module: &ModuleShape, matrix: &Matrix, mean_squares: &[f64], ratio: f64) -> Vec<usize> {
    let sizes: Vec<f64> = mean_squares.iter().map(|square| square.sqrt()).collect();
    weakest(&matrix.channel_sums(module, |b, weight| f64::from(weight.abs()) * sizes[b]), ratio)
}

#[cfg(test)]
mod tests {
    use antigen_models::{ModuleKind, Stored};

    use super::*;

    #[test]
    fn a_large_weight_on_a_quiet_input_goes_before_a_small_one_on_a_loud_input() {
        // Input sizes 1, 10, 2. Scores of row 0: 5, 10, 8; of row 1: 3, 20, 1.
        let mut matrix = Matrix { numbers: vec![5.0, -1.0, 4.0, 3.0, 2.0, -0.5], inputs: 3 };
        prune_rows(&mut matrix, &[1.0, 100.0, 4.0], 0.34);
        assert_eq!(matrix.numbers, [0.0, -1.0, 4.0, 3.0, 2.0, 0.0]);
        prune_rows(&mut matrix, &[1.0, 100.0, 4.0], 0.3);
        assert_eq!(matrix.numbers, [0.0, -1.0, 4.0, 3.0, 2.0, 0.0], "a share below one weight takes none");
    }

    #[test]
    fn a_dormant_neuron_is_a_row_of_what_reads_and_a_column_of_what_writes() {
        // Input sizes 1, 10, 2: rows score 5 + 10 + 8 and 3 + 20 + 1, columns 5 + 3, 10 + 20 and 8 + 1.
        let matrix = Matrix { numbers: vec![5.0, -1.0, 4.0, 3.0, 2.0, -0.5], inputs: 3 };
        let module = |kind| ModuleShape {
            name: "m".into(),
            kind,
            layer: 0,
            out_features: 2,
            in_features: 3,
            stored: Stored::OutIn,
        };
        let dormant = |kind, squares: [f64; 3]| dormant_channels(&module(kind), &matrix, &squares, 0.3);
        assert_eq!(dormant(ModuleKind::Gate, [1.0, 100.0, 4.0]), [0]);
        assert_eq!(dormant(ModuleKind::Down, [1.0, 100.0, 4.0]), [0]);
        // Without input 1 rows score 13 and 4, columns 8, 0 and 9.
        assert_eq!(dormant(ModuleKind::Gate, [1.0, 0.0, 4.0]), [1]);
        assert_eq!(dormant(ModuleKind::Down, [1.0, 0.0, 4.0]), [1]);
    }
}
