//! Loads two arbitrary texts, which a NUL separates.
//!
//! Nothing may panic, every place must lie in its file, and what loads must
//! read back the same after it was printed.

#![no_main]

use flocker_model::config::Source;
use flocker_model::config::load;
use flocker_model::config::marshal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (one, other) = text.split_once('\0').unwrap_or((text, ""));
    let sources = [Source::new("one", one), Source::new("other", other)];
    match load(&sources[0], &sources[1]) {
        Err(diagnostics) => {
            assert!(diagnostics.iter().any(|diagnostic| diagnostic.is_error()));
            for diagnostic in diagnostics {
                let source = sources
                    .iter()
                    .find(|source| source.name == *diagnostic.place.file);
                let source = source.expect("a place names one of the files");
                assert!(source.text.get(diagnostic.place.span.range()).is_some());
            }
        }
        Ok(loaded) => {
            let deployment = loaded
                .resolve(|source| Ok(source.to_string()))
                .expect("secrets that are there are enough");
            let sources = loaded.sources();
            let printed = marshal::print(&deployment, &sources);
            let again = load(
                &Source::new("one", printed.application.as_str()),
                &Source::new("other", printed.deployment.as_str()),
            )
            .expect("what is printed is right");
            let again = again
                .resolve(|source| Ok(source.to_string()))
                .expect("secrets that are there are enough");
            assert_eq!(marshal::print(&again, &sources), printed);
        }
    }
});
