use std::time::Duration;

use tokio::time::Instant;

use self::cluster::Postgres;
use super::{
    Database, DatabaseError, DatabaseOptions,
    migrations::{MIGRATIONS, Migration},
};
use crate::secret::Secret;

#[path = "../../tests/integration/kit/postgres.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
pub(crate) mod cluster;

/// The version before the latest one, and the one after it, which leaves the latest working.
const PREVIOUS: &[Migration] = MIGRATIONS.split_at(MIGRATIONS.len() - 1).0;
const NEXT: &[Migration] = &[
    Migration::new(1, include_str!("migrations/1_replay.sql")),
    Migration::new(1, include_str!("migrations/2_events.sql")),
    Migration::new(1, include_str!("migrations/3_batches.sql")),
    Migration::new(1, "ALTER TABLE sealgate.replay ADD COLUMN note text NOT NULL DEFAULT ''"),
];

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn database(url: String, migrations: &'static [Migration]) -> Database {
    let options = DatabaseOptions { url: Secret::new(url.into_bytes()), ca: None };
    Database::with_migrations(&options, 4, migrations).unwrap()
}

fn prepare(database: &Database) -> Result<(), DatabaseError> {
    database.prepare(async |_| Ok(()))
}

/// Claims an event, and returns the reply.
async fn claim(database: &Database, event: u8) -> String {
    let claim = format!(
        "SELECT reply FROM sealgate.replay_claim('{event}', 'token', 'pin', false, 15000, 60000)"
    );
    database.query(&claim, &[], soon()).await.unwrap()[0].get(0)
}

#[tokio::test]
async fn processes_that_start_together_create_the_schema_once() {
    let Some(server) = Postgres::start().await else { return };
    let databases = [0; 4].map(|_| database(server.url(), MIGRATIONS));
    let [a, b, c, d] = &databases;
    let (a, b, c, d) =
        tokio::join!(a.check(soon()), b.check(soon()), c.check(soon()), d.check(soon()));
    for checked in [a, b, c, d] {
        checked.unwrap();
    }
    let steps = i64::try_from(MIGRATIONS.len()).unwrap();
    assert_eq!(server.number("SELECT count(*) FROM sealgate.migration").await, steps);
}

#[tokio::test]
async fn binaries_that_differ_by_one_migration_run_side_by_side() {
    let Some(server) = Postgres::start().await else { return };
    for (event, [old, new]) in [(1, [PREVIOUS, MIGRATIONS]), (4, [MIGRATIONS, NEXT])] {
        let running = database(server.url(), old);
        running.check(soon()).await.unwrap();
        assert_eq!(claim(&running, event).await, "won");
        let upgraded = database(server.url(), new);
        upgraded.check(soon()).await.unwrap();
        for (event, first, second) in
            [(event + 1, &running, &upgraded), (event + 2, &upgraded, &running)]
        {
            assert_eq!(claim(first, event).await, "won");
            assert_eq!(claim(second, event).await, "won", "the token is the same");
        }
        // A replica of the old version that starts during the upgrade.
        let restarted = database(server.url(), old);
        prepare(&restarted).unwrap();
        restarted.check(soon()).await.unwrap();
        assert_eq!(claim(&restarted, event).await, "won");
    }
}

#[tokio::test]
async fn a_schema_that_needs_a_later_binary_is_rejected() {
    let Some(server) = Postgres::start().await else { return };
    let running = database(server.url(), MIGRATIONS);
    running.check(soon()).await.unwrap();
    server.sql("INSERT INTO sealgate.migration VALUES (98, 97)").await;
    let known = i32::try_from(MIGRATIONS.len()).unwrap();
    let newer = DatabaseError::Newer { found: 98, known };
    assert_eq!(running.check(soon()).await, Err(newer.clone()));
    let starting = database(server.url(), MIGRATIONS);
    assert_eq!(prepare(&starting), Err(newer.clone()));
    let text = format!(
        "the schema `sealgate` has version 98, which needs a later sealgate: this one knows \
         version {known}"
    );
    assert_eq!(newer.to_string(), text);
}

#[tokio::test]
async fn errors_explain_what_the_operator_can_do() {
    let Some(server) = Postgres::start().await else { return };
    let error = |url: String| async move {
        database(url, MIGRATIONS).check(soon()).await.unwrap_err().to_string()
    };
    server.sql("DROP SCHEMA sealgate").await;
    let text = error(server.url()).await;
    let expected = "permission denied for database shop (SQLSTATE 42501): see \"Role\"";
    assert!(text.starts_with(expected), "{text}");

    let text = error(server.url().replace("/shop", "/none")).await;
    assert_eq!(text, "database \"none\" does not exist (SQLSTATE 3D000)");
    let text = error(server.url().replace(cluster::PASSWORD, "guess")).await;
    assert!(text.starts_with("password authentication failed"), "{text}");
    let text = error(format!("{}?sslmode=require", server.url())).await;
    assert!(text.ends_with("or append ?sslmode=disable to the URL"), "{text}");
    server.kill();
    let text = error(server.url()).await;
    assert!(text.contains("Connection refused"), "{text}");
}
