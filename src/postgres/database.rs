//! A database: a bounded pool of connections, and statements that are repeated while the database
//! is unavailable.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Poll, ready},
    time::Duration,
};

use deadpool_postgres::{
    Connect, Hook, HookError, Manager, ManagerConfig, Object, Pool, PoolError,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Row,
    types::{ToSql, Type},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    address::{DatabaseOptions, connect_config},
    error::{DatabaseError, NextTry, describe, is_missing_schema, next},
    migrations::{MIGRATIONS, Migration, SchemaVersion, complete_version, migrate},
};
use crate::tls;

/// A connection without a reply for this long, while none arrives on any other, is replaced.
const SILENCE: Duration = Duration::from_millis(400);

/// For this long after a failed attempt to connect, calls get its error.
const REDIAL: Duration = Duration::from_millis(50);

/// The pauses before a statement is repeated; the last one repeats.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
];

/// The longest that the start of the process waits for the database.
const START_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest that the steps to another version of the schema may take.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(600);

/// A parameter of a statement, with its type.
pub(crate) type Parameter<'p> = (&'p (dyn ToSql + Sync), Type);

/// A database with the schema `sealgate`.
pub(crate) struct Database {
    config: Config,
    tls: MakeRustlsConnect,
    pool: Pool,
    migrations: &'static [Migration],
    /// The schema was found to be usable.
    prepared: AtomicBool,
    opened: Instant,
    /// When the last reply arrived, in milliseconds after `opened`.
    last_reply: AtomicU64,
    /// When connecting last failed, and why.
    dial_failed: Mutex<Option<(Instant, DatabaseError)>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("hosts", &self.config.get_hosts()).finish_non_exhaustive()
    }
}

impl Database {
    /// Prepares connections to a database, at most `connections` at the same time. They are opened
    /// when they are needed.
    ///
    /// # Errors
    /// The URL or the CA file cannot be used.
    pub(crate) fn new(
        options: &DatabaseOptions,
        connections: usize,
    ) -> Result<Self, DatabaseError> {
        Self::with_migrations(options, connections, MIGRATIONS)
    }

    /// Same as [`Database::new`], in a binary with these migrations.
    pub(super) fn with_migrations(
        options: &DatabaseOptions,
        connections: usize,
        migrations: &'static [Migration],
    ) -> Result<Self, DatabaseError> {
        let failed = |error: &dyn fmt::Display| DatabaseError::Failed(error.to_string());
        let config = connect_config(options).map_err(|error| failed(&error))?;
        let mut tls = rustls::ClientConfig::clone(
            &*tls::client_config(options.ca.as_deref(), None).map_err(|error| failed(&error))?,
        );
        tls.alpn_protocols.clear();
        let tls = MakeRustlsConnect::new(tls);
        let manager = Manager::from_connect(
            config.clone(),
            Dial(tls.clone()),
            // The default does not check a connection before it is used again.
            ManagerConfig::default(),
        );
        // Without it, deadpool would log each connection that was closed.
        let is_open = Hook::sync_fn(|client, _| match client.is_closed() {
            true => Err(HookError::message("closed")),
            false => Ok(()),
        });
        let pool = Pool::builder(manager).max_size(connections).pre_recycle(is_open).build();
        Ok(Database {
            config,
            tls,
            pool: pool.map_err(|error| failed(&error))?,
            migrations,
            prepared: AtomicBool::new(false),
            opened: Instant::now(),
            last_reply: AtomicU64::new(0),
            dial_failed: Mutex::new(None),
        })
    }

