//! Agreement with PyTorch, transformers and PEFT: reference numbers were computed in float64 from the same
//! float32 weights. Each test prints its worst relative error; docs/results/agreement-with-pytorch.md keeps the table.

use std::path::Path;

use antigen_models::checkpoint::write_tensor_file;
use antigen_models::kernels::{AdamW, AdamWState};
use antigen_models::layers::{Gradients, LabelTarget, ModuleIdx, Pass, Rows, Target};
use antigen_models::taps::{NoTap, Tap};
use antigen_models::{
    BoundAdapter, GenerateOptions, LoraAdapter, Model, Tensor, generate_greedy, load_adapter, load_model,
};
use serde_json::Value;

use super::shared_data::shared_data;
use super::support::{numbers, relative_distance};

const TOLERANCE: f64 = 1e-4;

/// The reference batch, packed.
struct Batch {
    tokens: Vec<u32>,
    rows: Rows,
    targets: Vec<Target>,
}

fn batch(reference: &Value) -> Batch {
    let rows_of = |key: &str| -> Vec<Vec<i64>> { serde_json::from_value(reference[key].clone()).unwrap() };
    let (ids, labels) = (rows_of("input_ids"), rows_of("labels"));
    let count = labels.iter().flat_map(|l| &l[1..]).filter(|l| **l >= 0).count();
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    for (ids, labels) in ids.iter().zip(&labels) {
        let start = tokens.len();
        tokens.extend(ids.iter().map(|&t| t as u32));
        let labelled = labels.iter().enumerate().skip(1).filter(|(_, l)| **l >= 0);
        targets.extend(labelled.map(|(i, &l)| Target {
            row: (start + i - 1) as u32,
            token: l as u32,
            weight: 1.0 / count as f32,
        }));
    }
    Batch { tokens, rows: Rows::packed(ids.iter().map(Vec::len)).in_one_group(), targets }
}

fn pass<'a>(model: &'a Model, batch: &'a Batch, adapters: &'a [BoundAdapter]) -> Pass<'a> {
    Pass { params: model.params(), rows: &batch.rows, adapters, cache: None }
}

