//! Nodes that are set up in other ways: units of systemd, logins with `sudo` and without.

use crate::cut_short::POSTGRES;
use crate::cut_short::with_accounts;
use crate::databases::follow_a_link;
use crate::ledger::Ledger;
use crate::support::App;
use crate::support::Operator;
use crate::support::until;
use crate::watch::watched;

fn running_units(operator: &Operator) -> String {
    let words = [
        "systemctl",
        "list-units",
        "--plain",
        "--no-legend",
        "--state=running",
        "flocker*",
    ];
    operator.bed.exec(1, &words).ok()
}

const UNIT: &str = "flocker-ledgers.service";

/// Cuts the power of a node, and lets it come back.
fn starts_anew(operator: &Operator, node: usize) {
    operator.bed.cut_power(node);
    operator.bed.up();
}

/// Returns a property of the unit of the database on node 1.
fn of_unit(operator: &Operator, property: &str) -> String {
    let words = ["systemctl", "show", "--value", "--property", property, UNIT];
    operator.bed.exec(1, &words).ok().trim().to_owned()
}

/// After a boot a unit is passed over once, and nothing but a deploy starts it: not even who has its volume mounted.
fn a_unit_waits_for_the_deploy(operator: &Operator) {
    starts_anew(operator, 1);
    until("systemd comes to the unit", || {
        of_unit(operator, "ConditionTimestampMonotonic") != "0"
    });
    let file = format!("/etc/systemd/system/{UNIT}");
    let said = operator
        .bed
        .exec(1, &["grep", "ConditionPathIsMountPoint=", &file])
        .ok();
    let volume = said.trim().rsplit('=').next().unwrap();
    let is_mounted = || operator.bed.exec(1, &["mountpoint", "-q", volume]).ok;
    assert!(!is_mounted());
    for _ in 0..2 {
        assert_eq!(of_unit(operator, "ActiveState"), "inactive");
        assert_eq!(of_unit(operator, "Result"), "success");
        assert_eq!(of_unit(operator, "NRestarts"), "0");
        let status = operator.run(&["status"]);
        assert!(status.stdout.contains("ledgers"), "{}", status.stdout);
        assert!(is_mounted());
    }
}

/// After a boot Docker starts nothing that has its data on a volume, whatever the restart policy.
fn docker_waits_for_the_deploy(operator: &Operator) {
    let running = ["docker", "ps", "--format", "{{.Names}}"];
    assert!(operator.bed.exec(3, &running).ok().contains("ledgers"));
    starts_anew(operator, 3);
    assert!(!operator.bed.exec(3, &running).ok().contains("ledgers"));
}

#[test]
fn a_database_moves_between_units_of_systemd_a_login_with_sudo_and_docker() {
    let port = 5551;
    let mut operator = Operator::new(vec![]);
    // What a node runs applications with is settled when it is first deployed to.
    operator.bed.renew();
    operator.setups = ["runtime: systemd, ", "user: deployer, ", ""];
    let operator = with_accounts(operator, port);
    assert!(running_units(&operator).contains("ledgers"));
    watched(&operator, "ledgers", POSTGRES, || {
        let homes: [(usize, [&[&str]; 3]); 4] = [
            (2, [&[], &["ledgers"], &[]]),
            (1, [&["ledgers"], &[], &[]]),
            (3, [&[], &[], &["ledgers"]]),
            (1, [&["ledgers"], &[], &[]]),
        ];
        for (home, nodes) in homes {
            operator.place(nodes);
            let (ledger, deploy) = Ledger::while_writing(&operator, 3, port, |_| operator.deploy());
            deploy.ok();
            ledger.check(&operator, home, port);
            // After a boot nothing runs before somebody has seen its data: the next deploy.
            match home {
                1 => a_unit_waits_for_the_deploy(&operator),
                3 => docker_waits_for_the_deploy(&operator),
                _ => continue,
            }
            operator.deploy().ok();
            ledger.check(&operator, home, port);
        }
        let (ledger, ()) = Ledger::while_writing(&operator, 3, port, |_| ());
        ledger.check(&operator, 1, port);
        operator
            .run(&["plan", "--exit-code", "deployment.yml", "application.yml"])
            .ok();
    });
    let doctor = operator.run(&["doctor", "--files", "deployment.yml", "application.yml"]);
    doctor.ok();
    let bed = operator.finish();
    bed.renew();
}

/// How many rules of ours a node has by `iptables`, and whether it has a table of ours by `nft`.
fn routers_of(operator: &Operator, node: usize) -> (usize, bool) {
    let rules = operator.bed.exec(node, &["iptables-save"]).ok();
    let tables = operator.bed.exec(node, &["nft", "list", "tables"]).ok();
    let rules = rules.lines().filter(|line| line.starts_with("-A FLOCKER-"));
    (
        rules.count(),
        tables.lines().any(|line| line == "table inet flocker"),
    )
}

