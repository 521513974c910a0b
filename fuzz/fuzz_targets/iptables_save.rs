//! Reads arbitrary bytes as what `iptables-save` prints.
//!
//! Nothing may panic, and no route is told without its record.

#![no_main]

use flocker_backends::router::iptables::read_saved;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let routes = read_saved([10, 77, 0, 1].into(), &text);
    assert!(
        routes.entries().len() <= text.matches("flocker:record:").count(),
        "each route has its record"
    );
    drop(read_saved(std::net::Ipv6Addr::LOCALHOST.into(), &text));
});
