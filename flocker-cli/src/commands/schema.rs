//! `flocker schema`: what may stand in the files, for editors.

use clap::Args;
use clap::ValueEnum;
use flocker_model::config::schema;

use crate::ui::Ui;

/// Print the JSON Schema of a configuration file
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Which file
    #[arg(value_enum)]
    file: File,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum File {
    /// The application file
    Application,
    /// The deployment file
    Deployment,
}

impl Schema {
    pub(crate) fn run(self, ui: &Ui) {
        let schema = match self.file {
            File::Application => schema::application(),
            File::Deployment => schema::deployment(),
        };
        // A schema is a document of its own kind, with or without `--json`.
        ui.data(&format!("{schema:#}\n"));
    }
}
