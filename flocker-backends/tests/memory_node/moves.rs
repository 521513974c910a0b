//! A move that is disturbed at every effect, in every way, and done again from what is seen.

use std::error::Error;
use std::time::Duration;

use flocker_backends::Acquisition;
use flocker_backends::ContainerRuntime;
use flocker_backends::Handoff;
use flocker_backends::ReceiveRequest;
use flocker_backends::SendRequest;
use flocker_backends::VolumeBackend;
use flocker_backends::memory::Fault;
use flocker_backends::memory::MemoryNode;
use flocker_model::Epoch;
use flocker_model::RestartPolicy;
use flocker_model::Role;

use super::steps::{dataset, id, name, spec, two_nodes};

/// Does the next thing that brings the dataset and its container from alpha to beta; says whether all is done.
async fn go_on(alpha: &MemoryNode, beta: &MemoryNode) -> Result<bool, Box<dyn Error>> {
    let at_alpha = alpha.volumes().inventory().await?.datasets.remove(&id());
    let at_beta = beta.volumes().inventory().await?.datasets.remove(&id());
    if let Some(Role::Primary { .. }) = at_beta.as_ref().map(|copy| &copy.role) {
        beta.runtime().start(&spec(beta, RestartPolicy::Never)).await?;
        return Ok(true);
    }
    let Some(at_alpha) = at_alpha else {
        alpha.volumes().create(&dataset(), Epoch::FIRST).await?;
        return Ok(false);
    };
    match at_alpha.role {
        Role::Primary { .. } if alpha.volumes().read(id(), "journal").is_none() => {
            alpha.runtime().start(&spec(alpha, RestartPolicy::Never)).await?;
            alpha.volumes().append(id(), "journal", &vec![7; 30_000])?;
        }
        Role::Primary { .. } => {
            alpha.runtime().stop(&name(), Duration::ZERO).await?;
            let handoff = Handoff {
                dataset: id(),
                epoch: Epoch(2),
                to: beta.name().clone(),
                last: "handoff-2".parse()?,
            };
            alpha.volumes().release(&handoff).await?;
        }
        Role::Released { last, guid, .. } => {
            let request = SendRequest {
                dataset: id(),
                snapshot: last.clone(),
                base: None,
                resume: at_beta.and_then(|copy| copy.partial).map(|partial| partial.token),
            };
            let stream = alpha.volumes().send(&request).await?;
            let request = ReceiveRequest {
                dataset: dataset(),
                snapshot: last.clone(),
                base: None,
            };
            beta.volumes().receive(&request, stream).await?;
            let acquisition = Acquisition {
                dataset: id(),
                epoch: Epoch(2),
                from: last,
                guid: Some(guid),
            };
            beta.volumes().acquire(&acquisition).await?;
        }
        Role::Replica => return Err("alpha was never to receive".into()),
    }
    Ok(false)
}

#[tokio::test]
async fn a_move_survives_every_fault_at_every_effect() {
    let mut n_histories = 0;
    for fault in [
        Fault::Fail,
        Fault::DiskFull,
        Fault::LoseReply,
        Fault::KillBefore,
        Fault::KillAfter,
        Fault::PowerLossBefore,
        Fault::PowerLossAfter,
    ] {
        for (n_alpha, n_beta) in (1..=6).map(|n| (n, 0)).chain((1..=6).map(|n| (0, n))) {
            let (observer, alpha, beta) = two_nodes();
            alpha.faults().script([(n_alpha, fault)].into());
            beta.faults().script([(n_beta, fault)].into());
            let mut turns = 0;
            while !matches!(go_on(&alpha, &beta).await, Ok(true)) {
                turns += 1;
                assert!(turns < 20, "{fault:?} at {n_alpha}/{n_beta} never ends");
                alpha.restart();
                beta.restart();
            }
            assert_eq!(observer.violations(), [], "{fault:?} at {n_alpha}/{n_beta}");
            assert_eq!(observer.writers(id()), [beta.name().clone()].into());
            assert_eq!(beta.volumes().read(id(), "journal").unwrap(), vec![7; 30_000]);
            n_histories += 1;
        }
    }
    assert_eq!(n_histories, 84);
}
