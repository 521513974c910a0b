//! Nodes that were put back to before an offer was taken up or taken back, and when they count again.

use std::collections::BTreeMap;

use flocker_engine::End;
use flocker_engine::Order;
use flocker_engine::Unwatched;
use flocker_engine::announce;
use flocker_engine::behind;
use flocker_engine::has_caught_up;
use flocker_model::Application;
use flocker_model::Generation;
use flocker_model::Observed;
use flocker_model::Role;
use flocker_model::Silence;
use flocker_model::SnapshotName;
use flocker_plan::Action;

use crate::cluster::Cluster;
use crate::cluster::app;
use crate::cluster::name;
use crate::put_back::copy;
use crate::put_back::obeyed;
use crate::put_back::put_back;
use crate::put_back::silence;
use crate::put_back_of_several::APPS;
use crate::put_back_of_several::data_of;
use crate::put_back_of_several::hold;
use crate::put_back_of_several::look;
use crate::put_back_of_several::push_all;
use crate::put_back_of_several::running;

async fn settle(cluster: &Cluster, home: &str) {
    let outcome = push_all(cluster, home).await;
    assert_eq!(outcome.end, End::Settled, "{outcome:#?}");
    assert_eq!(running(cluster, home), APPS);
}

/// Lets alpha let go of everything to delta, which hears nothing of it.
async fn let_go(cluster: &Cluster) {
    let generation = obeyed(cluster, "alpha");
    for text in APPS {
        let dataset = data_of(text);
        let seen = look(cluster).await;
        let Role::Primary { epoch } = seen.known(&name("alpha")).unwrap().datasets[&dataset].role else {
            panic!("{seen:#?}");
        };
        let stop = Action::Stop {
            application: app(text),
            grace: Application::DEFAULT_STOP_GRACE,
        };
        let release = Action::Release {
            dataset,
            epoch: epoch.next(),
            to: name("delta"),
            last: SnapshotName::handoff(epoch.next()),
        };
        cluster.perform("alpha", generation.0, [stop, release]).await;
    }
}

/// Drops the copies of a node, as `flocker gc` does, and has who was put back count again where nothing is against that.
async fn drop_copies(cluster: &Cluster, of: &str) {
    let before = look(cluster).await;
    assert_eq!(behind(&before), [name("alpha")].into());
    let newest = before.all_known().map(|(_, state)| state.generation).max();
    let generation = newest.unwrap_or(Generation(0)).next();
    let held = hold(cluster, &before).await;
    let told = announce(generation, &held, &behind(&before)).await;
    assert_eq!(told, BTreeMap::new());
    let (node, claim) = held.iter().find(|(node, _)| node.name().as_str() == of).unwrap();
    for text in APPS {
        assert!(!has_caught_up(&before, &look(cluster).await), "{text}");
        let dataset = data_of(text);
        let mut order = Order::new(Action::Destroy { dataset }, generation);
        order.lock = Some(claim.token);
        node.perform(&order, &Unwatched).await.unwrap();
    }
    let after = look(cluster).await;
    assert!(has_caught_up(&before, &after));
    assert!(!has_caught_up(&after, &after));
    // Whoever fell silent meanwhile may know better.
    let mut without = after.clone();
    let reason = "it does not answer".into();
    let silent = Observed::Unknown(Silence::Unreachable { reason });
    without.nodes.insert(name("gamma"), silent);
    assert!(!has_caught_up(&before, &without));
    let told = announce(generation.next(), &held, &behind(&after)).await;
    assert_eq!(told, BTreeMap::new());
}

/// Demands that alpha counts while gamma is silent, and that nothing starts there.
async fn counts_again(cluster: &Cluster) {
    silence(cluster, "gamma");
    assert!(look(cluster).await.known(&name("alpha")).is_some());
    for home in ["alpha", "beta", "delta"] {
        push_all(cluster, home).await;
        assert_eq!(running(cluster, home), [""; 0]);
    }
    assert_eq!(running(cluster, "gamma"), APPS);
}

#[tokio::test(start_paused = true)]
async fn who_took_up_an_offer_and_was_put_back_counts_when_it_is_dropped() {
    let mut cluster = Cluster::new(["alpha", "beta", "delta", "gamma"]);
    settle(&cluster, "beta").await;
    let before = copy(&mut cluster, "alpha");
    settle(&cluster, "alpha").await;
    settle(&cluster, "gamma").await;
    put_back(&mut cluster, &before);
    drop_copies(&cluster, "beta").await;
    counts_again(&cluster).await;
}

#[tokio::test(start_paused = true)]
async fn who_took_an_offer_back_and_was_put_back_counts_when_it_is_dropped() {
    let mut cluster = Cluster::new(["alpha", "beta", "delta", "gamma"]);
    settle(&cluster, "alpha").await;
    let_go(&cluster).await;
    let before = copy(&mut cluster, "alpha");
    settle(&cluster, "alpha").await;
    settle(&cluster, "gamma").await;
    put_back(&mut cluster, &before);
    drop_copies(&cluster, "alpha").await;
    counts_again(&cluster).await;
}
