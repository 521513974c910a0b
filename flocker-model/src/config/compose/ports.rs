//! The ports of a service.

use super::super::diagnostic::Code;
use super::super::reader::Reader;
use super::super::yaml::Kind;
use super::super::yaml::Node;
use super::super::yaml::Scalar;
use super::super::yaml::Value;
use super::super::yaml::shorten;
use super::keys;
use super::written;
use crate::application::Port;
use crate::number::PortNumber;
use crate::port::ExternalPort;
use crate::port::Protocol;

const FORM: &str = "write \"EXTERNAL:INTERNAL\", in quotes";
const ONLY: &str = "only TCP and UDP are routed";
const ONE_PORT: &str = "is one port, and which external port it would get is not known";

impl Reader<'_, '_, '_> {
    pub(super) fn service_port(&mut self, node: &Node<'_>) -> Option<Port> {
        match &node.value {
            Value::Mapping(_) => self.long_port(node),
            Value::Sequence(_) => {
                self.wrong_type(node, "a port", "a text");
                None
            }
            Value::Scalar(Scalar { text, kind }) => {
                let problem = match kind {
                    Kind::Text => return self.short_port(text, node),
                    Kind::Ambiguous => "is a number in base 60 to other readers of YAML",
                    Kind::Int => ONE_PORT,
                    Kind::Float | Kind::Bool | Kind::Null => "is not a port",
                };
                let message = format!("`{}` {problem}", shorten(text));
                let code = match kind {
                    Kind::Ambiguous => Code::AmbiguousText,
                    Kind::Text | Kind::Int | Kind::Float | Kind::Bool | Kind::Null => Code::BadPort,
                };
                self.error_with(code, node.span, message, FORM);
                None
            }
        }
    }

    fn short_port(&mut self, text: &str, node: &Node<'_>) -> Option<Port> {
        let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let unsupported = if protocol.parse::<Protocol>().is_err() {
            ONLY
        } else if address.contains('-') {
            "ranges are not supported; write each port"
        } else if address.contains('[') || address.matches(':').count() > 1 {
            "a port is offered on all addresses of every node, so no address can be given"
        } else if text.contains('$') {
            "variables are not filled in"
        } else {
            ""
        };
        if !unsupported.is_empty() {
            let message = format!("the port `{}` is not supported: {unsupported}", shorten(text));
            self.error(Code::UnsupportedValue, node.span, message);
            return None;
        }
        let port = |text: &str| {
            let is_digits = text.chars().all(|c| c.is_ascii_digit());
            text.parse().ok().filter(|_| is_digits).and_then(PortNumber::new)
        };
        let read = address.split_once(':').and_then(|(external, internal)| {
            let protocol = protocol.parse().ok()?;
            let number = port(external)?;
            Some(Port {
                internal: port(internal)?,
                external: ExternalPort { number, protocol },
            })
        });
        if read.is_none() {
            let problem = if port(address).is_some() {
                ONE_PORT
            } else {
                "is not a pair of ports from 1 to 65535"
            };
            let message = format!("`{}` {problem}", shorten(text));
            self.error_with(Code::BadPort, node.span, message, FORM);
        }
        read
    }

    fn long_port(&mut self, node: &Node<'_>) -> Option<Port> {
        let fields = self.fields(node, &keys::PORT)?;
        let protocol = match fields.get("protocol") {
            None => Some(Protocol::Tcp),
            Some(node) => {
                let protocol = written(node).and_then(|text| text.parse().ok());
                if protocol.is_none() {
                    let message = format!("the protocol is not supported: {ONLY}");
                    self.error(Code::UnsupportedValue, node.span, message);
                }
                protocol
            }
        };
        let target = self.required(&fields, "target");
        let published = self.required(&fields, "published");
        let internal = target.and_then(|node| self.port(node, "`target`"));
        let external = published.and_then(|node| match &node.value {
            Value::Scalar(Scalar {
                text,
                kind: Kind::Text,
            }) => {
                let port = text.parse().ok().and_then(PortNumber::new);
                if port.is_none() {
                    let message = format!("`{}` is not one port from 1 to 65535", shorten(text));
                    self.error(Code::BadPort, node.span, message);
                }
                port
            }
            Value::Scalar(_) | Value::Sequence(_) | Value::Mapping(_) => self.port(node, "`published`"),
        });
        let (number, protocol) = (external?, protocol?);
        Some(Port {
            internal: internal?,
            external: ExternalPort { number, protocol },
        })
    }
}
