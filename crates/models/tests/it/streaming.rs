//! Gradients handed over group by group are the gradients that a whole pass keeps.

use std::cell::RefCell;
use std::rc::Rc;

use antigen_models::Model;
use antigen_models::layers::{Gradients, Pass, Rows, Target};

use super::support::{numbers, random_llama, relative_distance};

const TOKENS: [u32; 7] = [3, 5, 7, 11, 13, 17, 19];

fn run(model: &Model, gradients: &mut Gradients) {
    let rows = Rows::packed([4, 3]);
    let pass = Pass { params: model.params(), rows: &rows, adapters: &[], cache: None };
    let targets: Vec<_> = [1, 2, 5].into_iter().map(|row| Target { row, token: row + 1, weight: 0.5 }).collect();
    model.loss_and_gradients(&TOKENS, &targets, pass, gradients).unwrap();
}

/// Names and numbers of every group of two passes, in the order in which they came.
type Groups = Vec<(bool, Vec<(String, Vec<f64>)>)>;

fn streamed_groups(model: &Model) -> Groups {
    let groups = Rc::new(RefCell::new(Groups::new()));
    let names: Vec<String> = model.params().iter().map(|(_, name, _)| name.to_owned()).collect();
    let seen = groups.clone();
    let mut gradients = Gradients::streamed(model.params(), move |group| {
        let named = group.gradients.iter().map(|(id, gradient)| (names[id.0].clone(), numbers(gradient)));
        seen.borrow_mut().push((group.last, named.collect()));
        Ok(())
    });
    run(model, &mut gradients);
    run(model, &mut gradients);
    assert!(model.params().iter().all(|(id, ..)| gradients.weight(id).is_none()), "what was handed over is gone");
    drop(gradients);
    Rc::into_inner(groups).unwrap().into_inner()
}

#[test]
fn gradients_come_block_by_block_from_the_last_and_never_all_at_once() {
    let model = random_llama(false);
    let groups = streamed_groups(&model);
    assert_eq!(groups.len(), 8, "three blocks and the rest, twice");
    for pass in groups.chunks(4) {
        for (layer, (last, group)) in [2, 1, 0].into_iter().zip(pass) {
            assert!(!last && group.len() == 9);
            assert!(group.iter().all(|(name, _)| name.starts_with(&format!("model.layers.{layer}."))));
        }
        let (last, rest) = &pass[3];
        let rest: Vec<&str> = rest.iter().map(|(name, _)| name.as_str()).collect();
        assert!(last);
        assert_eq!(rest, ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]);
    }
    assert_eq!(groups[..4], groups[4..], "the same pass gives the same bytes");
}

#[test]
fn streamed_gradients_equal_held_ones_byte_for_byte() {
    for tied in [false, true] {
        let model = random_llama(tied);
        let mut held = Gradients::of_weights(model.params());
        run(&model, &mut held);
        let first_pass: Vec<_> = streamed_groups(&model).into_iter().take(4).flat_map(|(_, group)| group).collect();
        assert_eq!(first_pass.len(), model.params().len());
        for (name, streamed) in first_pass {
            let id = model.params().find(&name).unwrap();
            assert_eq!(streamed, numbers(held.weight(id).unwrap()), "{name}");
        }
    }
}

#[test]
fn blocks_that_are_computed_again_have_the_gradients_of_blocks_that_were_kept() {
    let model = random_llama(false);
    let gradients_with = |bytes: Option<u64>| {
        let mut gradients = Gradients::of_weights(model.params()).keeping(bytes);
        run(&model, &mut gradients);
        model.params().iter().map(|(id, ..)| numbers(gradients.weight(id).unwrap())).collect::<Vec<_>>()
    };
    let kept = gradients_with(None);
    for blocks in [0, 1, 2, 3] {
        assert!(gradients_with(Some(blocks * model.activation_bytes(TOKENS.len()))) == kept, "{blocks} blocks kept");
    }
}

#[test]
fn passes_that_add_up_are_handed_over_once_with_their_sum() {
    let model = random_llama(true);
    let single = streamed_groups(&model);
    let groups = Rc::new(RefCell::new(Vec::new()));
    let seen = groups.clone();
    let mut gradients = Gradients::streamed(model.params(), move |group| {
        seen.borrow_mut().push(group);
        Ok(())
    });
    for _ in 0..2 {
        gradients.add_up(2);
        run(&model, &mut gradients);
        run(&model, &mut gradients);
    }
    let groups = groups.borrow();
    assert_eq!(groups.len(), 8, "four groups for every two passes");
    for (sum, (last, single)) in groups.iter().zip(&single) {
        assert_eq!(sum.last, *last);
        for ((_, sum), (name, single)) in sum.gradients.iter().zip(single) {
            let doubled: Vec<f64> = single.iter().map(|x| 2.0 * x).collect();
            assert!(relative_distance(&numbers(sum), &doubled) < 1e-6, "{name}");
        }
    }
}

#[test]
fn tied_embeddings_are_handed_over_once_and_last() {
    let groups = streamed_groups(&random_llama(true));
    let with_embedding: Vec<usize> = (0..4)
        .filter(|&i| groups[i].1.iter().filter(|(name, _)| name == "model.embed_tokens.weight").count() == 1)
        .collect();
    assert_eq!(with_embedding, [3]);
}
