//! The catalogues: methods, attacks, bases. Generated from the engine's specs and the settings.

use std::sync::LazyLock;

use antigen_engine::catalogue::{AttacksCatalogue, MethodEntry, Summary, attacks_catalogue, methods_catalogue};
use antigen_engine::job::PurifySpec;
use axum::{Json as Body, extract::State};

use crate::app::App;
use crate::views::{BaseView, BasesView, MethodView, MethodsView};

/// The measured numbers of all methods, which `antigen-experiments methods` made of docs/results/compare.csv.
static MEASURED: LazyLock<Vec<Summary>> = LazyLock::new(|| {
    let stored = include_str!("../../docs/results/methods.json");
    serde_json::from_str(stored).expect("the stored numbers are tested")
});

/// Purification methods, with every default, what they need, where they fail and what was measured of them.
#[utoipa::path(get, path = "/v1/methods", tag = "catalogue", responses((status = 200, description = "The methods", body = MethodsView)))]
pub async fn list_methods() -> Body<MethodsView> {
    let measured = |name: &str| MEASURED.iter().filter(|summary| summary.method == name).cloned().collect();
    let view = |entry: MethodEntry| MethodView { measured: measured(&entry.name), entry };
    Body(MethodsView {
        data: methods_catalogue().into_iter().map(view).collect(),
        default_spec: PurifySpec::default(),
        spec_schema: "/openapi.json#/components/schemas/PurifySpec".to_owned(),
    })
}

/// Attacks, behaviours and controls that a spec can name.
#[utoipa::path(get, path = "/v1/attacks", tag = "catalogue", responses((status = 200, description = "The attacks", body = AttacksCatalogue)))]
pub async fn list_attacks() -> Body<AttacksCatalogue> {
    Body(attacks_catalogue())
}

/// Base models that jobs can name.
#[utoipa::path(get, path = "/v1/bases", tag = "catalogue", responses((status = 200, description = "The bases", body = BasesView)))]
pub async fn list_bases(State(app): State<App>) -> Body<BasesView> {
    let bases = app.config.bases.names().into_iter().filter_map(|name| app.config.base(&name));
    Body(BasesView { data: bases.map(|base| BaseView { builtin: base.is_builtin(), name: base.name }).collect() })
}
