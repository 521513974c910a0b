//! Who else has the data of an application: one writer at a time, under whatever name.

use flocker_model::ApplicationName;
use flocker_model::ContainerState;
use flocker_model::NodeName;

use super::Rules;
use super::need;
use crate::fact::Fact;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;

impl Rules<'_> {
    /// Stops what has the data of an application or its name, but the application at home.
    ///
    /// Where the application cannot start, what has its data at home goes on.
    pub(super) fn stop_other_users(
        &mut self,
        application: u32,
        home: u32,
        blocked: bool,
        mut prepared: Option<Fact>,
    ) -> Vec<Need> {
        let Some(dataset) = self.dataset(application) else {
            return Vec::new();
        };
        let mut needs = Vec::new();
        for (node, user, container) in self.users(application, dataset.id) {
            let is_named = *user == dataset.owner;
            let is_other = (node != home || !is_named) && (container.is_alive() || is_named);
            if !is_other || (blocked && node == home) {
                continue;
            }
            let reason = Reason::Stops {
                application: user.clone(),
                on: self.node(node),
            };
            if node == home && prepared.is_none() && !self.is_stopped(user, node) {
                prepared = self.prepare_beside(application, home, &reason);
            }
            let at_home = prepared.clone().filter(|_| node == home);
            let before = at_home.map(|fact| need(fact, Because::NothingStopsInVain));
            let stopped = self.stop(user, node, &reason, before.into_iter().collect());
            needs.push(need(stopped, Because::OneWriter));
        }
        needs
    }

    /// Gets everything in place before anything stops for it, unless something of that name runs there.
    pub(super) fn prepare_beside(&mut self, application: u32, home: u32, reason: &Reason) -> Option<Fact> {
        let there = self.container(application, home);
        if there.is_some_and(ContainerState::is_alive) {
            return None;
        }
        self.prepare(application, home, reason)
    }

    /// Says whether what has to stop first is to run there itself, with other data.
    pub(super) fn restarts_any(&self, needs: &[Need]) -> bool {
        needs.iter().any(|need| match &need.fact {
            Fact::Stopped {
                application: user,
                on,
            } => self.is_placed(user, on),
            Fact::Prepared { .. }
            | Fact::Running { .. }
            | Fact::Healthy { .. }
            | Fact::Primary { .. }
            | Fact::Released { .. }
            | Fact::Renounced { .. }
            | Fact::Snapshot { .. }
            | Fact::Gone { .. }
            | Fact::Routed { .. }
            | Fact::Obeys { .. } => false,
        })
    }

    fn is_placed(&self, name: &ApplicationName, on: &NodeName) -> bool {
        let number = self.view.desired.placements().find(name, &self.view.names);
        number.is_some_and(|number| {
            self.view
                .homes(number)
                .any(|home| self.view.node(home).name == on)
        })
    }
}
