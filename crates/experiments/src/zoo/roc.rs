//! The area under the ROC curve: scores that tell poisoned suspects from clean ones.

/// Two kinds of suspects by their scores, of which lower ones are more suspicious.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Separation {
    /// The probability that a poisoned suspect scores lower than a clean one; ties count half. The area under
    /// the ROC curve.
    pub auc: f64,
    /// Lower end of its 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Area under the ROC curve with Newcombe's interval for the Mann-Whitney statistic (Statistics in Medicine
/// 25, 559, 2006, method 5), which stays sensible at 0 and 1. `None` when one of the kinds is missing.
pub fn separation(poisoned: &[f64], clean: &[f64]) -> Option<Separation> {
    if poisoned.is_empty() || clean.is_empty() {
        return None;
    }
    let (m, n) = (poisoned.len() as f64, clean.len() as f64);
    let wins: f64 = poisoned.iter().flat_map(|p| clean.iter().map(move |c| win(*p, *c))).sum();
    let auc = wins / (m * n);
    let star = f64::midpoint(m, n) - 1.0;
    let deviation =
        |t: f64| (t * (1.0 - t) * (1.0 + star * ((1.0 - t) / (2.0 - t) + t / (1.0 + t))) / (m * n)).max(0.0).sqrt();
    // The limits are the values that lie exactly Z of their own deviations away.
    let limit = |mut near: f64, mut far: f64| {
        for _ in 0..60 {
            let middle = f64::midpoint(near, far);
            if (auc - middle).abs() < Z * deviation(middle) { near = middle } else { far = middle }
        }
        f64::midpoint(near, far)
    };
    let low = if auc == 0.0 { 0.0 } else { limit(auc, 0.0) };
    let high = if auc == 1.0 { 1.0 } else { limit(auc, 1.0) };
    Some(Separation { auc, low, high })
}

fn win(poisoned: f64, clean: f64) -> f64 {
    match poisoned.total_cmp(&clean) {
        std::cmp::Ordering::Less => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Greater => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_counts_pairs_in_the_right_order() {
        // Of 2 x 3 pairs: 1 < 2, 3, 4 (three), 3 < 4 (one), 3 = 3 (half).
        let found = separation(&[1.0, 3.0], &[2.0, 3.0, 4.0]).unwrap();
        assert!((found.auc - 4.5 / 6.0).abs() < 1e-12);
        assert!(0.0 < found.low && found.low < found.auc && found.auc < found.high && found.high < 1.0);
    }

    #[test]
    fn a_perfect_separation_of_few_is_not_certain() {
        let few = separation(&[-9.0; 4], &[0.0; 4]).unwrap();
        let many = separation(&[-9.0; 24], &[0.0; 24]).unwrap();
        assert_eq!((few.auc, few.high), (1.0, 1.0));
        assert!(few.low < many.low && many.low < 1.0, "{} {}", few.low, many.low);
        // 24 against 24: 1 - t = Z * sqrt(t (1 - t) (1 + 23 ((1 - t) / (2 - t) + t / (1 + t))) / 576) at t =
        // 0.9158.
        assert!((many.low - 0.9158).abs() < 1e-4, "{}", many.low);
    }

    #[test]
    fn no_area_without_both_kinds() {
        assert_eq!(separation(&[], &[1.0]), None);
    }
}
