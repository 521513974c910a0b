//! The families of small clusters: which letters a node can be, and what can be wanted of them.

use flocker_model::{Application, Deployment, Generation, Keeps, Member, Observed};

use crate::proof::Wish;
use crate::small::{Copy, Letter, Run, Sight, Symmetry, cluster, comes_first};
use crate::world::{application, application_name, dataset_id, node_name};

/// How far to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// What an ordinary test run has time for.
    Small,
    /// Everything.
    Full,
}

/// Clusters that are made of the same letters, with everything that is wanted of each.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    /// What each node can be.
    letters: Vec<Vec<Letter>>,
    symmetry: Symmetry,
    pub(crate) wishes: Vec<Wish>,
    /// What runs is defined as here.
    defined: Deployment,
    /// What its nodes keep of older snapshots.
    keeps: Keeps,
    /// Whether another wish is tried wherever the first one can be cut short, and not only where it has come to rest.
    pub(crate) half_way: bool,
}

impl Family {
    /// How many words there are, those included that are the same as another.
    pub(crate) fn n_words(&self) -> u64 {
        self.letters.iter().map(|letters| letters.len() as u64).product()
    }

    /// Returns the cluster of a number, unless it is the same as one that has another number.
    pub(crate) fn cluster(&self, number: u64) -> Option<flocker_model::ClusterState> {
        let mut rest = number;
        let mut word = Vec::with_capacity(self.letters.len());
        for letters in &self.letters {
            let n_letters = letters.len() as u64;
            word.push(letters[usize::try_from(rest % n_letters).unwrap()]);
            rest /= n_letters;
        }
        comes_first(&word, self.symmetry).then(|| {
            let mut state = cluster(&word, &self.defined);
            for seen in state.nodes.values_mut() {
                if let Observed::Known(seen) = seen {
                    seen.keeps = self.keeps;
                }
            }
            state
        })
    }
}

/// What one application can be wanted to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is not there.
    None,
    /// It has data of its own.
    Data,
    /// It has data of its own and a port.
    DataAndPort,
    /// It has no data, a port, and uses the first one; on one node or on all.
    Bare,
}

/// What is wanted besides every placement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Besides {
    Nothing,
    /// Every dataset that no placed application uses may also be deleted by name.
    Deletion,
    /// That, and one node may be missing from the files.
    DeletionAndUnlisted,
}

fn define(number: usize, kind: Kind) -> Option<Application> {
    let mut defined = match kind {
        Kind::None => return None,
        Kind::Data | Kind::DataAndPort => application(number, 0, true),
        Kind::Bare => application(number, 0, false),
    };
    if kind == Kind::Data {
        defined.ports.clear();
    }
    if kind == Kind::Bare {
        defined.depends_on = [application_name(0)].into();
    }
    Some(defined)
}

/// Where an application is wanted, or that its data is to go.
#[derive(Clone, PartialEq, Eq)]
enum Place {
    On(Vec<usize>),
    Deleted,
}

fn places(kind: Kind, n_nodes: usize, besides: Besides) -> Vec<Place> {
    let mut places = vec![Place::On(Vec::new())];
    match kind {
        Kind::None => {}
        Kind::Data | Kind::DataAndPort => {
            places.extend((0..n_nodes).map(|home| Place::On(vec![home])));
            if besides != Besides::Nothing {
                places.push(Place::Deleted);
            }
        }
        Kind::Bare => {
            places.extend((0..n_nodes).map(|home| Place::On(vec![home])));
            places.push(Place::On((0..n_nodes).collect()));
        }
    }
    places
}

fn wishes(n_nodes: usize, kinds: [Kind; 2], besides: Besides) -> Vec<Wish> {
    let mut wishes = Vec::new();
    let unlisted: Vec<Option<usize>> = if besides == Besides::DeletionAndUnlisted && n_nodes > 1 {
        std::iter::once(None).chain((0..n_nodes).map(Some)).collect()
    } else {
        vec![None]
    };
    for unlisted in unlisted {
        for first in places(kinds[0], n_nodes, besides) {
            for second in places(kinds[1], n_nodes, besides) {
                let mut placed = [&first, &second].into_iter().filter_map(|place| match place {
                    Place::On(homes) => Some(homes),
                    Place::Deleted => None,
                });
                if !placed.any(|homes| homes.iter().any(|home| Some(*home) == unlisted)) {
                    let applications = [(define(0, kinds[0]), &first), (define(1, kinds[1]), &second)];
                    wishes.push(wish(n_nodes, unlisted, &applications));
                }
            }
        }
    }
    wishes
}

