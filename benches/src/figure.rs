//! Figures: what was measured, how often, and how it stands against its target.

use std::fmt;
use std::time::Duration;
use std::time::Instant;

use nix::time::ClockId;
use nix::time::clock_gettime;
use serde::Deserialize;
use serde::Serialize;

/// One measured thing.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In what it was measured.
    pub unit: Unit,
    /// The value in the middle of all that were measured.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// How many were measured.
    pub n: usize,
    /// Seconds of processor time, the value in the middle as well: what counts where other programs are running.
    pub processor: Option<f64>,
    /// What it must not exceed, where something was promised.
    pub target: Option<f64>,
}

/// In what something is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Seconds of wall-clock time.
    Seconds,
    /// Bytes.
    Bytes,
    /// One number divided by another.
    Ratio,
    /// Instructions, in thousands of millions.
    Giga,
    /// How many of something.
    Count,
    /// Millions of bytes a second; of these the smallest is the worst.
    MegabytesPerSecond,
}

impl Figure {
    /// Makes a figure of samples; of one sample, that one.
    #[must_use]
    pub fn new(name: impl Into<String>, unit: Unit, mut samples: Vec<f64>) -> Self {
        samples.sort_unstable_by(f64::total_cmp);
        Self {
            name: name.into(),
            unit,
            median: samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN),
            min: samples.first().copied().unwrap_or(f64::NAN),
            n: samples.len(),
            processor: None,
            target: None,
        }
    }

    /// Times something `n` times, after one time that does not count. What it returns is dropped off the clock.
    pub fn time<T>(name: impl Into<String>, n: usize, mut run: impl FnMut() -> T) -> Self {
        let mut sample = || {
            let start = (Instant::now(), processor());
            let result = std::hint::black_box(run());
            let elapsed = (start.0.elapsed(), processor().saturating_sub(start.1));
            drop(result);
            (elapsed.0.as_secs_f64(), elapsed.1.as_secs_f64())
        };
        sample();
        let (elapsed, processor) = (0..n).map(|_| sample()).unzip();
        Self {
            processor: Some(Self::new("", Unit::Seconds, processor).median),
            ..Self::new(name, Unit::Seconds, elapsed)
        }
    }

    /// Returns the same figure with what it must not exceed.
    #[must_use]
    pub fn at_most(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }

    /// Returns how the median stands against the target: 1 and below is kept.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        self.target.map(|target| self.median / target)
    }
}

/// Returns how long this process has kept a processor busy.
#[must_use]
pub fn processor() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::Seconds => format!("{:.3?}", Duration::from_secs_f64(value.max(0.0))),
            Self::Bytes => format!("{value:.0} B"),
            Self::Ratio => format!("{value:.2}"),
            Self::Count => format!("{value:.0}"),
            Self::Giga => format!("{value:.4} G"),
            Self::MegabytesPerSecond => format!("{value:.0} MB/s"),
        }
    }
}

/// Says whether this is `cargo bench`: `cargo test --all-targets` starts the benches too, and is not to wait for them.
#[must_use]
pub fn is_bench() -> bool {
    std::env::args().any(|word| word == "--bench")
}

/// Everything that was measured, and what could not be.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What must be known in order to read it, and what was left out, and why.
    pub notes: Vec<String>,
}

impl Figures {
    /// Adds a figure.
    pub fn add(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Adds a note.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .figures
            .iter()
            .map(|figure| figure.name.len())
            .max()
            .unwrap_or(4);
        writeln!(
            f,
            "{:<width$}  {:>12}  {:>12}  {:>12}  {:>4}  {:>12}  {:>6}",
            "what", "median", "min", "processor", "n", "target", "ratio"
        )?;
        for figure in &self.figures {
            let Figure {
                name,
                unit,
                median,
                min,
                n,
                processor,
                target,
            } = figure;
            let processor = processor.map_or_else(|| "-".into(), |seconds| unit.write(seconds));
            let target = target.map_or_else(|| "-".into(), |target| unit.write(target));
            let ratio = figure
                .ratio()
                .map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"));
            let (median, min) = (unit.write(*median), unit.write(*min));
            writeln!(
                f,
                "{name:<width$}  {median:>12}  {min:>12}  {processor:>12}  {n:>4}  {target:>12}  {ratio:>6}"
            )?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_its_median_and_its_minimum() {
        let figure = Figure::new("x", Unit::Ratio, vec![3.0, 1.0, 9.0]).at_most(6.0);
        assert_eq!((figure.median, figure.min, figure.n), (3.0, 1.0, 3));
        assert_eq!(figure.ratio(), Some(0.5));
    }
}
