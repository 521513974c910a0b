//! Since when things are as they are, as far as commands of this machine have seen it.
//!
//! A plan is made from one look, and no node keeps when something began to be
//! waited for. So who looks notes it here, beside the files of the last
//! deploy: what is lost with it is only how long ago.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use flocker_engine::clock;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_plan::Plan;
use flocker_plan::Refusal;
use flocker_plan::Waiting;
use serde::Deserialize;
use serde::Serialize;

use crate::files;

const FILE: &str = "since.json";

/// Since when things are as they are; in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Since {
    version: u32,
    /// What is waited for or refused, by application; nobody's goes by the empty name.
    blocked: BTreeMap<String, BTreeMap<String, u64>>,
    /// When nodes answered last.
    answered: BTreeMap<NodeName, u64>,
}

/// What keeps something from being as it is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Obstacle<'a> {
    Waiting(&'a Waiting),
    Refused(&'a Refusal),
}

impl Obstacle<'_> {
    fn owner(&self) -> String {
        let application = match self {
            Self::Waiting(waiting) => waiting.application(),
            Self::Refused(refused) => refused.application(),
        };
        application.map_or_else(String::new, ToString::to_string)
    }

    /// Returns what stays the same of it from look to look: what it is and what it is about, and no number.
    fn kind(&self) -> String {
        let written = match self {
            Self::Waiting(waiting) => serde_json::to_value(waiting),
            Self::Refused(refused) => serde_json::to_value(refused),
        };
        let written = written.unwrap_or_default();
        let parts = ["waiting", "refused", "dataset", "node", "on", "port"];
        let parts: Vec<&str> = parts.iter().filter_map(|part| written[part].as_str()).collect();
        parts.join(" ")
    }
}

impl Since {
    /// Reads what was noted. What cannot be read was not.
    fn load(state_dir: &Path) -> Self {
        let text = files::small_text(&state_dir.join(FILE)).unwrap_or_default();
        let read: Option<Self> = serde_json::from_str(&text).ok();
        read.filter(|since| since.version == 1).unwrap_or_default()
    }

    /// Keeps it for the next command. Who only looks makes no directory for it, and not to be able to is no reason to stop.
    fn save(&self, state_dir: &Path) {
        if let Ok(text) = serde_json::to_string(self)
            && state_dir.is_dir()
        {
            files::write_for(0o600, &state_dir.join(FILE), &(text + "\n")).ok();
        }
    }

    fn note_answers(&mut self, actual: &ClusterState, now: u64) {
        let answered = actual.all_known().map(|(node, _)| (node.clone(), now));
        self.answered.extend(answered);
    }

