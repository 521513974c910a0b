//! Writes a deployment as the two files that [`super::load`] reads.
//!
//! What is written reads back as the same deployment, whatever its texts
//! hold. Three things have no place in the files: the values of secrets (a
//! known source is written instead, an unknown one is a comment), the
//! addresses of local nodes, and the datasets that are to be deleted.

use std::fmt;
use std::fmt::Write as _;

use super::draft::SecretSource;
use super::load::SecretSources;
use super::quantity::Written;
use super::yaml::Kind;
use super::yaml::kind_of;
use crate::application::Application;
use crate::application::HealthCheck;
use crate::application::HealthProbe;
use crate::application::Limits;
use crate::application::Link;
use crate::application::Port;
use crate::application::RestartPolicy;
use crate::deployment::Deployment;
use crate::deployment::Member;
use crate::deployment::NodeAddress;
use crate::environment::Environment;
use crate::environment::EnvironmentValue;
use crate::id::ApplicationName;
use crate::id::DatasetId;
use crate::id::NodeName;
use crate::port::Protocol;
use crate::setup::NodeSetup;
use crate::volume::Volume;

/// The text of the two files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// The application file.
    pub application: String,
    /// The deployment file.
    pub deployment: String,
}

/// Writes a deployment. Equal deployments give equal texts.
#[must_use]
pub fn print(deployment: &Deployment, sources: &SecretSources) -> Printed {
    let mut application = Lines::default();
    application.line(0, format_args!("version: 1"));
    if deployment.applications().is_empty() {
        application.line(0, format_args!("applications: {{}}"));
    } else {
        application.line(0, format_args!("applications:"));
    }
    for (name, definition) in deployment.applications() {
        application.application(name, definition, sources);
    }
    let mut nodes = Lines::default();
    nodes.line(0, format_args!("version: 1"));
    if deployment.members().is_empty() {
        nodes.line(0, format_args!("nodes: {{}}"));
    } else {
        nodes.line(0, format_args!("nodes:"));
    }
    for (name, member) in deployment.members() {
        nodes.member(name, member);
    }
    Printed {
        application: application.0,
        deployment: nodes.0,
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, depth: usize, text: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{:depth$}{text}", "", depth = depth * 2);
    }

    fn application(&mut self, name: &ApplicationName, application: &Application, sources: &SecretSources) {
        let Application {
            image,
            command_line,
            ports,
            links,
            volume,
            environment,
            limits: Limits { memory, cpu_shares },
            restart_policy,
            health_check,
            stop_grace,
            depends_on,
        } = application;
        self.line(1, format_args!("{}:", Text(name.as_str())));
        self.line(2, format_args!("image: {}", Text(image.as_str())));
        if !command_line.is_empty() {
            self.line(2, format_args!("command_line: {}", List(command_line)));
        }
        let mut ports: Vec<&Port> = ports.iter().collect();
        ports.sort_unstable();
        self.heading(2, "ports", ports.is_empty());
        for Port { internal, external } in ports {
            let (number, protocol) = (external.number, Spoken(external.protocol));
            self.line(
                2,
                format_args!("- {{internal: {internal}, external: {number}{protocol}}}"),
            );
        }
        let mut links: Vec<&Link> = links.iter().collect();
        links.sort_unstable();
        self.heading(2, "links", links.is_empty());
        for Link {
            local_port,
            remote_port,
            alias,
        } in links
        {
            let alias = Text(alias.as_str());
            let (number, protocol) = (remote_port.number, Spoken(remote_port.protocol));
            self.line(
                2,
                format_args!(
                    "- {{local_port: {local_port}, remote_port: {number}, alias: {alias}{protocol}}}"
                ),
            );
        }
        if let Some(volume) = volume {
            self.volume(name, volume);
        }
        self.environment(name, application, environment, sources);
        if let Some(memory) = memory {
            self.line(2, format_args!("mem_limit: {}", memory.0));
        }
        if let Some(shares) = cpu_shares {
            self.line(2, format_args!("cpu_shares: {shares}"));
        }
        self.restart_policy(*restart_policy);
        if let Some(health_check) = health_check {
            self.health_check(health_check);
        }
        if *stop_grace != Application::DEFAULT_STOP_GRACE {
            self.line(2, format_args!("stop_grace: {}", Written(*stop_grace)));
        }
        if !depends_on.is_empty() {
            self.line(2, format_args!("depends_on: {}", List(depends_on)));
        }
    }

    fn heading(&mut self, depth: usize, key: &str, is_empty: bool) {
        if !is_empty {
            self.line(depth, format_args!("{key}:"));
        }
    }

    fn volume(&mut self, name: &ApplicationName, volume: &Volume) {
        let Volume {
            dataset,
            mountpoint,
            maximum_size,
        } = volume;
        self.line(2, format_args!("volume:"));
        self.line(3, format_args!("mountpoint: {}", Text(mountpoint)));
        if *dataset != DatasetId::derived(name) {
            self.line(3, format_args!("dataset_id: \"{dataset}\""));
        }
        if let Some(size) = maximum_size {
            self.line(3, format_args!("maximum_size: \"{}\"", size.0));
        }
    }

    fn environment(
        &mut self,
        name: &ApplicationName,
        application: &Application,
        environment: &Environment,
        sources: &SecretSources,
    ) {
        let source = |variable: &str| sources.get(&(name.clone(), variable.into()));
        let is_comment = |variable: &str, value: &EnvironmentValue| match value {
            EnvironmentValue::Plain(_) => false,
            EnvironmentValue::Secret(_) => source(variable).is_none(),
        };
        let has_lines = environment
            .iter()
            .any(|(variable, value)| !is_comment(variable, value));
        if has_lines {
            self.line(2, format_args!("environment:"));
        } else if application.has_secrets() {
            self.line(2, format_args!("# environment:"));
        }
        for (variable, value) in environment {
            let key = Text(variable);
            match (value, source(variable)) {
                (EnvironmentValue::Plain(value), _) => self.line(3, format_args!("{key}: {}", Quoted(value))),
                (EnvironmentValue::Secret(_), Some(SecretSource::File(path))) => {
                    self.line(3, format_args!("{key}: {{from_file: {}}}", Quoted(path)));
                }
                (EnvironmentValue::Secret(_), Some(SecretSource::Environment(name))) => {
                    self.line(3, format_args!("{key}: {{from_environment: {}}}", Quoted(name)));
                }
                (EnvironmentValue::Secret(_), None) => self.line(3, format_args!("# {key}: secret")),
            }
        }
    }

    fn restart_policy(&mut self, policy: RestartPolicy) {
        match policy {
            RestartPolicy::Never => self.line(2, format_args!("restart_policy: {{name: never}}")),
            RestartPolicy::Always => self.line(2, format_args!("restart_policy: {{name: always}}")),
            RestartPolicy::OnFailure {
                maximum_retry_count: None,
            } => self.line(2, format_args!("restart_policy: {{name: on-failure}}")),
            RestartPolicy::OnFailure {
                maximum_retry_count: Some(count),
            } => self.line(
                2,
                format_args!("restart_policy: {{name: on-failure, maximum_retry_count: {count}}}"),
            ),
        }
    }

    fn health_check(&mut self, health_check: &HealthCheck) {
        let HealthCheck {
            probe,
            interval,
            timeout,
            retries,
        } = health_check;
        self.line(2, format_args!("health_check:"));
        match probe {
            HealthProbe::Tcp { port } => self.line(3, format_args!("tcp: {port}")),
            HealthProbe::Http { port, path } => {
                self.line(3, format_args!("http: {{port: {port}, path: {}}}", Quoted(path)));
            }
            HealthProbe::Command(words) => self.line(3, format_args!("command: {}", List(words))),
        }
        self.line(3, format_args!("interval: {}", Written(*interval)));
        self.line(3, format_args!("timeout: {}", Written(*timeout)));
        self.line(3, format_args!("retries: {retries}"));
    }

    fn member(&mut self, name: &NodeName, member: &Member) {
        let Member {
            address,
            id,
            setup,
            applications,
        } = member;
        let applications: Vec<&ApplicationName> = applications.iter().collect();
        let applications = List(&applications);
        let key = Text(name.as_str());
        let ssh = match address {
            Some(NodeAddress::Ssh { host, user, port }) => Some((host, user, port)),
            Some(NodeAddress::Local { directory: _ }) | None => None,
        };
        if ssh.is_none() && id.is_none() && setup.is_empty() {
            self.line(1, format_args!("{key}: {applications}"));
            return;
        }
        self.line(1, format_args!("{key}:"));
        if let Some((host, user, port)) = ssh {
            self.line(2, format_args!("address: {}", Quoted(host)));
            if let Some(user) = user {
                self.line(2, format_args!("user: {}", Quoted(user)));
            }
            if let Some(port) = port {
                self.line(2, format_args!("port: {port}"));
            }
        }
        if let Some(id) = id {
            self.line(2, format_args!("id: \"{id}\""));
        }
        self.setup(setup);
        self.line(2, format_args!("applications: {applications}"));
    }

    fn setup(&mut self, setup: &NodeSetup) {
        let NodeSetup {
            volumes,
            pool,
            runtime,
            router,
            transfer_ports,
            at_boot,
        } = setup;
        if let Some(volumes) = volumes {
            self.line(2, format_args!("volumes: {volumes}"));
        }
        if let Some(pool) = pool {
            self.line(2, format_args!("pool: {}", Text(pool.as_str())));
        }
        if let Some(runtime) = runtime {
            self.line(2, format_args!("runtime: {runtime}"));
        }
        if let Some(router) = router {
            self.line(2, format_args!("router: {router}"));
        }
        if let Some(ports) = transfer_ports {
            self.line(2, format_args!("transfer_ports: {ports}"));
        }
        if let Some(at_boot) = at_boot {
            self.line(2, format_args!("at_boot: {at_boot}"));
        }
    }
}

/// What is spoken on a port, as the end of what is said of it. TCP goes without saying.
struct Spoken(Protocol);

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => write!(f, ", protocol: {}", self.0),
        }
    }
}

/// A text, without quotes where nobody can mistake it for something else.
struct Text<'t>(&'t str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let starts_plainly = self
            .0
            .starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/');
        if starts_plainly && self.0.chars().all(is_plain) && kind_of(self.0) == Kind::Text {
            f.write_str(self.0)
        } else {
            Quoted(self.0).fmt(f)
        }
    }
}

/// A text in double quotes.
struct Quoted<'t>(&'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(f, "\\{character}")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                ' '..='~' => f.write_char(character)?,
                // Letters of all scripts stay readable; what is invisible or means a line end to YAML does not.
                _ if character.is_alphanumeric() => f.write_char(character)?,
                _ => write!(f, "\\U{:08X}", u32::from(character))?,
            }
        }
        f.write_char('"')
    }
}

/// Texts in brackets.
struct List<'l, T>(&'l [T]);

impl<T: fmt::Display> fmt::Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (at, item) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            Text(&item.to_string()).fmt(f)?;
        }
        f.write_char(']')
    }
}
