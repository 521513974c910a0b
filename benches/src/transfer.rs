//! Ways for bytes: a socket on one machine, and a door between two.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::time::Duration;

use flocker_backends::Channel;
use flocker_backends::Purpose;
use flocker_backends::Transport as _;
use flocker_backends::transport::direct;
use flocker_backends::transport::direct::Door;
use flocker_backends::transport::direct::Doorstep;
use flocker_backends::transport::direct::TransferKey;
use flocker_backends::transport::local::LocalListener;
use flocker_backends::transport::local::LocalTransport;
use flocker_model::NodeAddress;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::figure::Figure;
use crate::figure::Figures;

/// How much is sent.
const N_BYTES: usize = 256 << 20;

/// How much is written at once, as a transfer does.
const CHUNK: usize = 256 << 10;

/// How often.
const N_TIMES: usize = 7;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Measures sending 256 MiB each way, and opening a door.
pub fn measure(figures: &mut Figures) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let place = tempfile::tempdir()?;
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    // In turn, so that what else the machine does falls on both.
    for round in 0..=N_TIMES {
        let socket = runtime.block_on(through_socket(place.path()))?;
        let (opened, door) = runtime.block_on(through_door())?;
        // The first round does not count.
        if round > 0 {
            let taken = [socket, door, opened];
            for (samples, taken) in samples.iter_mut().zip(taken) {
                samples.push(taken.as_secs_f64());
            }
        }
    }
    let names = [
        "transfer: 256 MiB through a socket of this machine",
        "transfer: 256 MiB through a door, TLS 1.3",
        "transfer: open a door and enter it",
    ];
    for (name, samples) in names.into_iter().zip(samples) {
        figures.add(Figure::new(name, crate::figure::Unit::Seconds, samples));
    }
    Ok(())
}

async fn through_socket(place: &std::path::Path) -> io::Result<Duration> {
    let listener = LocalListener::bind(place).map_err(io::Error::other)?;
    let address = NodeAddress::Local {
        directory: place.to_owned(),
    };
    let (ours, theirs) = tokio::join!(
        LocalTransport.open(&address, Purpose::Transfer),
        listener.accept()
    );
    carry(ours.map_err(io::Error::other)?, theirs?).await
}

/// Returns how long it took to get in, and to send.
async fn through_door() -> io::Result<(Duration, Duration)> {
    let began = tokio::time::Instant::now();
    let key = TransferKey::draw().map_err(io::Error::other)?;
    let door = Door::open(&Doorstep::new(LOOPBACK), key.pin())
        .await
        .map_err(io::Error::other)?;
    let address = door.address();
    let (ours, theirs) = tokio::join!(
        direct::connect(&address, &key, Duration::from_secs(10)),
        door.enter()
    );
    let opened = began.elapsed();
    let sent = carry(ours.map_err(io::Error::other)?, theirs).await?;
    Ok((opened, sent))
}

async fn carry(mut ours: Channel, mut theirs: Channel) -> io::Result<Duration> {
    let began = tokio::time::Instant::now();
    let sending = tokio::spawn(async move {
        let chunk = vec![7; CHUNK];
        for _ in 0..N_BYTES / CHUNK {
            ours.write_all(&chunk).await?;
        }
        ours.flush().await?;
        ours.shutdown().await
    });
    let mut buffer = vec![0; CHUNK];
    let mut n_bytes = 0;
    loop {
        match theirs.read(&mut buffer).await? {
            0 => break,
            n_read => n_bytes += n_read,
        }
    }
    sending.await.map_err(io::Error::other)??;
    if n_bytes == N_BYTES {
        Ok(began.elapsed())
    } else {
        Err(io::Error::other(format!("{n_bytes} bytes arrived")))
    }
}
