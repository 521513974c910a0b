//! Texts that are too large to keep as files: what a file can say in order to cost more than it is worth.

use std::fmt::Write as _;

use flocker_model::config::Code;

/// The most text that a file may have.
const MOST: usize = 5 << 19;

/// Two files, and what they are refused for; nothing where they are right, however long that takes to say.
pub(crate) struct Hostile {
    pub(crate) name: &'static str,
    pub(crate) code: Option<Code>,
    pub(crate) application: String,
    pub(crate) deployment: String,
}

/// Returns all of them.
pub(crate) fn texts() -> Vec<Hostile> {
    let mut all = yaml();
    all.extend(keys_and_values());
    all.extend(applications());
    all.extend(services());
    all.extend(deployments());
    all
}

fn hostile(name: &'static str, code: Code, application: impl Into<String>) -> Hostile {
    Hostile {
        name,
        code: Some(code),
        application: application.into(),
        deployment: "{version: 1, nodes: {}}".into(),
    }
}

/// Writes so many lines between a beginning and an end.
fn lines(start: &str, n_lines: usize, line: impl Fn(usize) -> String, end: &str) -> String {
    let mut text = String::from(start);
    for number in 0..n_lines {
        text.push_str(&line(number));
    }
    text + end
}

fn yaml() -> Vec<Hostile> {
    let quadratic = format!("a: &a {:?}\nb: [{}]\n", "x".repeat(20_000), "*a, ".repeat(20_000));
    let chain = lines(
        "a0: &a0 {k: v}\n",
        3_000,
        |i| format!("a{}: &a{} {{<<: *a{i}, k{i}: v}}\n", i + 1, i + 1),
        "",
    );
    let laughs = lines(
        "a0: &a0 [lol]\n",
        20,
        |i| {
            let ten = format!("*a{i}, ").repeat(10);
            format!("a{}: &a{} [{ten}]\n", i + 1, i + 1)
        },
        "",
    );
    let anchors = lines("[", 100_000, |i| format!("&a{i} x, "), "]");
    let indented = lines("", 1_500, |i| format!("{}a:\n", " ".repeat(i)), "");
    let long_name = "n".repeat(1 << 20);
    vec![
        hostile(
            "a file that is too large",
            Code::FileTooLarge,
            "a".repeat(MOST + 1),
        ),
        hostile(
            "a million values in one line",
            Code::TooManyValues,
            format!("[{}]", "a,".repeat(1_000_000)),
        ),
        hostile(
            "a million keys in one line",
            Code::TooManyValues,
            format!("{{{}}}", "a,".repeat(1_000_000)),
        ),
        hostile(
            "half a million items, one to a line",
            Code::TooManyValues,
            "- a\n".repeat(MOST / 4),
        ),
        hostile("square brackets", Code::NestedTooDeeply, "[".repeat(MOST)),
        hostile("dashes", Code::NestedTooDeeply, "- ".repeat(MOST / 2)),
        hostile("braces", Code::NestedTooDeeply, "{a: ".repeat(MOST / 4)),
        hostile("question marks", Code::NestedTooDeeply, "? ".repeat(MOST / 2)),
        hostile("deeper and deeper indentation", Code::NestedTooDeeply, indented),
        hostile(
            "aliases of a long text",
            Code::TooManyAliases,
            format!("{quadratic}c: &c [{}]\n", "*a, ".repeat(20_000)),
        ),
        hostile("merges of merges", Code::TooManyAliases, chain),
        hostile("a billion laughs", Code::TooManyAliases, laughs),
        hostile("a hundred thousand anchors", Code::TooManyAliases, anchors),
        hostile(
            "an anchor with a name of a megabyte",
            Code::WrongType,
            format!("&{long_name} x"),
        ),
        hostile("anchors in a row", Code::YamlSyntax, "&a ".repeat(MOST / 3)),
        hostile("tags in a row", Code::YamlSyntax, "!a ".repeat(MOST / 3)),
        hostile("NULs", Code::YamlSyntax, "\u{0}".repeat(MOST)),
        hostile("one quote", Code::YamlSyntax, "\""),
        hostile(
            "a quote that never ends",
            Code::YamlSyntax,
            format!("\"{}", "x\n".repeat(MOST / 2 - 1)),
        ),
        hostile("documents", Code::SeveralDocuments, "--- a\n".repeat(MOST / 6)),
        hostile("comments alone", Code::WrongType, "# \n".repeat(MOST / 3)),
        hostile("line ends alone", Code::WrongType, "\r\n".repeat(MOST / 2)),
        hostile(
            "tabs alone",
            Code::YamlSyntax,
            format!("a:\n{}b", "\t".repeat(MOST - 10)),
        ),
    ]
}

