//! Steps: one action of one node, why it exists and why it may not start yet.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::NodeName;
use serde::Deserialize;
use serde::Serialize;
use serde::Serializer;
use serde::ser::SerializeStruct as _;
use thiserror::Error;

use crate::action::Action;
use crate::fact::Fact;
use crate::needs::Needs;

/// The name of a step, from its content: `alpha/push/<dataset>@warm-8-1/beta`. Re-planning yields the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepId(pub String);

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One action of one node.
///
/// Cloning is cheap. What is the same in many steps, as the routes of all
/// nodes are, stands in memory once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Step {
    /// Who does it.
    pub actor: NodeName,
    /// What is done.
    pub action: Action,
    /// Why this step exists at all.
    pub reason: Arc<Reason>,
    /// Why it may not start yet.
    pub needs: Needs,
}

impl Step {
    /// Returns its name, unique within a plan.
    #[must_use]
    pub fn id(&self) -> StepId {
        // Room for most names: one that grows piece by piece is copied at each.
        let mut name = String::with_capacity(96);
        name.push_str(self.actor.as_str());
        name.push('/');
        name.push_str(self.action.verb());
        name.push('/');
        // Writing to a text cannot fail.
        let _ = write!(name, "{}", self.action);
        StepId(name)
    }
}

/// A step as it is written: with what it makes, for those who read it and do not know what follows from an action.
#[derive(Deserialize)]
struct Written {
    actor: NodeName,
    action: Action,
    reason: Arc<Reason>,
    needs: Needs,
    makes: Vec<Fact>,
}

/// A step that is said to make what does not follow from its action.
#[derive(Debug, Error)]
#[error("the step `{step}` does not make what it says: {fact}")]
struct NotMade {
    step: StepId,
    fact: Fact,
}

impl TryFrom<Written> for Step {
    type Error = NotMade;

    fn try_from(
        Written {
            actor,
            action,
            reason,
            needs,
            makes,
        }: Written,
    ) -> Result<Self, NotMade> {
        let step = Self {
            actor,
            action,
            reason,
            needs,
        };
        match makes.into_iter().find(|fact| !step.is_maker_of(fact)) {
            Some(fact) => Err(NotMade {
                step: step.id(),
                fact,
            }),
            None => Ok(step),
        }
    }
}

impl Serialize for Step {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            actor,
            action,
            reason,
            needs,
        } = self;
        let mut written = serializer.serialize_struct("Step", 5)?;
        written.serialize_field("actor", actor)?;
        written.serialize_field("action", action)?;
        written.serialize_field("reason", reason)?;
        written.serialize_field("needs", needs)?;
        written.serialize_field("makes", &self.makes())?;
        written.end()
    }
}

/// A fact that must hold before a step may start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// The fact.
    pub fact: Fact,
    /// Because of what.
    pub because: Because,
}

/// Why a step needs a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// There is nothing to send before it is taken.
    TakenFirst,
    /// Nothing is stopped for what could not start.
    NothingStopsInVain,
    /// The pause is shorter when the bulk was copied before.
    ShorterPause,
    /// One writer at a time.
    OneWriter,
    /// The data is complete and verified.
    DataComplete,
    /// The data is there.
    DataThere,
    /// It was offered to another node, which must not take it any more.
    OfferWithdrawn,
    /// An old copy is in the way, and is set aside first.
    PlaceFree,
    /// One copy of an application runs at a time.
    OneCopy,
    /// It uses the other application.
    UsesIt,
    /// Connections go only where they are served.
    ServedThere,
    /// Connections must not be sent round in a circle.
    NoCircle,
    /// Nobody is sent there any more.
    NobodySentThere,
    /// Its data is no longer in use.
    NotInUse,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TakenFirst => "there is nothing to send before it is taken",
            Self::NothingStopsInVain => "nothing is stopped for what could not start",
            Self::ShorterPause => "the pause is shorter when the bulk was copied before",
            Self::OneWriter => "one writer at a time",
            Self::DataComplete => "the data must be complete and verified",
            Self::DataThere => "its data must be there",
            Self::OfferWithdrawn => "it was offered to another node, which must not take it any more",
            Self::PlaceFree => "an old copy is set aside first",
            Self::OneCopy => "one copy of an application runs at a time",
            Self::UsesIt => "it uses the other application",
            Self::ServedThere => "connections go only where they are served",
            Self::NoCircle => "connections must not be sent round in a circle",
            Self::NobodySentThere => "nobody must be sent there any more",
            Self::NotInUse => "its data must no longer be in use",
        })
    }
}

/// Why a step exists at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Reason {
    /// The application is to run there and does not.
    Starts {
        /// The application.
        application: ApplicationName,
        /// The node.
        on: NodeName,
    },
    /// The application's definition has changed.
    Restarts {
        /// The application.
        application: ApplicationName,
        /// The node.
        on: NodeName,
    },
    /// The application is to run elsewhere, and its data goes with it.
    Moves {
        /// The application.
        application: ApplicationName,
        /// From where.
        from: NodeName,
        /// To where.
        to: NodeName,
    },
    /// The application is not to run there.
    Stops {
        /// The application.
        application: ApplicationName,
        /// The node.
        on: NodeName,
    },
    /// The size of its data has changed.
    Resizes {
        /// The application.
        application: ApplicationName,
        /// The node.
        on: NodeName,
    },
    /// The node's routes are not what they are to be.
    Routes {
        /// The node.
        on: NodeName,
    },
    /// The dataset is to be deleted.
    Deletes {
        /// The dataset.
        dataset: DatasetId,
    },
    /// Something that Flocker made is no longer needed.
    Tidies {
        /// The dataset, where it belongs to one that is known.
        dataset: Option<DatasetId>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starts { application, on } => write!(f, "{application} starts on {on}"),
            Self::Restarts { application, on } => {
                write!(f, "{application} restarts on {on}: its definition has changed")
            }
            Self::Moves {
                application,
                from,
                to,
            } => write!(f, "{application} moves from {from} to {to}"),
            Self::Stops { application, on } => {
                write!(f, "{application} stops on {on}: it is not to run there")
            }
            Self::Resizes { application, on } => write!(f, "the data of {application} is resized on {on}"),
            Self::Routes { on } => write!(f, "routes change on {on}"),
            Self::Deletes { dataset } => write!(f, "dataset {dataset} is deleted"),
            Self::Tidies {
                dataset: Some(dataset),
            } => write!(f, "dataset {dataset} is tidied up"),
            Self::Tidies { dataset: None } => f.write_str("what is no longer needed is dropped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_as_small_as_when_it_was_measured() {
        assert!(size_of::<Step>() <= 12 * size_of::<usize>());
    }
}
