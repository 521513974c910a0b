//! The sending end of a transfer.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::BytesMut;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::Channel;
use flocker_backends::Purpose;
use flocker_backends::SendRequest;
use flocker_backends::transport::direct;
use flocker_backends::transport::direct::DoorAddress;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Manifestation;
use flocker_model::NodeName;
use flocker_model::Snapshot;
use flocker_model::SnapshotName;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::time::Instant;

use super::LocalNode;
use super::relays::Way;
use crate::clock;
use crate::fault::Fault;
use crate::node::Passage;
use crate::node::Progress;
use crate::node::Ticket;
use crate::node_error::NodeError;
use crate::pace::Pace;
use crate::packing::Packer;
use crate::wire;
use crate::wire::Arrival;
use crate::wire::Frame;
use crate::wire::FrameReader;
use crate::wire::FrameWriter;
use crate::wire::FromSender;
use crate::wire::Greeting;
use crate::wire::Incoming;
use crate::wire::ToSender;
use crate::wire::WireError;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// How long whoever is at a door may take to answer and to prove who it is; it is short, because there is another way.
const KNOCK: Duration = Duration::from_secs(5);

/// How long a copy goes on before it is worked out how much it is: who copies in the midst of a hand-off is done by then, and
/// nobody else is to be at work on that dataset.
const SOON: Duration = Duration::from_millis(200);

/// From how much on the backend is asked for the exact size. Less is there before anybody reads how much it is, and to ask is
/// work in the midst of a hand-off.
const LONG: ByteSize = ByteSize(64 << 20);

/// How long the receiver may take to say why it broke the pipe.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// One push.
pub(super) struct Push<'a> {
    pub(super) dataset: DatasetId,
    pub(super) snapshot: &'a SnapshotName,
    pub(super) base: Option<&'a Snapshot>,
    pub(super) to: &'a NodeName,
    pub(super) ticket: &'a Ticket,
    pub(super) bandwidth: Option<ByteSize>,
}

impl Push<'_> {
    /// Says whether its bytes leave this machine.
    fn leaves(&self) -> bool {
        match &self.ticket.passage {
            Passage::Own => false,
            Passage::Door(door) => !door.socket.ip().is_loopback(),
            Passage::Relay => true,
        }
    }

    fn lost(&self, error: &WireError) -> NodeError {
        NodeError::Lost {
            node: self.to.clone(),
            source: Fault::of(error),
        }
    }
}

impl LocalNode {
    /// Sends one snapshot and returns what its receiver says.
    pub(super) async fn push(&self, push: &Push<'_>, progress: &dyn Progress) -> Result<Change, NodeError> {
        let request = SendRequest {
            dataset: push.dataset,
            snapshot: push.snapshot.clone(),
            base: push.base.map(|base| base.guid),
            resume: push.ticket.resume.clone(),
        };
        let what = format!("the stream of snapshot {}", push.snapshot);
        let opened = self.parts.volumes.send(&request);
        let stream = self.within(what, self.parts.deadlines.work, opened);
        // An application may be waiting: neither waits for the other.
        let (way, stream) = tokio::try_join!(self.open_way(push), stream)?;
        let total = OnceLock::new();
        let estimate = async {
            tokio::time::sleep(SOON).await;
            self.estimate(push, &request, &total).await;
        };
        let transfer = self.transfer(push, way, stream, progress, &total);
        tokio::pin!(estimate, transfer);
        // The estimate is for people and never delays the bytes.
        tokio::select! {
            biased;
            change = &mut transfer => return change,
            () = &mut estimate => {}
        }
        transfer.await
    }

