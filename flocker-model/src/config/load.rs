//! Reads the two files together.

use std::collections::BTreeMap;

use super::check;
use super::compose::Form;
use super::deployment::Nodes;
use super::diagnostic::Code;
use super::diagnostic::Diagnostic;
use super::diagnostic::File;
use super::diagnostic::Place;
use super::diagnostic::Problems;
use super::diagnostic::Severity;
use super::diagnostic::Source;
use super::diagnostic::Span;
use super::draft::Applications;
use super::draft::SecretSource;
use super::reader::Reader;
use super::yaml;
use super::yaml::Entry;
use super::yaml::Node;
use super::yaml::Scalar;
use super::yaml::Value;
use crate::deployment::Deployment;
use crate::deployment::DeploymentBuilder;
use crate::deployment::DeploymentError;
use crate::environment::EnvironmentValue;
use crate::id::ApplicationName;
use crate::secret::Secret;

/// Where each secret of each application comes from, by application and variable.
pub type SecretSources = BTreeMap<(ApplicationName, Box<str>), SecretSource>;

/// A configuration without problems, whose secrets are still to be fetched.
#[derive(Clone, Debug)]
pub struct Loaded {
    builder: DeploymentBuilder,
    applications: BTreeMap<ApplicationName, crate::application::Application>,
    secrets: Vec<WantedSecret>,
    warnings: Vec<Diagnostic>,
    /// Where the application file begins.
    file: Place,
}

/// A variable whose value is to be fetched.
#[derive(Clone, Debug)]
pub struct WantedSecret {
    /// The application that has the variable.
    pub application: ApplicationName,
    /// The variable.
    pub variable: Box<str>,
    /// Where its value is.
    pub source: SecretSource,
    /// Where the configuration says so.
    pub place: Place,
}

impl Loaded {
    /// Returns what may not be as meant, in order of file and place.
    #[must_use]
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// Returns the secrets that [`Loaded::resolve`] will ask for, in the order of the file.
    #[must_use]
    pub fn secrets(&self) -> &[WantedSecret] {
        &self.secrets
    }

    /// Returns where the secrets come from, as [`super::marshal::print`] takes it.
    #[must_use]
    pub fn sources(&self) -> SecretSources {
        let secrets = self.secrets.iter();
        secrets
            .map(|secret| {
                let key = (secret.application.clone(), secret.variable.clone());
                (key, secret.source.clone())
            })
            .collect()
    }

    /// Fetches the secrets and returns the deployment, at generation 0, or every secret that could not be fetched.
    ///
    /// `fetch` is called once for each different source, in order of the
    /// sources. What it says in an error is shown, and must not have the
    /// secret in it. One line end at the end of a file's content is dropped,
    /// because editors put it there.
    pub fn resolve(
        &self,
        mut fetch: impl FnMut(&SecretSource) -> Result<String, String>,
    ) -> Result<Deployment, Vec<Diagnostic>> {
        let mut problems = Problems::default();
        let mut applications = self.applications.clone();
        let mut by_source: BTreeMap<&SecretSource, Vec<&WantedSecret>> = BTreeMap::new();
        for secret in &self.secrets {
            by_source.entry(&secret.source).or_default().push(secret);
        }
        let mut fetched_values: BTreeMap<&ApplicationName, Vec<_>> = BTreeMap::new();
        for (source, wanted) in by_source {
            let fetched = fetch(source).and_then(|content| usable(source, content));
            for secret in wanted {
                match &fetched {
                    Ok(content) => {
                        let value = EnvironmentValue::Secret(Secret::new(content.as_str()));
                        let variables = fetched_values.entry(&secret.application).or_default();
                        variables.push((secret.variable.clone(), value));
                    }
                    Err(reason) => problems.push(Diagnostic {
                        severity: Severity::Error,
                        code: Code::SecretUnavailable,
                        message: format!(
                            "the value of `{}` of application `{}` could not be fetched from {source}: {reason}",
                            yaml::shorten(&secret.variable),
                            secret.application
                        ),
                        place: secret.place.clone(),
                        also: Vec::new(),
                        hint: None,
                    }),
                }
            }
        }
        for (name, variables) in fetched_values {
            if let Some(application) = applications.get_mut(name) {
                application.environment.extend(variables);
            }
        }
        match self.builder.clone().applications(applications).build() {
            Ok(deployment) if !problems.has_errors() => Ok(deployment),
            Ok(_) => Err(problems.into_sorted()),
            Err(errors) => {
                for error in errors {
                    problems.push(self.last_check(&error));
                }
                Err(problems.into_sorted())
            }
        }
    }

