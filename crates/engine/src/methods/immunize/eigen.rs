//! Eigenvalues of small symmetric matrices by cyclic Jacobi rotations: exact to rounding, no dependency, the same result everywhere.

/// Eigenvalues in falling order with their unit eigenvectors.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Eigen {
    pub values: Vec<f64>,
    /// `vectors[k]` belongs to `values[k]`; length n. Its largest entry is positive.
    pub vectors: Vec<Vec<f64>>,
}

/// Sweeps after which rounding, not convergence, is what is left; ten are plenty for any size.
const MAX_SWEEPS: usize = 40;

/// Decomposes a symmetric matrix given row by row, `[n, n]`.
///
/// # Cost
/// O(n^3) a sweep, five to ten sweeps.
pub(super) fn symmetric_eigen(mut matrix: Vec<f64>, n: usize) -> Eigen {
    debug_assert_eq!(matrix.len(), n * n);
    // Rows of `vectors` are rotated together with rows of `matrix`: contiguous memory on both sides.
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let scale: f64 = matrix.iter().map(|x| x * x).sum();
    for _ in 0..MAX_SWEEPS {
        let off: f64 =
            (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).map(|(i, j)| matrix[i * n + j].powi(2)).sum();
        if off <= scale * 1e-28 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut matrix, &mut vectors, n, p, q);
            }
        }
    }
    sorted(&matrix, &vectors, n)
}

// One Jacobi rotation that zeroes entry (p, q), p < q.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], n: usize, p: usize, q: usize) {
    let entry = matrix[p * n + q];
    if entry == 0.0 {
        return;
    }
    let theta = (matrix[q * n + q] - matrix[p * n + p]) / (2.0 * entry);
    let tangent = if theta >= 0.0 { 1.0 / (theta + theta.hypot(1.0)) } else { 1.0 / (theta - theta.hypot(1.0)) };
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    turn_rows(matrix, n, p, q, cosine, sine);
    for row in matrix.chunks_exact_mut(n) {
        let (a, b) = (row[p], row[q]);
        row[p] = cosine * a - sine * b;
        row[q] = sine * a + cosine * b;
    }
    turn_rows(vectors, n, p, q, cosine, sine);
}

fn turn_rows(matrix: &mut [f64], n: usize, p: usize, q: usize, cosine: f64, sine: f64) {
    let (head, tail) = matrix.split_at_mut(q * n);
    for (a, b) in head[p * n..(p + 1) * n].iter_mut().zip(&mut tail[..n]) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

fn sorted(matrix: &[f64], vectors: &[f64], n: usize) -> Eigen {
    let mut order: Vec<_> = (0..n).collect();
    order.sort_by(|&a, &b| matrix[b * n + b].total_cmp(&matrix[a * n + a]).then(a.cmp(&b)));
    let vector = |&k: &usize| {
        let row = &vectors[k * n..(k + 1) * n];
        let largest = row.iter().copied().fold(0.0, |best: f64, x| if x.abs() > best.abs() { x } else { best });
        row.iter().map(|x| x * largest.signum()).collect()
    };
    Eigen { values: order.iter().map(|&k| matrix[k * n + k]).collect(), vectors: order.iter().map(vector).collect() }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::lab::rng;

    #[test]
    fn a_two_by_two_matrix_is_decomposed_as_by_hand() {
        // [[2, 1], [1, 2]]: 3 along (1, 1), 1 along (1, -1).
        let eigen = symmetric_eigen(vec![2.0, 1.0, 1.0, 2.0], 2);
        assert!((eigen.values[0] - 3.0).abs() < 1e-12 && (eigen.values[1] - 1.0).abs() < 1e-12);
        assert!(eigen.vectors[0].iter().all(|x| (x - 0.5f64.sqrt()).abs() < 1e-12));
    }

    #[test]
    fn vectors_are_orthonormal_and_rebuild_the_matrix() {
        let n = 40;
        let mut rng = rng(3, "test");
        let mut matrix = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..=i {
                let x = rng.random_range(-1.0..1.0);
                (matrix[i * n + j], matrix[j * n + i]) = (x, x);
            }
        }
        let eigen = symmetric_eigen(matrix.clone(), n);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        for i in 0..n {
            for j in 0..n {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((dot(&eigen.vectors[i], &eigen.vectors[j]) - expected).abs() < 1e-10);
                let rebuilt: f64 = (0..n).map(|k| eigen.values[k] * eigen.vectors[k][i] * eigen.vectors[k][j]).sum();
                assert!((rebuilt - matrix[i * n + j]).abs() < 1e-10);
            }
        }
        assert!(eigen.values.windows(2).all(|w| w[0] >= w[1]));
    }

    #[test]
    fn a_zero_matrix_has_zero_eigenvalues() {
        assert_eq!(symmetric_eigen(vec![0.0; 9], 3).values, [0.0; 3]);
    }
}
