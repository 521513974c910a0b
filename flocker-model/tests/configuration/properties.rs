use std::collections::BTreeMap;
use std::fmt::Debug;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use flocker_model::Application;
use flocker_model::ApplicationName;
use flocker_model::AtBoot;
use flocker_model::ByteSize;
use flocker_model::DatasetId;
use flocker_model::Deployment;
use flocker_model::EnvironmentValue;
use flocker_model::ExternalPort;
use flocker_model::HealthCheck;
use flocker_model::HealthProbe;
use flocker_model::Limits;
use flocker_model::Link;
use flocker_model::Member;
use flocker_model::NodeAddress;
use flocker_model::NodeId;
use flocker_model::NodeSetup;
use flocker_model::Port;
use flocker_model::PortNumber;
use flocker_model::Protocol;
use flocker_model::RestartPolicy;
use flocker_model::RouterKind;
use flocker_model::RuntimeKind;
use flocker_model::Secret;
use flocker_model::Volume;
use flocker_model::VolumeKind;
use flocker_model::config::SecretSource;
use flocker_model::config::SecretSources;
use flocker_model::config::Source;
use flocker_model::config::load;
use proptest::collection::btree_map;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use crate::corpus;

fn text() -> impl Strategy<Value = Box<str>> {
    prop_oneof![
        "[^\0]{0,12}",
        "[ -~]{0,12}",
        "(yes|no|null|~|0x1F|22:22|1e3|<<|- a|a: b|#|\\{a\\}|true|=)",
    ]
    .prop_map(Into::into)
}

fn port() -> impl Strategy<Value = PortNumber> {
    (1..=u16::MAX).prop_map(|number| PortNumber::new(number).unwrap())
}

fn external() -> impl Strategy<Value = ExternalPort> {
    (port(), select(Protocol::WORDS)).prop_map(|(number, protocol)| ExternalPort {
        number,
        protocol: protocol.parse().unwrap(),
    })
}

fn name() -> impl Strategy<Value = ApplicationName> {
    prop_oneof![
        "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,6}",
        "(null|yes|true|1e3|0|image|version)"
    ]
    .prop_map(|name| name.parse().unwrap())
}

fn duration(least: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![
        (least..1_000_000).prop_map(Duration::from_secs),
        (least..1_000_000_000_000).prop_map(Duration::from_nanos),
    ]
}

fn restart_policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::Never),
        Just(RestartPolicy::Always),
        any::<u32>().prop_map(|count| RestartPolicy::OnFailure {
            maximum_retry_count: NonZeroU32::new(count % 10),
        }),
    ]
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let probe = prop_oneof![
        port().prop_map(|port| HealthProbe::Tcp { port }),
        (port(), "/[!-~]{0,9}").prop_map(|(port, path)| HealthProbe::Http {
            port,
            path: path.into()
        }),
        ("[^\0]{1,9}", vec(text(), 0..3)).prop_map(|(program, rest)| {
            HealthProbe::Command(std::iter::once(program.into()).chain(rest).collect())
        }),
    ];
    (probe, duration(1), duration(1), 1..u32::MAX).prop_map(|(probe, interval, timeout, retries)| {
        HealthCheck {
            probe,
            interval,
            timeout,
            retries: NonZeroU32::new(retries).unwrap(),
        }
    })
}

fn value() -> impl Strategy<Value = (EnvironmentValue, Option<SecretSource>)> {
    let secret = |source: SecretSource| {
        let content = corpus::fetch(&source).unwrap();
        (EnvironmentValue::Secret(Secret::new(content)), Some(source))
    };
    prop_oneof![
        text().prop_map(|text| (EnvironmentValue::Plain(text), None)),
        "[^\0]{1,9}".prop_map(move |path| secret(SecretSource::File(path.into()))),
        "[^\0=]{1,9}".prop_map(move |name| secret(SecretSource::Environment(name.into()))),
    ]
}

type Environment = BTreeMap<String, (EnvironmentValue, Option<SecretSource>)>;

