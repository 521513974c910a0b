//! What is wanted and what is seen, to the plan that is expected: one file each, read by people first.
//!
//! `FLOCKER_UPDATE_SCENARIOS=1 cargo test -p flocker-plan --test scenarios`
//! rewrites what is expected; read the difference before it is committed.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

#[path = "support/scenario.rs"]
mod scenario;
#[path = "support/walk.rs"]
mod walk;

use std::fmt::Write as _;
use std::fs;
use std::num::NonZero;
use std::path::Path;

use flocker_model::{ClusterState, Deployment};
use flocker_plan::{
    Action, Plan, Policy, Undo, Waiting, Workers, check, plan, plan_by, promote, reclaim, undo,
};

use scenario::Ask;
use scenario::Scenario;
use walk::settle;

/// How many turns a plan may take to bring about what it can.
const TURNS: usize = 5;

#[test]
fn every_scenario_has_the_plan_that_is_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= 110, "only {} scenarios were found", paths.len());
    let mut wrong = String::new();
    for path in &paths {
        check(path, &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn check(path: &Path, wrong: &mut String) {
    let name = path.file_stem().unwrap().to_string_lossy();
    let scenario: Scenario = fs::read_to_string(path).unwrap().parse().unwrap();
    let Scenario {
        desired,
        actual,
        policy,
        ask,
        given,
        expected,
    } = &scenario;
    let answer = || match ask {
        Ask::Deploy | Ask::Hints => Asked::of(plan(desired, actual, policy)),
        Ask::Reclaim => Asked::of(reclaim(desired, actual, policy)),
        Ask::Promote { dataset, on } => Asked::of(promote(desired, actual, policy, *dataset, on)),
        Ask::Undo { application, on } => undone(undo(desired, actual, policy, application, on.as_ref())),
    };
    let Asked { plan: made, besides } = answer();
    if let Err(violation) = check::plan(&made, desired, actual) {
        writeln!(wrong, "{name}: {violation}").unwrap();
    }
    assert_eq!(made, answer().plan, "{name}: planned twice");
    if let Ask::Deploy | Ask::Hints = ask {
        let one = NonZero::<usize>::MIN;
        let shared = Workers::new(one.saturating_add(2), one);
        let together = plan_by(shared, desired, actual, policy);
        assert_eq!(made, together, "{name}: planned in three shares");
    }
    let mut found = written(&made);
    found.push_str(&besides);
    match ask {
        Ask::Deploy => found.push_str(&follow(&name, desired, actual, policy, wrong)),
        // What a person has asked for is done once.
        Ask::Hints | Ask::Reclaim | Ask::Promote { .. } | Ask::Undo { .. } => {
            for refusal in made.refused() {
                writeln!(found, "   hint: {}", refusal.hint()).unwrap();
            }
        }
    }
    let found = found.replace("00000000-0000-0000-0000-00000000000", "d");
    if found == *expected {
        return;
    }
    if std::env::var_os("FLOCKER_UPDATE_SCENARIOS").is_some() {
        fs::write(path, format!("{given}\n\nplan\n{found}")).unwrap();
    } else {
        writeln!(wrong, "{name}: expected\n{expected}\nfound\n{found}").unwrap();
    }
}

/// What was asked for: a plan, and what is said besides.
struct Asked {
    plan: Plan,
    besides: String,
}

impl Asked {
    fn of(plan: Plan) -> Self {
        Self {
            plan,
            besides: String::new(),
        }
    }
}

fn undone(undo: Undo) -> Asked {
    match undo {
        Undo::Restore { plan, left } => Asked {
            plan,
            besides: if left.is_empty() {
                String::new()
            } else {
                format!("left in the trash on {}\n", flocker_plan::blocked::list(&left))
            },
        },
        Undo::MoveBack { to, from } => Asked {
            plan: Plan::default(),
            besides: format!("moves back from {from} to {to}\n"),
        },
        Undo::Nothing => Asked {
            plan: Plan::default(),
            besides: "nothing to undo\n".into(),
        },
    }
}

/// Carries out plan after plan on a value and says how it ends.
fn follow(
    name: &str,
    desired: &Deployment,
    actual: &ClusterState,
    policy: &Policy,
    wrong: &mut String,
) -> String {
    let mut state = actual.clone();
    let (last, turns) = match settle(desired, policy, &mut state, TURNS) {
        Ok(end) => end,
        Err(error) => {
            writeln!(wrong, "{name}: {error}").unwrap();
            return String::new();
        }
    };
    if last.waiting().iter().any(Waiting::is_for_a_copy) {
        writeln!(wrong, "{name}: waits for a copy that nobody makes").unwrap();
    }
    if last.is_settled() {
        format!("settled after {turns} turns\n")
    } else {
        format!("nothing left to do after {turns} turns\n")
    }
}

/// Writes a plan: a line for each step, what it comes after below it, then what is left undone.
fn written(plan: &Plan) -> String {
    let mut text = String::new();
    for step in plan.steps() {
        let object = match &step.action {
            Action::Push {
                dataset,
                snapshot,
                base,
                to,
            } => {
                let base = base
                    .as_ref()
                    .map_or("full".into(), |base| format!("from {}", base.name));
                format!("{}@{snapshot} to {to}, {base}", dataset.id)
            }
            Action::Release {
                dataset,
                epoch,
                to,
                last,
            } => {
                format!("{dataset} for epoch {epoch} to {to}, last {last}")
            }
            Action::Acquire {
                dataset,
                epoch,
                from,
                guid: _,
            } => {
                format!("{dataset} as epoch {epoch} from {from}")
            }
            Action::Resize { dataset, to } => {
                format!(
                    "{dataset} to {}",
                    to.map_or("no limit".into(), |to| to.to_string())
                )
            }
            other @ (Action::Create { .. }
            | Action::Take { .. }
            | Action::Renounce { .. }
            | Action::Destroy { .. }
            | Action::Trim { .. }
            | Action::DropPartial { .. }
            | Action::Restore { .. }
            | Action::EmptyTrash { .. }
            | Action::Prepare { .. }
            | Action::Start { .. }
            | Action::Stop { .. }
            | Action::Route { .. }) => other.to_string(),
        };
        writeln!(text, "{} {} {object}", step.actor, step.action.verb()).unwrap();
        for need in &step.needs {
            writeln!(text, "    after {} ({:?})", need.fact, need.because).unwrap();
        }
    }
    for waiting in plan.waiting() {
        writeln!(text, "waiting: {waiting}").unwrap();
    }
    for refusal in plan.refused() {
        writeln!(text, "refused: {refusal}").unwrap();
    }
    for kept in plan.kept() {
        let application = kept.application.as_ref().map_or("nobody", |name| name.as_str());
        let nodes = flocker_plan::blocked::list(&kept.nodes);
        writeln!(
            text,
            "kept: {} of {application} on {nodes}, {}",
            kept.dataset, kept.used
        )
        .unwrap();
    }
    text
}
