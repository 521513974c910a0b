//! `flocker man`: manual pages.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man as Page;
use serde::Serialize;

use crate::cli;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::ui::Ui;

/// Write the manual pages into a directory, or print the first one
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where to write `flocker.1` and a page for each command; printed if not given
    directory: Option<PathBuf>,
}

#[derive(Serialize)]
struct Body {
    pages: Vec<String>,
}

impl Man {
    pub(crate) fn run(self, ui: &Ui) -> Result<Ending, Failure> {
        let mut command = cli::command();
        command.build();
        let Some(directory) = self.directory else {
            ui.data(&roff(&Page::new(command))?);
            return Ok(Ending::Done);
        };
        std::fs::create_dir_all(&directory).map_err(|error| {
            Failure::usage(format!("could not make directory `{}`", directory.display())).because(&error)
        })?;
        let mut pages = Vec::new();
        write(&command, &directory, &mut pages)?;
        if ui.is_json() {
            ui.document(&Body { pages })?;
        } else {
            let n_pages = super::validate::counted(pages.len(), "page");
            ui.say(&format!("wrote {n_pages} to {}", directory.display()));
        }
        Ok(Ending::Done)
    }
}

fn write(command: &clap::Command, directory: &Path, pages: &mut Vec<String>) -> Result<(), Failure> {
    let page = Page::new(command.clone());
    let name = page.get_filename();
    files::write(&directory.join(&name), &roff(&page)?)?;
    pages.push(name);
    for below in command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        write(below, directory, pages)?;
    }
    Ok(())
}

fn roff(page: &Page) -> Result<String, Failure> {
    let mut text = Vec::new();
    page.render(&mut text)
        .map_err(|error| Failure::bug("a manual page could not be made").because(&error))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