/// An application without what it shares with others: external ports, dataset, dependencies.
fn application() -> impl Strategy<Value = (Application, Environment)> {
    let image = "[a-z0-9_/@][!-9;-~]{0,12}(:[a-z0-9.]{1,5})?";
    let link = (external(), port(), name());
    let volume = (
        "(/[^\0-\u{1f}\u{7f}-\u{9f}:./]{1,8}){1,3}",
        option::of(1..i64::MAX as u64),
    );
    let limits = (option::of(1..i64::MAX as u64), option::of(2..=262_144_u32));
    let rest = (restart_policy(), option::of(health_check()), duration(0));
    (
        image,
        vec(text(), 0..3),
        vec((port(), select(Protocol::WORDS)), 0..3),
        btree_map((port(), name()), link, 0..3),
        option::of(volume),
        btree_map("[^=\0]{1,9}", value(), 0..4),
        limits,
        rest,
    )
        .prop_filter_map(
            "the image must be one",
            |(image, command_line, ports, links, volume, environment, limits, rest)| {
                let mut application = Application::new(image.parse().ok()?);
                application.command_line = command_line.into();
                application.ports = ports
                    .into_iter()
                    .map(|(internal, protocol)| Port {
                        internal,
                        external: ExternalPort {
                            number: internal,
                            protocol: protocol.parse().unwrap(),
                        },
                    })
                    .collect();
                application.links = links
                    .into_iter()
                    .map(|((local_port, alias), (remote_port, _, _))| Link {
                        local_port,
                        remote_port,
                        alias,
                    })
                    .collect();
                application.volume = volume.map(|(mountpoint, size)| Volume {
                    dataset: DatasetId(uuid::Uuid::nil()),
                    mountpoint: mountpoint.into(),
                    maximum_size: size.map(ByteSize),
                });
                let (memory, cpu_shares) = limits;
                application.limits = Limits {
                    memory: memory.map(ByteSize),
                    cpu_shares,
                };
                let (restart_policy, health_check, stop_grace) = rest;
                application.restart_policy = restart_policy;
                application.health_check = health_check.map(Box::new);
                application.stop_grace = stop_grace;
                Some((application, environment))
            },
        )
}

fn address() -> impl Strategy<Value = NodeAddress> {
    let host = "[a-zA-Z0-9:][a-zA-Z0-9_.:-]{0,9}";
    (host, option::of("[a-z0-9_.][a-z0-9_.-]{0,5}"), option::of(port()))
        .prop_map(|(host, user, port)| NodeAddress::Ssh { host, user, port })
}

fn setup() -> impl Strategy<Value = NodeSetup> {
    fn word<T: FromStr<Err: Debug> + Clone + Debug>(
        words: &'static [&'static str],
    ) -> impl Strategy<Value = Option<T>> {
        option::of(select(words).prop_map(|word| word.parse().unwrap()))
    }
    let pool = option::of("[a-z][a-z0-9_.:/-]{0,6}");
    let words = (
        word(VolumeKind::WORDS),
        word(RuntimeKind::WORDS),
        word(RouterKind::WORDS),
        word(AtBoot::WORDS),
    );
    let ports = option::of((1..100_u16, 100..=u16::MAX));
    (pool, words, ports).prop_map(|(pool, (volumes, runtime, router, at_boot), ports)| NodeSetup {
        pool: pool
            .filter(|_| volumes != Some(VolumeKind::Directory))
            .map(|pool| pool.parse().unwrap()),
        volumes,
        runtime,
        router,
        transfer_ports: ports.map(|(first, last)| format!("{first}-{last}").parse().unwrap()),
        // Programs of the machine itself are not started at boot.
        at_boot: at_boot.filter(|_| runtime != Some(RuntimeKind::Process)),
    })
}

