//! All defences against all attacks: one cell for each trigger, seed, defence and form. What is finished is
//! kept, cell by cell.

use std::fs;
use std::path::{Path, PathBuf};

use antigen_engine::data::read_json_lines;
use antigen_engine::error::{EngineError, Result};
use antigen_engine::lab::{Lab, PieceKey, sha256_hex};
use antigen_engine::methods::shared::head_pruning::{ChosenHeads, HeadRankerSpec, HeadSet, build_ranker};
use antigen_engine::stage::Stage;
use antigen_models::{Model, Tokenizer, load_model};
use serde::{Deserialize, Serialize};

use super::classifier::{ClassifierShape, fresh_classifier, save_classifier};
use super::defend::{
    ClassifierScores, DefenceSentences, PruneHeadsSpec, TestSentences, choose_by, fine_tune_without, measure,
    tune_to_examine,
};
use super::sentences::{Sentence, SentenceSplits, load_sentences, sentences_sha256};
use super::tokenizer::{Encoded, encode, train_tokenizer};
use super::training::{LabelTrainSpec, train_labels};
use super::triggers::{Attacked, TriggerSpec, attack};
use super::w2s_defense::{LossWeights, W2sForm, W2sSpec, ask_teacher, train_student, train_teacher};

/// Everything that decides about the numbers, apart from data and seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifiersSpec {
    /// The classifier.
    pub shape: ClassifierShape,
    /// Tokens of the tokenizer at most.
    pub vocabulary: usize,
    /// The attacker's training, from nothing.
    pub implant: LabelTrainSpec,
    /// Pruning of heads.
    pub prune_heads: PruneHeadsSpec,
    /// The strategies that choose heads.
    pub rankers: Vec<HeadRankerSpec>,
    /// The teacher and its student.
    pub w2s: W2sSpec,
}

impl Default for ClassifiersSpec {
    fn default() -> Self {
        Self {
            shape: ClassifierShape::default(),
            vocabulary: 6000,
            implant: LabelTrainSpec::from_nothing(),
            prune_heads: PruneHeadsSpec::default(),
            rankers: HeadRankerSpec::all(),
            w2s: W2sSpec::default(),
        }
    }
}

/// A defence of a poisoned classifier.
#[derive(Debug, Clone, PartialEq)]
pub enum DefenceSpec {
    /// Nothing was ever wrong: trained on clean sentences alone. What defences can hope for.
    NeverPoisoned,
    /// Nothing.
    None,
    /// A fresh head and fine-tuning on clean sentences: the control of every ranker.
    FineTune,
    /// Heads are pruned.
    PruneHeads {
        /// The strategy that chooses them.
        ranker: HeadRankerSpec,
        /// As the released code chooses.
        as_released: bool,
    },
    /// A clean teacher.
    W2s(W2sForm),
}

impl DefenceSpec {
    /// All of them with these rankers, in the order of the table.
    pub fn all(rankers: &[HeadRankerSpec]) -> Vec<Self> {
        let mut all = vec![Self::NeverPoisoned, Self::None, Self::FineTune];
        for ranker in rankers {
            let forms = [false].into_iter().chain(ranker.differs_as_released().then_some(true));
            all.extend(forms.map(|as_released| Self::PruneHeads { ranker: ranker.clone(), as_released }));
        }
        all.extend(W2sForm::ALL.map(Self::W2s));
        all
    }

    /// Name and form, as in tables.
    pub fn name(&self) -> (String, &'static str) {
        match self {
            Self::NeverPoisoned => ("never_poisoned".into(), ""),
            Self::None => ("none".into(), ""),
            Self::FineTune => ("fine_tune".into(), "control"),
            Self::PruneHeads { ranker: HeadRankerSpec::Random {}, .. } => ("prune_random".into(), "control"),
            Self::PruneHeads { ranker, as_released } => {
                (format!("prune_{}", ranker.name()), if *as_released { "as_released" } else { "intended" })
            }
            Self::W2s(W2sForm::Intended) => ("w2s".into(), "intended"),
            Self::W2s(W2sForm::AsReleased) => ("w2s".into(), "as_released"),
            Self::W2s(W2sForm::Control) => ("w2s".into(), "control"),
        }
    }
}

