//! The limit of open files.

use crate::kit::{Process, Setup, Upstream};

const WARNING: &str = "exceeds the limit on open files";

/// Returns the soft and the hard limit of open files.
fn limits(process: &Process) -> Vec<String> {
    let limits = process.proc("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.expect("a limit").split_whitespace().take(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_and_a_shortage_is_logged() {
    let upstream = Upstream::start().await;
    let setup = Setup::new(&upstream).plain().section("[limits]\nconnections = 400");
    let (dir, toml) = (setup.dir.path(), setup.toml());
    let enough = Process::start_limited(dir, &toml, "ulimit -Sn 128 && ulimit -Hn 1024").await;
    assert_eq!(limits(&enough), ["1024", "1024"]);
    assert!(!enough.log().contains(WARNING), "{}", enough.log());
    let short = Process::start_limited(dir, &toml, "ulimit -Sn 128 && ulimit -Hn 600").await;
    assert_eq!(limits(&short), ["600", "600"]);
    assert!(short.log().contains(WARNING), "{}", short.log());
}
