//! A plan as people read it: grouped by what happens to whom, each line with its why.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_model::RouteChange;

use crate::action::Action;
use crate::blocked::Waiting;
use crate::blocked::list;
use crate::blocked::seconds;
use crate::estimate::ApplicationEstimate;
use crate::estimate::Estimate;
use crate::fact::Fact;
use crate::plan::Plan;
use crate::step::Need;
use crate::step::Reason;
use crate::step::Step;

/// One group of steps under its headline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// What happens to whom.
    pub headline: String,
    /// What it costs, where that can be said.
    pub cost: Option<String>,
    /// The steps, one line each.
    pub lines: Vec<Line>,
}

/// One step as people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Who does it: a node, several, or `all`.
    pub actor: String,
    /// What is done; empty where the line only says that more will follow.
    pub verb: &'static str,
    /// To what.
    pub object: String,
    /// Why not earlier, or what is special about it.
    pub note: String,
}

/// Returns a plan as text: what is done, what waits, what is refused, what is kept.
#[must_use]
pub fn text(plan: &Plan, desired: &Deployment, estimate: &Estimate) -> String {
    text_and(plan, desired, estimate, &[])
}

/// Returns a plan as [text], and after it what is waited for besides: where there is any, not everything is as it is to be.
#[must_use]
pub fn text_and(plan: &Plan, desired: &Deployment, estimate: &Estimate, besides: &[Waiting]) -> String {
    let mut text = String::new();
    for group in groups(plan, desired, estimate) {
        match &group.cost {
            Some(cost) => writeln!(text, "{:<54}  {cost}", group.headline),
            None => writeln!(text, "{}", group.headline),
        }
        .unwrap_or_default();
        let width = |part: fn(&Line) -> usize| {
            group
                .lines
                .iter()
                .filter(|line| !line.verb.is_empty())
                .map(part)
                .max()
                .unwrap_or(0)
        };
        let actors = width(|line| line.actor.chars().count());
        let verbs = width(|line| line.verb.len());
        let objects = width(|line| line.object.chars().count());
        for Line {
            actor,
            verb,
            object,
            note,
        } in &group.lines
        {
            let line = if verb.is_empty() {
                format!("  {actor:<actors$}  {object}")
            } else {
                format!("  {actor:<actors$}  {verb:<verbs$}  {object:<objects$}  {note}")
            };
            writeln!(text, "{}", line.trim_end()).unwrap_or_default();
        }
    }
    let wait = |text: &mut String, waiting: &Waiting| {
        writeln!(text, "waiting: {waiting}\n   hint: {}", waiting.hint()).unwrap_or_default();
    };
    // A cut-over that follows by itself is said in its group.
    for waiting in plan.waiting().iter().filter(|waiting| !waiting.is_for_a_copy()) {
        wait(&mut text, waiting);
    }
    for refusal in plan.refused() {
        writeln!(text, "refused: {refusal}\n   hint: {}", refusal.hint()).unwrap_or_default();
    }
    for kept in plan.kept() {
        let owner = kept
            .application
            .as_ref()
            .map_or_else(String::new, |owner| format!(" of {owner}"));
        let (nodes, used) = (list(&kept.nodes), kept.used);
        writeln!(
            text,
            "kept: the data{owner} on {nodes} ({used}, dataset {}): no placed application uses it",
            kept.dataset
        )
        .unwrap_or_default();
    }
    for waiting in besides {
        wait(&mut text, waiting);
    }
    if plan.is_settled() && besides.is_empty() {
        text.push_str("nothing to do: everything is as it is to be\n");
    }
    text
}

