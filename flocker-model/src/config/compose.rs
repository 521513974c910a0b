//! The application file in the form of Docker Compose, or of Fig before it.
//!
//! What has a counterpart here is read; every key and every value that has
//! none is named and refused, because an application that silently lost its
//! network or its second volume is worse than none.

use std::collections::BTreeMap;

use thin_vec::ThinVec;

use super::diagnostic::Code;
use super::diagnostic::Span;
use super::draft::Applications;
use super::draft::Draft;
use super::places::within;
use super::quantity::Units;
use super::reader::Fields;
use super::reader::Reader;
use super::v1::CPU_SHARES;
use super::v1::is_null;
use super::yaml::Entry;
use super::yaml::Node;
use super::yaml::Scalar;
use super::yaml::Value;
use super::yaml::shorten;
use crate::application::Application;
use crate::application::Link;
use crate::application::Port;
use crate::id::ApplicationName;

mod environment;
mod keys;
mod ports;
mod process;
mod volumes;
mod words;

/// Which of the two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Services are the top level; a `$` is a `$`.
    Fig,
    /// Services are under `services`; a `$` names a variable.
    Compose,
}

/// What is known of the file while its services are read.
struct File {
    form: Form,
    /// The volumes that are declared, and the service that took each.
    volumes: BTreeMap<String, Option<Taken>>,
}

struct Taken {
    by: ApplicationName,
    span: Span,
}

/// A link that waits until the ports of all services are known.
struct Pending {
    draft: usize,
    target: ApplicationName,
    alias: ApplicationName,
    span: Span,
}

