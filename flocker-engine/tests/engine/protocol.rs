//! The protocol from outside: versions, lengths, nonsense.

use std::sync::Arc;
use std::time::Duration;

use flocker_backends::Channel;
use flocker_backends::LogRequest;
use flocker_backends::Purpose;
use flocker_backends::Transport as _;
use flocker_engine::Deadlines;
use flocker_engine::NodeError;
use flocker_engine::NodeHandle;
use flocker_engine::RemoteNode;
use flocker_engine::one_line;
use flocker_engine::wire::Ask;
use flocker_engine::wire::Decoder;
use flocker_engine::wire::Frame;
use flocker_engine::wire::Greeting;
use flocker_engine::wire::Hello;
use flocker_engine::wire::MAX_FRAME;
use flocker_engine::wire::PROTOCOL;
use flocker_engine::wire::Reply;
use flocker_engine::wire::Request;
use flocker_engine::wire::Say;
use flocker_model::Epoch;
use flocker_plan::Action;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::cluster::Cluster;
use crate::cluster::OPERATOR;
use crate::cluster::address;
use crate::cluster::app;
use crate::cluster::dataset;
use crate::cluster::deadlines;
use crate::cluster::directory;
use crate::cluster::name;

/// A connection on which anything can be said.
pub(crate) struct Raw {
    channel: Channel,
    decoder: Decoder,
}

impl Raw {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            decoder: Decoder::default(),
        }
    }

    pub(crate) async fn greet(channel: Channel) -> Self {
        Self::greet_as(channel, Greeting::Control).await
    }

    pub(crate) async fn greet_as(channel: Channel, greeting: Greeting) -> Self {
        let mut raw = Self::new(channel);
        raw.hello(PROTOCOL, Some(greeting)).await;
        assert!(matches!(raw.next().await, Some(Frame::Hello(_))));
        raw
    }

    pub(crate) async fn hello(&mut self, protocol: (u32, u32), greeting: Option<Greeting>) {
        let hello = Hello {
            protocol,
            program: "9.9.9".into(),
            greeting,
        };
        let text = serde_json::to_vec(&hello).unwrap();
        self.send(&Frame::Hello(text.into()).encode()).await;
    }

    /// Writes bytes; that nobody takes them any more shows when the answer is read.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        drop(self.channel.write_all(bytes).await);
    }

    pub(crate) async fn say<T: serde::Serialize>(&mut self, message: &T) {
        let text = serde_json::to_vec(message).unwrap();
        self.send(&Frame::Last(text.into()).encode()).await;
    }

    pub(crate) async fn ask(&mut self, id: u64, ask: &Ask) {
        let request = Request { id, ask: ask.clone() };
        self.say(&request).await;
    }

    /// Returns the next frame, or nothing where the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut buffer = [0; 4096];
            match self.channel.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(n_bytes) => self.decoder.feed(&buffer[..n_bytes]),
            }
        }
    }

    pub(crate) async fn next_message(&mut self) -> Option<Vec<u8>> {
        match self.next().await? {
            Frame::Last(bytes) => Some(bytes.to_vec()),
            other => panic!("a message was expected, and {other:?} came"),
        }
    }
}

