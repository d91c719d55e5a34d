//! Ablations of an adapter's update: what is said to go is gone, what is said to stay stays, and the whole update measures as the suspect.

use crate::workshop::Workshop;
use antigen_engine::ablate::{Ablation, measure_ablations};
use antigen_engine::data::split_own_rows;
use antigen_engine::evaluators::Probes;
use antigen_engine::run::run;
use antigen_engine::spec::PromptFormat;
use antigen_engine::suspect::Suspect;
use antigen_models::{LoraAdapter, ModuleShape};

fn open(shop: &Workshop) -> Suspect {
    Suspect::open(&shop.submission(), PromptFormat::Alpaca, &shop.lab("a")).unwrap()
}

/// The numbers of one module's update, in its factor B.
fn numbers(adapter: &LoraAdapter, module: &ModuleShape) -> Vec<f32> {
    adapter.factors[&module.name].b.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn what_is_ablated_is_zero_and_everything_else_is_as_it_was() {
    let shop = Workshop::new();
    let (suspect, adapter) = (open(&shop), shop.suspect());
    let blocks = suspect.config().layers();
    for ablation in Ablation::all(blocks) {
        let left = ablation.apply(&adapter, suspect.modules(), &shop.lab("a")).unwrap();
        let adapted = suspect.modules().iter().filter(|module| adapter.factors.contains_key(&module.name));
        for module in adapted {
            let (is_mlp, layer) = (module.kind.is_mlp(), module.layer);
            let (goes, moves) = match &ablation {
                Ablation::Whole => (false, false),
                Ablation::WithoutAttention => (!is_mlp, false),
                Ablation::WithoutMlp => (is_mlp, false),
                Ablation::WithoutMlpIn(span) => (is_mlp && span.contains(&layer), false),
                Ablation::WithoutAttentionAndMlpIn(span) => (!is_mlp || span.contains(&layer), false),
                Ablation::ShuffledMlpIn(span) => (false, is_mlp && span.contains(&layer)),
            };
            let (was, is) = (numbers(&adapter, module), numbers(&left, module));
            assert_eq!(is.iter().all(|x| *x == 0.0), goes, "{ablation:?} {}", module.name);
            assert_eq!(was == is, !goes && !moves, "{ablation:?} {}", module.name);
        }
    }
}

#[test]
fn an_adapter_without_an_mlp_part_is_not_measured_without_it() {
    let shop = Workshop::with_targets(&["q_proj", "o_proj"]);
    let (suspect, adapter) = (open(&shop), shop.suspect());
    let all = Ablation::all(suspect.config().layers());
    let concerned: Vec<_> = all.iter().filter(|one| one.concerns(&adapter, suspect.modules())).collect();
    assert_eq!(concerned, [&Ablation::Whole, &Ablation::WithoutAttention]);
}

#[test]
fn the_whole_update_measures_as_the_suspect_and_a_whole_model_is_refused() {
    let shop = Workshop::new();
    let (suspect, lab, spec) = (open(&shop), shop.lab("a"), shop.spec());
    let probes = |suspect: &Suspect| {
        Probes::build(&spec.evaluators, suspect, &split_own_rows(&suspect.own, 0, &lab), &lab).unwrap()
    };
    let measured = measure_ablations(&suspect, &[Ablation::Whole], &probes(&suspect), &lab).unwrap();
    let before = run(&shop.submission(), &spec, &shop.lab("b")).unwrap().report.before;
    assert_eq!((&measured[0].0, &measured[0].1.asr), (&Ablation::Whole, &before.asr));

    let whole = Suspect::open(&shop.whole_submission(), PromptFormat::Alpaca, &lab).unwrap();
    let error = measure_ablations(&whole, &[Ablation::Whole], &probes(&whole), &lab).unwrap_err();
    assert!(error.to_string().contains("expected an adapter"), "{error}");
}
