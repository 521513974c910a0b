//! Routes for every node, switched last.
//!
//! A node's route follows only when the application is healthy at its home,
//! and the home's own route goes first: otherwise two nodes could send a
//! connection to each other. The original changed its routes first, and every
//! deploy was an outage.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;

use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::Home;
use flocker_model::NodeName;
use flocker_model::PortNumber;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;

use super::Rules;
use super::need;
use crate::action::Action;
use crate::blocked::Refusal;
use crate::fact::Fact;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;
use crate::view::number;

/// The routes that every node is to have.
struct Wanted {
    table: RouteTable,
    /// By port: who has it.
    owners: BTreeMap<PortNumber, Rc<Owner>>,
    /// Ports of applications whose home is not known: their routes are left as they are.
    left: BTreeSet<PortNumber>,
}

/// An application that has ports, by number: every node's routes are made with it.
struct Owner {
    application: u32,
    /// Where it serves, and whether this plan starts it there; in the order of its routes' homes.
    homes: Vec<(u32, bool)>,
    /// Whether steps of the plan bring it there.
    begins: bool,
}

impl Owner {
    /// Returns the place in `homes` to which a node's own route leads: itself, or else the first.
    fn place(&self, node: u32) -> usize {
        self.homes
            .iter()
            .position(|&(home, _)| home == node)
            .unwrap_or_default()
    }
}

/// What changes in the routes of one node.
struct Change<'a> {
    set: Vec<(PortNumber, &'a RouteTarget)>,
    drop: BTreeSet<PortNumber>,
}

