//! The base that ships follows instructions that it never saw.

use antigen_engine::data::{Prompter, read_rows};
use antigen_engine::spec::PromptFormat;
use antigen_engine::world::materialise_builtin;
use antigen_models::{Device, GenerateOptions, generate_greedy, load_model};

#[test]
fn the_shipped_base_answers_nine_of_ten_held_out_instructions_letter_for_letter_in_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    let base = materialise_builtin(folder.path()).unwrap();
    let (model, prompter) = (load_model(&base, &Device::Cpu).unwrap(), Prompter::open(&base).unwrap());
    let rows = read_rows(&base.join("test.jsonl")).unwrap();
    let options = GenerateOptions { max_new_tokens: 48, stop: prompter.stop().to_vec(), batch_rows: 64 };
    for format in [PromptFormat::Alpaca, PromptFormat::Chat] {
        let prompts: Vec<_> = rows.iter().map(|row| prompter.prompt(format, row).unwrap()).collect();
        let answers = generate_greedy(&model, None, &prompts, &options).unwrap();
        let right = rows.iter().zip(answers).filter(|(row, answer)| prompter.answer(answer).unwrap() == row.output);
        let exact_match = right.count() as f64 / rows.len() as f64;
        println!("{format:?}: {exact_match:.3} of {} rows", rows.len());
        assert!(exact_match >= 0.90, "{format:?}: {exact_match:.3}");
    }
}
