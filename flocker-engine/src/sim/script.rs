//! What an operator wants, stage after stage, and what goes wrong meanwhile: all of it thrown from one seed.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::EnvironmentValue;
use flocker_model::ExternalPort;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use flocker_model::Image;
use flocker_model::Member;
use flocker_model::NodeName;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::Protocol;
use flocker_model::RestartPolicy;
use flocker_model::Volume;
use flocker_plan::Policy;
use flocker_plan::StopAll;
use uuid::Uuid;

use super::cluster::Layout;
use super::cluster::Reach;
use super::cluster::address;
use super::dice::Dice;
use super::mishap::Mishap;
use super::mishap::Planned;
use super::mishap::When;

/// How many applications a simulated cluster has at most.
pub const MAX_APPLICATIONS: usize = 4;

const NODES: [&str; 4] = ["alpha", "beta", "delta", "gamma"];

/// Returns the name of a node by its number.
///
/// # Panics
///
/// Never: all of them are names.
#[must_use]
pub fn node(number: usize) -> NodeName {
    let name = NODES[number % NODES.len()];
    name.parse().expect("it is a name")
}

/// Returns the name of an application by its number.
///
/// # Panics
///
/// Never: all of them are names.
#[must_use]
pub fn application(number: usize) -> ApplicationName {
    format!("app-{number}").parse().expect("it is a name")
}

/// Returns the port under which every node offers an application. The first two have one number, and two protocols.
#[must_use]
pub fn external_port(number: usize) -> Option<ExternalPort> {
    let shared = u16::try_from(number.saturating_sub(1)).ok()?;
    let protocol = if number == 0 { Protocol::Udp } else { Protocol::Tcp };
    let number = PortNumber::new(1001 + shared)?;
    Some(ExternalPort { number, protocol })
}

/// What is wanted of one application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// On which node it is to run, if on one.
    pub home: Option<usize>,
    /// Which definition of it.
    pub version: u32,
    /// How large its data may grow.
    pub maximum_size: Option<ByteSize>,
    /// Which data: another number after the old was deleted.
    pub incarnation: u32,
}

impl Wish {
    /// Returns a first wish.
    #[must_use]
    pub fn at(home: Option<usize>) -> Self {
        Self {
            home,
            version: 1,
            maximum_size: None,
            incarnation: 0,
        }
    }

    fn dataset(&self, number: usize) -> DatasetId {
        let number = u128::try_from(number).unwrap_or(0);
        DatasetId(Uuid::from_u128(
            0xda7a_0000_0000 + (number << 8) + u128::from(self.incarnation),
        ))
    }
}

/// What is wanted of a whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// The applications, by number.
    pub applications: Vec<Wish>,
    /// The data that is to be deleted.
    pub deleted: BTreeSet<DatasetId>,
    /// A node that is not to be a member.
    pub without: Option<usize>,
}

impl Wishes {
    /// Returns wishes for applications at these homes.
    #[must_use]
    pub fn at(homes: &[Option<usize>]) -> Self {
        Self {
            applications: homes.iter().map(|home| Wish::at(*home)).collect(),
            deleted: BTreeSet::new(),
            without: None,
        }
    }

    /// Returns the data of an application.
    #[must_use]
    pub fn dataset(&self, number: usize) -> Option<DatasetId> {
        Some(self.applications.get(number)?.dataset(number))
    }

    /// Asks for the data of an application to be deleted; when it comes back, it is with other data.
    pub fn delete(&mut self, number: usize) {
        let wish = &mut self.applications[number];
        wish.home = None;
        self.deleted.insert(wish.dataset(number));
        wish.incarnation += 1;
    }

    /// Returns the deployment that says so.
    ///
    /// # Panics
    ///
    /// Where data is both to be used and to be deleted.
    #[must_use]
    pub fn deployment(&self, nodes: &[NodeName]) -> Deployment {
        let mut builder = Deployment::builder();
        for (number, name) in nodes.iter().enumerate() {
            if self.without != Some(number) {
                let member = Member {
                    address: Some(address(name)),
                    ..Member::empty()
                };
                builder = builder.node(name.clone(), member);
            }
        }
        for (number, wish) in self.applications.iter().enumerate() {
            let name = application(number);
            builder = builder.application(name.clone(), definition(number, wish));
            if let Some(node) = wish.home.and_then(|home| nodes.get(home)) {
                builder = builder.place(&name, node);
            }
        }
        for dataset in &self.deleted {
            builder = builder.delete(*dataset);
        }
        builder.build().expect("what is thrown is valid")
    }
}

