//! Bodies of `/v1/methods` and `/v1/bases`; the attacks' body is the engine's own.

use antigen_engine::catalogue::{MethodEntry, Summary};
use antigen_engine::job::PurifySpec;
use serde::Serialize;
use utoipa::ToSchema;

/// A method with its measured effect on the suspects of our own comparison.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MethodView {
    #[serde(flatten)]
    pub entry: MethodEntry,
    /// Candidates and controls of the method on suspects of the tiny world, whose known triggers were asked;
    /// empty where it was not compared yet.
    pub measured: Vec<Summary>,
}

/// Everything that can be asked of a job.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct MethodsView {
    pub data: Vec<MethodView>,
    /// The whole spec of a job that names nothing, with every default filled in.
    pub default_spec: PurifySpec,
    /// The place of the JSON Schema of a spec.
    #[schema(example = "/openapi.json#/components/schemas/PurifySpec")]
    pub spec_schema: String,
}

/// The bases that jobs may name.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BasesView {
    pub data: Vec<BaseView>,
}

/// One base.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct BaseView {
    #[schema(example = "builtin:tiny-world")]
    pub name: String,
    /// True of the one that comes with the program.
    pub builtin: bool,
}