pub(crate) async fn open(cluster: &Cluster, purpose: Purpose) -> Channel {
    let transport = cluster.network.transport(OPERATOR);
    transport.open(&address("alpha"), purpose).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_a_node_is_arrives_as_it_is() {
    let cluster = Cluster::new(["alpha"]);
    let create = Action::Create {
        dataset: dataset(),
        epoch: Epoch::FIRST,
    };
    let start = cluster.start("alpha").await;
    cluster.perform("alpha", 3, [create, start]).await;
    let here = cluster.machine("alpha").node.observe().await.unwrap();
    assert_eq!(cluster.remote("alpha").observe().await.unwrap(), here);
    assert_eq!(here.datasets.len(), 1);
    assert_eq!(here.containers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_program_of_the_future_is_refused_and_told_why() {
    let cluster = Cluster::new(["alpha"]);
    let mut raw = Raw::new(open(&cluster, Purpose::Control).await);
    raw.hello((PROTOCOL.1 + 1, PROTOCOL.1 + 2), Some(Greeting::Control))
        .await;
    let Some(Frame::Hello(text)) = raw.next().await else {
        panic!("it does not introduce itself");
    };
    let hello: Hello = serde_json::from_slice(&text).unwrap();
    assert_eq!(hello.protocol, PROTOCOL);
    assert_eq!(raw.next().await, None, "and it ends the connection");
}

#[tokio::test(start_paused = true)]
async fn a_node_of_the_future_is_named_with_both_versions() {
    let cluster = Cluster::new(["alpha"]);
    let mut acceptor = cluster.network.listen("/nodes/future");
    let future = tokio::spawn(async move {
        let incoming = acceptor.accept().await.unwrap();
        let mut raw = Raw::new(incoming.channel);
        raw.hello((7, 8), None).await;
        raw.next().await
    });
    let node = RemoteNode::new(
        name("future"),
        address("future"),
        Arc::new(cluster.network.transport(OPERATOR)),
        deadlines(),
    );
    let error = node.observe().await.unwrap_err();
    assert!(matches!(error, NodeError::Protocol { .. }));
    let text = one_line(&error);
    assert!(
        text.contains("versions 7 to 8") && text.contains("9.9.9"),
        "{text}"
    );
    assert!(future.await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn nonsense_ends_its_connection_and_nothing_else() {
    let cluster = Cluster::new(["alpha"]);
    let alpha = cluster.remote("alpha");
    let too_long = u32::try_from(MAX_FRAME + 1).unwrap().to_be_bytes();
    let cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [&too_long[..], &[3]].concat(),
        vec![0, 0, 0, 0, 3],
        vec![0, 0, 0, 1, 77],
        Frame::Last("{}".into()).encode(),
        Frame::Last("[[[[".into()).encode(),
        Frame::Last(r#"{"id":1,"ask":"dance"}"#.into()).encode(),
        Frame::Last(vec![b'['; 100_000].into()).encode(),
        Frame::Chunk(vec![0; 10].into()).encode(),
        Frame::Hello("{}".into()).encode(),
        [
            Frame::Part("{".into()).encode(),
            Frame::Hello("{}".into()).encode(),
        ]
        .concat(),
    ];
    for case in cases {
        let mut raw = Raw::greet(open(&cluster, Purpose::Control).await).await;
        raw.send(&case).await;
        assert_eq!(raw.next().await, None, "{case:?}");
        let mut before_greeting = Raw::new(open(&cluster, Purpose::Control).await);
        before_greeting.send(&case).await;
        if let Some(frame) = before_greeting.next().await {
            assert!(matches!(frame, Frame::Hello(_)));
            assert_eq!(before_greeting.next().await, None, "{case:?}");
        }
        alpha.observe().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_listened_to_for_ever() {
    let cluster = Cluster::new(["alpha"]);
    let mut raw = Raw::new(open(&cluster, Purpose::Control).await);
    assert!(matches!(raw.next().await, Some(Frame::Hello(_))));
    assert_eq!(raw.next().await, None);
    let mut raw = Raw::greet(open(&cluster, Purpose::Transfer).await).await;
    raw.send(&[0, 0]).await;
    assert_eq!(raw.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_node_waits_as_long_as_it_was_told_to() {
    let answer = Duration::from_secs(3);
    let cluster = Cluster::with_deadlines(
        ["alpha"],
        Deadlines {
            answer,
            ..deadlines()
        },
    );
    let mut raw = Raw::new(open(&cluster, Purpose::Control).await);
    assert!(matches!(raw.next().await, Some(Frame::Hello(_))));
    let began = tokio::time::Instant::now();
    assert_eq!(raw.next().await, None);
    assert_eq!(began.elapsed().as_secs(), answer.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_message_of_many_frames_arrives_whole() {
    let cluster = Cluster::new(["alpha"]);
    let mut raw = Raw::greet(open(&cluster, Purpose::Control).await).await;
    let text = serde_json::to_vec(&Request {
        id: 5,
        ask: Ask::Observe,
    })
    .unwrap();
    let (first, rest) = text.split_at(3);
    raw.send(&Frame::Part(first.to_vec().into()).encode()).await;
    raw.send(&Frame::Last(rest.to_vec().into()).encode()).await;
    let reply: Reply = serde_json::from_slice(&raw.next_message().await.unwrap()).unwrap();
    assert!(matches!(
        reply,
        Reply {
            id: 5,
            say: Say::State(_)
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn a_node_is_reached_again_after_its_connection_broke() {
    let mut cluster = Cluster::new(["alpha"]);
    let alpha = cluster.remote("alpha");
    let first = alpha.observe().await.unwrap();
    cluster.network.cut(OPERATOR, directory("alpha"));
    // The call that finds the break may fail; the one after it may not.
    drop(alpha.observe().await);
    assert_eq!(alpha.observe().await.unwrap().id, first.id);
    cluster.restart("alpha");
    drop(alpha.observe().await);
    assert_eq!(alpha.observe().await.unwrap().id, first.id);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_does_not_hold_a_call_for_ever() {
    let cluster = Cluster::new(["alpha"]);
    let mut acceptor = cluster.network.listen("/nodes/mute");
    let mute = tokio::spawn(async move {
        let incoming = acceptor.accept().await.unwrap();
        let mut raw = Raw::greet_as(incoming.channel, Greeting::Control).await;
        // It reads, and never answers.
        while raw.next().await.is_some() {}
    });
    let node = RemoteNode::new(
        name("mute"),
        address("mute"),
        Arc::new(cluster.network.transport(OPERATOR)),
        deadlines(),
    );
    let began = tokio::time::Instant::now();
    let error = node.observe().await.unwrap_err();
    assert!(
        matches!(error, NodeError::Lost { .. } | NodeError::Deadline { .. }),
        "{error:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(120));
    drop(node);
    mute.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_output_of_an_application_comes_over_the_wire() {
    let cluster = Cluster::new(["alpha"]);
    let create = Action::Create {
        dataset: dataset(),
        epoch: Epoch::FIRST,
    };
    let start = cluster.start("alpha").await;
    cluster.perform("alpha", 1, [create, start]).await;
    let runtime = cluster.machine("alpha").memory.runtime();
    let line = "x".repeat(100_000);
    for _ in 0..8 {
        runtime.print(&app("mongodb"), &line);
    }
    let alpha = cluster.remote("alpha");
    let all = LogRequest {
        tail: None,
        follow: false,
    };
    let mut output = alpha.logs(&app("mongodb"), all).await.unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, format!("{line}\n").repeat(8));

    let follow = LogRequest {
        tail: Some(1),
        follow: true,
    };
    let mut output = alpha.logs(&app("mongodb"), follow).await.unwrap();
    runtime.print(&app("mongodb"), "news");
    let mut expected = vec![0; line.len() + 1 + "news\n".len()];
    output.read_exact(&mut expected).await.unwrap();
    assert!(expected.ends_with(b"x\nnews\n"));
    drop(output);

    let missing = alpha.logs(&app("nobody"), all).await;
    assert!(matches!(missing, Err(NodeError::Backend(_))));
}
