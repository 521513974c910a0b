//! A machine on which nothing is installed becomes a node, by its own apt and its own services.

use std::fmt::Write as _;

use crate::ledger::Ledger;
use crate::support::Done;
use crate::support::Operator;
use crate::support::postgres;
use crate::support::until;

const INSTALL: &str = "apt-get install --yes --no-remove --no-install-recommends \
                       -o Dpkg::Options::=--force-confold ca-certificates docker.io nftables zfs-fuse";

const PREPARE: [&str; 9] = [
    "node",
    "prepare",
    "node4",
    "--install",
    "--pool",
    "flocker",
    "--device",
    "/srv/disks/flocker.img",
    "--yes",
];

/// Takes the fourth machine away, whatever became of the test.
struct Fourth<'a>(&'a Operator);

impl<'a> Fourth<'a> {
    fn start(operator: &'a Operator) -> Self {
        operator.bed.bare();
        Self(operator)
    }
}

impl Drop for Fourth<'_> {
    fn drop(&mut self) {
        self.0.bed.no_fourth();
    }
}

/// Writes what runs on the nodes that were nodes before, and on the fourth.
fn place(operator: &Operator, nodes: [&[&str]; 3], fourth: &[&str]) {
    operator.place(nodes);
    let path = operator.path("deployment.yml");
    let mut text = std::fs::read_to_string(&path).unwrap();
    writeln!(text, "  node4: {{applications: [{}]}}", fourth.join(", ")).unwrap();
    std::fs::write(&path, text).unwrap();
}

#[track_caller]
fn says(done: Done, code: i32, all: &[&str]) {
    for said in all {
        assert!(done.stdout.contains(said), "{said}: {done:?}");
    }
    done.code(code);
}

#[test]
fn a_machine_with_nothing_installed_is_made_ready_and_a_database_moves_onto_it_and_back() {
    let operator = Operator::new(vec![postgres("accounts", 5511, "1G")]);
    let fourth = Fourth::start(&operator);
    let lacks =
        "for tool in zfs docker nft iptables-save python3; do command -v $tool && exit 1; done; exit 0";
    let is_bare = || operator.bed.exec(4, &["sh", "-c", lacks]).ok;
    assert!(is_bare());

    says(
        operator.run(&["doctor", "node4"]),
        1,
        &[
            "node4: has problems",
            "`zfs` and `zpool` are not installed",
            "`docker` is not installed",
            "`flocker node prepare NODE --install` installs it",
        ],
    );
    says(
        operator.run(&["node", "prepare", "node4", "--plan"]),
        1,
        &[
            "missing: ca-certificates, docker.io, nftables, zfs-fuse\n",
            &format!("hint: `--install` does this, or you do: apt-get update && {INSTALL}\n"),
        ],
    );
    let mut plan = PREPARE;
    plan[8] = "--plan";
    says(
        operator.run(&plan),
        0,
        &[
            "node4: not ready\n",
            "runs: apt-get update\n",
            &format!("runs: {INSTALL}\n"),
            "runs: zpool create -m none flocker /srv/disks/flocker.img\n",
        ],
    );
    assert!(is_bare(), "it was only to be shown");

    let prepared = operator.run(&PREPARE);
    assert!(
        prepared.stderr.contains("node4 packages: apt-get update (0 s)"),
        "{prepared:?}"
    );
    says(
        prepared,
        0,
        &["node4: ready\n", "done     packages", "done     pool"],
    );
    let kept = operator.bed.exec(4, &["cat", "/etc/default/docker"]).ok();
    assert_eq!(kept, "# As a person had it before.\n");
    let again = operator.run(&PREPARE).ok();
    assert!(
        again.contains("node4: ready\n") && !again.contains("runs:"),
        "{again}"
    );
    says(operator.run(&["doctor", "node4"]), 0, &["node4: well\n"]);

    place(&operator, [&["accounts"], &[], &[]], &[]);
    operator.deploy().ok();
    operator
        .sql(3, 5511, "create table ledger (i integer primary key)")
        .ok();
    operator.sql(4, 5511, "insert into ledger values (1)").ok();
    for (first, last) in [(&[][..], &["accounts"][..]), (&["accounts"], &[])] {
        place(&operator, [first, &[], &[]], last);
        let (ledger, deploy) = Ledger::while_writing(&operator, 3, 5511, |_| operator.deploy());
        deploy.ok();
        for through in 1..=4 {
            ledger.check(&operator, through, 5511);
        }
    }
    place(&operator, [&[], &[], &[]], &[]);
    operator.deploy().ok();
    drop(fourth);
    // The others know it by now, and would wait for it.
    operator.bed.renew();
}

/// Says whether this has been said on the fourth machine while packages were installed.
fn was_said(operator: &Operator, said: &str) -> bool {
    let log = "/var/lib/flocker/packages.log";
    operator.bed.exec(4, &["grep", "-q", "-F", said, log]).ok
}

#[test]
fn an_installation_that_fails_or_dies_half_way_is_finished_by_the_next_one() {
    let operator = Operator::new(Vec::new());
    let fourth = Fourth::start(&operator);
    let offers = |from: &str, to: &str| operator.bed.exec(4, &["mv", from, to]).ok();
    offers("/srv/packages", "/srv/none");
    says(
        operator.run(&PREPARE),
        1,
        &[
            "node4: not ready\n",
            "failed   package lists",
            "E: ",
            "hint: all that was said is in `/var/lib/flocker/packages.log` there\n",
        ],
    );
    offers("/srv/none", "/srv/packages");

    let killed = operator.start(&PREPARE);
    until("packages are unpacked", || was_said(&operator, "Unpacking "));
    killed.kill();
    // The machine goes on without it. Held there, it is what the next one finds.
    for at_work in ["[a]pt-get install", "[/]usr/bin/dpkg --"] {
        operator.bed.exec(4, &["pkill", "-STOP", "-f", at_work]);
    }
    let mut next = operator.start(&PREPARE);
    next.says("waits for `apt-get install --yes");
    // As if the machine had lost its power: nobody has the time to leave anything in order.
    operator
        .bed
        .exec(4, &["pkill", "-KILL", "-f", "[/]usr/bin/dpkg --"]);
    operator.bed.kill(4, "apt-get install");
    says(next.finish(), 0, &["node4: ready\n", "done     interrupted"]);
    let audit = operator.bed.exec(4, &["dpkg", "--audit"]).ok();
    assert_eq!(audit, "");
    says(operator.run(&["doctor", "node4"]), 0, &["node4: well\n"]);
    drop(fourth);
}
