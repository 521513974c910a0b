//! Images that travel: what a node cannot get by itself is brought from a node that has it.
//!
//! It belongs to getting ready, and no plan knows of it: whether an image is
//! at hand, or can be pulled, is found out by trying. The first node of a
//! given order that has the image gives it: the one on which the application
//! is, and after it the others by name. The bytes go as those of a push do.

use std::collections::BTreeSet;
use std::sync::Arc;

use flocker_model::ByteSize;
use flocker_model::Image;

use super::Watch;
use crate::event::Event;
use crate::fault::one_line;
use crate::node::ImageCargo;
use crate::node::NodeHandle;
use crate::node_error::NodeError;
use crate::passage::Carriage;
use crate::passage::Detours;

/// An image that a step may lack, and who may have it.
pub(super) struct Sources {
    pub(super) image: Image,
    /// Where the application was: they are asked first.
    pub(super) homes: Vec<Arc<dyn NodeHandle>>,
    pub(super) everyone: Arc<[Arc<dyn NodeHandle>]>,
    pub(super) detours: Arc<Detours>,
    pub(super) bandwidth: Option<ByteSize>,
}

impl Sources {
    /// Brings the image to a node that lacks it; says whether it is there now and was not before.
    ///
    /// Nothing is done where the node has the image: then it is something else that it could not do.
    pub(super) async fn bring_to(&self, receiver: &dyn NodeHandle, watch: &Watch) -> Result<bool, NodeError> {
        if receiver.image(&self.image).await?.is_some() {
            return Ok(false);
        }
        let mut asked = BTreeSet::from([receiver.name()]);
        for source in self.homes.iter().chain(&*self.everyone) {
            if !asked.insert(source.name()) {
                continue;
            }
            let id = match source.image(&self.image).await {
                Ok(Some(id)) => id,
                Ok(None) => continue,
                Err(error) => {
                    let (node, error) = (source.name(), one_line(&error));
                    tracing::debug!(%node, error, "a node does not say whether it has an image");
                    continue;
                }
            };
            watch.listener.on(&Event::ImageBrought {
                step: watch.step.clone(),
                image: self.image.clone(),
                id: id.clone(),
                from: source.name().clone(),
            });
            let cargo = ImageCargo {
                image: self.image.clone(),
                id,
            };
            let carriage = Carriage {
                sender: &**source,
                receiver,
                detours: &self.detours,
            };
            carriage.carry_image(&cargo, self.bandwidth, watch).await?;
            return Ok(true);
        }
        Ok(false)
    }
}