/// Returns the definition of an application that is wished for.
fn definition(number: usize, wish: &Wish) -> Application {
    let image: Image = format!("image-{number}:1").parse().expect("it is an image");
    let mut application = Application::new(image);
    application.volume = Some(Volume {
        dataset: wish.dataset(number),
        mountpoint: "/data".into(),
        maximum_size: wish.maximum_size,
    });
    let internal = PortNumber::new(80).expect("it is a port");
    if let Some(external) = external_port(number) {
        application.ports = [Port { internal, external }].into();
    }
    let version = EnvironmentValue::Plain(wish.version.to_string().into());
    application.environment.insert("VERSION".into(), version);
    if number % 2 == 1 {
        application.restart_policy = RestartPolicy::Always;
        application.health_check = Some(Box::new(HealthCheck {
            probe: HealthProbe::Tcp { port: internal },
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            retries: NonZeroU32::MIN,
        }));
    }
    if number == 2 {
        application.depends_on = [self::application(0)].into();
    }
    application
}

/// One stage: what is wanted, and how it is asked for.
#[derive(Clone, Debug)]
pub struct Stage {
    /// What is wanted.
    pub wishes: Wishes,
    /// In words.
    pub what: String,
    /// How often the command is given, at most, before the next stage.
    pub tries: usize,
    /// After how many effects of this stage the operator changes their mind, if at all.
    pub change_of_mind: Option<u64>,
    /// How much time passes on the nodes' own clocks afterwards.
    pub pause: Duration,
    /// Whether everything is repaired afterwards.
    pub repaired: bool,
    /// A node that is lost in this stage, forgotten, and comes back after it.
    pub lost: Option<usize>,
}

/// How bad things may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything is repaired in the end, and the cluster must come to rest as desired.
    Repairable,
    /// Nothing needs to be repaired; only safety is checked.
    Unlimited,
}

/// Which clusters and which histories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One to four nodes, up to four applications, and whatever people do with them.
    Mixed,
    /// Three nodes and one application, which moves.
    Move,
}

/// Everything that one seed decides.
#[derive(Clone, Debug)]
pub struct Script {
    /// The cluster.
    pub layout: Layout,
    /// What is allowed.
    pub policy: Policy,
    /// What is wanted, one after the other.
    pub stages: Vec<Stage>,
    /// What goes wrong.
    pub mishaps: Vec<Planned>,
    /// How much an application writes at once at most.
    pub bulk: usize,
}

impl Script {
    /// Throws a script.
    #[must_use]
    pub fn of(seed: u64, mode: Mode, shape: Shape) -> Self {
        match shape {
            Shape::Mixed => Self::mixed(seed, mode),
            Shape::Move => Self::one_move(seed, mode),
        }
    }

    /// Three nodes; one application is placed, and moves once or twice.
    fn one_move(seed: u64, mode: Mode) -> Self {
        const NODES: usize = 3;
        let dice = &mut Dice::new(seed, 4);
        let layout = Layout {
            nodes: (0..NODES).map(node).collect(),
            reach: if dice.says(1, 8) {
                Reach::Protocol
            } else {
                Reach::Calls
            },
            blurred: dice.says(1, 4),
            twice: dice.says(1, 8),
            seed,
        };
        let first = dice.below(NODES);
        let mut wishes = Wishes::at(&[Some(first)]);
        let mut stages = vec![stage(dice, mode, wishes.clone(), "place".into())];
        let mut at = first;
        for _ in 0..=usize::from(dice.says(1, 4)) {
            at = (at + 1 + dice.below(NODES - 1)) % NODES;
            if let Some(wish) = wishes.applications.first_mut() {
                wish.home = Some(at);
            }
            stages.push(stage(dice, mode, wishes.clone(), "move".into()));
        }
        let dice = &mut Dice::new(seed, 2);
        let n_mishaps = match mode {
            Mode::Repairable => dice.below(4),
            Mode::Unlimited => 1 + dice.below(6),
        };
        Self {
            layout,
            policy: Policy {
                stop_all: StopAll::Allow,
                ..Policy::default()
            },
            stages,
            mishaps: mishaps(dice, n_mishaps, 12),
            bulk: 16_000,
        }
    }

    fn mixed(seed: u64, mode: Mode) -> Self {
        let dice = &mut Dice::new(seed, 1);
        let n_nodes = 1 + dice.below(4);
        let n_applications = 1 + dice.below(MAX_APPLICATIONS);
        let layout = Layout {
            nodes: (0..n_nodes).map(node).collect(),
            reach: if dice.says(1, 3) {
                Reach::Protocol
            } else {
                Reach::Calls
            },
            blurred: dice.says(1, 4),
            twice: dice.says(1, 3),
            seed,
        };
        let mut policy = Policy {
            stop_all: StopAll::Allow,
            ..Policy::default()
        };
        if dice.says(1, 3) {
            policy.grace = Duration::ZERO;
        }
        let first: Vec<Option<usize>> = (0..n_applications)
            .map(|_| dice.says(4, 5).then(|| dice.below(n_nodes)))
            .collect();
        let mut wishes = Wishes::at(&first);
        let mut stages = vec![stage(dice, mode, wishes.clone(), "place".into())];
        for _ in 0..=dice.below(5) {
            let what = change(dice, &mut wishes, n_nodes);
            let mut next = stage(dice, mode, wishes.clone(), what);
            if n_nodes > 1 && dice.says(1, 12) {
                let lost = dice.below(n_nodes);
                if next
                    .wishes
                    .applications
                    .iter()
                    .all(|wish| wish.home != Some(lost))
                {
                    next.wishes.without = Some(lost);
                    next.lost = Some(lost);
                    next.change_of_mind = None;
                }
            }
            stages.push(next);
        }
        Self {
            layout,
            policy,
            stages,
            mishaps: {
                let dice = &mut Dice::new(seed, 2);
                let n_mishaps = match mode {
                    Mode::Repairable => dice.below(7),
                    Mode::Unlimited => 2 + dice.below(14),
                };
                mishaps(dice, n_mishaps, 18)
            },
            bulk: 40_000,
        }
    }
}

