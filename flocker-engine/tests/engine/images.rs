//! Images that a node cannot get by itself come from a node that has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::ByteStream;
use flocker_backends::Change;
use flocker_backends::ContainerRuntime;
use flocker_backends::ContainerSpec;
use flocker_backends::ImageId;
use flocker_backends::ImageStore;
use flocker_backends::LogRequest;
use flocker_backends::RuntimeError;
use flocker_backends::memory::MemoryVolumes;
use flocker_backends::transport::direct;
use flocker_backends::transport::direct::Doorstep;
use flocker_backends::transport::direct::TransferKey;
use flocker_engine::Carrier;
use flocker_engine::Ending;
use flocker_engine::Event;
use flocker_engine::Execution;
use flocker_engine::ImageCargo;
use flocker_engine::NodeHandle as _;
use flocker_engine::Report;
use flocker_engine::Stop;
use flocker_engine::execute;
use flocker_engine::wire::Greeting;
use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::ByteSize;
use flocker_model::ContainerState;
use flocker_model::Deployment;
use flocker_model::Generation;
use flocker_model::Image;
use flocker_model::NodeId;
use flocker_plan::Action;
use flocker_plan::Needs;
use flocker_plan::Plan;
use flocker_plan::Reason;
use flocker_plan::Step;
use tokio::io::AsyncReadExt as _;

use crate::cluster::OPERATOR;
use crate::cluster::Recorder;
use crate::cluster::app;
use crate::cluster::directory;
use crate::cluster::execution;
use crate::cluster::name;
use crate::machines::LOOPBACK;
use crate::machines::Machines;
use crate::machines::noise;
use crate::protocol::Raw;

/// A runtime that has images and can do nothing but prepare what is made from one of them.
#[derive(Debug, Default)]
struct Shelf {
    images: Mutex<BTreeMap<Image, Vec<u8>>>,
    /// What it gives away in place of what it has.
    lie: Option<Vec<u8>>,
}

fn id(bytes: &[u8]) -> ImageId {
    let sum = bytes.iter().fold(7_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add((*byte).into())
    });
    format!("sha256:{sum:064x}").parse().unwrap()
}

impl Shelf {
    fn with(image: &Image, bytes: &[u8]) -> Self {
        let shelf = Self::default();
        shelf.images.lock().unwrap().insert(image.clone(), bytes.to_vec());
        shelf
    }

    fn get(&self, image: &Image) -> Option<Vec<u8>> {
        self.images.lock().unwrap().get(image).cloned()
    }
}

#[async_trait]
impl ContainerRuntime for Shelf {
    async fn list(&self) -> Result<BTreeMap<ApplicationName, ContainerState>, RuntimeError> {
        Ok(BTreeMap::new())
    }

    async fn prepare(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        match self.get(&spec.application.image) {
            Some(_) => Ok(Change::Made),
            None => Err(RuntimeError::NoImage {
                application: spec.name.clone(),
                reason: "nobody gives it".into(),
            }),
        }
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Change, RuntimeError> {
        self.prepare(spec).await
    }

    async fn stop(&self, _: &ApplicationName, _: Duration) -> Result<Change, RuntimeError> {
        Ok(Change::AlreadySo)
    }

    async fn logs(&self, application: &ApplicationName, _: LogRequest) -> Result<ByteStream, RuntimeError> {
        let application = application.clone();
        Err(RuntimeError::NotHere { application })
    }

    fn images(&self) -> Option<&dyn ImageStore> {
        Some(self)
    }
}

#[async_trait]
impl ImageStore for Shelf {
    async fn present(&self, image: &Image) -> Result<Option<ImageId>, RuntimeError> {
        Ok(self.get(image).map(|bytes| id(&bytes)))
    }

    fn export(&self, image: &Image) -> ByteStream {
        let bytes = self.lie.clone().or_else(|| self.get(image));
        Box::pin(std::io::Cursor::new(bytes.unwrap_or_default()))
    }

