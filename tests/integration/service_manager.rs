//! The gateway reports its state to systemd.

use std::os::unix::net::UnixDatagram;

use crate::kit::{PATIENCE, Process, Setup, Upstream, until};

/// Returns the next message of the gateway that is not a sign of life.
fn next(socket: &UnixDatagram) -> String {
    loop {
        let message = receive(socket);
        if message.trim() != "WATCHDOG=1" {
            return message;
        }
    }
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 1024];
    let length = socket.recv(&mut buffer).expect("a message in time");
    String::from_utf8(buffer[..length].to_vec()).expect("text")
}

#[tokio::test]
async fn reports_readiness_reloads_life_and_the_end() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain();
    let path = setup.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let variables = [("NOTIFY_SOCKET", path.to_str().expect("text")), ("WATCHDOG_USEC", "300000")];
    let process = Process::start_with(setup.dir.path(), &setup.toml(), &variables).await;
    assert_eq!(next(&socket).trim(), "READY=1\nSTATUS=serving 1 route");
    while receive(&socket).trim() != "WATCHDOG=1" {}

    process.signal("-HUP");
    let reloading = next(&socket);
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(next(&socket).starts_with("READY=1"));

    process.signal("-TERM");
    assert!(next(&socket).starts_with("STOPPING=1"));
    until("it ends", || async { process.lines("drained").len() == 1 }).await;
}