    /// Migrates the schema before the process uses the database, and calls `then`. A database that
    /// does not respond within three seconds is no error: [`Database::check`] migrates it later.
    ///
    /// # Errors
    /// [`DatabaseError::Newer`], and what `then` returns.
    pub(crate) fn prepare<E, F>(&self, then: F) -> Result<(), E>
    where
        E: From<DatabaseError> + Send,
        F: AsyncFnOnce(Instant) -> Result<(), E> + Send,
    {
        let until = Instant::now() + START_TIMEOUT;
        // The caller may be a task of a runtime, which this blocks anyway.
        let prepare = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return Ok(()) };
            runtime.block_on(async {
                match self.migrate(until).await {
                    Ok(()) => then(until).await,
                    Err(error @ DatabaseError::Newer { .. }) => Err(error.into()),
                    Err(DatabaseError::Failed(_)) => Ok(()),
                }
            })
        };
        let prepared = std::thread::scope(|scope| scope.spawn(prepare).join());
        // A panic has been reported by its thread.
        prepared.unwrap_or(Ok(()))
    }

    /// Migrates the schema if that has not happened yet, and checks that the database accepts
    /// writes.
    ///
    /// # Errors
    /// The database cannot be used.
    pub(crate) async fn check(&self, until: Instant) -> Result<(), DatabaseError> {
        if !self.prepared.load(Ordering::Relaxed) {
            self.migrate(until).await?;
        }
        let until = until.max(Instant::now() + SILENCE);
        let probe = "SELECT version, oldest FROM sealgate.probe()";
        let rows = self.query(probe, &[], until).await?;
        let row = rows.first().ok_or_else(no_reply)?;
        let version = (row.try_get(0), row.try_get(1));
        let (Ok(version), Ok(oldest)) = version else { return Err(no_reply()) };
        SchemaVersion { version, oldest }.check(self.migrations)
    }

    /// Migrates the schema on a separate connection, which must respond by `until`.
    async fn migrate(&self, until: Instant) -> Result<(), DatabaseError> {
        let failed = |error| DatabaseError::Failed(describe(&error));
        let first = async {
            let (client, connection) = self.config.connect(self.tls.clone()).await?;
            // It ends with the client.
            tokio::spawn(async move { drop(connection.await) });
            let version = complete_version(&client, self.migrations).await?;
            Ok((client, version))
        };
        let first = timeout_at(until, first).await.map_err(|_| no_reply())?;
        let (mut client, version) = first.map_err(failed)?;
        match version {
            Some(version) => version.check(self.migrations)?,
            None => {
                let steps = migrate(&mut client, self.migrations);
                let steps = timeout(MIGRATION_TIMEOUT, steps).await.map_err(|_| no_reply())?;
                steps.map_err(failed)?;
            }
        }
        self.prepared.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Calls `notify` for each notification on a channel until the connection is lost. Behind a
    /// pooler in transaction mode, there are none.
    ///
    /// # Errors
    /// The connection cannot be opened, or was lost.
    pub(crate) async fn listen(
        &self,
        channel: &str,
        mut notify: impl FnMut(),
    ) -> Result<(), DatabaseError> {
        let failed = |error| DatabaseError::Failed(describe(&error));
        let (client, mut connection) =
            self.config.connect(self.tls.clone()).await.map_err(failed)?;
        let mut messages = pin!(poll_fn(|context| {
            loop {
                match ready!(connection.poll_message(context)) {
                    Some(Ok(AsyncMessage::Notification(_))) => notify(),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => return Poll::Ready(Ok(())),
                }
            }
        }));
        let statement = format!("LISTEN {channel}");
        tokio::select! {
            ended = &mut messages => return ended.map_err(failed),
            listening = client.batch_execute(&statement) => listening.map_err(failed)?,
        }
        messages.await.map_err(failed)
    }

    /// Runs a statement as a separate transaction, and returns the rows. It is repeated while the
    /// database is unavailable or its connection is lost, and must therefore be idempotent.
    ///
    /// # Errors
    /// The last error, if the time is up or the database rejects the statement.
    pub(crate) async fn query(
        &self,
        statement: &str,
        parameters: &[Parameter<'_>],
        until: Instant,
    ) -> Result<Vec<Row>, DatabaseError> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let error = match self.connection(until).await {
                Ok(connection) => match self.run(connection, statement, parameters, until).await {
                    Ok(rows) => return Ok(rows),
                    Err((NextTry::Fail, error)) => return Err(error),
                    Err((_, error)) => error,
                },
                Err(error) => error,
            };
            let pause = pauses.next().unwrap_or(PAUSES[PAUSES.len() - 1]);
            if Instant::now() + pause >= until {
                return Err(error);
            }
            sleep(pause).await;
        }
    }

    /// Runs a statement once. The connection is used again only if a reply has arrived on it.
    async fn run(
        &self,
        connection: Object,
        statement: &str,
        parameters: &[Parameter<'_>],
        until: Instant,
    ) -> Result<Vec<Row>, (NextTry, DatabaseError)> {
        let used = Used(Some(connection));
        let Some(reply) = self.reply(&used, statement, parameters, until).await else {
            if self.is_silent() {
                self.drop_idle();
            }
            return Err((NextTry::Reconnect, no_reply()));
        };
        let error = match reply {
            Ok(rows) => {
                used.release();
                return Ok(rows);
            }
            Err(error) => error,
        };
        if is_missing_schema(&error) {
            self.prepared.store(false, Ordering::Relaxed);
        }
        let next = next(&error);
        match next {
            // The others lead to the same server.
            NextTry::Reconnect => self.drop_idle(),
            NextTry::Repeat | NextTry::Fail => used.release(),
        }
        Err((next, DatabaseError::Failed(describe(&error))))
    }

    /// Returns the reply to a statement, or `None` if there is none in time or the connection seems
    /// to be lost.
    async fn reply(
        &self,
        used: &Used,
        statement: &str,
        parameters: &[Parameter<'_>],
        until: Instant,
    ) -> Option<Result<Vec<Row>, tokio_postgres::Error>> {
        let mut reply = pin!(used.0.as_ref()?.query_typed(statement, parameters));
        loop {
            let silent_at = until.min(Instant::now() + SILENCE);
            match timeout_at(silent_at, &mut reply).await {
                Ok(reply) => {
                    if reply.as_ref().err().is_none_or(|error| error.as_db_error().is_some()) {
                        self.record_reply();
                    }
                    return Some(reply);
                }
                // The server is slow, but replies to other statements arrive.
                Err(_) if silent_at < until && !self.is_silent() => {}
                Err(_) => return None,
            }
        }
    }

    /// Returns a connection that no other statement uses.
    async fn connection(&self, until: Instant) -> Result<Object, DatabaseError> {
        let recent = {
            let failed = self.dial_failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.as_ref().filter(|(at, _)| at.elapsed() < REDIAL).cloned()
        };
        if let Some((_, error)) = recent {
            return Err(error);
        }
        let error = match timeout_at(until, self.pool.get()).await {
            Ok(Ok(connection)) => return Ok(connection),
            Ok(Err(PoolError::Backend(error))) => DatabaseError::Failed(describe(&error)),
            Ok(Err(error)) => DatabaseError::Failed(error.to_string()),
            Err(_) => return Err(DatabaseError::Failed("no connection in time".to_owned())),
        };
        let mut failed = self.dial_failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = Some((Instant::now(), error.clone()));
        Err(error)
    }

    fn record_reply(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_reply.store(now, Ordering::Relaxed);
    }

    fn is_silent(&self) -> bool {
        let last = Duration::from_millis(self.last_reply.load(Ordering::Relaxed));
        (self.opened + last).elapsed() >= SILENCE
    }

    /// Closes the connections that no statement uses.
    fn drop_idle(&self) {
        drop(self.pool.retain(|_, _| false));
    }
}

/// A connection in use. It is closed when this is dropped: if the caller gives up, the next
/// statement must not wait for the reply to this one.
struct Used(Option<Object>);

impl Used {
    /// Returns the connection to the pool.
    fn release(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(Object::take(connection));
        }
    }
}

/// A connection that is being opened: the client, and the task that drives the connection.
type Dialing<'d> = Pin<
    Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'd>,
>;

/// Opens connections, and logs nothing: the statements that fail report the reason.
struct Dial(MakeRustlsConnect);

impl Connect for Dial {
    fn connect(&self, config: &Config) -> Dialing<'_> {
        let config = config.clone();
        Box::pin(async move {
            let (client, connection) = config.connect(self.0.clone()).await?;
            let task = tokio::spawn(async move { drop(connection.await) });
            Ok((client, task))
        })
    }
}

fn no_reply() -> DatabaseError {
    DatabaseError::Failed("no reply in time".to_owned())
}
