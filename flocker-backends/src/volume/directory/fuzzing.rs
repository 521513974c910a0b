//! Where a fuzzer comes in: what travels between directories, and what lies in them.

use flocker_model::DatasetId;
use flocker_model::SnapshotName;

use super::codec;
use super::difference::Difference;
use super::earlier;
use super::incoming;
use super::manifest::Manifest;
use super::manifest::Torn;
use super::record::Record;
use super::snapshots;
use super::stream::HEADER;
use super::stream::Header;
use super::stream::Token;

/// How long the header of a stream is.
pub const HEADER_LENGTH: usize = HEADER;

/// Reads text as a token; says how many blocks it claims, where it is one.
///
/// # Panics
///
/// Where what was read does not read the same when it is written again.
#[must_use]
pub fn read_token(text: &str) -> Option<u64> {
    let token = Token::parse(text)?;
    let again = Token::parse(&token.to_text());
    assert_eq!(again.as_ref(), Some(&token), "a token reads otherwise");
    let shown = Token::new(token.plan, token.next, &token.torn);
    assert!(shown.next <= token.next && shown.torn.keys().all(|at| *at < shown.next));
    Some(token.next)
}

/// Reads bytes as everything of this backend that somebody else, or a crash, may have written.
///
/// # Panics
///
/// Where what was read is not written as it came.
pub fn read_all(bytes: &[u8], dataset: DatasetId, name: &SnapshotName) {
    if let Some(header) = bytes.first_chunk::<HEADER>()
        && let Ok(read) = Header::decode(header)
    {
        assert_eq!(read.encode(), header, "there is one spelling of each header");
    }
    if let Some(head) = bytes.first_chunk::<{ earlier::HEAD }>()
        && let Ok(read) = earlier::Head::decode(head)
    {
        assert_eq!(
            read.encode(),
            head,
            "there is one spelling of each earlier snapshot"
        );
    }
    drop(earlier::parse(bytes));
    read_manifest(bytes);
    drop(incoming::parse_label(bytes));
    drop(incoming::parse_commit(bytes, name));
    drop(snapshots::parse(name, bytes));
    // With right digests, as only a hostile disk has them.
    if let Some((written, manifest)) = bytes.split_first_chunk::<8>() {
        let guid = Manifest::guid(name, manifest).0.to_be_bytes();
        let said = [&written[..], &guid, manifest].concat();
        let sealed = [&said[..], blake3::hash(&said).as_bytes()].concat();
        let is_read = incoming::parse_commit(&sealed, name).is_ok();
        assert_eq!(is_read, codec::decode(manifest).is_ok());
    }
    let of = Record::dataset_of(bytes);
    if let Ok(record) = Record::parse(bytes, dataset) {
        assert_eq!(of, Some(dataset), "a record says whose it is");
        let written = record.to_json().expect("a record can be written");
        assert_eq!(
            Record::parse(&written, dataset),
            Ok(record),
            "a record reads otherwise"
        );
    }
}

fn read_manifest(bytes: &[u8]) {
    let Ok(manifest) = codec::decode(bytes) else {
        return;
    };
    assert_eq!(
        codec::encode(&manifest),
        bytes,
        "there is one spelling of each manifest"
    );
    let all = Difference::between(None, &manifest);
    assert_eq!(all.total, manifest.held(), "everything has to travel");
    assert_eq!(
        Difference::between(Some(&manifest), &manifest),
        Difference::default()
    );
    // Every block was found to be zero when it was sent, every second one something else.
    let torn: Torn = (0..=all.len())
        .map(|at| (at, (at % 2 == 0).then_some([7; 32])))
        .collect();
    let sent = manifest.as_sent(&all, &torn);
    let encoded = codec::encode(&sent);
    assert_eq!(
        codec::decode(&encoded).as_ref(),
        Ok(&sent),
        "what was sent is a manifest too"
    );
}
