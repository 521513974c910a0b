//! What must hold at every effect, and what must hold when everything is at rest.

use std::net::SocketAddr;

use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_model::PortNumber;

use super::cluster::Cluster;
use crate::record::RecordStore as _;

impl Cluster {
    /// Checks what must hold at every moment: I1, I2, I3, I4, I6, and that no connection is sent round in a circle.
    pub fn check(&self) {
        if let Err(wrong) = self.look_for_violations() {
            self.break_by(wrong);
        }
    }

    fn look_for_violations(&self) -> Result<(), String> {
        let violations = self.observer.violations();
        let losses = self.observer.losses();
        let (new_violations, new_losses) = {
            let mut notes = self.notes();
            let violations_before = std::mem::replace(&mut notes.n_violations, violations.len());
            let losses_before = std::mem::replace(&mut notes.n_losses, losses.len());
            (
                violations.get(violations_before..).unwrap_or_default().to_vec(),
                losses.get(losses_before..).unwrap_or_default().to_vec(),
            )
        };
        if let Some(violation) = new_violations.first() {
            return Err(format!("observer: {violation}"));
        }
        self.clients()
            .check(&self.nodes(), &self.observer)
            .map_err(|wrong| {
                // What went to the trash or for ever must be elsewhere, with everything that was acknowledged.
                let lost: Vec<String> = new_losses.iter().map(|loss| loss.node.to_string()).collect();
                if lost.is_empty() {
                    wrong
                } else {
                    format!("I2: a copy went from {}; {wrong}", lost.join(", "))
                }
            })?;
        self.check_growth()?;
        self.check_circles()
    }

    /// I4: what a node obeys and what an ownership is called only grow.
    fn check_growth(&self) -> Result<(), String> {
        let mut notes = self.notes();
        for (name, machine) in &self.machines {
            let record = machine.record.load().ok().flatten();
            let now = record.map(|record| record.generation).unwrap_or_default();
            let before = notes.generations.insert(name.clone(), now).unwrap_or_default();
            if now < before {
                return Err(format!(
                    "I4: {name} went from generation {} to {}",
                    before.0, now.0
                ));
            }
        }
        let datasets: Vec<_> = self.clients().datasets().collect();
        for dataset in datasets {
            for (name, epoch) in self.observer.owners(dataset) {
                let newest = notes.epochs.entry(dataset).or_default();
                if epoch < *newest {
                    return Err(format!(
                        "I4: {name} owns dataset {dataset} in epoch {epoch} after epoch {newest}"
                    ));
                }
                *newest = epoch;
            }
        }
        Ok(())
    }

    /// Returns every port that any node routes.
    fn ports() -> impl Iterator<Item = PortNumber> {
        (0..super::script::MAX_APPLICATIONS).filter_map(super::script::external_port)
    }

    /// I10: follows every route to its end.
    fn check_circles(&self) -> Result<(), String> {
        for port in Self::ports() {
            for (name, node) in self.nodes() {
                let mut at = node;
                let mut n_hops = 0;
                while let Some(next) = at.router().ends_at(port).and_then(|end| self.leads_to(end)) {
                    if next.address() == at.address() {
                        break;
                    }
                    at = next;
                    n_hops += 1;
                    if n_hops > self.machines.len() {
                        return Err(format!("I10: port {port} of {name} is sent round in a circle"));
                    }
                }
            }
        }
        Ok(())
    }

    fn leads_to(&self, end: SocketAddr) -> Option<&flocker_backends::memory::MemoryNode> {
        self.nodes()
            .map(|(_, node)| node)
            .find(|node| node.address() == end.ip())
    }

    /// Checks what must hold once everything is as it is desired: each application runs at its home with all its
    /// data and nowhere else (I1, I3), and every route leads there (I10).
    pub fn check_at_rest(&self, desired: &Deployment) {
        self.check();
        if let Err(wrong) = self.look_for_unrest(desired) {
            self.break_by(format!("at rest: {wrong}"));
        }
    }

    fn look_for_unrest(&self, desired: &Deployment) -> Result<(), String> {
        self.clients().check_records(&self.nodes(), &self.observer)?;
        for (name, application) in desired.applications() {
            let homes: Vec<&NodeName> = desired.homes(name).collect();
            for (node_name, node) in self.nodes() {
                let is_home = homes.contains(&node_name);
                if node.runtime().is_running(name) != is_home {
                    let how = if is_home { "does not run" } else { "still runs" };
                    return Err(format!("{name} {how} on {node_name}"));
                }
            }
            let Some(home) = homes.first().and_then(|home| self.node(home)) else {
                continue;
            };
            for port in &application.ports {
                let here = SocketAddr::new(home.address(), port.internal.get());
                let there = SocketAddr::new(home.address(), port.external.get());
                for (node_name, node) in self.nodes() {
                    let expected = if node_name == home.name() { here } else { there };
                    let found = node.router().ends_at(port.external);
                    if desired.members().contains_key(node_name) && found != Some(expected) {
                        return Err(format!(
                            "I10: port {} of {node_name} leads to {found:?}, and {name} is at {expected}",
                            port.external
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
