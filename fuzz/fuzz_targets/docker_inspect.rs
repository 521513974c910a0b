//! Reads arbitrary bytes as what the Docker engine says of a container.
//!
//! Nothing may panic, and a container that is ours by its name and its labels,
//! which are looked at here by other means, is never read as a foreign one: it
//! is ours, or it is an error.

#![no_main]

use flocker_backends::runtime::docker::fuzzing::read_container;
use flocker_model::ApplicationName;
use flocker_model::ContainerStatus;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    // What a newer engine says is still its container.
    let namespaces = [
        None,
        Some("two".parse::<ApplicationName>().expect("it is a name")),
    ];
    for namespace in namespaces {
        let read = read_container(data, namespace.clone());
        // What is not text, in a part that nobody reads, is no matter to who reads the rest.
        let Ok(value) = serde_json::from_slice::<Value>(data) else {
            continue;
        };
        let ours = ours(&value, namespace.as_ref());
        match read {
            Ok(Some((application, state))) => {
                assert_eq!(
                    Some(&application),
                    ours.as_ref(),
                    "somebody else's is taken for ours"
                );
                if state.status == ContainerStatus::Prepared {
                    assert!(!state.is_alive());
                }
            }
            Ok(None) => assert_eq!(ours, None, "one of ours is overlooked"),
            Err(_) => {}
        }
    }
});

/// Tells whose container it is, from the answer as it came.
fn ours(value: &Value, namespace: Option<&ApplicationName>) -> Option<ApplicationName> {
    let label = |name: &str| value["Config"]["Labels"][name].as_str();
    let application: ApplicationName = label("io.flocker.application")?.parse().ok()?;
    let within = namespace.map_or_else(String::new, |namespace| format!("{namespace}--"));
    let name = value["Name"].as_str()?;
    let is_ours = name.strip_prefix('/').unwrap_or(name) == format!("flocker--{within}{application}")
        && label("io.flocker.runtime") == Some("docker")
        && label("io.flocker.namespace") == Some(namespace.map_or("", ApplicationName::as_str));
    is_ours.then_some(application)
}
