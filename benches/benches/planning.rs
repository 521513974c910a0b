//! Planning alone; see the library.

use std::io::Write as _;

use flocker_benches::figure::Figures;
use flocker_benches::figure::is_bench;
use flocker_benches::planning;

fn main() -> std::io::Result<()> {
    if !is_bench() {
        return Ok(());
    }
    let mut figures = Figures::default();
    planning::measure(planning::Effort::Full, &mut figures);
    write!(std::io::stdout(), "{figures}")
}
