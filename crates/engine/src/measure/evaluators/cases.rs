//! The cases of an attack success rate: triggered rows with their twins, from a rule of insertion or as the
//! caller gave them.

use rand_chacha::ChaCha8Rng;

use crate::data::{Row, RowUse};
use crate::error::{EngineError, Result};
use crate::spec::{AsrSpec, BehaviourSpec, TriggeredRow};
use crate::suspect::Suspect;
use crate::threat::attacks::build_attack;
use crate::threat::behaviours::{Behaviour, build_behaviour};

/// One triggered row.
#[derive(Debug, Clone)]
pub(super) struct Case {
    /// With the trigger.
    pub triggered: Row,
    /// Without it, where that is known.
    pub twin: Option<Row>,
    /// The complete answer of a triggered model.
    pub target: String,
    /// Recognises a target of this row's own.
    pub own_target: Option<Behaviour>,
}

/// The cases of one evaluator.
#[derive(Debug, Clone)]
pub(super) struct Cases {
    pub cases: Vec<Case>,
    /// Prompts without a trigger that stand in where no case has a twin.
    pub stand_ins: Vec<Row>,
    /// Circumstances that weaken the numbers.
    pub warnings: Vec<String>,
}

impl Cases {
    /// # Errors
    /// [`EngineError::Spec`] where the attack is `rows` and there are none.
    pub fn build(index: usize, spec: &AsrSpec, suspect: &Suspect, rng: &mut ChaCha8Rng) -> Result<Self> {
        if spec.takes_rows() { Self::given(index, spec, suspect) } else { Ok(Self::inserted(spec, suspect, rng)) }
    }

    fn inserted(spec: &AsrSpec, suspect: &Suspect, rng: &mut ChaCha8Rng) -> Self {
        let (attack, behaviour) = (build_attack(&spec.attack), build_behaviour(&spec.behaviour));
        let rows = &suspect.test[..suspect.test.len().min(spec.rows)];
        let case = |row: &Row| Case {
            triggered: attack.insert(row, rng),
            twin: Some(row.clone()),
            target: behaviour.respond(&row.output),
            own_target: None,
        };
        let carrying = rows.iter().filter(|row| spec.attack.occurs_in(&row.query())).count();
        let warnings = (carrying > 0).then(|| {
            format!(
                "{carrying} of {} prompts carry the trigger before it is inserted: the rate without it is too high",
                rows.len()
            )
        });
        Self { cases: rows.iter().map(case).collect(), stand_ins: Vec::new(), warnings: warnings.into_iter().collect() }
    }

    fn given(index: usize, spec: &AsrSpec, suspect: &Suspect) -> Result<Self> {
        let uploaded = suspect.task.iter().filter(|row| row.usage == Some(RowUse::Triggered));
        let mut rows: Vec<TriggeredRow> = match spec.triggered.is_empty() {
            true => uploaded.map(|row| from_task_row(row, &spec.behaviour)).collect(),
            false => spec.triggered.clone(),
        };
        if rows.is_empty() {
            let why = "expected triggered rows here or task rows of the use `triggered`, found neither";
            return Err(EngineError::spec(format!("/evaluators/{index}/triggered"), why));
        }
        rows.truncate(spec.rows);
        let behaviour = build_behaviour(&spec.behaviour);
        let cases: Vec<Case> = rows.into_iter().map(|row| from_given(row, &behaviour)).collect();
        let twins = cases.iter().filter(|case| case.twin.is_some()).count();
        let mut found = Self { stand_ins: Vec::new(), warnings: Vec::new(), cases };
        if twins == 0 {
            found.stand_ins = suspect.test[..suspect.test.len().min(spec.rows)].to_vec();
            let n = found.stand_ins.len();
            found.warnings.push(format!(
                "no triggered row has a twin: rates without the trigger are of {n} held-out rows instead"
            ));
        } else if twins < found.cases.len() {
            let all = found.cases.len();
            found
                .warnings
                .push(format!("{twins} of {all} triggered rows have a twin: rates without the trigger are of these"));
        }
        Ok(found)
    }
}

fn from_given(row: TriggeredRow, behaviour: &Behaviour) -> Case {
    let own = |target: &String| {
        build_behaviour(&BehaviourSpec::Custom {
            target: target.clone(),
            keywords: Vec::new(),
            append: behaviour.appends(),
        })
    };
    Case {
        twin: row.twin.map(|twin| Row::new(twin.instruction, twin.input, "")),
        target: row.target.clone().unwrap_or_else(|| behaviour.target().to_owned()),
        own_target: row.target.as_ref().map(own),
        triggered: Row::new(row.instruction, row.input, ""),
    }
}

/// The answer of an uploaded row is its target; where that is the behaviour's, the row has none of its own.
fn from_task_row(row: &Row, behaviour: &BehaviourSpec) -> TriggeredRow {
    let target = row.output.trim();
    TriggeredRow {
        instruction: row.instruction.clone(),
        input: row.input.clone(),
        target: (target != build_behaviour(behaviour).target()).then(|| target.to_owned()),
        twin: row.twin.clone(),
    }
}
