//! Where a fuzzer comes in: what the engine answers, and what another node sends, as bytes.

use bollard::models::ContainerInspectResponse;
use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::Health;

use super::archive;
use super::archive::Store;
use super::labels::Labels;
use super::labels::Manner;
use super::labels::Naming;
use super::seen;
use super::seen::Owned;

/// Reads the engine's answer about one container; nothing where it is not ours.
///
/// # Panics
///
/// Where what its labels say is not what labels made from that say.
pub fn read_container(
    answer: &[u8],
    namespace: Option<ApplicationName>,
) -> Result<Option<(ApplicationName, ContainerState)>, String> {
    let container: ContainerInspectResponse =
        serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let naming = Naming {
        namespace,
        manner: Manner::Engine,
    };
    let read = seen::read(&container, &naming, "flocker").map_err(|error| error.to_string())?;
    let Owned::Ours(seen) = read else {
        return Ok(None);
    };
    let map = seen.labels.to_map(&naming);
    let label = |name: &str| map.get(name).map(String::as_str);
    let owner = naming.owner(&naming.container(&seen.labels.application), label);
    assert_eq!(
        owner.as_ref(),
        Ok(&seen.labels.application),
        "it would not know itself"
    );
    let again = Labels::read(seen.labels.application.clone(), label);
    assert_eq!(again.as_ref(), Ok(&seen.labels), "its labels read otherwise");
    assert!(seen.process != Some(0), "nobody is process 0");
    let state = seen.state(Health::NotChecked);
    assert_eq!(state.is_alive(), seen.is_alive(), "it is told otherwise");
    Ok(Some((seen.labels.application, state)))
}

/// Passes an archive on as that of an image, and returns why it was refused, if it was, and what the engine has got by then.
///
/// # Panics
///
/// Where the image is none.
#[must_use]
pub fn pass_image(archive: &[u8], image: &str, name: &str, is_containerd: bool) -> (Option<String>, Vec<u8>) {
    let store = if is_containerd {
        Store::Containerd
    } else {
        Store::Classic
    };
    let image = image.parse().expect("it is the identity of an image");
    let mut passed = Vec::new();
    let result = archive::pass(archive, &mut passed, &image, name, store);
    (result.err().map(|error| error.to_string()), passed)
}
