//! What runs: start, restart when and only when the definition changed, stop.

use flocker_model::Application;
use flocker_model::ContainerState;
use flocker_model::ContainerStatus;
use flocker_model::Health;
use flocker_model::Manifestation;
use flocker_model::RestartPolicy;
use flocker_model::planted::Bug;
use flocker_model::planted::is_planted;

use super::Rules;
use super::need;
use crate::action::Action;
use crate::blocked::Refusal;
use crate::blocked::Waiting;
use crate::fact::Fact;
use crate::needs::Listed;
use crate::step::Because;
use crate::step::Need;
use crate::step::Reason;

/// Says whether a container of the right definition is as it is to be.
///
/// One that ended well and is not to be started again has done its work;
/// starting it at every deploy would never settle.
pub(super) fn runs_as_wanted(definition: &Application, container: &ContainerState) -> bool {
    match container.status {
        ContainerStatus::Running | ContainerStatus::Restarting => true,
        ContainerStatus::Exited { code: Some(0) } => match definition.restart_policy {
            RestartPolicy::Never | RestartPolicy::OnFailure { .. } => true,
            RestartPolicy::Always => false,
        },
        ContainerStatus::Exited { .. } | ContainerStatus::Prepared => false,
    }
}

impl<'a> Rules<'a> {
    /// The data is where it is to be.
    pub(super) fn run_beside_data(&mut self, application: u32, home: u32, what: &Manifestation) {
        let wanted = self.dataset(application).and_then(|dataset| dataset.maximum_size);
        if what.maximum_size != wanted {
            match wanted.filter(|limit| *limit < what.used) {
                Some(limit) => self.refused.push(Refusal::LargerThanLimit {
                    application: self.application(application),
                    on: self.node(home),
                    used: what.used,
                    limit,
                }),
                None => self.resize(application, home, what, Vec::new()),
            }
        }
        let blocked = self.is_to_start(application, home) && self.port_is_taken(application, home);
        // One left elsewhere without its data, by whatever accident, goes first,
        // and so does one that has the data under another name.
        let needs = self.stop_other_users(application, home, blocked, None);
        if blocked {
            return self.stays(application);
        }
        if self.restarts_any(&needs) {
            // What has its data is to run there itself, with other data. Two that
            // exchange their data would wait for each other: both stop first,
            // and the next plan starts them.
            return self.stays(application);
        }
        self.run(application, home, needs);
    }

    /// Says whether making a home run an application starts it there, now or again.
    fn is_to_start(&self, application: u32, home: u32) -> bool {
        let seen = self.view.node(home).seen;
        let (Some(state), Some(container)) = (seen, self.container(application, home)) else {
            return true;
        };
        container.definition != self.view.definition_on(application, state)
            || !runs_as_wanted(self.view.definitions[application as usize], container)
    }

    pub(super) fn resize(&mut self, application: u32, on: u32, what: &Manifestation, needs: Vec<Need>) {
        let Some(dataset) = self
            .dataset(application)
            .filter(|_| !is_planted(Bug::ResizeForgotten))
        else {
            return;
        };
        debug_assert_ne!(what.maximum_size, dataset.maximum_size);
        let reason = Reason::Resizes {
            application: self.application(application),
            on: self.node(on),
        };
        let action = Action::Resize {
            dataset: dataset.id,
            to: dataset.maximum_size,
        };
        self.step(on, action, &reason, needs, Vec::new());
    }

    /// An application without data runs on each of its homes; elsewhere it stops once nobody is sent there.
    pub(super) fn run_stateless(&mut self, application: u32, homes: &[u32]) {
        let name = self.application(application);
        let silent: Vec<u32> = homes.iter().copied().filter(|&home| !self.obeys(home)).collect();
        let extras: Vec<u32> = self
            .extras_of(application)
            .iter()
            .filter(|extra| self.view.node(extra.node).member.is_some() && self.obeys(extra.node))
            .filter(|extra| !self.is_left_to_heir(extra))
            .map(|extra| extra.node)
            .collect();
        let mut serving = Vec::new();
        for &home in homes {
            if silent.contains(&home) {
                self.wait_for_sight(application, false, vec![self.node(home)]);
                // Others may be sent there: its silence changes nothing.
                serving.extend(self.address(home).map(|_| home));
            } else if !(self.is_to_start(application, home) && self.port_is_taken(application, home)) {
                self.run(application, home, Vec::new());
                serving.push(home);
            }
        }
        let seen: Vec<u32> = serving
            .iter()
            .copied()
            .filter(|home| !silent.contains(home))
            .collect();
        if seen.is_empty() {
            return self.stays(application);
        }
        let begins = seen.iter().any(|&home| self.starts(application, home));
        let unhealthy: Vec<u32> = seen
            .iter()
            .copied()
            .filter(|&home| !self.starts(application, home) && self.is_unhealthy(application, home))
            .collect();
        let serves = unhealthy.len() < seen.len();
        if begins || seen.len() + silent.len() < homes.len() {
            self.serve(application, serving, begins);
        }
        if !serves && !extras.is_empty() {
            let on = unhealthy.iter().map(|&home| self.node(home)).collect();
            self.waiting.push(Waiting::ForHealth {
                application: name,
                on,
            });
            self.serve(application, extras, false);
            return;
        }
        for node in extras {
            let healthy = seen.iter().filter(|&&home| self.starts(application, home));
            let needs = healthy
                .map(|&home| Fact::Healthy {
                    application: name.clone(),
                    on: self.node(home),
                })
                .map(|fact| need(fact, Because::NobodySentThere))
                .collect();
            let reason = Reason::Stops {
                application: name.clone(),
                on: self.node(node),
            };
            if !self.is_stopped(&name, node) {
                self.leaving.push((application, self.steps.len()));
            }
            self.stop(self.view.names[application as usize], node, &reason, needs);
        }
    }

