//! The order of starting: what an application depends on or links to starts before it, when both are to start.

use std::collections::BTreeMap;

use flocker_model::NodeName;
use flocker_model::PortNumber;

use super::Rules;
use super::need;
use crate::fact::Fact;
use crate::step::Because;

/// How far the search for circles has come with an application.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Open,
    Closed,
}

impl Rules<'_> {
    /// Makes each start need the health of what it uses, if that starts too. An unrelated application never waits.
    ///
    /// Where applications use each other in a circle, the use that closes the
    /// circle is not waited for: links, unlike dependencies, may do that.
    pub(super) fn order(&mut self) {
        let uses_others = |application: u32| {
            let definition = self.view.definitions[application as usize];
            !definition.depends_on.is_empty() || !definition.links.is_empty()
        };
        if !self
            .started
            .iter()
            .any(|&(application, _)| uses_others(application))
        {
            return;
        }
        let owners = self.port_owners();
        let mut uses: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for &(application, _) in &self.started {
            let mut waits_for = self.used_by(application, &owners);
            waits_for.retain(|&used| !self.starts_of(used).is_empty());
            if !waits_for.is_empty() {
                uses.insert(application, waits_for);
            }
        }
        let mut waits = Vec::new();
        let mut marks = BTreeMap::new();
        for &application in uses.keys() {
            visit(application, &uses, &mut marks, &mut |user, used| {
                waits.push((user, used));
            });
        }
        for (user, used) in waits {
            for (_, position) in self.starts_of(user).to_vec() {
                for (_, maker) in self.starts_of(used).to_vec() {
                    let on = self.steps[maker].actor.clone();
                    let healthy = Fact::Healthy {
                        application: self.application(used),
                        on,
                    };
                    self.steps[position].needs.push(need(healthy, Because::UsesIt));
                }
            }
        }
    }

    /// What a step needs to be stopped starts again after that step, not between the stop and it.
    pub(super) fn start_again_last(&mut self) {
        let mut waits = Vec::new();
        for step in &self.steps {
            for need in &step.needs {
                let Fact::Stopped { application, on } = &need.fact else {
                    continue;
                };
                if step.action.application() == Some(application) && step.actor == *on {
                    continue;
                }
                let placements = self.view.desired.placements();
                let Some(number) = placements.find(application, &self.view.names) else {
                    continue;
                };
                // Where its own data is on its way, it starts last already.
                let volume = self.view.definitions[number as usize].volume.as_ref();
                if volume.is_some_and(|volume| step.action.dataset() == Some(volume.dataset)) {
                    continue;
                }
                let Some(start) = self.find_start(number, on) else {
                    continue;
                };
                waits.extend(step.makes().into_iter().next().map(|made| (start, made)));
            }
        }
        for (start, made) in waits {
            self.steps[start].needs.push(need(made, Because::NotInUse));
        }
    }

    /// Finds the step that starts an application on a node.
    pub(super) fn find_start(&self, application: u32, on: &NodeName) -> Option<usize> {
        let mut positions = self.starts_of(application).iter().map(|&(_, position)| position);
        positions.find(|&position| self.steps[position].actor == *on)
    }

    /// Returns the steps that start an application, each with its number.
    fn starts_of(&self, application: u32) -> &[(u32, usize)] {
        let first = self
            .started
            .partition_point(|(started, _)| *started < application);
        let own = self.started[first..].iter();
        let n_own = own.take_while(|(started, _)| *started == application).count();
        &self.started[first..first + n_own]
    }

    fn port_owners(&self) -> BTreeMap<PortNumber, u32> {
        let mut owners = BTreeMap::new();
        for &application in self.view.desired.placements().ported() {
            let ports = &self.view.definitions[application as usize].ports;
            owners.extend(ports.iter().map(|port| (port.external, application)));
        }
        owners
    }

    fn used_by(&self, application: u32, owners: &BTreeMap<PortNumber, u32>) -> Vec<u32> {
        let definition = self.view.definitions[application as usize];
        let linked = definition
            .links
            .iter()
            .filter_map(|link| owners.get(&link.remote_port).copied());
        let placements = self.view.desired.placements();
        let named = definition
            .depends_on
            .iter()
            .filter_map(|name| placements.find(name, &self.view.names));
        let mut used: Vec<u32> = named.chain(linked).filter(|&used| used != application).collect();
        used.sort_unstable();
        used.dedup();
        used
    }
}

/// Visits what an application uses, depth first, and reports each use that does not close a circle.
fn visit(
    application: u32,
    uses: &BTreeMap<u32, Vec<u32>>,
    marks: &mut BTreeMap<u32, Mark>,
    report: &mut impl FnMut(u32, u32),
) {
    if marks.contains_key(&application) {
        return;
    }
    // A stack of our own: a chain of uses may be longer than the thread's stack is deep.
    let mut stack = vec![(application, 0)];
    marks.insert(application, Mark::Open);
    while let Some((user, position)) = stack.pop() {
        let Some(&next) = uses.get(&user).and_then(|used| used.get(position)) else {
            marks.insert(user, Mark::Closed);
            continue;
        };
        stack.push((user, position + 1));
        match marks.get(&next) {
            Some(Mark::Open) => {}
            Some(Mark::Closed) => report(user, next),
            None => {
                report(user, next);
                marks.insert(next, Mark::Open);
                stack.push((next, 0));
            }
        }
    }
}
