//! What a node does by itself after its machine has started anew, where the deployment file asks for it.
//!
//! The choice is nowhere but in the unit: where systemd has a unit of ours for
//! this directory, the node starts again what it may. Only who carries files out
//! makes or removes it; a node's process of another version has it run that one.

mod unit;
mod waking;

use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use flocker_backends::Change;
use flocker_backends::durable;
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
pub(super) fn hindrance(directory: &Path, settings: &Settings) -> Option<Finding> {
    let problem = |said: &str, hint: &str| Some(Finding::new("boot", Weight::Problem, said).hint(hint));
    let instead = "write `at_boot: wait`, and deploy after each start of the machine";
    match settings.runtime {
        RuntimeKind::Docker | RuntimeKind::Systemd => {}
        RuntimeKind::Process => {
            return problem("`at_boot: start` is not for `runtime: process`", instead);
        }
    }
    if !unit::is_plain(directory) {
        return problem(
            &format!(
                "systemd may not find its program in `{}`: only letters, digits and `/ . _ - + @ , : = ~` are sure to be read as they are",
                directory.display()
            ),
            instead,
        );
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
    let found = found(units, at_boot).map_err(|error| failed().because(&error))?;
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
            if let Some(finding) = hindrance(directory, &settings) {
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
    named_in(directory, &program)
}

/// Returns a program of a node as its directory is named, which may lead there by a link; the system knows programs without.
fn named_in(directory: &Path, program: &Path) -> io::Result<PathBuf> {
    let programs = directory.join("bin");
    let is_there = |place: &Path| match (place.canonicalize(), programs.canonicalize()) {
        (Ok(place), Ok(programs)) => place == programs,
        _ => false,
    };
    if let (Some(place), Some(name)) = (program.parent(), program.file_name())
        && is_there(place)
    {
        return Ok(programs.join(name));
    }
    Err(io::Error::other(format!(
        "`{}` is none of the programs of the node",
        program.display()
    )))
}

/// Reads the unit as one that is to be changed. Where the node is to wait, somebody else's is as good as none.
fn found(units: &Path, at_boot: AtBoot) -> io::Result<Option<Unit>> {
    match (read(units), at_boot) {
        (Err(error), AtBoot::Wait) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        (found, _) => found,
    }
}

/// Reads the unit; nothing where there is none. One that is not ours is an error.
fn read(units: &Path) -> io::Result<Option<Unit>> {
    let file = units.join(NAME);
    let text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let foreign = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("`{}` is not ours and is left alone", file.display()),
        )
    };
    Unit::parse(&text).map(Some).ok_or_else(foreign)
}

async fn install(units: &Path, before: Option<&Unit>, unit: &Unit) -> io::Result<Change> {
    let is_enabled = std::fs::symlink_metadata(units.join(unit::WANTS).join(NAME)).is_ok();
    if before == Some(unit) && is_enabled {
        return Ok(Change::AlreadySo);
    }
    write(units, unit)?;
    systemctl(&["daemon-reload"]).await?;
    // It says nothing by itself of what it cannot make use of.
    let shown = ask_for(
        "systemctl",
        &["show", "--property=LoadState", "--", NAME],
        PATIENCE,
    )
    .await;
    check_loaded(&shown.map_err(io::Error::other)?)?;
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

fn check_loaded(shown: &str) -> io::Result<()> {
    match shown.strip_prefix("LoadState=") {
        Some("loaded") => Ok(()),
        state => Err(io::Error::other(format!(
            "systemd cannot use `{UNITS}/{NAME}`: it is `{}`",
            state.unwrap_or(shown)
        ))),
    }
}

fn write(units: &Path, unit: &Unit) -> io::Result<()> {
    // What is beside it until it is whole has no name that systemd takes for a unit.
    durable::replace(&units.join(NAME), 0o644, unit.text().as_bytes())
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
        // Who is to wait has nothing to do with it.
        assert_eq!(found(units, AtBoot::Wait).unwrap(), None);
        found(units, AtBoot::Start).unwrap_err();
    }

    #[test]
    fn a_directory_that_is_reached_by_a_link_has_its_programs() {
        let place = tempfile::tempdir().unwrap();
        let (there, link) = (place.path().join("data"), place.path().join("flocker"));
        std::fs::create_dir_all(there.join("bin")).unwrap();
        std::os::unix::fs::symlink(&there, &link).unwrap();
        let program = there.canonicalize().unwrap().join("bin/flocker-0123");
        assert_eq!(named_in(&link, &program).unwrap(), link.join("bin/flocker-0123"));
        named_in(place.path(), &program).unwrap_err();
    }

    #[test]
    fn a_unit_that_systemd_cannot_use_is_not_taken_for_set() {
        check_loaded("LoadState=loaded").unwrap();
        for shown in [
            "LoadState=bad-setting",
            "LoadState=masked",
            "LoadState=not-found",
            "",
        ] {
            check_loaded(shown).unwrap_err();
        }
    }

    #[test]
    fn only_a_program_that_was_copied_to_the_node_starts_with_the_machine() {
        let place = tempfile::tempdir().unwrap();
        let refusal = own_program(place.path()).unwrap_err().to_string();
        assert!(refusal.contains("none of the programs of the node"), "{refusal}");
    }
}
