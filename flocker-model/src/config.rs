//! The configuration format: text in, values or diagnostics out.
//!
//! Two files say what is wanted: an *application file* (Flocker's own format,
//! Docker Compose or Fig) and a *deployment file* (which node runs what).
//! [`load`] reads both, in either order, and either returns a [`Loaded`]
//! configuration or **every** problem of both files, each with its place.
//!
//! Nothing here opens a file or looks at the environment. Where the
//! configuration says that a secret stands in either, [`Loaded::secrets`]
//! names it and [`Loaded::resolve`] asks the caller for its value.
//!
//! [`marshal`] goes the other way, and [`schema`] describes the files to
//! editors.
//!
//! ```
//! use flocker_model::config::{Source, load};
//!
//! let application = Source::new("app.yml", "
//! version: 1
//! applications:
//!   mongo:
//!     image: example/mongodb
//!     ports: [{internal: 27017, external: 27017}]
//!     volume: {mountpoint: /data/db}
//! ");
//! let deployment = Source::new("deploy.yml", "{version: 1, nodes: {alpha: [mongo], beta: []}}");
//! let loaded = load(&application, &deployment).unwrap();
//! let deployment = loaded.resolve(|source| Err(format!("there is no {source}"))).unwrap();
//! assert_eq!(deployment.members().len(), 2);
//! ```

mod check;
mod compose;
mod deployment;
mod draft;
mod load;
mod order;
mod places;
mod quantity;
mod reader;
mod source;
mod v1;
mod yaml;

pub mod diagnostic;
pub mod marshal;
pub mod schema;

pub use diagnostic::Code;
pub use diagnostic::Diagnostic;
pub use diagnostic::Place;
pub use diagnostic::Severity;
pub use diagnostic::Source;
pub use diagnostic::Span;
pub use draft::SecretSource;
pub use load::Loaded;
pub use load::SecretSources;
pub use load::WantedSecret;
pub use load::check_one;
pub use load::load;
pub use source::NotText;

use std::time::Duration;

use crate::number::ByteSize;

/// Reads a size as the files write it: `1048576`, `500M`, `2.5G`. What is wrong is said as the rest of a sentence about the text.
pub fn size(text: &str) -> Result<ByteSize, String> {
    quantity::size(text, quantity::Units::Docker).map_err(|error| error.to_string())
}

/// Reads a duration as the files write it: `90`, `1m30s`, `500ms`. What is wrong is said as the rest of a sentence about the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    quantity::duration(text).map_err(|error| error.to_string())
}
