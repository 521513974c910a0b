//! The receiving end of a transfer.

use std::io;

use flocker_backends::Change;
use flocker_backends::Channel;
use flocker_backends::ReceiveRequest;
use flocker_model::ByteSize;
use tokio::io::ReadHalf;
use tokio::io::WriteHalf;
use tokio::sync::Notify;
use tokio::sync::mpsc;

use super::LocalNode;
use super::admission::Admitted;
use super::turns::Subject;
use super::turns::Use;
use crate::clock;
use crate::node::Pass;
use crate::node_error::NodeError;
use crate::wire;
use crate::wire::Arrival;
use crate::wire::FrameReader;
use crate::wire::FrameWriter;
use crate::wire::FromSender;
use crate::wire::Incoming;
use crate::wire::Piece;
use crate::wire::ToSender;
use crate::wire::WireError;

/// How many chunks are read ahead of the volume that takes them.
const AHEAD: usize = 8;

impl LocalNode {
    /// Takes one transfer in and tells its sender how it went.
    ///
    /// A sender that says something senseless, or goes away, leaves a partial copy at most.
    /// Where it came in by a door, `only` is the one pass that is good there.
    pub(crate) async fn arrive(
        &self,
        mut reader: FrameReader<ReadHalf<Channel>>,
        mut writer: FrameWriter<WriteHalf<Channel>>,
        only: Option<Pass>,
    ) -> Result<(), WireError> {
        let limit = self.parts.deadlines.answer;
        let first = clock::timeout(limit, reader.next())
            .await
            .map_err(|_| WireError::Silent(limit))??;
        let arrival = match first {
            Some(Incoming::Message(text)) => match wire::read("the beginning of a transfer", &text)? {
                FromSender::Arrival(arrival) => arrival,
                FromSender::End { .. } => {
                    return Err(WireError::Unexpected {
                        what: "the end of a transfer",
                    });
                }
            },
            Some(_) => return Err(WireError::Unexpected { what: "a frame" }),
            None => return Err(WireError::Closed),
        };
        let pass = arrival.pass()?;
        let verdict = match self.redeem(pass, only, &arrival) {
            Ok(admitted) => self.take_in(&arrival, &admitted, &mut reader, &mut writer).await,
            Err(refusal) => Err(refusal),
        };
        let say = match verdict {
            Ok(change) => ToSender::Received(change),
            Err(error) => ToSender::Failed(error),
        };
        self.last_word(&say, reader, writer).await
    }

    /// Tells a sender how it went, and ends the connection.
    pub(super) async fn last_word(
        &self,
        say: &ToSender,
        mut reader: FrameReader<ReadHalf<Channel>>,
        mut writer: FrameWriter<WriteHalf<Channel>>,
    ) -> Result<(), WireError> {
        let last = async {
            writer.message(&wire::write(say)?).await?;
            writer.flush().await?;
            writer.close().await?;
            // What was sent in vain is read away, so that the verdict is not lost with a connection that is reset.
            while let Ok(Some(_)) = reader.next().await {}
            Ok(())
        };
        let limit = self.parts.deadlines.answer;
        clock::timeout(limit, last).await.unwrap_or(Ok(()))
    }

    fn redeem(&self, pass: Pass, only: Option<Pass>, arrival: &Arrival) -> Result<Admitted, NodeError> {
        // A ticket that is presented at another's door stays good at its own.
        if only.is_some_and(|only| only != pass) {
            return Err(NodeError::NotAdmitted {
                reason: "its ticket is not the one of the door that it came in by".into(),
            });
        }
        self.admissions.redeem(pass, arrival.dataset, &arrival.snapshot)
    }

