use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use flocker_model::Application;
use flocker_model::DefinitionHash;
use flocker_model::Deployment;
use flocker_model::ExternalPort;
use flocker_model::Link;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::config::Code;
use flocker_model::config::Diagnostic;
use flocker_model::config::Loaded;
use flocker_model::config::SecretSource;
use flocker_model::config::SecretSources;
use flocker_model::config::Source;
use flocker_model::config::check_one;
use flocker_model::config::load;
use flocker_model::config::marshal;
use flocker_model::secret::DefinitionKey;

/// A pair of files of the corpus.
pub(crate) struct Case {
    pub(crate) path: PathBuf,
    pub(crate) application: Source,
    /// The deployment file, if the case has one.
    pub(crate) nodes: Option<Source>,
}

impl Case {
    fn load(&self) -> Result<Loaded, Vec<Diagnostic>> {
        let empty = Source::new("empty.nodes.yml", "{version: 1, nodes: {}}");
        let nodes = self.nodes.as_ref().unwrap_or(&empty);
        let loaded = load(&self.application, nodes);
        // Either order is the same.
        assert_eq!(
            loaded.as_ref().map(Loaded::warnings).map_err(Vec::as_slice),
            load(nodes, &self.application)
                .as_ref()
                .map(Loaded::warnings)
                .map_err(Vec::as_slice),
        );
        // What is said of one file alone is said of both together.
        let together = loaded
            .as_ref()
            .map_or_else(Vec::as_slice, |loaded| loaded.warnings());
        for one in [&self.application, nodes].into_iter().flat_map(check_one) {
            assert!(together.contains(&one), "{one}");
        }
        loaded
    }

    /// Leaves out what is said only because the case has no deployment file.
    fn interesting<'d>(&self, diagnostics: &'d [Diagnostic]) -> impl Iterator<Item = &'d Diagnostic> {
        let is_lone = self.nodes.is_none();
        diagnostics
            .iter()
            .filter(move |diagnostic| !is_lone || diagnostic.code != Code::PlacedNowhere)
    }
}

/// Returns the cases of a directory of the corpus, in order of name.
pub(crate) fn cases(directory: &str) -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/config")
        .join(directory);
    let mut paths: Vec<PathBuf> = fs::read_dir(&root)
        .unwrap_or_else(|error| panic!("{}: {error}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .filter(|path| !path.to_string_lossy().ends_with(".nodes.yml"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{directory} has no cases");
    let source = |path: &Path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Source::new(name, fs::read_to_string(path).unwrap())
    };
    paths
        .into_iter()
        .map(|path| Case {
            application: source(&path),
            nodes: Some(path.with_extension("nodes.yml"))
                .filter(|nodes| nodes.exists())
                .map(|nodes| source(&nodes)),
            path,
        })
        .collect()
}

pub(crate) const INVALID: [&str; 5] = [
    "invalid/yaml",
    "invalid/files",
    "invalid/schema",
    "invalid/parser",
    "invalid/compose",
];
const VALID: [&str; 3] = ["valid", "ambiguous", "compose"];

/// Stands in for files and the environment.
#[expect(clippy::unnecessary_wraps, reason = "the shape that `resolve` takes")]
pub(crate) fn fetch(source: &SecretSource) -> Result<String, String> {
    Ok(format!("the content of {source}"))
}

fn check(case: &Case, seen: &str) {
    let path = case.path.with_extension("expected");
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, seen).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        seen,
        expected,
        "{} is not what comes of it; see the comment at the top of main.rs",
        path.display()
    );
}

