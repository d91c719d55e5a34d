//! Checks of a signature that another job has extracted (Table 11 of arXiv 2603.13461) against this suspect.
//! Shapes, lengths and angles can be checked; its worth for the suspect cannot, and is measured like
//! everything else.

use std::path::Path;

use antigen_models::ModuleShape;

use super::directions;
use super::removal::touches;
use super::signature::{ModuleScores, Signature};
use super::spec::ImmunizeRecipe;
use crate::error::{EngineError, Result};
use crate::suspect::Suspect;

/// Largest distance of directions from orthonormal: the error that rounding to float32 leaves.
const TOLERANCE: f64 = 1e-3;

/// The signature in `path`, which has everything that the recipe takes out of the suspect.
///
/// # Errors
/// [`EngineError::Data`] with the matrix that does not fit; those of the file.
pub(super) fn open_given(path: &Path, recipe: &ImmunizeRecipe, suspect: &Suspect) -> Result<Signature> {
    let signature = Signature::load(path)?;
    let modules: Vec<_> = suspect.changed_modules().collect();
    check_fit(&signature, recipe, &modules, suspect.config().attention_heads().heads)?;
    Ok(signature)
}

/// Checks that the signature has everything that is suppressed in each of the modules, and the right number
/// of head scores a block where the recipe suppresses heads.
fn check_fit(signature: &Signature, recipe: &ImmunizeRecipe, modules: &[&ModuleShape], heads: usize) -> Result<()> {
    for module in modules {
        if recipe.suppress.iter().any(|spec| touches(spec, module.kind)) {
            let found = signature.modules.get(&module.name);
            check_module(module, found.ok_or_else(|| misfit(&module.name, "scores", "none"))?)?;
        }
    }
    // A matrix that the pairs have not changed has no directions; the others show the rank that was asked
    // for.
    let most = signature.modules.values().map(|module| module.directions.len()).max().unwrap_or(0);
    let rank = recipe.suppress.iter().map(directions).max().unwrap_or(0);
    if most < rank {
        return Err(misfit("shared directions", &rank.to_string(), &format!("{most}, as many as its job asked for")));
    }
    for layer in modules.iter().map(|module| module.layer).filter(|_| recipe.heads.is_some()) {
        let found = signature.heads.get(&layer).map_or(0, Vec::len);
        if found != heads {
            return Err(misfit(&format!("block {layer}"), &format!("scores of {heads} heads"), &format!("of {found}")));
        }
    }
    Ok(())
}

fn check_module(module: &ModuleShape, found: &ModuleScores) -> Result<()> {
    let (channels, width) = (module.channels(), module.residual_width());
    if found.scores.len() != channels {
        let found = format!("of {}", found.scores.len());
        return Err(misfit(&module.name, &format!("scores of {channels} channels"), &found));
    }
    match found.directions.iter().find(|direction| direction.len() != width) {
        Some(other) => {
            Err(misfit(&module.name, &format!("directions of width {width}"), &format!("of width {}", other.len())))
        }
        None if !are_orthonormal(&found.directions) => {
            Err(misfit(&module.name, "orthonormal directions", "others, which would scale what they are taken out of"))
        }
        None => Ok(()),
    }
}

fn are_orthonormal(directions: &[Vec<f32>]) -> bool {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    directions.iter().enumerate().all(|(i, one)| {
        let others = directions[..i].iter().all(|other| dot(one, other).abs() < TOLERANCE);
        others && (dot(one, one) - 1.0).abs() < TOLERANCE
    })
}

fn misfit(place: &str, expected: &str, found: &str) -> EngineError {
    EngineError::Data(format!("the given signature, {place}: expected {expected}, found {found}"))
}

#[cfg(test)]
mod tests {
    use antigen_models::{ModuleKind, Stored};

    use super::*;
    use crate::methods::immunize::ImmunizeSpec;
    use crate::spec::SubjectKind;

    fn up() -> ModuleShape {
        let (out_features, in_features) = (3, 2);
        ModuleShape {
            name: "up".into(),
            kind: ModuleKind::Up,
            layer: 0,
            out_features,
            in_features,
            stored: Stored::OutIn,
        }
    }

    // The refusal where two directions are to be suppressed.
    fn refusal(scores: Vec<f32>, directions: Vec<Vec<f32>>) -> String {
        let spec: ImmunizeSpec = serde_json::from_str(r#"{"suppress": [{"type": "subspace", "rank": 2}]}"#).unwrap();
        let recipe = spec.resolve(SubjectKind::Adapter, 1_000_000);
        let module = ModuleScores { scores, directions, mean_delta_norm: 1.0, shared_fraction: 1.0 };
        let signature = Signature { pairs: 2, modules: [("up".to_owned(), module)].into(), ..Signature::default() };
        check_fit(&signature, &recipe, &[&up()], 1).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_fits_is_taken() {
        let directions = vec![vec![0.6, 0.8], vec![-0.8, 0.6]];
        assert_eq!(refusal(vec![1.0; 3], directions), "");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_place() {
        let axes = vec![vec![1.0, 0.0], vec![0.0, 1.0]];
        let another_width = refusal(vec![1.0; 4], axes.clone());
        assert_eq!(another_width, "the given signature, up: expected scores of 3 channels, found of 4");
        assert!(refusal(vec![1.0; 3], axes[..1].to_vec()).contains("shared directions: expected 2, found 1"));
        let another_stream = refusal(vec![1.0; 3], vec![vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0]]);
        assert!(another_stream.contains("expected directions of width 2, found of width 3"), "{another_stream}");
        let long = refusal(vec![1.0; 3], vec![vec![2.0, 0.0], vec![0.0, 1.0]]);
        assert!(long.contains("expected orthonormal directions"), "{long}");
    }
}
