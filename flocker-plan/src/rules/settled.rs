//! What needs no look: one pass over numbered records finds the applications of which anything is not as it is to be.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::Manifestation;
use flocker_model::Snapshot;

use super::Found;
use super::Rules;
use super::application;
use super::seen;
use crate::shares::each;
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
        let view = &*self.view;
        let n_datasets = view.desired.placements().datasets().len();
        let shares = view.workers.shares(n_datasets, n_datasets);
        let mut found = each(&shares, |share| settled_data(view, share)).into_iter();
        let mut settled = found.next().unwrap_or_default();
        for share in found {
            for (all, own) in settled.iter_mut().zip(share) {
                *all &= own;
            }
        }
        self.change_found(|found| found.data_settled = settled);
    }

    /// Compares what runs on each node with what is to run there.
    pub(super) fn find_containers(&mut self) {
        let view = &*self.view;
        let shares = view.workers.shares(view.nodes.len(), view.names.len());
        let mut found = each(&shares, |share| containers_on(view, share)).into_iter();
        let Containers {
            mut n_right,
            mut seen_at_home,
            mut extras,
        } = found.next().unwrap_or_default();
        for mut share in found {
            for (all, own) in n_right.iter_mut().zip(share.n_right) {
                *all += own;
            }
            for (all, own) in seen_at_home.iter_mut().zip(share.seen_at_home) {
                *all |= own;
            }
            extras.append(&mut share.extras);
        }
        let placements = view.desired.placements();
        let runs_settled = (0_u32..)
            .zip(n_right)
            .map(|(application, n_right)| placements.homes(application).len() == n_right as usize);
        let runs_settled = runs_settled.collect();
        let (extras, extra_starts) = sort_extras(extras, view.names.len());
        self.change_found(|found| {
            found.runs_settled = runs_settled;
            found.seen_at_home = seen_at_home;
            found.extras = extras;
            found.extra_starts = extra_starts;
        });
    }

    /// Writes down what a look has found: rules, which share it, come later.
    fn change_found(&mut self, change: impl FnOnce(&mut Found<'a>)) {
        if let Some(found) = Arc::get_mut(&mut self.found) {
            change(found);
        }
    }

    pub(super) fn is_settled(&self, application: u32) -> bool {
        self.found.is_settled(application, &self.view)
    }

    pub(super) fn extras_of(&self, application: u32) -> &[Extra<'a>] {
        self.found.extras_of(application)
    }

    /// Returns the applications of which anything is not as it is to be, and tells the view whose data will be asked for.
    pub(super) fn find_unsettled(&mut self) -> Vec<u32> {
        let n_applications = self.view.names.len();
        let rules = &*self;
        let (view, found) = (&*rules.view, &*rules.found);
        let shares = view.workers.shares(n_applications, n_applications);
        let unsettled = each(&shares, |share| {
            let share = number(share.start)..number(share.end);
            let unsettled = share.filter(|&application| !found.is_settled(application, view));
            let unsettled: Vec<u32> = unsettled.collect();
            let datasets = unsettled
                .iter()
                .filter_map(|&application| view.dataset(application));
            let datasets: Vec<DatasetId> = datasets.collect();
            (unsettled, datasets)
        });
        let (unsettled, datasets): (Vec<Vec<u32>>, Vec<Vec<DatasetId>>) = unsettled.into_iter().unzip();
        let (unsettled, datasets) = (unsettled.concat(), datasets.concat());
        if let Some(view) = Arc::get_mut(&mut self.view) {
            view.seek(datasets.into_iter());
        }
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
            .filter_map(|user| self.stopped[user.node as usize].0.last().copied());
        let names = newest.iter().map(|newest| newest.name.as_str());
        let names = names.chain(users.iter().map(|user| user.name.as_str()));
        let names = names.chain(stopped.map(ApplicationName::as_str));
        let names = names.chain(copies.iter().map(|copy| view.node(copy.node).name.as_str()));
        std::hint::black_box((read, names.map(str::len).sum::<usize>()));
    }
}

impl<'a> Found<'a> {
    fn is_settled(&self, application: u32, view: &View<'_>) -> bool {
        let homes = view.desired.placements().homes(application);
        let at_rest = self.runs_settled[application as usize]
            && (homes.is_empty() || self.data_settled[application as usize]);
        at_rest && self.extras_of(application).is_empty()
    }

    fn extras_of(&self, application: u32) -> &[Extra<'a>] {
        let place = application as usize;
        let bounds = self.extra_starts.get(place).zip(self.extra_starts.get(place + 1));
        bounds.map_or(&[], |(start, end)| &self.extras[*start as usize..*end as usize])
    }
}

