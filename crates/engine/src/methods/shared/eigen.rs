//! Eigenvectors of symmetric matrices: all of a small one by cyclic Jacobi rotations, exact to rounding; the
//! strongest of a large one by subspace iteration. No dependency, the same result everywhere.

use rand::Rng;
use rayon::prelude::*;

/// Eigenvalues in falling order with their unit eigenvectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Eigen {
    pub values: Vec<f64>,
    /// `vectors[k]` belongs to `values[k]`; length n. Its largest entry is positive.
    pub vectors: Vec<Vec<f64>>,
}

/// Sweeps after which only rounding is left to do; ten are plenty for any size.
const MAX_SWEEPS: usize = 40;

/// Decomposes a symmetric matrix given row by row, `[n, n]`.
///
/// # Cost
/// O(n^3) a sweep, five to ten sweeps.
pub fn symmetric_eigen(mut matrix: Vec<f64>, n: usize) -> Eigen {
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

/// Largest matrix whose eigenvectors are all computed.
const ALL_UP_TO: usize = 512;

/// The strongest `rank` unit eigenvectors of a positive semidefinite matrix `[n, n]`, strongest first, and
/// the share of the first eigenvalue in the trace. Directions without energy (below 1e-12 of the trace) are
/// left out. The largest entry of each is positive.
pub fn strongest(matrix: Vec<f64>, n: usize, rank: usize) -> (Vec<Vec<f32>>, f64) {
    let energy: f64 = (0..n).map(|i| matrix[i * n + i]).sum();
    if energy <= 0.0 {
        return (Vec::new(), 0.0);
    }
    let eigen = if n <= ALL_UP_TO { symmetric_eigen(matrix, n) } else { iterate_subspace(&matrix, n, rank) };
    let strong = eigen.values.iter().zip(&eigen.vectors).take(rank).take_while(|(value, _)| **value > 1e-12 * energy);
    let directions = strong.map(|(_, vector)| vector.iter().map(|x| *x as f32).collect()).collect();
    (directions, eigen.values[0] / energy)
}

/// Vectors iterated beyond those that are wanted: they take up neighbours in the spectrum and speed up
/// convergence.
const SPARE_VECTORS: usize = 8;
/// Iterations after which eigenvalues lie so close that any vector between them is as good.
const MAX_ITERATIONS: usize = 500;
/// Residual `|A v - value v|` of the wanted vectors, relative to the largest eigenvalue, at which iteration
/// ends.
const RESIDUAL: f64 = 1e-9;

/// Subspace iteration with Rayleigh-Ritz from a fixed pseudorandom start.
///
/// # Cost
/// O(n^2 (rank + 8)) an iteration.
fn iterate_subspace(matrix: &[f64], n: usize, rank: usize) -> Eigen {
    let count = (rank + SPARE_VECTORS).min(n);
    let mut rng = crate::lab::rng(0, "subspace iteration");
    let mut basis: Vec<Vec<f64>> = (0..count).map(|_| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    orthonormalise(&mut basis);
    let mut images = multiply(matrix, n, &basis);
    let mut eigen = Eigen { values: vec![0.0; count], vectors: Vec::new() };
    for iteration in 0..MAX_ITERATIONS {
        let small = basis.iter().flat_map(|b| images.iter().map(move |image| dot(b, image))).collect();
        let ritz = symmetric_eigen(small, count);
        basis = combine(&basis, &ritz.vectors);
        images = combine(&images, &ritz.vectors);
        let residual = |k: usize| {
            let value = ritz.values[k];
            basis[k].iter().zip(&images[k]).map(|(v, image)| (image - value * v).powi(2)).sum::<f64>().sqrt()
        };
        let converged = (0..rank.min(count)).all(|k| residual(k) <= RESIDUAL * ritz.values[0]);
        eigen.values = ritz.values;
        if converged || iteration + 1 == MAX_ITERATIONS {
            break;
        }
        basis = images;
        orthonormalise(&mut basis);
        images = multiply(matrix, n, &basis);
    }
    eigen.vectors = basis.into_iter().map(with_largest_positive).collect();
    eigen
}

fn multiply(matrix: &[f64], n: usize, vectors: &[Vec<f64>]) -> Vec<Vec<f64>> {
    vectors.iter().map(|v| matrix.par_chunks(n).map(|row| dot(row, v)).collect()).collect()
}

// Row k of `weights` mixes the vectors into the k-th new one.
fn combine(vectors: &[Vec<f64>], weights: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let mixed = |weights: &Vec<f64>| {
        let mut sum = vec![0.0; vectors[0].len()];
        for (vector, weight) in vectors.iter().zip(weights) {
            sum.iter_mut().zip(vector).for_each(|(s, x)| *s += weight * x);
        }
        sum
    };
    weights.iter().map(mixed).collect()
}

// Gram and Schmidt, twice, which is enough for orthogonality to rounding. A vector that depends on the others
// becomes zero.
fn orthonormalise(vectors: &mut [Vec<f64>]) {
    for k in 0..vectors.len() {
        let (done, rest) = vectors.split_at_mut(k);
        let vector = &mut rest[0];
        let before = dot(vector, vector).sqrt();
        for _ in 0..2 {
            for other in &*done {
                let part = dot(vector, other);
                vector.iter_mut().zip(other).for_each(|(x, o)| *x -= part * o);
            }
        }
        let norm = dot(vector, vector).sqrt();
        let scale = if norm > 1e-13 * before { 1.0 / norm } else { 0.0 };
        vector.iter_mut().for_each(|x| *x *= scale);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn with_largest_positive(mut vector: Vec<f64>) -> Vec<f64> {
    let largest = vector.iter().copied().fold(0.0, |best: f64, x| if x.abs() > best.abs() { x } else { best });
    vector.iter_mut().for_each(|x| *x *= largest.signum());
    vector
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
    let vector = |&k: &usize| with_largest_positive(vectors[k * n..(k + 1) * n].to_vec());
    Eigen { values: order.iter().map(|&k| matrix[k * n + k]).collect(), vectors: order.iter().map(vector).collect() }
}

#[cfg(test)]
mod tests {
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

    // Random rows of length n whose first few directions are stronger than the others, multiplied with
    // themselves.
    fn gram(n: usize, rows: usize) -> Vec<f64> {
        let mut rng = rng(4, "gram");
        let data: Vec<f64> = (0..rows * n)
            .map(|at| rng.random_range(-1.0..1.0) * if at % n < 3 { 4.0 - (at % n) as f64 } else { 1.0 })
            .collect();
        let entry = |i: usize, j: usize| (0..rows).map(|k| data[k * n + i] * data[k * n + j]).sum();
        (0..n * n).map(|at| entry(at / n, at % n)).collect()
    }

    #[test]
    fn subspace_iteration_finds_what_jacobi_finds() {
        let (n, rank) = (60, 3);
        let matrix = gram(n, 90);
        let (all, some) = (symmetric_eigen(matrix.clone(), n), iterate_subspace(&matrix, n, rank));
        for k in 0..rank {
            assert!((all.values[k] - some.values[k]).abs() < 1e-8 * all.values[0]);
            assert!((dot(&all.vectors[k], &some.vectors[k]) - 1.0).abs() < 1e-10);
        }
    }

    #[test]
    fn subspace_iteration_stands_matrices_of_fewer_directions_than_it_iterates() {
        // Two rows of length 600: rank two, of which three are asked.
        let matrix = gram(600, 2);
        let (directions, share) = strongest(matrix, 600, 3);
        assert_eq!(directions.len(), 2);
        assert!(share > 0.5 && share <= 1.0);
        let norm: f32 = directions[0].iter().map(|x| x * x).sum();
        assert!((norm - 1.0).abs() < 1e-5);
        assert_eq!(strongest(vec![0.0; 600 * 600], 600, 1), (Vec::new(), 0.0));
    }
}
