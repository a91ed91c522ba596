//! `sealgate demo`: the gateway on loopback, without setup. A stand-in upstream counts the requests
//! that reach it, and a stand-in sender signs, tampers and repeats. A table shows the result of
//! each request and whether it is the expected one.

mod scenes;
mod stage;
mod upstream;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use self::stage::DemoStage;
use super::Status;

/// Sends the requests and prints the table. Then the gateway keeps running unless `exit` is set.
pub(super) fn demo(exit: bool) -> anyhow::Result<Status> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(play(exit))
}

async fn play(exit: bool) -> anyhow::Result<Status> {
    let stage = DemoStage::set().await?;
    println!("sender → {} (gateway) → {} (upstream)\n", stage.public_url(), stage.upstream_url());
    let rows = scenes::play(&stage).await?;
    print!("{}", scenes::render(&rows));
    let right = rows.iter().all(|row| row.is_as_it_must_be());
    println!(
        "\n{}",
        if right { "Every row is as expected." } else { "Some rows are NOT as expected." }
    );
    if right && !exit {
        println!(
            "\nThe gateway keeps running. Run this command within five minutes, then run it again:\n"
        );
        println!("{}\n\nPress Ctrl-C to stop.", stage.curl()?);
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            _ = terminate.recv() => {}
        }
    }
    stage.strike().await;
    Ok(if right { Status::Success } else { Status::Failed })
}