prop_compose! {
    pub(crate) fn deployment()(
        applications in btree_map(name(), (application(), option::of(any::<u128>())), 0..5),
        nodes in btree_map("[a-z0-9:][a-z0-9_.:-]{0,6}", (option::of(address()), option::of(any::<u128>()), setup()), 1..4),
        seed in any::<usize>(),
    ) -> (Deployment, SecretSources) {
        let mut sources = SecretSources::new();
        let mut builder = Deployment::builder();
        let mut external: u16 = 0;
        let mut earlier: Vec<ApplicationName> = Vec::new();
        let nodes: Vec<_> = nodes.into_iter().enumerate().map(|(at, (name, (address, id, setup)))| {
            let mut member = Member::empty();
            member.setup = setup;
            // Two nodes never share a host or an id.
            member.address = address.map(|address| match address {
                NodeAddress::Ssh { host, user, port } => NodeAddress::Ssh { host: format!("{host}-{at}"), user, port },
                local @ NodeAddress::Local { .. } => local,
            });
            member.id = id.map(|id| NodeId(uuid::Uuid::from_u128(id ^ at as u128)));
            (name.parse().unwrap(), member)
        }).collect();
        for (name, member) in &nodes {
            builder = builder.node(flocker_model::NodeName::clone(name), member.clone());
        }
        for (at, (name, ((mut application, environment), dataset))) in applications.into_iter().enumerate() {
            for port in &mut application.ports {
                // Every number stands for two ports.
                external += 1;
                port.external.number = PortNumber::new(external / 2 + 1).unwrap();
                port.external.protocol = Protocol::ALL[usize::from(external % 2)];
            }
            if let Some(volume) = &mut application.volume {
                let chosen = dataset.map(|id| DatasetId(uuid::Uuid::from_u128(id ^ at as u128)));
                volume.dataset = chosen.unwrap_or_else(|| DatasetId::derived(&name));
            }
            for (variable, (value, source)) in environment {
                if let Some(source) = source {
                    sources.insert((name.clone(), variable.as_str().into()), source);
                }
                application.environment.insert(variable.into(), value);
            }
            application.depends_on = earlier.iter().take(seed % 3).cloned().collect();
            builder = builder.place(&name, &nodes[(seed / 7 + at) % nodes.len()].0);
            earlier.push(name.clone());
            builder = builder.application(name, application);
        }
        (builder.build().unwrap(), sources)
    }
}

proptest! {
    #[test]
    fn what_is_printed_reads_back_the_same((deployment, sources) in deployment()) {
        let (again, sources_again) = corpus::read_back(&deployment, &sources);
        corpus::assert_same(&deployment, &again);
        prop_assert_eq!(sources, sources_again);
    }

    #[test]
    fn no_text_makes_the_reader_panic(one in ".{0,200}", other in "[ -~\n\t]{0,200}") {
        // Letters alone never are two right files.
        prop_assert!(load(&Source::new("a", one), &Source::new("b", other)).is_err());
    }

    /// Pieces that mean something get deeper than letters do.
    #[test]
    fn no_sequence_of_pieces_makes_the_reader_panic(pieces in vec(prop_oneof![
        Just("version: 1\n"), Just("applications:\n"), Just("nodes:\n"), Just("services:\n"), Just("  a:\n"),
        Just("    image: x\n"), Just("    ports: "), Just("    environment: "), Just("["), Just("]"), Just("{"),
        Just("}"), Just(", "), Just("- "), Just("a"), Just(": "), Just("&a "), Just("*a"), Just("<<"), Just("!!str "),
        Just("\""), Just("'"), Just("\n"), Just("  "), Just("|\n"), Just("? "), Just("---\n"), Just("80:80"),
        Just("é"), Just("$x"), Just("#"), Just("\\"), Just("\r\n"), Just("%"), Just("internal: 5"),
    ], 0..60)) {
        let text = pieces.concat();
        let nodes = Source::new("b", "{version: 1, nodes: {x: [a]}}");
        if let Err(diagnostics) = load(&Source::new("a", text.as_str()), &nodes) {
            for diagnostic in diagnostics.iter().filter(|diagnostic| diagnostic.place.file.as_ref() == "a") {
                prop_assert!(diagnostic.place.excerpt(&text).is_some());
                prop_assert!(text.get(diagnostic.place.span.range()).is_some(), "{:?}", diagnostic);
            }
        }
    }
}
