//! How the operator's command gets at nodes: at those on this machine by their sockets, at the others by SSH.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use flocker_backends::Change;
use flocker_backends::Channel;
use flocker_backends::Purpose;
use flocker_backends::Transport;
use flocker_backends::TransportError;
use flocker_backends::transport::local::LocalTransport;
use flocker_backends::transport::ssh::SshTransport;
use flocker_engine::clock;
use flocker_model::NodeAddress;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::examine::Closely;
use super::examine::Examination;
use super::examine::Request;
use super::introduction;
use super::introduction::Answer;
use super::introduction::Introduction;
use super::prepare::Asked;
use super::prepare::Deed;
use super::prepare::Preparation;
use super::prepare::Progress;
use super::settings::Wanted;

/// How long a node may take to be put together and to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// How long it may take to install what a node needs, with waiting for who installs something else.
const INSTALLATION: Duration = Duration::from_secs(2400);

/// How long a node that is being made ready may say nothing.
const SILENCE: Duration = Duration::from_secs(150);

/// How long a pipe that was opened ahead, or the reason why none could be, is good for.
const FRESH: Duration = Duration::from_secs(8);

/// What came of opening a pipe ahead, and when.
type Opened = (Instant, Result<Channel, TransportError>);

/// The ways to all nodes.
pub(crate) struct Ways {
    ssh: SshTransport,
    /// What the files say of the nodes.
    wanted: BTreeMap<NodeAddress, Wanted>,
    ahead: Mutex<BTreeMap<NodeAddress, Opened>>,
}

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ways")
            .field("ssh", &self.ssh)
            .finish_non_exhaustive()
    }
}

impl Ways {
    pub(crate) fn new(ssh: SshTransport, wanted: BTreeMap<NodeAddress, Wanted>) -> Self {
        Self {
            ssh,
            wanted,
            ahead: Mutex::default(),
        }
    }

    /// Goes to all nodes at the same time, before anything waits for one of them.
    ///
    /// Where our program has to be copied first, that takes as long as it
    /// takes; a look at the nodes has less patience. What came of it is for
    /// whoever opens a pipe next, so nobody waits twice for a node that is not there.
    pub(crate) async fn go_ahead(self: std::sync::Arc<Self>) {
        let mut going = JoinSet::new();
        for address in self.wanted.keys().cloned() {
            let ways = std::sync::Arc::clone(&self);
            going.spawn(async move {
                let opened = ways.talk(&address).await;
                (address, opened)
            });
        }
        while let Some(done) = going.join_next().await {
            if let Ok((address, opened)) = done {
                let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
                ahead.insert(address, (clock::now(), opened));
            }
        }
    }

    /// Finds out whether a machine could be a node, and what is in its way.
    pub(crate) async fn examine(
        &self,
        node: &NodeAddress,
        closely: &Closely,
    ) -> Result<Examination, TransportError> {
        let request = Request {
            wanted: self.wanted.get(node).cloned(),
            closely: closely.clone(),
        };
        let introduction = Introduction::Examine(request);
        let (answer, _) = self.introduce(node, introduction, ANSWER).await?;
        match answer {
            Answer::Examined(examination) => Ok(examination),
            Answer::Ready
            | Answer::Settled(_)
            | Answer::Preparing(_)
            | Answer::Prepared(_)
            | Answer::Failed { .. } => Err(refused(node, answer)),
        }
    }

    /// Makes a machine ready to be a node, or finds out what that would take. How far it is, is told meanwhile.
    ///
    /// Given up half way, the machine goes on with what was asked of it.
    pub(crate) async fn prepare(
        &self,
        node: &NodeAddress,
        asked: &Asked,
        mut tell: impl FnMut(&Progress),
    ) -> Result<Vec<Deed>, TransportError> {
        let preparation = Preparation {
            wanted: self.wanted.get(node).cloned(),
            asked: asked.clone(),
        };
        let introduction = Introduction::Prepare(preparation);
        let (mut answer, mut channel) = self.introduce(node, introduction, SILENCE).await?;
        let end = clock::now() + INSTALLATION;
        loop {
            match answer {
                Answer::Preparing(progress) => tell(&progress),
                Answer::Prepared(deeds) => return Ok(deeds),
                Answer::Ready | Answer::Examined(_) | Answer::Settled(_) | Answer::Failed { .. } => {
                    return Err(refused(node, answer));
                }
            }
            let left = end.saturating_duration_since(clock::now());
            answer = in_time(node, left.min(SILENCE), next_answer(&mut channel)).await?;
        }
    }

