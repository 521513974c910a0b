//! What the original did wrong, each as the very situation in which it did, as far as it can arise here.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::time::Duration;

use flocker_backends::VolumeBackend as _;
use flocker_backends::memory::Fault;
use flocker_backends::memory::MemoryNode;
use flocker_engine::End;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle as _;
use flocker_engine::Order;
use flocker_engine::Unwatched;
use flocker_engine::sim::Cluster;
use flocker_engine::sim::Given;
use flocker_engine::sim::Layout;
use flocker_engine::sim::Mishap;
use flocker_engine::sim::Planned;
use flocker_engine::sim::Reach;
use flocker_engine::sim::When;
use flocker_engine::sim::Wishes;
use flocker_engine::sim::application;
use flocker_engine::sim::in_stopped_time;
use flocker_engine::sim::node;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::Epoch;
use flocker_model::Generation;
use flocker_model::Role;
use flocker_model::SnapshotName;
use flocker_plan::Action;
use flocker_plan::Policy;
use flocker_plan::StopAll;

struct Scene(Arc<Cluster>, usize);

impl Scene {
    fn new(n_nodes: usize) -> Self {
        Self::reached_by(n_nodes, Reach::Calls)
    }

    fn reached_by(n_nodes: usize, reach: Reach) -> Self {
        let cluster = Cluster::new(Layout {
            nodes: (0..n_nodes).map(node).collect(),
            reach,
            blurred: false,
            twice: false,
            seed: 9,
        });
        Self(cluster, n_nodes)
    }

    fn desired(&self, wishes: &Wishes) -> Deployment {
        let nodes: Vec<_> = (0..self.1).map(node).collect();
        wishes.deployment(&nodes)
    }

    async fn deploy(&self, wishes: &Wishes) -> Given {
        self.0.serve(wishes);
        let policy = Policy {
            stop_all: StopAll::Allow,
            ..Policy::default()
        };
        self.0.deploy(&self.desired(wishes), None, &policy).await
    }

    #[track_caller]
    fn assert_at_rest(&self, wishes: &Wishes, given: &Given) {
        assert!(given.is_settled(), "{given:?}: {:#?}", self.0.history());
        self.0.check_at_rest(&self.desired(wishes));
        self.assert_sound();
    }

    #[track_caller]
    fn assert_sound(&self) {
        assert_eq!(self.0.broken(), None, "{:#?}", self.0.history());
    }

    fn node(&self, number: usize) -> &MemoryNode {
        self.0.node(&node(number)).unwrap()
    }

    fn write(&self, number: usize, text: &[u8]) {
        self.node(number)
            .volumes()
            .append(data(), "journal", text)
            .unwrap();
    }

    fn journal(&self, number: usize) -> Option<Vec<u8>> {
        self.node(number).volumes().read(data(), "journal")
    }

    fn at_next_effect(&self, mishap: Mishap) {
        let at = self.0.n_effects() + 1;
        self.0.plan_mishaps([Planned { at, mishap }]);
    }
}

fn at(home: usize) -> Wishes {
    Wishes::at(&[Some(home)])
}

fn data() -> DatasetId {
    at(0).dataset(0).unwrap()
}

#[test]
fn l01_a_node_that_is_offline_is_no_reason_to_create_its_data_anew() {
    in_stopped_time(async {
        let scene = Scene::new(2);
        scene.deploy(&at(0)).await;
        scene.write(0, b"kept");
        scene.0.take_power(&node(0));
        let given = scene.deploy(&at(1)).await;
        let Given::Ended(Ok(outcome)) = &given else {
            panic!("{given:?}");
        };
        assert!(matches!(&outcome.end, End::Partly { waiting, .. } if !waiting.is_empty()));
        assert!(scene.node(1).contents().is_empty());
        scene.0.repair();
        let given = scene.deploy(&at(1)).await;
        scene.assert_at_rest(&at(1), &given);
        assert_eq!(scene.journal(1).unwrap(), b"kept");
    });
}

#[test]
fn l02_an_application_that_is_removed_and_added_elsewhere_finds_its_data() {
    in_stopped_time(async {
        let scene = Scene::new(2);
        scene.deploy(&at(0)).await;
        scene.write(0, b"kept");
        let nowhere = Wishes::at(&[None]);
        let given = scene.deploy(&nowhere).await;
        scene.assert_at_rest(&nowhere, &given);
        let given = scene.deploy(&at(1)).await;
        scene.assert_at_rest(&at(1), &given);
        assert_eq!(scene.journal(1).unwrap(), b"kept");
    });
}

