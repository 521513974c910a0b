//! A pipe through a door, TLS 1.3, and nothing else: what a transfer between nodes is compared with.
//!
//! `door send PIN ADDRESS` writes the pin of its key to one file, waits until
//! the address of a door is in the other, and sends its standard input there.
//! `door receive IP PIN ADDRESS` reads the pin, opens a door, says where in the other file, and writes what arrives.

use std::io;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use flocker_backends::transport::direct;
use flocker_backends::transport::direct::Door;
use flocker_backends::transport::direct::DoorAddress;
use flocker_backends::transport::direct::Doorstep;
use flocker_backends::transport::direct::TransferKey;
use tokio::io::AsyncWriteExt as _;

/// How much is read at once, as a transfer does.
const CHUNK: usize = 256 << 10;

/// Reads a file as soon as there is a whole line in it.
async fn line(file: &str) -> String {
    loop {
        match std::fs::read_to_string(file) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn send(pin: &str, address: &str) -> io::Result<()> {
    let key = TransferKey::draw().map_err(io::Error::other)?;
    std::fs::write(pin, format!("{}\n", key.pin()))?;
    let address: DoorAddress = serde_json::from_str(&line(address).await)?;
    let channel = direct::connect(&address, &key, Duration::from_secs(10)).await;
    let mut channel = channel.map_err(io::Error::other)?;
    let mut input = tokio::io::BufReader::with_capacity(CHUNK, tokio::io::stdin());
    tokio::io::copy_buf(&mut input, &mut channel).await?;
    channel.shutdown().await
}

async fn receive(own: IpAddr, pin: &str, address: &str) -> io::Result<()> {
    let pin = line(pin).await.parse().map_err(io::Error::other)?;
    let door = Door::open(&Doorstep::new(own), pin)
        .await
        .map_err(io::Error::other)?;
    std::fs::write(address, format!("{}\n", serde_json::to_string(&door.address())?))?;
    let mut input = tokio::io::BufReader::with_capacity(CHUNK, door.enter().await);
    let mut output = tokio::io::stdout();
    tokio::io::copy_buf(&mut input, &mut output).await?;
    output.flush().await?;
    io::stdout().flush()
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["send", pin, address] => send(pin, address).await,
        ["receive", own, pin, address] => receive(own.parse().map_err(io::Error::other)?, pin, address).await,
        _ => Err(io::Error::other(
            "door send PIN ADDRESS | door receive IP PIN ADDRESS",
        )),
    }
}
