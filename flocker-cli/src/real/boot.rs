//! What a node does by itself after its machine has started anew, where the deployment file asks for it.
//!
//! The choice is nowhere but in the unit: where systemd has a unit of ours for
//! this directory, the node starts again what it may. Only a deploy makes or
//! removes it; who only looks leaves it as it is.

mod unit;
mod waking;

use std::fs::File;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use flocker_backends::Change;
use flocker_model::AtBoot;
use flocker_model::RuntimeKind;

use super::examine::Finding;
use super::examine::Weight;
use super::kept;
use super::machine::ask_for;
use super::machine::has;
use super::settings::Settings;
use super::settings::Wanted;
use crate::error::Failure;
use unit::Unit;

pub(crate) use waking::wake;

/// Where systemd has the units of this machine.
const UNITS: &str = "/etc/systemd/system";

/// No application has it: their units begin with `flocker-`.
const NAME: &str = "flocker.service";

/// How long systemd may take: it reads everybody's units anew.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Returns the program that the unit of a node runs; nothing where the node has none.
pub(super) fn program_of(directory: &Path) -> Option<PathBuf> {
    // One that cannot be read is found out when it is to be changed.
    let unit = read(Path::new(UNITS)).ok().flatten()?;
    (unit.directory == directory).then_some(unit.program)
}

/// Says what keeps a node from starting its applications at boot.
pub(super) fn hindrance(settings: &Settings) -> Option<Finding> {
    let problem = |said: &str, hint: &str| Some(Finding::new("boot", Weight::Problem, said).hint(hint));
    let instead = "write `at_boot: wait`, and deploy after each start of the machine";
    match settings.runtime {
        RuntimeKind::Docker | RuntimeKind::Systemd => {}
        RuntimeKind::Process => {
            return problem("`at_boot: start` is not for `runtime: process`", instead);
        }
    }
    if !rustix::process::geteuid().is_root() {
        return problem("only root can have a unit started with the machine", instead);
    }
    if !Path::new("/run/systemd/system").is_dir() || !has("systemctl") {
        return problem("systemd does not run this machine", instead);
    }
    None
}

/// Makes it so that a node does at boot what the deployment file says. Where that says nothing, it stays as it is.
///
/// Done twice, the second time does nothing. Dropped half way, or where it fails: as it was, or as it is to be, or a
/// unit that does not start by itself.
pub(super) async fn settle(directory: &Path, wanted: &Wanted) -> Result<Change, Failure> {
    let Some(at_boot) = wanted.setup.at_boot else {
        return Ok(Change::AlreadySo);
    };
    let failed = || {
        Failure::failed(format!(
            "{} could not be set to `at_boot: {at_boot}`",
            wanted.name
        ))
    };
    let settings =
        Settings::load(directory)?.ok_or_else(|| failed().hint("it was never set up as a node"))?;
    let units = Path::new(UNITS);
    let found = read(units).map_err(|error| failed().because(&error))?;
    if let Some(other) = found.as_ref().filter(|unit| unit.directory != directory) {
        return match at_boot {
            AtBoot::Wait => Ok(Change::AlreadySo),
            AtBoot::Start => Err(failed().hint(format!(
                "`{UNITS}/{NAME}` is of the node in `{}`, and a machine has one",
                other.directory.display()
            ))),
        };
    }
    match at_boot {
        AtBoot::Start => {
            if let Some(finding) = hindrance(&settings) {
                let mut failure = failed();
                failure.causes.push(finding.said);
                failure.hint = finding.hint;
                return Err(failure);
            }
            let program = own_program(directory).map_err(|error| failed().because(&error))?;
            let unit = Unit {
                directory: directory.to_owned(),
                program,
            };
            let made = install(units, found.as_ref(), &unit).await;
            made.map_err(|error| failed().because(&error))
        }
        AtBoot::Wait if found.is_none() => Ok(Change::AlreadySo),
        AtBoot::Wait => {
            let removed = remove(units, directory).await;
            removed
                .map(|()| Change::Made)
                .map_err(|error| failed().because(&error))
        }
    }
}

