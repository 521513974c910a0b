//! What must hold at every effect, and what must hold when everything is at rest.

use std::net::SocketAddr;

use flocker_model::Deployment;
use flocker_model::ExternalPort;
use flocker_model::NodeName;

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
        let (new_violations, new_losses) = {
            let mut notes = self.notes();
            let new_violations = self.observer.violations_after(notes.n_violations);
            let new_losses = self.observer.losses_after(notes.n_losses);
            notes.n_violations += new_violations.len();
            notes.n_losses += new_losses.len();
            (new_violations, new_losses)
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
        let has_rerouted = std::mem::take(&mut self.notes().has_rerouted);
        if has_rerouted {
            self.check_circles()?;
        }
        Ok(())
    }

    /// I4: what a node obeys and what an ownership is called only grow.
    fn check_growth(&self) -> Result<(), String> {
        let mut notes = self.notes();
        for (name, machine) in &self.machines {
            let now = machine.record.generation();
            let before = match notes.generations.get_mut(name) {
                Some(known) => std::mem::replace(known, now),
                None => notes.generations.insert(name.clone(), now).unwrap_or_default(),
            };
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
    fn ports() -> impl Iterator<Item = ExternalPort> {
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

    /// Gives the records of all applications to who knows nothing else, wherever the cluster stands.
    pub fn check_records(&self) {
        let checked = self.clients().check_records(&self.nodes());
        if let Err(wrong) = checked {
            self.break_by(wrong);
        }
    }

    /// What is to be gone is gone, and what was changed is as it was changed.
    fn look_for_leftovers(&self, desired: &Deployment) -> Result<(), String> {
        for dataset in desired.deleted() {
            let mut holders = self.nodes().filter(|(_, node)| node.volumes().is_here(*dataset));
            if let Some((name, _)) = holders.find(|(name, _)| desired.members().contains_key(*name)) {
                return Err(format!("dataset {dataset} was to be deleted and is on {name}"));
            }
        }
        for (name, application) in desired.applications() {
            let Some(home) = desired.homes(name).next() else {
                for port in &application.ports {
                    let mut nodes = self.nodes();
                    if let Some((node, _)) =
                        nodes.find(|(_, node)| node.router().ends_at(port.external).is_some())
                    {
                        return Err(format!(
                            "I10: {node} still routes port {} of {name}",
                            port.external
                        ));
                    }
                }
                continue;
            };
            let (Some(node), Some(machine)) = (self.node(home), self.machines.get(home)) else {
                continue;
            };
            let key = machine.record.load().ok().flatten().map(|record| record.key);
            let wanted = key.map(|key| application.definition_hash(&key));
            if node.runtime().definition(name) != wanted {
                return Err(format!("{name} runs on {home} by an older definition"));
            }
            if let Some(volume) = &application.volume
                && node.volumes().maximum_size(volume.dataset) != Some(volume.maximum_size)
            {
                return Err(format!(
                    "the data of {name} on {home} has another limit than it is to have"
                ));
            }
        }
        Ok(())
    }

    fn look_for_unrest(&self, desired: &Deployment) -> Result<(), String> {
        self.clients().check_records(&self.nodes())?;
        self.look_for_leftovers(desired)?;
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
