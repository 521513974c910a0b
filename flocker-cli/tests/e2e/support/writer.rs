//! A client that goes on writing whatever happens.

use std::collections::BTreeMap;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::until;

const PORT: u16 = 7000;

/// Writes one record and returns its sequence.
pub(crate) fn append(address: Ipv4Addr, client: &str, number: u64) -> io::Result<u64> {
    send(&mut connect(address)?, client, number)
}

fn connect(address: Ipv4Addr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&(address, PORT).into(), Duration::from_secs(2))?;
    // A router holds a connection while there is nowhere to go; asking anew does no harm.
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(BufReader::new(stream))
}

fn send(stream: &mut BufReader<TcpStream>, client: &str, number: u64) -> io::Result<u64> {
    stream
        .get_mut()
        .write_all(format!("append {client} {number}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    let sequence = answer
        .strip_prefix("ok ")
        .and_then(|rest| rest.trim().parse().ok());
    sequence.ok_or_else(|| io::Error::other(format!("it answered {answer:?}")))
}

/// A client at work, until it is dropped.
pub(crate) struct Writer {
    acknowledged: Arc<Mutex<BTreeMap<u64, u64>>>,
    stop: Arc<AtomicBool>,
    work: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts to write through an address: each record until it is acknowledged, and then the next.
    pub(crate) fn start(address: Ipv4Addr) -> Self {
        let acknowledged: Arc<Mutex<BTreeMap<u64, u64>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (acknowledge, stopped) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        let work = std::thread::spawn(move || {
            let mut stream = None;
            let mut number = 1;
            while !stopped.load(Ordering::Relaxed) {
                let sent = match &mut stream {
                    Some(stream) => send(stream, "writer", number),
                    None => connect(address).and_then(|open| send(stream.insert(open), "writer", number)),
                };
                if let Ok(sequence) = sent {
                    acknowledge.lock().unwrap().insert(number, sequence);
                    number += 1;
                } else {
                    stream = None;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self {
            acknowledged,
            stop,
            work: Some(work),
        }
    }

    /// Returns the records that were acknowledged so far, with their sequences.
    pub(crate) fn acknowledged(&self) -> BTreeMap<u64, u64> {
        self.acknowledged.lock().unwrap().clone()
    }

    /// Returns once some more were acknowledged.
    #[track_caller]
    pub(crate) fn goes_on(&self) {
        let before = self.acknowledged().len();
        until("the client writes on", || {
            (self.acknowledged().len() > before + 3).then_some(())
        });
    }
}

/// Demands that each of these is in the records under its sequence, and nothing twice.
#[track_caller]
pub(super) fn check(acknowledged: &BTreeMap<u64, u64>, records: &str) {
    let mut found = BTreeMap::new();
    for line in records.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let words: Vec<&str> = line.split_whitespace().take(3).collect();
        let [sequence, client, number] = words[..] else {
            panic!("not a record: {line:?}")
        };
        let twice = found.insert(
            (client, number.parse::<u64>().unwrap()),
            sequence.parse::<u64>().unwrap(),
        );
        assert_eq!(twice, None, "twice: {line:?}");
    }
    assert!(!acknowledged.is_empty());
    for (number, sequence) in acknowledged {
        assert_eq!(found.get(&("writer", *number)), Some(sequence), "record {number}");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(work) = self.work.take() {
            work.join().ok();
        }
    }
}
