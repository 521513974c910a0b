//! `flocker cutover`: moves one application now, pause and all.

use clap::Args;
use flocker_model::ApplicationName;
use flocker_model::ClusterState;
use flocker_model::ContainerState;
use flocker_model::Deployment;
use flocker_model::NodeName;
use flocker_model::Role;
use flocker_plan::CutOver;
use flocker_plan::NotConverging;
use flocker_plan::Policy;

use crate::cli::Global;
use crate::cli::OptionalFiles;
use crate::cluster;
use crate::cluster::Start;
use crate::commands::deploy::Locking;
use crate::deploy;
use crate::deploy::Wish;
use crate::error::Ending;
use crate::error::Failure;
use crate::files;
use crate::progress::Loudness;
use crate::runtime;
use crate::ui::Ui;

/// Make the cut-over of one application that is held, or writes faster than it is copied
///
/// It moves now, with whatever pause that takes; the plan says how long. Other applications stay where they are.
#[derive(Debug, Args)]
pub(crate) struct Cutover {
    /// The application
    #[arg(id = "app", value_name = "APP")]
    application: ApplicationName,
    #[command(flatten)]
    files: OptionalFiles,
    #[command(flatten)]
    locking: Locking,
}

impl Cutover {
    pub(crate) fn run(self, global: &Global, ui: &Ui) -> Result<Ending, Failure> {
        let [one, other] = self.files.named_or_last(global)?;
        let configuration = files::read([&one, &other])?;
        let wish = Wish {
            policy: Policy {
                cut_over: CutOver::WhenReady,
                not_converging: NotConverging::Accept,
                ..Policy::default()
            },
            bandwidth: None,
            lock_wait: self.locking.lock_wait(),
            if_held: self.locking.if_held(),
            consent: self.locking.consent(),
            loudness: Loudness::All,
            // The other applications that are held are held on.
            left_held: files::last_policy(&global.state_dir(), Some([&one, &other])).cut_over,
            remember: Some((global.state_dir(), [one, other])),
        };
        // Whether it is in the files takes no secret, and a wrong name is worth no question.
        let named = configuration.without_secrets()?;
        if named.application(&self.application).is_none() {
            return Err(unknown(&self.application, &named));
        }
        wish.check(ui)?;
        let desired = configuration.resolve()?;
        runtime::block_on(async {
            let mut cluster = cluster::connect(desired, global, Start::Nothing).await?;
            let actual = cluster.observe().await;
            cluster.desired = all_others_stay(cluster.desired, &actual, &self.application);
            deploy::carry_out(&cluster, &wish, ui).await
        })
    }
}

/// Says that the files have no such application, and which they have.
pub(crate) fn unknown(application: &ApplicationName, desired: &Deployment) -> Failure {
    let names: Vec<&str> = desired
        .applications()
        .keys()
        .map(ApplicationName::as_str)
        .collect();
    Failure::usage(format!("the files have no application `{application}`"))
        .hint(format!("they have {}", names.join(", ")))
}

/// Returns the deployment with every other application placed where its data is now, or where it runs alone.
pub(crate) fn all_others_stay(
    desired: Deployment,
    actual: &ClusterState,
    moving: &ApplicationName,
) -> Deployment {
    let mut stay: Vec<(ApplicationName, NodeName)> = Vec::new();
    for (name, application) in desired.applications() {
        if name == moving {
            continue;
        }
        let homes: Vec<&NodeName> = actual
            .all_known()
            .filter(|(_, state)| match &application.volume {
                Some(volume) => {
                    let seen = state.datasets.get(&volume.dataset);
                    seen.is_some_and(|seen| matches!(seen.role, Role::Primary { .. }))
                }
                None => state.containers.get(name).is_some_and(ContainerState::is_alive),
            })
            .map(|(node, _)| node)
            .collect();
        if let [home] = homes.as_slice() {
            stay.push((name.clone(), (*home).clone()));
        }
    }
    stay.iter().fold(desired, |desired, (application, node)| {
        desired.with_placement(application, node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use crate::state_file;
    use flocker_model::config::Source;

    #[test]
    fn the_others_stay_where_their_data_is() {
        let text = |name: &str, text: &str| Source::new(name, text);
        let applications = "version: 1\napplications:\n  mongodb: {image: m, volume: {mountpoint: /data}}\n  web: {image: w}\n";
        let nodes = "version: 1\nnodes: {alpha: [], beta: [mongodb, web]}\n";
        let files = files::load([text("a", applications), text("d", nodes)]).unwrap();
        let mut actual = ClusterState::default();
        let report = include_str!("../../tests/files/mongodb-on-alpha.json");
        state_file::read(report, "state.json", &mut actual).unwrap();
        let homes = |moving: &str| {
            let desired = files.resolve().unwrap();
            let desired = all_others_stay(desired, &actual, &moving.parse().unwrap());
            let mongodb = "mongodb".parse().unwrap();
            let homes: Vec<String> = desired.homes(&mongodb).map(ToString::to_string).collect();
            homes
        };
        assert_eq!(homes("mongodb"), ["beta"]);
        assert_eq!(homes("web"), ["alpha"]);
    }
}
