//! YAML, read into a tree in which everything knows where it stands.
//!
//! This is the only module that says `serde_yaml`. It drives that crate's
//! event parser rather than its serde front, because serde stops at the first
//! error and hides where keys stand, and a person wants all errors at once.
//!
//! Reading costs no more than a few hundred bytes of work per byte of text,
//! whatever the text: size, depth, values and aliased copies are all limited,
//! and nothing here recurses deeper than [`MAX_DEPTH`].

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_yaml::granit_parser;
use serde_yaml::granit_parser::ErrorKind;
use serde_yaml::granit_parser::Event;
use serde_yaml::granit_parser::Parser;
use serde_yaml::granit_parser::ScalarStyle;
use serde_yaml::granit_parser::Tag;
use serde_yaml::granit_parser::options;

use super::diagnostic::Code;
use super::diagnostic::File;
use super::diagnostic::Problems;
use super::diagnostic::Span;
use super::order::Order;
use super::reader::Reader;

mod scalar;
#[cfg(test)]
mod tests;

pub(crate) use scalar::Kind;
pub(crate) use scalar::kind_of;

/// The largest file that is read: ten thousand applications with links, ports, a volume and an environment need 2.4 MB.
pub(crate) const MAX_BYTES: usize = 5 << 19;
/// How deeply values may be nested; an application's health check is at 6.
pub(crate) const MAX_DEPTH: usize = 32;
/// How many values a file may have.
pub(crate) const MAX_VALUES: usize = 250_000;
/// How many values may come from aliases.
pub(crate) const MAX_ALIASED: usize = 20_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    pub(crate) span: Span,
    pub(crate) value: Value<'a>,
}

#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    Scalar(Scalar<'a>),
    Sequence(Vec<Node<'a>>),
    /// In the order of the file; no two keys are equal.
    Mapping(Vec<Entry<'a>>),
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) text: Cow<'a, str>,
    pub(crate) span: Span,
    /// Whether it was written without quotes, so that `<<` means a merge.
    plain: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) key: Key<'a>,
    pub(crate) node: Node<'a>,
}

/// Reads one document. What is wrong with it goes to `problems`; nothing is returned if the rest is then unreadable.
///
/// A file without any value is a null.
pub(crate) fn parse<'a>(file: &File<'a>, problems: &mut Problems) -> Option<Node<'a>> {
    let text = file.source.text.as_str();
    let mut reader = Reader::new(file, problems);
    if text.len() > MAX_BYTES {
        reader.error(
            Code::FileTooLarge,
            Span::default(),
            format!("the file has {} bytes; at most {MAX_BYTES} are read", text.len()),
        );
        return None;
    }
    Builder {
        reader,
        stack: Vec::new(),
        root: None,
        anchors: BTreeMap::new(),
        tag_span: Span::default(),
        n_values: 0,
        n_aliased: 0,
    }
    .run(text)
}

/// A value that has begun and not ended.
struct Frame<'a> {
    start: u32,
    anchor: usize,
    open: Open<'a>,
}

enum Open<'a> {
    Sequence(Vec<Node<'a>>),
    Mapping {
        entries: Vec<Entry<'a>>,
        pending: Pending<'a>,
    },
}

/// What a mapping has of its next entry.
enum Pending<'a> {
    Nothing,
    Key(Key<'a>),
    /// A key that was refused, and whose value is dropped with it.
    Refused,
}

struct Builder<'r, 'f, 'a> {
    reader: Reader<'r, 'f, 'a>,
    stack: Vec<Frame<'a>>,
    root: Option<Node<'a>>,
    anchors: BTreeMap<usize, Node<'a>>,
    /// Where the tag of the value that just began stands, if it has one.
    tag_span: Span,
    n_values: usize,
    n_aliased: usize,
}

/// The rest of the text cannot be read; what is wrong was said.
struct Unreadable;