fn keys_and_values() -> Vec<Hostile> {
    vec![
        hostile("one plain text", Code::WrongType, "x".repeat(MOST)),
        hostile("one text of many lines", Code::WrongType, "x\n".repeat(MOST / 2)),
        hostile(
            "one literal text",
            Code::WrongType,
            format!("|\n{}", " x\n".repeat(MOST / 3 - 1)),
        ),
        hostile(
            "one folded text",
            Code::WrongType,
            format!(">\n{}", " x\n\n".repeat(MOST / 4 - 1)),
        ),
        hostile(
            "one text of escapes",
            Code::WrongType,
            format!("\"{}\"", "\\x01".repeat(500_000)),
        ),
        hostile(
            "a key of a megabyte",
            Code::UnknownFile,
            format!("{{? {} : 1}}", "k".repeat(1 << 20)),
        ),
        hostile(
            "one key again and again",
            Code::DuplicateKey,
            "a: 1\n".repeat(120_000),
        ),
        hostile(
            "keys of nothing, one to a line",
            Code::UnknownKey,
            lines(
                "version: 1\napplications: {}\n",
                120_000,
                |i| format!("k{i}: 1\n"),
                "",
            ),
        ),
        hostile(
            "keys of nothing in one line",
            Code::UnknownKey,
            lines(
                "{version: 1, applications: {}",
                120_000,
                |i| format!(", k{i}: 1"),
                "}",
            ),
        ),
    ]
}

const APPLICATION: &str = "version: 1\napplications:\n  a:\n    image: x\n";
const SERVICE: &str = "services:\n  a:\n    image: x\n";

/// Returns names of the greatest length, which are near to each other.
fn long_name(number: usize) -> String {
    format!("{}{number:05}{}", "a".repeat(28), "b".repeat(28))
}

/// Variables whose names come in the order that is the most work to put right.
fn variables(name: &'static str, start: &str) -> Hostile {
    let text = lines(
        &format!("{start}    environment:\n"),
        120_000,
        |i| format!("      V{}: x\n", 900_000 - i),
        "",
    );
    Hostile {
        code: None,
        ..hostile(name, Code::WrongType, text)
    }
}