/// The seeds' method on two of the nodes, and the newer one on the third.
const BOTH: [&str; 3] = ["router: iptables, ", "router: iptables, ", "router: nftables, "];

#[test]
fn a_database_moves_between_routers_of_both_kinds() {
    let port = 5553;
    let mut operator = Operator::new(vec![]);
    operator.bed.renew();
    operator.setups = BOTH;
    let operator = with_accounts(operator, port);
    watched(&operator, "ledgers", POSTGRES, || {
        let homes: [(usize, [&[&str]; 3]); 3] = [
            (2, [&[], &["ledgers"], &[]]),
            (3, [&[], &[], &["ledgers"]]),
            (1, [&["ledgers"], &[], &[]]),
        ];
        for (home, nodes) in homes {
            operator.place(nodes);
            let from = home % 3 + 1;
            let (ledger, deploy) = Ledger::while_writing(&operator, from, port, |_| operator.deploy());
            deploy.ok();
            for through in 1..=3 {
                ledger.check(&operator, through, port);
            }
        }
    });
    for node in 1..=3 {
        let (n_rules, has_table) = routers_of(&operator, node);
        assert_eq!((n_rules > 0, has_table), (node < 3, node == 3), "on node {node}");
    }
    // The kernel forgets its rules; the next deploy brings them back.
    starts_anew(&operator, 2);
    assert_eq!(routers_of(&operator, 2).0, 0);
    let (ledger, ()) = Ledger::while_writing(&operator, 3, port, |_| ());
    operator.deploy().ok();
    assert!(routers_of(&operator, 2).0 > 0);
    ledger.check(&operator, 2, port);
    operator.finish().renew();
}

#[test]
fn a_link_of_two_ports_follows_between_routers_of_both_kinds() {
    let mut operator = Operator::new(vec![]);
    operator.bed.renew();
    operator.setups = BOTH;
    follow_a_link(operator, 6379).renew();
}

/// A program that keeps what is posted to it, and shows it.
fn notes(port: u16) -> App {
    let program = "import http.server, os, sys\n\
        kept = os.path.join(sys.argv[3], 'kept')\n\
        class Handler(http.server.BaseHTTPRequestHandler):\n    \
            def answer(self, body):\n        \
                self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)\n    \
            def do_POST(self):\n        \
                body = self.rfile.read(int(self.headers['Content-Length']))\n        \
                with open(kept, 'ab') as file: file.write(body); file.flush(); os.fsync(file.fileno())\n        \
                self.answer(b'kept')\n    \
            def do_GET(self):\n        \
                self.answer(open(kept, 'rb').read() if os.path.exists(kept) else b'')\n\
        http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()\n";
    App {
        name: "notes",
        text: format!(
            "  notes:\n    image: /usr/bin/python3\n    command_line: [-c, {program:?}, '{{address}}', '{{port}}', '{{volume}}']\n    \
             ports: [{{internal: {port}, external: {port}}}]\n    volume: {{mountpoint: /data}}\n    \
             health_check: {{tcp: {port}, interval: 100ms, timeout: 5s, retries: 150}}\n"
        ),
    }
}

#[test]
fn a_program_moves_between_plain_logins_that_may_nothing() {
    const PLAIN: &str = "user: plain, volumes: directory, runtime: process, router: proxy, ";
    let port = 7552;
    let mut operator = Operator::new(vec![notes(port)]);
    operator.setups = [PLAIN; 3];
    operator.place([&["notes"], &[], &[]]);
    operator.deploy().ok();
    let curl = |through: usize, words: &[&str]| {
        let url = format!("http://{}:{port}/", operator.bed.address(through));
        let mut arguments = vec!["curl", "-sS", "--max-time", "10"];
        arguments.extend(words);
        arguments.push(&url);
        operator.bed.exec(3, &arguments)
    };
    let mut kept = String::new();
    for (number, homes) in (1..).zip([
        [&[][..], &["notes"][..], &[]],
        [&[], &[], &["notes"]],
        [&["notes"], &[], &[]],
    ]) {
        assert_eq!(curl(2, &["--data", &format!("line {number};")]).ok(), "kept");
        kept = format!("{kept}line {number};");
        operator.place(homes);
        operator.deploy().ok();
        for through in 1..=3 {
            assert_eq!(curl(through, &[]).ok(), kept);
        }
    }
    let owners = operator.bed.exec(1, &["ps", "-eo", "user:12,args"]).ok();
    let ours: Vec<_> = owners
        .lines()
        .filter(|line| line.contains(&port.to_string()))
        .collect();
    assert!(
        !ours.is_empty() && ours.iter().all(|line| line.starts_with("plain ")),
        "{ours:?}"
    );
    operator.finish();
}
