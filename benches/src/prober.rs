//! A client that writes to a Redis through a node, again and again, and knows when it was answered.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

/// How much it writes at a time.
pub const N_BYTES: usize = 4096;

/// How long it waits for an answer before it tries another connection.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long it waits for a connection before it tries another: what it sees is a multiple of this, where nobody is there to refuse it.
const CONNECTING: Duration = Duration::from_millis(50);

/// A client that writes until it is dropped.
#[derive(Debug)]
pub struct Prober {
    is_over: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Instant>>>,
    writing: Option<JoinHandle<()>>,
}

impl Prober {
    /// Starts one that writes so often where it is answered at once, and waits until it was answered.
    pub fn start(to: SocketAddr, writes_per_second: u32, within: Duration) -> io::Result<Self> {
        let every = Duration::from_secs(1) / writes_per_second.max(1);
        let is_over = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let writing = std::thread::spawn({
            let (is_over, answers) = (Arc::clone(&is_over), Arc::clone(&answers));
            move || {
                while !is_over.load(Ordering::SeqCst) {
                    // Whatever it was, the next connection is tried.
                    drop(write(to, every, &is_over, &answers));
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let prober = Self {
            is_over,
            answers,
            writing: Some(writing),
        };
        prober.answered_after(Instant::now(), within)?;
        Ok(prober)
    }

    /// Waits for the next answer after this, and returns how long after it came.
    pub fn answered_after(&self, moment: Instant, within: Duration) -> io::Result<Duration> {
        loop {
            let found = self.answers().into_iter().find(|answer| *answer > moment);
            if let Some(found) = found {
                return Ok(found - moment);
            }
            if moment.elapsed() > within {
                return Err(io::Error::other("nobody answers"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Returns the longest time without an answer that began or ended after this.
    #[must_use]
    pub fn longest_wait(&self, since: Instant) -> Duration {
        let answers = self.answers();
        let pairs = answers.windows(2).filter_map(|pair| match pair {
            [one, next] if *next > since => Some(*next - *one),
            _ => None,
        });
        pairs.max().unwrap_or_default()
    }

    /// Returns how many answers came after this.
    #[must_use]
    pub fn n_answers(&self, since: Instant) -> usize {
        self.answers().iter().filter(|answer| **answer > since).count()
    }

    fn answers(&self) -> Vec<Instant> {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(writing) = self.writing.take() {
            drop(writing.join());
        }
    }
}

/// Writes through one connection for as long as it is answered.
fn write(
    to: SocketAddr,
    every: Duration,
    is_over: &AtomicBool,
    answers: &Mutex<Vec<Instant>>,
) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, CONNECTING)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let value = "x".repeat(N_BYTES);
    let mut n = 0_u32;
    while !is_over.load(Ordering::SeqCst) {
        let began = Instant::now();
        let key = format!("key{:04}", n % 1000);
        let said = format!(
            "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${N_BYTES}\r\n{value}\r\n",
            key.len()
        );
        stream.write_all(said.as_bytes())?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        if &answer != b"+OK\r\n" {
            return Err(io::Error::other("it was refused"));
        }
        answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Instant::now());
        n += 1;
        std::thread::sleep(every.saturating_sub(began.elapsed()));
    }
    Ok(())
}
