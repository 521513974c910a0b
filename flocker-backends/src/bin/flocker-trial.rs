//! What the tests of host programs need a process of their own for.
//!
//! - `flocker-trial listen ADDRESS:PORT` says `hello` to every connection and ends it.
//! - `flocker-trial start|stop STATE ADDRESS SUPERVISOR NAME VOLUME PROGRAM [ARGUMENT]...` is a node
//!   that does one thing with one host program, so that it can be killed while it does.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use flocker_backends::ContainerRuntime as _;
use flocker_backends::ContainerSpec;
use flocker_backends::runtime::process::ProcessOptions;
use flocker_backends::runtime::process::ProcessRuntime;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::DefinitionHash;
use tokio::io::AsyncWriteExt as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("an argument is missing");
    let verb = next()?;
    if verb == "listen" {
        let listener = tokio::net::TcpListener::bind(next()?).await?;
        loop {
            let (mut client, _) = listener.accept().await?;
            // Who left early, as a health check does, misses it.
            drop(client.write_all(b"hello").await);
        }
    }
    let state = PathBuf::from(next()?);
    let node_address = next()?.parse()?;
    let supervisor = PathBuf::from(next()?);
    let name: ApplicationName = next()?.parse()?;
    let volume = PathBuf::from(next()?);
    let mut application = Application::new(next()?.parse()?);
    application.command_line = arguments.map(Into::into).collect();
    let runtime = ProcessRuntime::new(ProcessOptions::new(state, node_address, supervisor))?;
    let spec = ContainerSpec {
        name,
        application,
        definition: DefinitionHash(1),
        volume: Some(volume),
        node_address,
    };
    match verb.as_str() {
        "start" => runtime.start(&spec).await?,
        "stop" => runtime.stop(&spec.name, Duration::from_millis(50)).await?,
        _ => return Err("the verb must be `listen`, `start` or `stop`".into()),
    };
    Ok(())
}
