//! `sealgate demo`: the gateway on loopback, without setup. A stand-in upstream counts the requests
//! that reach it, and a stand-in sender signs, tampers and repeats. A table shows the result of
//! each request and whether it is the expected one.

mod scenes;
mod stage;
mod upstream;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use self::stage::DemoStage;
use super::{Status, out};

/// Sends the requests and prints the table. Then the gateway keeps running unless `exit` is set.
pub(super) fn demo(exit: bool) -> anyhow::Result<Status> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(play(exit))
}

async fn play(exit: bool) -> anyhow::Result<Status> {
    let mut terminate = signal(SignalKind::terminate())?;
    let stage = DemoStage::set().await?;
    let played = tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| Status::Success)?,
        _ = terminate.recv() => Status::Success,
        played = show(&stage, exit) => played?,
    };
    stage.strike().await;
    Ok(played)
}

/// Sends the requests and prints the table. Without `exit`, returns only if a row is wrong.
async fn show(stage: &DemoStage, exit: bool) -> anyhow::Result<Status> {
    out!("sender → {} (gateway) → {} (upstream)\n\n", stage.public_url(), stage.upstream_url())?;
    let rows = scenes::play(stage).await?;
    out!("\n{}", scenes::render(&rows))?;
    if !rows.iter().all(|row| row.is_as_it_must_be()) {
        out!("\nSome rows are NOT as expected.\n")?;
        return Ok(Status::Failed);
    }
    out!("\nEvery row is as expected.\n")?;
    if exit {
        return Ok(Status::Success);
    }
    out!(
        "\nThe gateway keeps running.\n\
         \x20 inspector: {}\n\
         \x20 token:     {}\n\
         \x20 metrics:   {}\n\
         Run this command within five minutes, then run it again:\n\n{}\n\n\
         Press Ctrl-C to stop.\n",
        stage.inspector_url(),
        stage.token(),
        stage.metrics_url(),
        stage.curl()?
    )?;
    std::future::pending().await
}