    /// Has a node do at boot what the deployment file says; nothing is asked where that says nothing.
    pub(crate) async fn settle_boot(&self, node: &NodeAddress) -> Result<Change, TransportError> {
        let Some(wanted) = self
            .wanted
            .get(node)
            .filter(|wanted| wanted.setup.at_boot.is_some())
        else {
            return Ok(Change::AlreadySo);
        };
        let introduction = Introduction::SettleBoot(wanted.clone());
        // systemd may read all units anew, and that twice.
        let (answer, _) = self.introduce(node, introduction, SILENCE).await?;
        match answer {
            Answer::Settled(change) => Ok(change),
            Answer::Ready
            | Answer::Examined(_)
            | Answer::Preparing(_)
            | Answer::Prepared(_)
            | Answer::Failed { .. } => Err(refused(node, answer)),
        }
    }

    async fn talk(&self, node: &NodeAddress) -> Result<Channel, TransportError> {
        let wanted = self.wanted.get(node).cloned();
        let (answer, channel) = self.introduce(node, Introduction::Talk(wanted), ANSWER).await?;
        match answer {
            Answer::Ready => Ok(channel),
            Answer::Examined(_)
            | Answer::Settled(_)
            | Answer::Preparing(_)
            | Answer::Prepared(_)
            | Answer::Failed { .. } => Err(refused(node, answer)),
        }
    }

    async fn introduce(
        &self,
        node: &NodeAddress,
        introduction: Introduction,
        patience: Duration,
    ) -> Result<(Answer, Channel), TransportError> {
        let mut channel = self.ssh.open(node, Purpose::Control).await?;
        let greeted = in_time(node, patience, async {
            let line = introduction::written(&introduction)?;
            channel.write_all(&line).await?;
            channel.flush().await?;
            next_answer(&mut channel).await
        });
        let answer = greeted.await?;
        Ok((answer, channel))
    }

    fn opened_ahead(&self, node: &NodeAddress) -> Option<Result<Channel, TransportError>> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, opened) = ahead.remove(node)?;
        (when.elapsed() < FRESH).then_some(opened)
    }
}

/// Reads one answer. What follows its line is the node's, and not for us.
async fn next_answer(channel: &mut Channel) -> io::Result<Answer> {
    let mut line = Vec::new();
    loop {
        match channel.read_u8().await? {
            b'\n' => break,
            byte => line.push(byte),
        }
        if line.len() > introduction::LONGEST {
            return Err(io::Error::other("it says too much"));
        }
    }
    Ok(introduction::read::<Answer>(&line)?)
}

/// Waits for what a node says, for so long.
async fn in_time(
    node: &NodeAddress,
    patience: Duration,
    said: impl Future<Output = io::Result<Answer>>,
) -> Result<Answer, TransportError> {
    match tokio::time::timeout(patience, said).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(TransportError::Unreachable {
            address: format!("`{}`", host(node)),
            source,
        }),
        Err(_) => Err(TransportError::Late {
            host: host(node),
            what: "the answer",
            after: patience,
        }),
    }
}

/// Returns the name or address under which SSH reaches a node.
pub(crate) fn host(node: &NodeAddress) -> String {
    match node {
        NodeAddress::Ssh { host, .. } => host.clone(),
        NodeAddress::Local { directory } => directory.display().to_string(),
    }
}

fn refused(node: &NodeAddress, answer: Answer) -> TransportError {
    let said = match answer {
        Answer::Ready
        | Answer::Examined(_)
        | Answer::Settled(_)
        | Answer::Preparing(_)
        | Answer::Prepared(_) => "it answers something else than was asked".to_owned(),
        Answer::Failed {
            message,
            causes,
            hint,
        } => {
            let hint = hint.map(|hint| format!("({hint})"));
            let sentences = std::iter::once(message).chain(causes);
            let mut said = sentences.collect::<Vec<_>>().join(": ");
            if let Some(hint) = hint {
                said = format!("{said} {hint}");
            }
            said
        }
    };
    TransportError::NotANode {
        host: host(node),
        said,
    }
}

#[async_trait]
impl Transport for Ways {
    /// Opens a pipe to a node. Bulk data goes the same way: it is how the operator relays it.
    async fn open(&self, node: &NodeAddress, purpose: Purpose) -> Result<Channel, TransportError> {
        match node {
            NodeAddress::Local { .. } => LocalTransport.open(node, purpose).await,
            NodeAddress::Ssh { .. } => match (purpose, self.opened_ahead(node)) {
                (Purpose::Control, Some(opened)) => opened,
                (Purpose::Control | Purpose::Transfer, _) => self.talk(node).await,
            },
        }
    }
}