fn applications() -> Vec<Hostile> {
    let many = lines(
        "version: 1\napplications:\n",
        9_000,
        |i| format!("  {}: {{image: x}}\n", long_name(i)),
        "",
    );
    vec![
        hostile(
            "dependencies on nothing",
            Code::UnknownApplication,
            lines(APPLICATION, 100_000, |i| format!("    - u-{i}\n"), "").replacen(
                "    - ",
                "    depends_on:\n    - ",
                1,
            ),
        ),
        hostile(
            "long names that nothing bears among many that are like them",
            Code::UnknownApplication,
            lines(
                &format!("{many}  z:\n    image: x\n    depends_on:\n"),
                2_000,
                |i| format!("    - {}\n", long_name(i).replace('a', "c").replace("cc", "ac")),
                "",
            ),
        ),
        variables("variables against the order of their names", APPLICATION),
        hostile(
            "a variable with a name of a megabyte and no text",
            Code::WrongType,
            format!(
                "{APPLICATION}    environment: {{? {} : [x]}}\n",
                "V".repeat(1 << 20)
            ),
        ),
        hostile(
            "one port again and again",
            Code::PortClaimedTwice,
            lines(
                &format!("{APPLICATION}    ports:\n"),
                35_000,
                |_| "    - {internal: 80, external: 80}\n".into(),
                "",
            ),
        ),
        hostile(
            "one link again and again",
            Code::LinkClaimedTwice,
            lines(
                &format!("{APPLICATION}    links:\n"),
                30_000,
                |_| "    - {local_port: 1, remote_port: 1, alias: b}\n".into(),
                "",
            ),
        ),
        Hostile {
            code: None,
            ..hostile(
                "places for many ports that are not there among many that are",
                Code::UnfilledPlace,
                lines(
                    &lines(
                        &format!("{APPLICATION}    ports:\n"),
                        25_000,
                        |i| format!("    - {{internal: {}, external: {}}}\n", i + 1, i + 1),
                        "    command_line:\n",
                    ),
                    60_000,
                    |i| format!("    - '{{port:{}}}'\n", i + 30_000),
                    "",
                ),
            )
        },
        Hostile {
            code: None,
            ..hostile(
                "braces of which one ends, and braces that end",
                Code::UnfilledPlace,
                format!(
                    "{APPLICATION}    command_line: ['{}}}', '{}']\n",
                    "{".repeat(900_000),
                    "{vol}".repeat(200_000)
                ),
            )
        },
        hostile(
            "a circle of ten thousand",
            Code::DependencyCycle,
            lines(
                "version: 1\napplications:\n",
                10_000,
                |i| format!("  a{i}: {{image: x, depends_on: [a{}]}}\n", (i + 1) % 10_000),
                "",
            ),
        ),
    ]
}

fn services() -> Vec<Hostile> {
    vec![
        variables("variables of a service against the order of their names", SERVICE),
        hostile(
            "links of services that stand for many ports each",
            Code::TooManyValues,
            lines(
                &lines(
                    &format!("{SERVICE}    ports:\n"),
                    5_000,
                    |i| format!("    - \"{}:80\"\n", i + 1),
                    "  b:\n    image: x\n    links:\n",
                ),
                50_000,
                |i| format!("    - a:l{i}\n"),
                "",
            ),
        ),
        hostile(
            "volumes that are not declared among many that are like them",
            Code::UnknownVolume,
            lines(
                &lines(
                    "services:\n",
                    2_000,
                    |i| {
                        format!(
                            "  s{i}: {{image: x, volumes: ['{}:/d']}}\n",
                            long_name(i).replace('a', "c")
                        )
                    },
                    "volumes:\n",
                ),
                9_000,
                |i| format!("  {}:\n", long_name(i)),
                "",
            ),
        ),
        hostile(
            "a command of one quote",
            Code::BadCommand,
            format!("{SERVICE}    command: '\"{}'\n", "x ".repeat(900_000)),
        ),
        hostile(
            "dollars",
            Code::Interpolation,
            format!("{SERVICE}    command: '{}${{a}}'\n", "$$".repeat(900_000)),
        ),
    ]
}

fn deployments() -> Vec<Hostile> {
    let mut applications = String::from("version: 1\napplications:\n");
    for number in 0..10 {
        writeln!(applications, "  a{number}: {{image: x}}").expect("a text takes more text");
    }
    let with = |name, code, deployment| Hostile {
        name,
        code: Some(code),
        application: applications.clone(),
        deployment,
    };
    let placed = lines("", 110_000, |i| format!("b{i:x},"), "");
    vec![
        with(
            "placed on one node again and again",
            Code::PlacedTwice,
            format!(
                "{{version: 1, nodes: {{n: [{placed}{}]}}}}",
                "b0,".repeat(110_000)
            ),
        ),
        with(
            "applications that nothing defines",
            Code::UnknownApplication,
            format!("{{version: 1, nodes: {{n: [{placed}]}}}}"),
        ),
        Hostile {
            code: None,
            ..with(
                "nodes of many addresses",
                Code::NodeNamedTwice,
                lines(
                    "version: 1\nnodes:\n",
                    50_000,
                    |i| format!("  '::{i:x}': []\n"),
                    "",
                ),
            )
        },
        with(
            "nodes of one address",
            Code::NodeNamedTwice,
            lines(
                "version: 1\nnodes:\n",
                50_000,
                |i| format!("  n{i}: {{address: m}}\n"),
                "",
            ),
        ),
    ]
}
