//! The transitions: the real node, put together from a value, told one thing, and made a value again.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use flocker_backends::memory::MemoryNetwork;
use flocker_backends::memory::MemoryNode;
use flocker_backends::memory::Observer;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::NodeState;
use flocker_plan::Action;
use flocker_plan::Plan;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::world::Machine;
use super::world::World;
use crate::clock::Deadlines;
use crate::local::LocalNode;
use crate::local::NoForeignPorts;
use crate::local::NodeParts;
use crate::node::NodeHandle as _;
use crate::node::Order;
use crate::node::Transfer;
use crate::node::Unwatched;
use crate::record::MemoryRecord;
use crate::record::NodeRecord;
use crate::record::RecordStore as _;
use crate::serve::serve;
use crate::sim::cluster;
use crate::sim::script;
use crate::sim::script::Wishes;

/// The file in which the application writes its records, a byte each.
const JOURNAL: &str = "journal";

/// After how many bytes on the way to the receiver a stream breaks: after its first frame, before its last.
const HALF_WAY: u64 = 420;

/// How long a receiver may be busy after a push, by a clock that only moves when nothing else does.
const LAST_DOINGS: std::time::Duration = std::time::Duration::from_secs(3600);

/// Whether a stream breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Never,
    HalfWay,
}

/// A node, put together.
struct Rig {
    memory: MemoryNode,
    record: Arc<MemoryRecord>,
    local: Arc<LocalNode>,
}

pub(super) fn address(number: usize) -> IpAddr {
    [192, 0, 2, u8::try_from(number).unwrap_or(0) + 1].into()
}

pub(super) fn dataset() -> DatasetId {
    Wishes::at(&[None])
        .dataset(0)
        .unwrap_or(DatasetId(uuid::Uuid::nil()))
}

/// Leaves out the ports: routes are not what is searched here, and every node would take a step for each.
pub(super) fn without_ports(deployment: &Deployment) -> Deployment {
    let members = deployment.members().iter();
    let mut builder = members.fold(Deployment::builder(), |builder, (name, member)| {
        builder.node(name.clone(), member.clone())
    });
    for (name, application) in deployment.applications() {
        let mut application = application.clone();
        application.ports.clear();
        builder = builder.application(name.clone(), application);
        for home in deployment.homes(name) {
            builder = builder.place(name, home);
        }
    }
    builder.build().unwrap_or_default()
}

/// Runs one transition to its end. The clock stands still while anything can go on.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
    }
    RUNTIME.with(|runtime| {
        let runtime = runtime.get_or_init(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime without input and output can always be made")
        });
        runtime.block_on(work)
    })
}

fn rig(number: usize, memory: MemoryNode, record: &NodeRecord, network: &MemoryNetwork) -> Rig {
    let name = script::node(number);
    let store = Arc::new(MemoryRecord::default());
    // A record in memory cannot fail to be saved.
    drop(store.save(record));
    let parts = NodeParts {
        reached_at: cluster::address(&name),
        address: memory.address(),
        boot: memory.boot(),
        volumes: Arc::new(memory.volumes()),
        runtime: Arc::new(memory.runtime()),
        router: Arc::new(memory.router()),
        transport: Arc::new(network.transport(cluster::directory(&name))),
        record: Arc::clone(&store) as _,
        foreign_ports: Arc::new(NoForeignPorts),
        deadlines: Deadlines::default(),
        name,
    };
    Rig {
        local: Arc::new(LocalNode::new(parts).expect("a record in memory can always be read")),
        memory,
        record: store,
    }
}

/// Puts a node of a world together. The observer notes what must never be tried on it.
fn revive(world: &World, number: usize, network: &MemoryNetwork, observer: &Observer) -> Rig {
    let machine = &world.nodes[number];
    let memory = MemoryNode::new(script::node(number), address(number), observer);
    memory.become_as(&machine.picture);
    rig(number, memory, &machine.record, network)
}

/// Makes a value of a node again.
async fn still(rig: &Rig) -> Machine {
    let record = rig.record.load().ok().flatten().expect("it was saved");
    let state = rig
        .local
        .observe()
        .await
        .expect("a node in memory can be looked at");
    let contents = rig.memory.contents();
    let journal = contents.get(&dataset()).and_then(|files| files.get(JOURNAL));
    Machine::new(rig.memory.picture(), record, state, journal.map_or(0, Vec::len))
}