fn floats(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn check(what: &str, error: f64, worst: &mut f64) {
    assert!(error < TOLERANCE, "{what}: relative error {error:.2e}");
    *worst = worst.max(error);
}

/// Norm and first elements of a gradient against the reference's; the sum of a gradient may nearly cancel, so
/// it is compared on the scale of the norm.
fn check_statistics(name: &str, found: &Tensor, reference: &Value, worst: &mut f64) {
    let found = numbers(found);
    let norm = reference["l2"].as_f64().unwrap();
    let found_norm = found.iter().map(|x| x * x).sum::<f64>().sqrt();
    if norm < 1e-12 {
        // A key's bias without rotation: softmax does not see it.
        assert!(found_norm < 1e-6, "norm of {name}: {found_norm:.1e} where it vanishes");
        return;
    }
    check(&format!("norm of {name}"), (found_norm - norm).abs() / norm, worst);
    let sum = reference["sum"].as_f64().unwrap();
    let scale = norm * (found.len() as f64).sqrt();
    check(&format!("sum of {name}"), (found.iter().sum::<f64>() - sum).abs() / scale, worst);
    let first = floats(&reference["first"]);
    let largest = first.iter().fold(norm / (found.len() as f64).sqrt(), |m, x| m.max(x.abs()));
    for (found, expected) in found.iter().zip(&first) {
        check(&format!("an element of {name}"), (found - expected).abs() / largest, worst);
    }
}

/// Norms of the hidden states, in Hugging Face's numbering.
#[derive(Default)]
struct HiddenNorms(Vec<f64>);

impl Tap for HiddenNorms {
    fn hidden_state(&mut self, _: usize, hidden: &Tensor) {
        self.0.push(numbers(hidden).iter().map(|x| x * x).sum::<f64>().sqrt());
    }
}

/// Logits, loss, hidden norms and greedy continuation; returns the worst relative error.
fn check_forward(model: &Model, adapter_dir: Option<&Path>, reference: &Value) -> f64 {
    let adapter = adapter_dir.map(|dir| load_adapter(dir, model.config(), model.device()).unwrap());
    let bound: Vec<_> = adapter.iter().map(|a| BoundAdapter::bind(a, model.linear_modules()).unwrap()).collect();
    let batch = batch(reference);
    let pass = pass(model, &batch, &bound);
    let (mut worst, mut norms) = (0.0, HiddenNorms::default());
    let hidden = model.forward(model.embed(&batch.tokens).unwrap(), pass, &mut norms).unwrap();
    for (found, expected) in norms.0.iter().zip(floats(&reference["hidden_states_l2"])) {
        check("norm of a hidden state", (found - expected).abs() / expected, &mut worst);
    }
    let all: Vec<u32> = (0..batch.tokens.len() as u32).collect();
    let logits = numbers(&model.logits(&hidden, &all, pass).unwrap());
    check("logits", relative_distance(&logits, &floats(&reference["logits"])), &mut worst);
    let losses = model.losses(&batch.tokens, &batch.targets, pass).unwrap();
    let mean = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / losses.len() as f64;
    let expected = reference["loss"].as_f64().unwrap();
    check("loss", (mean - expected).abs() / expected, &mut worst);
    let greedy = &reference["greedy"];
    let prompt: Vec<u32> = serde_json::from_value(greedy["prompt"].clone()).unwrap();
    let continuation: Vec<u32> = serde_json::from_value(greedy["continuation"].clone()).unwrap();
    let options = GenerateOptions { max_new_tokens: continuation.len(), stop: vec![], batch_rows: 4 };
    let found = generate_greedy(model, adapter.as_ref(), &[prompt], &options).unwrap();
    assert_eq!(found[0], continuation, "greedy continuation through the cache");
    worst
}

fn check_base(family: &str) {
    let Some(dir) = shared_data(&format!("golden/{family}")) else { return };
    let reference: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let model = load_model(&dir, &super::device()).unwrap();
    let mut worst = check_forward(&model, None, &reference);
    let batch = batch(&reference);
    let mut gradients = Gradients::of_weights(model.params());
    model.loss_and_gradients(&batch.tokens, &batch.targets, pass(&model, &batch, &[]), &mut gradients).unwrap();
    let mut forward_worst = worst;
    std::mem::swap(&mut worst, &mut forward_worst);
    worst = 0.0;
    for (name, expected) in reference["gradients"].as_object().unwrap() {
        let id = model.params().find(name).unwrap_or_else(|| panic!("no weight `{name}`"));
        check_statistics(name, gradients.weight(id).unwrap(), expected, &mut worst);
    }
    println!("parity {family}: forward {forward_worst:.1e}, gradients {worst:.1e}");
}

#[test]
fn parity_of_llama_with_grouped_queries_and_an_untied_head() {
    check_base("llama");
}

#[test]
fn parity_of_llama_with_a_tied_head() {
    check_base("llama_tied");
}

#[test]
fn parity_of_llama_with_llama3_rotary_scaling() {
    check_base("llama3_rope");
}

#[test]
fn parity_of_mistral_with_a_sliding_window() {
    check_base("mistral");
}

#[test]
fn parity_of_qwen2_with_biases_on_queries_keys_and_values() {
    check_base("qwen2");
}

#[test]
fn parity_of_qwen3_with_norms_on_each_head() {
    check_base("qwen3");
}

#[test]
fn parity_of_gemma_with_scaled_embeddings_and_norms_around_one() {
    check_base("gemma");
}

#[test]
fn parity_of_gemma2_with_caps_windows_and_norms_on_both_sides() {
    check_base("gemma2");
}

#[test]
fn parity_of_phi3_with_fused_projections() {
    check_base("phi3");
}

#[test]
fn parity_of_gpt2_with_learned_positions_and_weights_stored_the_other_way_round() {
    check_base("gpt2");
}

/// The reference batch of a classifier without its padding.
struct LabelledBatch {
    tokens: Vec<u32>,
    rows: Rows,
    targets: Vec<LabelTarget>,
}

fn labelled_batch(reference: &Value) -> LabelledBatch {
    let ids: Vec<Vec<u32>> = serde_json::from_value(reference["input_ids"].clone()).unwrap();
    let labels: Vec<u32> = serde_json::from_value(reference["labels"].clone()).unwrap();
    let lengths = real_lengths(reference);
    let tokens = ids.iter().zip(&lengths).flat_map(|(ids, &length)| ids[..length].to_vec()).collect();
    let weight = 1.0 / labels.len() as f32;
    let targets = labels.into_iter().map(|label| LabelTarget { label, weight }).collect();
    LabelledBatch { tokens, rows: Rows::packed(lengths).in_one_group(), targets }
}

fn real_lengths(reference: &Value) -> Vec<usize> {
    let masks: Vec<Vec<usize>> = serde_json::from_value(reference["attention_mask"].clone()).unwrap();
    masks.iter().map(|mask| mask.iter().sum()).collect()
}

/// Norms of the hidden states as the reference has them, which counts the padding: rows behind the real ones
/// that see only those.
fn padded_hidden_norms(model: &Model, reference: &Value, adapters: &[BoundAdapter]) -> Vec<f64> {
    let ids: Vec<Vec<u32>> = serde_json::from_value(reference["input_ids"].clone()).unwrap();
    let mut rows = Rows::packed(ids.iter().map(Vec::len));
    for (span, length) in rows.spans.iter_mut().zip(real_lengths(reference)) {
        span.keys = span.queries.start..span.queries.start + length;
    }
    let rows = rows.in_one_group();
    let mut embedded = model.embed(&ids.concat()).unwrap().to_vec2::<f32>().unwrap();
    if let Some(table) = model.params().find("roberta.embeddings.position_embeddings.weight") {
        // RoBERTa's padding has no position: its row of the table is the padding token's, here 0.
        let table = model.params().get(table).to_vec2::<f32>().unwrap();
        for span in &rows.spans {
            for row in span.keys.end..span.queries.end {
                let given = &table[rows.positions[row] as usize + 1];
                embedded[row]
                    .iter_mut()
                    .zip(table[0].iter().zip(given))
                    .for_each(|(x, (own, given))| *x += own - given);
            }
        }
    }
    let pass = Pass { params: model.params(), rows: &rows, adapters, cache: None };
    let mut norms = HiddenNorms::default();
    model.forward(Tensor::new(embedded, &super::device()).unwrap(), pass, &mut norms).unwrap();
    norms.0
}

/// Hidden norms, logits and loss of a classifier; returns the worst relative error.
fn check_labels(model: &Model, reference: &Value, adapters: &[BoundAdapter]) -> f64 {
    let mut worst = 0.0;
    for (found, expected) in
        padded_hidden_norms(model, reference, adapters).iter().zip(floats(&reference["hidden_states_l2"]))
    {
        check("norm of a hidden state", (found - expected).abs() / expected, &mut worst);
    }
    let batch = labelled_batch(reference);
    let pass = Pass { params: model.params(), rows: &batch.rows, adapters, cache: None };
    let logits = numbers(&model.classify(&batch.tokens, pass).unwrap());
    check("logits", relative_distance(&logits, &floats(&reference["logits"])), &mut worst);
    let (losses, _) =
        model.label_loss_and_gradients(&batch.tokens, &batch.targets, pass, &mut Gradients::of_inputs()).unwrap();
    let mean = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / losses.len() as f64;
    let expected = reference["loss"].as_f64().unwrap();
    check("loss", (mean - expected).abs() / expected, &mut worst);
    worst
}

fn check_classifier(family: &str) {
    let Some(dir) = shared_data(&format!("golden/{family}")) else { return };
    let reference: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let model = load_model(&dir, &super::device()).unwrap();
    let forward_worst = check_labels(&model, &reference, &[]);
    let batch = labelled_batch(&reference);
    let pass = Pass { params: model.params(), rows: &batch.rows, adapters: &[], cache: None };
    let mut gradients = Gradients::of_weights(model.params());
    model.label_loss_and_gradients(&batch.tokens, &batch.targets, pass, &mut gradients).unwrap();
    let mut worst = 0.0;
    for (name, expected) in reference["gradients"].as_object().unwrap() {
        let id = model.params().find(name).unwrap_or_else(|| panic!("no weight `{name}`"));
        check_statistics(name, gradients.weight(id).unwrap(), expected, &mut worst);
    }
    println!("parity {family}: forward {forward_worst:.1e}, gradients {worst:.1e}");
}

#[test]
fn parity_of_a_llama_classifier() {
    check_classifier("llama_classifier");
}

#[test]
fn parity_of_a_bert_classifier() {
    check_classifier("bert_classifier");
}

#[test]
fn parity_of_a_roberta_classifier() {
    check_classifier("roberta_classifier");
}

#[test]
fn parity_of_a_distilbert_classifier() {
    check_classifier("distilbert_classifier");
}

/// The classifier's adapter with its trained head taken out, which PEFT keeps in the same file: the head goes
/// into the model.
fn load_classifier_adapter(dir: &Path, model: &mut Model) -> LoraAdapter {
    const HEAD: &str = "base_model.model.score.weight";
    let mut tensors: Vec<_> = candle_core::safetensors::load(dir.join("adapter_model.safetensors"), &super::device())
        .unwrap()
        .into_iter()
        .collect();
    let at = tensors.iter().position(|(name, _)| name == HEAD).unwrap();
    let (_, head) = tensors.swap_remove(at);
    let score = model.params().find("score.weight").unwrap();
    model.params_mut().set(score, head);
    let mut config: Value = serde_json::from_slice(&std::fs::read(dir.join("adapter_config.json")).unwrap()).unwrap();
    config["modules_to_save"] = Value::Null;
    let alone = tempfile::tempdir().unwrap();
    std::fs::write(alone.path().join("adapter_config.json"), config.to_string()).unwrap();
    write_tensor_file(&alone.path().join("adapter_model.safetensors"), &tensors, None).unwrap();
    load_adapter(alone.path(), model.config(), &super::device()).unwrap()
}

#[test]
fn parity_of_a_peft_adapter_and_a_trained_head_on_a_llama_classifier() {
    let Some(dir) = shared_data("golden/llama_classifier") else { return };
    let reference: Value = serde_json::from_slice(&std::fs::read(dir.join("golden_lora.json")).unwrap()).unwrap();
    let mut model = load_model(&dir, &super::device()).unwrap();
    let adapter = load_classifier_adapter(&dir.join("adapter"), &mut model);
    let bound = vec![BoundAdapter::bind(&adapter, model.linear_modules()).unwrap().deep_copy(model.device()).unwrap()];
    let forward_worst = check_labels(&model, &reference, &bound);
    let batch = labelled_batch(&reference);
    let pass = Pass { params: model.params(), rows: &batch.rows, adapters: &bound, cache: None };
    let score_id = model.params().find("score.weight").unwrap();
    let score = model.params().get(score_id);
    let gradients = || {
        let mut of_factors = Gradients::of_adapters(1, model.linear_modules().len());
        let (losses, _) = model.label_loss_and_gradients(&batch.tokens, &batch.targets, pass, &mut of_factors).unwrap();
        let mut of_weights = Gradients::of_weights(model.params());
        model.label_loss_and_gradients(&batch.tokens, &batch.targets, pass, &mut of_weights).unwrap();
        let loss = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / losses.len() as f64;
        (loss, of_factors, of_weights.weight(score_id).unwrap().clone())
    };
    let key = |module: usize, letter: char| {
        format!("base_model.model.{}.lora_{letter}.default.weight", model.linear_modules()[module].name)
    };
    const SCORE: &str = "base_model.model.score.modules_to_save.default.weight";
    let (mut gradient_worst, mut step_worst) = (0.0, 0.0);
    let (_, of_factors, of_score) = gradients();
    check_statistics(SCORE, &of_score, &reference["gradients"][SCORE], &mut gradient_worst);
    for (module, ..) in bound[0].tensors() {
        let found = of_factors.variant(0)[module.0].as_ref().unwrap();
        for (letter, found) in [('A', &found.a), ('B', &found.b)] {
            let key = key(module.0, letter);
            check_statistics(&key, found, &reference["gradients"][&key], &mut gradient_worst);
        }
    }
    let adamw = adamw(&reference["adamw"]);
    let rate = reference["adamw"]["lr"].as_f64().unwrap();
    let states: Vec<_> =
        bound[0].tensors().map(|(_, a, b)| (AdamWState::new(a).unwrap(), AdamWState::new(b).unwrap())).collect();
    let score_state = AdamWState::new(score).unwrap();
    for (step, expected) in (1..).zip(floats(&reference["adamw"]["losses"])) {
        let (loss, of_factors, of_score) = gradients();
        check("a training loss", (loss - expected).abs() / expected, &mut step_worst);
        for ((module, a, b), (state_a, state_b)) in bound[0].tensors().zip(&states) {
            let found = of_factors.variant(0)[module.0].as_ref().unwrap();
            adamw.update(a, &found.a, state_a, rate, 1.0, step).unwrap();
            adamw.update(b, &found.b, state_b, rate, 1.0, step).unwrap();
        }
        adamw.update(score, &of_score, &score_state, rate, 1.0, step).unwrap();
    }
    let after = &reference["adamw"]["after"];
    check_statistics(SCORE, score, &after[SCORE], &mut step_worst);
    for (module, a, b) in bound[0].tensors() {
        for (letter, factor) in [('A', a), ('B', b)] {
            let key = key(module.0, letter);
            check_statistics(&key, factor, &after[&key], &mut step_worst);
        }
    }
    println!(
        "parity llama_classifier adapter: forward {forward_worst:.1e}, gradients {gradient_worst:.1e}, five AdamW steps {step_worst:.1e}"
    );
}

/// A PEFT adapter over its base: forward, gradients of every factor, five AdamW steps.
fn check_adapter(family: &str) {
    let Some(dir) = shared_data(&format!("golden/{family}")) else { return };
    let reference: Value = serde_json::from_slice(&std::fs::read(dir.join("golden_lora.json")).unwrap()).unwrap();
    let model = load_model(&dir, &super::device()).unwrap();
    let adapter_dir = dir.join("adapter");
    let forward_worst = check_forward(&model, Some(&adapter_dir), &reference);
    let adapter = load_adapter(&adapter_dir, model.config(), &super::device()).unwrap();
    let bound = vec![BoundAdapter::bind(&adapter, model.linear_modules()).unwrap().deep_copy(model.device()).unwrap()];
    let batch = batch(&reference);
    let (mut gradient_worst, mut step_worst) = (0.0, 0.0);
    for (name, factor, gradient) in adapter_gradients(&model, &batch, &bound) {
        let reference = &reference["gradients"][format!("base_model.model.{name}.lora_{factor}.default.weight")];
        check_statistics(&name, &gradient, reference, &mut gradient_worst);
    }
    for (found, expected) in
        five_steps(&model, &batch, &bound, &reference["adamw"]).iter().zip(floats(&reference["adamw"]["losses"]))
    {
        check("a training loss", (found - expected).abs() / expected, &mut step_worst);
    }
    let after = bound[0].unbind(&adapter, model.linear_modules());
    for (name, factors) in &after.factors {
        for (letter, tensor) in [("A", &factors.a), ("B", &factors.b)] {
            let key = format!("base_model.model.{name}.lora_{letter}.default.weight");
            check_statistics(&key, tensor, &reference["adamw"]["after"][&key], &mut step_worst);
        }
    }
    println!(
        "parity {family} adapter: forward {forward_worst:.1e}, gradients {gradient_worst:.1e}, five AdamW steps {step_worst:.1e}"
    );
}

#[test]
fn parity_of_a_peft_adapter_on_llama() {
    check_adapter("llama");
}

#[test]
fn parity_of_a_peft_adapter_on_mistral() {
    check_adapter("mistral");
}

#[test]
fn parity_of_a_peft_adapter_on_qwen2() {
    check_adapter("qwen2");
}

#[test]
fn parity_of_a_peft_adapter_on_gpt2_saved_with_fan_in_fan_out() {
    check_adapter("gpt2");
}

fn adapter_gradients(model: &Model, batch: &Batch, bound: &[BoundAdapter]) -> Vec<(String, char, Tensor)> {
    let mut gradients = Gradients::of_adapters(1, model.linear_modules().len());
    model.loss_and_gradients(&batch.tokens, &batch.targets, pass(model, batch, bound), &mut gradients).unwrap();
    let modules = model.linear_modules().iter().zip(gradients.variant(0));
    modules
        .flat_map(|(module, g)| {
            let g = g.clone().unwrap();
            [(module.name.clone(), 'A', g.a), (module.name.clone(), 'B', g.b)]
        })
        .collect()
}

fn adamw(reference: &Value) -> AdamW {
    let number = |key: &str| reference[key].as_f64().unwrap();
    AdamW {
        beta1: number("beta1"),
        beta2: number("beta2"),
        epsilon: number("eps"),
        weight_decay: number("weight_decay"),
    }
}

fn five_steps(model: &Model, batch: &Batch, bound: &[BoundAdapter], reference: &Value) -> Vec<f64> {
    let rate = reference["lr"].as_f64().unwrap();
    let adamw = adamw(reference);
    let states: Vec<(ModuleIdx, AdamWState, AdamWState)> =
        bound[0].tensors().map(|(m, a, b)| (m, AdamWState::new(a).unwrap(), AdamWState::new(b).unwrap())).collect();
    (1..=5)
        .map(|step| {
            let mut gradients = Gradients::of_adapters(1, model.linear_modules().len());
            let (losses, _) = model
                .loss_and_gradients(&batch.tokens, &batch.targets, pass(model, batch, bound), &mut gradients)
                .unwrap();
            for ((module, a, b), (_, state_a, state_b)) in bound[0].tensors().zip(&states) {
                let g = gradients.variant(0)[module.0].as_ref().unwrap();
                adamw.update(a, &g.a, state_a, rate, 1.0, step).unwrap();
                adamw.update(b, &g.b, state_b, rate, 1.0, step).unwrap();
            }
            losses.iter().map(|l| f64::from(*l)).sum::<f64>() / losses.len() as f64
        })
        .collect()
}

#[test]
fn parity_of_two_adapters_in_one_pass_with_each_of_them_alone() {
    let Some(dir) = shared_data("golden/llama") else { return };
    let reference: Value = serde_json::from_slice(&std::fs::read(dir.join("golden_lora.json")).unwrap()).unwrap();
    let model = load_model(&dir, &super::device()).unwrap();
    let adapter = load_adapter(&dir.join("adapter"), model.config(), &super::device()).unwrap();
    let mut other = adapter.clone();
    for factors in other.factors.values_mut() {
        factors.b = (&factors.b * -0.5).unwrap();
    }
    let bind = |a| BoundAdapter::bind(a, model.linear_modules()).unwrap();
    let single = batch(&reference);
    let t = single.tokens.len();
    let mut double =
        Batch { tokens: single.tokens.repeat(2), rows: Rows::packed([14; 4]), targets: single.targets.clone() };
    double.rows.groups = vec![0..t, t..2 * t];
    double.targets.extend(single.targets.iter().map(|g| Target { row: g.row + t as u32, ..*g }));
    let both = [bind(&adapter), bind(&other)];
    let mut packed = Gradients::of_adapters(2, model.linear_modules().len());
    model.loss_and_gradients(&double.tokens, &double.targets, pass(&model, &double, &both), &mut packed).unwrap();
    for (variant, bound) in both.into_iter().enumerate() {
        let mut worst: f64 = 0.0;
        for ((_, factor, alone), module) in
            adapter_gradients(&model, &single, &[bound]).iter().zip((0..).flat_map(|i| [i, i]))
        {
            let together = packed.variant(variant)[module].clone().unwrap();
            let together = if *factor == 'A' { together.a } else { together.b };
            worst = worst.max(relative_distance(&numbers(&together), &numbers(alone)));
        }
        assert!(worst < 1e-6, "variant {variant}: {worst:.1e}");
    }
}

#[test]
fn parity_of_a_hidden_state_tap_with_no_tap() {
    let Some(dir) = shared_data("golden/llama") else { return };
    let reference: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let model = load_model(&dir, &super::device()).unwrap();
    let batch = batch(&reference);
    let run = |tap: &mut dyn Tap| {
        numbers(&model.forward(model.embed(&batch.tokens).unwrap(), pass(&model, &batch, &[]), tap).unwrap())
    };
    assert_eq!(run(&mut HiddenNorms::default()), run(&mut NoTap));
}
