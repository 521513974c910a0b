//! All nodes that a push knows of, and how to get at more of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use flocker_backends::Transport;
use flocker_model::NodeAddress;
use flocker_model::NodeName;

use crate::clock::Deadlines;
use crate::node::NodeHandle;
use crate::passage::Detours;
use crate::remote::RemoteNode;

/// What makes a handle of a name and an address. It opens nothing.
pub trait Connect: fmt::Debug + Send + Sync {
    /// Returns a handle for a node.
    fn handle(&self, name: &NodeName, address: &NodeAddress) -> Arc<dyn NodeHandle>;
}

/// Every node is elsewhere, behind one transport.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    /// The transport.
    pub transport: Arc<dyn Transport>,
    /// How long to wait for what.
    pub deadlines: Deadlines,
}

impl Connect for Elsewhere {
    fn handle(&self, name: &NodeName, address: &NodeAddress) -> Arc<dyn NodeHandle> {
        Arc::new(RemoteNode::new(
            name.clone(),
            address.clone(),
            Arc::clone(&self.transport),
            self.deadlines,
        ))
    }
}

/// The handles that were made so far: one for each node, so that each keeps its connection and its lock.
#[derive(Debug)]
pub struct Handles {
    connect: Arc<dyn Connect>,
    made: Mutex<BTreeMap<NodeName, Arc<dyn NodeHandle>>>,
    detours: Arc<Detours>,
}

impl Handles {
    /// Starts with none.
    #[must_use]
    pub fn new(connect: Arc<dyn Connect>) -> Self {
        Self {
            connect,
            made: Mutex::new(BTreeMap::new()),
            detours: Arc::default(),
        }
    }

    /// Returns which nodes were found not to reach each other directly.
    pub(crate) fn detours(&self) -> &Arc<Detours> {
        &self.detours
    }

    /// Returns the handle of a node, made now if there was none. Where no address is given, the name is a host's.
    #[must_use]
    pub fn reach(&self, name: &NodeName, address: Option<&NodeAddress>) -> Arc<dyn NodeHandle> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = made.get(name) {
            return Arc::clone(handle);
        }
        let by_name = NodeAddress::Ssh {
            host: name.to_string(),
            user: None,
            port: None,
        };
        let handle = self.connect.handle(name, address.unwrap_or(&by_name));
        made.insert(name.clone(), Arc::clone(&handle));
        handle
    }

    /// Returns the handle of a node, if one was made.
    #[must_use]
    pub fn get(&self, name: &NodeName) -> Option<Arc<dyn NodeHandle>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(name).map(Arc::clone)
    }
}
