//! The configuration format against a corpus of files, and against hostile text.
//!
//! Each case is `NAME.yml`, with `NAME.nodes.yml` beside it where the
//! deployment file matters, and `NAME.expected`: what comes of it. Run with
//! `UPDATE_EXPECTED=1` to write what comes of it now, and read the difference.

#![expect(
    clippy::unwrap_used,
    reason = "this is a test, and so are the functions around its tests"
)]

mod corpus;
mod hostile;
mod properties;
mod schema;
