//! Ways for bytes alone; see the library.

use std::io::Write as _;

use flocker_benches::figure::Figures;
use flocker_benches::figure::is_bench;
use flocker_benches::transfer;

fn main() -> std::io::Result<()> {
    if !is_bench() {
        return Ok(());
    }
    let mut figures = Figures::default();
    transfer::measure(&mut figures)?;
    write!(std::io::stdout(), "{figures}")
}
