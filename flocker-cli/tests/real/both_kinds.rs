//! Data between nodes of which some have OpenZFS in the kernel and others ZFS by way of FUSE.
//!
//! `flocker-cli/tests/real/vm/run` makes such nodes; on any others this holds as well. What OpenZFS has made has a form that
//! the older one does not know; what the older one has made, both know. So it begins on the third node, the one with FUSE.

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

fn inside(operator: &Operator, node: usize, script: &str) -> String {
    let container = format!("flocker--{NAME}");
    let words = ["docker", "exec", &container, "sh", "-c", script];
    operator.bed.exec(node, &words).ok()
}

#[test]
fn data_goes_once_round_all_nodes_whichever_of_both_kinds_of_zfs_they_have() {
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
    // Back again at the end, to what has an older copy of it.
    for (visit, node) in [3, 1, 2, 3].into_iter().enumerate() {
        if visit > 0 {
            operator.place(home(node));
            let moved = operator.deploy();
            assert!(moved.stderr.contains("everything is as it is to be"), "{moved:?}");
            moved.ok();
        }
        assert_eq!(inside(&operator, node, digest), expected);
        inside(
            &operator,
            node,
            &format!("echo {node} > /data/visit-{visit}; sync"),
        );
        for through in 1..=3 {
            for (earlier, was_there) in (0..=visit).zip([3, 1, 2, 3]) {
                let page = format!("http://{}:{PORT}/visit-{earlier}", operator.bed.address(through));
                let shown = operator.bed.exec(3, &["curl", "-sf", "-m", "20", &page]).ok();
                assert_eq!(shown.trim(), was_there.to_string(), "{page}");
            }
        }
    }
    operator.finish();
}
