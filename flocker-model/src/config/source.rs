//! From the bytes of a file to a text, or to the first of them that is none.

use std::string::FromUtf8Error;

use super::diagnostic::Code;
use super::diagnostic::Diagnostic;
use super::diagnostic::File;
use super::diagnostic::Severity;
use super::diagnostic::Source;
use super::diagnostic::Span;

impl Source {
    /// Names the bytes of a file, if they are a text.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self, Box<NotText>> {
        let name = name.into();
        // A text has no NUL, and the wider forms of Unicode begin with a letter beside one, or with a mark.
        match *bytes {
            [0xFF, 0xFE, ..] | [b' '..=b'~', 0, ..] => Err(NotText::utf16(name, &bytes, u16::from_le_bytes)),
            [0xFE, 0xFF, ..] | [0, b' '..=b'~', ..] => Err(NotText::utf16(name, &bytes, u16::from_be_bytes)),
            _ => String::from_utf8(bytes)
                .map(|text| Self::new(name.as_str(), text))
                .map_err(|error| NotText::at(name, &error)),
        }
    }
}

/// A file that is not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotText {
    /// What can be shown of it.
    pub source: Source,
    /// Where it goes wrong.
    pub diagnostic: Diagnostic,
}

impl NotText {
    fn new(source: Source, span: Span, message: String) -> Box<Self> {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            code: Code::NotUtf8,
            message,
            place: File::new(&source).place(span),
            also: Vec::new(),
            hint: Some("save it as UTF-8".into()),
        };
        Box::new(Self { source, diagnostic })
    }

    fn utf16(name: String, bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Box<Self> {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        let units: Vec<u16> = units.collect();
        let text = String::from_utf16_lossy(&units);
        let source = Source::new(name, text.trim_start_matches('\u{feff}'));
        Self::new(source, Span::default(), "the file is UTF-16, not UTF-8".into())
    }

    fn at(name: String, error: &FromUtf8Error) -> Box<Self> {
        let n_right = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let wrong = bytes.get(n_right).copied().unwrap_or_default();
        let message = format!(
            "the file is not UTF-8: byte {} of it is 0x{wrong:02X}",
            n_right + 1
        );
        // All before it stays where it is, so that the place is one of this text, too.
        let source = Source::new(name, String::from_utf8_lossy(bytes));
        let start = u32::try_from(n_right).unwrap_or(u32::MAX);
        let end = start.saturating_add(u32::try_from(char::REPLACEMENT_CHARACTER.len_utf8()).unwrap_or(0));
        Self::new(source, Span { start, end }, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_says_where_it_goes_wrong() {
        let wrong = |bytes: &[u8]| {
            let wrong = Source::from_bytes("a", bytes.to_vec()).unwrap_err();
            let excerpt = wrong
                .diagnostic
                .place
                .excerpt(&wrong.source.text)
                .map(str::to_owned);
            (wrong.diagnostic.to_string(), excerpt.unwrap())
        };
        assert_eq!(
            wrong(b"x: 1\n\xc3\xa9: caf\xe9\n"),
            (
                "a:2:7: error: the file is not UTF-8: byte 13 of it is 0xE9".into(),
                "é: caf\u{fffd}".into()
            )
        );
        // The last character is cut off.
        assert_eq!(
            wrong(b"x: \xc3"),
            (
                "a:1:4: error: the file is not UTF-8: byte 4 of it is 0xC3".into(),
                "x: \u{fffd}".into()
            )
        );
        let utf16 = (
            "a:1:1: error: the file is UTF-16, not UTF-8".into(),
            "x: y".into(),
        );
        for bytes in [
            &b"\xff\xfex\0:\0 \0y\0\n\0"[..],
            b"\xfe\xff\0x\0:\0 \0y",
            b"x\0:\0 \0y\0",
            b"\0x\0:\0 \0y",
        ] {
            assert_eq!(wrong(bytes), utf16);
        }
        let right = "\u{feff}x: é".as_bytes().to_vec();
        assert_eq!(
            Source::from_bytes("a", right),
            Ok(Source::new("a", "\u{feff}x: é"))
        );
        assert_eq!(Source::from_bytes("a", Vec::new()), Ok(Source::new("a", "")));
    }
}
