//! I11: a secret is handed to the node that needs it, and shows nowhere else.

use std::sync::Arc;

use flocker_backends::memory::Effect;
use flocker_backends::memory::Fault;
use flocker_engine::Go;
use flocker_engine::Order;
use flocker_engine::PushOptions;
use flocker_engine::Stop;
use flocker_engine::converge::push;
use flocker_engine::wire;
use flocker_engine::wire::Ask;
use flocker_engine::wire::Request;
use flocker_engine::wire::WrittenApplication;
use flocker_engine::wire::WrittenOrder;
use flocker_model::Application;
use flocker_model::DefinitionKey;
use flocker_model::Deployment;
use flocker_model::EnvironmentValue;
use flocker_model::Generation;
use flocker_model::Secret;
use flocker_plan::Action;
use flocker_plan::Policy;

use crate::cluster::Cluster;
use crate::cluster::Recorder;
use crate::cluster::app;
use crate::cluster::member;
use crate::cluster::mongodb;
use crate::cluster::name;

const CANARY: &str = "canary-7c41e0";

fn with_secret() -> Application {
    let mut application = mongodb();
    application
        .environment
        .insert("PASSWORD".into(), EnvironmentValue::Secret(Secret::new(CANARY)));
    application
        .environment
        .insert("MODE".into(), EnvironmentValue::Plain("fast".into()));
    application
}

#[test]
fn a_definition_arrives_whole_with_its_secrets() {
    let application = with_secret();
    let text = serde_json::to_string(&WrittenApplication::from(&application)).unwrap();
    assert!(text.contains(CANARY));
    let written: WrittenApplication = serde_json::from_str(&text).unwrap();
    assert!(!format!("{written:?}").contains(CANARY));
    let arrived = Application::try_from(written).unwrap();
    let key = DefinitionKey::new([7; 32]);
    assert_eq!(arrived.definition_hash(&key), application.definition_hash(&key));
    assert!(arrived.has_secrets());
}

#[test]
fn what_cannot_be_understood_is_not_repeated() {
    let order = Order {
        application: Some(with_secret()),
        ..Order::new(
            Action::Start {
                application: app("mongodb"),
                definition: flocker_model::DefinitionHash(1),
            },
            Generation(1),
        )
    };
    assert!(!format!("{order:?}").contains(CANARY));
    let ask = Ask::Perform(Box::new(WrittenOrder::from(&order)));
    let request = Request { id: 1, ask };
    assert!(!format!("{request:?}").contains(CANARY));
    let text = serde_json::to_string(&request).unwrap();
    for (from, to) in [
        (r#""secret":"#, r#""plain":7,"secret":"#),
        (r#""PASSWORD":{"secret":"#, r#""PASSWORD":{"other":"#),
        (r#"{"id":1"#, r#"{"id":"canary-7c41e0""#),
        (r#""image":""#, r#""image":"canary-7c41e0 "#),
    ] {
        let broken = text.replace(from, to);
        assert_ne!(broken, text);
        let error = wire::read::<Request>("a request", broken.as_bytes()).unwrap_err();
        assert!(!format!("{error:?} {error}").contains(CANARY), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn i11_no_event_error_or_report_shows_a_secret() {
    let cluster = Cluster::new(["alpha"]);
    let faults = cluster.machine("alpha").memory.faults();
    faults.decide(|attempt| {
        let fails = matches!(attempt.effect, Effect::Start(_)) && attempt.number < 5;
        fails.then_some(Fault::Fail)
    });
    let desired = Deployment::builder()
        .application(app("mongodb"), with_secret())
        .node(name("alpha"), member("alpha"))
        .place(&app("mongodb"), &name("alpha"))
        .build()
        .unwrap();
    let recorder = Recorder::default();
    let outcome = push(
        &desired,
        &cluster.handles(),
        &Policy::default(),
        &PushOptions::new("ann@laptop", 0, Stop::never()),
        &Go,
        recorder.listener(),
    )
    .await
    .unwrap();
    assert!(
        cluster
            .machine("alpha")
            .memory
            .runtime()
            .is_running(&app("mongodb"))
    );
    let events = recorder.events();
    let failed = events
        .iter()
        .any(|event| matches!(event, flocker_engine::Event::StepFailed { .. }));
    assert!(failed, "an error is among what is looked through");
    let everything = format!(
        "{events:?} {} {outcome:?} {:?} {:?}",
        serde_json::to_string(&events).unwrap(),
        Arc::clone(&cluster.machine("alpha").node),
        desired,
    );
    assert!(!everything.contains(CANARY));
    let key = outcome.actual.known(&name("alpha")).unwrap().key.clone();
    let digits = key
        .reveal()
        .iter()
        .fold(String::new(), |digits, byte| format!("{digits}{byte:02x}"));
    assert!(!everything.contains(&digits));
}
