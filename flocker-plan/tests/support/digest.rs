//! One number for one state: states with equal numbers are taken to be equal.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use flocker_model::{
    ClusterState, ContainerState, ContainerStatus, Health, Manifestation, NodeState, Observed, Role,
    Snapshot, Trashed,
};

/// Two hashes that begin differently, side by side.
struct Both(DefaultHasher, DefaultHasher);

impl Hasher for Both {
    fn finish(&self) -> u64 {
        self.0.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }
}

/// Returns 128 bits of everything that is seen; the order of trash is left out.
pub(crate) fn digest(state: &ClusterState) -> u128 {
    let mut both = Both(DefaultHasher::new(), DefaultHasher::new());
    both.1.write_u8(1);
    let ClusterState { nodes } = state;
    for (name, seen) in nodes {
        name.hash(&mut both);
        match seen {
            Observed::Known(seen) => node(seen, &mut both),
            Observed::Unknown(_) => both.write_u8(0),
        }
    }
    u128::from(both.0.finish()) << 64 | u128::from(both.1.finish())
}

fn node(seen: &NodeState, into: &mut Both) {
    let NodeState {
        id,
        boot: _,
        address: _,
        generation,
        key: _,
        datasets,
        containers,
        routes,
        trash,
        fences,
        unreadable,
        free,
        keeps,
        foreign_ports,
        peers,
        forgotten,
    } = seen;
    (
        id,
        generation,
        fences,
        unreadable,
        free,
        keeps,
        foreign_ports,
        forgotten,
    )
        .hash(into);
    routes.entries().hash(into);
    peers.len().hash(into);
    for (dataset, copy) in datasets {
        dataset.hash(into);
        manifestation(copy, into);
    }
    into.write_usize(containers.len());
    for (name, made) in containers {
        name.hash(into);
        container(made, into);
    }
    let mut pieces: BTreeMap<&str, Vec<&Trashed>> = BTreeMap::new();
    for piece in trash {
        pieces.entry(&piece.entry).or_default().push(piece);
    }
    into.write_usize(trash.len());
    for Trashed {
        entry,
        dataset,
        role,
        used,
        age,
    } in pieces.into_values().flatten()
    {
        (entry, dataset, used, age).hash(into);
        if let Some(role) = role {
            self::role(role, into);
        }
    }
}

fn manifestation(copy: &Manifestation, into: &mut Both) {
    let Manifestation {
        role,
        snapshots,
        maximum_size,
        used,
        unsent,
        findings,
        partial,
        fence,
        age,
    } = copy;
    self::role(role, into);
    into.write_usize(snapshots.len());
    for Snapshot { name, guid, written } in snapshots {
        (name, guid, written).hash(into);
    }
    let findings = findings.as_ref().map(|found| (&found.round, &found.altered));
    (maximum_size, used, unsent, findings, fence, age).hash(into);
    let partial = partial
        .as_ref()
        .map(|partial| (&partial.snapshot, partial.received));
    partial.hash(into);
}

fn role(role: &Role, into: &mut Both) {
    match role {
        Role::Primary { epoch } => (1_u8, epoch).hash(into),
        Role::Released {
            epoch,
            to,
            last,
            guid,
        } => (2_u8, epoch, to, last, guid).hash(into),
        Role::Replica => into.write_u8(3),
    }
}

fn container(made: &ContainerState, into: &mut Both) {
    let ContainerState {
        status,
        health,
        definition,
        dataset,
        address,
        stop_grace: _,
        restarts: _,
    } = made;
    let status = match status {
        ContainerStatus::Prepared => (1_u8, None),
        ContainerStatus::Running => (2, None),
        ContainerStatus::Restarting => (3, None),
        ContainerStatus::Exited { code } => (4, *code),
    };
    let health = match health {
        Health::NotChecked => 1_u8,
        Health::Healthy => 2,
        Health::Unhealthy => 3,
    };
    (status, health).hash(into);
    (definition, dataset, address).hash(into);
}
