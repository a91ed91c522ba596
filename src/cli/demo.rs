//! `sealgate demo`: the gateway's main job on loopback, with nothing to set up. A stand-in upstream
//! counts what reaches it, a stand-in sender signs, tampers and repeats; a table shows what became of
//! each request, and whether that is as it must be.

mod scenes;
mod stage;
mod upstream;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use self::stage::Stage;
use super::Status;

/// Plays the scenes and shows what became of them; then serves on, unless it is to `exit`.
pub(super) fn demo(exit: bool) -> anyhow::Result<Status> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(play(exit))
}

async fn play(exit: bool) -> anyhow::Result<Status> {
    let stage = Stage::set().await?;
    println!("sender → {} (gateway) → {} (upstream)\n", stage.public_url(), stage.upstream_url());
    let rows = scenes::play(&stage).await?;
    print!("{}", scenes::render(&rows));
    let right = rows.iter().all(|row| row.is_as_it_must_be());
    println!("\n{}", if right { "Every row is as it must be." } else { "NOT as it must be." });
    if right && !exit {
        println!(
            "\nThe gateway keeps serving. Try this within five minutes, and then once more:\n"
        );
        println!("{}\n\nCtrl-C ends it.", stage.curl()?);
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted?,
            _ = terminate.recv() => {}
        }
    }
    stage.strike().await;
    Ok(if right { Status::Done } else { Status::Failed })
}
