//! Facts about a suspect that decide the choices that a caller left open.

use super::{BehaviourFamily, CanarySpec, SubjectKind};

/// The facts that decide the choices that a caller left open.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Adapter or whole model.
    pub kind: SubjectKind,
    /// Weights of the base, or of the whole model.
    pub parameters: usize,
    /// True when the suspect can have learnt in MLP matrices.
    pub has_mlp: bool,
    /// Families of the declared behaviours.
    pub declared: Vec<BehaviourFamily>,
    /// The family that the screen found.
    pub found: Option<BehaviourFamily>,
    /// The canaries that were asked for.
    pub canaries: CanarySpec,
}

impl Known {
    /// A suspect of seven billion weights: the one that the catalogue shows recipes for.
    pub(crate) fn of_seven_billion(kind: SubjectKind) -> Self {
        Self { kind, parameters: 7_000_000_000, has_mlp: true, ..Self::default() }
    }
}
