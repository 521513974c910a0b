//! What every transport promises.

use std::sync::Arc;

use async_trait::async_trait;
use flocker_model::NodeAddress;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

use crate::transport::Purpose;
use crate::transport::Transport;
use crate::transport::TransportError;

/// Two nodes and a way between them, on which the promises are tried out.
#[async_trait]
pub trait TransportHarness: Send + Sync {
    /// Returns the transport.
    fn transport(&self) -> Arc<dyn Transport>;

    /// Returns the address of a node that sends back every byte, and ends what it sends when it has read all.
    async fn echo(&self) -> NodeAddress;

    /// Returns an address of the right kind at which no node answers.
    fn nobody(&self) -> NodeAddress;

    /// Returns an address of a kind that the transport does not know.
    fn unsupported(&self) -> NodeAddress;
}

/// Declares a test for every promise of [`Transport`]; give it an expression that makes a [`TransportHarness`].
#[macro_export]
macro_rules! transport_conformance {
    ($harness:expr) => {
        $crate::conformance_tests! { $crate::conformance::transport, $harness,
            bytes_arrive_in_both_directions
            the_end_of_one_direction_arrives
            channels_do_not_touch_each_other
            where_nobody_answers_is_unreachable
            an_address_of_another_kind_is_unsupported
        }
    };
}

/// What is written at one end is read at the other, for either purpose.
pub async fn bytes_arrive_in_both_directions(harness: &dyn TransportHarness) {
    let echo = harness.echo().await;
    for purpose in [Purpose::Control, Purpose::Transfer] {
        let mut channel = harness.transport().open(&echo, purpose).await.unwrap();
        for text in [b"first".as_slice(), b"\0\n\r\x04\x11\x1b\xff"] {
            channel.write_all(text).await.unwrap();
            channel.flush().await.unwrap();
            let mut answer = vec![0; text.len()];
            channel.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer, text);
        }
    }
}

/// Whoever has no more to say can say so and go on listening; more than fits into any buffer passes.
pub async fn the_end_of_one_direction_arrives(harness: &dyn TransportHarness) {
    let echo = harness.echo().await;
    let channel = harness.transport().open(&echo, Purpose::Transfer).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(channel);
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(3 << 20).collect();
    let write = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    let mut answer = Vec::new();
    let read = async { reader.read_to_end(&mut answer).await.unwrap() };
    let ((), n_read) = tokio::join!(write, read);
    assert_eq!(n_read, sent.len());
    assert!(answer == sent, "what came back differs");
}

/// What is said on one channel is not heard on another.
pub async fn channels_do_not_touch_each_other(harness: &dyn TransportHarness) {
    let echo = harness.echo().await;
    let mut first = harness.transport().open(&echo, Purpose::Control).await.unwrap();
    let mut second = harness.transport().open(&echo, Purpose::Control).await.unwrap();
    for (channel, text) in [(&mut first, b"1"), (&mut second, b"2")] {
        channel.write_all(text).await.unwrap();
        channel.flush().await.unwrap();
    }
    let mut answer = [0];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"1");
    drop(first);
    second.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"2");
}

/// A node that is not there is told as such, at once or at the first byte.
pub async fn where_nobody_answers_is_unreachable(harness: &dyn TransportHarness) {
    match harness
        .transport()
        .open(&harness.nobody(), Purpose::Control)
        .await
    {
        Err(failure) => assert!(matches!(failure, TransportError::Unreachable { .. }), "{failure}"),
        // A program that reaches out, such as `ssh`, is there before it knows.
        Ok(mut channel) => {
            let mut answer = [0];
            let read = channel.read(&mut answer).await;
            assert!(matches!(read, Ok(0) | Err(_)), "somebody answered");
        }
    }
}

/// An address that means nothing to the transport is refused, not guessed at.
pub async fn an_address_of_another_kind_is_unsupported(harness: &dyn TransportHarness) {
    let Err(refusal) = harness
        .transport()
        .open(&harness.unsupported(), Purpose::Control)
        .await
    else {
        panic!("it was opened");
    };
    assert!(matches!(refusal, TransportError::Unsupported { .. }), "{refusal}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_promise_is_in_the_list_of_tests() {
        let source = include_str!("transport.rs");
        let promises: Vec<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next())
            .collect();
        assert!(!promises.is_empty());
        for promise in promises {
            assert!(
                source.lines().any(|line| line.trim() == promise),
                "`{promise}` is never tried"
            );
        }
    }
}
