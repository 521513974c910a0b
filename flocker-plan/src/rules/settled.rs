//! What needs no look: one pass over numbered records finds the applications of which anything is not as it is to be.

use std::cmp::Ordering;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::Manifestation;
use flocker_model::Snapshot;

use super::Rules;
use super::application;
use super::dataset;
use crate::view::CopyView;
use crate::view::Extra;
use crate::view::Ownership;
use crate::view::UserView;
use crate::view::View;
use crate::view::number;

/// How many applications are looked at together: what is read of so many stays in the processor's caches.
pub(super) const BLOCK: usize = 64;

impl<'a> Rules<'a> {
    /// Finds the datasets that need no look: one copy alone or with spare ones, its owner at home, its size right.
    pub(super) fn find_settled_data(&mut self) {
        let view = &self.view;
        let mut copies = view.copies.all();
        for &(dataset, application) in view.desired.placements().datasets() {
            let n_before = copies.iter().take_while(|copy| copy.dataset < dataset).count();
            copies = &copies[n_before..];
            let n_copies = copies.iter().take_while(|copy| copy.dataset == dataset).count();
            let (group, rest) = copies.split_at(n_copies);
            copies = rest;
            self.data_settled[application as usize] = false;
            let Some(home) = view.homes(application).next() else {
                continue;
            };
            let size_is_right = |is_limited: bool, what: &Manifestation| {
                let has_limit = is_limited || view.desired.placements().is_limited(application);
                let volume = &view.definitions[application as usize].volume;
                !has_limit || Some(what.maximum_size) == volume.as_ref().map(|volume| volume.maximum_size)
            };
            let mut owners = group.iter().filter(|copy| copy.ownership != Ownership::None);
            let settled = match (owners.next(), owners.next()) {
                (Some(owner), None) => {
                    owner.ownership == Ownership::Primary
                        && owner.node == home
                        && size_is_right(owner.is_limited, owner.what)
                }
                (Some(_), Some(_)) => {
                    let seen = dataset::see(view, dataset);
                    matches!(seen, dataset::Seen::Primary { on, what, .. }
                        if on == home && size_is_right(what.maximum_size.is_some(), what))
                }
                (None, _) => false,
            };
            self.data_settled[application as usize] = settled;
        }
    }

    /// Compares what runs on each node with what is to run there.
    pub(super) fn find_containers(&mut self) {
        let view = &self.view;
        let mut n_right = vec![0_u32; view.names.len()];
        let mut seen_at_home = vec![false; view.names.len()];
        let mut n_numbered = 0;
        for (node, node_view) in (0_u32..).zip(&view.nodes) {
            let Some(state) = node_view.seen else { continue };
            let placed = node_view
                .member
                .map_or(&[][..], |member| view.desired.placements().placed(member));
            let mut placed = placed.iter().copied().peekable();
            for (name, container) in &state.containers {
                let mut order = Ordering::Greater;
                let mut found = None;
                while let Some(&application) = placed.peek() {
                    order = view.names[application as usize].cmp(name);
                    if order == Ordering::Greater {
                        break;
                    }
                    found = placed.next();
                    if order == Ordering::Equal {
                        break;
                    }
                }
                match found.filter(|_| order == Ordering::Equal) {
                    Some(application) => {
                        let right = container.definition == view.definition_on(application, state)
                            && application::runs_as_wanted(view.definitions[application as usize], container);
                        n_right[application as usize] += u32::from(right);
                        seen_at_home[application as usize] = true;
                    }
                    None => self.extras.push(Extra {
                        application: None,
                        name,
                        node,
                        container,
                    }),
                }
            }
            // As soon as there are many: while what was read of them is near.
            if self.extras.len() >= n_numbered + BLOCK {
                number_extras(view, &mut self.extras[n_numbered..]);
                n_numbered = self.extras.len();
            }
        }
        number_extras(view, &mut self.extras[n_numbered..]);
        self.seen_at_home = seen_at_home;
        for ((application, settled), n_right) in (0_u32..).zip(&mut self.runs_settled).zip(n_right) {
            *settled = view.desired.placements().homes(application).len() == n_right as usize;
        }
        self.sort_extras();
    }

    pub(super) fn is_settled(&self, application: u32) -> bool {
        let homes = self.view.desired.placements().homes(application);
        let at_rest = self.runs_settled[application as usize]
            && (homes.is_empty() || self.data_settled[application as usize]);
        at_rest && self.extras_of(application).is_empty()
    }

