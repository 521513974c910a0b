//! A secret goes to its program, and nowhere else.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::Machine;
use crate::support::processes_about;
use crate::support::until;

const FILES: [&str; 2] = ["deployment.yml", "application.yml"];

/// Demands that no file below a directory has the secret in it, and that nobody else may enter.
fn search(directory: &Path, secret: &str) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        let path = entry.path();
        if kind.is_dir() {
            search(&path, secret);
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "in {}", path.display());
        }
    }
}

#[test]
fn a_secret_is_in_no_output_no_file_and_no_command_line() {
    let machine = Machine::with_nodes(&["alpha", "beta", "gamma"]);
    let secret = format!("canary-{}", uuid::Uuid::new_v4());
    std::fs::write(machine.path("secret.txt"), &secret).unwrap();
    let seen = machine.path("seen").display().to_string();
    let program = machine.path("flocker").display().to_string();
    // It proves that the program got it, by the length alone.
    let application = format!(
        "version: 1
applications:
  ledger:
    image: /bin/sh
    command_line:
    - -c
    - 'echo ${{#PASSWORD}} > {seen}; exec {program} demo-program --listen \"$FLOCKER_ADDRESS:7000\" --volume \"$FLOCKER_VOLUME\"'
    ports: [{{internal: 7000, external: 7000}}]
    volume: {{mountpoint: /data}}
    environment: {{PASSWORD: {{from_file: secret.txt}}}}
    health_check: {{tcp: 7000, interval: 50ms}}
"
    );
    let nodes = ["alpha", "beta", "gamma"];
    machine.write_files(&nodes, "alpha", &application);
    machine.deploy().ok();
    let length = until("the program has its secret", || {
        std::fs::read_to_string(&seen)
            .ok()
            .filter(|text| text.ends_with('\n'))
    });
    assert_eq!(length.trim(), secret.len().to_string());
    machine.write_files(&nodes, "beta", &application);
    machine
        .run(&["plan", "--out", "state/saved-plan.json", FILES[0], FILES[1]])
        .ok();
    machine.run(&["plan", "--json", FILES[0], FILES[1]]).ok();
    let command_lines = || processes_about(machine.directory());
    let mut all_command_lines = command_lines();
    let done = machine.start_deploy(&[]).wait();
    all_command_lines.extend(command_lines());
    assert_eq!(done.code, Some(0), "{done:?}");
    machine.run(&["validate", FILES[0], FILES[1]]).ok();
    machine.run(&["status", "--json", FILES[0], FILES[1]]).ok();
    machine.run(&["report-state", "--json"]).ok();
    machine.run(&["logs", "ledger"]).ok();
    machine.run(&["local", "status", "--json"]).ok();
    let said = machine.said() + &done.stdout + &done.stderr;
    assert!(!said.contains(&secret), "{said}");
    for (id, command_line) in &all_command_lines {
        assert!(!command_line.contains(&secret), "{id}: {command_line}");
    }
    assert!(all_command_lines.len() >= 8, "{all_command_lines:?}");
    search(&machine.path("state"), &secret);
    let mode = std::fs::metadata(machine.path("state/nodes"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    machine.finish();
}
