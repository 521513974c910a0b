//! Faults by name and number.

use std::time::Duration;

use flocker_backends::Change;
use flocker_backends::Classify;
use flocker_backends::ContainerRuntime;
use flocker_backends::ErrorClass;
use flocker_backends::ReceiveRequest;
use flocker_backends::Router;
use flocker_backends::SendRequest;
use flocker_backends::VolumeBackend;
use flocker_backends::memory::Effect;
use flocker_backends::memory::Fault;
use flocker_backends::memory::MemoryProgram;
use flocker_model::ByteSize;
use flocker_model::ContainerStatus;
use flocker_model::Epoch;
use flocker_model::PortNumber;
use flocker_model::RestartPolicy;
use flocker_model::RouteChange;
use flocker_model::RouteTarget;

use super::steps::{dataset, id, name, release, run, spec, stop, two_nodes};

#[tokio::test]
async fn what_changes_nothing_is_no_effect() {
    let (observer, alpha, _) = two_nodes();
    run(&alpha).await;
    assert_eq!(alpha.faults().n_effects(), 2);
    alpha.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
    alpha.volumes().create(&dataset(), Epoch(2)).await.unwrap_err();
    alpha.volumes().renounce(id(), Epoch(9)).await.unwrap_err();
    assert_eq!(alpha.faults().n_effects(), 2);
    let effects: Vec<Effect> = observer
        .history()
        .into_iter()
        .map(|record| record.effect)
        .collect();
    assert_eq!(effects, [Effect::Create(id()), Effect::Start(name())]);
}

#[tokio::test]
async fn a_fault_before_the_effect_leaves_nothing_and_one_after_it_leaves_it_done() {
    for (fault, is_done, is_up, class) in [
        (Fault::Fail, false, true, ErrorClass::Transient),
        (Fault::Refuse, false, true, ErrorClass::Permanent),
        (Fault::DiskFull, false, true, ErrorClass::Transient),
        (Fault::LoseReply, true, true, ErrorClass::Transient),
        (Fault::KillBefore, false, false, ErrorClass::Transient),
        (Fault::KillAfter, true, false, ErrorClass::Transient),
        (Fault::PowerLossBefore, false, false, ErrorClass::Transient),
        (Fault::PowerLossAfter, true, false, ErrorClass::Transient),
    ] {
        let (observer, alpha, _) = two_nodes();
        alpha.faults().script([(1, fault)].into());
        let failure = alpha
            .volumes()
            .create(&dataset(), Epoch::FIRST)
            .await
            .unwrap_err();
        assert_eq!(failure.class(), class, "{fault:?}");
        assert_eq!(alpha.faults().is_up(), is_up, "{fault:?}");
        assert_eq!(observer.history().len(), usize::from(is_done), "{fault:?}");
        if !is_up {
            alpha.volumes().inventory().await.unwrap_err();
            alpha.runtime().list().await.unwrap_err();
            alpha.router().current().await.unwrap_err();
        }
        alpha.restart();
        let again = alpha.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
        let expected = if is_done { Change::AlreadySo } else { Change::Made };
        assert_eq!(again, expected, "{fault:?}");
    }
}

#[tokio::test]
async fn a_closure_decides_what_the_script_leaves_open() {
    let (_, alpha, _) = two_nodes();
    alpha.faults().script([(1, Fault::Slow { turns: 3 })].into());
    alpha
        .faults()
        .decide(|attempt| matches!(attempt.effect, Effect::Create(_)).then_some(Fault::Fail));
    alpha.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
    alpha.volumes().destroy(id()).await.unwrap();
    alpha.volumes().create(&dataset(), Epoch(2)).await.unwrap_err();
    assert_eq!(alpha.faults().n_effects(), 3);
}

#[tokio::test]
async fn what_hangs_goes_on_when_it_is_let_go_and_fails_when_the_node_dies() {
    let (_, alpha, _) = two_nodes();
    alpha.faults().script([(1, Fault::Hang), (2, Fault::Hang)].into());
    let volumes = alpha.volumes();
    let create = async || volumes.create(&dataset(), Epoch::FIRST).await;
    let killed = tokio::join!(create(), async {
        assert_eq!(alpha.faults().n_hanging(), 1);
        alpha.kill();
        alpha.restart();
    });
    killed.0.unwrap_err();
    assert!(volumes.inventory().await.unwrap().datasets.is_empty());
    let let_go = tokio::join!(create(), async {
        assert_eq!(alpha.faults().n_hanging(), 1);
        alpha.faults().let_go();
    });
    assert_eq!(let_go.0.unwrap(), Change::Made);
    assert_eq!(alpha.faults().n_hanging(), 0);
}

#[tokio::test]
async fn a_loss_of_power_takes_what_was_not_synced_and_nothing_else() {
    let (observer, alpha, _) = two_nodes();
    run(&alpha).await;
    let volumes = alpha.volumes();
    volumes.append(id(), "journal", b"acknowledged").unwrap();
    volumes.append_unsynced(id(), "journal", b" and more").unwrap();
    alpha.kill();
    alpha.restart();
    assert_eq!(volumes.read(id(), "journal").unwrap(), b"acknowledged and more");
    alpha.crash();
    volumes.append(id(), "journal", b"without power").unwrap_err();
    alpha.restart();
    assert_eq!(volumes.read(id(), "journal").unwrap(), b"acknowledged");
    assert_eq!(observer.violations(), []);
}