    async fn import(
        &self,
        image: &Image,
        announced: &ImageId,
        mut stream: ByteStream,
    ) -> Result<Change, RuntimeError> {
        let failed = |source| RuntimeError::Io {
            what: "take in an image".into(),
            source,
        };
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.map_err(failed)?;
        if id(&bytes) != *announced {
            return Err(failed(std::io::ErrorKind::InvalidData.into()));
        }
        self.images.lock().unwrap().insert(image.clone(), bytes);
        Ok(Change::Made)
    }
}

fn rare() -> Image {
    "rare:1".parse().unwrap()
}

/// What became of an order to beta to prepare what is made from the image.
struct Prepared {
    report: Report,
    events: Vec<Event>,
    /// How many bytes the operator has sent to beta.
    n_relayed: u64,
}

/// Has beta prepare what is made from the image, with these runtimes on alpha and on beta.
async fn prepare_on_beta(alpha: Arc<Shelf>, beta: Arc<Shelf>) -> (Report, Vec<Event>) {
    let prepared = prepare(alpha, beta, None, None).await;
    (prepared.report, prepared.events)
}

/// The same, with a doorstep on beta if images may come in directly, and with a limit of bandwidth.
async fn prepare(
    alpha: Arc<Shelf>,
    beta: Arc<Shelf>,
    doorstep: Option<Doorstep>,
    bandwidth: Option<ByteSize>,
) -> Prepared {
    let mut machines = Machines::new();
    let volumes = |node| Arc::new(MemoryVolumes::new(name(node)));
    machines.add_with_runtime("alpha", volumes("alpha"), alpha, None);
    machines.add_with_runtime("beta", volumes("beta"), beta, doorstep);
    let application = Application::new(rare());
    let key = machines.node("beta").observe().await.unwrap().key;
    let step = Step {
        actor: name("beta"),
        action: Action::Prepare {
            application: app("sleeper"),
            definition: application.definition_hash(&key),
        },
        reason: Arc::new(Reason::Starts {
            application: app("sleeper"),
            on: name("beta"),
        }),
        needs: Needs::default(),
    };
    let plan = Plan::new(Generation(1), vec![step], Vec::new(), Vec::new(), Vec::new());
    let desired = Deployment::builder().application(app("sleeper"), application);
    let recorder = Recorder::default();
    let ids = ["alpha", "beta"].map(|node| (name(node), machines.node(node).id()));
    let execution = Execution {
        ids: BTreeMap::<_, NodeId>::from(ids),
        bandwidth,
        ..execution(&recorder, Stop::never())
    };
    let report = execute(&plan, &desired.build().unwrap(), &machines.handles, &execution).await;
    Prepared {
        report,
        events: recorder.events(),
        n_relayed: machines.network.carried(OPERATOR, directory("beta")),
    }
}

fn carriers(events: &[Event]) -> Vec<Carrier> {
    let carrier = |event: &Event| match event {
        Event::StepCarried { by, .. } => Some(*by),
        _ => None,
    };
    events.iter().filter_map(carrier).collect()
}

fn is_done(report: &Report) -> bool {
    report
        .steps
        .iter()
        .all(|step| matches!(step.ending, Ending::Done(_)))
}

#[tokio::test]
async fn an_image_is_brought_from_a_node_that_has_it_and_its_bytes_are_told() {
    let bytes = noise(3_000_000);
    let beta = Arc::new(Shelf::default());
    let (report, events) = prepare_on_beta(Arc::new(Shelf::with(&rare(), &bytes)), Arc::clone(&beta)).await;
    assert!(is_done(&report), "{report:?}");
    assert_eq!(beta.get(&rare()), Some(bytes.clone()));
    let brought = events.iter().find_map(|event| match event {
        Event::ImageBrought { image, id, from, .. } => Some((image.clone(), id.clone(), from.clone())),
        _ => None,
    });
    assert_eq!(brought, Some((rare(), id(&bytes), name("alpha"))));
    let told = events.iter().rev().find_map(|event| match event {
        Event::StepProgress { done, .. } => Some(*done),
        _ => None,
    });
    assert_eq!(told, Some(ByteSize(3_000_000)));
}

#[tokio::test]
async fn an_image_that_is_there_is_not_brought_again() {
    let beta = Arc::new(Shelf::with(&rare(), b"its own"));
    let (report, events) =
        prepare_on_beta(Arc::new(Shelf::with(&rare(), b"another")), Arc::clone(&beta)).await;
    assert!(is_done(&report), "{report:?}");
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::ImageBrought { .. }))
    );
    assert_eq!(beta.get(&rare()).as_deref(), Some(&b"its own"[..]));
}

#[tokio::test]
async fn what_arrives_has_to_be_what_was_announced() {
    let mut alpha = Shelf::with(&rare(), b"what it says it is");
    alpha.lie = Some(b"something else".to_vec());
    let beta = Arc::new(Shelf::default());
    let (report, _) = prepare_on_beta(Arc::new(alpha), Arc::clone(&beta)).await;
    assert!(!is_done(&report), "{report:?}");
    assert_eq!(beta.get(&rare()), None);
}

