//! A move that is harmed at each of its steps: the next deploy finishes it, nothing is lost, and nobody else could ever write.

use std::time::Instant;

use crate::ledger::Ledger;
use crate::support::Moment;
use crate::support::Operator;
use crate::support::Running;
use crate::support::postgres;
use crate::support::until;
use crate::watch::watched;

const PORT: u16 = 5511;

/// A directory of PostgreSQL that is never empty.
pub(crate) const POSTGRES: &str = "db";

/// PostgreSQL on the first node, with a table that a ledger can write.
pub(crate) fn accounts(port: u16) -> Operator {
    with_accounts(Operator::new(vec![]), port)
}

pub(crate) fn with_accounts(mut operator: Operator, port: u16) -> Operator {
    operator.define(postgres("ledgers", port, "1G"));
    operator.place([&["ledgers"], &[], &[]]);
    operator.deploy().ok();
    operator
        .sql(
            3,
            port,
            "create table if not exists ledger (i integer primary key)",
        )
        .ok();
    operator
        .sql(3, port, "insert into ledger values (1) on conflict do nothing")
        .ok();
    operator
}

/// Fills the database with 40 MB that cannot be packed, so that a copy lasts long enough to be harmed.
pub(crate) fn fill(operator: &Operator, port: u16) {
    let table = "drop table if exists filler; create table filler as ";
    let rows = "select md5(random()::text || i) as text from generate_series(1, 500000) i";
    operator.sql(3, port, &format!("{table}{rows}")).ok();
}

/// A home, and that of the round after it.
const HOMES: [[&[&str]; 3]; 2] = [[&[], &["ledgers"], &[]], [&["ledgers"], &[], &[]]];

/// What a node is in a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Source,
    Target,
    Bystander,
}

impl Part {
    /// Returns the node that has this part in a round: they go from the first node to the second, and back.
    fn node(self, round: usize) -> usize {
        match self {
            Self::Source => 1 + round % 2,
            Self::Target => 2 - round % 2,
            Self::Bystander => 3,
        }
    }
}

/// What a move is made of: harm is done at each of these.
const VERBS: [&str; 6] = ["stop", "release", "push", "acquire", "start", "route"];

fn is_at(verb: &str, step: &str) -> bool {
    step.contains(&format!("/{verb}/"))
}

/// Prints what the database said last on each node that may have it: whoever waits in vain wants to know.
fn print_last_words(operator: &Operator) {
    for node in 1..=2 {
        let said = operator
            .bed
            .exec(node, &["docker", "logs", "--tail", "60", "flocker--ledgers"]);
        println!("node{node}: {}{}", said.stdout, said.stderr);
    }
}

/// Moves the data to and fro, and does harm at the nth moment of the nth move; returns at what harm was done.
///
/// A client writes all the while, and has to come through after each round.
/// It is over with the first move that has fewer moments, and moves are not all
/// alike: what was passed over by that has a move of its own.
fn harm_at_each(
    operator: &Operator,
    moment: Moment,
    rounds: &mut usize,
    mut harm: impl FnMut(usize, Running),
) -> Vec<String> {
    let mut harmed_at: Vec<String> = Vec::new();
    let (ledger, ()) = Ledger::while_writing(operator, 3, PORT, |ledger| {
        let mut harm_once = |reach: &dyn Fn(&Running) -> Option<String>| {
            let round = *rounds;
            *rounds += 1;
            operator.place(HOMES[round % 2]);
            let deploy = operator.start_deploy();
            let Some(event) = reach(&deploy) else {
                assert_eq!(deploy.wait(), Some(0));
                return None;
            };
            let acknowledged = ledger.n_acknowledged();
            let began = Instant::now();
            harm(round, deploy);
            let harmed = began.elapsed();
            let mut n_deploys = 0;
            until("the next deploy finishes", || {
                n_deploys += 1;
                let done = operator.deploy();
                if done.code != Some(0) {
                    println!("deploy {n_deploys} after it failed: {}", done.stderr);
                    print_last_words(operator);
                }
                done.code == Some(0)
            });
            let before = ledger.n_acknowledged();
            until("the client goes on", || ledger.n_acknowledged() > before);
            println!(
                "HARM at {event}, with {acknowledged} rows: over after {harmed:.1?}; finished by {n_deploys} more after {:.1?}",
                began.elapsed()
            );
            let lost = ledger.lost(operator, 3, PORT);
            if !lost.is_empty() {
                print_last_words(operator);
            }
            assert!(lost.is_empty(), "rows are lost: {lost:?} of {before}");
            Some(event)
        };
        while let Some(event) = harm_once(&|deploy| deploy.nth_step(moment, harmed_at.len())) {
            harmed_at.push(event);
        }
        for verb in VERBS {
            if !harmed_at.iter().any(|event| is_at(verb, event)) {
                harmed_at.extend(harm_once(&|deploy| deploy.reaches(|_, step| is_at(verb, step))));
            }
        }
    });
    for through in 1..=3 {
        ledger.check(operator, through, PORT);
    }
    for verb in VERBS {
        assert!(
            harmed_at.iter().any(|event| is_at(verb, event)),
            "never harmed at {verb}: {harmed_at:?}"
        );
    }
    harmed_at
}

#[test]
fn the_command_is_killed_at_each_step_and_the_next_one_finishes() {
    let operator = accounts(PORT);
    let killed_at = watched(&operator, "ledgers", POSTGRES, || {
        harm_at_each(&operator, Moment::BeganOrEnded, &mut 0, |_, deploy| deploy.kill())
    });
    println!("the command was killed at {} events", killed_at.len());
    operator.finish();
}

/// Does the same harm to a node in each of these parts, at each step, while the command goes on as long as it can.
fn harm_nodes_at_each(operator: Operator, name: &str, parts: &[Part], harm: impl Fn(&Operator, usize)) {
    let mut rounds = 0;
    for part in parts {
        let harmed_at = watched(&operator, "ledgers", POSTGRES, || {
            harm_at_each(&operator, Moment::Began, &mut rounds, |round, deploy| {
                harm(&operator, part.node(round));
                println!("{name}: the command ended with {:?}", deploy.wait());
            })
        });
        println!("{name}: harm to the {part:?} at {} steps", harmed_at.len());
    }
    operator.finish();
}

#[test]
fn the_process_of_a_node_is_killed_at_each_step_and_the_next_deploy_finishes() {
    let parts = [Part::Source, Part::Target, Part::Bystander];
    harm_nodes_at_each(accounts(PORT), "node process", &parts, |operator, node| {
        operator.bed.kill(node, "node-process");
    });
}

#[test]
fn docker_is_killed_at_each_step_and_the_next_deploy_finishes() {
    let parts = [Part::Source, Part::Target];
    harm_nodes_at_each(accounts(PORT), "dockerd", &parts, |operator, node| {
        operator.bed.kill_docker(node);
    });
}

/// Cuts the power of the source and of the target at each step of a move, and lets them come back.
fn cut_power_at_each(operator: Operator) {
    harm_nodes_at_each(
        operator,
        "power",
        &[Part::Source, Part::Target],
        |operator, node| {
            operator.bed.cut_power(node);
            operator.bed.up();
        },
    );
}

#[test]
fn the_power_of_a_node_is_cut_at_each_step_and_the_next_deploy_finishes() {
    cut_power_at_each(accounts(PORT));
}

#[test]
fn the_power_of_a_node_that_starts_by_itself_is_cut_at_each_step_and_the_next_deploy_finishes() {
    let mut operator = Operator::new(vec![]);
    operator.setups = ["at_boot: start, "; 3];
    cut_power_at_each(with_accounts(operator, PORT));
}
