//! Other programs that tests run: detection, and termination at the end of the test.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use tokio::net::TcpStream;

use super::until;

/// Returns a command for the tool if it is installed. Otherwise the test is skipped, or fails if
/// `SEALGATE_REQUIRE_ALL` is set.
pub(crate) fn tool(name: &str) -> Option<Command> {
    let mut version = Command::new(name);
    if version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok() {
        return Some(Command::new(name));
    }
    assert!(std::env::var_os("SEALGATE_REQUIRE_ALL").is_none(), "{name} is not installed");
    eprintln!("SKIPPED: {name} is not installed");
    None
}

/// Returns a free loopback address, for programs that cannot report the port that they got. It is
/// not 127.0.0.1, so that no other test gets the port before the program has bound it.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    free_at(Ipv4Addr::new(127, 0, 1, NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Returns a free port at an address, for programs that cannot use another address.
pub(crate) fn free_at(address: Ipv4Addr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

/// Running program; terminated when dropped.
pub(crate) struct Program(Child);

impl Program {
    /// Starts a program without standard streams.
    pub(crate) fn silent(command: &mut Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Program(quiet.spawn().expect("it starts"))
    }

    /// Starts a program whose standard streams are set.
    pub(crate) fn logging(command: &mut Command) -> Self {
        Program(command.spawn().expect("it starts"))
    }

    /// Returns its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Waits until the program accepts connections at this address.
    pub(crate) async fn listens(&mut self, address: SocketAddr) {
        let child = std::sync::Mutex::new(&mut self.0);
        until("the program listens", || async {
            let ended = child.lock().expect("not poisoned").try_wait().expect("a state");
            assert!(ended.is_none(), "the program ended: {ended:?}");
            TcpStream::connect(address).await.is_ok()
        })
        .await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The program may have exited already.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
