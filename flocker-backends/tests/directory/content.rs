//! What arrives is what was there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;

use rustix::fs::XattrFlags;

use crate::node::Node;
use crate::node::noise;
use crate::node::picture;

fn furnish(node: &Node) {
    let data = node.data();
    node.write("a/b/deep", b"deep");
    node.write("empty-file", b"");
    node.write("large", noise(1, 700_000));
    std::fs::create_dir(data.join("empty")).unwrap();
    std::fs::create_dir(data.join("locked")).unwrap();
    node.write("locked/inside", b"inside");
    std::os::unix::fs::symlink("a/b", data.join("link")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at all", data.join("dangling")).unwrap();
    std::fs::hard_link(data.join("a/b/deep"), data.join("zz-second-name")).unwrap();
    let odd = [&b"new\nline"[..], b"\xff\xfe not text", b"-rf", b" ", b"..."];
    for name in odd {
        std::fs::write(data.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let sparse = std::fs::File::create(data.join("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    sparse.write_all_at(b"in the middle", 500_000_000).unwrap();
    rustix::fs::fsetxattr(&sparse, "user.colour", b"blue", XattrFlags::empty()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        data.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let listener = std::os::unix::net::UnixListener::bind(data.join("socket")).unwrap();
    drop(listener);
    for (path, mode) in [
        ("a/b/deep", 0o640),
        ("locked/inside", 0o400),
        ("locked", 0o500),
        ("a", 0o1777),
        ("", 0o750),
    ] {
        std::fs::set_permissions(data.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    for path in ["large", "a/b"] {
        std::fs::File::open(data.join(path))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
}

fn without_sockets(picture: Vec<String>) -> Vec<String> {
    let kept = picture
        .into_iter()
        .filter(|line| !line.contains("something else"));
    kept.collect()
}

#[tokio::test]
async fn everything_that_makes_a_file_arrives() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    furnish(&alpha);
    let before = without_sockets(picture(&alpha.data()));
    alpha.hand_over(&beta, 2, None).await;
    assert_eq!(picture(&beta.data()), before);

    let sparse = beta.data().join("sparse");
    assert!(
        sparse.metadata().unwrap().blocks() * 512 < 1 << 20,
        "sparse stays sparse"
    );
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(&sparse, "user.colour", &mut value).unwrap();
    assert_eq!(&value[..length], b"blue");
    let inode = |path: &str| beta.data().join(path).metadata().unwrap().ino();
    assert_eq!(inode("a/b/deep"), inode("zz-second-name"));
}

#[tokio::test]
async fn everything_that_changes_arrives_as_an_increment() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    furnish(&alpha);
    let base = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;

    let data = alpha.data();
    std::fs::remove_file(data.join("link")).unwrap();
    node_swap(&alpha);
    std::fs::remove_file(data.join("zz-second-name")).unwrap();
    alpha.write("zz-second-name", b"a file of its own");
    std::fs::hard_link(data.join("large"), data.join("large-too")).unwrap();
    std::fs::File::options()
        .write(true)
        .open(data.join("sparse"))
        .unwrap()
        .set_len(600_000_000)
        .unwrap();
    let large = std::fs::File::options()
        .write(true)
        .open(data.join("large"))
        .unwrap();
    large.write_all_at(&vec![0; 262_144], 131_072).unwrap();
    large.set_len(400_000).unwrap();
    std::fs::rename(data.join("empty"), data.join("renamed")).unwrap();
    std::fs::set_permissions(data.join("locked/inside"), std::fs::Permissions::from_mode(0o444)).unwrap();
    rustix::fs::removexattr(data.join("sparse"), "user.colour").unwrap();

    let before = without_sockets(picture(&data));
    alpha.hand_over(&beta, 2, Some(base)).await;
    assert_eq!(picture(&beta.data()), before);
    assert!(rustix::fs::listxattr_query(beta.data().join("sparse")).is_ok_and(|length| length == 0));
}

/// Makes a directory of a file, a file of a directory and a link of another file.
fn node_swap(node: &Node) {
    let data = node.data();
    node.write("link/now a directory", b"yes");
    std::fs::remove_dir_all(data.join("a")).unwrap();
    node.write("a", b"now a file");
    std::fs::remove_file(data.join("empty-file")).unwrap();
    std::os::unix::fs::symlink("large", data.join("empty-file")).unwrap();
}

#[tokio::test]
async fn set_id_bits_are_left_behind() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    alpha.write("program", b"#!/bin/sh\n");
    let program = alpha.data().join("program");
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o6755)).unwrap();
    alpha.hand_over(&beta, 2, None).await;
    let mode = beta.data().join("program").metadata().unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[tokio::test]
async fn twenty_thousand_small_files_move_in_reasonable_time() {
    let (alpha, beta) = (Node::primary().await, Node::new());
    for number in 0..20_000 {
        let dir = alpha.data().join(format!("{:02}", number % 100));
        if number < 100 {
            std::fs::create_dir(&dir).unwrap();
        }
        std::fs::write(dir.join(format!("{number}")), number.to_string()).unwrap();
    }
    let begun = std::time::Instant::now();
    let base = alpha.snapshot("warm-2-1").await;
    alpha.push(&beta, "warm-2-1", None).await;
    let warm = begun.elapsed();
    alpha.write("00/0", b"the one that changed");
    let begun = std::time::Instant::now();
    alpha.hand_over(&beta, 2, Some(base)).await;
    let last = begun.elapsed();
    println!("warm {warm:?}, hand-off {last:?}");
    assert_eq!(
        std::fs::read(beta.data().join("00/0")).unwrap(),
        b"the one that changed"
    );
    assert_eq!(std::fs::read(beta.data().join("99/19999")).unwrap(), b"19999");
    assert!(
        warm.as_secs() < 60 && last.as_secs() < 60,
        "{warm:?} and {last:?}"
    );
}
