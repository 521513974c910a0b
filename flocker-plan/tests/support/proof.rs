//! What is proven of one cluster: every order, every crash, every crash after a crash, every change of mind.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use flocker_model::{ByteSize, ClusterState, DatasetId, Deployment, Role};
use flocker_plan::{
    Frontier, NotConverging, Outcome, Plan, Policy, StopAll, Waiting, check, holds, plan, predict,
};

use crate::digest::digest;
use crate::walk::settle;
use crate::world::{amiss, in_one_order};

/// Enough for a warm round, the cut-over, what follows it, and tidying up.
const TURNS: usize = 6;
/// A plan with more sets of done steps than this would not be looked at whole; there is none.
const MAX_PREFIXES: usize = 1 << 14;

/// One thing that can be wanted, first and as what is wanted after something else.
pub(crate) struct Wish {
    pub(crate) first: Deployment,
    pub(crate) then: Deployment,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    /// Clusters.
    pub(crate) clusters: u64,
    /// Pairs of a cluster and a wish.
    pub(crate) pairs: u64,
    /// Plans made, each of a state that the wish was not brought about in before.
    pub(crate) plans: u64,
    /// Steps done: one for every set of steps that may be done before, in any order.
    pub(crate) steps: u64,
    /// Pairs of a plan and a set of its steps that were done before everything stopped.
    pub(crate) crashes: u64,
    /// Pairs of what another wish has left, at rest or half way, and a wish.
    pub(crate) detours: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        let Self {
            clusters,
            pairs,
            plans,
            steps,
            crashes,
            detours,
        } = other;
        self.clusters += clusters;
        self.pairs += pairs;
        self.plans += plans;
        self.steps += steps;
        self.crashes += crashes;
        self.detours += detours;
    }
}

pub(crate) fn policy() -> Policy {
    Policy {
        not_converging: NotConverging::Accept,
        stop_all: StopAll::Allow,
        ..Policy::default()
    }
}

/// Proves everything of one cluster, or says what is not so.
pub(crate) fn prove(
    state: &ClusterState,
    wishes: &[Wish],
    half_way: bool,
    count: &mut Count,
) -> Result<(), String> {
    let policy = policy();
    count.clusters += 1;
    let mut last: Vec<Option<Ending>> = wishes.iter().map(|_| None).collect();
    let mut known: BTreeMap<(usize, u128), Ending> = BTreeMap::new();
    for wish in wishes {
        count.pairs += 1;
        let mut proof = Proof {
            wish: &wish.first,
            policy: &policy,
            owned: owned(state, &wish.first),
            is_sound: check::state(state).is_ok(),
            visits: BTreeMap::new(),
            left: BTreeMap::new(),
            keep_all: half_way,
            count,
        };
        proof.look_everywhere(state).map_err(|wrong| {
            let what = wish.first.members();
            format!("{wrong}\nwanted: {what:?}")
        })?;
        let left = std::mem::take(&mut proof.left);
        for (then, next) in wishes.iter().enumerate() {
            let straight = match &mut last[then] {
                Some(known) => known,
                none => none.insert(end(&wishes[then].then, &policy, state)?),
            };
            for (digest, left) in &left {
                count.detours += 1;
                let detour = match known.get(&(then, *digest)) {
                    Some(known) => known,
                    None => &*known
                        .entry((then, *digest))
                        .or_insert(end(&next.then, &policy, left)?),
                };
                compare(&wish.first, &next.then, detour, straight).map_err(|wrong| {
                    let (what, then) = (wish.first.members(), next.then.members());
                    format!("{wrong}\nwanted first: {what:?}\nwanted then: {then:?}\nbetween: {left:#?}")
                })?;
            }
        }
    }
    Ok(())
}

/// Where a wish leads.
struct Ending {
    is_unhindered: bool,
    state: ClusterState,
}

fn end(wish: &Deployment, policy: &Policy, state: &ClusterState) -> Result<Ending, String> {
    let mut state = state.clone();
    let (last, _) = settle(wish, policy, &mut state, TURNS)?;
    at_rest(&last, wish, &state)?;
    Ok(Ending {
        is_unhindered: last.waiting().is_empty() && last.refused().is_empty(),
        state: in_one_order(state),
    })
}

