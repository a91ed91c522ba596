//! The servers of the store: finds the one for a call, and repeats calls while it is unavailable.

use std::{sync::Arc, time::Duration};

use redis::{ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    cluster::Cluster,
    login::{Address, Login},
    script::{Call, Key, Words},
    sentinel::Sentinels,
    server::{RedisServer, server_error},
};
use crate::replay::options::Topology;

/// The pauses before a call is repeated; the first repetition is immediate.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(10),
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(80),
    Duration::from_millis(100),
];

/// The number of redirections that a call follows before it pauses.
const REDIRECTIONS: usize = 5;

/// The number of calls that one server is sent in one go.
const CHUNK: usize = 250;

/// The servers.
pub(super) enum Servers {
    /// One server with all keys.
    One(Arc<RedisServer>),
    Cluster(Box<Cluster>),
}

/// What to do after an error.
enum Next {
    /// Call another server; with `asking`, one to which the slot is still migrating.
    Redirect { to: Address, asking: bool },
    /// Repeat the call: the connection was lost, or the server's state is temporary.
    Repeat,
    /// Give up.
    Fail,
}

impl Servers {
    /// Returns the servers without connecting to them; `None` without an address.
    pub(super) fn new(
        topology: &Topology,
        login: Login,
        mut addresses: Vec<Address>,
    ) -> Option<Self> {
        Some(match topology {
            Topology::Single => Servers::One(Arc::new(RedisServer::at(addresses.pop()?, login))),
            Topology::Sentinel(name) => {
                let sentinels = Sentinels::new(name, addresses, &login);
                Servers::One(Arc::new(RedisServer::primary_of(sentinels, login)))
            }
            Topology::Cluster => Servers::Cluster(Box::new(Cluster::new(addresses, &login))),
        })
    }

    /// Makes a call, and repeats it on a new connection or at another server while the store is
    /// unavailable. Every call must therefore be idempotent.
    ///
    /// # Errors
    /// Returns the last error, if the time is up or the server rejects the call.
    pub(super) async fn call(&self, call: &Call, until: Instant) -> RedisResult<Words> {
        let mut pauses = PAUSES.into_iter();
        let mut redirections = 0;
        let mut redirected = None;
        loop {
            let (error, server) = match self.find(call, redirected.take()).await {
                Ok((server, asking)) => match send(&server, call, asking, until).await {
                    Ok(words) => return Ok(words),
                    Err(error) => (error, Some(server)),
                },
                Err(error) => (error, None),
            };
            match self.next(&error, server.as_deref()) {
                Next::Redirect { to, asking } if redirections < REDIRECTIONS => {
                    redirections += 1;
                    redirected = Some((to, asking));
                    if !asking {
                        self.refresh().await;
                    }
                }
                Next::Redirect { .. } | Next::Repeat => {
                    redirections = 0;
                    if !self.pause(&mut pauses, until).await {
                        return Err(error);
                    }
                }
                Next::Fail => return Err(self.explained(error)),
            }
        }
    }

    /// Makes many calls in pipelines, in the order given for each server, and returns a result for
    /// each. Each is repeated as in [`Servers::call`].
    pub(super) async fn call_all(&self, calls: &[Call], until: Instant) -> Vec<RedisResult<Words>> {
        let unsent = || Err(RedisError::from((ErrorKind::Io, "no reply in time")));
        let mut results: Vec<_> = calls.iter().map(|_| unsent()).collect();
        let mut pending: Vec<usize> = (0..calls.len()).collect();
        let mut pauses = PAUSES.into_iter();
        loop {
            let mut tasks = JoinSet::new();
            for (server, chunk) in self.chunks(calls, &pending, &mut results).await {
                let commands = pipeline(chunk.iter().map(|at| &calls[*at]), false);
                tasks.spawn(async move { (chunk, server.send(&commands, until).await) });
            }
            while let Some(sent) = tasks.join_next().await {
                let Ok((chunk, replies)) = sent else { continue };
                match replies {
                    Ok(replies) => {
                        for (at, reply) in chunk.into_iter().zip(replies) {
                            results[at] = reply;
                        }
                    }
                    Err(error) => chunk.into_iter().for_each(|at| results[at] = Err(error.clone())),
                }
            }
            // Few slots migrate at a time, so their calls follow the redirections one by one.
            pending.retain(|at| match &results[*at] {
                Ok(_) => false,
                Err(error) => !matches!(self.next(error, None), Next::Fail),
            });
            for at in &pending {
                if let Err(error) = &results[*at]
                    && server_error(error) == Some(ServerErrorKind::Ask)
                {
                    results[*at] = self.call(&calls[*at], until).await;
                }
            }
            pending.retain(|at| results[*at].is_err());
            if pending.is_empty() || !self.pause(&mut pauses, until).await {
                return results;
            }
        }
    }