#[tokio::test]
async fn containers_outlive_our_process_and_only_those_that_always_restart_outlive_the_power() {
    for (policy, expected) in [
        (RestartPolicy::Never, ContainerStatus::Exited { code: None }),
        (RestartPolicy::Always, ContainerStatus::Running),
    ] {
        let (observer, alpha, _) = two_nodes();
        alpha.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
        let spec = spec(&alpha, policy);
        alpha.runtime().start(&spec).await.unwrap();
        alpha.kill();
        assert!(alpha.runtime().is_running(&name()));
        alpha.volumes().append(id(), "journal", b"1").unwrap();
        alpha.restart();
        assert_eq!(
            alpha.runtime().list().await.unwrap()[&name()].status,
            ContainerStatus::Running
        );
        alpha.crash();
        assert!(!alpha.runtime().is_running(&name()));
        assert!(observer.writers(id()).is_empty());
        alpha.restart();
        assert_eq!(alpha.runtime().list().await.unwrap()[&name()].status, expected);
        assert_eq!(observer.violations(), []);
    }
}

#[tokio::test]
async fn routes_do_not_outlive_the_power() {
    let (_, alpha, _) = two_nodes();
    let target = RouteTarget {
        application: name(),
        internal: PortNumber::new(27017).unwrap(),
        homes: Vec::new(),
    };
    let change = RouteChange {
        set: [("80".parse().unwrap(), target)].into(),
        ..RouteChange::default()
    };
    alpha.router().apply(&change, &[].into()).await.unwrap();
    alpha.reboot();
    assert!(alpha.router().current().await.unwrap().entries().is_empty());
}

#[tokio::test]
async fn half_a_stream_that_was_not_durable_is_lost_with_the_power() {
    use tokio::io::AsyncReadExt;
    let (_, alpha, beta) = two_nodes();
    alpha.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
    alpha.volumes().put(id(), "big", &vec![7; 100_000]).unwrap();
    release(&alpha, 2).await;
    let request = SendRequest {
        dataset: id(),
        snapshot: "handoff-2".parse().unwrap(),
        base: None,
        resume: None,
    };
    let mut bytes = Vec::new();
    alpha
        .volumes()
        .send(&request)
        .await
        .unwrap()
        .read_to_end(&mut bytes)
        .await
        .unwrap();
    // Eleven pieces arrive; the first eight are durable when the power goes.
    let (mut writer, reader) = tokio::io::duplex(200_000);
    tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes[..46_500])
        .await
        .unwrap();
    let request = ReceiveRequest {
        dataset: dataset(),
        snapshot: "handoff-2".parse().unwrap(),
        base: None,
    };
    let volumes = beta.volumes();
    tokio::select! {
        biased;
        answer = volumes.receive(&request, Box::pin(reader)) => panic!("{answer:?}"),
        () = std::future::ready(()) => {}
    }
    let received = async || {
        let inventory = volumes.inventory().await.unwrap();
        inventory.datasets[&id()].partial.as_ref().unwrap().received
    };
    assert_eq!(received().await, ByteSize(11 * 4096));
    beta.reboot();
    assert_eq!(received().await, ByteSize(8 * 4096));
}

#[tokio::test]
async fn a_sender_that_dies_cuts_its_stream() {
    use tokio::io::AsyncReadExt;
    let (_, alpha, _) = two_nodes();
    alpha.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
    release(&alpha, 2).await;
    let request = SendRequest {
        dataset: id(),
        snapshot: "handoff-2".parse().unwrap(),
        base: None,
        resume: None,
    };
    let mut stream = alpha.volumes().send(&request).await.unwrap();
    stream.read_u8().await.unwrap();
    alpha.kill();
    alpha.restart();
    stream.read_u8().await.unwrap_err();
}

#[tokio::test]
async fn a_program_that_ends_does_as_its_policy_says() {
    let (_, alpha, _) = two_nodes();
    run(&alpha).await;
    alpha.runtime().end(&name(), 9);
    let state = alpha.runtime().list().await.unwrap().remove(&name()).unwrap();
    assert_eq!(state.status, ContainerStatus::Exited { code: Some(9) });
    // There is nothing left that could end.
    alpha.runtime().end(&name(), 0);
    let state = alpha.runtime().list().await.unwrap().remove(&name()).unwrap();
    assert_eq!(state.status, ContainerStatus::Exited { code: Some(9) });
    alpha.volumes().append(id(), "journal", b"1").unwrap_err();
}

#[tokio::test]
async fn output_is_followed_until_the_container_ends() {
    use flocker_backends::LogRequest;
    use tokio::io::AsyncReadExt;
    let (_, alpha, _) = two_nodes();
    let runtime = alpha.runtime();
    runtime.install("mongo".parse().unwrap(), MemoryProgram::Prints("one".into()));
    run(&alpha).await;
    let request = LogRequest {
        tail: None,
        follow: true,
    };
    let mut output = runtime.logs(&name(), request).await.unwrap();
    let mut text = String::new();
    let (read, ()) = tokio::join!(output.read_to_string(&mut text), async {
        runtime.print(&name(), "two");
        tokio::task::yield_now().await;
        stop(&alpha).await;
    });
    read.unwrap();
    assert_eq!(text, "one\ntwo\n");
}

#[tokio::test]
async fn ages_follow_the_clock_that_a_test_moves() {
    let (_, alpha, _) = two_nodes();
    alpha.volumes().create(&dataset(), Epoch::FIRST).await.unwrap();
    alpha.advance(Duration::from_secs(60));
    let age = async || alpha.volumes().inventory().await.unwrap().datasets[&id()].age;
    assert_eq!(age().await, Duration::from_secs(60));
    release(&alpha, 2).await;
    assert_eq!(age().await, Duration::ZERO);
    alpha.set_capacity(Some(ByteSize(1 << 20)));
    assert_eq!(
        alpha.volumes().inventory().await.unwrap().free,
        Some(ByteSize(1 << 20))
    );
}