/// `deploy A; deploy B` ends as `deploy B`.
fn compare(first: &Deployment, then: &Deployment, detour: &Ending, straight: &Ending) -> Result<(), String> {
    if !straight.is_unhindered || !first.deleted().is_empty() {
        return Ok(());
    }
    if !detour.is_unhindered {
        return Err("what was wanted first has left a state in which what is wanted then cannot be".into());
    }
    let listed = |state: &ClusterState| {
        let listed = state
            .all_known()
            .filter(|(node, _)| then.members().contains_key(*node));
        let each = listed.map(|(node, seen)| {
            let owned = seen.datasets.iter().filter(|(_, copy)| copy_is_owned(&copy.role));
            let owned: Vec<(DatasetId, ByteSize)> =
                owned.map(|(dataset, copy)| (*dataset, copy.used)).collect();
            let containers: Vec<_> = seen.containers.keys().cloned().collect();
            (node.clone(), containers, seen.routes.entries().clone(), owned)
        });
        each.collect::<Vec<_>>()
    };
    let claims = |dataset: &DatasetId| {
        let volumes = then.applications().iter();
        let mut placed = volumes.filter(|(name, _)| then.homes(name).next().is_some());
        placed.any(|(_, known)| {
            known
                .volume
                .as_ref()
                .is_some_and(|volume| volume.dataset == *dataset)
        })
    };
    let mut by_detour = listed(&detour.state);
    let mut by_itself = listed(&straight.state);
    for (.., owned) in by_detour.iter_mut().chain(&mut by_itself) {
        // Data that nothing uses stays where it came to be.
        owned.retain(|(dataset, _)| claims(dataset));
    }
    if by_detour == by_itself {
        Ok(())
    } else {
        Err(format!(
            "ends as {by_detour:?} and, without what was wanted first, as {by_itself:?}"
        ))
    }
}

fn copy_is_owned(role: &Role) -> bool {
    match role {
        Role::Primary { .. } => true,
        Role::Released { .. } | Role::Replica => false,
    }
}

/// Whose data is the newest, by what it holds; nothing of a dataset of which that cannot be said, or that is to go.
fn owned(state: &ClusterState, wish: &Deployment) -> BTreeMap<DatasetId, ByteSize> {
    let mut datasets: Vec<DatasetId> = state
        .all_known()
        .flat_map(|(_, seen)| seen.datasets.keys().copied())
        .collect();
    datasets.sort_unstable();
    datasets.dedup();
    datasets
        .into_iter()
        .filter(|dataset| !wish.deleted().contains(dataset))
        .filter_map(|dataset| Some((dataset, newest(state, dataset)?)))
        .collect()
}

fn newest(state: &ClusterState, dataset: DatasetId) -> Option<ByteSize> {
    // An owner counts for more than who let go for its ownership.
    let mut claims: Vec<(u64, bool, ByteSize)> = state
        .all_known()
        .filter_map(|(_, seen)| seen.datasets.get(&dataset))
        .filter_map(|copy| match copy.role {
            Role::Primary { epoch } => Some((epoch.0, true, copy.used)),
            Role::Released { epoch, .. } => Some((epoch.0, false, copy.used)),
            Role::Replica => None,
        })
        .collect();
    claims.sort_unstable();
    match claims.as_slice() {
        [.., (before, before_owns, _), (epoch, owns, used)] => {
            let is_alone = (before, before_owns) != (epoch, owns);
            let no_other_owner = claims.iter().filter(|(_, owns, _)| *owns).count() <= usize::from(*owns);
            (is_alone && no_other_owner).then_some(*used)
        }
        [(_, _, used)] => Some(*used),
        [] => None,
    }
}

/// Nothing is left undone without a word, and nobody waits for what nobody does.
fn at_rest(last: &Plan, wish: &Deployment, state: &ClusterState) -> Result<(), String> {
    if last.waiting().iter().any(Waiting::is_for_a_copy) {
        return Err("it waits for a copy that nobody makes".into());
    }
    let stays = last
        .kept()
        .iter()
        .any(|kept| wish.deleted().contains(&kept.dataset));
    if last.is_settled()
        && !stays
        && let Some(amiss) = amiss(wish, state)
    {
        return Err(format!("settled, and yet {amiss}"));
    }
    Ok(())
}

