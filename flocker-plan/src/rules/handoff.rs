//! How data changes hands. Release before acquire, never the other way round.
//!
//! The original asked the receiver to take ownership first, and for a moment
//! both nodes had it; a lost answer made the moment last for ever.

use flocker_model::ByteSize;
use flocker_model::ContainerState;
use flocker_model::Dataset;
use flocker_model::Epoch;
use flocker_model::Manifestation;
use flocker_model::Snapshot;
use flocker_model::SnapshotGuid;
use flocker_model::SnapshotName;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::Rules;
use super::need;
use super::seen::next_epoch;
use super::warm::Readiness;
use crate::action::Action;
use crate::blocked::Waiting;
use crate::fact::Fact;
use crate::needs::Listed;
use crate::replicate::Common;
use crate::replicate::common;
use crate::replicate::expected_since;
use crate::replicate::least_round;
use crate::replicate::written_since;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;

/// A move of one application's data.
pub(super) struct Move<'a> {
    pub(super) application: u32,
    pub(super) dataset: Dataset,
    pub(super) from: u32,
    pub(super) source: &'a Manifestation,
    pub(super) to: u32,
    pub(super) epoch: Epoch,
    pub(super) reason: Reason,
}

impl<'a> Rules<'a> {
    /// The owner is elsewhere: copy while it still runs, then stop, release, send the rest, acquire, start.
    pub(super) fn hand_off(&mut self, application: u32, from: u32, source: &'a Manifestation, to: u32) {
        let Some(dataset) = self.dataset(application) else {
            return;
        };
        let name = self.application(application);
        if !self.obeys(from) {
            self.wait_for_sight(application, true, vec![self.node(from)]);
            return self.stays(application);
        }
        if self.is_refused_at(application, source, to) {
            return self.stays(application);
        }
        if source.maximum_size.is_some_and(|limit| limit < source.used) {
            // Its node hands over no more than it may hold there, and it is to be allowed more.
            self.resize(application, from, source, Vec::new());
            return self.stays(application);
        }
        let reason = Reason::Moves {
            application: name.clone(),
            from: self.node(from),
            to: self.node(to),
        };
        let epoch = next_epoch(&self.view, dataset.id);
        let id = dataset.id;
        let move_ = Move {
            application,
            dataset,
            from,
            source,
            to,
            epoch,
            reason,
        };
        let target = self.view.copy_on(id, to);
        let base = match target {
            // Its node would refuse the last round, with the application away.
            Some(copy) if copy.altered().is_some() => Common::Diverged,
            _ => common(source, target),
        };
        if base == Common::Diverged && self.clear_target(&move_) {
            return self.stays(application);
        }
        let runs = self.is_in_use(id, from);
        let delta = written_since(source, base_of(&base));
        let expected = expected_since(source, base_of(&base), epoch);
        let round = least_round(source, target);
        let downtime = self.policy.rates.downtime(expected, round);
        let readiness = if runs {
            self.readiness(&move_, &base, delta, expected, round)
        } else {
            Readiness::Ready
        };
        if readiness.lets_copy()
            && let Some(earlier) = self.earlier(&move_, &base)
        {
            return self.earlier_round(&move_, &base, &earlier);
        }
        match readiness {
            Readiness::Round { number, take, bytes } => self.warm_round(&move_, &base, number, take, bytes),
            Readiness::Held => {
                let (from, to) = (self.node(from), self.node(to));
                self.waiting.push(Waiting::Held {
                    application: name,
                    from,
                    to,
                    downtime,
                });
                self.stays(application);
            }
            Readiness::NotConverging { rounds } => {
                self.waiting.push(Waiting::NotConverging {
                    application: name,
                    from: self.node(from),
                    to: self.node(to),
                    rounds,
                    downtime,
                    budget: self.policy.max_downtime,
                });
                self.stays(application);
            }
            Readiness::TooManyFiles => {
                self.waiting.push(Waiting::TooManyFiles {
                    application: name,
                    from: self.node(from),
                    to: self.node(to),
                    round,
                    downtime: self.policy.rates.downtime(ByteSize(0), round),
                    budget: self.policy.max_downtime,
                });
                self.stays(application);
            }
            Readiness::Ready => {
                if self.has_room(&move_, expected, ByteSize(0)) {
                    self.cut_over(&move_, &base);
                } else {
                    self.stays(application);
                }
            }
        }
    }

