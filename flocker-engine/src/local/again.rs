//! What a node does by itself after its machine has started anew, where somebody has asked for that.
//!
//! It takes the deploy lock like any deploy, so that nobody else changes anything meanwhile, and decides nothing:
//! that is [`flocker_plan::boot`]. It asks no other node, and changes nothing of the data.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::ExternalPort;
use flocker_model::RouteChange;
use flocker_model::RouteTable;
use flocker_model::RouteTarget;
use flocker_plan::boot::Again;
use flocker_plan::boot::RoutesAgain;
use flocker_plan::boot::Stays;
use flocker_plan::boot::routes_again;
use flocker_plan::boot::start_again;

use super::LocalNode;
use super::lock::Session;
use super::turns::Subject;
use super::turns::Use;
use crate::node::Claim;
use crate::node::LockToken;
use crate::node::NodeHandle as _;
use crate::node_error::NodeError;

/// What became of an application after a start of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Woken {
    /// It was started. Whether it is healthy by now is for its check to say.
    Started,
    /// It ran already.
    Runs,
    /// It waits for the next deploy.
    Stays(Stays),
    /// It could not be started. The others were not kept from it.
    Failed(NodeError),
}

/// What a node has done after a start of its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awakening {
    /// What became of every application that it has a container of.
    pub applications: BTreeMap<ApplicationName, Woken>,
    /// How many routes were put back.
    pub routes: Result<usize, NodeError>,
    /// The ports of which the routes wait for the next deploy, because something else of this machine has them now.
    pub taken: BTreeSet<ExternalPort>,
}

/// Who holds the deploy lock of a node meanwhile, as others are told. A deploy waits for it, and is not ended by it.
pub const STARTING: &str = "the start of this machine";

impl LocalNode {
    /// Starts again what is here and may run, and puts back those of the routes that are not in force.
    ///
    /// `routes` is asked for what was in force once nobody else changes it any more. Refused while somebody holds the
    /// deploy lock: whoever deploys starts what is to run. Where the lock is taken away meanwhile, nothing more is
    /// started. Done twice, the second time does nothing. Dropped half way: some of it is done, and the lock is held
    /// for as long as this value lives.
    pub async fn start_again(
        &self,
        routes: impl FnOnce() -> RouteTable + Send,
        since: u64,
    ) -> Result<Awakening, NodeError> {
        let claim = Claim {
            token: LockToken::random(),
            holder: STARTING.to_owned(),
            since,
            peers: BTreeMap::new(),
        };
        self.lock_over(Session::HERE, &claim).await?;
        let awakening = self.awake(&routes(), claim.token).await;
        self.lock.release(claim.token);
        awakening
    }

    async fn awake(&self, routes: &RouteTable, token: LockToken) -> Result<Awakening, NodeError> {
        let limit = self.parts.deadlines.answer;
        let runtime = &self.parts.runtime;
        // A look mounts what a restart of the machine left unmounted.
        let seen = self.observe().await?;
        let policies = self
            .within(
                "the list of what can be started again",
                limit,
                runtime.resumable(),
            )
            .await?;
        let mut applications = BTreeMap::new();
        for (name, again) in start_again(&seen, &policies) {
            let dataset = seen.containers.get(&name).and_then(|container| container.dataset);
            let woken = match again {
                Again::Runs => Woken::Runs,
                Again::Stays(stays) => Woken::Stays(stays),
                Again::Start => match self.resume(&name, dataset, token).await {
                    Ok(()) => Woken::Started,
                    Err(error) => Woken::Failed(error),
                },
            };
            applications.insert(name, woken);
        }
        let serves =
            |name: &ApplicationName| matches!(applications.get(name), Some(Woken::Started | Woken::Runs));
        let RoutesAgain { set, taken } = routes_again(&self.parts.name, &seen, routes, serves);
        let routes = self.put_back(set, token).await;
        Ok(Awakening {
            applications,
            routes,
            taken,
        })
    }

    /// Starts one application, as an order to start it would.
    async fn resume(
        &self,
        name: &ApplicationName,
        dataset: Option<DatasetId>,
        token: LockToken,
    ) -> Result<(), NodeError> {
        let limit = self.parts.deadlines.work;
        let _entry = self.enter(self.gate.obeyed()).await?;
        let subject = Subject::Application(name.clone());
        let _application = self.turns.take(subject, Use::Alone, limit).await?;
        let _dataset = match dataset {
            Some(dataset) => {
                let subject = Subject::Dataset(dataset);
                let turn = self.turns.take(subject, Use::Shared, limit).await?;
                self.check_owner(name, dataset).await?;
                Some(turn)
            }
            None => None,
        };
        // Whoever breaks a lock waits until nobody is inside; who has its turn after that must find it broken.
        self.lock.check(Session::HERE, Some(token))?;
        let volume = dataset.map(|dataset| self.parts.volumes.path(dataset));
        let resumed = self.parts.runtime.resume(name, volume.as_deref());
        self.within(format!("the start of `{name}`"), limit, resumed)
            .await
            .map(drop)
    }

    /// Puts routes back that are not in force. What somebody has led elsewhere meanwhile stays there.
    async fn put_back(
        &self,
        set: BTreeMap<ExternalPort, RouteTarget>,
        token: LockToken,
    ) -> Result<usize, NodeError> {
        let change = RouteChange {
            set,
            ..RouteChange::default()
        };
        if change.is_empty() {
            return Ok(0);
        }
        let limit = self.parts.deadlines.work;
        let _entry = self.enter(self.gate.obeyed()).await?;
        let _turn = self.turns.take(Subject::Routes, Use::Alone, limit).await?;
        self.lock.check(Session::HERE, Some(token))?;
        let local = self.local_addresses().await?;
        let applied = self.parts.router.apply(&change, &local);
        self.within("the routes of before", limit, applied).await?;
        Ok(change.set.len())
    }
}
