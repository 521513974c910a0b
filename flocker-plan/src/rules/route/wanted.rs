//! Which routes every node is to have.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use flocker_model::ExternalPort;
use flocker_model::Home;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;

use super::super::Rules;
use super::course::Owner;

/// The routes that every node is to have.
pub(super) struct Wanted {
    pub(super) table: RouteTable,
    /// By port: who has it.
    pub(super) owners: BTreeMap<ExternalPort, Rc<Owner>>,
    /// Ports of applications whose home is not known: their routes are left as they are.
    pub(super) left: BTreeSet<ExternalPort>,
}

impl Rules<'_> {
    /// Works out which routes every node is to have.
    pub(super) fn wanted_routes(&self) -> Wanted {
        let mut entries = BTreeMap::new();
        let mut owners = BTreeMap::new();
        let mut left = BTreeSet::new();
        for &application in self.view.desired.placements().ported() {
            let definition = self.view.definitions[application as usize];
            let homes: Vec<u32> = match self.serving.get(&application) {
                Some(serving) => serving.homes.clone(),
                None => self.view.homes(application).collect(),
            };
            if self.is_held_back(application, &homes) {
                left.extend(self.ports_in_force(application));
                continue;
            }
            let placed = self.view.homes(application).next().is_some();
            let known: Option<Vec<Home>> = homes
                .iter()
                .map(|&home| self.address(home).map(|address| (home, address)))
                .map(|found| {
                    found.map(|(home, address)| Home {
                        node: self.node(home),
                        address,
                    })
                })
                .collect();
            let serving = self.serving.get(&application);
            let owner = Rc::new(Owner {
                application,
                homes: homes
                    .iter()
                    .map(|&home| (home, self.starts(application, home)))
                    .collect(),
                begins: serving.is_some_and(|serving| serving.begins),
            });
            for port in &definition.ports {
                match &known {
                    Some(homes) if !homes.is_empty() => {
                        let target = RouteTarget {
                            application: self.application(application),
                            internal: port.internal,
                            homes: homes.clone(),
                        };
                        entries.insert(port.external, target);
                        owners.insert(port.external, Rc::clone(&owner));
                    }
                    Some(_) | None if placed => {
                        left.insert(port.external);
                    }
                    Some(_) | None => {}
                }
            }
        }
        Wanted {
            table: entries.into(),
            owners,
            left,
        }
    }

    /// Says whether an application goes on as it was defined before: its routes are those of that definition.
    fn is_held_back(&self, application: u32, homes: &[u32]) -> bool {
        let stays = self
            .serving
            .get(&application)
            .is_some_and(|serving| !serving.begins);
        stays
            && homes.iter().any(|&home| {
                let container = self
                    .container(application, home)
                    .filter(|container| container.is_alive());
                let state = self.view.node(home).seen;
                container.zip(state).is_some_and(|(container, state)| {
                    container.definition != self.view.definition_on(application, state)
                })
            })
    }

    /// Returns the ports under which any node routes to an application now.
    fn ports_in_force(&self, application: u32) -> BTreeSet<ExternalPort> {
        let name = self.view.names[application as usize];
        let tables = self
            .view
            .nodes
            .iter()
            .filter_map(|node| node.seen)
            .map(|state| &state.routes);
        let routes = tables.flat_map(flocker_model::RouteTable::entries);
        routes
            .filter(|(_, target)| target.application == *name)
            .map(|(port, _)| *port)
            .collect()
    }

    /// Where the other nodes reach a node: as it says itself, or as somebody's routes have it.
    pub(in crate::rules) fn address(&self, node: u32) -> Option<IpAddr> {
        let view = self.view.node(node);
        if let Some(state) = view.seen {
            return Some(state.address);
        }
        let tables = self
            .view
            .nodes
            .iter()
            .filter_map(|other| other.seen)
            .map(|state| &state.routes);
        let homes = tables
            .flat_map(|table| table.entries().values())
            .flat_map(|target| &target.homes);
        let mut named = homes.filter(|home| home.node == *view.name);
        named
            .next()
            .map(|home| home.address)
            .or_else(|| view.name.as_str().parse().ok())
    }
}
