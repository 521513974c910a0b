//! What the trash can give back: the one copy that counted last, and never two.

use flocker_model::ApplicationName;
use flocker_model::DatasetId;
use flocker_model::Epoch;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_model::Trashed;

use super::Rules;
use super::seen::newest_epoch;
use crate::action::Action;
use crate::blocked::Refusal;
use crate::obstacle::NotRestored;
use crate::step::Reason;
use crate::view::View;

/// What comes back from the trash of a dataset, and what does not.
#[derive(Clone, Debug)]
pub(super) enum Return<'a> {
    /// Nothing of it is in the trash of a node that obeys.
    Nothing,
    /// The copy of the newest owner alone.
    Owner(Piece<'a>),
    /// No owner's copy is among them: the youngest copy of each node.
    Copies(Vec<Piece<'a>>),
    /// It is not for a rule to say which, or it cannot be done.
    Not {
        nodes: Vec<NodeName>,
        because: NotRestored,
    },
}

/// A piece of trash, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) node: u32,
    pub(super) what: &'a Trashed,
}

impl<'a> Rules<'a> {
    /// Works out what of a dataset the trash can give back; of one node alone where a person has named it.
    ///
    /// The newest owner counts. Where two nodes claim the same ownership, where
    /// it cannot be read what a piece was, or where a newer ownership is known
    /// than any piece had, it cannot be told, and a person has to.
    pub(super) fn find_return(&self, dataset: DatasetId, only_on: Option<u32>) -> Return<'a> {
        let pieces: Vec<Piece<'a>> = pieces(&self.view, dataset)
            .filter(|piece| self.obeys(piece.node) && only_on.is_none_or(|node| node == piece.node))
            .collect();
        if pieces.is_empty() {
            return Return::Nothing;
        }
        let nodes_of = |pieces: &[Piece<'_>]| {
            let mut nodes: Vec<NodeName> = pieces.iter().map(|piece| self.node(piece.node)).collect();
            nodes.dedup();
            nodes
        };
        let not = |pieces: &[Piece<'_>], because| Return::Not {
            nodes: nodes_of(pieces),
            because,
        };
        let unreadable: Vec<Piece<'a>> = pieces
            .iter()
            .filter(|piece| piece.what.role.is_none())
            .copied()
            .collect();
        if !unreadable.is_empty() {
            return not(&unreadable, NotRestored::Unreadable);
        }
        let newest = pieces.iter().filter_map(|piece| claim(piece.what)).max();
        let Some(newest) = newest else {
            return Return::Copies(self.youngest_of_each(&pieces, dataset));
        };
        let known = newest_epoch(&self.view, dataset);
        if only_on.is_none() && known > newest.0 {
            return not(&pieces, NotRestored::Followed { by: known });
        }
        let claims: Vec<Piece<'a>> = pieces
            .iter()
            .filter(|piece| claim(piece.what) == Some(newest))
            .copied()
            .collect();
        let Some(youngest) = claims.iter().min_by_key(|piece| piece.what.age) else {
            return Return::Nothing;
        };
        if claims.iter().any(|piece| piece.node != youngest.node) {
            return not(&claims, NotRestored::Split { epoch: newest.0 });
        }
        if self.has_trace(youngest.node, dataset) {
            return not(&claims, NotRestored::InTheWay);
        }
        Return::Owner(*youngest)
    }

    /// Plans what comes back, or says why it does not; returns the nodes in whose trash other copies stay.
    pub(super) fn restore(
        &mut self,
        application: &ApplicationName,
        dataset: DatasetId,
        found: Return<'a>,
    ) -> Vec<NodeName> {
        let back = match found {
            Return::Nothing => Vec::new(),
            Return::Owner(piece) => vec![piece],
            Return::Copies(pieces) => pieces,
            Return::Not { nodes, because } => {
                self.refused.push(Refusal::NotRestored {
                    application: application.clone(),
                    dataset,
                    nodes,
                    because,
                });
                return Vec::new();
            }
        };
        let reason = Reason::Tidies {
            dataset: Some(dataset),
        };
        for piece in &back {
            let action = Action::Restore {
                dataset,
                entry: piece.what.entry.clone(),
            };
            self.step(piece.node, action, &reason, Vec::new(), Vec::new());
        }
        let stay = pieces(&self.view, dataset).filter(|piece| {
            back.iter()
                .all(|back| back.what != piece.what || back.node != piece.node)
        });
        let mut nodes: Vec<NodeName> = stay.map(|piece| self.view.name(piece.node)).collect();
        nodes.dedup();
        nodes
    }

    /// Which copy is to count is for a person to say.
    pub(super) fn refuse_without_owner(
        &mut self,
        application: u32,
        dataset: DatasetId,
        nodes: Vec<NodeName>,
    ) {
        let in_trash = self.owner_in_trash(dataset);
        self.refused.push(Refusal::NoOwner {
            application: self.application(application),
            dataset,
            nodes,
            in_trash,
        });
        self.stays(application);
    }

    /// Returns where the copy of the owner is that was thrown away, if it can be brought back.
    fn owner_in_trash(&self, dataset: DatasetId) -> Option<NodeName> {
        match self.find_return(dataset, None) {
            Return::Owner(piece) => Some(self.node(piece.node)),
            Return::Nothing | Return::Copies(_) | Return::Not { .. } => None,
        }
    }

    fn has_trace(&self, node: u32, dataset: DatasetId) -> bool {
        let state = self.view.node(node).seen;
        state.is_some_and(|state| state.datasets.contains_key(&dataset))
    }

    fn youngest_of_each(&self, pieces: &[Piece<'a>], dataset: DatasetId) -> Vec<Piece<'a>> {
        let mut youngest: Vec<Piece<'a>> = Vec::new();
        for piece in pieces.iter().filter(|piece| !self.has_trace(piece.node, dataset)) {
            match youngest.last_mut().filter(|last| last.node == piece.node) {
                Some(last) if last.what.age <= piece.what.age => {}
                Some(last) => *last = *piece,
                None => youngest.push(*piece),
            }
        }
        youngest
    }
}

/// The pieces of a dataset on all seen nodes, in order of node.
fn pieces<'v, 'a>(view: &'v View<'a>, dataset: DatasetId) -> impl Iterator<Item = Piece<'a>> + 'v {
    view.trash_of(dataset).flat_map(move |node| {
        let trash = view.node(node).seen.into_iter().flat_map(|state| &state.trash);
        trash
            .filter(move |what| what.dataset == dataset)
            .map(move |what| Piece { node, what })
    })
}

/// Which ownership a piece had; of one ownership, who had taken it goes before who had let go for it.
fn claim(piece: &Trashed) -> Option<(Epoch, bool)> {
    match piece.role {
        Some(Role::Primary { epoch }) => Some((epoch, true)),
        Some(Role::Released { epoch, .. }) => Some((epoch, false)),
        Some(Role::Replica) | None => None,
    }
}