impl<'a> Builder<'_, '_, 'a> {
    fn run(mut self, text: &'a str) -> Option<Node<'a>> {
        let mut options = options! {
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        options.set_emit_comments(false);
        let mut parser = Parser::new_from_str_with_options(text, options);
        while let Some(next) = parser.next_event() {
            let (event, span) = match next {
                Ok(next) => next,
                Err(error) => {
                    let at = offset(error.marker().byte_offset());
                    let span = Span { start: at, end: at };
                    let message = error.kind().to_string();
                    if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
                        self.too_deep(span);
                    } else {
                        let message = format!("this is not YAML: {message}");
                        self.reader.error(Code::YamlSyntax, span, message);
                    }
                    return None;
                }
            };
            let span_of = |span: granit_parser::Span| Span {
                start: offset(span.start.byte_offset()),
                end: offset(span.end.byte_offset()),
            };
            self.tag_span = span.tag_span().map_or(Span::default(), span_of);
            if self.event(event, span_of(span)).is_err() {
                return None;
            }
        }
        Some(self.root.unwrap_or(Node {
            span: Span::default(),
            value: Value::Scalar(Scalar {
                text: Cow::Borrowed(""),
                kind: Kind::Null,
            }),
        }))
    }

    fn too_deep(&mut self, span: Span) {
        let message = format!("values are nested more than {MAX_DEPTH} deep");
        self.reader.error(Code::NestedTooDeeply, span, message);
    }

    fn event(&mut self, event: Event<'a>, span: Span) -> Result<(), Unreadable> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.count(span)?;
                let plain = style == ScalarStyle::Plain;
                let is_text = self.tag(tag.as_deref(), "str").is_some() || !plain;
                let kind = if is_text { Kind::Text } else { kind_of(&text) };
                if self.wants_key() {
                    if anchor > 0 {
                        let value = Value::Scalar(Scalar {
                            text: text.clone(),
                            kind,
                        });
                        self.anchors.insert(anchor, Node { span, value });
                    }
                    self.key(Key { text, span, plain });
                    return Ok(());
                }
                let value = Value::Scalar(Scalar { text, kind });
                self.finish(Node { span, value }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), "seq");
                self.open(span, anchor, Open::Sequence(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), "map");
                let open = Open::Mapping {
                    entries: Vec::new(),
                    pending: Pending::Nothing,
                };
                self.open(span, anchor, open)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => self.alias(id, span),
            Event::DocumentStart(..) if self.root.is_some() => {
                let message = "a second document begins here; a file holds one".into();
                self.reader.error(Code::SeveralDocuments, span, message);
                Err(Unreadable)
            }
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd
            | Event::Anchor(..) => Ok(()),
            // The parser's own enum may grow, and what we do not know we do not take for nothing.
            Event::UnresolvedAlias(_) | _ => {
                let message = "this is not YAML that is understood here".into();
                self.reader.error(Code::YamlSyntax, span, message);
                Err(Unreadable)
            }
        }
    }

    fn count(&mut self, span: Span) -> Result<(), Unreadable> {
        self.n_values += 1;
        if self.n_values > MAX_VALUES {
            let message = format!("the file has more than {MAX_VALUES} values");
            self.reader.error(Code::TooManyValues, span, message);
            return Err(Unreadable);
        }
        Ok(())
    }

    /// Checks a tag: the one that says what the value is anyway is allowed, any other refused.
    fn tag(&mut self, tag: Option<&Tag>, allowed: &str) -> Option<()> {
        let tag = tag?;
        if tag.core_suffix() == Some(allowed) {
            return Some(());
        }
        let message = format!("the tag `{}` means nothing here", shorten(&tag.original()));
        self.reader.error(Code::UnsupportedTag, self.tag_span, message);
        None
    }

    fn wants_key(&self) -> bool {
        matches!(
            self.stack.last(),
            Some(Frame {
                open: Open::Mapping {
                    pending: Pending::Nothing,
                    ..
                },
                ..
            })
        )
    }

    fn key(&mut self, key: Key<'a>) {
        if let Some(Frame {
            open: Open::Mapping { pending, .. },
            ..
        }) = self.stack.last_mut()
        {
            *pending = Pending::Key(key);
        }
    }

    fn open(&mut self, span: Span, anchor: usize, open: Open<'a>) -> Result<(), Unreadable> {
        self.count(span)?;
        if self.stack.len() >= MAX_DEPTH {
            self.too_deep(span);
            return Err(Unreadable);
        }
        self.stack.push(Frame {
            start: span.start,
            anchor,
            open,
        });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), Unreadable> {
        let Some(Frame { start, anchor, open }) = self.stack.pop() else {
            return Ok(());
        };
        let value = match open {
            Open::Sequence(mut items) => {
                items.shrink_to_fit();
                Value::Sequence(items)
            }
            Open::Mapping { entries, .. } => Value::Mapping(self.mapping(entries)?),
        };
        // The end of a block is found on the line of what follows it.
        let written = self.reader.text().get(start as usize..span.end as usize);
        let written = written.map_or(0, |text| text.trim_end().len());
        let span = Span {
            start,
            end: start + u32::try_from(written).unwrap_or(0),
        };
        self.finish(Node { span, value }, anchor)
    }

    fn finish(&mut self, node: Node<'a>, anchor: usize) -> Result<(), Unreadable> {
        if anchor > 0 {
            let copy = self.copy(&node, self.stack.len(), node.span)?;
            self.anchors.insert(anchor, copy);
        }
        self.attach(node);
        Ok(())
    }

    fn attach(&mut self, node: Node<'a>) {
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        match &mut frame.open {
            Open::Sequence(items) => items.push(node),
            Open::Mapping { entries, pending } => match std::mem::replace(pending, Pending::Nothing) {
                Pending::Key(key) => entries.push(Entry { key, node }),
                Pending::Refused => {}
                Pending::Nothing => {
                    *pending = Pending::Refused;
                    let message = "a key must be a text, not a list or a mapping".into();
                    self.reader.error(Code::BadKey, node.span, message);
                }
            },
        }
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Unreadable> {
        let Some(anchored) = self.anchors.remove(&id) else {
            let message = "this alias stands within what it names".into();
            self.reader.error(Code::YamlSyntax, span, message);
            return Err(Unreadable);
        };
        let copy = self.copy(&anchored, self.stack.len(), span)?;
        self.anchors.insert(id, anchored);
        match (self.wants_key(), copy) {
            (
                true,
                Node {
                    value: Value::Scalar(Scalar { text, .. }),
                    ..
                },
            ) => self.key(Key {
                text,
                span,
                plain: false,
            }),
            (_, copy) => self.attach(copy),
        }
        Ok(())
    }

    /// Copies a value to `depth`, at the expense of what aliases may cost.
    fn copy(&mut self, node: &Node<'a>, depth: usize, at: Span) -> Result<Node<'a>, Unreadable> {
        if depth > MAX_DEPTH {
            self.too_deep(at);
            return Err(Unreadable);
        }
        let value = match &node.value {
            Value::Scalar(scalar) => {
                self.pay(&scalar.text, at)?;
                Value::Scalar(scalar.clone())
            }
            Value::Sequence(items) => {
                self.pay("", at)?;
                let items = items.iter().map(|item| self.copy(item, depth + 1, at));
                Value::Sequence(items.collect::<Result<_, _>>()?)
            }
            Value::Mapping(entries) => {
                self.pay("", at)?;
                let entries = entries.iter().map(|Entry { key, node }| {
                    self.pay(&key.text, at)?;
                    Ok(Entry {
                        key: key.clone(),
                        node: self.copy(node, depth + 1, at)?,
                    })
                });
                Value::Mapping(entries.collect::<Result<_, _>>()?)
            }
        };
        Ok(Node {
            span: node.span,
            value,
        })
    }

    fn pay(&mut self, text: &str, at: Span) -> Result<(), Unreadable> {
        self.n_aliased += 1 + text.len() / 256;
        if self.n_aliased > MAX_ALIASED {
            let message = format!("anchors and aliases repeat more than {MAX_ALIASED} values");
            self.reader.error(Code::TooManyAliases, at, message);
            return Err(Unreadable);
        }
        Ok(())
    }

    /// Refuses keys that stand twice, and fills in what `<<` names.
    fn mapping(&mut self, entries: Vec<Entry<'a>>) -> Result<Vec<Entry<'a>>, Unreadable> {
        let mut entries = self.without_duplicates(entries);
        entries.shrink_to_fit();
        let Some(at) = entries
            .iter()
            .position(|entry| entry.key.plain && entry.key.text == "<<")
        else {
            return Ok(entries);
        };
        let Entry { key, node } = entries.remove(at);
        let sources = match node.value {
            Value::Sequence(items) => items,
            Value::Mapping(_) | Value::Scalar(_) => vec![node],
        };
        for source in sources {
            let Value::Mapping(merged) = source.value else {
                let message = "`<<` takes a mapping or a list of mappings".into();
                self.reader.error(Code::BadMerge, source.span, message);
                continue;
            };
            for entry in merged {
                // Looking through what stands there already is paid for like a copy.
                self.pay("", key.span)?;
                self.n_aliased += entries.len() / 64;
                if !entries.iter().any(|own| own.key.text == entry.key.text) {
                    entries.push(entry);
                }
            }
        }
        Ok(entries)
    }

    fn without_duplicates(&mut self, entries: Vec<Entry<'a>>) -> Vec<Entry<'a>> {
        if are_surely_different(&entries) {
            return entries;
        }
        let key = |at: usize| entries[at].key.text.as_ref();
        let order = Order::new(entries.len(), key);
        let mut refused = Vec::new();
        for group in order.groups(key) {
            let (first, rest) = (group[0].index(), &group[1..]);
            for second in rest {
                let second = second.index();
                self.reader.conflict(
                    Code::DuplicateKey,
                    entries[second].key.span,
                    || format!("the key `{}` stands twice", shorten(key(second))),
                    (entries[first].key.span, "first here"),
                );
                refused.push(second);
            }
        }
        if refused.is_empty() {
            return entries;
        }
        refused.sort_unstable();
        let keep = |at: &usize| refused.binary_search(at).is_err();
        entries
            .into_iter()
            .enumerate()
            .filter(|(at, _)| keep(at))
            .map(|(_, entry)| entry)
            .collect()
    }
}

/// Says whether no two keys are equal, where that is quickly seen: they are few, or in order. Most mappings are one or the other.
fn are_surely_different(entries: &[Entry<'_>]) -> bool {
    const FEW: usize = 8;
    if entries.len() > FEW {
        return entries.is_sorted_by(|one, two| one.key.text < two.key.text);
    }
    let mut rest = entries;
    while let Some((one, others)) = rest.split_first() {
        if others.iter().any(|other| one.key.text == other.key.text) {
            return false;
        }
        rest = others;
    }
    true
}

fn offset(bytes: Option<usize>) -> u32 {
    bytes.and_then(|at| u32::try_from(at).ok()).unwrap_or(0)
}

/// Cuts a text so that it fits into a message.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    const LIMIT: usize = 60;
    let needs_escape = text.chars().take(LIMIT + 1).any(char::is_control);
    match text.char_indices().nth(LIMIT) {
        None if !needs_escape => Cow::Borrowed(text),
        None => Cow::Owned(text.escape_debug().to_string()),
        Some((end, _)) => Cow::Owned(format!("{}…", text[..end].escape_debug())),
    }
}
