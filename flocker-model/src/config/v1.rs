//! The application file in Flocker's own format, version 1.
//!
//! What the original format has is read as the original read it, with more
//! allowed: sizes may be integers, and `command_line`, `health_check`,
//! `stop_grace`, `depends_on` and the `protocol` of ports and links are new. A value of the environment may be
//! `{from_file: PATH}` or `{from_environment: NAME}`, so that no secret need
//! stand in the file.

use std::num::NonZeroU32;
use std::time::Duration;

use super::diagnostic::Code;
use super::diagnostic::Span;
use super::draft::Applications;
use super::draft::Draft;
use super::draft::SecretSource;
use super::places::within;
use super::quantity;
use super::quantity::Units;
use super::reader::Fields;
use super::reader::Keys;
use super::reader::Reader;
use super::yaml::Entry;
use super::yaml::Kind;
use super::yaml::Node;
use super::yaml::Scalar;
use super::yaml::Value;
use crate::application::Application;
use crate::application::Link;
use crate::application::Port;
use crate::application::RestartPolicy;
use crate::id::ApplicationName;
use crate::number::ByteSize;
use crate::port::ExternalPort;
use crate::port::Protocol;

mod health;

pub(crate) use health::Rhythm;

const TOP: Keys = Keys {
    what: "an application file",
    known: &["version", "applications"],
    unsupported: &[],
    extensions: true,
};
const APPLICATION: Keys = Keys {
    what: "an application",
    known: &[
        "image",
        "command_line",
        "ports",
        "links",
        "volume",
        "environment",
        "mem_limit",
        "cpu_shares",
        "restart_policy",
        "health_check",
        "stop_grace",
        "depends_on",
    ],
    unsupported: &[],
    extensions: false,
};
const PORT: Keys = Keys {
    what: "a port",
    known: &["internal", "external", "protocol"],
    unsupported: &[],
    extensions: false,
};
const LINK: Keys = Keys {
    what: "a link",
    known: &["local_port", "remote_port", "alias", "protocol"],
    unsupported: &[],
    extensions: false,
};
const VOLUME: Keys = Keys {
    what: "a volume",
    known: &["mountpoint", "maximum_size", "dataset_id"],
    unsupported: &[],
    extensions: false,
};
const SECRET: Keys = Keys {
    what: "a secret",
    known: &["from_file", "from_environment"],
    unsupported: &[],
    extensions: false,
};
const RESTART_POLICY: Keys = Keys {
    what: "a restart policy",
    known: &["name", "maximum_retry_count"],
    unsupported: &[],
    extensions: false,
};

/// The processor shares that Linux knows.
pub(crate) const CPU_SHARES: std::ops::RangeInclusive<u32> = 2..=262_144;