/// Says by number of application whether its data is where it is to be; of the datasets of other shares, that it is.
fn settled_data(view: &View<'_>, share: Range<usize>) -> Vec<bool> {
    let mut all_settled = vec![true; view.names.len()];
    let datasets = &view.desired.placements().datasets()[share];
    let mut copies = view.copies.all();
    if let Some((first, _)) = datasets.first() {
        let n_before = copies.partition_point(|copy| copy.dataset < *first);
        copies = &copies[n_before..];
    }
    for &(dataset, application) in datasets {
        let n_before = copies.iter().take_while(|copy| copy.dataset < dataset).count();
        copies = &copies[n_before..];
        let n_copies = copies.iter().take_while(|copy| copy.dataset == dataset).count();
        let (group, rest) = copies.split_at(n_copies);
        copies = rest;
        all_settled[application as usize] = is_data_settled(view, application, dataset, group);
    }
    all_settled
}

/// Says whether the copies of a dataset that an application claims are as they are to be.
fn is_data_settled(view: &View<'_>, application: u32, dataset: DatasetId, copies: &[CopyView<'_>]) -> bool {
    let Some(home) = view.homes(application).next() else {
        return false;
    };
    let size_is_right = |is_limited: bool, what: &Manifestation| {
        let has_limit = is_limited || view.desired.placements().is_limited(application);
        let volume = &view.definitions[application as usize].volume;
        !has_limit || Some(what.maximum_size) == volume.as_ref().map(|volume| volume.maximum_size)
    };
    let mut owners = copies.iter().filter(|copy| copy.ownership != Ownership::None);
    match (owners.next(), owners.next()) {
        (Some(owner), None) => {
            owner.ownership == Ownership::Primary
                && owner.node == home
                && size_is_right(owner.is_limited, owner.what)
        }
        (Some(_), Some(_)) => {
            let seen = seen::see(view, dataset);
            matches!(seen, seen::Seen::Primary { on, what, .. }
                if on == home && size_is_right(what.maximum_size.is_some(), what))
        }
        (None, _) => false,
    }
}

/// What runs on some nodes, against what is to run there.
#[derive(Default)]
struct Containers<'a> {
    /// By number of application: how many of its homes among them run it as it is to be.
    n_right: Vec<u32>,
    /// By number of application: whether a container of it is on one of its homes among them.
    seen_at_home: Vec<bool>,
    /// Containers where they are not placed, in order of node.
    extras: Vec<Extra<'a>>,
}

fn containers_on<'a>(view: &View<'a>, share: Range<usize>) -> Containers<'a> {
    let mut n_right = vec![0_u32; view.names.len()];
    let mut seen_at_home = vec![false; view.names.len()];
    let mut extras = Vec::new();
    let mut n_numbered = 0;
    for (node, node_view) in (number(share.start)..).zip(&view.nodes[share]) {
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
                None => extras.push(Extra {
                    application: None,
                    name,
                    node,
                    container,
                }),
            }
        }
        // As soon as there are many: while what was read of them is near.
        if extras.len() >= n_numbered + BLOCK {
            number_extras(view, &mut extras[n_numbered..]);
            n_numbered = extras.len();
        }
    }
    number_extras(view, &mut extras[n_numbered..]);
    Containers {
        n_right,
        seen_at_home,
        extras,
    }
}

/// Puts containers where they are not placed, which come in order of node, into order of application; returns them, and
/// by number of application where its own begin.
fn sort_extras(extras: Vec<Extra<'_>>, n_applications: usize) -> (Vec<Extra<'_>>, Vec<u32>) {
    let Some(&first) = extras.first() else {
        return (extras, Vec::new());
    };
    let place = |extra: &Extra<'_>| extra.application.map_or(n_applications, |own| own as usize);
    let mut starts = vec![0; n_applications + 2];
    for extra in &extras {
        starts[place(extra) + 1] += 1;
    }
    for place in 1..starts.len() {
        starts[place] += starts[place - 1];
    }
    let mut free = starts.clone();
    let mut sorted = vec![first; extras.len()];
    for extra in &extras {
        let free = &mut free[place(extra)];
        sorted[*free as usize] = *extra;
        *free += 1;
    }
    (sorted, starts)
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
        for (extra, slot) in some.iter_mut().zip(slots) {
            extra.application = placements.find_from(slot, extra.name, &view.names);
        }
    }
}
