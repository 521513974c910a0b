//! What plain directories promise as volumes, on real files.

mod confinement;
mod content;
mod hostile;
mod increments;
mod interruption;
mod limits;
mod node;
mod roles;
