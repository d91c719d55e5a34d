//! Signature strength by layer and module: one row of cells for each kind of module, one column for each
//! layer.

use antigen_engine::methods::immunize::SignatureSummary;
use serde::Serialize;

use super::tenth;

/// The map. A cell's strength is 0 where the pairs share what chance would give (one part in as many as there
/// are pairs) and 1 at the strongest cell.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct HeatMap {
    rows: Vec<HeatRow>,
    /// Layers that carry a number below the map, with the middle of their column in per cent.
    layers: Vec<(usize, f64)>,
    /// Shared fraction at strength 0 and at strength 1.
    scale: (f64, f64),
}

#[derive(Debug, PartialEq, Serialize)]
struct HeatRow {
    /// Name of the module without its layer, such as `mlp.up_proj`.
    module: String,
    cells: Vec<Cell>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Cell {
    layer: usize,
    /// Left edge and width in per cent.
    x: f64,
    width: f64,
    /// 0..=1, in hundredths.
    strength: f64,
    shared: f64,
}

/// Most layers that are numbered below the map.
const NUMBERED: usize = 8;

/// The map; nothing when no module names its layer.
pub(super) fn draw(signature: &SignatureSummary) -> Option<HeatMap> {
    let found: Vec<_> = signature
        .modules
        .iter()
        .filter_map(|module| layer_and_name(&module.module).map(|(layer, name)| (layer, name, module.shared_fraction)))
        .collect();
    let layers = found.iter().map(|(layer, ..)| layer + 1).max()?;
    let chance = 1.0 / signature.pairs.max(1) as f64;
    let strongest = found.iter().fold(chance, |most, cell| most.max(cell.2));
    let edge = |layer: usize| 100.0 * layer as f64 / layers as f64;
    let mut rows: Vec<HeatRow> = Vec::new();
    for (layer, name, shared) in found {
        let strength =
            if strongest > chance { ((shared - chance) / (strongest - chance)).clamp(0.0, 1.0) } else { 0.0 };
        let x = tenth(edge(layer));
        let cell =
            Cell { layer, x, width: tenth(edge(layer + 1) - x), strength: (100.0 * strength).round() / 100.0, shared };
        match rows.iter_mut().find(|row| row.module == name) {
            Some(row) => row.cells.push(cell),
            None => rows.push(HeatRow { module: name.to_owned(), cells: vec![cell] }),
        }
    }
    let every = layers.div_ceil(NUMBERED);
    let middle = |layer: usize| (layer, tenth((edge(layer) + edge(layer + 1)) / 2.0));
    Some(HeatMap { rows, layers: (0..layers).step_by(every).map(middle).collect(), scale: (chance, strongest) })
}

/// `model.layers.12.mlp.up_proj` is layer 12, `mlp.up_proj`.
fn layer_and_name(module: &str) -> Option<(usize, &str)> {
    let mut rest = module;
    while let Some((part, after)) = rest.split_once('.') {
        if let Ok(layer) = part.parse() {
            return Some((layer, after));
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use antigen_engine::methods::immunize::ModuleSignature;

    use super::*;

    fn signature(modules: &[(&str, f64)]) -> SignatureSummary {
        let module = |&(name, shared_fraction): &(&str, f64)| ModuleSignature {
            module: name.to_owned(),
            mean_delta_norm: 1.0,
            shared_fraction,
            mean_score: 1.0,
            max_score: 1.0,
        };
        SignatureSummary {
            pairs: 4,
            modules: modules.iter().map(module).collect(),
            heads: vec![],
            sha256: String::new(),
        }
    }

    #[test]
    fn cells_lie_in_their_layers_column_and_modules_row() {
        let map = draw(&signature(&[
            ("model.layers.0.mlp.up_proj", 0.25),
            ("model.layers.0.mlp.down_proj", 0.5),
            ("model.layers.1.mlp.up_proj", 0.75),
        ]))
        .unwrap();
        assert_eq!(
            map.rows.iter().map(|row| row.module.as_str()).collect::<Vec<_>>(),
            ["mlp.up_proj", "mlp.down_proj"]
        );
        let cell = |layer, x, strength, shared| Cell { layer, x, width: 50.0, strength, shared };
        assert_eq!(map.rows[0].cells, [cell(0, 0.0, 0.0, 0.25), cell(1, 50.0, 1.0, 0.75)]);
        assert_eq!(map.rows[1].cells, [cell(0, 0.0, 0.5, 0.5)]);
        assert_eq!((map.layers, map.scale), (vec![(0, 25.0), (1, 75.0)], (0.25, 0.75)));
    }

    #[test]
    fn eighty_layers_are_not_all_numbered() {
        let names: Vec<_> = (0..80).map(|layer| format!("h.{layer}.c_fc")).collect();
        let modules: Vec<_> = names.iter().map(|name| (name.as_str(), 0.5)).collect();
        let map = draw(&signature(&modules)).unwrap();
        assert_eq!((map.rows[0].cells.len(), map.layers.len()), (80, 8));
    }

    #[test]
    fn pairs_that_share_no_more_than_chance_have_no_strength() {
        let map = draw(&signature(&[("layers.0.up", 0.2), ("layers.1.up", 0.25)])).unwrap();
        assert!(map.rows[0].cells.iter().all(|cell| cell.strength == 0.0));
    }

    #[test]
    fn modules_without_a_layer_make_no_map() {
        assert_eq!(draw(&signature(&[("lm_head", 0.5)])), None);
    }
}
