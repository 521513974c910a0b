//! Says arbitrary bytes to everything that listens to a peer.
//!
//! Nothing may panic, a frame that was understood is written as it came, and a
//! message that was understood is understood again. Then a whole node is told
//! the same bytes, on a control and on a transfer connection: it may refuse
//! them, and has to be there afterwards.

#![no_main]

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use flocker_backends::memory::MemoryNetwork;
use flocker_backends::memory::MemoryNode;
use flocker_engine::Deadlines;
use flocker_engine::LocalNode;
use flocker_engine::MemoryRecord;
use flocker_engine::NoForeignPorts;
use flocker_engine::NodeHandle;
use flocker_engine::NodeParts;
use flocker_engine::Order;
use flocker_engine::serve;
use flocker_engine::wire::Ask;
use flocker_engine::wire::Decoder;
use flocker_engine::wire::Frame;
use flocker_engine::wire::FromSender;
use flocker_engine::wire::Greeting;
use flocker_engine::wire::Hello;
use flocker_engine::wire::PROTOCOL;
use flocker_engine::wire::Pickup;
use flocker_engine::wire::Reply;
use flocker_engine::wire::Request;
use flocker_engine::wire::Say;
use flocker_engine::wire::ToSender;
use flocker_engine::wire::WrittenOrder;
use flocker_engine::wire::read;
use flocker_model::NodeAddress;
use flocker_model::NodeState;
use libfuzzer_sys::fuzz_target;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be made")
});

fuzz_target!(|data: &[u8]| {
    decode(data);
    for greeting in [
        Greeting::Control,
        Greeting::Transfer,
        Greeting::Relay,
        Greeting::Image,
    ] {
        RUNTIME.block_on(tell_a_node(greeting, data));
    }
});

fn decode(data: &[u8]) {
    let mut decoder = Decoder::default();
    let mut rest = data;
    for piece in data.chunks(7) {
        decoder.feed(piece);
        while let Ok(Some(frame)) = decoder.next_frame() {
            let written = frame.encode();
            assert!(rest.starts_with(&written), "a frame is written as it came");
            rest = &rest[written.len()..];
            match frame {
                Frame::Hello(bytes) | Frame::Part(bytes) | Frame::Last(bytes) => understand(&bytes),
                Frame::Chunk(_) | Frame::Packed(_) | Frame::Output { .. } => {}
            }
        }
    }
    understand(data);
}

fn understand(text: &[u8]) {
    again::<Hello>(text);
    again::<FromSender>(text);
    again::<ToSender>(text);
    again::<Pickup>(text);
    if let Some(Request {
        ask: Ask::Perform(order),
        ..
    }) = again(text)
        && let Ok(order) = Order::try_from(*order)
    {
        let written = serde_json::to_vec(&WrittenOrder::from(&order)).expect("an order can be written");
        let read: WrittenOrder = read("an order", &written).expect("what is written can be read");
        assert!(Order::try_from(read).is_ok());
    }
    if let Some(Reply {
        say: Say::State(state),
        ..
    }) = again(text)
    {
        // Refused or not, it is looked at without a panic.
        drop(NodeState::try_from(*state));
    }
}

fn again<T: serde::Serialize + serde::de::DeserializeOwned>(text: &[u8]) -> Option<T> {
    let message: T = read("a message", text).ok()?;
    let written = serde_json::to_vec(&message).expect("what was read can be written");
    Some(read("a message", &written).expect("what is written can be read"))
}

fn node() -> Arc<LocalNode> {
    let memory = MemoryNode::alone("alpha".parse().expect("it is a name"));
    let network = MemoryNetwork::new();
    let parts = NodeParts {
        name: memory.name().clone(),
        reached_at: NodeAddress::Local {
            directory: "/alpha".into(),
        },
        address: memory.address(),
        boot: memory.boot(),
        volumes: Arc::new(memory.volumes()),
        runtime: Arc::new(memory.runtime()),
        router: Arc::new(memory.router()),
        transport: Arc::new(network.transport("/alpha")),
        record: Arc::new(MemoryRecord::default()),
        foreign_ports: Arc::new(NoForeignPorts),
        deadlines: Deadlines {
            // A pipe for a push that there is not is kept no longer than this.
            answer: Duration::from_secs(1),
            closing: Duration::ZERO,
            ..Deadlines::default()
        },
    };
    Arc::new(LocalNode::new(parts).expect("a node can be made"))
}

async fn tell_a_node(greeting: Greeting, data: &[u8]) {
    let node = node();
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let serving = serve(Box::new(theirs), Arc::clone(&node));
    let telling = async {
        let (mut reader, mut writer) = tokio::io::split(ours);
        let hello = Hello {
            protocol: PROTOCOL,
            program: "fuzz".into(),
            greeting: Some(greeting),
        };
        let hello = serde_json::to_vec(&hello).expect("a greeting can be written");
        let tell = async {
            // Where the node has had enough, the rest is for nobody.
            drop(writer.write_all(&Frame::Hello(hello.into()).encode()).await);
            drop(writer.write_all(data).await);
            drop(writer.shutdown().await);
        };
        let listen = async {
            let mut heard = Vec::new();
            drop(reader.read_to_end(&mut heard).await);
        };
        tokio::join!(tell, listen);
    };
    let (served, ()) = tokio::join!(serving, telling);
    drop(served);
    assert!(node.observe().await.is_ok(), "the node is there afterwards");
}