fn write(case: &Case, diagnostic: &Diagnostic, text: &mut String) {
    writeln!(text, "{diagnostic} [{}]", diagnostic.code).unwrap();
    let sources = [Some(&case.application), case.nodes.as_ref()];
    let source = sources
        .into_iter()
        .flatten()
        .find(|source| source.name == diagnostic.place.file.as_ref())
        .unwrap();
    let range = diagnostic.place.span.range();
    let excerpt = diagnostic.place.excerpt(&source.text).unwrap();
    let marked = source.text[range].lines().next().unwrap_or_default();
    let column = diagnostic.place.column as usize;
    let width = marked.chars().count().max(1);
    // A long line shows nothing that its place does not say.
    if excerpt.len() < 200 {
        writeln!(text, "    {}", excerpt.replace('\t', " ")).unwrap();
        writeln!(text, "    {:>column$}{}", "^", "~".repeat(width - 1)).unwrap();
    }
    for (place, message) in &diagnostic.also {
        writeln!(text, "  also {place}: {message}").unwrap();
    }
    if let Some(hint) = &diagnostic.hint {
        writeln!(text, "  hint: {hint}").unwrap();
    }
}

#[test]
fn a_broken_file_is_told_all_that_is_wrong_with_it() {
    for case in INVALID.into_iter().flat_map(cases) {
        let diagnostics = case
            .load()
            .expect_err(&format!("{} must be refused", case.path.display()));
        assert!(diagnostics.iter().any(Diagnostic::is_error));
        let mut seen = String::new();
        for diagnostic in case.interesting(&diagnostics) {
            write(&case, diagnostic, &mut seen);
        }
        check(&case, &seen);
    }
}

#[test]
fn a_right_file_becomes_a_deployment_that_reads_back_the_same() {
    for case in VALID.into_iter().flat_map(cases) {
        let loaded = case
            .load()
            .unwrap_or_else(|diagnostics| panic!("{}: {}", case.path.display(), joined(&diagnostics)));
        let mut seen = String::new();
        for diagnostic in case.interesting(loaded.warnings()) {
            assert!(!diagnostic.is_error());
            write(&case, diagnostic, &mut seen);
        }
        let deployment = loaded.resolve(fetch).unwrap();
        let printed = marshal::print(&deployment, &loaded.sources());
        write!(seen, "{}---\n{}", printed.application, printed.deployment).unwrap();
        check(&case, &seen);
        let (again, sources) = read_back(&deployment, &loaded.sources());
        assert_eq!(loaded.sources(), sources, "{}", case.path.display());
        assert_same(&deployment, &again);
        assert_eq!(marshal::print(&again, &sources), printed);
    }
}

pub(crate) fn joined(diagnostics: &[Diagnostic]) -> String {
    let lines = diagnostics.iter().map(ToString::to_string);
    lines.collect::<Vec<_>>().join("\n")
}

/// Prints a deployment and reads what was printed.
pub(crate) fn read_back(deployment: &Deployment, sources: &SecretSources) -> (Deployment, SecretSources) {
    let printed = marshal::print(deployment, sources);
    let application = Source::new("application", printed.application);
    let nodes = Source::new("nodes", printed.deployment);
    let loaded = load(&application, &nodes)
        .unwrap_or_else(|diagnostics| panic!("{}\n{}", joined(&diagnostics), application.text));
    (loaded.resolve(fetch).unwrap(), loaded.sources())
}

#[test]
fn a_definition_without_udp_has_the_hash_that_it_always_had() {
    let port = |number: u16| PortNumber::new(number).unwrap();
    let of = |external: ExternalPort, remote_port: ExternalPort| {
        let mut application = Application::new("dns:1".parse().unwrap());
        let internal = port(53);
        application.ports = [Port { internal, external }].into();
        let link = Link {
            local_port: port(1),
            remote_port,
            alias: "log".parse().unwrap(),
        };
        application.links = vec![link].into();
        application.definition_hash(&DefinitionKey::new([7; 32]))
    };
    let (external, remote_port) = (ExternalPort::tcp(port(53)), ExternalPort::tcp(port(514)));
    let always = DefinitionHash(0xea68_356e_0ede_0a6d_67c2_06a8_f74b_074d);
    assert_eq!(of(external, remote_port), always);
    let others = [
        of(ExternalPort::udp(port(53)), remote_port),
        of(external, ExternalPort::udp(port(514))),
        always,
    ];
    assert_eq!(BTreeSet::from(others).len(), others.len());
}

