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
        let mut first: Option<Span> = None;
        for item in self.list(node, "`volumes`").unwrap_or_default() {
            // Each is looked at, so that none is called one too many that is no volume at all.
            let Some(Read { source, mountpoint }) = self.service_volume(item, file) else {
                continue;
            };
            if let Some(first) = first {
                let message = || format!("application `{}` has more than one volume", draft.name);
                let first = (first, "the one that it may have");
                self.conflict(Code::UnsupportedValue, item.span, message, first);
                continue;
            }
            first = Some(item.span);
            let is_free = source.is_none_or(|source| self.take(source, item.span, draft, file));
            if let Some(mountpoint) = mountpoint.filter(|_| is_free) {
                draft.claim(item.span, mountpoint, None);
            }
        }
    }

    /// Reads one volume, and says what is wrong with it by itself. Returns nothing for what is none.
    fn service_volume<'n>(&mut self, node: &'n Node<'_>, file: &File) -> Option<Read<'n>> {
        let (source, target) = match &node.value {
            Value::Mapping(_) => self.long_volume(node)?,
            Value::Scalar(_) | Value::Sequence(_) => split(self.string(node, "a volume")?),
        };
        if let Some(source) = source {
            if is_directory(source) {
                let message = format!("`{}` is a directory of the host, and {BIND}", shorten(source));
                let hint = "use a named volume, or the path in the container alone";
                self.error_with(Code::UnsupportedValue, node.span, message, hint);
                return None;
            }
            self.declared(source, node.span, file);
        }
        let (path, mode) = match target.split_once(':') {
            Some((path, mode)) if source.is_some() => (path, Some(mode)),
            Some(_) | None => (target, None),
        };
        if let Some(mode) = mode.filter(|mode| *mode != "rw") {
            let message = format!("the mode `{}` of a volume is not supported", shorten(mode));
            self.error(Code::UnsupportedValue, node.span, message);
        }
        let mountpoint = self.mountpoint(path, node.span);
        Some(Read { source, mountpoint })
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

    /// Checks that a named volume is declared, where volumes are.
    fn declared(&mut self, source: &str, span: Span, file: &File) {
        if file.form == Form::Fig || file.volumes.contains_key(source) {
            return;
        }
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
    }

    /// Gives a named volume to a service. Says whether it was free.
    fn take(&mut self, source: &str, span: Span, draft: &Draft, file: &mut File) -> bool {
        let Some(taken) = file.volumes.get_mut(source) else {
            // Nothing is known of one that is not declared, and in Fig none is.
            if file.form == Form::Fig {
                file.volumes
                    .insert(source.to_owned(), Some(Taken::new(draft, span)));
            }
            return true;
        };
        let Some(Taken { by, span: first }) = taken else {
            *taken = Some(Taken::new(draft, span));
            return true;
        };
        let message = || {
            format!(
                "applications `{by}` and `{}` both claim volume `{}`",
                draft.name,
                shorten(source)
            )
        };
        let first = (*first, "first claimed here");
        self.conflict(Code::DatasetClaimedTwice, span, message, first);
        false
    }
}

/// One item of `volumes` that is a volume.
struct Read<'n> {
    source: Option<&'n str>,
    /// Nothing where it was wrong, and said to be.
    mountpoint: Option<Box<str>>,
}

impl Taken {
    fn new(draft: &Draft, span: Span) -> Self {
        let by = draft.name.clone();
        Self { by, span }
    }
}

/// Splits the short form into its source, if it has one, and what follows.
fn split(text: &str) -> (Option<&str>, &str) {
    // The first colon of `C:\data:/data` and of `C:/data:/data` belongs to the source; that of `c:/data:rw` does not.
    let path = text.get(2..).filter(|_| is_drive(text.as_bytes()));
    let path = path.map(|path| path.split_once(':').unwrap_or((path, "")));
    match path {
        Some((path, target)) if path.starts_with('\\') || target.starts_with('/') => {
            (Some(&text[..path.len() + 2]), target)
        }
        Some(_) | None => match text.split_once(':') {
            None => (None, text),
            Some((source, target)) => (Some(source), target),
        },
    }
}

/// Says whether a text begins with a drive of Windows, or what may be one.
fn is_drive(text: &[u8]) -> bool {
    matches!(text, [letter, b':', b'/' | b'\\', ..] if letter.is_ascii_alphabetic())
}

fn is_directory(source: &str) -> bool {
    source.is_empty() || source.starts_with(['.', '~', '$']) || source.contains(['/', '\\'])
}