    /// Returns the name of the last snapshot before an ownership; most moves of a plan are on the way to the same.
    fn handoff_name(&mut self, epoch: Epoch) -> SnapshotName {
        let known = self.handoff.as_ref().filter(|(known, _)| *known == epoch);
        let name = known.map_or_else(|| SnapshotName::handoff(epoch), |(_, name)| name.clone());
        self.handoff = Some((epoch, name.clone()));
        name
    }

    /// Says whether an application, of whatever name, runs with the dataset on a node.
    fn is_in_use(&self, dataset: flocker_model::DatasetId, node: u32) -> bool {
        let users = self.view.users_of(dataset).iter();
        users
            .filter(|user| user.node == node)
            .any(|user| user.container.is_alive())
    }

    /// Stop, release, last increment, acquire, start: what is inside the pause, and nothing else.
    fn cut_over(&mut self, move_: &Move<'a>, base: &Common<'_>) {
        let id = move_.dataset.id;
        let (from, to) = (self.node(move_.from), self.node(move_.to));
        let set_aside = self.set_aside(move_, base);
        let prepared = self.prepare_beside(move_.application, move_.to, &move_.reason);
        let prepared = prepared.map(|fact| need(fact, Because::NothingStopsInVain));
        let before_stop = self.gathered.list(prepared.into_iter().chain(set_aside.clone()));
        let before_release = self.stop_users(move_, before_stop);
        let before_release = if before_release.is_empty() || is_planted(Bug::ReleaseBeforeStop) {
            before_stop
        } else {
            before_release
        };
        let last = self.handoff_name(move_.epoch);
        let released = Fact::Released {
            dataset: id,
            by: from,
            epoch: move_.epoch,
        };
        self.act(
            move_.from,
            Action::Release {
                dataset: id,
                epoch: move_.epoch,
                to,
                last: last.clone(),
            },
            &move_.reason,
            before_release,
        );
        let before_push = [need(released.clone(), Because::OneWriter)];
        let mut before_push = self
            .gathered
            .list(before_push.into_iter().chain(set_aside.clone()));
        if is_planted(Bug::AcquireBeforeRelease) {
            before_push = self.gathered.list(set_aside);
        }
        let complete = self.push(move_, &last, base, before_push);
        if is_planted(Bug::DestroyedUnreceived) {
            let before = self.gathered.list([need(released.clone(), Because::OneWriter)]);
            self.act(move_.from, Action::Destroy { dataset: id }, &move_.reason, before);
        }
        let released = (!is_planted(Bug::AcquireBeforeRelease)).then(|| need(released, Because::OneWriter));
        let complete =
            (!is_planted(Bug::AcquireBeforeComplete)).then(|| need(complete, Because::DataComplete));
        let needs = self.gathered.list(released.into_iter().chain(complete));
        self.take_over(move_, &last, None, needs);
    }

    /// Acquire and start: from here on the new home is the only one.
    pub(super) fn take_over(
        &mut self,
        move_: &Move<'a>,
        from: &SnapshotName,
        guid: Option<SnapshotGuid>,
        needs: Listed,
    ) {
        let id = move_.dataset.id;
        let to = self.node(move_.to);
        let owns = Fact::Primary {
            dataset: id,
            on: to,
            epoch: move_.epoch,
        };
        let action = Action::Acquire {
            dataset: id,
            epoch: move_.epoch,
            from: from.clone(),
            guid,
        };
        self.act(move_.to, action, &move_.reason, needs);
        let held = move_.source.maximum_size;
        if move_.from == move_.to && held != move_.dataset.maximum_size {
            let needs = vec![need(owns.clone(), Because::DataThere)];
            self.resize(move_.application, move_.to, move_.source, needs);
        }
        let mut before_start = self.gathered.list([need(owns, Because::DataThere)]);
        if is_planted(Bug::StartBeforeAcquire) {
            before_start = Listed::default();
        }
        self.start(move_.application, move_.to, &move_.reason, before_start);
    }