    /// Checks that every primary accepts writes.
    ///
    /// # Errors
    /// Returns the error of one that does not.
    pub(super) async fn probe(&self, prefix: &str, until: Instant) -> RedisResult<()> {
        let tags = match self {
            Servers::One(server) => {
                server.follow(until).await;
                vec!["probe".to_owned()]
            }
            Servers::Cluster(cluster) => {
                cluster.serving(0).await?;
                cluster.tags()
            }
        };
        let calls: Vec<_> = tags.iter().map(|tag| Key::new(prefix, tag).probe()).collect();
        for result in self.call_all(&calls, until).await {
            match result {
                Ok(_) => {}
                // The scripts may be all that the user is allowed.
                Err(error) if server_error(&error) == Some(ServerErrorKind::NoPerm) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns the reply of one server to `INFO memory`.
    pub(super) async fn memory_info(&self, until: Instant) -> RedisResult<String> {
        let server = self.serving(0).await?;
        let mut query = redis::pipe();
        query.cmd("INFO").arg("memory").ignore_errors();
        server.query(&query, until).await
    }

    /// Adds what to configure, where that is the cause.
    fn explained(&self, error: RedisError) -> RedisError {
        match (server_error(&error), self) {
            (Some(ServerErrorKind::Moved | ServerErrorKind::Ask), Servers::One(_)) => {
                let hint = "the server belongs to a cluster: set cluster = true in [replay]";
                RedisError::from((ErrorKind::InvalidClientConfig, hint))
            }
            _ => error,
        }
    }

    async fn find(
        &self,
        call: &Call,
        redirected: Option<(Address, bool)>,
    ) -> RedisResult<(Arc<RedisServer>, bool)> {
        match (self, redirected) {
            (Servers::Cluster(cluster), Some((to, asking))) => Ok((cluster.at(to), asking)),
            _ => Ok((self.serving(call.slot).await?, false)),
        }
    }

    async fn serving(&self, slot: u16) -> RedisResult<Arc<RedisServer>> {
        match self {
            Servers::One(server) => Ok(Arc::clone(server)),
            Servers::Cluster(cluster) => cluster.serving(slot).await,
        }
    }

    /// Groups calls by server. Those whose server cannot be found get the error as their result.
    async fn chunks(
        &self,
        calls: &[Call],
        pending: &[usize],
        results: &mut [RedisResult<Words>],
    ) -> Vec<(Arc<RedisServer>, Vec<usize>)> {
        let mut chunks: Vec<(Arc<RedisServer>, Vec<usize>)> = Vec::new();
        for at in pending {
            match self.serving(calls[*at].slot).await {
                Ok(server) => {
                    let mut newest = chunks.iter_mut().rev();
                    let last = newest.find(|(of, _)| Arc::ptr_eq(of, &server));
                    match last.filter(|(_, chunk)| chunk.len() < CHUNK) {
                        Some((_, chunk)) => chunk.push(*at),
                        None => chunks.push((server, vec![*at])),
                    }
                }
                Err(error) => results[*at] = Err(error),
            }
        }
        chunks
    }

    fn next(&self, error: &RedisError, server: Option<&RedisServer>) -> Next {
        use ServerErrorKind::{
            Ask, BusyLoading, ClusterDown, MasterDown, Moved, NoScript, ReadOnly, TryAgain,
        };
        match (server_error(error), self) {
            (Some(kind @ (Moved | Ask)), Servers::Cluster(_)) => {
                let own = server.and_then(RedisServer::address);
                let to = error.redirect_node().zip(own);
                match to.and_then(|((to, _), own)| Address::redirected(to, own)) {
                    Some(to) => Next::Redirect { to, asking: kind == Ask },
                    None => Next::Repeat,
                }
            }
            (Some(ReadOnly | BusyLoading | MasterDown | ClusterDown | TryAgain | NoScript), _) => {
                Next::Repeat
            }
            (Some(_), _) => Next::Fail,
            (None, _) => match error.kind() {
                ErrorKind::Io | ErrorKind::Parse | ErrorKind::ClusterConnectionNotFound => {
                    Next::Repeat
                }
                _ => Next::Fail,
            },
        }
    }

    /// Waits before a repetition, and reads the map of a cluster again. Returns `false` if the time
    /// is up.
    async fn pause(&self, pauses: &mut impl Iterator<Item = Duration>, until: Instant) -> bool {
        let pause = pauses.next().unwrap_or(PAUSES[PAUSES.len() - 1]);
        if Instant::now() + pause >= until {
            return false;
        }
        sleep(pause).await;
        self.refresh().await;
        true
    }

    /// Reads the map of a cluster again. If that fails, the next call returns the error.
    async fn refresh(&self) {
        if let Servers::Cluster(cluster) = self {
            let _ = cluster.refresh().await;
        }
    }
}

async fn send(
    server: &RedisServer,
    call: &Call,
    asking: bool,
    until: Instant,
) -> RedisResult<Words> {
    server.query(&pipeline([call], asking), until).await
}

/// Returns the calls as a pipeline; with `asking`, for a server to which the slot is migrating.
fn pipeline<'a>(calls: impl IntoIterator<Item = &'a Call>, asking: bool) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for call in calls {
        if asking {
            pipeline.cmd("ASKING").ignore();
        }
        pipeline.add_command(call.command.clone());
    }
    pipeline
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(line: &str) -> RedisError {
        let reply = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
        reply.and_then(|value| value.extract_error()).unwrap_err()
    }

    fn servers(topology: &Topology) -> Servers {
        let (login, address) = Login::from_url("redis://10.0.0.1", None).unwrap();
        Servers::new(topology, login, vec![address]).unwrap()
    }

    #[test]
    fn temporary_states_are_repeated_and_other_errors_are_not() {
        let (one, cluster) = (servers(&Topology::Single), servers(&Topology::Cluster));
        for line in [
            "READONLY You can't write against a read only replica.",
            "ERR Error running script (call to f_ab): @user_script:3: -READONLY You can't write",
            "LOADING Redis is loading the dataset in memory",
            "MASTERDOWN Link with MASTER is down",
            "CLUSTERDOWN The cluster is down",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "NOSCRIPT No matching script. Please use EVAL.",
        ] {
            assert!(matches!(one.next(&error(line), None), Next::Repeat), "{line}");
            assert!(matches!(cluster.next(&error(line), None), Next::Repeat), "{line}");
        }
        for line in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "MOVED 3999 10.0.0.2:6381",
        ] {
            assert!(matches!(one.next(&error(line), None), Next::Fail), "{line}");
        }
        let hint = one.explained(error("MOVED 3999 10.0.0.2:6381")).to_string();
        assert!(hint.contains("set cluster = true"), "{hint}");
    }

    #[test]
    fn redirections_lead_to_their_address() {
        let cluster = servers(&Topology::Cluster);
        let (login, own) = Login::from_url("redis://10.0.0.1:6379", None).unwrap();
        let server = RedisServer::at(own, login);
        for (line, host, port, ask) in [
            ("MOVED 3999 10.0.0.2:6381", "10.0.0.2", 6381, false),
            ("ASK 3999 redis-2.internal:6381", "redis-2.internal", 6381, true),
            ("MOVED 3999 :6381", "10.0.0.1", 6381, false),
            ("MOVED 3999 fd00::2:6381", "fd00::2", 6381, false),
        ] {
            match cluster.next(&error(line), Some(&server)) {
                Next::Redirect { to, asking } => {
                    assert_eq!((to.host.as_str(), to.port, asking), (host, port, ask), "{line}");
                }
                Next::Repeat | Next::Fail => panic!("{line}"),
            }
        }
    }
}