impl Reader<'_, '_, '_> {
    /// Reads an application file of Compose or Fig.
    pub(crate) fn services(&mut self, root: &Node<'_>, form: Form) -> Applications {
        let mut file = File {
            form,
            volumes: BTreeMap::new(),
        };
        let services = match form {
            Form::Fig => root,
            Form::Compose => {
                let Some(top) = self.fields(root, &keys::TOP) else {
                    return Applications::default();
                };
                if let Some(node) = top.get("volumes") {
                    self.declared_volumes(node, &mut file);
                }
                let Some(node) = self.required(&top, "services") else {
                    return Applications::default();
                };
                node
            }
        };
        let mut all = Applications::default();
        let mut pending = Vec::new();
        for Entry { key, node } in self.mapping(services, "`services`").unwrap_or_default() {
            if form == Form::Fig && key.text.starts_with("x-") {
                continue;
            }
            all.declared.insert(key.text.as_ref().into());
            let name = self.parse::<ApplicationName>(&key.text, key.span, Code::BadName);
            let Some(fields) = self.fields(node, &keys::SERVICE) else {
                continue;
            };
            let nameless = || "unnamed".parse().ok();
            let Some(name) = name.or_else(nameless) else {
                continue;
            };
            let Some(mut draft) = self.service(name, key.span, &fields, &mut file) else {
                continue;
            };
            if draft.name.as_str() == key.text {
                if let Some(node) = fields.get("links") {
                    self.service_links(node, all.drafts.len(), &mut pending);
                }
                draft.span = key.span;
                all.drafts.push(draft);
            }
        }
        self.expand(&mut all, pending);
        all
    }

    fn service(
        &mut self,
        name: ApplicationName,
        span: Span,
        fields: &Fields<'_, '_>,
        file: &mut File,
    ) -> Option<Draft> {
        let form = file.form;
        if fields.get("image").is_none() {
            let message = format!("service `{name}` needs the key `image`");
            self.error(Code::MissingKey, span, message);
        }
        let image = fields.get("image").and_then(|node| {
            let text = self.string(node, "`image`")?;
            let text = self.filled(text, node.span, form)?;
            self.parse(&text, node.span, Code::BadImage)
        });
        let image = image.or_else(|| "unknown".parse().ok())?;
        let mut draft = Draft::new(name, span, Application::new(image));
        if let Some(node) = fields.get("command").filter(|node| !is_null(node)) {
            draft.application.command_line = self.command(node, form).unwrap_or_default().into();
        }
        if let Some(node) = fields.get("environment").filter(|node| !is_null(node)) {
            self.service_environment(node, &mut draft, form);
            draft.end_environment();
        }
        if let Some(node) = fields.get("ports") {
            for item in self.list(node, "`ports`").unwrap_or_default() {
                if let Some(port) = self.service_port(item) {
                    draft.application.ports.push(port);
                    draft.ports.push(item.span);
                }
            }
        }
        if let Some(node) = fields.get("volumes") {
            self.service_volumes(node, &mut draft, file);
        }
        if let Some(node) = fields.get("mem_limit") {
            draft.application.limits.memory = self.size(node, "`mem_limit`", Units::Docker);
        }
        if let Some(node) = fields.get("deploy") {
            self.deploy(node, &mut draft);
        }
        if let Some(node) = fields.get("cpu_shares") {
            draft.application.limits.cpu_shares = self.number(node, "`cpu_shares`", CPU_SHARES);
        }
        if let Some(node) = fields.get("restart") {
            draft.application.restart_policy = self.restart(node).unwrap_or_default();
        }
        if let Some(node) = fields.get("healthcheck") {
            draft.application.health_check = self.service_health(node, form).map(Box::new);
        }
        let grace = fields.get("stop_grace_period");
        if let Some(grace) = grace.and_then(|node| self.duration(node, "`stop_grace_period`")) {
            draft.application.stop_grace = grace;
        }
        if let Some(node) = fields.get("depends_on") {
            self.service_dependencies(node, &mut draft);
        }
        let test = fields.get("healthcheck").and_then(|node| within(node, "test"));
        for node in fields.get("command").into_iter().chain(test) {
            self.places(node, &draft);
        }
        Some(draft)
    }

    fn deploy(&mut self, node: &Node<'_>, draft: &mut Draft) {
        let limits = self
            .fields(node, &keys::DEPLOY)
            .and_then(|fields| fields.get("resources"))
            .and_then(|node| self.fields(node, &keys::RESOURCES))
            .and_then(|fields| fields.get("limits"))
            .and_then(|node| self.fields(node, &keys::RESOURCE_LIMITS));
        let Some(node) = limits.and_then(|fields| fields.get("memory")) else {
            return;
        };
        let memory = self.size(node, "`memory`", Units::Docker);
        match (memory, draft.application.limits.memory) {
            (Some(one), Some(other)) if one != other => {
                let message = "`mem_limit` says another limit than `deploy`".into();
                self.error(Code::ExclusiveKeys, node.span, message);
            }
            (Some(memory), _) => draft.application.limits.memory = Some(memory),
            (None, _) => {}
        }
    }

    fn service_dependencies(&mut self, node: &Node<'_>, draft: &mut Draft) {
        let Value::Mapping(entries) = &node.value else {
            let items = self.list(node, "`depends_on`").unwrap_or_default();
            (draft.application.depends_on, draft.depends_on) = self.names(items, "a name in `depends_on`");
            return;
        };
        for Entry { key, node } in entries {
            let condition = self.fields(node, &keys::DEPENDENCY);
            if let Some(node) = condition.and_then(|fields| fields.get("condition"))
                && let Some(text) = self.string(node, "`condition`")
                && !matches!(text, "service_started" | "service_healthy")
            {
                let message = format!("the condition `{}` is not supported", shorten(text));
                let hint = "use `service_started` or `service_healthy`";
                self.error_with(Code::UnsupportedValue, node.span, message, hint);
            }
            if let Some(name) = self.parse(&key.text, key.span, Code::BadName) {
                draft.application.depends_on.push(name);
                draft.depends_on.push(key.span);
            }
        }
    }

    fn service_links(&mut self, node: &Node<'_>, draft: usize, pending: &mut Vec<Pending>) {
        for item in self.list(node, "`links`").unwrap_or_default() {
            let Some(text) = self.string(item, "a link") else {
                continue;
            };
            let (target, alias) = text.split_once(':').unwrap_or((text, text));
            let target = self.parse(target, item.span, Code::BadName);
            if let Some(target) = target
                && let Some(alias) = self.parse(alias, item.span, Code::BadName)
            {
                pending.push(Pending {
                    draft,
                    target,
                    alias,
                    span: item.span,
                });
            }
        }
    }

    /// Makes one link of each port of the linked service.
    fn expand(&mut self, all: &mut Applications, pending: Vec<Pending>) {
        let ports: BTreeMap<ApplicationName, ThinVec<Port>> = all
            .drafts
            .iter()
            .map(|draft| (draft.name.clone(), draft.application.ports.clone()))
            .collect();
        let mut n_links: usize = 0;
        for Pending {
            draft,
            target,
            alias,
            span,
        } in pending
        {
            let Some(ports) = ports.get(&target) else {
                if !all.declared.contains(target.as_str()) {
                    let message = format!("there is no service `{target}` to link to");
                    let hint = self.suggest(target.as_str(), all.declared.iter().map(AsRef::as_ref));
                    let hint = hint.map(|name| format!("did you mean `{name}`?"));
                    let hint = hint.unwrap_or_else(|| "link to a service of this file".into());
                    self.error_with(Code::UnknownApplication, span, message, hint);
                }
                continue;
            };
            if ports.is_empty() {
                let message = format!("the link to `{target}` has no effect, because it publishes no port");
                let hint = format!("give `{target}` a port");
                self.warn_with(Code::LinkToNothing, span, message, hint);
            }
            n_links += ports.len();
            if n_links > super::yaml::MAX_VALUES {
                let message = "the links of this file stand for too many ports".into();
                self.error(Code::TooManyValues, span, message);
                return;
            }
            let Some(draft) = all.drafts.get_mut(draft) else {
                continue;
            };
            for port in ports {
                draft.application.links.push(Link {
                    local_port: port.internal,
                    remote_port: port.external,
                    alias: alias.clone(),
                });
                draft.links.push(span);
            }
        }
    }

    /// Returns a text in which `$$` became `$`; a variable that would have to be filled in is refused.
    fn filled(&mut self, text: &str, span: Span, form: Form) -> Option<String> {
        if form == Form::Fig || !text.contains('$') {
            return Some(text.to_owned());
        }
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            filled.push_str(&rest[..at]);
            filled.push('$');
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('$') {
                rest = after;
            } else if rest.starts_with(|c: char| c == '{' || c == '_' || c.is_ascii_alphabetic()) {
                let message = "a variable stands here, and variables are not filled in".into();
                let hint = "write the value, or `$$` for a plain `$`";
                self.error_with(Code::Interpolation, span, message, hint);
                return None;
            }
        }
        filled.push_str(rest);
        Some(filled)
    }
}

/// Returns the text of a scalar as it was written.
fn written<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Scalar(Scalar { text, .. }) => Some(text),
        Value::Sequence(_) | Value::Mapping(_) => None,
    }
}
