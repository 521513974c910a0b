//! A node that does one thing with one host program, so that tests can kill it while it does.
//!
//! `flocker-process-owner STATE ADDRESS SUPERVISOR start|stop NAME VOLUME PROGRAM [ARGUMENT]...`

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

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("an argument is missing");
    let state = PathBuf::from(next()?);
    let node_address = next()?.parse()?;
    let supervisor = PathBuf::from(next()?);
    let verb = next()?;
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
        _ => return Err("the verb must be `start` or `stop`".into()),
    };
    Ok(())
}
