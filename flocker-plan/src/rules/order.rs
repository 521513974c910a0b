//! The order of starting: what an application depends on or links to starts before it, when both are to start.

use std::collections::BTreeMap;
use std::ops::Range;

use flocker_model::ExternalPort;
use flocker_model::NodeName;

use super::Rules;
use super::need;
use crate::fact::Fact;
use crate::needs::Gathered;
use crate::shares::each;
use crate::shares::each_of;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;
use crate::step::Step;
use crate::view::number;

/// How far the search for circles has come with an application.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Open,
    Closed,
}

/// How many needs are gathered before they are handed out: as many as stay near.
const MANY: usize = 256;

impl Rules<'_> {
    /// Makes each start need the health of what it uses, if that starts too. An unrelated application never waits.
    ///
    /// Where applications use each other in a circle, the use that closes the
    /// circle is not waited for: links, unlike dependencies, may do that.
    pub(super) fn order(&mut self) {
        if self.uses_others.is_empty() {
            return;
        }
        self.hand_out();
        let owners = self.port_owners();
        // In order of user, and for one user in order of what it uses.
        self.uses_others.dedup();
        let rules = &*self;
        let first_starts = rules.first_starts();
        let starts_of = |application: u32| {
            let own = &first_starts[application as usize..][..2];
            &rules.started[own[0] as usize..own[1] as usize]
        };
        let starting = &rules.uses_others;
        let shares = rules.view.workers.shares(starting.len(), starting.len());
        let uses = each(&shares, |share| {
            let uses = starting[share].iter().flat_map(|&application| {
                let all = rules.used_by(application, &owners).into_iter();
                all.filter(|&used| !starts_of(used).is_empty())
                    .map(move |used| (application, used))
            });
            uses.collect::<Vec<(u32, u32)>>()
        });
        let uses = uses.concat();
        let mut waits = Vec::with_capacity(uses.len());
        let mut marks = vec![None; self.view.names.len()];
        for user in uses.chunk_by(|(one, _), (other, _)| one == other) {
            visit(user[0].0, &uses, &mut marks, &mut |user, used| {
                waits.push((user, used));
            });
        }
        // So that they come in order of step.
        waits.sort_by_key(|&(user, _)| user);
        let waiting: Vec<&[(u32, u32)]> = waits.chunk_by(|(one, _), (other, _)| one == other).collect();
        let shares = rules.view.workers.shares(waiting.len(), waits.len());
        let needs = each(&shares, |share| {
            let mut needs = Vec::with_capacity(share.len());
            for &(user, used) in waiting[share].iter().copied().flatten() {
                let healthy = |maker: usize| Fact::Healthy {
                    application: rules.application(used),
                    on: rules.steps[maker].actor.clone(),
                };
                for &(_, position) in starts_of(user) {
                    let makers = starts_of(used).iter().map(|&(_, maker)| maker);
                    needs.extend(makers.map(|maker| (position, need(healthy(maker), Because::UsesIt))));
                }
            }
            // Stable: what is on several nodes comes node by node, and for each in the same order as before.
            needs.sort_by_key(|(position, _)| *position);
            needs
        });
        let mut rest = self.steps.as_mut_slice();
        let mut shares = Vec::with_capacity(needs.len());
        for needs in needs.into_iter().rev() {
            let first = needs.first().map_or(rest.len(), |(position, _)| *position);
            let (before, own) = rest.split_at_mut(first);
            shares.push((first, own, needs));
            rest = before;
        }
        each_of(shares, |(first, steps, needs)| {
            let mut gathered = Gathered::default();
            let mut needs = needs.into_iter().peekable();
            while let Some(&(position, _)) = needs.peek() {
                let own = steps[position - first].needs.iter().cloned();
                let more = std::iter::from_fn(|| needs.next_if(|(other, _)| *other == position));
                let list = gathered.list(own.chain(more.map(|(_, need)| need)));
                gathered.give(position, list);
                if gathered.len() > MANY {
                    gathered.hand_out(first, steps);
                }
            }
            gathered.hand_out(first, steps);
        });
    }

    /// Returns where the steps that start an application begin in `started`, by its number; one more than there are applications.
    fn first_starts(&self) -> Vec<u32> {
        let mut first_starts = Vec::with_capacity(self.view.names.len() + 1);
        for (position, &(application, _)) in (0_u32..).zip(&self.started) {
            first_starts.resize(first_starts.len().max(application as usize + 1), position);
        }
        first_starts.resize(self.view.names.len() + 1, number(self.started.len()));
        first_starts
    }

    /// What a step needs to be stopped starts again after that step, not between the stop and it.
    pub(super) fn start_again_last(&mut self) {
        self.hand_out();
        let mut waits = Vec::new();
        for &position in &self.after_stops {
            let step = &self.steps[position];
            for need in step.needs.iter().filter(|need| may_be_cut_short(step, need)) {
                let Fact::Stopped { application, on } = &need.fact else {
                    continue;
                };
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
        &self.started[self.range_of_starts(application)]
    }

    fn range_of_starts(&self, application: u32) -> Range<usize> {
        // Applications are looked at in order, and most ask for their own.
        if self
            .started
            .last()
            .is_none_or(|&(started, _)| started < application)
        {
            return 0..0;
        }
        let first = self
            .started
            .partition_point(|(started, _)| *started < application);
        let own = self.started[first..].iter();
        let n_own = own.take_while(|(started, _)| *started == application).count();
        first..first + n_own
    }

    fn port_owners(&self) -> BTreeMap<ExternalPort, u32> {
        let mut owners = BTreeMap::new();
        for &application in self.view.desired.placements().ported() {
            let ports = &self.view.definitions[application as usize].ports;
            owners.extend(ports.iter().map(|port| (port.external, application)));
        }
        owners
    }

    fn used_by(&self, application: u32, owners: &BTreeMap<ExternalPort, u32>) -> Vec<u32> {
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

/// Says whether a step needs a stop after which the same application could start again too early for it.
pub(super) fn may_be_cut_short(step: &Step, need: &Need) -> bool {
    let Fact::Stopped { application, on } = &need.fact else {
        return false;
    };
    if step.action.application() == Some(application) && step.actor == *on {
        return false;
    }
    // What is done to its own data while that is on its way: it starts last already.
    let moves = matches!(&*step.reason, Reason::Moves { application: moved, .. } if moved == application);
    !(moves && step.action.dataset().is_some())
}

/// Visits what an application uses, depth first, and reports each use that does not close a circle.
fn visit(
    application: u32,
    uses: &[(u32, u32)],
    marks: &mut [Option<Mark>],
    report: &mut impl FnMut(u32, u32),
) {
    if marks[application as usize].is_some() {
        return;
    }
    let first_use = |user: u32| uses.partition_point(|(other, _)| *other < user);
    // A stack of our own: a chain of uses may be longer than the thread's stack is deep.
    let mut stack = vec![(application, first_use(application))];
    marks[application as usize] = Some(Mark::Open);
    while let Some((user, position)) = stack.pop() {
        let Some(&(_, next)) = uses.get(position).filter(|(own, _)| *own == user) else {
            marks[user as usize] = Some(Mark::Closed);
            continue;
        };
        stack.push((user, position + 1));
        match marks[next as usize] {
            Some(Mark::Open) => {}
            Some(Mark::Closed) => report(user, next),
            None => {
                report(user, next);
                marks[next as usize] = Some(Mark::Open);
                stack.push((next, first_use(next)));
            }
        }
    }
}