impl Reader<'_, '_, '_> {
    /// Checks that a file is of version 1.
    pub(crate) fn version_one(&mut self, fields: &Fields<'_, '_>) {
        let Some(node) = self.required(fields, "version") else {
            return;
        };
        let is_one = matches!(&node.value, Value::Scalar(Scalar { text, kind: Kind::Int }) if text == "1");
        if !is_one {
            let found = super::reader::describe(node);
            let message = format!("`version` must be the number 1, not {found}");
            self.error(Code::BadVersion, node.span, message);
        }
    }

    /// Reads an application file of version 1.
    pub(crate) fn applications(&mut self, root: &Node<'_>) -> Applications {
        let mut all = Applications::default();
        let Some(top) = self.fields(root, &TOP) else {
            return all;
        };
        self.version_one(&top);
        let Some(node) = self.required(&top, "applications") else {
            return all;
        };
        let entries = self.mapping(node, "`applications`").unwrap_or_default();
        // Collected at once: most files have them in order.
        all.declared = entries
            .iter()
            .map(|entry| entry.key.text.as_ref().into())
            .collect();
        for Entry { key, node } in entries {
            let name = self.parse::<ApplicationName>(&key.text, key.span, Code::BadName);
            let Some(fields) = self.fields(node, &APPLICATION) else {
                continue;
            };
            if fields.get("image").is_none() {
                // Shown at the name, because the mapping may have no first key.
                let message = format!(
                    "application `{}` needs the key `image`",
                    super::yaml::shorten(&key.text)
                );
                self.error(Code::MissingKey, key.span, message);
            }
            // What is wrong inside is said also where the name is wrong.
            let nameless = || "unnamed".parse().ok();
            if let Some(name) = name.or_else(nameless)
                && let Some(draft) = self.application(name, key.span, &fields)
                && draft.name.as_str() == key.text
            {
                all.drafts.push(draft);
            }
        }
        all
    }

    fn application(&mut self, name: ApplicationName, span: Span, fields: &Fields<'_, '_>) -> Option<Draft> {
        let image = fields.get("image");
        let image = image.and_then(|node| self.parsed(node, "`image`", Code::BadImage));
        let image = image.or_else(|| "unknown".parse().ok())?;
        let mut draft = Draft::new(name, span, Application::new(image));
        if let Some(node) = fields.get("command_line") {
            let words = self.strings(node, "`command_line`", "a word of `command_line`");
            draft.application.command_line = words.unwrap_or_default().into();
        }
        if let Some(node) = fields.get("ports") {
            self.ports(node, &mut draft);
        }
        if let Some(node) = fields.get("links") {
            self.links(node, &mut draft);
        }
        if let Some(node) = fields.get("volume") {
            self.volume(node, &mut draft);
        }
        if let Some(node) = fields.get("environment") {
            self.environment(node, &mut draft);
            draft.end_environment();
        }
        if let Some(node) = fields.get("mem_limit") {
            draft.application.limits.memory = self.size(node, "`mem_limit`", Units::Flocker);
        }
        if let Some(node) = fields.get("cpu_shares") {
            draft.application.limits.cpu_shares = self.number(node, "`cpu_shares`", CPU_SHARES);
        }
        if let Some(node) = fields.get("restart_policy") {
            draft.application.restart_policy = self.restart_policy(node).unwrap_or_default();
        }
        if let Some(node) = fields.get("health_check") {
            draft.application.health_check = self.health_check(node).map(Box::new);
        }
        if let Some(grace) = fields
            .get("stop_grace")
            .and_then(|node| self.duration(node, "`stop_grace`"))
        {
            draft.application.stop_grace = grace;
        }
        if let Some(node) = fields.get("depends_on") {
            let items = self.list(node, "`depends_on`").unwrap_or_default();
            (draft.application.depends_on, draft.depends_on) = self.names(items, "a name in `depends_on`");
        }
        let command = fields
            .get("health_check")
            .and_then(|node| within(node, "command"));
        for node in fields.get("command_line").into_iter().chain(command) {
            self.places(node, &draft);
        }
        Some(draft)
    }

    fn ports(&mut self, node: &Node<'_>, draft: &mut Draft) {
        for item in self.list(node, "`ports`").unwrap_or_default() {
            let Some(fields) = self.fields(item, &PORT) else {
                continue;
            };
            let internal = self.required(&fields, "internal");
            let external = self.required(&fields, "external");
            let internal = internal.and_then(|node| self.port(node, "`internal`"));
            let place = external.map_or(item.span, |node| node.span);
            let external = external.and_then(|node| self.port(node, "`external`"));
            let protocol = self.protocol(&fields);
            if let (Some(internal), Some(number), Some(protocol)) = (internal, external, protocol) {
                let external = ExternalPort { number, protocol };
                draft.application.ports.push(Port { internal, external });
                draft.ports.push(place);
            }
        }
    }

    /// Returns what is spoken on a port: TCP, unless it says otherwise.
    fn protocol(&mut self, fields: &Fields<'_, '_>) -> Option<Protocol> {
        match fields.get("protocol") {
            Some(node) => self.parsed(node, "`protocol`", Code::BadChoice),
            None => Some(Protocol::Tcp),
        }
    }

    fn links(&mut self, node: &Node<'_>, draft: &mut Draft) {
        for item in self.list(node, "`links`").unwrap_or_default() {
            let Some(fields) = self.fields(item, &LINK) else {
                continue;
            };
            let local_port = self.required(&fields, "local_port");
            let remote_port = self.required(&fields, "remote_port");
            let alias = self.required(&fields, "alias");
            let place = remote_port.map_or(item.span, |node| node.span);
            let local_port = local_port.and_then(|node| self.port(node, "`local_port`"));
            let remote_port = remote_port.and_then(|node| self.port(node, "`remote_port`"));
            let alias = alias.and_then(|node| self.parsed(node, "`alias`", Code::BadName));
            let protocol = self.protocol(&fields);
            let remote_port = remote_port
                .zip(protocol)
                .map(|(number, protocol)| ExternalPort { number, protocol });
            if let (Some(local_port), Some(remote_port), Some(alias)) = (local_port, remote_port, alias) {
                draft.application.links.push(Link {
                    local_port,
                    remote_port,
                    alias,
                });
                draft.links.push(place);
            }
        }
    }

    fn volume(&mut self, node: &Node<'_>, draft: &mut Draft) {
        let Some(fields) = self.fields(node, &VOLUME) else {
            return;
        };
        let mountpoint = self.required(&fields, "mountpoint");
        let mountpoint = mountpoint.and_then(|node| {
            let text = self.string(node, "`mountpoint`")?;
            self.mountpoint(text, node.span)
        });
        let size = fields.get("maximum_size");
        let size = size.and_then(|node| self.size(node, "`maximum_size`", Units::Flocker));
        let dataset = fields.get("dataset_id");
        let place = dataset.map_or(node.span, |node| node.span);
        let dataset = dataset.and_then(|node| {
            let text = self.string(node, "`dataset_id`")?;
            self.uuid(text, node.span)
        });
        let mountpoint = mountpoint.unwrap_or_default();
        draft.claim(place, mountpoint, dataset).maximum_size = size;
    }

    /// Returns an id.
    pub(crate) fn uuid<T: std::str::FromStr>(&mut self, text: &str, span: Span) -> Option<T> {
        let id = text.parse().ok();
        if id.is_none() {
            let message = format!("`{}` is not a UUID", super::yaml::shorten(text));
            self.error(Code::BadId, span, message);
        }
        id
    }

    fn environment(&mut self, node: &Node<'_>, draft: &mut Draft) {
        if matches!(&node.value, Value::Scalar(Scalar { kind: Kind::Null, .. })) {
            return;
        }
        for Entry { key, node } in self.mapping(node, "`environment`").unwrap_or_default() {
            let Some(variable) = self.variable(&key.text, key.span) else {
                continue;
            };
            let shown = || super::yaml::shorten(variable);
            match &node.value {
                // What is wrong with a value is said without the value: it may be a secret all the same.
                Value::Scalar(Scalar { text, kind }) => {
                    match kind {
                        Kind::Text => {}
                        Kind::Ambiguous => self.warn_with(
                            Code::AmbiguousText,
                            node.span,
                            format!(
                                "the value of `{}` is a text here, but not to every reader of YAML",
                                shown()
                            ),
                            "put it in quotes",
                        ),
                        Kind::Int | Kind::Float | Kind::Bool | Kind::Null => self.error_with(
                            Code::WrongType,
                            node.span,
                            format!("the value of `{}` must be a text", shown()),
                            "put it in quotes",
                        ),
                    }
                    let what = || format!("the value of `{}`", shown());
                    if self.handed_on(text, node.span, what).is_some() {
                        draft.set(variable, text);
                    }
                }
                Value::Mapping(_) => {
                    if let Some(source) = self.secret(node) {
                        draft.set_secret(variable, source, node.span);
                    }
                }
                Value::Sequence(_) => {
                    let message = format!("the value of `{}` must be a text, not a list", shown());
                    self.error(Code::WrongType, node.span, message);
                }
            }
        }
    }

    fn secret(&mut self, node: &Node<'_>) -> Option<SecretSource> {
        let fields = self.fields(node, &SECRET)?;
        match (fields.get("from_file"), fields.get("from_environment")) {
            (Some(_), Some(second)) => {
                let message = "a secret comes from a file or from the environment, not from both".into();
                self.error(Code::ExclusiveKeys, second.span, message);
                None
            }
            (Some(node), None) => {
                let path = self.string(node, "`from_file`")?;
                if path.is_empty() {
                    self.error(Code::BadPath, node.span, "`from_file` must not be empty".into());
                    return None;
                }
                Some(SecretSource::File(path.into()))
            }
            (None, Some(node)) => {
                let name = self.string(node, "`from_environment`")?;
                let name = self.variable(name, node.span)?;
                Some(SecretSource::Environment(name.into()))
            }
            (None, None) => {
                let message = "a secret needs the key `from_file` or `from_environment`".into();
                self.error(Code::MissingKey, node.span, message);
                None
            }
        }
    }

    fn restart_policy(&mut self, node: &Node<'_>) -> Option<RestartPolicy> {
        let fields = self.fields(node, &RESTART_POLICY)?;
        let count = fields.get("maximum_retry_count");
        let name_node = self.required(&fields, "name")?;
        let name = self.string(name_node, "`name`")?;
        if name == "on-failure" {
            let count = count.filter(|node| !is_null(node));
            let count = count.and_then(|node| self.number(node, "`maximum_retry_count`", 1..=u32::MAX));
            return Some(RestartPolicy::OnFailure {
                maximum_retry_count: count.and_then(NonZeroU32::new),
            });
        }
        let policy = match name {
            "never" => RestartPolicy::Never,
            "always" => RestartPolicy::Always,
            _ => {
                let message = format!("`{}` is not a restart policy", super::yaml::shorten(name));
                let hint = "use one of `always`, `never` and `on-failure`";
                self.error_with(Code::BadChoice, name_node.span, message, hint);
                return None;
            }
        };
        if let Some(count) = count {
            let message = format!("`maximum_retry_count` goes with `on-failure`, not with `{name}`");
            self.error(Code::ExclusiveKeys, count.span, message);
        }
        Some(policy)
    }

    pub(crate) fn size(&mut self, node: &Node<'_>, what: &str, units: Units) -> Option<ByteSize> {
        let text = self.quantity(node, what, "a size")?;
        match quantity::size(text, units) {
            Ok(size) => Some(size),
            Err(error) => {
                let message = format!("{what} `{}` {error}", super::yaml::shorten(text));
                self.error(Code::BadSize, node.span, message);
                None
            }
        }
    }

    pub(crate) fn duration(&mut self, node: &Node<'_>, what: &str) -> Option<Duration> {
        let text = self.quantity(node, what, "a duration")?;
        match quantity::duration(text) {
            Ok(duration) => Some(duration),
            Err(error) => {
                let message = format!("{what} `{}` {error}", super::yaml::shorten(text));
                self.error(Code::BadDuration, node.span, message);
                None
            }
        }
    }
}

pub(crate) fn is_null(node: &Node<'_>) -> bool {
    matches!(&node.value, Value::Scalar(Scalar { kind: Kind::Null, .. }))
}