fn wish(n_nodes: usize, unlisted: Option<usize>, applications: &[(Option<Application>, &Place)]) -> Wish {
    let mut builder = Deployment::builder();
    for number in (0..n_nodes).filter(|number| Some(*number) != unlisted) {
        builder = builder.node(node_name(number), Member::empty());
    }
    for (number, (definition, place)) in applications.iter().enumerate() {
        let Some(definition) = definition else { continue };
        let name = application_name(number);
        builder = builder.application(name.clone(), definition.clone());
        match place {
            Place::On(homes) => {
                for &home in homes {
                    builder = builder.place(&name, &node_name(home));
                }
            }
            Place::Deleted => builder = builder.delete(dataset_id(number)),
        }
    }
    let deployment = builder.build().unwrap();
    Wish {
        first: deployment.clone().at(Generation(2)),
        then: deployment.at(Generation(3)),
    }
}

/// Wishes in which names and data do not belong together as before: another name for the data, other data for the name.
fn wishes_of_new_names(n_nodes: usize) -> Vec<Wish> {
    let claims: &[[Option<usize>; 2]] = &[
        [Some(0), None],
        [None, Some(0)],
        [Some(1), None],
        [None, Some(1)],
        [Some(0), Some(1)],
        [Some(1), Some(0)],
    ];
    let mut wishes = Vec::new();
    for claim in claims {
        let definitions: Vec<Option<Application>> = claim
            .iter()
            .enumerate()
            .map(|(number, claim)| {
                let mut definition = define(number, Kind::Data)?;
                definition.volume.as_mut().unwrap().dataset = dataset_id((*claim)?);
                Some(definition)
            })
            .collect();
        let n_present = definitions.iter().flatten().count();
        for first in 0..n_nodes {
            // Who is not there is nowhere, and both are told apart only where both are there.
            for second in if n_present == 2 {
                0..n_nodes
            } else {
                first..first + 1
            } {
                let places = [Place::On(vec![first]), Place::On(vec![second])];
                let applications: Vec<_> = definitions.iter().cloned().zip(&places).collect();
                wishes.push(wish(n_nodes, None, &applications));
            }
        }
    }
    wishes
}

/// How far an application with data can be where its copy is.
fn runs_beside(copy: Copy, depth: Depth) -> &'static [Run] {
    match (depth, copy.is_owner()) {
        (Depth::Plain, false) => &[Run::Nothing],
        (Depth::Plain, true) => &[Run::Running],
        (Depth::Stopped, false) => &[Run::Nothing, Run::Prepared],
        (Depth::Stopped, true) => &[Run::Nothing, Run::Running],
        (Depth::Everything, false) => &[
            Run::Nothing,
            Run::Prepared,
            Run::Exited,
            Run::Running,
            Run::Restarting,
        ],
        (Depth::Everything, true) => &[
            Run::Nothing,
            Run::Prepared,
            Run::Exited,
            Run::Running,
            Run::RunningOther,
            Run::Restarting,
        ],
    }
}

/// How much of what an application can be is told apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// It runs beside data that its node owns, and nowhere else.
    Plain,
    /// It may also be stopped there, and prepared where the data is to go.
    Stopped,
    /// It is anything, also where it must not run.
    Everything,
}

/// Every copy that there can be on a node.
fn all_copies(n_nodes: usize, on: usize) -> Vec<Copy> {
    let mut copies = vec![
        Copy::Absent,
        Copy::Bare,
        Copy::Base,
        Copy::Warm,
        Copy::Renounced,
        Copy::Complete,
        Copy::CompleteRenounced,
        Copy::Other,
        Copy::PartialWarm,
        Copy::PartialLast,
        Copy::Owner,
        Copy::OwnerWarm,
        Copy::OwnerBusy,
        Copy::OwnerFirst,
        Copy::OwnerNext,
        Copy::OwnerOther,
        Copy::Trashed,
        Copy::TrashedOwner,
        Copy::TrashedOwnerBefore,
        Copy::Fenced,
    ];
    copies.extend((0..n_nodes).filter(|to| *to != on).map(Copy::LetEarlier));
    copies.extend((0..n_nodes).map(Copy::Let));
    copies.extend((0..n_nodes).filter(|to| *to != on).map(Copy::LetAgain));
    copies
}

