//! Reads arbitrary bytes as what `zfs get` says of a pool.
//!
//! Nothing may panic. What is read must not depend on the order of the lines,
//! and a list that was cut anywhere within a line is refused, never read as a
//! shorter one.

#![no_main]

use flocker_backends::volume::zfs::listing::Listing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(listing) = Listing::parse(data) else {
        return;
    };
    let text = std::str::from_utf8(data).expect("what was read is text");
    let mut backwards: Vec<&str> = text.lines().collect();
    backwards.reverse();
    let backwards: String = backwards.iter().flat_map(|line| [line, "\n"]).collect();
    let mut again = Listing::parse(backwards.as_bytes()).expect("the order of lines means nothing");
    let mut listing = listing;
    // Snapshots of one transaction have no order of their own.
    for filesystems in [&mut listing.filesystems, &mut again.filesystems] {
        for filesystem in filesystems.values_mut() {
            filesystem
                .snapshots
                .sort_by(|a, b| (a.transaction, &a.name).cmp(&(b.transaction, &b.name)));
        }
    }
    assert_eq!(listing, again);
    if let Some(cut) = text
        .strip_suffix('\n')
        .filter(|cut| !cut.is_empty() && !cut.ends_with('\n'))
    {
        Listing::parse(cut.as_bytes()).expect_err("a list whose last line is cut is refused");
    }
});