    /// Says what the deployment itself refused. The checks before it find all of that, with better places.
    fn last_check(&self, error: &DeploymentError) -> Diagnostic {
        let code = match error {
            DeploymentError::UnknownApplication { .. } => Code::UnknownApplication,
            DeploymentError::DatasetClaimedTwice { .. } | DeploymentError::DeletedInUse { .. } => {
                Code::DatasetClaimedTwice
            }
            DeploymentError::VolumeOnTwoNodes { .. } => Code::VolumeOnTwoNodes,
            DeploymentError::PortClaimedTwice { .. } => Code::PortClaimedTwice,
        };
        Diagnostic {
            severity: Severity::Error,
            code,
            message: error.to_string(),
            place: self.file.clone(),
            also: Vec::new(),
            hint: None,
        }
    }
}

/// Checks that a program can be given the value.
fn usable(source: &SecretSource, mut content: String) -> Result<String, String> {
    match source {
        SecretSource::File(_) => {
            if content.ends_with('\n') {
                content.pop();
                if content.ends_with('\r') {
                    content.pop();
                }
            }
        }
        SecretSource::Environment(_) => {}
    }
    if content.contains('\0') {
        return Err("it has a NUL character, and no program can be given one".into());
    }
    Ok(content)
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileKind {
    Applications,
    Services(Form),
    Deployment,
}

impl FileKind {
    fn is_deployment(self) -> bool {
        match self {
            Self::Deployment => true,
            Self::Applications | Self::Services(_) => false,
        }
    }
}

/// Reads an application file and a deployment file, in either order.
///
/// Which is which is seen from the content. Either everything is right, and
/// there may be warnings, or all problems of both files are returned, warnings
/// among them, in order of file and place.
pub fn load(one: &Source, other: &Source) -> Result<Loaded, Vec<Diagnostic>> {
    let mut problems = Problems::default();
    let in_order = one.name <= other.name;
    let (one, other) = if in_order { (one, other) } else { (other, one) };
    let files = [File::new(one), File::new(other)];
    let [one, other] = files.each_ref().map(|file| {
        let (root, kind) = recognised(file, &mut problems)?;
        Some((file, root, kind))
    });
    if let (Some((first_file, first_root, first)), Some((file, root, second))) = (&one, &other)
        && first.is_deployment() == second.is_deployment()
    {
        let (both, missing) = if first.is_deployment() {
            ("nodes", "applications")
        } else {
            ("applications", "nodes")
        };
        problems.push(Diagnostic {
            severity: Severity::Error,
            code: Code::TwoOfAKind,
            message: format!("both files are about {both}; one must be about {missing}"),
            place: file.place(first_key(root)),
            also: vec![(first_file.place(first_key(first_root)), "the other file".into())],
            hint: Some("name one application file and one deployment file".into()),
        });
    }
    let mut applications: Option<(&File<'_>, Applications)> = None;
    let mut nodes: Option<(&File<'_>, Nodes)> = None;
    for (file, root, kind) in [one, other].into_iter().flatten() {
        let mut reader = Reader::new(file, &mut problems);
        match kind {
            FileKind::Applications => applications = Some((file, reader.applications(&root))),
            FileKind::Services(form) => applications = Some((file, reader.services(&root, form))),
            FileKind::Deployment => nodes = Some((file, reader.nodes(&root))),
        }
    }
    if let Some((file, applications)) = &applications {
        check::applications(file, applications, &mut problems);
        if let Some((nodes_file, nodes)) = &nodes {
            check::placements((file, applications), (nodes_file, nodes), &mut problems);
        }
    }
    let has_errors = problems.has_errors();
    let problems = problems.into_sorted();
    match (applications, nodes) {
        (Some((file, applications)), Some((_, nodes))) if !has_errors => {
            Ok(assemble(file, applications, nodes, problems))
        }
        _ => Err(problems),
    }
}

/// Returns all that is wrong with one file by itself, warnings among it, in order of place: for when the other cannot be read.
#[must_use]
pub fn check_one(source: &Source) -> Vec<Diagnostic> {
    let mut problems = Problems::default();
    let file = File::new(source);
    if let Some((root, kind)) = recognised(&file, &mut problems) {
        let mut reader = Reader::new(&file, &mut problems);
        let applications = match kind {
            FileKind::Applications => Some(reader.applications(&root)),
            FileKind::Services(form) => Some(reader.services(&root, form)),
            FileKind::Deployment => {
                reader.nodes(&root);
                None
            }
        };
        if let Some(applications) = &applications {
            check::applications(&file, applications, &mut problems);
        }
    }
    problems.into_sorted()
}

/// Parses a file and says which of the two it is.
fn recognised<'s>(file: &File<'s>, problems: &mut Problems) -> Option<(Node<'s>, FileKind)> {
    let root = yaml::parse(file, problems)?;
    let kind = kind(&root, &mut Reader::new(file, problems))?;
    Some((root, kind))
}

fn assemble(
    file: &File<'_>,
    Applications { drafts, declared: _ }: Applications,
    nodes: Nodes,
    warnings: Vec<Diagnostic>,
) -> Loaded {
    let mut secrets = Vec::new();
    let applications = drafts.into_iter().map(|draft| {
        secrets.extend(draft.secrets.into_iter().map(|secret| WantedSecret {
            application: draft.name.clone(),
            variable: secret.variable,
            source: secret.source,
            place: file.place(secret.span),
        }));
        (draft.name, draft.application)
    });
    // Collected at once, which is quick for what stands in order of name, as it does in many files.
    let applications = applications.collect();
    let builder = nodes
        .members
        .into_iter()
        .fold(Deployment::builder(), |builder, (name, member)| {
            builder.node(name, member)
        });
    Loaded {
        builder,
        applications,
        secrets,
        warnings,
        file: file.beginning(),
    }
}

/// Says what a file is, by its keys.
fn kind(root: &Node<'_>, reader: &mut Reader<'_, '_, '_>) -> Option<FileKind> {
    let entries = reader.mapping(root, "the file")?;
    let find = |name: &str| entries.iter().find(|entry| entry.key.text == name);
    // In the old form the services are the top level, and one may have any of these names.
    let has_version = find("version").is_some_and(|entry| matches!(entry.node.value, Value::Scalar(_)));
    let find = |name: &str| find(name).filter(|entry| has_version || !is_service(&entry.node));
    let (services, applications, nodes) = (find("services"), find("applications"), find("nodes"));
    let found = [services, applications, nodes];
    let mut found = found.into_iter().flatten();
    if let (Some(first), Some(second)) = (found.next(), found.next()) {
        let message = format!(
            "a file has `{}` or `{}`, not both",
            first.key.text, second.key.text
        );
        let hint = "what runs, and where it runs, are said in two files";
        reader.error_with(Code::MixedFile, second.key.span, message, hint);
        return None;
    }
    if services.is_some() {
        return Some(FileKind::Services(Form::Compose));
    }
    if applications.is_some() {
        return Some(FileKind::Applications);
    }
    if nodes.is_some() {
        return Some(FileKind::Deployment);
    }
    if entries.iter().any(|entry| is_service(&entry.node)) {
        return Some(FileKind::Services(Form::Fig));
    }
    let message = "this is neither an application file nor a deployment file".into();
    let known = ["applications", "nodes", "services"];
    let near = entries
        .iter()
        .find_map(|Entry { key, .. }| Some((key.span, reader.suggest(&key.text, known.into_iter())?)));
    let (span, hint) = match near {
        Some((span, name)) => (span, format!("did you mean `{name}`?")),
        None => (
            first_key(root),
            "an application file has `applications` (or `services`, as Docker Compose has), a deployment file has `nodes`"
                .into(),
        ),
    };
    reader.error_with(Code::UnknownFile, span, message, hint);
    None
}

/// Says whether a value is a service of Fig: a mapping that has an image, or would like to build one.
fn is_service(node: &Node<'_>) -> bool {
    let Value::Mapping(entries) = &node.value else {
        return false;
    };
    // The value is a text there: a mapping would be an application that is called `image`.
    let is_text = |entry: &Entry<'_>| matches!(&entry.node.value, Value::Scalar(Scalar { .. }));
    entries
        .iter()
        .any(|entry| matches!(entry.key.text.as_ref(), "image" | "build") && is_text(entry))
}

fn first_key(root: &Node<'_>) -> Span {
    match &root.value {
        Value::Mapping(entries) => entries.first().map_or(root.span, |entry| entry.key.span),
        Value::Scalar(_) | Value::Sequence(_) => root.span,
    }
}
