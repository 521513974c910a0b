//! What other people do at the same time, or did by hand.

use flocker_model::DatasetId;

use crate::cut_short::POSTGRES;
use crate::cut_short::accounts;
use crate::ledger::Ledger;
use crate::support::Done;
use crate::support::Operator;
use crate::support::redis;
use crate::watch::watched;

fn dataset(application: &str) -> String {
    format!(
        "flocker/flocker/{}",
        DatasetId::derived(&application.parse().unwrap())
    )
}

/// Writes a file into a copy that is not to be written, as somebody may who is root.
fn write_by_hand(operator: &Operator, node: usize, application: &str) {
    let name = dataset(application);
    let script = format!(
        "zfs set readonly=off {name}; zfs unmount {name} 2>/dev/null; \
         for i in 1 2 3 4 5 6 7 8 9 10; do zfs mount {name} 2>/dev/null && break; sleep 0.3; done; \
         cd \"$(zfs get -Hp -o value mountpoint {name})\" && echo changed > by-hand"
    );
    operator.bed.exec(node, &["sh", "-c", &script]).ok();
}

/// Checks that a deploy either did it all or stopped nothing and said why.
#[track_caller]
fn check_moved_or_told(operator: &Operator, port: u16, deploy: &Done, value: &str) {
    println!("by hand: status {:?}", deploy.code);
    assert_eq!(operator.redis(3, port, &["get", "key"]).ok().trim(), value);
    if deploy.code != Some(0) {
        let said = format!("{}{}", deploy.stdout, deploy.stderr);
        assert!(
            said.contains("somebody has written into it"),
            "it does not say why: {said}"
        );
        assert!(said.contains("hint"), "it does not say what to do: {said}");
    }
}

#[test]
fn a_released_copy_that_was_changed_by_hand_is_not_taken_for_the_data() {
    let port = 6561;
    let operator = Operator::new(vec![redis("changed", port)]);
    operator.place([&["changed"], &[], &[]]);
    operator.deploy().ok();
    operator.redis(3, port, &["set", "key", "1"]).ok();
    operator.place([&[], &["changed"], &[]]);
    operator.deploy().ok();
    write_by_hand(&operator, 1, "changed");
    operator.redis(3, port, &["set", "key", "2"]).ok();
    operator.place([&["changed"], &[], &[]]);
    let deploy = operator.deploy();
    check_moved_or_told(&operator, port, &deploy, "2");
    operator.finish();
}

#[test]
fn a_half_done_copy_that_was_changed_by_hand_is_not_taken_for_the_data() {
    let port = 6562;
    let operator = Operator::new(vec![redis("halved", port)]);
    operator.place([&["halved"], &[], &[]]);
    operator.deploy().ok();
    operator.redis(3, port, &["set", "key", "1"]).ok();
    operator.place([&[], &["halved"], &[]]);
    let deploy = operator.start_deploy();
    let copied = deploy.reaches(|event, step| event == "step_done" && step.contains("/push/"));
    assert!(copied.is_some());
    deploy.kill();
    write_by_hand(&operator, 2, "halved");
    let deploy = operator.deploy();
    // What is released goes on to the same node; the application is away until it is there.
    println!("by hand: status {:?}", deploy.code);
    operator.place([&["halved"], &[], &[]]);
    let back = operator.deploy();
    check_moved_or_told(&operator, port, &back, "1");
    operator.finish();
}

#[test]
fn of_two_operators_who_move_the_same_data_elsewhere_one_is_told_of_the_other() {
    let port = 5563;
    let operator = accounts(port);
    watched(&operator, "ledgers", POSTGRES, || {
        operator.place([&[], &[], &["ledgers"]]);
        for name in ["deployment", "application"] {
            let path = |prefix: &str| operator.path(&format!("{prefix}{name}.yml"));
            std::fs::copy(path(""), path("other-")).unwrap();
        }
        operator.place([&[], &["ledgers"], &[]]);
        let other = || operator.start_as("other", &["other-deployment.yml", "other-application.yml"]);
        let (ledger, ()) = Ledger::while_writing(&operator, 3, port, |_| {
            let first = operator.start_deploy();
            assert!(first.reaches(|event, _| event == "step_started").is_some());
            // Refused while the first is at it, whatever it asks for.
            assert_eq!(other().wait(), Some(1));
            assert_eq!(first.wait(), Some(0));
            assert_eq!(other().wait(), Some(0));
            // And now both at the very same time: who comes second is told, or finds it done.
            let (one, two) = (operator.start_deploy(), other());
            let ends = [one.wait(), two.wait()];
            println!("two at once: {ends:?}");
            assert!(ends.contains(&Some(0)), "{ends:?}");
            operator.deploy().ok();
        });
        ledger.check(&operator, 2, port);
    });
    operator.finish();
}

#[test]
fn somebody_who_writes_into_the_data_from_outside_is_shut_out_when_it_is_let_go() {
    let port = 6564;
    let operator = Operator::new(vec![redis("shared", port)]);
    operator.place([&["shared"], &[], &[]]);
    operator.deploy().ok();
    operator.redis(3, port, &["set", "key", "1"]).ok();
    let name = dataset("shared");
    let place = format!("$(zfs get -Hp -o value mountpoint {name})");
    // Opens the file anew for each line, and ends when that is refused.
    let script = format!("cd \"{place}\" && while (date >> stray) 2>/dev/null; do sleep 0.01; done");
    operator
        .bed
        .exec(
            1,
            &["sh", "-c", &format!("({script}) > /dev/null 2>&1 < /dev/null &")],
        )
        .ok();
    operator.place([&[], &["shared"], &[]]);
    operator.deploy().ok();
    assert_eq!(operator.redis(3, port, &["get", "key"]).ok().trim(), "1");
    // What it could write is in the last snapshot, and so at the new home: there is one history, not two.
    let count = |node| {
        let script = format!("wc -l < \"{place}/stray\"");
        operator.bed.exec(node, &["sh", "-c", &script]).ok()
    };
    println!("shut out after {} lines", count(1).trim());
    assert_eq!(count(1), count(2));
    operator.finish();
}

#[test]
fn a_port_that_somebody_else_has_at_the_new_home_is_told_before_anything_is_stopped() {
    let port = 6565;
    let operator = Operator::new(vec![redis("ported", port)]);
    operator.place([&["ported"], &[], &[]]);
    operator.deploy().ok();
    let listen = format!("TCP-LISTEN:{port},fork,reuseaddr");
    operator
        .bed
        .exec(
            2,
            &["systemd-run", "--unit=foreign", "socat", &listen, "EXEC:true"],
        )
        .ok();
    operator.place([&[], &["ported"], &[]]);
    let refused = operator.deploy();
    println!("with its port taken: status {:?}", refused.code);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains(&port.to_string()), "{said}");
    assert!(!said.contains("done    node1 stop"), "it was stopped: {said}");
    assert_eq!(operator.redis(1, port, &["ping"]).ok().trim(), "PONG");
    operator.bed.exec(2, &["systemctl", "stop", "foreign"]).ok();
    operator.deploy().ok();
    assert_eq!(operator.redis(3, port, &["ping"]).ok().trim(), "PONG");
    operator.finish();
}
