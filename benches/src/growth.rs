//! Growth: ten times the applications cost ten times the instructions, on a machine however busy.
//!
//! Instructions are counted by `valgrind --tool=callgrind` on `plan_once`,
//! planning twice and planning once: the difference is one planning, without
//! the making of the states.

use std::io;
use std::path::Path;

use crate::child;
use crate::cluster::Change;
use crate::figure::Figure;
use crate::figure::Figures;
use crate::figure::Unit;

/// Ten times the applications, and a tenth of that again for what is not linear in them.
const MOST: f64 = 11.0;

/// Counts for a settled cluster and for one of which everything moves.
pub fn measure(figures: &mut Figures) -> io::Result<()> {
    let Some(valgrind) = child::find("valgrind") else {
        figures.note("LEFT OUT: growth of instructions, because valgrind is not installed");
        return Ok(());
    };
    for change in [Change::Settled, Change::Everything] {
        let small = instructions(&valgrind, change, 1000, 10_000)?;
        let large = instructions(&valgrind, change, 1000, 100_000)?;
        for (n_applications, count) in [("10 000", small), ("100 000", large)] {
            let name = format!(
                "instructions to plan {n_applications} applications: {}",
                change.name()
            );
            figures.add(Figure::new(name, Unit::Giga, vec![count / 1e9]));
        }
        let name = format!("growth of instructions, 10 000 to 100 000: {}", change.name());
        figures.add(Figure::new(name, Unit::Ratio, vec![large / small]).at_most(MOST));
    }
    Ok(())
}

fn instructions(valgrind: &Path, change: Change, n_nodes: u32, n_applications: u32) -> io::Result<f64> {
    let count = |n_plans: u32| {
        let program = child::sibling("plan_once")?;
        let arguments = [
            "--tool=callgrind".into(),
            "--callgrind-out-file=/dev/null".into(),
            program.display().to_string(),
            format!("--nodes={n_nodes}"),
            format!("--applications={n_applications}"),
            format!("--change={}", change.name()),
            format!("--plans={n_plans}"),
        ];
        let output = child::output(valgrind, &arguments, Path::new("."))?;
        let talk = String::from_utf8_lossy(&output.stderr);
        let count = talk
            .lines()
            .find_map(|line| line.split_once("Collected :"))
            .and_then(|(_, count)| count.trim().parse::<f64>().ok());
        count.ok_or_else(|| io::Error::other(format!("valgrind counted nothing:\n{talk}")))
    };
    Ok(count(2)? - count(1)?)
}
