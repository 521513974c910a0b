//! Copies of datasets alone; see the library.

use std::io::Write as _;

use flocker_benches::copies;
use flocker_benches::figure::Figures;
use flocker_benches::figure::is_bench;
use flocker_benches::planning::Effort;

fn main() -> std::io::Result<()> {
    if !is_bench() {
        return Ok(());
    }
    let mut figures = Figures::default();
    copies::measure(Effort::Full, &mut figures)?;
    write!(std::io::stdout(), "{figures}")
}