/// Compares what a definition hash compares, and what it leaves out.
#[track_caller]
pub(crate) fn assert_same(one: &Deployment, other: &Deployment) {
    let key = DefinitionKey::new([7; 32]);
    let summary = |deployment: &Deployment| {
        let applications = deployment.applications().iter();
        applications
            .map(|(name, application)| {
                (
                    name.clone(),
                    application.definition_hash(&key),
                    application.volume.clone(),
                    application.stop_grace,
                    application.depends_on.clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(summary(one), summary(other));
    assert_eq!(one.members(), other.members());
}

#[test]
fn every_code_has_a_case() {
    let mut seen: BTreeMap<Code, PathBuf> = BTreeMap::new();
    for case in INVALID.into_iter().chain(VALID).flat_map(cases) {
        let diagnostics = match case.load() {
            Ok(loaded) => {
                let mut diagnostics = loaded.warnings().to_vec();
                diagnostics.extend(
                    loaded
                        .resolve(|_| Err("it is not there".into()))
                        .err()
                        .into_iter()
                        .flatten(),
                );
                diagnostics
            }
            Err(diagnostics) => diagnostics,
        };
        seen.extend(
            diagnostics
                .into_iter()
                .map(|diagnostic| (diagnostic.code, case.path.clone())),
        );
    }
    let seen: BTreeSet<Code> = seen.into_keys().chain(crate::hostile::codes()).collect();
    let missing: Vec<_> = Code::ALL.iter().filter(|code| !seen.contains(code)).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

#[test]
fn the_tutorials_load() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/configs");
    let read = |name: &str| Source::new(name, fs::read_to_string(root.join(name)).unwrap());
    let mut read_names = BTreeSet::new();
    for (application, deployments) in [
        (
            "mongodb.yml",
            &["mongodb-deployment.yml", "mongodb-moved.yml"][..],
        ),
        ("elk.yml", &["elk-deployment.yml", "elk-moved.yml"]),
        ("postgres.yml", &["postgres-deployment.yml"]),
        ("blog-fig.yml", &["blog-deployment.yml"]),
        ("blog-compose.yml", &["blog-deployment.yml"]),
    ] {
        for deployment in deployments {
            let loaded = load(&read(application), &read(deployment))
                .unwrap_or_else(|diagnostics| panic!("{}", joined(&diagnostics)));
            assert_eq!(loaded.warnings(), [], "{application}");
            loaded.resolve(fetch).unwrap();
            read_names.extend([application, *deployment]);
        }
    }
    for entry in fs::read_dir(&root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            read_names.contains(name.as_str()),
            "{name} is not read by any test"
        );
    }
}

#[test]
fn a_secret_that_cannot_be_fetched_is_shown_where_it_is_named() {
    let application = Source::new(
        "app.yml",
        "version: 1\napplications:\n  web:\n    image: x\n    environment:\n      A: {from_file: a}\n      B: {from_environment: B}\n      C: {from_file: a}\n",
    );
    let nodes = Source::new("nodes.yml", "{version: 1, nodes: {alpha: [web]}}");
    let loaded = load(&application, &nodes).unwrap();
    let mut asked = Vec::new();
    let diagnostics = loaded
        .resolve(|source| {
            asked.push(source.to_string());
            Err("it is not there".into())
        })
        .unwrap_err();
    assert_eq!(asked, ["file `a`", "environment variable `B`"]);
    let places: Vec<_> = diagnostics
        .iter()
        .map(|diagnostic| diagnostic.place.line)
        .collect();
    assert_eq!(places, [6, 7, 8]);
    assert!(loaded.resolve(|_| Ok("a\0b".into())).is_err());

    let deployment = loaded.resolve(|_| Ok("hunter2\r\n".into())).unwrap();
    let environment = &deployment.applications().values().next().unwrap().environment;
    let revealed = |name: &str| match &environment[name] {
        flocker_model::EnvironmentValue::Secret(secret) => secret.reveal().to_owned(),
        flocker_model::EnvironmentValue::Plain(value) => panic!("`{value}` is no secret"),
    };
    assert_eq!(revealed("A"), "hunter2");
    assert_eq!(revealed("B"), "hunter2\r\n");
    // Without its source, a secret is a comment and not a value.
    let printed = marshal::print(&deployment, &SecretSources::new()).application;
    assert!(
        printed.contains("# A: secret") && !printed.contains("hunter2"),
        "{printed}"
    );
    assert!(!format!("{loaded:?}{deployment:?}").contains("hunter2"));
}

#[test]
fn no_message_shows_a_value_of_the_environment() {
    let application = Source::new(
        "app.yml",
        "{version: 1, applications: {a: {image: x, environment: {A: 31337, B: [31337], C: \"31337\\0\"}}}}",
    );
    let nodes = Source::new("nodes.yml", "{version: 1, nodes: {alpha: [a]}}");
    let diagnostics = load(&application, &nodes).unwrap_err();
    assert_eq!(diagnostics.len(), 3);
    assert!(!format!("{diagnostics:?}").contains("31337"));
    let json = serde_json::to_value(&diagnostics[0]).unwrap();
    assert_eq!(json["severity"], "error");
    assert_eq!(json["code"], "wrong-type");
    assert_eq!(json["place"]["line"], 1);
}

#[test]
fn a_volume_without_an_id_has_the_one_of_flocker_1_3() {
    for (name, id) in [
        ("myapp", "8358a413-eaf7-4ed7-8c99-8b8a083871af"),
        ("elasticsearch", "18897dcf-ce6a-4e7a-a63a-3baeed443c48"),
        ("mongodb-volume-example", "e83b21be-2d1a-4bd5-bee3-43dfa025f6e8"),
    ] {
        let nodes = Source::new("nodes", format!("{{version: 1, nodes: {{alpha: [{name}]}}}}"));
        for text in [
            format!("{{version: 1, applications: {{{name}: {{image: x, volume: {{mountpoint: /a}}}}}}}}"),
            format!("{{services: {{{name}: {{image: x, volumes: [/a]}}}}}}"),
            format!("{{{name}: {{image: x, volumes: [/a]}}}}"),
        ] {
            let loaded = load(&Source::new("app", text), &nodes).unwrap();
            let deployment = loaded.resolve(fetch).unwrap();
            let application = deployment.applications().values().next().unwrap();
            assert_eq!(application.volume.as_ref().unwrap().dataset.to_string(), id);
        }
    }
}

#[test]
fn a_dataset_of_compose_is_known_by_its_service_and_not_by_the_name_of_its_volume() {
    let dataset = |service: &str, volume: &str| {
        let nodes = Source::new("nodes", format!("{{version: 1, nodes: {{alpha: [{service}]}}}}"));
        let text = format!(
            "{{services: {{{service}: {{image: x, volumes: [\"{volume}:/data\"]}}}}, volumes: {{{volume}: {{}}}}}}"
        );
        let loaded = load(&Source::new("app", text), &nodes).unwrap();
        let deployment = loaded.resolve(fetch).unwrap();
        let application = deployment.applications().values().next().unwrap();
        application.volume.as_ref().unwrap().dataset
    };
    assert_eq!(dataset("db", "pg"), dataset("db", "other"));
    assert_ne!(dataset("db", "pg"), dataset("database", "pg"));
}

#[test]
fn line_ends_and_byte_order_marks_of_other_systems_change_nothing() {
    for case in cases("valid") {
        let Some(nodes) = &case.nodes else { continue };
        let other = |source: &Source| {
            let text = source.text.replace('\n', "\r\n");
            Source::new(source.name.as_str(), format!("\u{feff}{text}"))
        };
        let one = case.load().unwrap().resolve(fetch).unwrap();
        let two = load(&other(&case.application), &other(nodes)).unwrap();
        assert_same(&one, &two.resolve(fetch).unwrap());
    }
}