    pub(super) fn extras_of(&self, application: u32) -> &[Extra<'a>] {
        let place = application as usize;
        let bounds = self.extra_starts.get(place).zip(self.extra_starts.get(place + 1));
        bounds.map_or(&[], |(start, end)| &self.extras[*start as usize..*end as usize])
    }

    /// Puts containers where they are not placed, which come in order of node, into order of application.
    fn sort_extras(&mut self) {
        let Some(&first) = self.extras.first() else {
            return;
        };
        let n_applications = self.view.names.len();
        let place = |extra: &Extra<'_>| extra.application.map_or(n_applications, |own| own as usize);
        let mut starts = vec![0; n_applications + 2];
        for extra in &self.extras {
            starts[place(extra) + 1] += 1;
        }
        for place in 1..starts.len() {
            starts[place] += starts[place - 1];
        }
        let mut free = starts.clone();
        let mut sorted = vec![first; self.extras.len()];
        for extra in &self.extras {
            let free = &mut free[place(extra)];
            sorted[*free as usize] = *extra;
            *free += 1;
        }
        self.extras = sorted;
        self.extra_starts = starts;
    }

    /// Returns the applications of which anything is not as it is to be, and tells the view whose data will be asked for.
    pub(super) fn find_unsettled(&mut self) -> Vec<u32> {
        let all = 0..number(self.view.names.len());
        let unsettled: Vec<u32> = all.filter(|&application| !self.is_settled(application)).collect();
        let volumes = unsettled
            .iter()
            .filter_map(|&application| self.view.definitions[application as usize].volume.as_ref());
        let datasets: Vec<DatasetId> = volumes.map(|volume| volume.dataset).collect();
        self.view.seek(datasets.into_iter());
        unsettled
    }

    /// Reads what the rules will read of some applications, so that they find it near.
    ///
    /// A rule follows one application through memory, and waits at each turn. Here the turns of many are waited for
    /// together. Nothing else comes of it.
    pub(super) fn look_ahead(&self, some: &[u32]) {
        if some.len() < BLOCK {
            return;
        }
        let view = &self.view;
        let volumes = some
            .iter()
            .filter_map(|&application| view.definitions[application as usize].volume.as_ref());
        let datasets: Vec<DatasetId> = volumes.map(|volume| volume.dataset).collect();
        let found = view.look_ahead(&datasets);
        let copies: Vec<&CopyView<'_>> = datasets
            .iter()
            .flat_map(|&dataset| view.copies_of(dataset))
            .collect();
        let users: Vec<&UserView<'_>> = datasets
            .iter()
            .flat_map(|&dataset| view.users_of(dataset))
            .collect();
        let seen = copies.iter().map(|copy| {
            let what = copy.what;
            what.used.0 ^ what.unsent.0 ^ what.fence.0 ^ what.age.as_secs() ^ what.snapshots.len() as u64
        });
        let running = users.iter().map(|user| {
            let container = user.container;
            u64::from(container.restarts) ^ container.stop_grace.as_secs() ^ u64::from(container.is_alive())
        });
        let read = seen.chain(running).fold(found, u64::wrapping_add);
        let nodes = copies.iter().filter_map(|copy| view.node(copy.node).seen);
        let read = nodes.fold(read, |read, state| {
            read ^ state.generation.0 ^ u64::from(state.free.is_some())
        });
        let newest: Vec<&Snapshot> = copies
            .iter()
            .filter_map(|copy| copy.what.snapshots.last())
            .collect();
        let stopped = users
            .iter()
            .filter_map(|user| self.stopped[user.node as usize].0.last());
        let names = newest.iter().map(|newest| newest.name.as_str());
        let names = names.chain(users.iter().map(|user| user.name.as_str()));
        let names = names.chain(stopped.map(ApplicationName::as_str));
        let names = names.chain(copies.iter().map(|copy| view.node(copy.node).name.as_str()));
        std::hint::black_box((read, names.map(str::len).sum::<usize>()));
    }
}

/// Finds the numbers of the applications of some containers.
fn number_extras(view: &View<'_>, extras: &mut [Extra<'_>]) {
    let placements = view.desired.placements();
    for some in extras.chunks_mut(BLOCK) {
        // Far-off memory is waited for one piece after the other, unless many are asked for at once.
        let slots: Vec<usize> = some.iter().map(|extra| placements.slot(extra.name)).collect();
        let guesses: Vec<u32> = slots.iter().filter_map(|&slot| placements.guess(slot)).collect();
        let names = guesses.iter().map(|&guess| view.names[guess as usize]);
        std::hint::black_box(names.map(|name| name.as_str().len()).sum::<usize>());
        for extra in some {
            extra.application = placements.find(extra.name, &view.names);
        }
    }
}
