//! Where a fuzzer comes in: what travels between pools, what lies in the spool, and what the tool says.

use super::able::Able;
use super::able::Blocks;
use super::begin;
use super::begin::Begin;
use super::frame::CHECKED;
use super::frame::HEADER;
use super::frame::Header;
use super::frame::Token;
use super::partial::Rest;
use super::spool::Note;
use super::standing::Standing;

/// Reads bytes as everything of this backend that somebody else has written.
///
/// # Panics
///
/// Where what was read is not written as it came.
pub fn read_all(bytes: &[u8]) {
    if let Some(header) = bytes.first_chunk::<HEADER>()
        && let Ok(read) = Header::decode(header)
    {
        assert_eq!(read.encode(), header, "there is one spelling of each header");
    }
    if let Some(record) = bytes.first_chunk::<{ begin::LENGTH }>()
        && let Ok(begin) = Begin::parse(record)
    {
        assert_ne!(begin.from, Some(0), "nothing is not a snapshot");
    }
    if let Ok(note) = serde_json::from_slice::<Note>(bytes) {
        let written = serde_json::to_vec(&note).expect("a note can be written");
        assert_eq!(serde_json::from_slice::<Note>(&written).ok(), Some(note.clone()));
        if let Some(token) = note.arrival.and_then(|arrival| arrival.token()) {
            assert_eq!(
                Token::parse(&token.to_text()),
                Some(token),
                "an offer can be taken up"
            );
        }
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(token) = Token::parse(text) {
        assert_eq!(token.to_text(), text, "there is one spelling of each token");
    }
    if let Some(rest) = Rest::parse(text) {
        assert_ne!(rest.from.map(|from| from.0), Some(0), "nothing is not a snapshot");
    }
    if let Some(standing) = Standing::parse(text) {
        assert_eq!(standing.to_text(), text, "there is one spelling of each standing");
    }
    let (send, receive) = text.split_once('\0').unwrap_or((text, text));
    let able = Able::from_usage(send, receive);
    assert!(able.sends.cover(able.sends), "what it does it can do");
    assert!(
        Blocks::from_bits(Blocks::of_pool(text).bits()).is_some(),
        "a pool takes what there is"
    );
}

/// Reads bytes as a header whose check is right, as only a hostile peer writes it.
///
/// # Panics
///
/// Where what was read is not written as it came.
pub fn read_sealed(bytes: &[u8]) {
    let Some(mut header) = bytes.first_chunk::<HEADER>().copied() else {
        return;
    };
    let (checked, check) = header.split_at_mut(CHECKED);
    check.copy_from_slice(&blake3::hash(checked).as_bytes()[..HEADER - CHECKED]);
    if let Ok(read) = Header::decode(&header) {
        assert_eq!(read.encode(), header, "there is one spelling of each header");
    }
}