impl Rules<'_> {
    pub(super) fn route(&mut self) {
        let wanted = self.wanted_routes();
        let nodes: Vec<u32> = (0..number(self.view.nodes.len()))
            .filter(|&node| self.obeys(node) && self.view.node(node).member.is_some())
            .collect();
        // Which homes change their own route in this plan.
        let mut turning: BTreeSet<(PortNumber, u32)> = BTreeSet::new();
        let mut changes = Vec::new();
        for node in nodes {
            let Some(state) = self.view.node(node).seen else {
                continue;
            };
            if wanted.left.is_empty() && !wanted.table.differs_at_a_glance(&state.routes) {
                continue;
            }
            let change = self.difference(&wanted, node, &state.routes);
            let ports = change.set.iter().map(|&(port, _)| port);
            let own = ports.filter(|port| wanted.owners[port].homes.iter().any(|&(home, _)| home == node));
            turning.extend(own.map(|port| (port, node)));
            if !change.set.is_empty() || !change.drop.is_empty() {
                changes.push((node, change));
            }
        }
        let first = self.steps.len();
        for (node, change) in changes {
            self.route_node(&wanted, node, change, &turning);
        }
        self.leave_last(first);
    }

    /// What leaves a node stops when the routes to it have changed: the steps from `first` on.
    fn leave_last(&mut self, first: usize) {
        if self.leaving.is_empty() {
            return;
        }
        let mut routed: BTreeMap<PortNumber, Vec<(usize, Fact)>> = BTreeMap::new();
        let made = self.steps[first..].iter().flat_map(|step| &step.makes);
        for (order, fact) in made.enumerate() {
            if let Fact::Routed { port, .. } = fact {
                routed.entry(*port).or_default().push((order, fact.clone()));
            }
        }
        for (application, position) in std::mem::take(&mut self.leaving) {
            let ports = &self.view.definitions[application as usize].ports;
            let own = ports.iter().filter_map(|own| routed.get(&own.external));
            let mut facts: Vec<&(usize, Fact)> = own.flatten().collect();
            facts.sort_unstable_by_key(|(order, _)| *order);
            let needs = facts
                .into_iter()
                .map(|(_, fact)| need(fact.clone(), Because::NobodySentThere));
            self.steps[position].needs.extend(needs);
        }
    }

    fn wanted_routes(&self) -> Wanted {
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
    fn ports_in_force(&self, application: u32) -> BTreeSet<PortNumber> {
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
    pub(super) fn address(&self, node: u32) -> Option<IpAddr> {
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

    fn difference<'w>(&mut self, wanted: &'w Wanted, node: u32, current: &RouteTable) -> Change<'w> {
        let mut set = Vec::new();
        let foreign = self.view.node(node).seen.map(|state| &state.foreign_ports);
        let mut present = current.entries().iter().peekable();
        for (port, target) in wanted.table.entries() {
            while present.next_if(|(other, _)| *other < port).is_some() {}
            let there = present
                .next_if(|(other, _)| *other == port)
                .map(|(_, there)| there);
            if there == Some(target) {
                continue;
            }
            if there.is_none() && foreign.is_some_and(|foreign| foreign.contains(port)) {
                let refusal = Refusal::PortTaken {
                    application: target.application.clone(),
                    port: *port,
                    on: self.node(node),
                };
                if !self.refused.contains(&refusal) {
                    self.refused.push(refusal);
                }
                continue;
            }
            set.push((*port, target));
        }
        let dropped = current
            .entries()
            .iter()
            .filter(|(port, _)| wanted.table.get(**port).is_none() && !wanted.left.contains(port));
        let drop = dropped
            .filter(|(_, target)| !self.goes_on(target))
            .map(|(port, _)| *port)
            .collect();
        Change { set, drop }
    }

    /// Says whether a target serves where it is not to, and this plan leaves it: nobody is cut off from it.
    fn goes_on(&self, target: &RouteTarget) -> bool {
        let name = &target.application;
        target.homes.iter().any(|home| {
            let Some(node) = self.view.find(&home.node) else {
                return false;
            };
            let state = self.view.node(node).seen;
            let container = state.and_then(|state| state.containers.get(name));
            let number = self.view.desired.placements().find(name, &self.view.names);
            let placed = number.is_some_and(|number| self.view.homes(number).any(|home| home == node));
            !placed && container.is_some_and(ContainerState::is_alive) && !self.is_stopped(name, node)
        })
    }

    /// What is served already changes in one step; what this plan starts follows application by application.
    fn route_node(
        &mut self,
        wanted: &Wanted,
        node: u32,
        change: Change<'_>,
        turning: &BTreeSet<(PortNumber, u32)>,
    ) {
        let mut at_once = RouteChange::default();
        self.drop_routes(node, change.drop, &mut at_once);
        let mut later = Vec::new();
        for (port, target) in change.set {
            let owner = &*wanted.owners[&port];
            let (home, starts) = owner.homes[owner.place(node)];
            let turns = home != node && turning.contains(&(port, home));
            if owner.begins || turns {
                later.push((owner, port, target, starts, turns));
            } else {
                at_once.set.insert(port, target.clone());
            }
        }
        if !at_once.is_empty() {
            self.route_step(node, at_once, Vec::new());
        }
        // Stable: the ports of an application come in their order.
        later.sort_by_key(|(owner, ..)| owner.application);
        for group in later.chunk_by(|(one, ..), (other, ..)| one.application == other.application) {
            let mut change = RouteChange::default();
            let mut needs: Vec<Need> = Vec::new();
            for &(owner, port, target, starts, turns) in group {
                let home = &target.homes[owner.place(node)];
                if owner.begins && starts {
                    let healthy = Fact::Healthy {
                        application: target.application.clone(),
                        on: home.node.clone(),
                    };
                    if !needs.iter().any(|need| need.fact == healthy) {
                        needs.push(need(healthy, Because::ServedThere));
                    }
                }
                if turns {
                    let routed = Fact::Routed {
                        port,
                        on: home.node.clone(),
                        to: home.node.clone(),
                    };
                    needs.push(need(routed, Because::NoCircle));
                }
                change.set.insert(port, target.clone());
            }
            self.route_step(node, change, needs);
        }
    }

    /// A port that is dropped because its application stops is dropped after the stop, and holds up no other.
    fn drop_routes(&mut self, node: u32, ports: BTreeSet<PortNumber>, at_once: &mut RouteChange) {
        let Some(state) = self.view.node(node).seen else {
            return;
        };
        let mut later: BTreeMap<&ApplicationName, (RouteChange, Vec<Need>)> = BTreeMap::new();
        for port in ports {
            let Some(target) = state.routes.get(port) else {
                continue;
            };
            let homes = target.homes.iter().filter_map(|home| self.view.find(&home.node));
            let ended: Vec<Fact> = homes
                .filter_map(|home| self.ended(&target.application, home))
                .collect();
            if ended.is_empty() {
                at_once.drop.insert(port);
                continue;
            }
            let (change, needs) = later.entry(&target.application).or_default();
            change.drop.insert(port);
            for fact in ended {
                if !needs.iter().any(|need| need.fact == fact) {
                    needs.push(need(fact, Because::ServedThere));
                }
            }
        }
        for (change, needs) in later.into_values() {
            self.route_step(node, change, needs);
        }
    }

    fn route_step(&mut self, node: u32, change: RouteChange, needs: Vec<Need>) {
        let on: NodeName = self.node(node);
        let makes = change
            .set
            .iter()
            .filter_map(|(port, target)| {
                let here = target.homes.iter().find(|home| home.node == on);
                let home = here.or(target.homes.first())?;
                Some(Fact::Routed {
                    port: *port,
                    on: on.clone(),
                    to: home.node.clone(),
                })
            })
            .collect();
        self.step(
            node,
            Action::Route { change },
            &Reason::Routes { on },
            needs,
            makes,
        );
    }
}
