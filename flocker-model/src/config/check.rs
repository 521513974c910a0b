//! What only the whole can show: two claims on one thing, names that nothing bears, and circles.

use std::collections::BTreeMap;
use std::collections::btree_map;

use super::deployment::Nodes;
use super::deployment::Placement;
use super::diagnostic::Code;
use super::diagnostic::Diagnostic;
use super::diagnostic::File;
use super::diagnostic::Problems;
use super::diagnostic::Severity;
use super::diagnostic::Span;
use super::draft::Applications;
use super::draft::Draft;
use super::reader::Reader;
use crate::application::Link;
use crate::id::ApplicationName;
use crate::id::DatasetId;
use crate::number::PortNumber;
use crate::port::ExternalPort;
use crate::port::Protocol;

/// Checks an application file by itself.
pub(crate) fn applications(file: &File<'_>, all: &Applications, problems: &mut Problems) {
    let mut reader = Reader::new(file, problems);
    let mut datasets: BTreeMap<DatasetId, &Draft> = BTreeMap::new();
    let mut ports: BTreeMap<ExternalPort, (&Draft, Span)> = BTreeMap::new();
    for draft in &all.drafts {
        let application = &draft.application;
        if let Some(volume) = &application.volume {
            if let Some(first) = datasets.get(&volume.dataset) {
                let dataset = volume.dataset;
                let message = || {
                    format!(
                        "applications `{}` and `{}` both claim dataset `{dataset}`",
                        first.name, draft.name
                    )
                };
                let first = (first.volume, "first claimed here");
                reader.conflict(Code::DatasetClaimedTwice, draft.volume, message, first);
            } else {
                datasets.insert(volume.dataset, draft);
            }
        }
        for (port, &span) in application.ports.iter().zip(&draft.ports) {
            let external = port.external;
            let Some((first, first_span)) = ports.get(&external) else {
                ports.insert(external, (draft, span));
                continue;
            };
            let message = || {
                if first.name == draft.name {
                    format!(
                        "application `{}` claims external port {external} twice",
                        draft.name
                    )
                } else {
                    format!(
                        "applications `{}` and `{}` both claim external port {external}",
                        first.name, draft.name
                    )
                }
            };
            let first = (*first_span, "first claimed here");
            reader.conflict(Code::PortClaimedTwice, span, message, first);
        }
        links(draft, &mut reader);
    }
    for draft in &all.drafts {
        for (link, &span) in draft.application.links.iter().zip(&draft.links) {
            if !ports.contains_key(&link.remote_port) {
                let message = format!("no application has the external port {}", link.remote_port);
                let hint = "`remote_port` is the external port of the application at the other end";
                reader.warn_with(Code::LinkToNothing, span, message, hint);
            }
        }
        for (name, &span) in draft.application.depends_on.iter().zip(&draft.depends_on) {
            unknown(&mut reader, name, span, all);
        }
    }
    cycles(all, &mut reader);
}

fn links(draft: &Draft, reader: &mut Reader<'_, '_, '_>) {
    let mut seen: BTreeMap<(&ApplicationName, PortNumber, Protocol), Span> = BTreeMap::new();
    for (link, &span) in draft.application.links.iter().zip(&draft.links) {
        let Link {
            local_port,
            remote_port,
            alias,
        } = link;
        let protocol = remote_port.protocol;
        if let Some(&first) = seen.get(&(alias, *local_port, protocol)) {
            let name = &draft.name;
            let port = ExternalPort {
                number: *local_port,
                protocol,
            };
            let message = || format!("application `{name}` has two links to port {port} of `{alias}`");
            reader.conflict(Code::LinkClaimedTwice, span, message, (first, "first here"));
        }
        seen.insert((alias, *local_port, protocol), span);
    }
}

fn unknown(reader: &mut Reader<'_, '_, '_>, name: &ApplicationName, span: Span, all: &Applications) {
    if all.declared.contains_key(name.as_str()) || reader.problems.only_counts(Severity::Error) {
        return;
    }
    let message = format!("there is no application `{name}`");
    let hint = match reader.suggest(name.as_str(), all.declared.keys().map(String::as_str)) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "define it in the application file".into(),
    };
    reader.error_with(Code::UnknownApplication, span, message, hint);
}

