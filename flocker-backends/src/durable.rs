//! Files that are there as a whole, also after the power was cut, and which boot of the machine this is.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use flocker_model::BootId;

/// Replaces a file in one step, durably; makes it where there is none, with this mode.
///
/// What is written goes beside it first, under its name with `.new` behind it, which is left where that fails, and
/// written over the next time. The file itself is as it was then, or as it is to be. Nobody else may replace it at the
/// same time.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads which boot of this machine this is: what is not durable belongs to no other.
///
/// # Errors
///
/// Fails where the kernel does not say.
pub fn this_boot() -> io::Result<BootId> {
    let said = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot = said.trim().parse();
    boot.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_made_or_replaced_and_nothing_is_left_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("settings.json");
        for content in ["one", "two"] {
            replace(&path, 0o600, content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("settings.json");
        replace(&path, 0o600, b"one").unwrap();
        std::fs::create_dir(directory.path().join("settings.json.new")).unwrap();
        replace(&path, 0o600, b"two").unwrap_err();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
    }
}
