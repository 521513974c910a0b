//! The live peer of planning: `terraform plan` on as many objects, in turn with `flocker plan`, on the same machine.
//!
//! Terraform's objects are `terraform_data`, which need no provider, and its
//! state file is written by hand: applying ten thousand takes it minutes. Both
//! programs read their files, find one change and print a plan.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use flocker_model::config::SecretSources;
use flocker_model::config::marshal;

use crate::child;
use crate::child::Cost;
use crate::cluster::Change;
use crate::cluster::Shape;
use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;
use crate::planning::Effort;
use crate::report;

/// How many times faster, and how many times smaller, `flocker plan` is to be.
const TIMES_FASTER: f64 = 100.0;
const TIMES_SMALLER: f64 = 20.0;

/// How to run `flocker plan`.
#[derive(Debug, Args)]
pub struct Options {
    /// The `flocker` to run beside terraform
    #[arg(long, value_name = "PROGRAM")]
    flocker: Option<PathBuf>,
    /// How it is told to plan: `{deployment}`, `{application}` and `{state}` stand for files that are written for it
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "plan {deployment} {application} --state {state}"
    )]
    flocker_arguments: String,
    /// How many runs of each
    #[arg(long, value_name = "N", default_value_t = 5)]
    alternations: usize,
}

/// Runs both in turn. What is not installed is left out, and said to be.
pub fn measure(effort: Effort, options: &Options, figures: &mut Figures) -> io::Result<()> {
    let Some(terraform) = child::find("terraform") else {
        figures.note("LEFT OUT: the comparison with terraform, which is not installed");
        return Ok(());
    };
    let n_objects = match effort {
        Effort::Quick => 1000,
        Effort::Full => 10_000,
    };
    let shape = Shape::new(n_objects / 10, n_objects);
    let directory = tempfile::tempdir()?;
    let peer = directory.path().join("terraform");
    fs::create_dir(&peer)?;
    prepare(&terraform, &peer, n_objects)?;
    let ours = if let Some(flocker) = &options.flocker {
        Some(files(
            flocker,
            &options.flocker_arguments,
            directory.path(),
            &shape,
        )?)
    } else {
        figures.note("LEFT OUT: `flocker plan` beside terraform: say with --flocker which program");
        None
    };
    let (mut theirs, mut own) = (Vec::new(), Vec::new());
    for _ in 0..options.alternations {
        theirs.push(run(&terraform, &plan_arguments(), &peer, &[0])?);
        if let Some((flocker, arguments)) = &ours {
            own.push(run(flocker, arguments, directory.path(), &[0, 3])?);
        }
    }
    let median = |costs: &[Cost], what: fn(&Cost) -> f64, name: &str, unit| {
        Figure::new(name, unit, costs.iter().map(what).collect())
    };
    let name = format!("terraform plan, one change in {n_objects}");
    let their_time = median(&theirs, |cost| cost.seconds, &name, Unit::Seconds);
    let their_memory = median(
        &theirs,
        |cost| cost.bytes,
        &format!("{name}: peak memory"),
        Unit::Bytes,
    );
    if ours.is_some() {
        let name = format!("flocker plan, one change in {n_objects}");
        let time = median(&own, |cost| cost.seconds, &name, Unit::Seconds);
        let memory = median(
            &own,
            |cost| cost.bytes,
            &format!("{name}: peak memory"),
            Unit::Bytes,
        );
        figures.add(time.at_most(their_time.median / TIMES_FASTER));
        figures.add(memory.at_most(their_memory.median / TIMES_SMALLER));
    }
    figures.add(their_time);
    figures.add(their_memory);
    Ok(())
}

fn run(program: &Path, arguments: &[String], directory: &Path, expected: &[i32]) -> io::Result<Cost> {
    let cost = child::cost(program, arguments, directory)?;
    if cost.status.is_some_and(|status| expected.contains(&status)) {
        Ok(cost)
    } else {
        let shown = program.display();
        Err(io::Error::other(format!(
            "`{shown} {}` failed: {:?}",
            arguments.join(" "),
            cost.status
        )))
    }
}

fn plan_arguments() -> Vec<String> {
    ["plan", "-refresh=false", "-input=false", "-no-color", "-out=p"]
        .map(String::from)
        .into()
}

/// Writes the files of `flocker plan` and returns how to run it.
fn files(flocker: &Path, words: &str, directory: &Path, shape: &Shape) -> io::Result<(PathBuf, Vec<String>)> {
    let printed = marshal::print(&shape.desired(Change::One), &SecretSources::default());
    let application = directory.join("application.yml");
    let deployment = directory.join("deployment.yml");
    fs::write(&application, printed.application)?;
    fs::write(&deployment, printed.deployment)?;
    let state = directory.join("state.json");
    let document = report::document(&shape.actual(Change::One));
    fs::write(&state, serde_json::to_vec(&document)?)?;
    let arguments = words.split_whitespace().map(|word| {
        word.replace("{application}", &application.display().to_string())
            .replace("{deployment}", &deployment.display().to_string())
            .replace("{state}", &state.display().to_string())
    });
    Ok((flocker.canonicalize()?, arguments.collect()))
}

/// Writes a configuration and a state that differ in one object.
///
/// Fails where terraform does not find exactly that: then the state is not the one that was meant.
fn prepare(terraform: &Path, directory: &Path, n_objects: u32) -> io::Result<()> {
    let (mut configuration, mut resources) = (String::new(), Vec::new());
    for object in 0..n_objects {
        let value = serde_json::json!({
            "image": "service:1.0", "port": object, "volume": "/var/lib/service", "node": format!("node-{}", object % 1000),
        });
        let kind = serde_json::json!([
            "object", {"image": "string", "port": "number", "volume": "string", "node": "string"}
        ]);
        let tag = if object == 0 { "1.1" } else { "1.0" };
        writeln!(
            configuration,
            "resource \"terraform_data\" \"app{object}\" {{ input = {{ image=\"service:{tag}\", port={object}, \
             volume=\"/var/lib/service\", node=\"node-{}\" }} }}",
            object % 1000
        )
        .map_err(io::Error::other)?;
        let dynamic = serde_json::json!({"value": value, "type": kind});
        resources.push(serde_json::json!({
            "mode": "managed", "type": "terraform_data", "name": format!("app{object}"),
            "provider": "provider[\"terraform.io/builtin/terraform\"]",
            "instances": [{"schema_version": 0, "sensitive_attributes": [], "attributes": {
                "id": uuid::Uuid::from_u128(object.into()).to_string(),
                "input": dynamic, "output": dynamic, "triggers_replace": null,
            }}],
        }));
    }
    let state = serde_json::json!({
        "version": 4, "terraform_version": "1.11.4", "serial": 1,
        "lineage": uuid::Uuid::from_u128(1).to_string(), "outputs": {}, "resources": resources, "check_results": null,
    });
    fs::write(directory.join("main.tf"), configuration)?;
    fs::write(directory.join("terraform.tfstate"), serde_json::to_vec(&state)?)?;
    let talk = |arguments: &[String]| {
        let output = child::output(terraform, arguments, directory)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(io::Error::other(text + &String::from_utf8_lossy(&output.stderr)))
        }
    };
    talk(&["init".into(), "-input=false".into()])?;
    let planned = talk(&plan_arguments())?;
    if planned.contains("Plan: 0 to add, 1 to change, 0 to destroy") {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "terraform does not find exactly one change:\n{planned}"
        )))
    }
}
