//! What a scalar without quotes is, by the core schema of YAML 1.2, strictly.

/// What a scalar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Quoted, or nothing but a text.
    Text,
    /// A text to us and to YAML 1.2, but a boolean or a number to readers of YAML 1.1: `yes`, `22:22`, `010`, `1_000`.
    Ambiguous,
    /// An integer.
    Int,
    /// Any other number.
    Float,
    /// `true` or `false`.
    Bool,
    /// Nothing, `~` or `null`.
    Null,
}

/// Says what a text without quotes is.
pub(crate) fn kind_of(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Kind::Bool,
        "y" | "Y" | "n" | "N" | "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "on" | "On" | "ON" | "off"
        | "Off" | "OFF" => {
            return Kind::Ambiguous;
        }
        ".nan" | ".NaN" | ".NAN" => return Kind::Float,
        _ => {}
    }
    let number = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(number, ".inf" | ".Inf" | ".INF") {
        return Kind::Float;
    }
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Kind::Text;
    }
    let is_all = |text: &str, allowed: fn(char) -> bool| !text.is_empty() && text.chars().all(allowed);
    let is_digits = |text: &str| is_all(text, |c| c.is_ascii_digit());
    if is_digits(number) {
        return if number.starts_with('0') && number.len() > 1 {
            Kind::Ambiguous
        } else {
            Kind::Int
        };
    }
    if number
        .strip_prefix("0x")
        .is_some_and(|hex| is_all(hex, |c| c.is_ascii_hexdigit()))
        || number
            .strip_prefix("0o")
            .is_some_and(|oct| is_all(oct, |c| matches!(c, '0'..='7')))
    {
        return Kind::Int;
    }
    if is_float(number) {
        return Kind::Float;
    }
    let is_base_60 = number.contains(':')
        && number.split(':').all(is_digits)
        && number
            .split(':')
            .skip(1)
            .all(|digits| matches!(digits.parse(), Ok(0..=59_u8)));
    let is_spaced = number.contains('_') && is_all(number, |c| c.is_ascii_digit() || matches!(c, '_' | '.'));
    if is_base_60 || is_spaced {
        Kind::Ambiguous
    } else {
        Kind::Text
    }
}

/// Says whether a text without its sign is a number with a point or an exponent.
fn is_float(number: &str) -> bool {
    let (mantissa, exponent) = number
        .split_once(['e', 'E'])
        .map_or((number, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let exponent_is_fine = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())
    });
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let n_digits = whole.len() + part.len();
    exponent_is_fine && n_digits > 0 && whole.chars().chain(part.chars()).all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_without_quotes_is_what_yaml_1_2_says() {
        for (kind, texts) in [
            (Kind::Null, "~ null"),
            (Kind::Bool, "true FALSE"),
            (Kind::Int, "0 -1 80 0x1F 0o17"),
            (Kind::Float, "1.5 1. .5 1e3 -2.5E-1 .inf -.inf .nan"),
            (Kind::Ambiguous, "no On y N 0755 22:22 1:30:00 1_000"),
            (Kind::Text, "8080:80 500M 1.2.3.4 v1 0x . - tRUE e5 1e 22:60 ::"),
        ] {
            for text in texts.split(' ') {
                assert_eq!(kind_of(text), kind, "{text}");
            }
        }
        assert_eq!(kind_of(""), Kind::Null);
    }
}
