//! Where the reference numbers are, and how far two lists of numbers lie apart.

use std::path::PathBuf;

use antigen_models::Tensor;

/// A folder of the reference data beside the workspace, or `None` (said on stderr) where it is absent.
pub fn golden(family: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden").join(family);
    if !path.exists() {
        eprintln!("skipped: reference data for `{family}` is absent");
        return None;
    }
    Some(path)
}

/// The numbers of a tensor as float64.
pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

/// Euclidean distance over Euclidean length of the expected numbers.
pub fn relative_distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let distance = length(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    distance / length(&mut expected.iter().copied()).max(1e-12)
}
