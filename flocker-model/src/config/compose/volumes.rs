//! The volume of a service. There is at most one, and it is not a directory of the host.

use super::super::diagnostic::Code;
use super::super::diagnostic::Span;
use super::super::draft::Draft;
use super::super::reader::Reader;
use super::super::reader::listed;
use super::super::v1::is_null;
use super::super::yaml::Entry;
use super::super::yaml::Node;
use super::super::yaml::Value;
use super::super::yaml::shorten;
use super::File;
use super::Form;
use super::Taken;
use super::keys;

const BIND: &str = "directories of a host do not move with an application";

impl Reader<'_, '_, '_> {
    pub(super) fn declared_volumes(&mut self, node: &Node<'_>, file: &mut File) {
        if is_null(node) {
            return;
        }
        for Entry { key, node } in self.mapping(node, "`volumes`").unwrap_or_default() {
            if !is_null(node) {
                self.fields(node, &keys::DECLARED_VOLUME);
            }
            file.volumes.insert(key.text.to_string(), None);
        }
    }
}

impl Reader<'_, '_, '_> {
    pub(super) fn service_volumes(&mut self, node: &Node<'_>, draft: &mut Draft, file: &mut File) {
        let items = self.list(node, "`volumes`").unwrap_or_default();
        for second in items.iter().skip(1) {
            let message = || format!("application `{}` has more than one volume", draft.name);
            let first = (items[0].span, "the one that it may have");
            self.conflict(Code::UnsupportedValue, second.span, message, first);
        }
        if let Some(item) = items.first() {
            self.service_volume(item, draft, file);
        }
    }

    fn service_volume(&mut self, node: &Node<'_>, draft: &mut Draft, file: &mut File) {
        let (source, target) = match &node.value {
            Value::Mapping(_) => {
                let Some(found) = self.long_volume(node) else {
                    return;
                };
                found
            }
            Value::Scalar(_) | Value::Sequence(_) => {
                let Some(text) = self.string(node, "a volume") else {
                    return;
                };
                match text.split_once(':') {
                    None => (None, text),
                    Some((source, target)) => (Some(source), target),
                }
            }
        };
        if let Some(source) = source
            && !self.take(source, node.span, draft, file)
        {
            return;
        }
        let (path, mode) = match target.split_once(':') {
            Some((path, mode)) if source.is_some() => (path, Some(mode)),
            Some(_) | None => (target, None),
        };
        if let Some(mode) = mode.filter(|mode| *mode != "rw") {
            let message = format!("the mode `{}` of a volume is not supported", shorten(mode));
            self.error(Code::UnsupportedValue, node.span, message);
        }
        if let Some(mountpoint) = self.mountpoint(path, node.span) {
            draft.claim(node.span, mountpoint, None);
        }
    }

    fn long_volume<'n>(&mut self, node: &'n Node<'_>) -> Option<(Option<&'n str>, &'n str)> {
        let fields = self.fields(node, &keys::VOLUME)?;
        let kind = self.required(&fields, "type");
        let target = self.required(&fields, "target");
        let source = fields.get("source");
        let source = source.and_then(|node| self.string(node, "`source`"));
        let kind_node = kind?;
        let kind = self.string(kind_node, "`type`")?;
        if kind != "volume" {
            let reason = if kind == "bind" { BIND } else { "only `volume` is" };
            let message = format!("a volume of type `{}` is not supported: {reason}", shorten(kind));
            self.error(Code::UnsupportedValue, kind_node.span, message);
            return None;
        }
        Some((source, self.string(target?, "`target`")?))
    }

    /// Gives a named volume to a service. Says whether it is one, and free.
    fn take(&mut self, source: &str, span: Span, draft: &Draft, file: &mut File) -> bool {
        if source.starts_with(['/', '.', '~', '$']) || source.contains(['/', '\\']) || source.is_empty() {
            let message = format!("`{}` is a directory of the host, and {BIND}", shorten(source));
            let hint = "use a named volume, or the path in the container alone";
            self.error_with(Code::UnsupportedValue, span, message, hint);
            return false;
        }
        match file.volumes.get(source) {
            None if file.form == Form::Compose => {
                let names = || file.volumes.keys().map(String::as_str);
                let message = format!("the volume `{}` is not declared under `volumes`", shorten(source));
                let hint = if let Some(name) = self.suggest(source, names()) {
                    format!("did you mean `{name}`?")
                } else {
                    let names: Vec<_> = names().take(8).map(shorten).collect();
                    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
                    format!("declared are: {}", listed(&names))
                };
                self.error_with(Code::UnknownVolume, span, message, hint);
                return false;
            }
            None | Some(None) => {}
            Some(Some(Taken { by, span: first })) => {
                let message = || {
                    format!(
                        "applications `{by}` and `{}` both claim volume `{}`",
                        draft.name,
                        shorten(source)
                    )
                };
                self.conflict(
                    Code::DatasetClaimedTwice,
                    span,
                    message,
                    (*first, "first claimed here"),
                );
                return false;
            }
        }
        let taken = Taken {
            by: draft.name.clone(),
            span,
        };
        file.volumes.insert(source.to_owned(), Some(taken));
        true
    }
}