    /// What these files do not have stays as it was noted with others.
    fn note_obstacles(&mut self, desired: &Deployment, obstacles: &[Obstacle<'_>], now: u64) {
        let before = std::mem::take(&mut self.blocked);
        for obstacle in obstacles {
            let (owner, kind) = (obstacle.owner(), obstacle.kind());
            let since = before.get(&owner).and_then(|kinds| kinds.get(&kind));
            let since = since.copied().unwrap_or(now);
            self.blocked.entry(owner).or_default().insert(kind, since);
        }
        let is_of_these = |owner: &str| {
            let application: Option<ApplicationName> = owner.parse().ok();
            application.is_none_or(|application| desired.application(&application).is_some())
        };
        let others = before.into_iter().filter(|(owner, _)| !is_of_these(owner));
        self.blocked.extend(others);
    }

    /// Returns how long ago something was first seen to be blocked by this, and was at every look since.
    pub(crate) fn blocked_for(&self, obstacle: Obstacle<'_>) -> Option<Duration> {
        let since = self.blocked.get(&obstacle.owner())?.get(&obstacle.kind())?;
        Some(ago(*since))
    }

    /// Returns how long ago a node answered last.
    pub(crate) fn answered_before(&self, node: &NodeName) -> Option<Duration> {
        self.answered.get(node).map(|answered| ago(*answered))
    }
}

/// Says how long ago that was. A clock that was set back makes nothing younger than now.
fn ago(since: u64) -> Duration {
    Duration::from_secs(clock::time_of_day().saturating_sub(since))
}

/// Returns what a plan waits for and refuses, and what it does not say itself.
pub(crate) fn obstacles<'a>(plan: &'a Plan, unsaid: &'a [Waiting]) -> Vec<Obstacle<'a>> {
    let waiting = plan.waiting().iter().chain(unsaid).map(Obstacle::Waiting);
    waiting
        .chain(plan.refused().iter().map(Obstacle::Refused))
        .collect()
}

/// Takes note of who answered.
pub(crate) fn note_answers(state_dir: &Path, actual: &ClusterState) -> Since {
    let mut since = Since::load(state_dir);
    since.version = 1;
    since.note_answers(actual, clock::time_of_day());
    since.save(state_dir);
    since
}

/// Takes note of who answered, and of all that keeps these files from being obeyed.
pub(crate) fn note(
    state_dir: &Path,
    desired: &Deployment,
    actual: &ClusterState,
    obstacles: &[Obstacle<'_>],
) -> Since {
    let mut since = Since::load(state_dir);
    since.version = 1;
    since.note_answers(actual, clock::time_of_day());
    since.note_obstacles(desired, obstacles, clock::time_of_day());
    since.save(state_dir);
    since
}

#[cfg(test)]
mod tests {
    use flocker_model::ByteSize;

    use super::*;

    fn no_room(free: u64) -> Refusal {
        Refusal::NoRoom {
            application: "ledger".parse().unwrap(),
            on: "beta".parse().unwrap(),
            needed: ByteSize(10),
            free: ByteSize(free),
        }
    }

    fn ledger() -> Deployment {
        let source = |name: &str, text: &str| flocker_model::config::Source::new(name, text);
        let applications = source("a", "version: 1\napplications: {ledger: {image: l}}\n");
        let nodes = source("d", "version: 1\nnodes: {alpha: [ledger]}\n");
        let loaded = files::load([applications, nodes]).unwrap();
        loaded.without_secrets().unwrap()
    }

    #[test]
    fn it_is_since_it_was_first_seen_whatever_the_numbers() {
        let (mut since, desired) = (Since::default(), ledger());
        let (little, less) = (no_room(5), no_room(3));
        since.note_obstacles(&desired, &[Obstacle::Refused(&little)], 100);
        since.note_obstacles(&desired, &[Obstacle::Refused(&less)], 160);
        assert_eq!(since.blocked["ledger"].values().collect::<Vec<_>>(), [&100]);
        // Gone, and there again.
        since.note_obstacles(&desired, &[], 200);
        assert_eq!(since.blocked_for(Obstacle::Refused(&less)), None);
        since.note_obstacles(&desired, &[Obstacle::Refused(&less)], 260);
        assert_eq!(since.blocked["ledger"].values().collect::<Vec<_>>(), [&260]);
    }

    #[test]
    fn another_cause_is_since_it_was_seen_itself() {
        let (mut since, desired) = (Since::default(), ledger());
        let room = no_room(5);
        let sight = Waiting::ForSight {
            application: Some("ledger".parse().unwrap()),
            dataset: None,
            nodes: vec!["beta".parse().unwrap()],
        };
        since.note_obstacles(&desired, &[Obstacle::Refused(&room)], 100);
        let both = [Obstacle::Refused(&room), Obstacle::Waiting(&sight)];
        since.note_obstacles(&desired, &both, 160);
        let kept: Vec<u64> = since.blocked["ledger"].values().copied().collect();
        assert!(kept.contains(&100) && kept.contains(&160), "{kept:?}");
    }

    #[test]
    fn other_files_leave_it_as_it_was() {
        let mut since = Since::default();
        let room = no_room(5);
        since.note_obstacles(&ledger(), &[Obstacle::Refused(&room)], 100);
        since.note_obstacles(&Deployment::default(), &[], 160);
        since.note_obstacles(&ledger(), &[Obstacle::Refused(&room)], 200);
        assert_eq!(since.blocked["ledger"].values().collect::<Vec<_>>(), [&100]);
    }

    #[test]
    fn it_is_kept_for_the_next_command_and_what_is_damaged_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let room = no_room(5);
        let obstacles = [Obstacle::Refused(&room)];
        let actual = ClusterState::default();
        let first = note(directory.path(), &ledger(), &actual, &obstacles);
        assert_eq!(Since::load(directory.path()), first);
        std::fs::write(directory.path().join(FILE), "{").unwrap();
        assert_eq!(Since::load(directory.path()), Since::default());
        note(directory.path(), &ledger(), &actual, &obstacles);
        assert!(Since::load(directory.path()).blocked_for(obstacles[0]).is_some());
        // Who only looks makes no directory.
        let missing = directory.path().join("none");
        note_answers(&missing, &actual);
        assert!(!missing.exists());
    }
}
