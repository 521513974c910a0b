//! Our own program, as it is copied to nodes.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::path::PathBuf;

use sha2::Digest as _;
use sha2::Sha256;
use tokio::sync::OnceCell;

/// A program that runs on nodes, named by its content.
///
/// It is read when a first node is reached, and must not change after that.
#[derive(Debug)]
pub struct NodeProgram {
    path: PathBuf,
    content: OnceCell<Content>,
}

/// What is known of the content of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// SHA-256, in hexadecimal digits.
    pub(super) hash: String,
    pub(super) size: u64,
}

impl NodeProgram {
    /// Names a program by its path.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            content: OnceCell::new(),
        }
    }

    /// Returns the program that runs now, also where its file was replaced meanwhile.
    #[must_use]
    pub fn running() -> Self {
        Self::new("/proc/self/exe")
    }

    /// Returns the SHA-256 of the program in hexadecimal digits.
    pub async fn hash(&self) -> io::Result<&str> {
        self.content().await.map(|content| content.hash.as_str())
    }

    pub(super) async fn content(&self) -> io::Result<&Content> {
        self.content
            .get_or_try_init(async || {
                let path = self.path.clone();
                tokio::task::spawn_blocking(move || measure(File::open(path)?))
                    .await
                    .map_err(io::Error::other)?
            })
            .await
    }

    pub(super) async fn open(&self) -> io::Result<tokio::fs::File> {
        tokio::fs::File::open(&self.path).await
    }
}

fn measure(mut file: File) -> io::Result<Content> {
    let mut digest = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n_read = file.read(&mut buffer)?;
        if n_read == 0 {
            break;
        }
        digest.update(&buffer[..n_read]);
        size += n_read as u64;
    }
    let mut hash = String::with_capacity(64);
    for byte in digest.finalize() {
        // Writing to a string cannot fail.
        let _ = write!(hash, "{byte:02x}");
    }
    Ok(Content { hash, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_named_by_its_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        std::fs::write(&path, b"abc").unwrap();
        let content = NodeProgram::new(path).content().await.unwrap().clone();
        // The first of the test vectors of FIPS 180-2.
        assert_eq!(
            content,
            Content {
                hash: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(),
                size: 3,
            }
        );
        assert!(NodeProgram::running().content().await.unwrap().size > 1000);
    }
}
