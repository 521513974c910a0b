//! What a node must not forget of a dataset, as the value of one property.
//!
//! The role, the fence and since when: one property, so that each transition
//! is one write, which the pool makes durable as a whole or not at all.

use flocker_model::Epoch;
use flocker_model::Role;

/// The one spelling that there is yet.
const FORMAT: &str = "1";

/// Whose a dataset is, and which ownership this node may still take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) role: Role,
    /// The newest ownership that this node knows of or has renounced.
    pub(super) fence: Epoch,
    /// Since when it has had its role, in seconds since 1970.
    pub(super) since: i64,
}

impl Standing {
    /// The standing of one that takes a role, which raises the fence where the role says so.
    pub(super) fn new(role: Role, fence: Epoch, since: i64) -> Self {
        let fence = match &role {
            Role::Primary { epoch } | Role::Released { epoch, .. } => fence.max(*epoch),
            Role::Replica => fence,
        };
        Self { role, fence, since }
    }

    /// Says what it is here, for sentences.
    pub(super) fn role_word(&self) -> &'static str {
        match self.role {
            Role::Primary { .. } => "primary",
            Role::Released { .. } => "released",
            Role::Replica => "a replica",
        }
    }

    /// Writes it as the value of a property.
    pub(super) fn to_text(&self) -> String {
        let Self { role, fence, since } = self;
        let role = match role {
            Role::Primary { epoch } => format!("primary:{epoch}"),
            // The taker comes last: the name of a node may have colons.
            Role::Released {
                epoch,
                to,
                last,
                guid,
            } => {
                format!("released:{epoch}:{guid}:{last}:{to}")
            }
            Role::Replica => "replica".to_owned(),
        };
        format!("{FORMAT}:{fence}:{since}:{role}")
    }

    /// Reads it back; nothing where it is not exactly what [`to_text`](Self::to_text) writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, ':');
        if parts.next()? != FORMAT {
            return None;
        }
        let fence = Epoch(parts.next()?.parse().ok()?);
        let since = parts.next()?.parse().ok()?;
        let word = parts.next()?;
        let rest = parts.next();
        let role = match (word, rest) {
            ("primary", Some(epoch)) => Role::Primary {
                epoch: Epoch(epoch.parse().ok()?),
            },
            ("released", Some(rest)) => {
                let mut parts = rest.splitn(4, ':');
                Role::Released {
                    epoch: Epoch(parts.next()?.parse().ok()?),
                    guid: parts.next()?.parse().ok()?,
                    last: parts.next()?.parse().ok()?,
                    to: parts.next()?.parse().ok()?,
                }
            }
            ("replica", None) => Role::Replica,
            _ => return None,
        };
        let standing = Self { role, fence, since };
        (standing.to_text() == text).then_some(standing)
    }
}

#[cfg(test)]
mod tests {
    use flocker_model::SnapshotGuid;
    use proptest::prelude::*;

    use super::*;

    fn roles() -> impl Strategy<Value = Role> {
        prop_oneof![
            any::<u64>().prop_map(|epoch| Role::Primary { epoch: Epoch(epoch) }),
            Just(Role::Replica),
            (
                any::<u64>(),
                "[a-z0-9:][a-z0-9:.-]{0,20}",
                "[a-z][a-z0-9-]{0,20}",
                any::<u64>()
            )
                .prop_map(|(epoch, to, last, guid)| Role::Released {
                    epoch: Epoch(epoch),
                    to: to.parse().unwrap(),
                    last: last.parse().unwrap(),
                    guid: SnapshotGuid(guid.into()),
                }),
        ]
    }

    proptest! {
        #[test]
        fn a_standing_reads_as_it_was_written(role in roles(), fence: u64, since: i64) {
            let standing = Standing { role, fence: Epoch(fence), since };
            prop_assert_eq!(Standing::parse(&standing.to_text()), Some(standing));
        }

        #[test]
        fn a_text_that_is_read_has_one_spelling(text in "1:[0-9+]{0,3}:[0-9-]{0,3}:[a-z:0-9]{0,20}") {
            if let Some(standing) = Standing::parse(&text) {
                prop_assert_eq!(standing.to_text(), text);
            }
        }
    }

    #[test]
    fn a_release_reads_as_people_would_guess() {
        let text = "1:8:1700000000:released:8:00000000000000000000000000000007:handoff-8:fd00::2";
        let standing = Standing::parse(text).unwrap();
        assert_eq!(
            standing.role,
            Role::Released {
                epoch: Epoch(8),
                to: "fd00::2".parse().unwrap(),
                last: "handoff-8".parse().unwrap(),
                guid: SnapshotGuid(7),
            }
        );
    }

    #[test]
    fn what_is_not_whole_is_not_read() {
        for text in [
            "",
            "1",
            "2:1:0:replica",
            "1:1:0:replica:",
            "1:1:0:primary",
            "1:1:0:primary:01",
            "1:1:0:owner:1",
        ] {
            assert_eq!(Standing::parse(text), None, "{text}");
        }
    }
}
