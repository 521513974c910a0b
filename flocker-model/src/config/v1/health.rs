//! The health check of an application.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::diagnostic::Code;
use super::super::reader::Fields;
use super::super::reader::Keys;
use super::super::reader::Reader;
use super::super::yaml::Node;
use crate::application::HealthCheck;
use crate::application::HealthProbe;

const HEALTH_CHECK: Keys = Keys {
    what: "a health check",
    known: &["tcp", "http", "command", "interval", "timeout", "retries"],
    unsupported: &[],
    extensions: false,
};
const HTTP: Keys = Keys {
    what: "an HTTP probe",
    known: &["port", "path"],
    unsupported: &[],
    extensions: false,
};

/// How often a check is made, how long it may take and how often it may fail, unless the file says otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) retries: NonZeroU32,
}

impl Rhythm {
    /// Short, because a hand-off ends only when the application is healthy in its new place.
    const FLOCKER: Self = Self {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(3),
        retries: THREE,
    };
    /// What Docker does.
    pub(crate) const DOCKER: Self = Self {
        interval: Duration::from_secs(30),
        timeout: Duration::from_secs(30),
        retries: THREE,
    };
}

const THREE: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

impl Reader<'_, '_, '_> {
    pub(super) fn health_check(&mut self, node: &Node<'_>) -> Option<HealthCheck> {
        let fields = self.fields(node, &HEALTH_CHECK)?;
        let rhythm = self.rhythm(&fields, Rhythm::FLOCKER);
        let probes: Vec<&Node<'_>> = ["tcp", "http", "command"]
            .into_iter()
            .filter_map(|key| fields.get(key))
            .collect();
        match probes[..] {
            [] => {
                let message = "a health check needs one of the keys `tcp`, `http` and `command`".into();
                self.error(Code::MissingKey, node.span, message);
            }
            [_] => {}
            [_, second, ..] => {
                let message =
                    "a health check has one of the keys `tcp`, `http` and `command`, not several".into();
                self.error(Code::ExclusiveKeys, second.span, message);
            }
        }
        let tcp = fields.get("tcp").and_then(|node| self.port(node, "`tcp`"));
        let http = fields.get("http").and_then(|node| self.http(node));
        let command = fields.get("command").and_then(|node| {
            let words = self.strings(node, "`command`", "a word of `command`")?;
            self.command_probe(words, node)
        });
        let probe = tcp.map(|port| HealthProbe::Tcp { port }).or(http).or(command)?;
        Some(rhythm.check(probe))
    }

    fn http(&mut self, node: &Node<'_>) -> Option<HealthProbe> {
        let fields = self.fields(node, &HTTP)?;
        let port = self.required(&fields, "port");
        let port = port.and_then(|node| self.port(node, "`port`"));
        let path = match fields.get("path") {
            None => "/",
            Some(node) => {
                let path = self.string(node, "`path`")?;
                if !path.starts_with('/') || path.contains(|c: char| !c.is_ascii_graphic()) {
                    let message = "the path of an HTTP probe starts with `/` and has no blanks".into();
                    let hint = "write other characters as `%` and two hexadecimal digits";
                    self.error_with(Code::BadPath, node.span, message, hint);
                    return None;
                }
                path
            }
        };
        Some(HealthProbe::Http {
            port: port?,
            path: path.into(),
        })
    }

    pub(crate) fn command_probe(&mut self, words: Vec<Box<str>>, node: &Node<'_>) -> Option<HealthProbe> {
        if words.first().is_none_or(|program| program.is_empty()) {
            let message = "the command of a health check must name a program".into();
            self.error(Code::BadCommand, node.span, message);
            return None;
        }
        Some(HealthProbe::Command(words))
    }

    /// Reads the keys that say how often, how long and how many times.
    pub(crate) fn rhythm(&mut self, fields: &Fields<'_, '_>, default: Rhythm) -> Rhythm {
        let interval = fields.get("interval");
        let timeout = fields.get("timeout");
        let retries = fields.get("retries");
        let retries = retries.and_then(|node| self.number(node, "`retries`", 1..=u32::MAX));
        Rhythm {
            interval: self
                .above_zero(interval, "`interval`")
                .unwrap_or(default.interval),
            timeout: self.above_zero(timeout, "`timeout`").unwrap_or(default.timeout),
            retries: retries.and_then(NonZeroU32::new).unwrap_or(default.retries),
        }
    }

    fn above_zero(&mut self, node: Option<&Node<'_>>, what: &str) -> Option<Duration> {
        let node = node?;
        let duration = self.duration(node, what)?;
        if duration.is_zero() {
            let message = format!("{what} must be longer than zero");
            self.error(Code::BadDuration, node.span, message);
            return None;
        }
        Some(duration)
    }
}

impl Rhythm {
    pub(crate) fn check(self, probe: HealthProbe) -> HealthCheck {
        HealthCheck {
            probe,
            interval: self.interval,
            timeout: self.timeout,
            retries: self.retries,
        }
    }
}
