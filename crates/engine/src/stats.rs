//! Intervals of rates, of means and of paired differences, and the test of paired answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A share of hits with its Wilson 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rate {
    /// Number of hits.
    pub hits: usize,
    /// Number of items.
    pub n: usize,
    /// hits / n, 0..=1; 0 when n is 0.
    pub rate: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval; 1 when n is 0.
    pub high: f64,
}

/// A difference of two rates on the same items, with Newcombe's 95 % interval for paired proportions
/// (square-and-add of Wilson limits with the correlation of the pairs; Newcombe 1998, method 10).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PairedDifference {
    /// Items.
    pub n: usize,
    /// Hits in the second measurement only.
    pub gained: usize,
    /// Hits in the first measurement only.
    pub lost: usize,
    /// Second minus first, -1..=1.
    pub difference: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Two-sided exact McNemar test: the probability of a split of gained and lost at least as uneven if both
    /// were equally likely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_value: Option<f64>,
}

/// A mean with Student's 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MeanInterval {
    /// Items.
    pub n: usize,
    /// The mean.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A rate with its Wilson 95 % interval (Wilson 1927): centre and width stay sensible at 0 and at n.
pub fn wilson(hits: usize, n: usize) -> Rate {
    if n == 0 {
        return Rate { hits, n, rate: 0.0, low: 0.0, high: 1.0 };
    }
    let (count, rate) = (n as f64, hits as f64 / n as f64);
    let scale = 1.0 + Z * Z / count;
    let centre = (rate + Z * Z / (2.0 * count)) / scale;
    let half = Z / scale * (rate * (1.0 - rate) / count + Z * Z / (4.0 * count * count)).sqrt();
    // At the ends the formula gives 0 and 1 up to rounding.
    let low = if hits == 0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if hits == n { 1.0 } else { (centre + half).min(1.0) };
    Rate { hits, n, rate, low, high }
}

/// The share of `true`.
pub fn rate_of(hits: &[bool]) -> Rate {
    wilson(hits.iter().filter(|&&hit| hit).count(), hits.len())
}

/// Second minus first on the same items, with Newcombe's interval for paired proportions (Newcombe 1998,
/// Statistics in Medicine 17, 2635, method 10).
///
/// Both slices have one entry per item.
pub fn paired_difference(first: &[bool], second: &[bool]) -> PairedDifference {
    debug_assert_eq!(first.len(), second.len());
    let count = |a: bool, b: bool| first.iter().zip(second).filter(|&(&x, &y)| x == a && y == b).count();
    let (both, lost, gained, neither) =
        (count(true, true), count(true, false), count(false, true), count(false, false));
    let (was, is) = (wilson(both + lost, first.len()), wilson(both + gained, first.len()));
    let phi = correlation(both as f64, lost as f64, gained as f64, neither as f64);
    let side = |a: f64, b: f64| (a * a - 2.0 * phi * a * b + b * b).max(0.0).sqrt();
    let difference = is.rate - was.rate;
    let low = difference - side(is.rate - is.low, was.high - was.rate);
    let high = difference + side(is.high - is.rate, was.rate - was.low);
    let p_value = Some(mcnemar_exact(gained, lost));
    PairedDifference { n: first.len(), gained, lost, difference, low: low.max(-1.0), high: high.min(1.0), p_value }
}

