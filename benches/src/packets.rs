//! What packets see of a router: a client in one network, servers in another, and this one between them.

use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nix::libc::linger;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;
use serde::Deserialize;
use serde::Serialize;

use crate::child;

/// The address of the router as clients see it.
pub const ROUTER: [u8; 4] = [10, 1, 0, 1];

/// How long a client waits for a connection before it says that it was lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes both networks. This one becomes the router.
pub fn build() -> io::Result<()> {
    for (name, number) in [("server", 0), ("client", 1)] {
        child::call(&format!("ip netns add {name}"))?;
        child::call(&format!(
            "ip link add {name} type veth peer name eth0 netns {name}"
        ))?;
        child::call(&format!("ip addr add 10.{number}.0.1/24 dev {name}"))?;
        child::call(&format!("ip link set {name} up"))?;
        child::call(&format!("ip -n {name} addr add 10.{number}.0.2/24 dev eth0"))?;
        child::call(&format!("ip -n {name} link set eth0 up"))?;
        child::call(&format!("ip -n {name} route add default via 10.{number}.0.1"))?;
    }
    child::call("ip -n server addr add 10.0.0.3/24 dev eth0")?;
    Ok(())
}

/// What a client met.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Met {
    /// How long each connection took that was made.
    pub seconds: Vec<f64>,
    /// How many were refused, or not made in five seconds.
    pub n_lost: u32,
    /// How many packets its system had to send again.
    pub n_sent_again: u64,
}

/// A client or a server that ends with this.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts a server that accepts at all its addresses at this port, once it does.
    pub fn serve(port: u16) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let mut running = Self(child::start("server", &own, &["serve".into(), port.to_string()])?);
        let mut ready = [0; 1];
        match running.0.stdout.as_mut() {
            Some(stdout) => stdout.read_exact(&mut ready)?,
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
        Ok(running)
    }

    /// Starts a client that connects again and again: so often, or until it is told to end.
    pub fn connect(port: u16, times: Option<u32>) -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let to = SocketAddr::from((ROUTER, port)).to_string();
        let words = ["connect".into(), to].into_iter();
        let words: Vec<String> = words.chain(times.map(|times| times.to_string())).collect();
        Ok(Self(child::start("client", &own, &words)?))
    }

    /// Waits for a client and returns what it met.
    pub fn end(mut self) -> io::Result<Met> {
        drop(self.0.stdin.take());
        let mut said = Vec::new();
        if let Some(stdout) = self.0.stdout.as_mut() {
            stdout.read_to_end(&mut said)?;
        }
        Ok(serde_json::from_slice(&said)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The other end of [`Running::serve`].
pub fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    io::stdout().write_all(b"\n")?;
    io::stdout().flush()?;
    for client in listener.incoming() {
        drop(client?);
    }
    Ok(())
}

/// The other end of [`Running::connect`]: connects, and prints what it met.
pub fn connect(to: &str, times: Option<u32>) -> io::Result<()> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    let is_over = Arc::new(AtomicBool::new(false));
    if times.is_none() {
        let is_over = Arc::clone(&is_over);
        std::thread::spawn(move || {
            // Nothing is written there: it is closed.
            drop(io::stdin().read(&mut [0]));
            is_over.store(true, Ordering::SeqCst);
        });
    }
    let before = sent_again()?;
    let mut met = Met {
        seconds: Vec::new(),
        n_lost: 0,
        n_sent_again: 0,
    };
    let mut n = 0;
    while !is_over.load(Ordering::SeqCst) && times != Some(n) {
        n += 1;
        let began = Instant::now();
        match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(stream) => {
                met.seconds.push(began.elapsed().as_secs_f64());
                // It is forgotten at once, so that there are ports for the next ones.
                let at_once = linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&stream, Linger, &at_once)?;
            }
            Err(_) => met.n_lost += 1,
        }
    }
    met.n_sent_again = sent_again()?.saturating_sub(before);
    writeln!(io::stdout(), "{}", serde_json::to_string(&met)?)
}

/// How many packets the system of this network has sent again.
fn sent_again() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let names = lines.next().unwrap_or_default().split(' ');
    let numbers = lines.next().unwrap_or_default().split(' ');
    let mut pairs = names.zip(numbers);
    let number = pairs.find(|(name, _)| *name == "RetransSegs");
    number
        .and_then(|(_, number)| number.parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not count what it sends again"))
}
