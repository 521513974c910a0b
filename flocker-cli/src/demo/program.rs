//! The program that the demonstration moves: it numbers records and never loses one that it has acknowledged.
//!
//! It speaks lines over TCP: `append <client> <number>` is answered by
//! `ok <sequence>` once the record is on disk, and again by the same sequence
//! when it is sent again; `count` by `count <records>`; `list` by one line for
//! each record and `end`. Anything else is answered by `error <reason>`.

mod store;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use tokio::io::AsyncBufReadExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::io::BufStream;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::task::JoinSet;

use crate::error::Failure;
pub(super) use store::RECORDS;
use store::Store;

/// How long a line may be.
const LINE: u64 = 256;

/// What a request wants.
#[derive(Debug, PartialEq, Eq)]
enum Request<'a> {
    Append { client: &'a str, number: u64 },
    Count,
    List,
}

/// Serves the records of a directory until asked to end, or until the disk fails.
///
/// Where the directory has none yet, that many records of filling are made first.
pub(crate) async fn run(listen: SocketAddr, volume: &Path, filling: u64) -> Result<(), Failure> {
    let failed = |what: &str| Failure::failed(format!("could not {what}"));
    let mut terminate =
        signal(SignalKind::terminate()).map_err(|error| failed("wait for signals").because(&error))?;
    let store = Store::open(volume, filling).map_err(|error| failed("open the records").because(&error))?;
    let store = Arc::new(Mutex::new(store));
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|error| failed(&format!("listen on {listen}")).because(&error))?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(BufStream::new(stream), Arc::clone(&store)));
                }
            }
            Some(ended) = connections.join_next() => {
                // After a failed write nobody knows what is on disk; the next start finds out.
                if let Ok(Err(error)) = ended {
                    return Err(failed("write a record").because(&error));
                }
            }
        }
    }
}

/// Serves one connection. Only a failure of the disk is an error.
async fn serve(mut stream: BufStream<TcpStream>, store: Arc<Mutex<Store>>) -> std::io::Result<()> {
    loop {
        let mut line = Vec::new();
        let read = (&mut stream).take(LINE).read_until(b'\n', &mut line).await;
        if read.is_err() || line.last() != Some(&b'\n') {
            return Ok(());
        }
        let answer = match std::str::from_utf8(&line)
            .map_err(|_| "it is not text")
            .and_then(parse)
        {
            Ok(request) => answer(
                &mut store.lock().unwrap_or_else(PoisonError::into_inner),
                &request,
            )?,
            Err(reason) => format!("error {reason}\n"),
        };
        let sent = async {
            stream.write_all(answer.as_bytes()).await?;
            stream.flush().await
        };
        if sent.await.is_err() {
            return Ok(());
        }
    }
}

fn parse(line: &str) -> Result<Request<'_>, &'static str> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    match words[..] {
        ["append", client, number] => {
            if !client
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            {
                return Err("a client is named by letters, digits and `-`");
            }
            let number = number
                .parse()
                .map_err(|_| "the second argument must be a number")?;
            Ok(Request::Append { client, number })
        }
        ["count"] => Ok(Request::Count),
        ["list"] => Ok(Request::List),
        _ => Err("it is none of `append CLIENT NUMBER`, `count` and `list`"),
    }
}

fn answer(store: &mut Store, request: &Request<'_>) -> std::io::Result<String> {
    Ok(match *request {
        Request::Append { client, number } => format!("ok {}\n", store.append(client, number)?),
        Request::Count => format!("count {}\n", store.records().count()),
        Request::List => {
            let mut lines: Vec<String> = store.records().map(|record| record.to_string()).collect();
            lines.push("end\n".into());
            lines.join("\n")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_of_three_requests() {
        assert_eq!(
            parse("append a-1 7\n"),
            Ok(Request::Append {
                client: "a-1",
                number: 7
            })
        );
        assert_eq!(parse("count\r\n"), Ok(Request::Count));
        assert_eq!(parse("list\n"), Ok(Request::List));
        for wrong in [
            "\n",
            "append a\n",
            "append a b\n",
            "append a/b 1\n",
            "append a 1 2\n",
            "drop\n",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
