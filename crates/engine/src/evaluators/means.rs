//! Intervals of means: of paired differences and of ratios over rows of unlike length.

use crate::report::MeanInterval;

/// 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// 97.5 % quantile of Student's t with `freedom` degrees, by the first terms of its Cornish-Fisher expansion (Abramowitz and Stegun
/// 26.7.5): 2.57 at 5 degrees and 2.23 at 10, right to 0.01 from there on.
fn student(freedom: usize) -> f64 {
    let v = freedom as f64;
    let (z3, z5, z7) = (Z.powi(3), Z.powi(5), Z.powi(7));
    Z + (z3 + Z) / (4.0 * v)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * Z) / (96.0 * v * v)
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * Z) / (384.0 * v.powi(3))
}

/// Mean of `second - first` over the same items, with Student's 95 % interval; nothing of fewer than two items.
pub(super) fn mean_difference(first: &[f64], second: &[f64]) -> Option<MeanInterval> {
    let differences: Vec<(f64, f64)> = first.iter().zip(second).map(|(was, is)| (is - was, 1.0)).collect();
    ratio_of_sums(&differences)
}

/// Sum of the first numbers over the sum of the second, rows being the unit of sampling (the linearised variance of a ratio); nothing of
/// fewer than two rows.
pub(super) fn ratio_of_sums(rows: &[(f64, f64)]) -> Option<MeanInterval> {
    let n = rows.len();
    let (sum, weight) = rows.iter().fold((0.0, 0.0), |(a, b), (x, w)| (a + x, b + w));
    if n < 2 || weight <= 0.0 {
        return None;
    }
    let mean = sum / weight;
    let squares: f64 = rows.iter().map(|(x, w)| (x - mean * w).powi(2)).sum();
    let error = (squares * n as f64 / (n - 1) as f64).sqrt() / weight;
    let half = student(n - 1) * error;
    Some(MeanInterval { n, mean, low: mean - half, high: mean + half })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn students_quantiles_agree_with_the_table() {
        for (freedom, expected) in [(5, 2.5706), (10, 2.2281), (30, 2.0423), (199, 1.9720)] {
            assert!((student(freedom) - expected).abs() < 0.01, "{freedom}: {}", student(freedom));
        }
    }

    #[test]
    fn a_paired_difference_is_worked_by_hand() {
        // Differences 1, 2, 3: mean 2, standard error 1/sqrt(3) = 0.57735.
        let found = mean_difference(&[1.0, 1.0, 1.0], &[2.0, 3.0, 4.0]).unwrap();
        assert!((found.mean - 2.0).abs() < 1e-12);
        assert!(((found.high - found.mean) / student(2) - 0.577_350_269).abs() < 1e-8, "{found:?}");
        assert!(mean_difference(&[1.0], &[2.0]).is_none());
    }

    #[test]
    fn long_rows_weigh_more_than_short_ones() {
        let found = ratio_of_sums(&[(1.0, 1.0), (9.0, 3.0)]).unwrap();
        assert!((found.mean - 2.5).abs() < 1e-12 && found.low < 2.5 && found.high > 2.5, "{found:?}");
    }
}
