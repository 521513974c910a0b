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
use crate::view::number;

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
        let name = self.application(application);
        let dataset = self.dataset(application).map(|dataset| dataset.id);
        let mut needs = Vec::new();
        for node in 0..number(self.view.nodes.len()) {
            if !self.obeys(node) || (blocked && node == home) {
                continue;
            }
            let containers = self.view.node(node).seen.map(|state| &state.containers);
            let users = containers.into_iter().flatten().filter(|(user, container)| {
                let at_home = node == home && **user == name;
                let uses = container.is_alive() && container.dataset == dataset;
                !at_home && (uses || **user == name)
            });
            for (user, _) in users {
                let reason = Reason::Stops {
                    application: user.clone(),
                    on: self.node(node),
                };
                if node == home && prepared.is_none() && !self.stopped.contains(&(node, user.clone())) {
                    prepared = self.prepare_beside(application, home, &reason);
                }
                let at_home = prepared.clone().filter(|_| node == home);
                let before = at_home.map(|fact| need(fact, Because::NothingStopsInVain));
                let stopped = self.stop(user, node, &reason, before.into_iter().collect());
                needs.push(need(stopped, Because::OneWriter));
            }
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
