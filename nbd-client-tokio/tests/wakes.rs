//! What the kernel may wake the runtime for.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;

use nbd_sim::peer::Server;

/// epoll(7) writes its events in hexadecimal; this one says that there is room.
const EPOLLOUT: u32 = 4;

/// The events for which each socket of this process is watched.
fn watched_sockets() -> Vec<u32> {
    let mut watched = Vec::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let epoll = fs::read_link(entry.path());
        if !epoll.is_ok_and(|target| target == Path::new("anon_inode:[eventpoll]")) {
            continue;
        }
        let info = fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name()));
        // "tfd:       10 events: 80002019 data: ..."
        for line in info.unwrap().lines().filter(|line| line.starts_with("tfd:")) {
            let words: Vec<_> = line.split_whitespace().collect();
            let target = fs::read_link(Path::new("/proc/self/fd").join(words[1]));
            if target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:")) {
                watched.push(u32::from_str_radix(words[3], 16).unwrap());
            }
        }
    }
    watched
}

/// A server that takes a request in makes room in the socket: whoever is woken by that, too, is
/// woken twice for a command.
#[tokio::test]
async fn room_that_nobody_waits_for_wakes_nobody() {
    let server = Server::nbdkit(&["memory", "1M"]).start().unwrap();
    let disk = nbd_client_tokio::connect(&server.uri()).await.unwrap();
    // More than a socket takes at once: then there is somebody who waits.
    disk.write_all_at(vec![7; 1 << 20], 0).await.unwrap();
    assert_eq!(disk.read(0, 1 << 20).await.unwrap(), vec![7; 1 << 20]);
    let watched = watched_sockets();
    assert!(!watched.is_empty(), "the connection is watched");
    assert!(watched.iter().all(|events| events & EPOLLOUT == 0), "{watched:x?}");
}