    fn is_unhealthy(&self, application: u32, node: u32) -> bool {
        self.container(application, node)
            .is_some_and(|container| container.health == Health::Unhealthy)
    }

    /// Makes one home run an application as it is defined.
    fn run(&mut self, application: u32, home: u32, mut needs: Vec<Need>) {
        let Some(state) = self.view.node(home).seen else {
            return;
        };
        let name = self.application(application);
        let definition = self.view.definition_on(application, state);
        let started = Reason::Starts {
            application: name.clone(),
            on: self.node(home),
        };
        match self.container(application, home) {
            None => {
                let needs = self.gathered.list(needs);
                self.start(application, home, &started, needs);
            }
            Some(container) if container.definition == definition || is_planted(Bug::DefinitionIgnored) => {
                if runs_as_wanted(self.view.definitions[application as usize], container) {
                    return;
                }
                let needs = self.gathered.list(needs);
                self.start(application, home, &started, needs);
            }
            Some(container) => {
                let reason = if container.is_alive() {
                    Reason::Restarts {
                        application: name.clone(),
                        on: self.node(home),
                    }
                } else {
                    started
                };
                let prepared = container
                    .is_alive()
                    .then(|| self.prepare(application, home, &reason))
                    .flatten();
                let before = prepared
                    .into_iter()
                    .map(|fact| need(fact, Because::NothingStopsInVain))
                    .collect();
                let stopped = self.stop(self.view.names[application as usize], home, &reason, before);
                needs.push(need(stopped, Because::OneCopy));
                let needs = self.gathered.list(needs);
                self.start(application, home, &reason, needs);
            }
        }
    }

    /// Gets everything in place to start, unless it is; returns the fact that it is, where a step makes it.
    pub(super) fn prepare(&mut self, application: u32, node: u32, reason: &Reason) -> Option<Fact> {
        let state = self.view.node(node).seen?;
        let definition = self.view.definition_on(application, state);
        let container = self.container(application, node);
        if container
            .is_some_and(|container| super::is_prepared(container) && container.definition == definition)
        {
            return None;
        }
        let name = self.application(application);
        let fact = Fact::Prepared {
            application: name.clone(),
            on: self.node(node),
        };
        let action = Action::Prepare {
            application: name,
            definition,
        };
        self.act(node, action, reason, Listed::default());
        Some(fact)
    }

    pub(super) fn start(&mut self, application: u32, node: u32, reason: &Reason, needs: Listed) {
        let Some(state) = self.view.node(node).seen else {
            return;
        };
        let name = self.application(application);
        let definition = self.view.definition_on(application, state);
        self.started.push((application, self.steps.len()));
        let used = self.view.definitions[application as usize];
        if !used.depends_on.is_empty() || !used.links.is_empty() {
            self.uses_others.push(application);
        }
        let action = Action::Start {
            application: name,
            definition,
        };
        self.act(node, action, reason, needs);
        if self.view.definitions[application as usize].ports.is_empty() {
            return;
        }
        let homes = self
            .view
            .homes(application)
            .filter(|&home| self.obeys(home))
            .collect();
        self.serve(application, homes, true);
    }

    /// It is placed nowhere: its containers go, its data stays.
    pub(super) fn stop_everywhere(&mut self, application: u32) {
        let extras = self.extras_of(application).to_vec();
        self.stop_extras(&extras);
    }

    /// Containers of applications that the files no longer define.
    pub(super) fn stop_undefined(&mut self) {
        let start = self
            .found
            .extras
            .partition_point(|extra| extra.application.is_some());
        let undefined = self.found.extras[start..].to_vec();
        self.stop_extras(&undefined);
    }

    fn stop_extras(&mut self, extras: &[crate::view::Extra<'a>]) {
        for extra in extras {
            // The files are complete for the nodes that they list, and say nothing of others.
            let listed = self.view.node(extra.node).member.is_some();
            let is_left = self.is_left_to_heir(extra) || is_planted(Bug::RemovedRunsOn);
            if listed && self.obeys(extra.node) && !is_left {
                let reason = Reason::Stops {
                    application: extra.name.clone(),
                    on: self.node(extra.node),
                };
                self.stop(extra.name, extra.node, &reason, Vec::new());
            }
        }
    }

    /// Refuses, before anything stops or starts, a home where something else uses a port of the application.
    pub(super) fn port_is_taken(&mut self, application: u32, node: u32) -> bool {
        let Some(state) = self.view.node(node).seen else {
            return false;
        };
        let ports = &self.view.definitions[application as usize].ports;
        let taken = ports
            .iter()
            .find(|port| state.foreign_ports.contains(&port.external));
        if let Some(port) = taken {
            self.refused.push(Refusal::PortTaken {
                application: self.application(application),
                port: port.external,
                on: self.node(node),
            });
        }
        taken.is_some()
    }
}