/// Two-sided exact McNemar test (McNemar 1947, with the binomial distribution instead of chi-squared): the
/// probability that fair coins split the items that changed at least as unevenly as `gained` against `lost`.
/// 1 when nothing changed.
pub fn mcnemar_exact(gained: usize, lost: usize) -> f64 {
    let (changed, fewer) = (gained + lost, gained.min(lost));
    // Logarithms, because 2^-n leaves the range of a double at 1,075 changed items.
    let mut log_term = -(changed as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=fewer {
        tail += log_term.exp();
        log_term += ((changed - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

// Pearson's phi of the 2 x 2 table, shrunk by half a pair's weight where it is positive, as method 10 asks; 0
// when a margin is empty.
fn correlation(both: f64, lost: f64, gained: f64, neither: f64) -> f64 {
    let margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither);
    let agreement = both * neither - lost * gained;
    let shrunk =
        if agreement > 0.0 { (agreement - (both + lost + gained + neither) / 2.0).max(0.0) } else { agreement };
    if margins == 0.0 { 0.0 } else { shrunk / margins.sqrt() }
}

/// 97.5 % quantile of Student's t with `freedom` degrees, by the first terms of its Cornish-Fisher expansion
/// (Abramowitz and Stegun 26.7.5): 2.57 at 5 degrees and 2.23 at 10, right to 0.01 from there on.
fn student(freedom: usize) -> f64 {
    let v = freedom as f64;
    let (z3, z5, z7) = (Z.powi(3), Z.powi(5), Z.powi(7));
    Z + (z3 + Z) / (4.0 * v)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * Z) / (96.0 * v * v)
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * Z) / (384.0 * v.powi(3))
}

/// Mean of `second - first` over the same items, with Student's 95 % interval; nothing of fewer than two
/// items.
pub fn mean_difference(first: &[f64], second: &[f64]) -> Option<MeanInterval> {
    let differences: Vec<(f64, f64)> = first.iter().zip(second).map(|(was, is)| (is - was, 1.0)).collect();
    ratio_of_sums(&differences)
}

/// Sum of the first numbers over the sum of the second, rows being the unit of sampling (the linearised
/// variance of a ratio); nothing of fewer than two rows.
pub fn ratio_of_sums(rows: &[(f64, f64)]) -> Option<MeanInterval> {
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

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 5e-4, "{found} is not {expected}");
    }

    #[test]
    fn wilson_agrees_with_values_worked_by_hand() {
        // z^2 = 3.8415. n = 200: centre (0 + 3.8415/400) / (1 + 3.8415/200) = 0.009604/1.019207 = 0.009423,
        // half equal.
        let none = wilson(0, 200);
        near(none.low, 0.0);
        near(none.high, 0.018846);
        // n = 10, 5 hits: centre 0.5, half 1.95996/1.38415 * sqrt(0.025 + 0.0096037) = 0.26341.
        let half = wilson(5, 10);
        near(half.low, 0.23659);
        near(half.high, 0.76341);
        assert_eq!((wilson(10, 10).high, wilson(0, 0).high), (1.0, 1.0));
    }

    #[test]
    fn the_wilson_interval_contains_its_rate() {
        for n in 1..50 {
            for hits in 0..=n {
                let rate = wilson(hits, n);
                assert!(rate.low <= rate.rate && rate.rate <= rate.high && 0.0 <= rate.low && rate.high <= 1.0);
            }
        }
    }

    #[test]
    fn newcombe_reproduces_the_published_example() {
        // Newcombe 1998, table III, example (36, 12, 2, 0): difference 0.2000, interval 0.0569 to 0.3404. By
        // hand: p1 = 48/50, p2 = 38/50; l1 0.8654 u1 0.9890; l2 0.6259 u2 0.8570; phi = (36*0 - 12*2) /
        // sqrt(48*2*38*12).
        let table = [(true, true, 36), (true, false, 12), (false, true, 2)];
        let mut first = Vec::new();
        let mut second = Vec::new();
        for (a, b, times) in table {
            first.extend(vec![a; times]);
            second.extend(vec![b; times]);
        }
        let found = paired_difference(&first, &second);
        near(found.difference, -0.2);
        near(found.low, -0.3404);
        near(found.high, -0.0569);
    }

    #[test]
    fn equal_measurements_differ_by_nothing() {
        let hits = [true, false, true, true];
        let found = paired_difference(&hits, &hits);
        assert_eq!((found.difference, found.gained, found.lost, found.p_value), (0.0, 0, 0, Some(1.0)));
        assert!(found.low <= 0.0 && found.high >= 0.0);
    }

    #[test]
    fn the_exact_test_agrees_with_sums_of_binomial_coefficients_worked_by_hand() {
        // 2 * C(5,0) / 2^5 and 2 * (C(10,0) + C(10,1)) / 2^10.
        assert!((mcnemar_exact(0, 5) - 2.0 / 32.0).abs() < 1e-12);
        assert!((mcnemar_exact(9, 1) - 22.0 / 1024.0).abs() < 1e-12);
        // 2 * (1 + 12 + 66) / 2^12, whichever side is the smaller.
        assert!((mcnemar_exact(2, 10) - 158.0 / 4096.0).abs() < 1e-12);
        assert_eq!(mcnemar_exact(2, 10), mcnemar_exact(10, 2));
    }

    #[test]
    fn an_even_split_shows_nothing_and_thousands_of_items_do_not_overflow() {
        assert_eq!((mcnemar_exact(0, 0), mcnemar_exact(5, 5), mcnemar_exact(3000, 3000)), (1.0, 1.0, 1.0));
        // 2,400 of 5,000 is 99.5 / 35.36 = 2.81 standard deviations from the middle, continuity counted: 2 *
        // 0.0025.
        assert!((0.004..0.006).contains(&mcnemar_exact(2400, 2600)));
        assert_eq!(mcnemar_exact(0, 5000), 0.0);
    }

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