/// An application on the way through what depends on what.
struct Visited<'d> {
    draft: &'d Draft,
    /// How many of its dependencies were followed; the last of them is the way on.
    n_followed: usize,
}

/// Walks along the dependencies, and reports each one that leads back to where the walk came from.
fn cycles(all: &Applications, reader: &mut Reader<'_, '_, '_>) {
    let drafts = by_name(all);
    // Where each application that was met is on the path; nothing for those that were left again.
    let mut met: BTreeMap<&ApplicationName, Option<usize>> = BTreeMap::new();
    for start in &all.drafts {
        if met.contains_key(&start.name) {
            continue;
        }
        let mut path: Vec<Visited<'_>> = Vec::new();
        let mut next = Some(start);
        loop {
            if let Some(draft) = next.take() {
                met.insert(&draft.name, Some(path.len()));
                path.push(Visited { draft, n_followed: 0 });
            }
            let Some(last) = path.last_mut() else { break };
            let Some(name) = last.draft.application.depends_on.get(last.n_followed) else {
                met.insert(&last.draft.name, None);
                path.pop();
                continue;
            };
            last.n_followed += 1;
            match met.get(name) {
                None => next = drafts.get(name).copied(),
                Some(None) => {}
                Some(&Some(first)) => cycle(&path[first..], reader),
            }
        }
    }
}

fn cycle(path: &[Visited<'_>], reader: &mut Reader<'_, '_, '_>) {
    if reader.problems.only_counts(Severity::Error) {
        return;
    }
    let place = |visited: &Visited<'_>| {
        let followed = visited.n_followed.saturating_sub(1);
        let span = visited.draft.depends_on.get(followed);
        reader.file.place(span.copied().unwrap_or(visited.draft.span))
    };
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let name = &first.draft.name;
    let message = if rest.is_empty() {
        format!("application `{name}` depends on itself")
    } else {
        format!("applications wait for each other: `{name}` would be started before itself")
    };
    // A circle of thousands is shown by its beginning.
    let also = rest.iter().take(16);
    let also = also.map(|visited| (place(visited), format!("`{}` waits here", visited.draft.name)));
    let diagnostic = Diagnostic {
        severity: Severity::Error,
        code: Code::DependencyCycle,
        message,
        place: place(first),
        also: also.collect(),
        hint: None,
    };
    reader.problems.push(diagnostic);
}

fn by_name(all: &Applications) -> BTreeMap<&ApplicationName, &Draft> {
    all.drafts.iter().map(|draft| (&draft.name, draft)).collect()
}

/// Checks what the deployment file says of the application file.
pub(crate) fn placements(
    (file, all): (&File<'_>, &Applications),
    (nodes_file, nodes): (&File<'_>, &Nodes),
    problems: &mut Problems,
) {
    let drafts = by_name(all);
    let mut homes: BTreeMap<&ApplicationName, &Placement> = BTreeMap::new();
    for placement in &nodes.placements {
        let name = &placement.application;
        unknown(&mut Reader::new(nodes_file, problems), name, placement.span, all);
        let first = match homes.entry(name) {
            btree_map::Entry::Occupied(first) => *first.get(),
            btree_map::Entry::Vacant(place) => {
                place.insert(placement);
                continue;
            }
        };
        let Some(draft) = drafts
            .get(name)
            .filter(|draft| draft.application.volume.is_some())
        else {
            continue;
        };
        problems.push(Diagnostic {
            severity: Severity::Error,
            code: Code::VolumeOnTwoNodes,
            message: format!(
                "application `{name}` has a volume, and cannot run on both `{}` and `{}`",
                first.node, placement.node
            ),
            place: nodes_file.place(placement.span),
            also: vec![
                (nodes_file.place(first.span), "first placed here".into()),
                (file.place(draft.volume), "its volume".into()),
            ],
            hint: None,
        });
    }
    let mut reader = Reader::new(file, problems);
    for draft in &all.drafts {
        if !homes.contains_key(&draft.name) {
            let message = format!(
                "application `{}` is placed on no node, so it is not run",
                draft.name
            );
            let hint = "name it under a node in the deployment file";
            reader.warn_with(Code::PlacedNowhere, draft.span, message, hint);
        }
    }
}