/// The copies that a move, cut short anywhere, leaves.
fn copies_of_a_move(n_nodes: usize, on: usize) -> Vec<Copy> {
    let mut copies = vec![
        Copy::Absent,
        Copy::Base,
        Copy::Complete,
        Copy::Owner,
        Copy::OwnerNext,
    ];
    copies.extend((0..n_nodes).filter(|to| *to != on).map(Copy::Let));
    copies
}

/// The same without who has taken over.
fn copies_before_a_cut(n_nodes: usize, on: usize) -> Vec<Copy> {
    let mut copies = copies_of_a_move(n_nodes, on);
    copies.retain(|copy| *copy != Copy::OwnerNext);
    copies
}

fn letters_of_one(copies: &[Copy], depth: Depth, sights: &[Sight]) -> Vec<Letter> {
    let mut letters = Vec::new();
    for &sight in sights {
        if matches!(sight, Sight::Silent | Sight::Lost) {
            letters.push(Letter::unseen(sight));
            continue;
        }
        for &copy in copies {
            for &run in runs_beside(copy, depth) {
                letters.push(Letter {
                    sight,
                    copies: [copy, Copy::Absent],
                    runs: [run, Run::Nothing],
                });
            }
        }
    }
    letters
}

fn letters_of_two(copies: &[Copy], depth: Depth, sights: &[Sight]) -> Vec<Letter> {
    let mut letters = Vec::new();
    for &sight in sights {
        if matches!(sight, Sight::Silent | Sight::Lost) {
            letters.push(Letter::unseen(sight));
            continue;
        }
        for &first in copies {
            for &second in copies {
                for &one in runs_beside(first, depth) {
                    for &other in runs_beside(second, depth) {
                        letters.push(Letter {
                            sight,
                            copies: [first, second],
                            runs: [one, other],
                        });
                    }
                }
            }
        }
    }
    letters
}

fn letters_with_bare(copies: &[Copy], depth: Depth, sights: &[Sight]) -> Vec<Letter> {
    let bare = [Run::Nothing, Run::Running, Run::RunningOther];
    let letters = letters_of_one(copies, depth, sights).into_iter();
    let with = letters.flat_map(|letter| {
        let n_runs = if letter == Letter::unseen(letter.sight)
            && matches!(letter.sight, Sight::Silent | Sight::Lost)
        {
            1
        } else {
            bare.len()
        };
        bare[..n_runs].iter().map(move |&run| Letter {
            runs: [letter.runs[0], run],
            ..letter
        })
    });
    with.collect()
}

/// A family in the making.
struct Draft {
    name: &'static str,
    n_nodes: usize,
    kinds: [Kind; 2],
    besides: Besides,
    symmetry: Symmetry,
    half_way: bool,
}

impl Draft {
    fn of(self, letters: impl Fn(usize) -> Vec<Letter>) -> Family {
        let Self {
            name,
            n_nodes,
            kinds,
            besides,
            symmetry,
            half_way,
        } = self;
        let wishes = wishes(n_nodes, kinds, besides);
        Family {
            name,
            letters: (0..n_nodes).map(letters).collect(),
            symmetry,
            defined: wishes[0].first.clone(),
            wishes,
            // Two nodes have no third one, and with two datasets the other way is tried.
            keeps: if n_nodes == 3 && kinds[1] == Kind::None {
                Keeps::Content
            } else {
                Keeps::Lists
            },
            half_way,
        }
    }
}

const ALL: &[Sight] = &[
    Sight::Behind,
    Sight::Begun,
    Sight::Ahead,
    Sight::Silent,
    Sight::Lost,
    Sight::Returned,
];

/// Returns every family, the smallest clusters first.
pub(crate) fn families(bound: Bound) -> Vec<Family> {
    let mut families = families_of_up_to_two_nodes(bound);
    families.extend(families_of_three_nodes(bound));
    families
}