/// One finished measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// The attack.
    pub trigger: TriggerSpec,
    /// Seed of weights, order, poisoned rows and split.
    pub seed: u64,
    /// The defence.
    pub defence: String,
    /// `intended`, `as_released`, `control`, or nothing.
    pub form: String,
    /// Digest of specification, data and tokenizer: cells of another recipe are not compared with these.
    pub recipe: String,
    /// The heads that were pruned, where some could be.
    pub chosen: Option<ChosenHeads>,
    /// The classifier's behaviour in the end.
    pub scores: ClassifierScores,
}

impl Cell {
    /// `trigger/defence/form`, what a caller selects cells by.
    pub fn label(trigger: TriggerSpec, defence: &DefenceSpec) -> String {
        let (name, form) = defence.name();
        format!("{}/{name}/{form}", trigger.name())
    }
}

/// The source of cells: data, settings, and the folder that pieces and cells are kept in.
pub struct Experiment<'a> {
    data: PathBuf,
    spec: ClassifiersSpec,
    clean: SentenceSplits,
    tokenizer_json: String,
    tokenizer: Tokenizer,
    recipe: String,
    lab: &'a Lab,
}

/// The ground that all cells of one trigger and one seed share.
struct Ground {
    trigger: TriggerSpec,
    attacked: Attacked,
    defence: DefenceSentences,
    test: TestSentences,
    lab: Lab,
}

impl<'a> Experiment<'a> {
    /// Reads the data and trains the tokenizer, which all seeds share.
    ///
    /// # Errors
    /// Those of the data.
    pub fn open(data: &Path, spec: ClassifiersSpec, lab: &'a Lab) -> Result<Self> {
        let clean = load_sentences(data)?;
        let tokenizer_json = train_tokenizer(&clean.train, spec.vocabulary)?;
        let tokenizer = Tokenizer::from_bytes(tokenizer_json.as_bytes())?;
        let data_digests = [&clean.train, &clean.dev, &clean.test].map(|sentences| sentences_sha256(sentences));
        let digests = (&spec, data_digests, sha256_hex(tokenizer_json.as_bytes()));
        let recipe =
            sha256_hex(&serde_json::to_vec(&digests).expect("specifications always serialise"))[..16].to_owned();
        Ok(Self { data: data.to_owned(), spec, clean, tokenizer_json, tokenizer, recipe, lab })
    }

    /// Runs every wanted cell that is not among the finished ones of `file`, and appends it there; returns
    /// all wanted ones, in the order of triggers, defences and seeds. `wanted` sees [`Cell::label`].
    ///
    /// # Errors
    /// Those of training and of the disk.
    pub fn run(
        &self,
        file: &Path,
        seeds: u64,
        wanted: &dyn Fn(&str) -> bool,
        finished: &mut dyn FnMut(&Cell),
    ) -> Result<Vec<Cell>> {
        let mut known: Vec<Cell> = if file.exists() { read_json_lines(file, |_: &Cell| Ok(()))? } else { Vec::new() };
        let mut found = Vec::new();
        let defences = DefenceSpec::all(&self.spec.rankers);
        for seed in 1..=seeds {
            for trigger in TriggerSpec::ALL {
                let wanted = defences.iter().filter(|defence| wanted(&Cell::label(trigger, defence)));
                let mut ground = None;
                for defence in wanted {
                    let cell = match known.iter().find(|cell| self.is(cell, trigger, seed, defence)) {
                        Some(cell) => cell.clone(),
                        None => {
                            let ground = match &mut ground {
                                Some(ground) => ground,
                                none => none.insert(self.ground(trigger, seed)?),
                            };
                            let cell = self.cell(ground, defence)?;
                            known.push(cell.clone());
                            write_cells(file, &known)?;
                            finished(&cell);
                            cell
                        }
                    };
                    found.push(cell);
                }
            }
        }
        let order = |cell: &Cell| {
            let place = defences.iter().position(|d| d.name() == (cell.defence.clone(), form_of(&cell.form)));
            (cell.trigger, place, cell.seed)
        };
        found.sort_by_key(order);
        Ok(found)
    }

