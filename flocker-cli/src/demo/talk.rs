//! Talking to a program in lines, and to strangers in their own way.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufStream;
use tokio::net::TcpStream;

/// How long an answer may be.
const ANSWER: u64 = 64 * 1024;

/// How long to wait for an answer. A router may hold a connection for most of it while a program moves.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to the ledger.
#[derive(Debug)]
pub(super) struct Line(BufStream<TcpStream>);

impl Line {
    pub(super) async fn connect(address: Ipv4Addr, port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((address, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufStream::new(stream)))
    }

    /// Has a record written, and returns its sequence once it is acknowledged.
    pub(super) async fn append(&mut self, client: &str, number: u64) -> io::Result<u64> {
        let ask = async {
            let request = format!("append {client} {number}\n");
            self.0.write_all(request.as_bytes()).await?;
            self.0.flush().await?;
            let mut answer = String::new();
            (&mut self.0).take(ANSWER).read_line(&mut answer).await?;
            if !answer.ends_with('\n') {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let sequence = answer
                .strip_prefix("ok ")
                .and_then(|rest| rest.trim().parse().ok());
            sequence.ok_or_else(|| io::Error::other(answer.trim().to_owned()))
        };
        in_time(ask).await
    }
}

/// Sends a request, and reads until the other side has nothing more to say or `is_enough` of it came.
pub(super) async fn exchange(
    address: Ipv4Addr,
    port: u16,
    request: &[u8],
    is_enough: fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    let ask = async {
        let mut stream = TcpStream::connect((address, port)).await?;
        stream.write_all(request).await?;
        let mut answer = Vec::new();
        while !is_enough(&answer) && answer.len() < 64 * 1024 {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        Ok(answer)
    };
    in_time(ask).await
}

async fn in_time<T>(ask: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let answer = tokio::time::timeout(PATIENCE, ask).await;
    answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
