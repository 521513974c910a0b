//! Databases that we did not write, moved while a client writes.

use crate::bed::Bed;
use crate::ledger::Ledger;
use crate::support::App;
use crate::support::Operator;
use crate::support::postgres;
use crate::support::redis;
use crate::support::until;

/// PostgreSQL, with a table that a ledger can write.
fn with_ledger(name: &'static str, port: u16) -> Operator {
    let operator = Operator::new(vec![postgres(name, port, "1G")]);
    operator.place([&[name], &[], &[]]);
    operator.deploy().ok();
    operator
        .sql(3, port, "create table ledger (i integer primary key)")
        .ok();
    operator
}

#[test]
fn a_database_moves_while_a_client_writes_through_a_third_node_and_moves_back() {
    let operator = with_ledger("accounts", 5501);
    for (through, number) in (1..=3).zip(1..) {
        operator
            .sql(through, 5501, &format!("insert into ledger values ({number})"))
            .ok();
    }
    for homes in [[&[][..], &["accounts"][..], &[]], [&["accounts"], &[], &[]]] {
        operator.place(homes);
        let (ledger, deploy) = Ledger::while_writing(&operator, 3, 5501, |_| operator.deploy());
        assert!(
            deploy.stderr.contains("everything is as it is to be"),
            "{deploy:?}"
        );
        deploy.ok();
        for through in 1..=3 {
            ledger.check(&operator, through, 5501);
        }
    }
    let plan = operator.run(&["plan", "--exit-code", "deployment.yml", "application.yml"]);
    plan.ok();
    operator.finish();
}

#[test]
fn two_databases_swap_their_places() {
    let operator = Operator::new(vec![postgres("left", 5502, "500M"), redis("right", 6502)]);
    operator.place([&["left"], &["right"], &[]]);
    operator.deploy().ok();
    operator.sql(3, 5502, "create table t (i integer)").ok();
    operator
        .sql(1, 5502, "insert into t select generate_series(1, 1000)")
        .ok();
    assert_eq!(
        operator.redis(1, 6502, &["set", "key", "value"]).ok().trim(),
        "OK"
    );
    operator.place([&["right"], &["left"], &[]]);
    operator.deploy().ok();
    for through in 1..=3 {
        assert_eq!(
            operator.sql(through, 5502, "select count(*) from t").ok().trim(),
            "1000"
        );
        assert_eq!(
            operator.redis(through, 6502, &["get", "key"]).ok().trim(),
            "value"
        );
    }
    operator.finish();
}

#[test]
fn what_was_removed_comes_back_with_its_data_here_and_elsewhere() {
    let operator = Operator::new(vec![redis("notes", 6503)]);
    operator.place([&["notes"], &[], &[]]);
    operator.deploy().ok();
    assert_eq!(operator.redis(2, 6503, &["set", "key", "kept"]).ok().trim(), "OK");
    for homes in [[&["notes"][..], &[], &[]], [&[], &["notes"], &[]]] {
        operator.place([&[], &[], &[]]);
        operator.deploy().ok();
        assert!(
            !operator.redis(2, 6503, &["ping"]).ok,
            "it is not to be reached any more"
        );
        operator.place(homes);
        operator.deploy().ok();
        assert_eq!(operator.redis(3, 6503, &["get", "key"]).ok().trim(), "kept");
    }
    operator.finish();
}

#[test]
fn a_volume_grows_under_its_database() {
    let mut operator = Operator::new(vec![postgres("growing", 5504, "200M")]);
    operator.place([&["growing"], &[], &[]]);
    operator.deploy().ok();
    operator.sql(3, 5504, "create table t (text text)").ok();
    operator.define(postgres("growing", 5504, "400M"));
    operator.place([&["growing"], &[], &[]]);
    operator.deploy().ok();
    let quotas = operator
        .bed
        .exec(1, &["zfs", "get", "-rHp", "-o", "value", "refquota", "flocker"])
        .ok();
    assert!(
        quotas.lines().any(|quota| quota == (400_u64 << 20).to_string()),
        "{quotas}"
    );
    assert_eq!(operator.sql(2, 5504, "select count(*) from t").ok().trim(), "0");
    operator.finish();
}

/// A program that asks a linked Redis by its alias and this port, again and again, and keeps the last answer.
fn asking(port: u16) -> App {
    let ask =
        format!("while true; do redis-cli -h store -p {port} get key > /tmp/answer 2>&1; sleep 0.2; done");
    App {
        name: "asking",
        text: format!(
            "  asking:\n    image: database\n    command_line: [/bin/sh, -c, {ask:?}]\n    \
             links: [{{local_port: {port}, remote_port: 6505, alias: store}}]\n"
        ),
    }
}

/// Moves a linked Redis about, and the program that asks it by this port.
pub(crate) fn follow_a_link(mut operator: Operator, port: u16) -> Bed {
    operator.define(redis("store", 6505));
    operator.define(asking(port));
    operator.place([&["store"], &["asking"], &[]]);
    operator.deploy().ok();
    operator.redis(1, 6505, &["set", "key", "first"]).ok();
    let answers = |node: usize| {
        operator
            .bed
            .exec(node, &["docker", "exec", "flocker--asking", "cat", "/tmp/answer"])
            .stdout
    };
    until("the link connects", || answers(2).trim() == "first");
    for homes in [
        [&[][..], &["asking"], &["store"][..]],
        [&[], &["asking", "store"], &[]],
    ] {
        operator.place(homes);
        operator.deploy().ok();
        operator.redis(1, 6505, &["set", "key", "moved"]).ok();
        until("the link follows", || answers(2).trim() == "moved");
        operator.redis(1, 6505, &["set", "key", "again"]).ok();
        until("the link goes on", || answers(2).trim() == "again");
    }
    operator.finish()
}

#[test]
fn a_link_connects_across_nodes_and_after_its_target_moved() {
    follow_a_link(Operator::new(vec![]), 6505);
}

/// The application calls the port that it knows from elsewhere, and not the external one.
#[test]
fn a_link_of_two_ports_connects_across_nodes_and_after_its_target_moved() {
    follow_a_link(Operator::new(vec![]), 6379);
}