    /// Opens the connection to the receiver, by the passage that the ticket says.
    async fn open_way(&self, push: &Push<'_>) -> Result<Way, NodeError> {
        let limit = self.parts.deadlines.answer;
        let late = || NodeError::Deadline {
            what: format!("a connection to {}", push.to),
            after: limit,
        };
        let channel = match &push.ticket.passage {
            Passage::Own => {
                let transport = &self.parts.transport;
                let opened = transport.open(&push.ticket.address, Purpose::Transfer);
                clock::timeout(limit, opened)
                    .await
                    .map_err(|_| late())?
                    .map_err(|error| NodeError::Unreachable {
                        node: push.to.clone(),
                        source: Fault::of(&error),
                    })?
            }
            Passage::Door(door) => self.go_in(push.to, door).await?,
            Passage::Relay => {
                return self.relays.fetch(push.ticket.pass, limit).await.ok_or_else(late);
            }
        };
        let (reader, writer) = tokio::io::split(channel);
        Ok(Way {
            reader: FrameReader::new(reader),
            writer: FrameWriter::new(writer),
        })
    }

    /// Goes in by a door of another node.
    pub(super) async fn go_in(&self, node: &NodeName, door: &DoorAddress) -> Result<Channel, NodeError> {
        let limit = self.parts.deadlines.answer.min(KNOCK);
        let knocked = direct::connect(door, &self.sender_key()?, limit).await;
        knocked.map_err(|error| NodeError::NotDirect {
            node: node.clone(),
            source: Fault::of(&error),
        })
    }

    /// Works out how much there is to send, if that can be told.
    async fn estimate(&self, push: &Push<'_>, request: &SendRequest, total: &OnceLock<ByteSize>) {
        let Ok(Some(seen)) = self.parts.volumes.find(push.dataset).await else {
            return;
        };
        let all = to_send(&seen, push.snapshot, push.base);
        let left = all.map(|all| ByteSize(all.0.saturating_sub(push.ticket.received.0)));
        let is_short = left.is_some_and(|left| left < LONG);
        let asked = if is_short {
            None
        } else {
            self.parts.volumes.size_to_send(request).await.ok().flatten()
        };
        if let Some(size) = asked.or(left) {
            let _ = total.set(size);
        }
    }

    async fn transfer(
        &self,
        push: &Push<'_>,
        way: Way,
        stream: ByteStream,
        progress: &dyn Progress,
        total: &OnceLock<ByteSize>,
    ) -> Result<Change, NodeError> {
        let Way { reader, writer } = way;
        let meter = Meter::new(progress, total, push.bandwidth);
        let stall = self.parts.deadlines.stall;
        let spoken = OnceLock::new();
        let sending = send(push, writer, stream, &meter, &spoken, stall);
        let verdict = verdict(push, reader, &meter, &spoken, self.parts.deadlines.work, stall);
        tokio::pin!(sending, verdict);
        // The receiver may refuse, or have it already, before all was sent.
        let end = tokio::select! {
            biased;
            verdict = &mut verdict => return verdict,
            end = &mut sending => end,
        };
        match end {
            Ok(()) if is_planted(Bug::SentIsReceived) => Ok(Change::Made),
            Ok(()) => verdict.await,
            Err(Stopped::Here(error)) => Err(error),
            // What broke the pipe is better told by the receiver, if it still can.
            Err(Stopped::Pipe(error)) => match clock::timeout(LAST_WORDS, verdict).await {
                Ok(Err(error @ NodeError::Receiver { .. })) => Err(error),
                Ok(Ok(change)) => Ok(change),
                Ok(Err(_)) | Err(_) => Err(push.lost(&error)),
            },
        }
    }
}

/// Works out how much a snapshot is that the receiver has already the base of.
fn to_send(seen: &Manifestation, snapshot: &SnapshotName, base: Option<&Snapshot>) -> Option<ByteSize> {
    let Some(base) = base else {
        // The snapshots before it, which say what else there is, may be gone.
        return Some(seen.used);
    };
    let last = seen.snapshots.iter().position(|known| known.name == *snapshot)?;
    let base = seen.snapshots.iter().position(|known| known.guid == base.guid)?;
    let written = seen.snapshots.get(base + 1..=last)?.iter();
    Some(written.fold(ByteSize(0), |sum, snapshot| sum.plus(snapshot.written)))
}

/// What stopped the sending.
enum Stopped {
    /// Something on this side.
    Here(NodeError),
    /// The pipe.
    Pipe(WireError),
}