#[test]
fn l04_a_crash_between_letting_go_and_taking_over_leaves_one_owner_in_the_end() {
    for when in [When::Before, When::After] {
        for number in 1..16 {
            in_stopped_time(async {
                let scene = Scene::new(2);
                scene.deploy(&at(0)).await;
                scene.write(0, b"kept");
                let planned = Planned {
                    at: scene.0.n_effects() + number,
                    mishap: Mishap::CommandKill(when),
                };
                scene.0.plan_mishaps([planned]);
                scene.deploy(&at(1)).await;
                scene.0.cancel_mishaps();
                let given = scene.deploy(&at(1)).await;
                scene.assert_at_rest(&at(1), &given);
                assert_eq!(scene.journal(1).unwrap(), b"kept");
            });
        }
    }
}

#[test]
fn l05_two_owners_are_refused_and_told() {
    in_stopped_time(async {
        let scene = Scene::new(2);
        scene.deploy(&at(0)).await;
        let dataset = flocker_model::Dataset {
            id: data(),
            owner: application(0),
            maximum_size: None,
        };
        // Somebody makes a second owner by hand.
        scene.node(1).volumes().create(&dataset, Epoch(5)).await.unwrap();
        let given = scene.deploy(&at(1)).await;
        let Given::Ended(Ok(outcome)) = &given else {
            panic!("{given:?}");
        };
        let End::Partly { refused, .. } = &outcome.end else {
            panic!("{outcome:?}");
        };
        assert!(
            refused[0].to_string().contains("more than one node"),
            "{refused:?}"
        );
        assert!(scene.node(0).runtime().is_running(&application(0)));
        assert!(!scene.node(1).runtime().is_running(&application(0)));
    });
}

#[test]
fn l06_a_copy_that_was_changed_is_never_written_over() {
    in_stopped_time(async {
        let scene = Scene::new(2);
        scene.deploy(&at(0)).await;
        scene.write(0, b"first");
        let given = scene.deploy(&at(1)).await;
        scene.assert_at_rest(&at(1), &given);
        scene.write(1, b" second");
        // The copy that is left on the first node has data of its own: it goes aside whole, and stays there.
        let given = scene.deploy(&at(0)).await;
        scene.assert_at_rest(&at(0), &given);
        assert_eq!(scene.journal(0).unwrap(), b"first second");
        assert_eq!(scene.journal(1).unwrap(), b"first second");
    });
}

#[test]
fn l07_a_copy_that_ends_early_without_an_error_is_not_taken_for_whole() {
    for harm in [Mishap::Truncation, Mishap::Damage] {
        for place in [0, 10, 100, 400, 2000, 20_000, 60_000] {
            in_stopped_time(async {
                let scene = Scene::new(2);
                scene.deploy(&at(0)).await;
                scene.write(0, &vec![7; 50_000]);
                scene.at_next_effect(harm(place));
                let given = scene.deploy(&at(1)).await;
                scene.assert_at_rest(&at(1), &given);
                assert_eq!(scene.journal(1).unwrap(), vec![7; 50_000]);
            });
        }
    }
}

#[test]
fn l09_snapshots_do_not_grow_with_the_number_of_moves() {
    in_stopped_time(async {
        let scene = Scene::new(3);
        for round in 0..30 {
            let home = round % 3;
            let given = scene.deploy(&at(home)).await;
            scene.assert_at_rest(&at(home), &given);
            scene.write(home, b"more ");
        }
        for number in 0..3 {
            let inventory = scene.node(number).volumes().inventory().await.unwrap();
            let n_snapshots = inventory.datasets[&data()].snapshots.len();
            assert!(n_snapshots <= 3, "{n_snapshots} snapshots on node {number}");
            assert!(inventory.datasets[&data()].partial.is_none());
        }
    });
}

#[test]
fn l12_a_receiver_does_not_wait_for_ever_for_a_source_that_fails() {
    for reach in [Reach::Calls, Reach::Protocol] {
        in_stopped_time(async {
            let scene = Scene::reached_by(2, reach);
            scene.deploy(&at(0)).await;
            scene.write(0, b"kept");
            // Every effect of the receiver hangs from now on.
            scene.node(1).faults().decide(|_| Some(Fault::Hang));
            let began = tokio::time::Instant::now();
            let given = scene.deploy(&at(1)).await;
            let Given::Ended(Ok(outcome)) = &given else {
                panic!("{given:?}");
            };
            let End::Partly { failed, .. } = &outcome.end else {
                panic!("{outcome:?}");
            };
            let told: Vec<String> = failed.values().map(ToString::to_string).collect();
            assert!(
                told.iter().any(|text| text.contains("took longer than")),
                "{told:?}"
            );
            assert!(began.elapsed() < Duration::from_secs(24 * 3600));
            assert!(scene.node(0).runtime().is_running(&application(0)));
        });
    }
}