fn stage(dice: &mut Dice, mode: Mode, wishes: Wishes, what: String) -> Stage {
    Stage {
        wishes,
        what,
        tries: 1 + dice.below(3),
        change_of_mind: dice.says(1, 4).then(|| 1 + dice.throw() % 20),
        pause: Duration::from_secs([0, 60, 8 * 24 * 3600][dice.below(3)]),
        repaired: mode == Mode::Repairable && dice.says(1, 2),
        lost: None,
    }
}

/// Changes what is wanted, in one of the ways in which people do.
fn change(dice: &mut Dice, wishes: &mut Wishes, n_nodes: usize) -> String {
    let n = wishes.applications.len();
    let number = dice.below(n);
    let other = dice.below(n);
    match dice.below(10) {
        0..=2 => {
            wishes.applications[number].home = Some(dice.below(n_nodes));
            format!("move {}", application(number))
        }
        3 => {
            let home = wishes.applications[number].home;
            wishes.applications[number].home = wishes.applications[other].home;
            wishes.applications[other].home = home;
            format!("swap {} and {}", application(number), application(other))
        }
        4 => {
            for wish in &mut wishes.applications {
                wish.home = wish.home.map(|home| (home + 1) % n_nodes);
            }
            "rotate".into()
        }
        5 => {
            wishes.applications[number].home = None;
            format!("remove {}", application(number))
        }
        6 => {
            for wish in wishes.applications.iter_mut().filter(|wish| wish.home.is_none()) {
                wish.home = Some(dice.below(n_nodes));
            }
            "add again what was removed".into()
        }
        7 => {
            wishes.applications[number].version += 1;
            format!("change {}", application(number))
        }
        8 => {
            let wish = &mut wishes.applications[number];
            wish.maximum_size = [None, Some(ByteSize(1 << 20)), Some(ByteSize(2 << 20))][dice.below(3)];
            format!("resize {}", application(number))
        }
        _ if dice.says(1, 3) => {
            wishes.delete(number);
            format!("delete the data of {}", application(number))
        }
        _ => {
            let wish = &mut wishes.applications[number];
            wish.home = Some(dice.below(n_nodes));
            wish.version += 1;
            format!("move and change {}", application(number))
        }
    }
}

/// Throws what goes wrong. It is thrown apart from everything else, so that a mishap can be left out by itself.
fn mishaps(dice: &mut Dice, n_mishaps: usize, apart: u64) -> Vec<Planned> {
    let mut at = 0;
    let mut planned = Vec::new();
    for _ in 0..n_mishaps {
        at += 1 + dice.throw() % apart;
        let mishap = mishap(dice);
        planned.push(Planned { at, mishap });
    }
    planned
}

fn mishap(dice: &mut Dice) -> Mishap {
    let when = if dice.says(1, 2) {
        When::Before
    } else {
        When::After
    };
    let after = [None, Some(0), Some(5), Some(100)][dice.below(4)];
    let far = dice.below(3);
    let small = u32::try_from(dice.below(50)).unwrap_or(0);
    let large = u32::try_from(dice.below(60_000)).unwrap_or(0);
    match dice.below(30) {
        0 | 1 => Mishap::PowerLoss(when, after),
        2 | 3 => Mishap::ProcessKill(when, after),
        4 => Mishap::OtherPowerLoss(far, after),
        5 => Mishap::OtherReboot(far),
        6 | 7 => Mishap::CommandKill(when),
        8 => Mishap::LostReply,
        9 => Mishap::Failure,
        10 => Mishap::NoRoom,
        11 => Mishap::SmallDisk(large),
        12 => Mishap::Hang,
        13 => Mishap::Slow(small),
        14 => Mishap::SlowNode(1 + small % 4),
        15 => Mishap::Cut,
        16 => Mishap::CutAfter(far, large),
        17 => Mishap::Damage(large),
        18 => Mishap::Truncation(large),
        19 => Mishap::Parting(far, after),
        20 => Mishap::PartingFromOperator(after),
        21 => Mishap::Sickness(after),
        22 if dice.says(1, 2) => Mishap::SecondCommand,
        22 => Mishap::OlderCommand,
        23 => Mishap::StaleOrder,
        24 | 25 => Mishap::LateOrders,
        26 => Mishap::StaleLook,
        27 => Mishap::HiddenLook,
        28 => Mishap::BrokenList(1 + small % 3),
        _ => Mishap::ClockJump(large / 100),
    }
}