fn listed(plan: &Plan) -> String {
    let steps: Vec<String> = plan.steps().iter().map(|step| step.id().to_string()).collect();
    format!("of {steps:#?}")
}

/// A plan whose every order was followed.
struct Explored {
    plan: Plan,
    end: u128,
}

/// A state to look at: where it comes from, if from a plan of which some steps were done.
struct Found {
    digest: u128,
    state: ClusterState,
    from: Option<Rc<Explored>>,
    /// Which of them, as a set of bits.
    done: u64,
}

struct Proof<'a> {
    wish: &'a Deployment,
    policy: &'a Policy,
    /// What the newest data was to begin with.
    owned: BTreeMap<DatasetId, ByteSize>,
    is_sound: bool,
    /// Every state that was looked at, and which one its plan leads to.
    visits: BTreeMap<u128, Option<u128>>,
    /// The states that are left to another wish: those at rest, or all.
    left: BTreeMap<u128, ClusterState>,
    keep_all: bool,
    count: &'a mut Count,
}

impl Proof<'_> {
    /// Looks at every state that plans, cut short anywhere and made again, lead to.
    fn look_everywhere(&mut self, state: &ClusterState) -> Result<(), String> {
        let mut found = vec![Found {
            digest: digest(state),
            state: state.clone(),
            from: None,
            done: 0,
        }];
        while let Some(next) = found.pop() {
            if !self.visits.contains_key(&next.digest) {
                self.look(next, &mut found)?;
            }
        }
        self.all_come_to_rest()
    }

    fn look(&mut self, here: Found, found: &mut Vec<Found>) -> Result<(), String> {
        let Found {
            digest,
            state,
            from,
            done,
        } = here;
        self.count.plans += 1;
        let made = plan(self.wish, &state, self.policy);
        if made.steps().is_empty() {
            at_rest(&made, self.wish, &state)?;
            self.visits.insert(digest, None);
            self.left.insert(digest, state);
            return Ok(());
        }
        if let Some(before) = from
            && is_rest_of(&made, &before.plan, done)
        {
            // Every order of it was followed already.
            self.visits.insert(digest, Some(before.end));
        } else {
            check::plan(&made, self.wish, &state)
                .map_err(|violation| format!("{violation}\nat {state:#?}\n{}", listed(&made)))?;
            let end = self
                .follow_every_order(made, &state, found)
                .map_err(|wrong| format!("{wrong}\nat {state:#?}"))?;
            self.visits.insert(digest, Some(end));
        }
        if self.keep_all {
            self.left.insert(digest, state);
        }
        Ok(())
    }

    /// Does the steps of a plan in every order, and says which state it leads to.
    ///
    /// Not the orders are counted, which are far too many, but the sets of
    /// steps that can be done at one time, with what they lead to.
    fn follow_every_order(
        &mut self,
        plan: Plan,
        state: &ClusterState,
        found: &mut Vec<Found>,
    ) -> Result<u128, String> {
        let n_steps = plan.steps().len();
        if n_steps > 63 {
            return Err(format!("a plan of {n_steps} steps"));
        }
        let all = (1_u64 << n_steps) - 1;
        let mut reached: BTreeSet<(u64, u128)> = BTreeSet::new();
        let mut end = None;
        let first_found = found.len();
        let mut open = vec![(0_u64, state.clone(), Frontier::new(&plan))];
        while let Some((done, state, frontier)) = open.pop() {
            let ready: Vec<usize> = frontier.ready().collect();
            for position in ready {
                self.count.steps += 1;
                let mut next = state.clone();
                let mut after = frontier.clone();
                self.perform(&plan, &mut after, &mut next, position)
                    .map_err(|wrong| format!("{wrong}\n{}", listed(&plan)))?;
                let (done, digest) = (done | 1 << position, digest(&next));
                if !reached.insert((done, digest)) {
                    continue;
                }
                if done == all && end.replace(digest).is_some() {
                    let last = plan.steps()[position].id();
                    return Err(format!(
                        "where {last} comes last it ends otherwise\n{}",
                        listed(&plan)
                    ));
                }
                found.push(Found {
                    digest,
                    state: next.clone(),
                    from: None,
                    done,
                });
                open.push((done, next, after));
            }
            if reached.len() > MAX_PREFIXES {
                return Err(format!(
                    "more than {MAX_PREFIXES} sets of done steps\n{}",
                    listed(&plan)
                ));
            }
        }
        let Some(end) = end else {
            return Err(format!("not every step comes\n{}", listed(&plan)));
        };
        self.count.crashes += reached.len() as u64;
        let explored = Rc::new(Explored { plan, end });
        for found in &mut found[first_found..] {
            found.from = Some(Rc::clone(&explored));
        }
        Ok(end)
    }

    fn perform(
        &self,
        plan: &Plan,
        frontier: &mut Frontier,
        state: &mut ClusterState,
        position: usize,
    ) -> Result<(), String> {
        let step = &plan.steps()[position];
        let named = |what: &dyn std::fmt::Display| format!("{}: {what}", step.id());
        frontier.start(position);
        check::destroys_nothing_last(step, self.wish, state).map_err(|wrong| named(&wrong))?;
        let unmet = step
            .needs
            .iter()
            .find(|need| holds(&need.fact, state) != Some(true));
        if let Some(need) = unmet {
            return Err(named(&format!("comes though not: {}", need.fact)));
        }
        predict(state, step, self.wish).map_err(|wrong| named(&wrong))?;
        flocker_plan::predict::obey(state, &step.actor, plan.generation());
        if let Some(fact) = step.makes().iter().find(|fact| holds(fact, state) != Some(true)) {
            return Err(named(&format!("does not make: {fact}")));
        }
        frontier.settle(position, Outcome::Done);
        if self.is_sound {
            check::state(state).map_err(|wrong| named(&wrong))?;
        }
        for (dataset, held) in &self.owned {
            match newest(state, *dataset) {
                Some(now) if now == *held => {}
                Some(_) => return Err(named(&format!("dataset {dataset} is another one after it"))),
                None => return Err(named(&format!("nobody has dataset {dataset} after it"))),
            }
        }
        Ok(())
    }

    /// Every state that was looked at comes to rest within a few plans.
    fn all_come_to_rest(&self) -> Result<(), String> {
        for &first in self.visits.keys() {
            let mut at = first;
            let mut turns = 0;
            while let Some(&Some(next)) = self.visits.get(&at) {
                turns += 1;
                at = next;
                if turns > TURNS {
                    return Err(format!("still busy after {TURNS} plans"));
                }
            }
        }
        Ok(())
    }
}