#[test]
fn l16_a_changed_definition_is_noticed() {
    in_stopped_time(async {
        let scene = Scene::new(1);
        scene.deploy(&at(0)).await;
        let mut changed = at(0);
        changed.applications[0].version = 2;
        let given = scene.deploy(&changed).await;
        scene.assert_at_rest(&changed, &given);
        let n_starts = |line: &&String| line.contains("Start(") && !line.contains("ann");
        assert_eq!(scene.0.history().iter().filter(n_starts).count(), 2);
    });
}

#[test]
fn l17_what_has_not_changed_is_not_restarted() {
    in_stopped_time(async {
        let scene = Scene::new(2);
        let wishes = Wishes::at(&[Some(0), Some(1), Some(0), Some(1)]);
        scene.deploy(&wishes).await;
        let n_effects = scene.0.n_effects();
        for _ in 0..3 {
            let given = scene.deploy(&wishes).await;
            scene.assert_at_rest(&wishes, &given);
            assert_eq!(given.n_turns(), 0);
        }
        assert_eq!(scene.0.n_effects(), n_effects);
    });
}

#[test]
fn l19_what_was_seen_before_a_reboot_is_not_gone_by() {
    let mut n_reboots = 0;
    for number in 1..12 {
        n_reboots += in_stopped_time(async {
            let scene = Scene::new(2);
            scene.deploy(&at(0)).await;
            scene.write(0, b"kept");
            let boots = [scene.node(0).boot(), scene.node(1).boot()];
            // One end of the move reboots while the other is at work: what ran there is down, and a look tells.
            let planned = Planned {
                at: scene.0.n_effects() + number,
                mishap: Mishap::OtherReboot(0),
            };
            scene.0.plan_mishaps([planned]);
            let given = scene.deploy(&at(1)).await;
            scene.0.cancel_mishaps();
            let given = if given.is_settled() {
                given
            } else {
                scene.deploy(&at(1)).await
            };
            scene.assert_at_rest(&at(1), &given);
            assert_eq!(scene.journal(1).unwrap(), b"kept");
            usize::from(boots != [scene.node(0).boot(), scene.node(1).boot()])
        });
    }
    assert!(n_reboots > 8, "{n_reboots}");
}

#[test]
fn l20_one_node_that_cannot_be_looked_at_does_not_stop_the_others() {
    in_stopped_time(async {
        let scene = Scene::new(3);
        let before = Wishes::at(&[Some(0), Some(1)]);
        scene.deploy(&before).await;
        scene.0.take_power(&node(0));
        let after = Wishes::at(&[Some(0), Some(2)]);
        let given = scene.deploy(&after).await;
        assert!(!given.is_settled());
        assert!(scene.node(2).runtime().is_running(&application(1)));
        assert!(!scene.node(1).runtime().is_running(&application(1)));
        scene.0.repair();
        let given = scene.deploy(&after).await;
        scene.assert_at_rest(&after, &given);
    });
}

#[test]
fn l22_a_move_from_a_dead_node_says_what_it_waits_for() {
    in_stopped_time(async {
        let scene = Scene::new(3);
        scene.deploy(&at(0)).await;
        scene.0.take_power(&node(0));
        let n_before = scene.0.n_effects();
        for home in [1, 2, 1] {
            let given = scene.deploy(&at(home)).await;
            let Given::Ended(Ok(outcome)) = &given else {
                panic!("{given:?}");
            };
            let End::Partly { waiting, .. } = &outcome.end else {
                panic!("{outcome:?}");
            };
            let told = waiting[0].to_string();
            assert!(told.contains("waits to see alpha"), "{told}");
        }
        assert_eq!(scene.0.n_effects(), n_before, "nobody races for it");
    });
}

#[test]
fn l24_after_a_move_the_application_sees_its_data_where_it_always_was() {
    in_stopped_time(async {
        let scene = Scene::new(2);
        scene.deploy(&at(0)).await;
        let path = scene.node(0).volumes().path(data());
        scene.write(0, b"kept");
        let given = scene.deploy(&at(1)).await;
        scene.assert_at_rest(&at(1), &given);
        assert_eq!(scene.node(1).volumes().path(data()), path);
        scene.write(1, b" and more");
        assert_eq!(scene.journal(1).unwrap(), b"kept and more");
    });
}

