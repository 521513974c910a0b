//! Routes for every node, switched last.
//!
//! A node's route follows only when the application is healthy at its home,
//! and the home's own route goes first: otherwise two nodes could send a
//! connection to each other. The original changed its routes first, and every
//! deploy was an outage.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;

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
    /// By port: the number of its application.
    owners: BTreeMap<PortNumber, u32>,
    /// Ports of applications whose home is not known: their routes are left as they are.
    left: BTreeSet<PortNumber>,
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
            turning.extend(change.set.keys().map(|port| (*port, node)));
            if !change.is_empty() {
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
            for port in &definition.ports {
                match &known {
                    Some(homes) if !homes.is_empty() => {
                        let target = RouteTarget {
                            application: self.application(application),
                            internal: port.internal,
                            homes: homes.clone(),
                        };
                        entries.insert(port.external, target);
                        owners.insert(port.external, application);
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

    fn difference(&mut self, wanted: &Wanted, node: u32, current: &RouteTable) -> RouteChange {
        let mut change = RouteChange::default();
        let foreign = self.view.node(node).seen.map(|state| &state.foreign_ports);
        for (port, target) in wanted.table.entries() {
            if current.get(*port) == Some(target) {
                continue;
            }
            if current.get(*port).is_none() && foreign.is_some_and(|foreign| foreign.contains(port)) {
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
            change.set.insert(*port, target.clone());
        }
        let dropped = current
            .entries()
            .iter()
            .filter(|(port, _)| wanted.table.get(**port).is_none() && !wanted.left.contains(port));
        change.drop = dropped
            .filter(|(_, target)| !self.goes_on(target))
            .map(|(port, _)| *port)
            .collect();
        change
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
        change: RouteChange,
        turning: &BTreeSet<(PortNumber, u32)>,
    ) {
        let mut at_once = RouteChange::default();
        self.drop_routes(node, change.drop, &mut at_once);
        let mut later: BTreeMap<u32, RouteChange> = BTreeMap::new();
        for (port, target) in change.set {
            let application = wanted.owners[&port];
            let begins = self
                .serving
                .get(&application)
                .is_some_and(|serving| serving.begins);
            let at_home = self.ends_here(&target, node);
            let follows = target.homes.first().and_then(|home| self.view.find(&home.node));
            let turns = !at_home && follows.is_some_and(|home| turning.contains(&(port, home)));
            let group = if begins || turns {
                later.entry(application).or_default()
            } else {
                &mut at_once
            };
            group.set.insert(port, target);
        }
        if !at_once.is_empty() {
            self.route_step(node, at_once, Vec::new());
        }
        for (application, change) in later {
            let mut needs: Vec<Need> = Vec::new();
            let begins = self
                .serving
                .get(&application)
                .is_some_and(|serving| serving.begins);
            for (port, target) in &change.set {
                let here = target
                    .homes
                    .iter()
                    .find(|home| home.node == *self.view.node(node).name);
                let Some(home) = here.or(target.homes.first()) else {
                    continue;
                };
                let number = self.view.find(&home.node);
                if begins && number.is_some_and(|home| self.starts(application, home)) {
                    let healthy = Fact::Healthy {
                        application: target.application.clone(),
                        on: home.node.clone(),
                    };
                    if !needs.iter().any(|need| need.fact == healthy) {
                        needs.push(need(healthy, Because::ServedThere));
                    }
                }
                if here.is_none() && number.is_some_and(|home| turning.contains(&(*port, home))) {
                    let routed = Fact::Routed {
                        port: *port,
                        on: home.node.clone(),
                        to: home.node.clone(),
                    };
                    needs.push(need(routed, Because::NoCircle));
                }
            }
            self.route_step(node, change, needs);
        }
    }

    fn ends_here(&self, target: &RouteTarget, node: u32) -> bool {
        target
            .homes
            .iter()
            .any(|home| home.node == *self.view.node(node).name)
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
