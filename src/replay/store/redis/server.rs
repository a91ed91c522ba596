//! One Redis server: a connection that is opened when it is needed and replaced when it fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{
    ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    login::{Address, Login},
    script::SCRIPTS,
    sentinel::Sentinels,
};

/// The longest that opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection on which nothing has arrived for this long, while a reply is due, is replaced.
const SILENCE: Duration = Duration::from_millis(400);

/// The shortest time between two attempts to connect.
const REDIAL: Duration = Duration::from_millis(50);

/// One server.
pub(super) struct RedisServer {
    target: Target,
    login: Login,
    current: ArcSwapOption<Live>,
    /// When a connection was last opened, and the error if that failed. Locked meanwhile.
    dialed: Mutex<Option<(Instant, Option<RedisError>)>>,
}

/// Which server it is.
enum Target {
    Fixed(Address),
    /// The primary that the sentinels report.
    Primary(Sentinels),
}

/// An open connection.
struct Live {
    connection: MultiplexedConnection,
    address: Address,
    opened: Instant,
    /// When the last reply arrived, in milliseconds after `opened`.
    last_reply: AtomicU64,
}

impl Live {
    fn record_reply(&self) {
        let now = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_reply.store(now, Ordering::Relaxed);
    }

    fn is_silent(&self) -> bool {
        let last = Duration::from_millis(self.last_reply.load(Ordering::Relaxed));
        (self.opened + last).elapsed() >= SILENCE
    }
}

impl RedisServer {
    /// Returns the server at this address, without connecting to it.
    pub(super) fn at(address: Address, login: Login) -> Self {
        Self::new(Target::Fixed(address), login)
    }

    /// Returns the primary that these sentinels monitor, without connecting to it.
    pub(super) fn primary_of(sentinels: Sentinels, login: Login) -> Self {
        Self::new(Target::Primary(sentinels), login)
    }

    fn new(target: Target, login: Login) -> Self {
        let (current, dialed) = (ArcSwapOption::empty(), Mutex::new(None));
        RedisServer { target, login, current, dialed }
    }

    /// Returns the address that was configured or announced; `None` for a primary that sentinels
    /// name.
    pub(super) fn address(&self) -> Option<&Address> {
        match &self.target {
            Target::Fixed(address) => Some(address),
            Target::Primary(_) => None,
        }
    }

    /// Sends one command, and returns the reply.
    ///
    /// # Errors
    /// Those of [`RedisServer::send`], and the one that the server returns.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        command: &Pipeline,
        until: Instant,
    ) -> RedisResult<T> {
        let replies = self.send(command, until).await?;
        replies.into_iter().next_back().unwrap_or_else(|| Err(no_reply()))
    }

    /// Sends commands in one go, and returns a reply to each. The pipeline must ignore errors.
    ///
    /// # Errors
    /// If no connection can be opened, the connection is lost, or there is no reply in time.
    pub(super) async fn send<T: FromRedisValue>(
        &self,
        commands: &Pipeline,
        until: Instant,
    ) -> RedisResult<Vec<RedisResult<T>>> {
        let live = match self.current.load_full() {
            Some(live) => live,
            None => timeout_at(until, self.open()).await.map_err(|_| no_reply())??,
        };
        let mut connection = live.connection.clone();
        let replies = commands.query_async::<Vec<RedisResult<T>>>(&mut connection);
        let mut replies = std::pin::pin!(replies);
        loop {
            let patient = until.min(Instant::now() + SILENCE);
            match timeout_at(patient, &mut replies).await {
                Ok(Ok(replies)) => {
                    live.record_reply();
                    if replies.iter().flat_map(|reply| reply.as_ref().err()).any(is_outdated) {
                        self.discard(&live);
                    }
                    return Ok(replies);
                }
                Ok(Err(error)) => {
                    self.discard(&live);
                    return Err(error);
                }
                // On a connection to a slow server, replies to earlier calls still arrive.
                Err(_) if patient < until && !live.is_silent() => {}
                Err(_) => {
                    if live.is_silent() {
                        self.discard(&live);
                    }
                    return Err(no_reply());
                }
            }
        }
    }

    /// Drops the connection if the sentinels report another primary by now.
    pub(super) async fn follow(&self, until: Instant) {
        if let (Target::Primary(sentinels), Some(live)) = (&self.target, self.current.load_full())
            && let Ok(Ok(primary)) = timeout_at(until, sentinels.primary()).await
            && primary != live.address
        {
            self.discard(&live);
        }
    }

    /// Opens a connection, unless another task has done so or has just failed.
    async fn open(&self) -> RedisResult<Arc<Live>> {
        let mut dialed = self.dialed.lock().await;
        if let Some(live) = self.current.load_full() {
            return Ok(live);
        }
        if let Some((at, error)) = &*dialed
            && at.elapsed() < REDIAL
        {
            match error {
                Some(error) => return Err(error.clone()),
                None => sleep_until(*at + REDIAL).await,
            }
        }
        match timeout(CONNECT_TIMEOUT, self.dial()).await.unwrap_or_else(|_| Err(no_reply())) {
            Ok(live) => {
                let live = Arc::new(live);
                self.current.store(Some(Arc::clone(&live)));
                *dialed = Some((Instant::now(), None));
                Ok(live)
            }
            Err(error) => {
                *dialed = Some((Instant::now(), Some(error.clone())));
                Err(error)
            }
        }
    }

    /// Connects and loads the scripts, which shows that the server responds.
    async fn dial(&self) -> RedisResult<Live> {
        let address = match &self.target {
            Target::Fixed(address) => address.clone(),
            Target::Primary(sentinels) => sentinels.primary().await?,
        };
        let mut connection = self.login.connect(&address).await?;
        let mut load = redis::pipe();
        for script in SCRIPTS {
            load.cmd("SCRIPT").arg("LOAD").arg(script.code).ignore();
        }
        load.query_async::<()>(&mut connection).await?;
        let (opened, last_reply) = (Instant::now(), AtomicU64::new(0));
        Ok(Live { connection, address, opened, last_reply })
    }

    /// Drops the connection, unless it was replaced already.
    fn discard(&self, live: &Arc<Live>) {
        self.current.compare_and_swap(Arc::as_ptr(live), None);
    }
}

fn no_reply() -> RedisError {
    RedisError::from((ErrorKind::Io, "no reply in time"))
}

/// Returns whether the error means that this server cannot accept calls now, while a new connection
/// to the same name may lead to one that can.
fn is_outdated(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, MasterDown, NoScript, ReadOnly};
    matches!(server_error(error), Some(ReadOnly | BusyLoading | MasterDown | NoScript))
}

/// Returns the kind of error that the server returned, if it did. Redis 6 wraps the error of a
/// command in a script in a generic one.
pub(super) fn server_error(error: &RedisError) -> Option<ServerErrorKind> {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ResponseError)
            if error.detail().is_some_and(|detail| detail.contains("-READONLY ")) =>
        {
            Some(ServerErrorKind::ReadOnly)
        }
        ErrorKind::Server(kind) => Some(kind),
        _ => None,
    }
}