#[tokio::test]
async fn what_no_node_has_fails_as_before() {
    let (report, events) = prepare_on_beta(Arc::new(Shelf::default()), Arc::new(Shelf::default())).await;
    assert!(!is_done(&report), "{report:?}");
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::ImageBrought { .. }))
    );
}

#[tokio::test]
async fn between_machines_an_image_goes_directly_and_not_through_the_operator() {
    let bytes = noise(3_000_000);
    let alpha = Arc::new(Shelf::with(&rare(), &bytes));
    let beta = Arc::new(Shelf::default());
    let prepared = prepare(alpha, Arc::clone(&beta), Some(Doorstep::new(LOOPBACK)), None).await;
    assert!(is_done(&prepared.report), "{:?}", prepared.report);
    assert_eq!(beta.get(&rare()), Some(bytes));
    assert_eq!(carriers(&prepared.events), [Carrier::DirectTls]);
    assert!(prepared.n_relayed < 100_000, "{} bytes", prepared.n_relayed);
}

#[tokio::test]
async fn an_image_goes_through_the_operator_where_nobody_opens_or_nobody_answers() {
    let mut dead = Doorstep::new(LOOPBACK);
    dead.reached_at = [127, 0, 0, 3].into();
    for doorstep in [None, Some(dead)] {
        let bytes = noise(3_000_000);
        let alpha = Arc::new(Shelf::with(&rare(), &bytes));
        let beta = Arc::new(Shelf::default());
        let prepared = prepare(alpha, Arc::clone(&beta), doorstep, None).await;
        assert!(is_done(&prepared.report), "{:?}", prepared.report);
        assert_eq!(beta.get(&rare()), Some(bytes));
        assert_eq!(carriers(&prepared.events), [Carrier::Relay]);
        assert!(prepared.n_relayed > 3_000_000, "{} bytes", prepared.n_relayed);
    }
}

#[tokio::test]
async fn an_image_keeps_to_the_limit_of_bandwidth_directly_and_through_the_operator() {
    for doorstep in [Some(Doorstep::new(LOOPBACK)), None] {
        let alpha = Arc::new(Shelf::with(&rare(), &noise(1_000_000)));
        let began = tokio::time::Instant::now();
        let limit = Some(ByteSize(2_000_000));
        let prepared = prepare(alpha, Arc::new(Shelf::default()), doorstep, limit).await;
        assert!(is_done(&prepared.report), "{:?}", prepared.report);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(450), "{took:?}");
    }
}

#[tokio::test]
async fn what_comes_directly_has_to_be_what_was_announced_too() {
    let mut alpha = Shelf::with(&rare(), b"what it says it is");
    alpha.lie = Some(b"something else".to_vec());
    let beta = Arc::new(Shelf::default());
    let doorstep = Some(Doorstep::new(LOOPBACK));
    let prepared = prepare(Arc::new(alpha), Arc::clone(&beta), doorstep, None).await;
    assert!(!is_done(&prepared.report), "{:?}", prepared.report);
    assert_eq!(beta.get(&rare()), None);
}

#[tokio::test]
async fn by_the_door_of_an_image_only_that_image_comes_in() {
    let mut machines = Machines::new();
    let beta = Arc::new(Shelf::default());
    let volumes = Arc::new(MemoryVolumes::new(name("beta")));
    let doorstep = Some(Doorstep::new(LOOPBACK));
    machines.add_with_runtime("beta", volumes, Arc::<Shelf>::clone(&beta), doorstep);
    let remote = machines.remote("beta");
    let key = TransferKey::draw().unwrap();
    let announced = ImageCargo {
        image: rare(),
        id: id(b"the one"),
    };
    let other = ImageCargo {
        image: "common:1".parse().unwrap(),
        id: id(b"the other"),
    };
    for (greeting, said) in [
        (Greeting::Image, &other),
        (Greeting::Transfer, &announced),
        (Greeting::Control, &announced),
    ] {
        let door = remote.admit_image(&announced, key.pin()).await.unwrap();
        let door = door.expect("a door is open");
        let channel = direct::connect(&door, &key, Duration::from_secs(5)).await;
        let mut raw = Raw::greet_as(channel.unwrap(), greeting).await;
        raw.say(said).await;
        assert_eq!(raw.next().await, None, "{greeting:?}");
    }
    assert!(beta.images.lock().unwrap().is_empty());
}