/// Says whether a plan is what was left of another one: the same steps in the same partial order, for no other needs.
fn is_rest_of(rest: &Plan, whole: &Plan, done: u64) -> bool {
    let is_left = |position: usize| done & (1 << position) == 0;
    let left: Vec<usize> = (0..whole.steps().len())
        .filter(|&position| is_left(position))
        .collect();
    if left.len() != rest.steps().len() {
        return false;
    }
    let mut places = Vec::with_capacity(left.len());
    for step in rest.steps() {
        let same = |position: &usize| {
            let other = &whole.steps()[*position];
            other.actor == step.actor && other.action == step.action
        };
        let Some(place) = left.iter().copied().find(same) else {
            return false;
        };
        places.push(place);
    }
    rest.steps().iter().enumerate().all(|(position, step)| {
        let place = places[position];
        let mut before: Vec<usize> = rest.edges().makers(position).map(|maker| places[maker]).collect();
        let mut expected: Vec<usize> = whole
            .edges()
            .makers(place)
            .filter(|&maker| is_left(maker))
            .collect();
        before.sort_unstable();
        expected.sort_unstable();
        let mut old = whole.steps()[place].needs.iter();
        before == expected && step.needs.iter().all(|need| old.any(|old| old.fact == need.fact))
    })
}
