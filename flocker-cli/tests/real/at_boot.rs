//! Nodes that were asked to start their applications by themselves, and nodes that were not, after their power was cut.

use crate::cut_short::POSTGRES;
use crate::cut_short::with_accounts;
use crate::ledger::Ledger;
use crate::support::Operator;
use crate::support::until;
use crate::watch::watched;

const UNIT: &str = "flocker.service";

/// Cuts the power of a node, and lets it come back. Nobody types anything.
fn starts_anew(operator: &Operator, node: usize) {
    operator.bed.cut_power(node);
    operator.bed.up();
}

/// Says what systemd says of a unit of a node, in one word.
fn is(operator: &Operator, node: usize, verb: &str, unit: &str) -> String {
    let said = operator.bed.exec(node, &["systemctl", verb, unit]);
    said.stdout.trim().to_owned()
}

/// Waits until a node has done by itself what it does after a start of its machine; returns what it said.
fn has_woken(operator: &Operator, node: usize) -> String {
    until("the unit of the node has done its work", || {
        matches!(&*is(operator, node, "is-active", UNIT), "active" | "failed")
    });
    let words = ["journalctl", "--no-pager", "-o", "cat", "-u", UNIT];
    let said = operator.bed.exec(node, &words).ok();
    // To the journal all starts of these machines are one boot: they have one kernel.
    let (_, said) = said.rsplit_once("Starting ").unwrap();
    println!("{said}");
    said.to_owned()
}

fn runs(operator: &Operator, node: usize) -> bool {
    let words = ["docker", "ps", "--format", "{{.Names}}"];
    operator.bed.exec(node, &words).ok().contains("ledgers")
}

/// Starts a node anew on which the database is; a client that writes through another node goes on after a while.
fn serves_again(operator: &Operator, port: u16) {
    let (ledger, ()) = Ledger::while_writing(operator, 3, port, |_| {
        starts_anew(operator, 1);
        let said = has_woken(operator, 1);
        assert!(said.contains("`ledgers` was started again"), "{said}");
        assert_eq!(is(operator, 1, "is-active", UNIT), "active");
    });
    ledger.check(operator, 2, port);
}

/// Asks nodes for what they are to do from now on.
fn ask(operator: &mut Operator, setups: [&'static str; 3], nodes: [&[&str]; 3]) {
    operator.setups = setups;
    operator.place(nodes);
    operator.deploy().ok();
}

#[test]
fn a_database_serves_again_after_a_boot_where_that_was_asked_for_and_waits_where_it_was_not() {
    const PORT: u16 = 5561;
    let mut operator = Operator::new(vec![]);
    operator.setups = ["at_boot: start, "; 3];
    let mut operator = with_accounts(operator, PORT);
    for node in 1..=3 {
        assert_eq!(is(&operator, node, "is-enabled", UNIT), "enabled");
    }
    let again = operator.deploy();
    assert!(!again.stderr.contains("by itself"), "{}", again.stderr);
    again.ok();
    watched(&operator, "ledgers", POSTGRES, || {
        serves_again(&operator, PORT);
        // A node that has nothing but routes has them again.
        starts_anew(&operator, 2);
        let said = has_woken(&operator, 2);
        assert!(said.contains("1 route was put back"), "{said}");
        until("the second node leads on again", || {
            operator.sql(2, PORT, "select 1").ok
        });
        operator
            .run(&["plan", "--exit-code", "deployment.yml", "application.yml"])
            .ok();
    });
    let home: [&[&str]; 3] = [&["ledgers"], &[], &[]];
    ask(&mut operator, ["at_boot: wait, "; 3], home);
    for node in 1..=3 {
        assert_eq!(is(&operator, node, "is-enabled", UNIT), "");
    }
    starts_anew(&operator, 1);
    until("everything has started that starts with the machine", || {
        is(&operator, 1, "is-active", "multi-user.target") == "active"
    });
    assert!(!runs(&operator, 1));
    operator.finish();
}

#[test]
fn a_database_in_a_unit_serves_again_after_a_boot_where_that_was_asked_for() {
    const PORT: u16 = 5562;
    let mut operator = Operator::new(vec![]);
    // What a node runs applications with is settled when it is first deployed to.
    operator.bed.renew();
    operator.setups = [
        "runtime: systemd, at_boot: start, ",
        "router: proxy, at_boot: start, ",
        "",
    ];
    let operator = with_accounts(operator, PORT);
    watched(&operator, "ledgers", POSTGRES, || {
        serves_again(&operator, PORT);
        assert_eq!(is(&operator, 1, "is-active", "flocker-ledgers.service"), "active");
        // A second boot finds what the first one has started.
        serves_again(&operator, PORT);
        // Connections go through the process of this one, which has to stay.
        starts_anew(&operator, 2);
        has_woken(&operator, 2);
        assert_eq!(is(&operator, 2, "is-active", UNIT), "active");
        until("the second node passes connections on again", || {
            operator.sql(2, PORT, "select 1").ok
        });
    });
    let bed = operator.finish();
    bed.renew();
}

#[test]
fn what_moved_away_before_the_boot_is_not_started_where_it_was() {
    const PORT: u16 = 5563;
    let mut operator = Operator::new(vec![]);
    operator.setups = ["at_boot: start, "; 3];
    let mut operator = with_accounts(operator, PORT);
    watched(&operator, "ledgers", POSTGRES, || {
        let (ledger, ()) = Ledger::while_writing(&operator, 3, PORT, |_| {
            operator.place([&[], &["ledgers"], &[]]);
            operator.deploy().ok();
            operator.bed.cut_power(1);
            let lost = operator.run(&["node", "forget", "node1"]);
            assert!(
                lost.stderr.contains("node1 has `at_boot: start`"),
                "{}",
                lost.stderr
            );
            lost.ok();
            let counts = operator.run(&["node", "remember", "node1"]);
            assert!(!counts.stderr.contains("at_boot"), "{}", counts.stderr);
            counts.ok();
            operator.bed.up();
            let said = has_woken(&operator, 1);
            assert!(!said.contains("was started again"), "{said}");
            assert!(!runs(&operator, 1) && runs(&operator, 2));
        });
        ledger.check(&operator, 2, PORT);
        until("the old home leads to the new one", || {
            operator.sql(1, PORT, "select 1").ok
        });
    });
    ask(&mut operator, ["at_boot: wait, "; 3], [&[], &[], &[]]);
    operator.finish();
}
