//! What only the whole can show: two claims on one thing, names that nothing bears, and circles.

use std::collections::BTreeMap;

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
use super::order::Order;
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
    let datasets = datasets_claimed_again(&all.drafts);
    let mut ports: BTreeMap<ExternalPort, (&Draft, Span)> = BTreeMap::new();
    for (position, draft) in all.drafts.iter().enumerate() {
        let application = &draft.application;
        if let Some((dataset, first)) = datasets.get(&position) {
            let message = || {
                format!(
                    "applications `{}` and `{}` both claim dataset `{dataset}`",
                    first.name, draft.name
                )
            };
            let first = (first.volume, "first claimed here");
            reader.conflict(Code::DatasetClaimedTwice, draft.volume, message, first);
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

/// Returns the positions of those that claim the dataset of one before them, with the first of those.
fn datasets_claimed_again(drafts: &[Draft]) -> BTreeMap<usize, (DatasetId, &Draft)> {
    let claimed = drafts.iter().enumerate();
    let claimed =
        claimed.filter_map(|(position, draft)| Some((draft.application.volume.as_ref()?.dataset, position)));
    // Compared as numbers, and sorted at once: none is claimed twice in most files.
    let mut claimed: Vec<_> = claimed.collect();
    claimed.sort_unstable_by_key(|(dataset, position)| (dataset.0.as_u128(), *position));
    let mut again = BTreeMap::new();
    for group in claimed.chunk_by(|(one, _), (other, _)| one.0.as_u128() == other.0.as_u128()) {
        let (dataset, first) = group[0];
        again.extend(
            group[1..]
                .iter()
                .map(|(_, position)| (*position, (dataset, &drafts[first]))),
        );
    }
    again
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
    if all.declared.contains(name.as_str()) || reader.problems.only_counts(Severity::Error) {
        return;
    }
    let message = format!("there is no application `{name}`");
    let hint = match reader.suggest(name.as_str(), all.declared.iter().map(AsRef::as_ref)) {
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
    let order = by_name(all);
    let name_at = |position: usize| all.drafts[position].name.as_str();
    // Where each application that was met is on the path; nothing for those that were left again.
    let mut met: BTreeMap<&ApplicationName, Option<usize>> = BTreeMap::new();
    let starts = all.drafts.iter();
    for start in starts.filter(|draft| !draft.application.depends_on.is_empty()) {
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
                None => {
                    let found = order.find(name.as_str(), name_at);
                    next = found.map(|position| &all.drafts[position]);
                }
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

/// Returns the positions of the applications in order of name, which in most files is the order in which they stand.
fn by_name(all: &Applications) -> Order {
    Order::new(all.drafts.len(), |position| all.drafts[position].name.as_str())
}

/// Checks what the deployment file says of the application file.
pub(crate) fn placements(
    (file, all): (&File<'_>, &Applications),
    (nodes_file, nodes): (&File<'_>, &Nodes),
    problems: &mut Problems,
) {
    let order = by_name(all);
    let name_at = |position: usize| all.drafts[position].name.as_str();
    // By position of the application in its file.
    let mut homes: Vec<Option<&Placement>> = vec![None; all.drafts.len()];
    for placement in &nodes.placements {
        let name = &placement.application;
        let Some(position) = order.find(name.as_str(), name_at) else {
            unknown(&mut Reader::new(nodes_file, problems), name, placement.span, all);
            continue;
        };
        let draft = &all.drafts[position];
        let Some(first) = homes[position] else {
            homes[position] = Some(placement);
            continue;
        };
        if draft.application.volume.is_none() {
            continue;
        }
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
    for (draft, home) in all.drafts.iter().zip(homes) {
        if home.is_none() {
            let message = format!(
                "application `{}` is placed on no node, so it is not run",
                draft.name
            );
            let hint = "name it under a node in the deployment file";
            reader.warn_with(Code::PlacedNowhere, draft.span, message, hint);
        }
    }
}