    fn is(&self, cell: &Cell, trigger: TriggerSpec, seed: u64, defence: &DefenceSpec) -> bool {
        let (name, form) = defence.name();
        let same = cell.defence == name && cell.form == form && cell.trigger == trigger && cell.seed == seed;
        same && cell.recipe == self.recipe
    }

    fn ground(&self, trigger: TriggerSpec, seed: u64) -> Result<Ground> {
        let lab = self.lab.with_seed(seed);
        let mut rng = lab.rng(&format!("classify/poison/{}", trigger.name()));
        let attacked = attack(trigger, &self.clean, &self.data, &mut rng)?;
        // Published is a tenth of the training sentences; the attacker has trained on those, so that accuracy
        // on them says little.
        let (train, validation) = (self.encode(&self.clean.train)?, self.encode(&self.clean.dev)?);
        let defence = DefenceSentences { train, validation };
        let test =
            TestSentences { clean: self.encode(&self.clean.test)?, triggered: self.encode(&attacked.triggered)? };
        Ok(Ground { trigger, attacked, defence, test, lab })
    }

    fn encode(&self, sentences: &[Sentence]) -> Result<Vec<Encoded>> {
        encode(&self.tokenizer, sentences, self.spec.shape.max_tokens)
    }

    fn cell(&self, ground: &Ground, defence: &DefenceSpec) -> Result<Cell> {
        let lab = &ground.lab;
        let mut chosen = None;
        let scores = match defence {
            DefenceSpec::NeverPoisoned => self.measured(&self.implanted(&self.clean.train, lab)?, ground)?,
            DefenceSpec::None => self.measured(&self.implanted(&ground.attacked.train, lab)?, ground)?,
            DefenceSpec::FineTune => self.fine_tuned(ground, &HeadSet::new())?,
            DefenceSpec::PruneHeads { ranker, as_released } => {
                let heads = self.chosen(ground, ranker, *as_released)?;
                let scores = self.fine_tuned(ground, &heads.heads)?;
                chosen = Some(heads);
                scores
            }
            DefenceSpec::W2s(form) => self.taught(ground, *form)?,
        };
        let ((defence, form), recipe) = (defence.name(), self.recipe.clone());
        Ok(Cell { trigger: ground.trigger, seed: lab.seed, defence, form: form.into(), recipe, chosen, scores })
    }

    /// The folder of the classifier that was trained on these sentences, poisoned or not.
    fn implanted(&self, train: &[Sentence], lab: &Lab) -> Result<PathBuf> {
        let spec = &self.spec;
        let tokenizer = sha256_hex(self.tokenizer_json.as_bytes());
        let made_of = (&spec.shape, tokenizer, &spec.implant, sentences_sha256(train), lab.seed);
        lab.piece(&PieceKey::new("classifier", &made_of), |folder| {
            lab.enter(Stage::Implant)?;
            let config = spec.shape.bert_config(self.tokenizer.vocab_size());
            let mut model = fresh_classifier(&config, &mut lab.rng("classify/weights"), lab)?;
            let order = lab.rng("classify/implant-order");
            train_labels(&mut model, &self.encode(train)?, &spec.implant, None, order, lab)?;
            save_classifier(&model, folder)?;
            let tokenizer = folder.join("tokenizer.json");
            fs::write(&tokenizer, &self.tokenizer_json).map_err(EngineError::io(tokenizer))
        })
    }

