//! Hostile text: it is refused for what it is, in few words, and within a budget of memory.
//!
//! Bytes are counted, which are the same on every machine; how long a text may
//! be thought about is among the figures (`flocker-benches`).

mod hostile_texts;

use std::collections::BTreeSet;

use flocker_model::config::Source;
use flocker_model::config::load;
use hostile_texts::Hostile;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// How much both files may take while they are read, beside their own text.
const MOST: usize = 32 << 20;

// The only test of this program: another beside it would be counted too.
#[test]
fn a_hostile_text_is_refused_for_what_it_is_within_32_mib() {
    for hostile in hostile_texts::texts() {
        let Hostile {
            name,
            code,
            application,
            deployment,
        } = hostile;
        let sources = [
            Source::new("hostile.yml", application),
            Source::new("nodes.yml", deployment),
        ];
        let before = ALLOCATED.current_usage();
        ALLOCATED.reset_peak_usage();
        let loaded = load(&sources[0], &sources[1]);
        let taken = ALLOCATED.peak_usage().saturating_sub(before);
        assert!(taken < MOST, "{name} takes {taken} bytes");

        let diagnostics = match &loaded {
            Ok(loaded) => loaded.warnings(),
            Err(diagnostics) => diagnostics,
        };
        let codes: BTreeSet<_> = diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
        match code {
            Some(code) => assert!(loaded.is_err() && codes.contains(&code), "{name} gave {codes:?}"),
            None => assert!(loaded.is_ok(), "{name} gave {codes:?}"),
        }
        // What is said stays short, whatever was given.
        assert!(diagnostics.len() <= 201, "{name}");
        for diagnostic in diagnostics {
            let n_shown = diagnostic.message.len() + diagnostic.hint.as_ref().map_or(0, String::len);
            assert!(n_shown < 2000, "{name} gave {n_shown} bytes");
        }
    }
}
