//! Whether a device holds anything. Nothing is ever written to find out.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// How much of its beginning and of its end is read. Every partition table, file system and volume says so there.
const MARGIN: u64 = 4 << 20;

/// Opened so, a device that is mounted, swapped to or part of another one is refused by the kernel.
const EXCLUSIVE: i32 = rustix::fs::OFlags::EXCL.bits().cast_signed();

/// Returns what a device holds as the error, a sentence for people.
///
/// A file that lies on a file system counts as a device, as it does to ZFS.
pub(super) fn holds_nothing(path: &Path) -> Result<(), String> {
    if !path.is_absolute() {
        return Err("it has to be a whole path".into());
    }
    let found = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let is_block = found.file_type().is_block_device();
    if !is_block && !found.is_file() {
        return Err("it is no device".into());
    }
    let mut options = OpenOptions::new();
    options.read(true);
    if is_block {
        partitions(path)?;
        options.custom_flags(EXCLUSIVE);
    }
    let mut device = options.open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::ResourceBusy {
            "it is in use: mounted, swapped to, or part of another device".to_owned()
        } else {
            error.to_string()
        }
    })?;
    match first_byte(&mut device) {
        Ok(None) => Ok(()),
        Ok(Some(at)) => Err(format!("something is written on it, at byte {at}")),
        Err(error) => Err(format!("it could not be read: {error}")),
    }
}

/// Refuses a device that has partitions.
fn partitions(path: &Path) -> Result<(), String> {
    let real = std::fs::canonicalize(path).map_err(|error| error.to_string())?;
    let name = real.file_name().unwrap_or_default();
    let entries = std::fs::read_dir(Path::new("/sys/class/block").join(name));
    let parts: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("partition").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if parts.is_empty() {
        Ok(())
    } else {
        Err(format!("it has partitions: {}", parts.join(", ")))
    }
}

/// Returns the first place, near its beginning or its end, at which something else than nothing is written.
fn first_byte(device: &mut File) -> io::Result<Option<u64>> {
    let length = device.seek(SeekFrom::End(0))?;
    for from in [0, length.saturating_sub(MARGIN)] {
        device.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        device.by_ref().take(MARGIN).read_to_end(&mut bytes)?;
        if let Some(at) = bytes.iter().position(|byte| *byte != 0) {
            return Ok(Some(from + at as u64));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn only_what_holds_nothing_is_taken() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("disk");
        let disk = File::create(&path).unwrap();
        disk.set_len(64 << 20).unwrap();
        assert_eq!(holds_nothing(&path), Ok(()));
        for at in [0, 1024, MARGIN - 1, (64 << 20) - MARGIN, (64 << 20) - 1] {
            disk.write_at(b"x", at).unwrap();
            let held = holds_nothing(&path).unwrap_err();
            assert_eq!(held, format!("something is written on it, at byte {at}"));
            disk.write_at(b"\0", at).unwrap();
        }
        assert!(holds_nothing(place.path()).unwrap_err().contains("no device"));
        assert!(
            holds_nothing(Path::new("disk"))
                .unwrap_err()
                .contains("whole path")
        );
        assert!(holds_nothing(&place.path().join("none")).is_err());
    }
}
