//! Routes for every node, switched last.
//!
//! A node's route follows only when the application is healthy at its home,
//! and the home's own route goes first: otherwise two nodes could send a
//! connection to each other. The original changed its routes first, and every
//! deploy was an outage.

mod course;
mod wanted;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;

use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::ExternalPort;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use self::course::Change;
use self::course::Course;
use self::course::Group;
use self::course::Late;
use self::course::Owner;
use self::course::Turn;
use self::course::Turning;
use self::course::of;
use self::wanted::Wanted;
use super::Rules;
use super::need;
use crate::action::Action;
use crate::blocked::Refusal;
use crate::fact::Fact;
use crate::needs::Needs;
use crate::step::Because;
use crate::step::Need;
use crate::view::number;

impl Rules<'_> {
    pub(super) fn route(&mut self) {
        let wanted = self.wanted_routes();
        let (changes, changing) = self.route_changes(&wanted);
        // Which homes change their own route in this plan.
        let mut turning: BTreeSet<(ExternalPort, u32)> = BTreeSet::new();
        let homes: Vec<Vec<(u32, ExternalPort)>> =
            changes.iter().map(|change| change.homes(&wanted)).collect();
        for &(node, change) in &changing {
            turning.extend(of(&homes[change], node).iter().map(|&(_, port)| (port, node)));
        }
        let first = self.steps.len();
        let mut courses: Vec<Option<Course<'_>>> = changes.iter().map(|_| None).collect();
        for &(node, change) in &changing {
            if courses[change].is_none() {
                courses[change] = Some(self.course(&wanted, node, &changes[change], &turning));
            }
        }
        let nodes = changing.iter().filter_map(|&(node, change)| {
            let course = courses[change].as_ref()?;
            Some(Turning::new(node, self.node(node), course))
        });
        let nodes: Vec<Turning<'_>> = nodes.collect();
        let n_steps = nodes.iter().map(|node| node.course.len());
        self.steps.reserve(n_steps.sum());
        let mut late = Late::default();
        for place in 0..nodes.len() {
            self.route_node(&nodes, place, &mut late);
        }
        debug_assert!(late.is_empty());
        self.leave_last(first);
    }

    /// Finds what changes in the routes of which nodes.
    ///
    /// Most nodes have the same routes, and all are to have the same: what changes is found once for each table.
    fn route_changes<'w>(&mut self, wanted: &'w Wanted) -> (Vec<Change<'w>>, Vec<(u32, usize)>) {
        let mut changes: Vec<Change<'_>> = Vec::new();
        let mut tables: BTreeMap<u64, Vec<(&RouteTable, usize)>> = BTreeMap::new();
        let mut changing: Vec<(u32, usize)> = Vec::new();
        for node in 0..number(self.view.nodes.len()) {
            let is_member = self.view.node(node).member.is_some();
            let Some(state) = self
                .view
                .node(node)
                .seen
                .filter(|_| is_member && self.obeys(node))
            else {
                continue;
            };
            let known = tables.entry(state.routes.digest()).or_default();
            let found = known.iter().find(|(table, _)| **table == state.routes);
            let change = if let Some(&(_, change)) = found {
                change
            } else {
                known.push((&state.routes, changes.len()));
                changes.push(self.difference(wanted, &state.routes));
                changes.len() - 1
            };
            let taken = changes[change].taken(&state.foreign_ports);
            if taken.is_empty() {
                changing.push((node, change));
            } else {
                self.refuse_taken(wanted, node, &taken);
                changing.push((node, changes.len()));
                changes.push(changes[change].without(&taken));
            }
        }
        changing.retain(|&(_, change)| !changes[change].is_empty());
        (changes, changing)
    }

    /// What leaves a node stops when the routes to it have changed: the steps from `first` on.
    fn leave_last(&mut self, first: usize) {
        if self.leaving.is_empty() {
            return;
        }
        self.hand_out();
        let leaving = self.leaving.iter();
        let ports = leaving.flat_map(|&(application, _)| &self.view.definitions[application as usize].ports);
        let ports: BTreeSet<ExternalPort> = ports.map(|port| port.external).collect();
        let mut routed: BTreeMap<ExternalPort, Vec<(usize, Fact)>> = BTreeMap::new();
        for (order, step) in self.steps[first..].iter().enumerate() {
            let Action::Route { change } = &step.action else {
                continue;
            };
            if change.set.keys().all(|port| !ports.contains(port)) {
                continue;
            }
            for fact in step.makes() {
                if let Fact::Routed { port, .. } = fact
                    && ports.contains(&port)
                {
                    routed.entry(port).or_default().push((order, fact));
                }
            }
        }
        for (application, position) in std::mem::take(&mut self.leaving) {
            let ports = &self.view.definitions[application as usize].ports;
            let own = ports.iter().filter_map(|own| routed.get(&own.external));
            let mut facts: Vec<&(usize, Fact)> = own.flatten().collect();
            // In order of node, and of what one node does.
            facts.sort_by_key(|(order, fact)| (fact.place(), *order));
            let needs = facts
                .into_iter()
                .map(|(_, fact)| need(fact.clone(), Because::NobodySentThere));
            self.steps[position].needs.extend(needs);
        }
    }

    fn difference<'w>(&self, wanted: &'w Wanted, current: &RouteTable) -> Change<'w> {
        let mut change = Change {
            set: Vec::new(),
            drop: BTreeSet::new(),
            fresh: Vec::new(),
        };
        if wanted.left.is_empty() && !wanted.table.differs_at_a_glance(current) {
            return change;
        }
        let mut present = current.entries().iter().peekable();
        for (port, target) in wanted.table.entries() {
            while present.next_if(|(other, _)| *other < port).is_some() {}
            let there = present
                .next_if(|(other, _)| *other == port)
                .map(|(_, there)| there);
            if there != Some(target) {
                change.set.push((*port, target));
            }
            if there.is_none() {
                change.fresh.push(*port);
            }
        }
        let dropped = current
            .entries()
            .iter()
            .filter(|(port, _)| wanted.table.get(**port).is_none() && !wanted.left.contains(port));
        change.drop = dropped
            .filter(|(_, target)| !self.goes_on(target) && !is_planted(Bug::RoutesNotDropped))
            .map(|(port, _)| *port)
            .collect();
        change
    }

    /// Refuses ports that something else uses on a node.
    fn refuse_taken(&mut self, wanted: &Wanted, node: u32, taken: &[ExternalPort]) {
        for &port in taken {
            let Some(target) = wanted.table.get(port) else {
                continue;
            };
            let refusal = Refusal::PortTaken {
                application: target.application.clone(),
                port,
                on: self.node(node),
            };
            if !self.refused.contains(&refusal) {
                self.refused.push(refusal);
            }
        }
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

    /// Works out the steps with which nodes make a change, from any of them.
    ///
    /// What is served already changes in one step; what this plan starts follows application by application.
    fn course<'w>(
        &self,
        wanted: &'w Wanted,
        node: u32,
        change: &Change<'w>,
        turning: &BTreeSet<(ExternalPort, u32)>,
    ) -> Course<'w> {
        let mut at_once = RouteChange::default();
        let drops = self.drop_routes(node, &change.drop, &mut at_once);
        let mut routes: Vec<(&Owner, ExternalPort, &RouteTarget)> = change
            .set
            .iter()
            .map(|&(port, target)| (&*wanted.owners[&port], port, target))
            .collect();
        // Stable: the ports of an application come in their order.
        routes.sort_by_key(|(owner, ..)| owner.application);
        let mut groups = Vec::new();
        let mut homes = Vec::new();
        for group in routes.chunk_by(|(one, ..), (other, ..)| one.application == other.application) {
            let Some(&(owner, ..)) = group.first() else {
                continue;
            };
            let first = owner.homes.first();
            let turns = |port| first.is_some_and(|&(home, _)| turning.contains(&(port, home)));
            let mut later = RouteChange::default();
            for &(_, port, target) in group {
                let waits = owner.begins || turns(port);
                let change = if waits { &mut later } else { &mut at_once };
                change.set.insert(port, target.clone());
            }
            if !later.is_empty() {
                let turn = first.filter(|_| later.set.keys().any(|&port| turns(port)));
                homes.extend(owner.homes.iter().map(|&(home, _)| (home, groups.len())));
                groups.push(Group {
                    owner,
                    turn: turn.map(|&(home, _)| (home, owner.begins.then_some(owner.application))),
                    needs: if is_planted(Bug::RouteBeforeStart) {
                        Needs::default()
                    } else {
                        owner.needs(0, &later.set, turns)
                    },
                    change: Arc::new(later),
                });
            }
        }
        homes.sort_unstable();
        Course {
            drops,
            at_once: Arc::new(at_once),
            groups,
            homes,
        }
    }

    /// Gives the node at a place the steps of its course, but those that come after another node's: that one brings them along.
    fn route_node(&mut self, nodes: &[Turning<'_>], place: usize, late: &mut Late) {
        let turning = &nodes[place];
        let &Turning { node, course, .. } = turning;
        for (change, needs) in &course.drops {
            self.steps.push(turning.step(change, needs.clone()));
        }
        let own = of(&course.homes, node);
        let mut at_once = Arc::clone(&course.at_once);
        for &(_, group) in own {
            let Group { owner, change, .. } = &course.groups[group];
            // Elsewhere a route waits until the home's own has turned; the home's own waits for nothing.
            if !owner.begins {
                let set = change.set.iter().map(|(port, target)| (*port, target.clone()));
                Arc::make_mut(&mut at_once).set.extend(set);
            }
        }
        if !at_once.is_empty() {
            self.steps.push(turning.step(&at_once, Needs::default()));
        }
        let followers = |late: &mut Late, turn: Turn| {
            let waiting = late.remove(&turn).unwrap_or_default().into_iter();
            waiting.map(|(place, group)| nodes[place].follow(group))
        };
        self.steps.extend(followers(late, (node, None)));
        let mut own = own.iter().peekable();
        for (position, group) in course.groups.iter().enumerate() {
            let owner = group.owner;
            let is_home = own.next_if(|&&(_, group)| group == position).is_some();
            if !is_home {
                match group.turn.filter(|(home, _)| *home > node) {
                    Some(turn) => late.entry(turn).or_default().push((place, position)),
                    None => self.steps.push(turning.follow(position)),
                }
            } else if owner.begins {
                let needs = owner.needs(owner.place(node), &group.change.set, |_| false);
                self.steps.push(turning.step(&group.change, needs));
                let turn = (node, Some(owner.application));
                self.steps.extend(followers(late, turn));
            }
        }
    }

    /// A port that is dropped because its application stops is dropped after the stop, and holds up no other.
    fn drop_routes(
        &self,
        node: u32,
        ports: &BTreeSet<ExternalPort>,
        at_once: &mut RouteChange,
    ) -> Vec<(Arc<RouteChange>, Needs)> {
        let Some(state) = self.view.node(node).seen else {
            return Vec::new();
        };
        let mut later: BTreeMap<&ApplicationName, (RouteChange, Vec<Need>)> = BTreeMap::new();
        for &port in ports {
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
        let later = later.into_values();
        later
            .map(|(change, needs)| (Arc::new(change), needs.into()))
            .collect()
    }
}
