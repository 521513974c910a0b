//! A dataset moves: two nodes in memory, a real push from desired state to settled cluster.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use flocker_engine::End;
use flocker_engine::Event;
use flocker_engine::Go;
use flocker_engine::Listener;
use flocker_engine::PushOptions;
use flocker_engine::Stop;
use flocker_engine::push;
use flocker_examples::Cluster;
use flocker_examples::Outcome;
use flocker_examples::check;
use flocker_model::DatasetId;
use flocker_plan::Policy;

async fn deploy(cluster: &Cluster, home: &str) -> Outcome {
    let listener: Arc<dyn Listener> = Arc::new(|event: &Event| {
        if let Event::StepDone { step, .. } = event {
            println!("  {step}");
        }
    });
    println!("mongodb is to run on {home}:");
    let outcome = push(
        &cluster.deployment(home)?,
        &cluster.handles(),
        &Policy::default(),
        &PushOptions::new("an example", 0, Stop::never()),
        &Go,
        listener,
    )
    .await?;
    for moved in &outcome.moves {
        let downtime = moved.downtime.unwrap_or_default();
        println!(
            "  moved from {} to {}, away for {downtime:.0?}",
            moved.from, moved.to
        );
    }
    check(outcome.end == End::Settled, "everything is as it is to be")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let cluster = Cluster::start(&["alpha", "beta"])?;
    let dataset = DatasetId::derived(&"mongodb".parse()?);
    let (alpha, beta) = (&cluster.nodes["alpha"], &cluster.nodes["beta"]);

    deploy(&cluster, "alpha").await?;
    alpha.volumes().append(dataset, "journal", b"first entry, ")?;

    deploy(&cluster, "beta").await?;
    beta.volumes().append(dataset, "journal", b"second entry")?;

    let journal = beta.volumes().read(dataset, "journal").unwrap_or_default();
    println!("beta reads: {}", String::from_utf8_lossy(&journal));
    check(journal == b"first entry, second entry", "nothing written is lost")?;
    check(
        alpha.volumes().append(dataset, "journal", b"late entry").is_err(),
        "who has let go writes no more",
    )?;
    let violations = cluster.observer.violations();
    check(violations.is_empty(), "two nodes never wrote one dataset")
}