/// Makes a value of a node on which there is nothing yet.
pub(super) fn machine(number: usize, memory: MemoryNode, record: &NodeRecord) -> Machine {
    block_on(async { still(&rig(number, memory, record, &MemoryNetwork::new())).await })
}

/// Returns what a look at a node shows.
pub(super) fn look(world: &World, node: usize) -> NodeState {
    NodeState::clone(&world.nodes[node].state)
}

pub(super) fn is_push(plan: &Plan, position: usize) -> bool {
    matches!(plan.steps()[position].action, Action::Push { .. })
}

fn number_of(world: &World, name: &flocker_model::NodeName) -> Option<usize> {
    (0..world.n_nodes()).find(|number| script::node(*number) == *name)
}

/// Lets a node carry one order out, and says whether it did.
pub(super) fn carry(world: &mut World, plan: &Plan, desired: &Deployment, position: usize, cut: Cut) -> bool {
    let step = &plan.steps()[position];
    let Some(actor) = number_of(world, &step.actor) else {
        return false;
    };
    let mut order = Order::new(step.action.clone(), plan.generation());
    if let Action::Start { application, .. } | Action::Prepare { application, .. } = &step.action {
        order.application = desired.application(application).cloned();
    }
    let network = MemoryNetwork::new();
    let observer = Observer::default();
    let rig = revive(world, actor, &network, &observer);
    let (done, changed) = block_on(async {
        if let Action::Push {
            dataset,
            snapshot,
            base,
            to,
        } = &step.action
        {
            let Some(to) = number_of(world, to) else {
                return (false, Vec::new());
            };
            let receiver = revive(world, to, &network, &observer);
            let transfer = Transfer {
                dataset: dataset.clone(),
                snapshot: snapshot.clone(),
                base: base.as_ref().map(|base| base.guid),
                sender: None,
            };
            let done = push(&rig, &receiver, &network, order, &transfer, cut).await;
            (
                done,
                vec![(actor, still(&rig).await), (to, still(&receiver).await)],
            )
        } else {
            let done = rig.local.perform(&order, &Unwatched).await.is_ok();
            (done, vec![(actor, still(&rig).await)])
        }
    });
    for (node, machine) in changed {
        world.replace(node, machine);
    }
    forbid(world, &observer);
    done
}

async fn push(
    rig: &Rig,
    receiver: &Rig,
    network: &MemoryNetwork,
    mut order: Order,
    transfer: &Transfer,
    cut: Cut,
) -> bool {
    let directory = cluster::directory(receiver.memory.name());
    let mut acceptor = network.listen(&directory);
    let local = Arc::clone(&receiver.local);
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        if let Some(incoming) = acceptor.accept().await {
            // A connection that ends badly is the concern of who opened it.
            drop(serve(incoming.channel, local).await);
        }
    });
    let Ok(ticket) = receiver.local.admit(transfer, order.generation).await else {
        return false;
    };
    order.ticket = Some(ticket);
    if cut == Cut::HalfWay {
        network.cut_after(cluster::directory(rig.memory.name()), &directory, HALF_WAY);
    }
    let done = rig.local.perform(&order, &Unwatched).await.is_ok();
    // What the receiver still does, it does before anything else happens; where nobody came to it, it does nothing.
    let at_last = async { while serving.join_next().await.is_some() {} };
    drop(tokio::time::timeout(LAST_DOINGS, at_last).await);
    done
}

/// Takes note of what must never be tried.
fn forbid(world: &mut World, observer: &Observer) {
    if let Some(violation) = observer.violations().first() {
        world.break_by(violation.to_string());
    }
}

/// Takes the power of a node away, and boots it.
pub(super) fn cut_power(world: &mut World, node: usize) {
    let observer = Observer::default();
    let network = MemoryNetwork::new();
    let rig = revive(world, node, &network, &observer);
    rig.memory.reboot();
    let record = NodeRecord::clone(&world.nodes[node].record);
    // A new start of our program: the boot is another one.
    let again = self::rig(node, rig.memory, &record, &network);
    let machine = block_on(still(&again));
    world.replace(node, machine);
    forbid(world, &observer);
}

/// Lets the application write a record where it runs, and takes note that it was acknowledged.
pub(super) fn write(world: &mut World, node: usize) {
    let observer = Observer::default();
    let network = MemoryNetwork::new();
    let rig = revive(world, node, &network, &observer);
    if rig.memory.volumes().append(dataset(), JOURNAL, b"r").is_ok() {
        world.acknowledged += 1;
    }
    let machine = block_on(still(&rig));
    world.replace(node, machine);
    forbid(world, &observer);
}
