//! Ablations: what is said to go is gone, what is said to stay stays, and the whole measures as the suspect.

use antigen_engine::data::split_task_rows;
use antigen_engine::lab::rng;
use antigen_engine::measure::evaluators::Probes;
use antigen_engine::run::run;
use antigen_engine::spec::PromptFormat;
use antigen_engine::suspect::weights::Weights;
use antigen_engine::suspect::{Submission, Submitted, Suspect};
use antigen_experiments::ablate::{Ablation, measure_ablations, measure_without_each_head};
use antigen_models::checkpoint::copy_checkpoint;
use antigen_models::checkpoint::header::TensorEntry;
use antigen_models::{Device, LoraAdapter, Model, ModuleShape, Tensor, load_model};
use rand::Rng;

use crate::workshop::Workshop;

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
    let suspect = open(&shop);
    let all = Ablation::all(suspect.config().layers());
    let concerned: Vec<_> = all.iter().filter(|one| one.concerns(&suspect)).collect();
    assert_eq!(concerned, [&Ablation::Whole, &Ablation::WithoutAttention]);
}

#[test]
fn of_a_whole_model_a_part_that_goes_is_its_base_s_and_one_that_moves_is_another_block_s_update() {
    let shop = Workshop::new();
    let mut noise = rng(5, "noise");
    let base = shop.model();
    let dir = shop.scratch("grown").join("model");
    let mut grown = |entry: &TensorEntry| {
        let id = base.params().find(&entry.name).filter(|_| entry.name.ends_with("_proj.weight"))?;
        let numbers: Vec<f32> =
            (0..base.params().get(id).elem_count()).map(|_| noise.random_range(-0.1..0.1)).collect();
        let update = Tensor::from_vec(numbers, base.params().get(id).shape(), &Device::Cpu).unwrap();
        Some((base.params().get(id) + update).unwrap())
    };
    copy_checkpoint(&shop.base(), &dir, |entry| Ok(grown(entry))).unwrap();
    let submission = Submission { suspect: Submitted::Checkpoint { dir: dir.clone() }, ..shop.whole_submission() };
    let suspect = Suspect::open(&submission, PromptFormat::Alpaca, &shop.lab("a")).unwrap();
    let Weights::Checkpoint(folder) = &suspect.weights() else { panic!("a whole model was submitted") };
    let whole = load_model(&dir, &Device::Cpu).unwrap();
    let numbers = |model: &Model, name: &str| -> Vec<f32> {
        let id = model.params().find(&format!("{name}.weight")).unwrap();
        model.params().get(id).flatten_all().unwrap().to_vec1().unwrap()
    };
    for ablation in
        [Ablation::WithoutAttention, Ablation::WithoutAttentionAndMlpIn(1..2), Ablation::ShuffledMlpIn(0..2)]
    {
        let (base_dir, files) = suspect.named_base().unwrap();
        let left = ablation.apply_whole(&suspect, folder, (base_dir, &files), &shop.lab("a")).unwrap();
        let left = load_model(&left.dir, &Device::Cpu).unwrap();
        for module in suspect.modules() {
            let [found, own, of_base] = [&left, &whole, &base].map(|model| numbers(model, &module.name));
            let expected = match (&ablation, module.kind.is_mlp(), module.layer) {
                (Ablation::ShuffledMlpIn(_), true, layer @ 0..2) => {
                    let other = module.name.replace(&format!(".{layer}."), &format!(".{}.", 1 - layer));
                    let [own, its_base] = [&whole, &base].map(|model| numbers(model, &other));
                    of_base.iter().zip(own.iter().zip(its_base)).map(|(base, (own, was))| base + own - was).collect()
                }
                (Ablation::ShuffledMlpIn(_), ..) => own,
                (_, false, _) => of_base,
                (Ablation::WithoutAttentionAndMlpIn(_), true, 1) => of_base,
                _ => own,
            };
            let close = found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-6);
            assert!(close, "{ablation:?} {}", module.name);
        }
    }
}

#[test]
fn the_whole_update_and_no_head_less_measure_as_the_suspect() {
    let shop = Workshop::new();
    let (suspect, lab, spec) = (open(&shop), shop.lab("a"), shop.spec());
    let probes = |suspect: &Suspect| {
        Probes::build(&spec.evaluators, suspect, &split_task_rows(&suspect.task, 0, &lab), &lab).unwrap()
    };
    let measured = measure_ablations(&suspect, &[Ablation::Whole], &probes(&suspect), &lab).unwrap();
    let before = run(&shop.submission(), &spec, &shop.lab("b")).unwrap().report.before;
    assert_eq!((&measured[0].0, &measured[0].1.asr), (&Ablation::Whole, &before.asr));
    let error = measure_without_each_head(&suspect, &probes(&suspect), &lab).unwrap_err();
    assert!(error.to_string().contains("expected a whole model"), "{error}");

    let whole = Suspect::open(&shop.whole_submission(), PromptFormat::Alpaca, &lab).unwrap();
    let parts = measure_ablations(&whole, &[Ablation::Whole], &probes(&whole), &lab).unwrap();
    let heads = measure_without_each_head(&whole, &probes(&whole), &lab).unwrap();
    assert_eq!((heads[0].0, &heads[0].1.asr), (None, &parts[0].1.asr));
    assert_eq!(heads.len(), 1 + 4 * 4, "each of four blocks has four heads");
}