    /// Stops whatever uses the dataset anywhere, so that nothing writes once it is released.
    pub(super) fn stop_users(&mut self, move_: &Move<'a>, before: Listed) -> Listed {
        let id = move_.dataset.id;
        if is_planted(Bug::StopForgotten) {
            return Listed::default();
        }
        let mut all_stopped = Vec::new();
        for (node, user, container) in self.users(move_.application, id) {
            // What does not run at the target is replaced by the start.
            let is_replaced = node == move_.to && !container.is_alive();
            if !is_replaced {
                let before = if node == move_.to {
                    Listed::default()
                } else {
                    before
                };
                let stopped = self.stop_within(user, node, container.stop_grace, &move_.reason, before);
                all_stopped.push(need(stopped, Because::OneWriter));
            }
        }
        self.gathered.list(all_stopped)
    }

    /// Stops what runs beside a copy that is to be set aside, and says whether anything did: the rest is for the next plan.
    pub(super) fn clear_target(&mut self, move_: &Move<'_>) -> bool {
        let state = self.view.node(move_.to).seen;
        let containers = state.into_iter().flat_map(|state| &state.containers);
        let uses =
            |container: &ContainerState| container.is_alive() && container.dataset == Some(move_.dataset.id);
        let mut any = false;
        for (user, _) in containers.filter(|(_, container)| uses(container)) {
            self.stop(user, move_.to, &move_.reason, Vec::new());
            any = true;
        }
        any
    }

    /// A copy at the target from which no increment fits is set aside, not written over.
    pub(super) fn set_aside(&mut self, move_: &Move<'a>, base: &Common<'_>) -> Option<Need> {
        let id = move_.dataset.id;
        match base {
            Common::Nothing | Common::Base(_) => None,
            Common::Diverged if is_planted(Bug::DivergedKept) => None,
            Common::Diverged => {
                let gone = Fact::Gone {
                    dataset: id,
                    on: self.node(move_.to),
                };
                let action = Action::Destroy { dataset: id };
                self.step(move_.to, action, &move_.reason, Vec::new(), vec![gone.clone()]);
                Some(need(gone, Because::PlaceFree))
            }
        }
    }

    pub(super) fn push(
        &mut self,
        move_: &Move<'a>,
        snapshot: &SnapshotName,
        base: &Common<'_>,
        needs: Listed,
    ) -> Fact {
        let to = self.node(move_.to);
        let dataset = move_.dataset.clone();
        let complete = Fact::Snapshot {
            dataset: dataset.id,
            on: to.clone(),
            name: snapshot.clone(),
        };
        let mut base = base_of(base).cloned();
        if is_planted(Bug::WrongBase) {
            let older = move_.source.snapshots.iter().rev();
            base = older.into_iter().find(|older| older.name != *snapshot).cloned();
        }
        let action = Action::Push {
            dataset,
            snapshot: snapshot.clone(),
            base: base.map(Box::new),
            to,
        };
        self.act(move_.from, action, &move_.reason, needs);
        complete
    }

    /// Nothing moves in this plan: the application serves where it runs now, and is not stopped.
    pub(super) fn stays(&mut self, application: u32) {
        let name = self.view.names[application as usize];
        let mut homes: Vec<u32> = self
            .extras_of(application)
            .iter()
            .filter(|extra| extra.container.is_alive())
            .map(|extra| extra.node)
            .chain(self.view.homes(application).filter(|&home| {
                self.container(application, home)
                    .is_some_and(ContainerState::is_alive)
            }))
            .filter(|&node| !self.is_stopped(name, node))
            .collect();
        homes.sort_unstable();
        self.serve(application, homes, false);
    }
}

pub(super) fn base_of<'a>(base: &Common<'a>) -> Option<&'a Snapshot> {
    match base {
        Common::Base(base) => Some(base),
        Common::Nothing | Common::Diverged => None,
    }
}
