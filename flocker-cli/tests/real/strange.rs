//! What is not ours, is not known, or was changed by hand.

use flocker_model::DatasetId;

use crate::support::Operator;
use crate::support::redis;

#[test]
fn a_node_with_another_host_key_is_refused_and_nothing_is_stopped() {
    let operator = Operator::new(vec![redis("guarded", 6521)]);
    operator.place([&["guarded"], &[], &[]]);
    operator.deploy().ok();
    let known = operator.path("known_hosts");
    let config = std::fs::read_to_string(operator.path("ssh_config")).unwrap();
    let right = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("UserKnownHostsFile "))
        .unwrap();
    let keys = std::fs::read_to_string(right).unwrap();
    // The key of the third node in the place of the second's.
    let third = keys.lines().find(|line| line.starts_with("node3,")).unwrap();
    let third = third.split_once(' ').unwrap().1;
    let changed = keys.lines().map(|line| match line.strip_prefix("node2,") {
        Some(rest) => format!("node2,{} {third}\n", rest.split(' ').next().unwrap()),
        None => format!("{line}\n"),
    });
    std::fs::write(&known, changed.collect::<String>()).unwrap();
    std::fs::write(
        operator.path("ssh_config"),
        config.replace(right, known.to_str().unwrap()),
    )
    .unwrap();
    operator.place([&[], &["guarded"], &[]]);
    // Somebody else, since a connection that is kept from before would hide the change.
    let refused = operator.run_as(
        "stranger",
        &["deploy", "--yes", "deployment.yml", "application.yml"],
    );
    assert_eq!(refused.code, Some(1), "{refused:?}");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("host key"), "{said}");
    assert_eq!(operator.redis(1, 6521, &["ping"]).ok().trim(), "PONG");
    std::fs::write(operator.path("ssh_config"), config).unwrap();
    operator.finish();
}

#[test]
fn foreign_datasets_containers_and_rules_with_confusing_names_are_left_alone() {
    let operator = Operator::new(vec![redis("neighbour", 6522)]);
    let bed = &operator.bed;
    bed.exec(1, &["zfs", "create", "-o", "mountpoint=none", "flocker/backup"]);
    bed.exec(1, &["docker", "rm", "-f", "flocker--other"]);
    bed.exec(
        1,
        &[
            "docker",
            "run",
            "-d",
            "--name",
            "flocker--other",
            "--network",
            "none",
            "database",
            "sleep",
            "infinity",
        ],
    )
    .ok();
    bed.exec(1, &["nft", "add", "table", "ip", "flocker_of_mine"])
        .ok();
    bed.exec(1, &["nft", "add", "chain", "ip", "flocker_of_mine", "c"])
        .ok();
    bed.exec(
        1,
        &[
            "nft",
            "add",
            "rule",
            "ip",
            "flocker_of_mine",
            "c",
            "tcp",
            "dport",
            "6522",
            "accept",
        ],
    )
    .ok();
    let foreign = || {
        let rules = bed
            .exec(1, &["nft", "list", "table", "ip", "flocker_of_mine"])
            .ok();
        let container = bed
            .exec(
                1,
                &[
                    "docker",
                    "inspect",
                    "-f",
                    "{{.Id}} {{.State.StartedAt}}",
                    "flocker--other",
                ],
            )
            .ok();
        let dataset = bed
            .exec(
                1,
                &[
                    "zfs",
                    "get",
                    "-Hp",
                    "-o",
                    "property,value",
                    "guid,creation,mountpoint",
                    "flocker/backup",
                ],
            )
            .ok();
        (rules, container, dataset)
    };
    let before = foreign();
    operator.place([&["neighbour"], &[], &[]]);
    operator.deploy().ok();
    operator.place([&[], &["neighbour"], &[]]);
    operator.deploy().ok();
    assert_eq!(operator.redis(1, 6522, &["ping"]).ok().trim(), "PONG");
    operator.place([&[], &[], &[]]);
    operator.deploy().ok();
    operator.run(&["gc", "--yes"]);
    assert_eq!(foreign(), before);
    bed.exec(1, &["docker", "rm", "-f", "flocker--other"]).ok();
    bed.exec(1, &["nft", "delete", "table", "ip", "flocker_of_mine"])
        .ok();
    bed.exec(1, &["zfs", "destroy", "flocker/backup"]);
    operator.finish();
}

#[test]
fn a_base_that_was_destroyed_by_hand_is_noticed_and_the_data_moves_all_the_same() {
    let operator = Operator::new(vec![redis("based", 6523)]);
    operator.place([&["based"], &[], &[]]);
    operator.deploy().ok();
    operator.redis(3, 6523, &["set", "key", "1"]).ok();
    operator.place([&[], &["based"], &[]]);
    operator.deploy().ok();
    // The copy that stayed on the first node loses its snapshots: whoever holds them is a tag, and this is a person.
    let dataset = DatasetId::derived(&"based".parse().unwrap()).to_string();
    let script = format!(
        "for s in $(zfs list -rHt snapshot -o name flocker | grep {dataset}); do \
         for t in $(zfs holds -H $s | cut -f2); do zfs release $t $s; done; zfs destroy $s; done"
    );
    operator.bed.exec(1, &["sh", "-c", &script]);
    operator.redis(3, 6523, &["set", "key", "2"]).ok();
    operator.place([&["based"], &[], &[]]);
    let deploy = operator.deploy();
    // Either a full copy beside the spoilt one, or a refusal that says what to do: never a lost key.
    println!("with its base destroyed: status {:?}", deploy.code);
    assert_eq!(operator.redis(3, 6523, &["get", "key"]).ok().trim(), "2");
    operator.finish();
}
