//! Data between nodes of which some have OpenZFS in the kernel and others ZFS by way of FUSE.
//!
//! `flocker-cli/tests/real/vm/run` makes such nodes; on any others this holds as well. What OpenZFS has made has a form that
//! the older one does not know; what the older one has made, both know. So it begins on the third node, the one with FUSE.
//! After the first round each node has an older copy, and what was written since is all that travels.

use serde_json::Value;

use crate::support::App;
use crate::support::Operator;

const NAME: &str = "pages";
const PORT: u16 = 6581;

/// A web server of which the pages are its data.
fn pages() -> App {
    App {
        name: NAME,
        text: format!(
            "  {NAME}:\n    image: busybox\n    command_line: [httpd, -f, -p, '8080', -h, /data]\n    \
             ports: [{{internal: 8080, external: {PORT}}}]\n    volume: {{mountpoint: /data}}\n    \
             health_check: {{tcp: 8080, interval: 500ms, timeout: 10s, retries: 150}}\n"
        ),
    }
}

/// How much data there is at least that no pool makes smaller.
const ALL: u64 = 4_000_000;

/// Moves it, and returns how much was sent for that, all copies together.
fn moved(operator: &Operator) -> u64 {
    let said = operator.run(&[
        "deploy",
        "--json",
        "--yes",
        "--allow-stop-all",
        "deployment.yml",
        "application.yml",
    ]);
    let said = said.ok();
    let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["result"], "settled", "{last}");
    let [moved] = last["moves"].as_array().unwrap().as_slice() else {
        panic!("it did not move: {last}");
    };
    let rounds = moved["rounds"].as_array().unwrap().iter();
    let sent = rounds.chain([&moved["last_round"]]);
    sent.map(|bytes| bytes.as_u64().unwrap()).sum()
}

/// Returns how much is in the trash of each node.
fn trash(operator: &Operator) -> Vec<usize> {
    let report = operator.run(&["report-state", "--json"]).ok();
    let report: Value = serde_json::from_str(&report).unwrap();
    let nodes = report["nodes"].as_object().unwrap().values();
    nodes
        .map(|node| node["seen"]["trash"].as_array().unwrap().len())
        .collect()
}

fn inside(operator: &Operator, node: usize, script: &str) -> String {
    let container = format!("flocker--{NAME}");
    let words = ["docker", "exec", &container, "sh", "-c", script];
    operator.bed.exec(node, &words).ok()
}

#[test]
fn data_goes_twice_round_all_nodes_whichever_of_both_kinds_of_zfs_they_have() {
    let operator = Operator::new(vec![pages()]);
    for node in 1..=3 {
        let version = operator.bed.exec(node, &["zfs", "version"]);
        println!(
            "node{node}: {}",
            version.stdout.lines().next().unwrap_or("older than OpenZFS")
        );
    }
    let home = |node: usize| {
        let mut nodes: [&[&str]; 3] = [&[], &[], &[]];
        nodes[node - 1] = &[NAME];
        nodes
    };
    operator.place(home(3));
    operator.deploy().ok();
    // Of what compresses well, of what does not, of holes, and of what fits into a pointer to a block.
    let fill = "cd /data; head -c 4000000 /dev/urandom > random; yes text | head -c 8000000 > text; \
                dd if=/dev/zero of=holes bs=1 count=1 seek=100000000 2>/dev/null; echo x > small; sync";
    inside(&operator, 3, fill);
    let digest = "cd /data; sha256sum random text small; stat -c %s holes";
    let expected = inside(&operator, 3, digest);
    // Back again, and again, to what has an older copy of it.
    let visits = [3, 1, 2, 3, 1, 2, 3];
    for (visit, node) in visits.into_iter().enumerate() {
        if visit > 0 {
            operator.place(home(node));
            let sent = moved(&operator);
            println!("move {visit}, to node{node}: {sent} bytes");
            assert_eq!(
                sent < ALL / 4,
                visit > 2,
                "move {visit}, to node{node}: {sent} bytes"
            );
            assert_eq!(trash(&operator), [0; 3], "after move {visit}");
        }
        assert_eq!(inside(&operator, node, digest), expected);
        inside(
            &operator,
            node,
            &format!("echo {node} > /data/visit-{visit}; sync"),
        );
        for through in 1..=3 {
            for (earlier, was_there) in (0..=visit).zip(visits) {
                let page = format!("http://{}:{PORT}/visit-{earlier}", operator.bed.address(through));
                let shown = operator.bed.exec(3, &["curl", "-sf", "-m", "20", &page]).ok();
                assert_eq!(shown.trim(), was_there.to_string(), "{page}");
            }
        }
    }
    operator.finish();
}