async fn send(
    push: &Push<'_>,
    mut writer: FrameWriter<WriteHalf<Channel>>,
    mut stream: ByteStream,
    meter: &Meter<'_>,
    spoken: &OnceLock<u32>,
    stall: Duration,
) -> Result<(), Stopped> {
    let mut packer = Packer::of_what_leaves(push.leaves()).map_err(Stopped::Here)?;
    let hello = wire::write(&wire::our_hello(Some(Greeting::Transfer))).map_err(Stopped::Pipe)?;
    let arrival = Arrival::new(push.ticket.pass, push.dataset, push.snapshot.clone());
    let arrival = wire::write(&FromSender::Arrival(arrival)).map_err(Stopped::Pipe)?;
    let begin = async {
        writer.frame(&Frame::Hello(hello.into())).await?;
        writer.message(&arrival).await?;
        writer.flush().await
    };
    let stalled = || {
        Stopped::Here(NodeError::Deadline {
            what: format!("{} to take the next bytes", push.to),
            after: stall,
        })
    };
    clock::timeout(stall, begin)
        .await
        .map_err(|_| stalled())?
        .map_err(Stopped::Pipe)?;
    let mut chunk = BytesMut::new();
    let most = meter.pace.most_at_once();
    loop {
        let read = clock::timeout(stall, wire::read_chunk(&mut stream, most, &mut chunk));
        let n_bytes = match read.await {
            Ok(Ok(n_bytes)) => n_bytes,
            Ok(Err(error)) => {
                return Err(Stopped::Here(NodeError::backend(
                    &flocker_backends::VolumeError::Io {
                        what: format!("read snapshot {} of dataset `{}`", push.snapshot, push.dataset),
                        source: error,
                    },
                )));
            }
            Err(_) => {
                return Err(Stopped::Here(NodeError::Deadline {
                    what: format!("the next bytes of snapshot {}", push.snapshot),
                    after: stall,
                }));
            }
        };
        if n_bytes == 0 {
            break;
        }
        // Until the receiver has introduced itself, it may be one that unpacks nothing.
        let may_pack = spoken.get().is_some_and(|version| *version >= wire::PASSAGES);
        let shrunk = packer
            .as_mut()
            .filter(|_| may_pack)
            .and_then(|packer| packer.pack(wire::chunk_bytes(&chunk)));
        let frame = shrunk.unwrap_or(&chunk);
        clock::timeout(stall, writer.chunk(frame))
            .await
            .map_err(|_| stalled())?
            .map_err(Stopped::Pipe)?;
        meter.passed(n_bytes, frame.len());
        meter.pace.after(meter.n_on_way()).await;
    }
    let end = wire::write(&FromSender::End { bytes: meter.done() }).map_err(Stopped::Pipe)?;
    let finish = async {
        writer.message(&end).await?;
        writer.flush().await
    };
    clock::timeout(stall, finish)
        .await
        .map_err(|_| stalled())?
        .map_err(Stopped::Pipe)?;
    meter.tell();
    Ok(())
}

/// Waits for what the receiver says. While it works, it says so, and that counts as progress.
async fn verdict(
    push: &Push<'_>,
    mut reader: FrameReader<ReadHalf<Channel>>,
    meter: &Meter<'_>,
    spoken: &OnceLock<u32>,
    work: Duration,
    stall: Duration,
) -> Result<Change, NodeError> {
    let mut greeted = false;
    let mut last_passed = clock::now();
    let mut n_passed = meter.done();
    loop {
        let next = clock::timeout(stall, reader.next());
        let incoming = match next.await {
            Ok(incoming) => incoming.map_err(|error| push.lost(&error))?,
            Err(_) => return Err(push.lost(&WireError::Silent(stall))),
        };
        let say = match incoming {
            Some(Incoming::Hello(text)) if !greeted => {
                let hello = wire::read("the greeting of a receiver", &text);
                let version = hello
                    .and_then(|hello| wire::check_hello(&hello))
                    .map_err(|error| NodeError::Protocol {
                        node: push.to.clone(),
                        source: Fault::of(&error),
                    })?;
                spoken.get_or_init(|| version);
                greeted = true;
                continue;
            }
            Some(Incoming::Message(text)) if greeted => wire::read::<ToSender>("what a receiver says", &text)
                .map_err(|error| NodeError::Protocol {
                    node: push.to.clone(),
                    source: Fault::of(&error),
                })?,
            Some(_) => {
                return Err(NodeError::Protocol {
                    node: push.to.clone(),
                    source: Fault::of(&WireError::Unexpected { what: "a frame" }),
                });
            }
            None => return Err(push.lost(&WireError::Closed)),
        };
        match say {
            ToSender::Working => {
                let done = meter.done();
                if done != n_passed {
                    n_passed = done;
                    last_passed = clock::now();
                } else if last_passed.elapsed() > work {
                    return Err(NodeError::Deadline {
                        what: format!("{} to take the snapshot in", push.to),
                        after: work,
                    });
                }
                meter.tell();
            }
            ToSender::Received(change) => {
                meter.tell();
                return Ok(change);
            }
            ToSender::Failed(error) => {
                return Err(NodeError::Receiver {
                    node: push.to.clone(),
                    source: Box::new(error),
                });
            }
        }
    }
}

