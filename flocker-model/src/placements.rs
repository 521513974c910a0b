//! Who is where, by number: made once with a deployment, for those who compare whole clusters.
//!
//! Applications are numbered in order of name, and so are nodes. A planner
//! that looks at a million applications compares these numbers and looks at a
//! name only where something differs.

use std::collections::BTreeMap;
use std::hash::Hash as _;
use std::hash::Hasher as _;

use crate::application::Application;
use crate::deployment::Member;
use crate::id::ApplicationName;
use crate::id::DatasetId;
use crate::id::DefinitionHash;
use crate::id::NodeName;
use crate::secret::DefinitionKey;

/// No application, or no node.
const NONE: u32 = u32::MAX;

/// The numbered form of a deployment.
#[derive(Clone, Debug, Default)]
pub struct Placements {
    /// By number of application: its first home.
    first_homes: Vec<u32>,
    /// Applications with more than one home, and all their homes.
    more_homes: BTreeMap<u32, Vec<u32>>,
    /// By number of application: its definition hash, where it has no secrets.
    definitions: Vec<DefinitionHash>,
    /// Applications that have secrets, in order.
    secretive: Vec<u32>,
    /// By number of application: whether how much its data may hold is limited.
    limited: Vec<bool>,
    /// Applications that have ports, in order.
    ported: Vec<u32>,
    /// Datasets of applications, in order.
    datasets: Vec<(DatasetId, u32)>,
    /// By number of node: its applications, in order.
    placed: Vec<Vec<u32>>,
    /// Open addressing: hash of a name to number of application.
    slots: Vec<u32>,
}

fn hash(name: &str) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    name.hash(&mut hasher);
    usize::try_from(hasher.finish() & 0xffff_ffff).unwrap_or(0)
}

impl Placements {
    pub(crate) fn new(
        applications: &BTreeMap<ApplicationName, Application>,
        members: &BTreeMap<NodeName, Member>,
    ) -> Self {
        let n_slots = (applications.len() * 2).next_power_of_two().max(2);
        let mut made = Self {
            first_homes: vec![NONE; applications.len()],
            more_homes: BTreeMap::new(),
            definitions: Vec::with_capacity(applications.len()),
            secretive: Vec::new(),
            limited: Vec::with_capacity(applications.len()),
            ported: Vec::new(),
            datasets: Vec::new(),
            placed: Vec::with_capacity(members.len()),
            slots: vec![NONE; n_slots],
        };
        let key = DefinitionKey::new([0; 32]);
        let names: Vec<&ApplicationName> = applications.keys().collect();
        for (number, (name, application)) in (0_u32..).zip(applications) {
            made.definitions.push(application.definition_hash(&key));
            if application.has_secrets() {
                made.secretive.push(number);
            }
            let volume = application.volume.as_ref();
            made.limited
                .push(volume.is_some_and(|volume| volume.maximum_size.is_some()));
            if !application.ports.is_empty() {
                made.ported.push(number);
            }
            if let Some(volume) = volume {
                made.datasets.push((volume.dataset, number));
            }
            let mut slot = hash(name.as_str()) & (n_slots - 1);
            while made.slots[slot] != NONE {
                slot = (slot + 1) & (n_slots - 1);
            }
            made.slots[slot] = number;
        }
        made.datasets
            .sort_unstable_by_key(|(dataset, number)| (dataset.0.as_u128(), *number));
        made.datasets.shrink_to_fit();
        made.ported.shrink_to_fit();
        for (node, member) in (0_u32..).zip(members.values()) {
            let mut placed = Vec::with_capacity(member.applications.len());
            for name in &member.applications {
                let Some(number) = made.find_among(name, |number| names[number as usize]) else {
                    continue;
                };
                placed.push(number);
                let first = &mut made.first_homes[number as usize];
                if *first == NONE {
                    *first = node;
                } else {
                    made.more_homes
                        .entry(number)
                        .or_insert_with(|| vec![*first])
                        .push(node);
                }
            }
            made.placed.push(placed);
        }
        made
    }

    /// Says whether these members name only what is defined, each once, and no dataset is claimed twice.
    pub(crate) fn is_each_once(&self, members: &BTreeMap<NodeName, Member>) -> bool {
        let placed = members.values().zip(&self.placed);
        self.more_homes.is_empty()
            && placed
                .into_iter()
                .all(|(member, placed)| member.applications.len() == placed.len())
            && self.datasets.windows(2).all(|pair| pair[0].0 != pair[1].0)
    }

    fn find_among<'a>(
        &self,
        name: &ApplicationName,
        named: impl Fn(u32) -> &'a ApplicationName,
    ) -> Option<u32> {
        self.find_among_from(self.slot(name), name, named)
    }

    fn find_among_from<'a>(
        &self,
        mut slot: usize,
        name: &ApplicationName,
        named: impl Fn(u32) -> &'a ApplicationName,
    ) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        loop {
            match self.slots[slot] {
                NONE => return None,
                number if named(number) == name => return Some(number),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// Returns the place at which [`Placements::find`] begins to look for a name.
    #[must_use]
    pub fn slot(&self, name: &ApplicationName) -> usize {
        self.slots
            .len()
            .checked_sub(1)
            .map_or(0, |mask| hash(name.as_str()) & mask)
    }

    /// Returns the number that [`Placements::find`] tries first from a place, without looking at any name.
    #[must_use]
    pub fn guess(&self, slot: usize) -> Option<u32> {
        self.slots.get(slot).copied().filter(|&number| number != NONE)
    }

    /// Returns the number of an application; `names` are all names in order.
    #[must_use]
    pub fn find(&self, name: &ApplicationName, names: &[&ApplicationName]) -> Option<u32> {
        self.find_among(name, |number| names[number as usize])
    }

    /// Does what [`Placements::find`] does for who knows the [slot](Placements::slot) of the name already.
    #[must_use]
    pub fn find_from(&self, slot: usize, name: &ApplicationName, names: &[&ApplicationName]) -> Option<u32> {
        self.find_among_from(slot, name, |number| names[number as usize])
    }

    /// Returns the numbers of the nodes on which an application is placed, in order.
    #[must_use]
    pub fn homes(&self, application: u32) -> &[u32] {
        if let Some(homes) = self.more_homes.get(&application) {
            return homes;
        }
        match self.first_homes.get(application as usize) {
            Some(home) if *home != NONE => std::slice::from_ref(home),
            Some(_) | None => &[],
        }
    }

    /// Returns the definition hash of an application, or nothing where secrets make it depend on the node's key.
    #[must_use]
    pub fn definition(&self, application: u32) -> Option<DefinitionHash> {
        if self.secretive.binary_search(&application).is_ok() {
            return None;
        }
        self.definitions.get(application as usize).copied()
    }

    /// Says whether how much an application's data may hold is limited.
    #[must_use]
    pub fn is_limited(&self, application: u32) -> bool {
        self.limited
            .get(application as usize)
            .copied()
            .unwrap_or_default()
    }

    /// Returns the applications that have ports, in order of name.
    #[must_use]
    pub fn ported(&self) -> &[u32] {
        &self.ported
    }

    /// Returns the datasets of all applications with their applications, in order of dataset.
    #[must_use]
    pub fn datasets(&self) -> &[(DatasetId, u32)] {
        &self.datasets
    }

    /// Returns the applications that are placed on a node, in order of name.
    #[must_use]
    pub fn placed(&self, node: u32) -> &[u32] {
        self.placed.get(node as usize).map_or(&[], Vec::as_slice)
    }
}