/// Returns the steps of a plan in groups, in the order in which they first come.
#[must_use]
pub fn groups(plan: &Plan, desired: &Deployment, estimate: &Estimate) -> Vec<Group> {
    let names = Names::new(plan, desired);
    let mut order: Vec<Reason> = Vec::new();
    let mut steps: BTreeMap<Reason, Vec<&Step>> = BTreeMap::new();
    let mut homes: BTreeMap<ApplicationName, Reason> = BTreeMap::new();
    for step in plan.steps() {
        let reason = match (&step.action, &*step.reason) {
            (Action::Route { change }, reason) => sole_application(change)
                .and_then(|name| homes.get(name))
                .unwrap_or(reason)
                .clone(),
            (_, reason) => reason.clone(),
        };
        if let Some(application) = moved(&reason) {
            homes.entry(application.clone()).or_insert_with(|| reason.clone());
        }
        // Routes that belong to no one group stand under one headline.
        let reason = if matches!(reason, Reason::Routes { .. }) {
            routes()
        } else {
            reason
        };
        if !steps.contains_key(&reason) {
            order.push(reason.clone());
        }
        steps.entry(reason).or_default().push(step);
    }
    let n_nodes = desired.members().len();
    order
        .into_iter()
        .map(|reason| {
            let steps = steps.remove(&reason).unwrap_or_default();
            let headline = match &reason {
                Reason::Routes { .. } => "routes follow".into(),
                Reason::Tidies {
                    dataset: Some(dataset),
                }
                | Reason::Deletes { dataset } => {
                    let verb = if matches!(reason, Reason::Deletes { .. }) {
                        "deleted"
                    } else {
                        "tidied up"
                    };
                    format!("the data of {} is {verb}", names.of(*dataset))
                }
                Reason::Starts { .. }
                | Reason::Restarts { .. }
                | Reason::Moves { .. }
                | Reason::Stops { .. }
                | Reason::Resizes { .. }
                | Reason::Tidies { dataset: None } => reason.to_string(),
            };
            let mut lines = lines(&steps, &names, n_nodes);
            let follows = plan
                .waiting()
                .iter()
                .find_map(|waiting| follows(waiting, &reason));
            lines.extend(follows.map(|object| Line {
                actor: "...".into(),
                verb: "",
                object: object.into(),
                note: String::new(),
            }));
            Group {
                headline,
                cost: cost(&reason, estimate),
                lines,
            }
        })
        .collect()
}

fn routes() -> Reason {
    // Any node will do: the group is not about one.
    "all"
        .parse()
        .map_or(Reason::Tidies { dataset: None }, |on| Reason::Routes { on })
}

fn moved(reason: &Reason) -> Option<&ApplicationName> {
    match reason {
        Reason::Starts { application, .. }
        | Reason::Restarts { application, .. }
        | Reason::Moves { application, .. }
        | Reason::Stops { application, .. } => Some(application),
        Reason::Resizes { .. } | Reason::Routes { .. } | Reason::Deletes { .. } | Reason::Tidies { .. } => {
            None
        }
    }
}

/// Says what follows a copy by itself, where a plan makes one for a move.
fn follows(waiting: &Waiting, reason: &Reason) -> Option<&'static str> {
    let Reason::Moves { application, .. } = reason else {
        return None;
    };
    if waiting.application() != Some(application) {
        return None;
    }
    match waiting {
        Waiting::PreCopy { .. } => Some("more copies while they shrink, then the cut-over"),
        Waiting::Earlier { .. } => Some("what was written since, then the cut-over"),
        Waiting::ForSight { .. }
        | Waiting::ForHealth { .. }
        | Waiting::Held { .. }
        | Waiting::NotConverging { .. }
        | Waiting::TooManyFiles { .. } => None,
    }
}

fn cost(reason: &Reason, estimate: &Estimate) -> Option<String> {
    let application = moved(reason)?;
    let cost = estimate
        .applications
        .iter()
        .find(|cost| cost.application == *application)?;
    Some(cost_of(cost))
}

fn cost_of(cost: &ApplicationEstimate) -> String {
    let downtime = seconds(cost.downtime);
    let bytes = cost.ahead.plus(cost.last_round);
    match (cost.from.is_some(), cost.last_round_is_guessed) {
        (false, _) => format!("about {downtime} of downtime"),
        (true, true) => format!("{bytes} to copy, then about {downtime} of downtime"),
        (true, false) => format!("{bytes} left to copy, about {downtime} of downtime"),
    }
}

fn sole_application(change: &RouteChange) -> Option<&ApplicationName> {
    let mut led_to = change.applications();
    let first = led_to.next()?;
    (change.drop.is_empty() && led_to.all(|other| other == first)).then_some(first)
}

/// Applications by dataset: people know data by who uses it.
struct Names(BTreeMap<DatasetId, ApplicationName>);

impl Names {
    fn new(plan: &Plan, desired: &Deployment) -> Self {
        let claimed = desired.applications().iter();
        let claimed =
            claimed.filter_map(|(name, application)| Some((application.volume.as_ref()?.dataset, name)));
        let created = plan
            .steps()
            .iter()
            .filter_map(|step| step.action.dataset().zip(step.action.application()));
        Self(
            created
                .chain(claimed)
                .map(|(dataset, name)| (dataset, name.clone()))
                .collect(),
        )
    }

    fn of(&self, dataset: DatasetId) -> String {
        self.0
            .get(&dataset)
            .map_or_else(|| dataset.to_string(), ToString::to_string)
    }
}