/// Has the unit of a node run the program that is the node by now: an older one might not read what this one writes.
pub(super) async fn follow(directory: &Path) {
    let Some(program) = program_of(directory) else {
        return;
    };
    let follow = async {
        let unit = Unit {
            directory: directory.to_owned(),
            program: own_program(directory)?,
        };
        if unit.program != program {
            write(Path::new(UNITS), &unit)?;
            systemctl(&["daemon-reload"]).await?;
        }
        io::Result::Ok(())
    };
    if let Err(error) = follow.await {
        tracing::warn!(%error, program = %program.display(), "what starts with the machine is an older program");
    }
}

/// Returns our program, which must be one of those that were copied to the node and found whole.
fn own_program(directory: &Path) -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    if program.parent() == Some(&directory.join("bin")) {
        return Ok(program);
    }
    Err(io::Error::other(format!(
        "`{}` is none of the programs of the node",
        program.display()
    )))
}

/// Reads the unit; nothing where there is none. One that is not ours is an error.
fn read(units: &Path) -> io::Result<Option<Unit>> {
    let file = units.join(NAME);
    let text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let foreign = || io::Error::other(format!("`{}` is not ours and is left alone", file.display()));
    Unit::parse(&text).map(Some).ok_or_else(foreign)
}

async fn install(units: &Path, before: Option<&Unit>, unit: &Unit) -> io::Result<Change> {
    let is_enabled = std::fs::symlink_metadata(units.join(unit::WANTS).join(NAME)).is_ok();
    if before == Some(unit) && is_enabled {
        return Ok(Change::AlreadySo);
    }
    write(units, unit)?;
    systemctl(&["daemon-reload"]).await?;
    systemctl(&["enable", "--quiet", "--", NAME]).await?;
    // systemctl leaves it to the system when that is durable.
    sync(&units.join(unit::WANTS))?;
    sync(units)?;
    Ok(Change::Made)
}

/// Takes the unit away. What it has started runs on.
async fn remove(units: &Path, directory: &Path) -> io::Result<()> {
    // What is on disk first: a boot in between must not start anything.
    systemctl(&["disable", "--quiet", "--", NAME]).await?;
    match sync(&units.join(unit::WANTS)) {
        // It goes with the last of what it wants.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    kept::forget(directory)?;
    std::fs::remove_file(units.join(NAME))?;
    sync(units)?;
    systemctl(&["daemon-reload"]).await
}

fn write(units: &Path, unit: &Unit) -> io::Result<()> {
    // Not a name that systemd takes for a unit.
    let new = units.join(format!("{NAME}.flocker-new"));
    let mut file = File::create(&new)?;
    file.write_all(unit.text().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, units.join(NAME))?;
    sync(units)
}

async fn systemctl(arguments: &[&str]) -> io::Result<()> {
    let asked = ask_for("systemctl", arguments, PATIENCE).await;
    asked.map(drop).map_err(io::Error::other)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_written_whole_and_read_back_and_no_other_is_touched() {
        let place = tempfile::tempdir().unwrap();
        let units = place.path();
        assert_eq!(read(units).unwrap(), None);
        let unit = Unit {
            directory: "/var/lib/flocker".into(),
            program: "/var/lib/flocker/bin/flocker-0123".into(),
        };
        write(units, &unit).unwrap();
        assert_eq!(read(units).unwrap(), Some(unit));
        let left: Vec<_> = std::fs::read_dir(units).unwrap().collect();
        assert_eq!(left.len(), 1);
        std::fs::write(units.join(NAME), "[Unit]\nDescription=Somebody's\n").unwrap();
        let refusal = read(units).unwrap_err().to_string();
        assert!(refusal.contains("is not ours and is left alone"), "{refusal}");
    }

    #[test]
    fn only_a_program_that_was_copied_to_the_node_starts_with_the_machine() {
        let place = tempfile::tempdir().unwrap();
        let refusal = own_program(place.path()).unwrap_err().to_string();
        assert!(refusal.contains("none of the programs of the node"), "{refusal}");
    }
}