    async fn take_in(
        &self,
        arrival: &Arrival,
        admitted: &Admitted,
        reader: &mut FrameReader<ReadHalf<Channel>>,
        writer: &mut FrameWriter<WriteHalf<Channel>>,
    ) -> Result<Change, NodeError> {
        let entry = self.enter(admitted.generation).await?;
        let subject = Subject::Dataset(arrival.dataset);
        let patience = self.parts.deadlines.answer;
        let _turn = self.turns.take(subject, Use::Alone, patience).await?;
        let request = ReceiveRequest {
            dataset: admitted.transfer.dataset.clone(),
            snapshot: admitted.transfer.snapshot.clone(),
            base: admitted.transfer.base,
        };
        let (sender, stream) = wire::chunk_pipe(AHEAD);
        let receive = self.parts.volumes.receive(&request, Box::pin(stream));
        let pump = self.pump(reader, sender);
        tokio::pin!(pump);
        // What arrives is handed over until the volume has all it wants. A
        // stream that ends does not end the transfer: the volume says when it
        // is durable. A sender that is gone ends the stream with an error.
        let limit = self.parts.deadlines.work;
        let take = async {
            tokio::pin!(receive);
            tokio::select! {
                biased;
                received = &mut receive => return Ok(received),
                () = &mut pump => {}
            }
            clock::timeout(limit, receive).await
        };
        let work = async {
            tokio::select! {
                biased;
                taken = take => match taken {
                    Ok(received) => received.map_err(|error| NodeError::backend(&error)),
                    Err(_) => Err(NodeError::Deadline {
                        what: format!("the volume to take snapshot {} in", arrival.snapshot),
                        after: limit,
                    }),
                },
                refusal = entry.superseded() => Err(refusal),
            }
        };
        self.with_signs_of_life(writer, work).await
    }

    /// Hands chunks over until the sender says that all was sent, or something goes wrong.
    pub(super) async fn pump(
        &self,
        reader: &mut FrameReader<ReadHalf<Channel>>,
        sender: mpsc::Sender<Piece>,
    ) {
        let stall = self.parts.deadlines.stall;
        let mut n_bytes = ByteSize(0);
        let cut = loop {
            let incoming = match clock::timeout(stall, reader.next()).await {
                Ok(Ok(Some(incoming))) => incoming,
                Ok(Ok(None)) => break WireError::Closed,
                Ok(Err(error)) => break error,
                Err(_) => break WireError::Silent(stall),
            };
            let chunk = match incoming {
                Incoming::Chunk(chunk) => chunk,
                Incoming::Packed(packed) => match wire::unpack(&packed) {
                    Ok(chunk) => chunk,
                    Err(error) => break error,
                },
                Incoming::Message(text) => match wire::read("the end of a transfer", &text) {
                    Ok(FromSender::End { bytes }) if bytes == n_bytes => {
                        drop(sender.send(Piece::End).await);
                        return;
                    }
                    Ok(FromSender::End { .. }) => {
                        break WireError::Invalid {
                            what: "the length of a transfer",
                        };
                    }
                    Ok(FromSender::Arrival(_)) => {
                        break WireError::Unexpected {
                            what: "a second transfer",
                        };
                    }
                    Err(error) => break error,
                },
                Incoming::Hello(_) | Incoming::Output { .. } => {
                    break WireError::Unexpected { what: "a frame" };
                }
            };
            n_bytes = n_bytes.plus(ByteSize(chunk.len() as u64));
            let hand_over = sender.send(Piece::Bytes(chunk));
            // A volume that takes no more has said why, or never will.
            let Ok(Ok(())) = clock::timeout(self.parts.deadlines.work, hand_over).await else {
                return;
            };
        };
        // Who reads it may have stopped reading; then it is of no use to anybody.
        drop(sender.send(Piece::Broken(io::Error::other(cut))).await);
    }

    /// Does what takes long, and tells the sender meanwhile that this side still works.
    pub(super) async fn with_signs_of_life<T>(
        &self,
        writer: &mut FrameWriter<WriteHalf<Channel>>,
        work: impl Future<Output = T>,
    ) -> T {
        let done = Notify::new();
        let signs = self.signs_of_life(writer, &done);
        tokio::pin!(work, signs);
        tokio::select! {
            biased;
            verdict = &mut work => {
                // A sign that is half written is written to its end, so that the verdict can follow it.
                done.notify_one();
                signs.await;
                verdict
            }
            () = &mut signs => work.await,
        }
    }

    /// Tells the sender now and then that this side still works; returns when it cannot be told, or when all is done.
    async fn signs_of_life(&self, writer: &mut FrameWriter<WriteHalf<Channel>>, done: &Notify) {
        let Ok(working) = wire::write(&ToSender::Working) else {
            return;
        };
        let tell = async {
            loop {
                tokio::select! {
                    biased;
                    () = done.notified() => return Ok(()),
                    () = tokio::time::sleep(self.parts.deadlines.keep_alive) => {}
                }
                clock::timeout(self.parts.deadlines.stall, writer.message(&working))
                    .await
                    .map_err(|_| WireError::Silent(self.parts.deadlines.stall))??;
                writer.flush().await?;
            }
        };
        // That the sender cannot be told shows in what it sends, too; the transfer is judged by that.
        let told: Result<(), WireError> = tell.await;
        drop(told);
    }
}
