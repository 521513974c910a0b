//! Reads arbitrary bytes as what `nft -j` prints of our table.
//!
//! Nothing may panic; what cannot be understood is refused, and never taken for an empty table.

#![no_main]

use flocker_backends::router::nftables::read_listing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let read = read_listing([10, 77, 0, 1].into(), data);
    assert!(read.is_err() || data.contains(&b'{'), "nothing is not a table");
});
