//! What an application said before it ended, as it can stand in an error.

use flocker_model::EnvironmentValue;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;

use super::ContainerSpec;

/// How many lines of its output are told when a program has ended.
pub(super) const N_LINES: u32 = 3;

/// How much of these lines is read.
const LONGEST: u64 = 64 * 1024;

/// Returns how an application ended, with the last lines of its output, on one line and without its secrets.
///
/// `output` is its last [`N_LINES`] lines; what cannot be read of it is not told.
pub(super) async fn told(end: &str, output: impl AsyncRead + Unpin, spec: &ContainerSpec) -> String {
    let mut bytes = Vec::new();
    if output.take(LONGEST).read_to_end(&mut bytes).await.is_err() {
        return end.to_owned();
    }
    if bytes.len() as u64 == LONGEST {
        // What was cut off may be the rest of a secret, which nobody would know by its beginning.
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0));
    }
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    for value in spec.application.environment.values() {
        match value {
            EnvironmentValue::Secret(secret) => text = without(text, secret.reveal()),
            EnvironmentValue::Plain(_) => {}
        }
    }
    let lines: Vec<String> = text.lines().filter_map(quoted).collect();
    if lines.is_empty() {
        return end.to_owned();
    }
    format!("{end}; the end of its output: {}", lines.join(" "))
}

/// Returns a text without a secret, and without the lines of one that has several: only some of them may be there.
fn without(mut text: String, secret: &str) -> String {
    for part in std::iter::once(secret).chain(secret.lines()) {
        if !part.trim().is_empty() {
            text = text.replace(part, "(a secret)");
        }
    }
    text
}

/// Returns a line of output as it can stand in a sentence: without control characters and not too long.
fn quoted(line: &str) -> Option<String> {
    const LONGEST: usize = 200;
    let line: String = line.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
    let line = line.trim();
    (!line.is_empty()).then(|| format!("`{line}`"))
}
