//! Reads arbitrary text as what `ssh -G` says of a host.
//!
//! Nothing may panic, and a setting that only `ssh` can honour is seen wherever it stands.

#![no_main]

use flocker_backends::transport::ssh::Effective;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(effective) = Effective::parse(text, "") else {
        return;
    };
    assert!(!effective.host.is_empty() && !effective.user.is_empty() && effective.port != 0);
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let after = Effective::parse(&format!("{text}{end}proxyjump elsewhere\n"), "");
    let before = Effective::parse(&format!("proxyjump elsewhere\n{text}"), "");
    for with_jump in [after, before] {
        let with_jump = with_jump.expect("it says as much as before");
        assert!(with_jump.needs_program.is_some(), "a way around is overlooked");
        assert_eq!(with_jump.host, effective.host);
    }
});