fn families_of_up_to_two_nodes(bound: Bound) -> Vec<Family> {
    let full = bound == Bound::Full;
    let seen: &[Sight] = &[Sight::Behind, Sight::Silent];
    vec![
        Draft {
            name: "one-node",
            n_nodes: 1,
            kinds: [Kind::DataAndPort, Kind::DataAndPort],
            besides: Besides::DeletionAndUnlisted,
            symmetry: Symmetry::None,
            half_way: true,
        }
        .of(|on| {
            letters_of_two(
                &all_copies(1, on),
                if full { Depth::Stopped } else { Depth::Plain },
                if full { ALL } else { seen },
            )
        }),
        Draft {
            name: "two-nodes-one-dataset",
            n_nodes: 2,
            kinds: [Kind::Data, Kind::None],
            besides: Besides::DeletionAndUnlisted,
            symmetry: Symmetry::None,
            half_way: true,
        }
        .of(|on| {
            letters_of_one(
                &all_copies(2, on),
                if full { Depth::Everything } else { Depth::Plain },
                if full { ALL } else { seen },
            )
        }),
        Draft {
            name: "two-nodes-routes",
            n_nodes: 2,
            kinds: [Kind::DataAndPort, Kind::Bare],
            besides: Besides::Deletion,
            symmetry: Symmetry::Nodes,
            half_way: false,
        }
        .of(|on| {
            letters_with_bare(
                &copies_of_a_move(2, on),
                if full { Depth::Stopped } else { Depth::Plain },
                seen,
            )
        }),
        new_names(if full { seen } else { &seen[..1] }),
        Draft {
            name: "two-nodes-two-datasets",
            n_nodes: 2,
            kinds: [Kind::Data, Kind::Data],
            besides: Besides::Deletion,
            symmetry: Symmetry::NodesAndApplications,
            half_way: false,
        }
        .of(|on| {
            letters_of_two(
                &copies_of_a_move(2, on),
                if full { Depth::Stopped } else { Depth::Plain },
                seen,
            )
        }),
    ]
}

fn families_of_three_nodes(bound: Bound) -> Vec<Family> {
    let full = bound == Bound::Full;
    let seen: &[Sight] = &[Sight::Behind, Sight::Silent];
    let met: &[Sight] = &[Sight::Behind, Sight::Begun, Sight::Silent, Sight::Lost];
    let mut families = vec![
        Draft {
            name: "three-nodes-one-dataset",
            n_nodes: 3,
            kinds: [Kind::Data, Kind::None],
            besides: Besides::Deletion,
            symmetry: Symmetry::Nodes,
            half_way: false,
        }
        .of(|on| {
            if full {
                letters_of_one(&all_copies(3, on), Depth::Stopped, met)
            } else {
                letters_of_one(&copies_of_a_move(3, on), Depth::Plain, seen)
            }
        }),
    ];
    if full {
        families.push(
            Draft {
                name: "three-nodes-two-datasets",
                n_nodes: 3,
                kinds: [Kind::Data, Kind::Data],
                besides: Besides::Nothing,
                symmetry: Symmetry::NodesAndApplications,
                half_way: false,
            }
            .of(|on| letters_of_two(&copies_before_a_cut(3, on), Depth::Plain, seen)),
        );
        families.push(
            Draft {
                name: "three-nodes-routes",
                n_nodes: 3,
                kinds: [Kind::DataAndPort, Kind::Bare],
                besides: Besides::Nothing,
                symmetry: Symmetry::Nodes,
                half_way: false,
            }
            .of(|on| {
                letters_with_bare(
                    &[
                        Copy::Absent,
                        Copy::Owner,
                        Copy::Let((on + 1) % 3),
                        Copy::Let((on + 2) % 3),
                    ],
                    Depth::Plain,
                    seen,
                )
            }),
        );
    }
    families
}

fn new_names(sights: &[Sight]) -> Family {
    let wishes = wishes_of_new_names(2);
    let both = wishes.iter().find(|wish| wish.first.applications().len() == 2);
    Family {
        name: "two-nodes-new-names",
        letters: (0..2)
            .map(|on| letters_of_two(&copies_of_a_move(2, on), Depth::Plain, sights))
            .collect(),
        symmetry: Symmetry::Nodes,
        defined: both.unwrap().first.clone(),
        wishes,
        keeps: Keeps::Lists,
        half_way: false,
    }
}
