//! Sizes and durations, as people write them.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use crate::number::ByteSize;

/// Why a text is not a size or a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum QuantityError {
    #[error(
        "is not a size: write a number of bytes, or one with `K`, `M`, `G` or `T`, such as `500M` or `2.5G`"
    )]
    NotASize,
    #[error(
        "is not a duration: write seconds, or numbers with `h`, `m`, `s` or `ms`, such as `1m30s` or `500ms`"
    )]
    NotADuration,
    #[error("is zero; it must be greater")]
    Zero,
    #[error("is too large")]
    TooLarge,
}

/// Which units a size may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Units {
    /// `K`, `M`, `G` and `T`.
    Flocker,
    /// Also `b`, `kb`, `KiB` and the like. All mean powers of 1024, as they do to Docker.
    Docker,
}

/// A decimal number: digits, and digits after the point.
struct Decimal<'t> {
    whole: &'t str,
    part: &'t str,
}

impl<'t> Decimal<'t> {
    /// Takes a number off the beginning of a text.
    fn take(text: &'t str) -> Option<(Self, &'t str)> {
        let n_digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (whole, rest) = text.split_at(n_digits(text));
        if whole.is_empty() {
            return None;
        }
        let Some(rest) = rest.strip_prefix('.') else {
            return Some((Self { whole, part: "" }, rest));
        };
        let (part, rest) = rest.split_at(n_digits(rest));
        Some((Self { whole, part }, rest))
    }

    /// Returns the number times a unit, rounded up; nothing if that is too large.
    fn times(&self, unit: u64) -> Option<u64> {
        let unit = u128::from(unit);
        let whole: u128 = self.whole.parse().ok()?;
        // Eighteen digits after the point are finer than a byte of the largest size.
        let part = &self.part[..self.part.len().min(18)];
        let is_cut = self.part[part.len()..].contains(|c| c != '0');
        let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
        let fraction = if part.is_empty() {
            0
        } else {
            part.parse::<u128>().ok()?
        };
        let fraction = (fraction * unit + u128::from(is_cut)).div_ceil(scale);
        u64::try_from(whole.checked_mul(unit)?.checked_add(fraction)?).ok()
    }
}

/// Reads a size, rounded up to whole bytes.
pub(crate) fn size(text: &str, units: Units) -> Result<ByteSize, QuantityError> {
    let (number, unit) = Decimal::take(text).ok_or(QuantityError::NotASize)?;
    let unit = unit.to_ascii_lowercase();
    let unit = match units {
        Units::Flocker => unit.as_str(),
        Units::Docker if unit == "b" => "",
        Units::Docker => unit
            .strip_suffix("ib")
            .or(unit.strip_suffix('b'))
            .unwrap_or(&unit),
    };
    let unit = match unit {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err(QuantityError::NotASize),
    };
    match number.times(unit) {
        Some(0) => Err(QuantityError::Zero),
        // Backends and runtimes take signed sizes.
        Some(bytes) if i64::try_from(bytes).is_ok() => Ok(ByteSize(bytes)),
        Some(_) | None => Err(QuantityError::TooLarge),
    }
}

/// The longest duration that is read.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// Reads a duration: whole seconds, or a sum of numbers with units.
pub(crate) fn duration(text: &str) -> Result<Duration, QuantityError> {
    let mut rest = text;
    let mut sum: u64 = 0;
    if text.is_empty() {
        return Err(QuantityError::NotADuration);
    }
    while !rest.is_empty() {
        let (number, after) = Decimal::take(rest).ok_or(QuantityError::NotADuration)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let nanoseconds = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" | "µs" => 1_000,
            "ns" => 1,
            "" if text.len() == number.whole.len() => 1_000_000_000,
            _ => return Err(QuantityError::NotADuration),
        };
        let part = number.times(nanoseconds).ok_or(QuantityError::TooLarge)?;
        sum = sum.checked_add(part).ok_or(QuantityError::TooLarge)?;
        rest = after;
    }
    let duration = Duration::from_nanos(sum);
    if duration > LONGEST {
        return Err(QuantityError::TooLarge);
    }
    Ok(duration)
}

/// Writes a duration so that [`duration`] reads the same.
pub(crate) struct Written(pub(crate) Duration);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos();
        for (unit, name) in [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")] {
            if nanoseconds.is_multiple_of(unit) {
                return write!(f, "{}{name}", nanoseconds / unit);
            }
        }
        write!(f, "{nanoseconds}ns")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_what_flocker_made_of_it() {
        for (text, bytes) in [
            ("1G", 1_073_741_824),
            ("500M", 524_288_000),
            ("2.1M", 2_202_010),
            ("2.5G", 2_684_354_560),
            ("1.5k", 1536),
            ("1T", 1_099_511_627_776),
            ("1073741824", 1_073_741_824),
            ("1.", 1),
            ("0.1", 1),
            ("0.00000000000000000000000001", 1),
        ] {
            assert_eq!(size(text, Units::Flocker), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "", "-10M", "M", "1GB", "1 G", "1e3", ".5G", "1..5", "١G", "0x10", "1_000", "1K1",
        ] {
            assert_eq!(size(text, Units::Flocker), Err(QuantityError::NotASize), "{text}");
        }
        assert_eq!(size("0.0K", Units::Flocker), Err(QuantityError::Zero));
        assert_eq!(
            size("9223372036854775807", Units::Flocker),
            Ok(ByteSize(i64::MAX as u64))
        );
        for text in ["8388608T", "9223372036854775808", &"9".repeat(1000)] {
            assert_eq!(size(text, Units::Flocker), Err(QuantityError::TooLarge), "{text}");
        }
    }

    #[test]
    fn docker_has_more_units_that_mean_the_same() {
        for text in ["64m", "64mb", "64MB", "64MiB", "67108864b", "65536k", "67108864"] {
            assert_eq!(size(text, Units::Docker), Ok(ByteSize(64 << 20)), "{text}");
        }
        assert_eq!(size("1bb", Units::Docker), Err(QuantityError::NotASize));
    }

    #[test]
    fn a_duration_is_a_sum() {
        for (text, milliseconds) in [
            ("5s", 5_000),
            ("5", 5_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5s", 1_500),
            ("1h1ms", 3_600_001),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "5 s", "1m30", "-5s", "5d", "1,5s", "1.5"] {
            assert_eq!(duration(text), Err(QuantityError::NotADuration), "{text}");
        }
        for text in ["999999h", "99999999999999999999", "1h18446744073709551615ns"] {
            assert_eq!(duration(text), Err(QuantityError::TooLarge), "{text}");
        }
    }

    #[test]
    fn a_written_duration_reads_the_same() {
        for nanoseconds in [0, 1, 1_000, 1_500_000, 90_000_000_000, 1_000_000_001] {
            let wanted = Duration::from_nanos(nanoseconds);
            assert_eq!(duration(&Written(wanted).to_string()), Ok(wanted));
        }
    }
}