    fn poisoned(&self, ground: &Ground) -> Result<(PathBuf, Model)> {
        let folder = self.implanted(&ground.attacked.train, &ground.lab)?;
        let model = load_model(&folder, &ground.lab.device)?;
        Ok((folder, model))
    }

    fn measured(&self, folder: &Path, ground: &Ground) -> Result<ClassifierScores> {
        ground.lab.enter(Stage::MeasureAfter)?;
        measure(&load_model(folder, &ground.lab.device)?, &ground.test)
    }

    /// The heads that a ranker chooses. Rankers without a penalty look at the same fine-tuned model, which is
    /// trained once.
    fn chosen(&self, ground: &Ground, ranker: &HeadRankerSpec, as_released: bool) -> Result<ChosenHeads> {
        let (spec, lab) = (&self.spec.prune_heads, &ground.lab);
        let (folder, model) = self.poisoned(ground)?;
        let built = build_ranker(ranker, as_released);
        let penalised = ranker.has_penalty().then_some((ranker, as_released));
        let key = PieceKey::new("examined", &(name_of(&folder), &spec.fine_tune, penalised));
        let tuned = lab.piece(&key, |folder| {
            let tuned = tune_to_examine(&*built, model, &ground.defence, &spec.fine_tune, lab)?;
            save_classifier(&tuned, folder)
        })?;
        choose_by(&*built, &mut load_model(&tuned, &lab.device)?, &ground.defence, spec, lab)
    }

    /// Scores of the poisoned classifier after it has lost these heads and was fine-tuned. Rankers that
    /// choose the same heads share them.
    fn fine_tuned(&self, ground: &Ground, heads: &HeadSet) -> Result<ClassifierScores> {
        let (spec, lab) = (&self.spec.prune_heads.fine_tune, &ground.lab);
        let (folder, model) = self.poisoned(ground)?;
        let key = PieceKey::new("pruned-scores", &(name_of(&folder), spec, heads));
        lab.value(&key, || {
            let model = fine_tune_without(heads, model, &ground.defence, spec, lab)?;
            lab.enter(Stage::MeasureAfter)?;
            measure(&model, &ground.test)
        })
    }

    /// Scores of the student that the clean teacher guided.
    fn taught(&self, ground: &Ground, form: W2sForm) -> Result<ClassifierScores> {
        let (spec, lab, vocabulary) = (&self.spec.w2s, &ground.lab, self.tokenizer.vocab_size());
        let key = PieceKey::new("teacher", &(&self.recipe, lab.seed));
        let teacher = lab.piece(&key, |folder| {
            lab.enter(Stage::Implant)?;
            let teacher = train_teacher(&self.spec.shape, vocabulary, &ground.defence, &spec.teacher, lab)?;
            save_classifier(&teacher, folder)
        })?;
        let guidance = ask_teacher(&load_model(&teacher, &lab.device)?, &ground.defence.train)?;
        let weights = LossWeights::published(ground.trigger);
        let student = self.poisoned(ground)?.1;
        let student = train_student(student, &ground.defence, &guidance, (form, weights), spec, lab)?;
        lab.enter(Stage::MeasureAfter)?;
        measure(&student, &ground.test)
    }
}

/// Pieces are named by what made them.
fn name_of(piece: &Path) -> String {
    piece.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn form_of(form: &str) -> &'static str {
    ["intended", "as_released", "control"].into_iter().find(|known| *known == form).unwrap_or("")
}

/// All lines at once, renamed into place: a broken-off run leaves whole lines.
fn write_cells(file: &Path, cells: &[Cell]) -> Result<()> {
    let lines = cells.iter().map(|cell| serde_json::to_string(cell).expect("cells always serialise") + "\n");
    let partial = file.with_extension("partial");
    fs::write(&partial, lines.collect::<String>()).map_err(EngineError::io(&partial))?;
    fs::rename(&partial, file).map_err(EngineError::io(file))
}
