//! What a node has, as it reports it to who commands it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

use flocker_model::ApplicationName;
use flocker_model::BootId;
use flocker_model::ByteSize;
use flocker_model::ContainerState;
use flocker_model::DatasetId;
use flocker_model::DefinitionKey;
use flocker_model::Epoch;
use flocker_model::ExternalPort;
use flocker_model::Generation;
use flocker_model::Keeps;
use flocker_model::Manifestation;
use flocker_model::NodeId;
use flocker_model::NodeName;
use flocker_model::NodeState;
use flocker_model::Peer;
use flocker_model::RouteTable;
use flocker_model::Trashed;
use serde::Deserialize;
use serde::Serialize;

use super::WireError;
use super::definition::Revealed;
use crate::record::from_hex;
use crate::record::to_hex;

/// A node's state as it is written, with the key that only those who command it may know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenState {
    id: NodeId,
    boot: BootId,
    address: IpAddr,
    generation: Generation,
    key: Revealed,
    datasets: BTreeMap<DatasetId, Manifestation>,
    containers: BTreeMap<ApplicationName, ContainerState>,
    routes: RouteTable,
    trash: Vec<Trashed>,
    fences: BTreeMap<DatasetId, Epoch>,
    // Left out where there is none: who does not know of it would refuse the whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    unreadable: BTreeMap<DatasetId, String>,
    free: Option<ByteSize>,
    // The same. From version 6.
    #[serde(default, skip_serializing_if = "Keeps::is_lists")]
    keeps: Keeps,
    foreign_ports: BTreeSet<ExternalPort>,
    peers: BTreeMap<NodeName, Peer>,
    forgotten: BTreeMap<NodeName, BTreeSet<NodeId>>,
}

impl From<NodeState> for WrittenState {
    fn from(state: NodeState) -> Self {
        let NodeState {
            id,
            boot,
            address,
            generation,
            key,
            datasets,
            containers,
            routes,
            trash,
            fences,
            unreadable,
            free,
            keeps,
            foreign_ports,
            peers,
            forgotten,
        } = state;
        Self {
            id,
            boot,
            address,
            generation,
            key: Revealed::new(to_hex(key.reveal())),
            datasets,
            containers,
            routes,
            trash,
            fences,
            unreadable,
            free,
            keeps,
            foreign_ports,
            peers,
            forgotten,
        }
    }
}

impl TryFrom<WrittenState> for NodeState {
    type Error = WireError;

    fn try_from(state: WrittenState) -> Result<Self, WireError> {
        let WrittenState {
            id,
            boot,
            address,
            generation,
            key,
            datasets,
            containers,
            routes,
            trash,
            fences,
            unreadable,
            free,
            keeps,
            foreign_ports,
            peers,
            forgotten,
        } = state;
        let key = from_hex(key.as_str()).ok_or(WireError::Invalid {
            what: "the key of a node",
        })?;
        let state = Self {
            id,
            boot,
            address,
            generation,
            key: DefinitionKey::new(key),
            datasets,
            containers,
            routes,
            trash,
            fences,
            unreadable,
            free,
            keeps,
            foreign_ports,
            peers,
            forgotten,
        };
        Ok(state.compact())
    }
}