/// Counts bytes, tells of them now and then, and slows them down where they are to be slow.
struct Meter<'a> {
    progress: &'a dyn Progress,
    total: &'a OnceLock<ByteSize>,
    pace: Pace,
    count: std::sync::Mutex<Count>,
}

struct Count {
    done: ByteSize,
    /// How many of them there were on the way, packed or not.
    n_on_way: u64,
    told: Instant,
}

impl<'a> Meter<'a> {
    fn new(progress: &'a dyn Progress, total: &'a OnceLock<ByteSize>, bandwidth: Option<ByteSize>) -> Self {
        Self {
            progress,
            total,
            pace: Pace::new(bandwidth),
            count: std::sync::Mutex::new(Count {
                done: ByteSize(0),
                n_on_way: 0,
                told: clock::now(),
            }),
        }
    }

    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.count
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn done(&self) -> ByteSize {
        self.count().done
    }

    fn passed(&self, n_bytes: usize, n_on_way: usize) {
        let is_due = {
            let mut count = self.count();
            count.done = count.done.plus(ByteSize(n_bytes as u64));
            count.n_on_way += n_on_way as u64;
            let now = clock::now();
            let is_due = now.duration_since(count.told) >= TELL;
            if is_due {
                count.told = now;
            }
            is_due
        };
        if is_due {
            self.tell();
        }
    }

    fn tell(&self) {
        self.progress.report(self.done(), self.total.get().copied());
    }

    /// Returns how many bytes there were on the way.
    fn n_on_way(&self) -> u64 {
        self.count().n_on_way
    }
}

#[cfg(test)]
mod tests {
    use flocker_model::Epoch;
    use flocker_model::Role;
    use flocker_model::SnapshotGuid;

    use super::*;

    #[test]
    fn a_full_copy_is_all_of_it_whatever_snapshots_are_left() {
        let snapshot = |number: u64| Snapshot {
            name: format!("warm-2-{number}").parse().unwrap(),
            guid: SnapshotGuid(number.into()),
            written: ByteSize(number * 10),
        };
        // The first ones were dropped, and nothing says any more how much was written before them.
        let seen = Manifestation {
            role: Role::Primary { epoch: Epoch(2) },
            snapshots: [2, 3, 4].map(snapshot).into(),
            maximum_size: None,
            used: ByteSize(5000),
            unsent: ByteSize(0),
            findings: None,
            partial: None,
            fence: Epoch(2),
            age: Duration::ZERO,
        };
        let last = snapshot(4);
        let bytes = |base: Option<Snapshot>| to_send(&seen, &last.name, base.as_ref());
        assert_eq!(bytes(None), Some(ByteSize(5000)));
        assert_eq!(bytes(Some(snapshot(2))), Some(ByteSize(70)));
        assert_eq!(bytes(Some(snapshot(3))), Some(ByteSize(40)));
        assert_eq!(bytes(Some(snapshot(4))), Some(ByteSize(0)));
        assert_eq!(bytes(Some(snapshot(1))), None);
    }
}