#[test]
fn l26_of_two_commands_with_other_files_neither_crosses_the_other() {
    for number in 1..14 {
        in_stopped_time(async {
            let scene = Scene::new(3);
            let before = Wishes::at(&[Some(0), Some(1)]);
            scene.deploy(&before).await;
            scene.0.write_bulk();
            let planned = Planned {
                at: scene.0.n_effects() + number,
                mishap: Mishap::OlderCommand,
            };
            scene.0.plan_mishaps([planned]);
            let after = Wishes::at(&[Some(1), Some(2)]);
            let older = scene.desired(&Wishes::at(&[Some(2), Some(0)]));
            scene.0.serve(&after);
            let policy = Policy::default();
            scene
                .0
                .deploy(&scene.desired(&after), Some(&older), &policy)
                .await;
            scene.0.cancel_mishaps();
            scene.assert_sound();
            let given = scene.deploy(&after).await;
            scene.assert_at_rest(&after, &given);
        });
    }
}

#[test]
fn l26_an_order_of_an_older_command_that_arrives_late_is_refused() {
    in_stopped_time(async {
        let scene = Scene::new(2);
        scene.deploy(&at(0)).await;
        let given = scene.deploy(&at(1)).await;
        scene.assert_at_rest(&at(1), &given);
        let release = Action::Release {
            dataset: data(),
            epoch: Epoch(3),
            to: node(0),
            last: SnapshotName::handoff(Epoch(3)),
        };
        let late = Order::new(release, Generation(1));
        let program = scene.0.program(&node(1)).unwrap();
        let refused = program.perform(&late, &Unwatched).await.unwrap_err();
        assert!(matches!(refused, NodeError::Stale { .. }), "{refused}");
        let inventory = scene.node(1).volumes().inventory().await.unwrap();
        assert!(matches!(inventory.datasets[&data()].role, Role::Primary { .. }));
    });
}

#[test]
fn a_lock_of_a_node_that_falls_out_of_sight_is_given_back() {
    for number in 1..10 {
        in_stopped_time(async {
            let scene = Scene::new(2);
            scene.deploy(&at(1)).await;
            // The files name alpha alone; beta, whose data it gets, is known by alpha, which then goes away.
            let mut alone = at(0);
            alone.without = Some(1);
            let planned = Planned {
                at: scene.0.n_effects() + number,
                mishap: Mishap::PowerLoss(When::After, None),
            };
            scene.0.plan_mishaps([planned]);
            scene.deploy(&alone).await;
            scene.0.cancel_mishaps();
            scene.0.repair();
            let given = scene.deploy(&at(0)).await;
            scene.assert_at_rest(&at(0), &given);
        });
    }
}

#[test]
fn what_a_node_shows_before_its_lock_is_held_is_not_planned_from() {
    in_stopped_time(async {
        let scene = Scene::new(3);
        let planned = [
            // What is shown of it at last is what was seen before it had anything.
            (2, Mishap::StaleLook),
            (3, Mishap::SlowNode(4)),
            (3, Mishap::CommandKill(When::After)),
        ];
        scene
            .0
            .plan_mishaps(planned.map(|(at, mishap)| Planned { at, mishap }));
        let killed = scene.deploy(&at(0)).await;
        assert!(matches!(killed, Given::Killed), "{killed:?}");
        for _ in 0..3 {
            // It only comes into sight once the others are locked.
            scene.deploy(&at(2)).await;
            scene.assert_sound();
        }
        let given = scene.deploy(&at(2)).await;
        scene.assert_at_rest(&at(2), &given);
    });
}

#[test]
fn a_program_that_has_ended_does_nothing_beside_the_one_that_was_started_since() {
    in_stopped_time(async {
        let scene = Scene::new(1);
        scene.deploy(&at(0)).await;
        let ended = scene.0.program(&node(0)).unwrap();
        scene.0.take_power(&node(0));
        scene.0.start(&node(0));
        let started = scene.0.program(&node(0)).unwrap();
        let before = started.observe().await.unwrap().generation;
        let destroy = Order::new(Action::Destroy { dataset: data() }, Generation(before.0 + 1));
        ended.perform(&destroy, &Unwatched).await.unwrap_err();
        ended.observe().await.unwrap_err();
        scene.0.take_power(&node(0));
        scene.0.start(&node(0));
        let seen = scene.0.program(&node(0)).unwrap().observe().await.unwrap();
        assert_eq!(seen.generation, before, "nothing was written down");
        assert!(seen.datasets.contains_key(&data()));
    });
}