fn lines(steps: &[&Step], names: &Names, n_nodes: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut routers: BTreeMap<&RouteChange, Vec<NodeName>> = BTreeMap::new();
    for step in steps {
        if let Action::Route { change } = &step.action {
            routers.entry(change).or_default().push(step.actor.clone());
        }
    }
    for step in steps {
        let actor = if let Action::Route { change } = &step.action {
            match routers.remove(&**change) {
                Some(nodes) if nodes.len() == n_nodes && n_nodes > 1 => "all".into(),
                Some(nodes) => list(&nodes),
                None => continue,
            }
        } else {
            step.actor.to_string()
        };
        let note = note(step, names);
        lines.push(Line {
            actor,
            verb: step.action.verb(),
            object: object(&step.action, names),
            note,
        });
    }
    lines
}

fn object(action: &Action, names: &Names) -> String {
    match action {
        Action::Create { dataset, epoch: _ } => match dataset.maximum_size {
            Some(size) => format!("{}, {size} at most", names.of(dataset.id)),
            None => names.of(dataset.id),
        },
        Action::Resize {
            dataset,
            to: Some(size),
        } => format!("{} to {size}", names.of(*dataset)),
        Action::Resize { dataset, to: None } => format!("{} to no limit", names.of(*dataset)),
        Action::Take { dataset, snapshot } => format!("{}@{snapshot}", names.of(*dataset)),
        Action::Push {
            dataset,
            snapshot,
            base: _,
            to,
        } => format!("{}@{snapshot} to {to}", names.of(dataset.id)),
        Action::Release { dataset, epoch, .. }
        | Action::Acquire { dataset, epoch, .. }
        | Action::Renounce { dataset, epoch } => format!("{}, epoch {epoch}", names.of(*dataset)),
        Action::Destroy { dataset } => format!("the copy of {}, to the trash", names.of(*dataset)),
        Action::Trim { dataset, snapshots } => {
            let snapshots: Vec<&str> = snapshots
                .iter()
                .map(flocker_model::SnapshotName::as_str)
                .collect();
            format!("{}@{}", names.of(*dataset), snapshots.join(", "))
        }
        Action::DropPartial { dataset } => format!("the incomplete copy of {}", names.of(*dataset)),
        Action::Restore { dataset, entry: _ } => format!("the copy of {} from the trash", names.of(*dataset)),
        Action::EmptyTrash { entry } => format!("trash {entry}"),
        Action::Prepare { application, .. }
        | Action::Start { application, .. }
        | Action::Stop { application, .. } => application.to_string(),
        Action::Route { change } => {
            let set = change.set.iter().map(|(port, target)| {
                let homes: Vec<&str> = target.homes.iter().map(|home| home.node.as_str()).collect();
                format!("{port} to {}", homes.join(" and "))
            });
            let drop = change.drop.iter().map(|port| format!("{port} to nobody"));
            set.chain(drop).collect::<Vec<_>>().join(", ")
        }
    }
}

/// What a step waits for, said once and shortly.
fn note(step: &Step, names: &Names) -> String {
    let mut notes: Vec<String> = Vec::new();
    if let Action::Push { base, .. } = &step.action {
        notes.push(base.as_ref().map_or_else(
            || "full".to_owned(),
            |base| format!("increment from {}", base.name),
        ));
    }
    let said = |need: &Need| match &need.fact {
        Fact::Prepared { application, on } => Some(format!("after {application} is prepared on {on}")),
        Fact::Running { application, on } => Some(format!("after {application} runs on {on}")),
        Fact::Stopped { application, .. } => {
            Some(format!("after {application} has stopped: {}", need.because))
        }
        Fact::Healthy { application, on } => Some(format!("after {application} is healthy on {on}")),
        Fact::Primary { on, .. } => Some(format!("after {on} owns the data")),
        Fact::Released { by, .. } => Some(format!("after {by} has let go")),
        Fact::Renounced { by, .. } => Some(format!("after {by} has given its right up")),
        Fact::Snapshot { on, .. } if matches!(step.action, Action::Acquire { .. }) => {
            Some(format!("the data on {on} is complete and verified"))
        }
        Fact::Gone { on, dataset } => Some(format!(
            "after the old copy of {} on {on} is set aside",
            names.of(*dataset)
        )),
        // A copy follows its snapshot, and a route its home's: that needs no saying.
        Fact::Snapshot { .. } | Fact::Routed { .. } | Fact::Obeys { .. } => None,
    };
    for note in step.needs.iter().filter_map(said) {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes.join(", ")
}
