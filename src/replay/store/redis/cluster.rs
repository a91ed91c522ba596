//! The servers of a cluster, and which of them serves a slot.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::{ErrorKind, RedisError, RedisResult, Value};
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    login::{Address, Login},
    script::{SLOTS, slot},
    server::RedisServer,
};

/// The longest that reading the map from one server may take.
const TIMEOUT: Duration = Duration::from_millis(500);

/// The shortest time between two readings of the map.
const REFRESH: Duration = Duration::from_millis(100);

/// A cluster.
pub(super) struct Cluster {
    login: Login,
    seeds: Vec<Arc<RedisServer>>,
    map: ArcSwap<Map>,
    /// The last attempt to read the map, and its error. Locked while one is made.
    reading: Mutex<Option<(Instant, Option<RedisError>)>>,
}

/// The primaries and their slots, as reported by one of the servers.
#[derive(Default)]
struct Map {
    servers: HashMap<Address, Arc<RedisServer>>,
    /// Keyed by the last slot of each range: the first slot, and its server.
    ranges: BTreeMap<u16, (u16, Arc<RedisServer>)>,
}

impl Map {
    fn serving(&self, slot: u16) -> Option<&Arc<RedisServer>> {
        let (_, (first, server)) = self.ranges.range(slot..).next()?;
        (*first <= slot).then_some(server)
    }
}

impl Cluster {
    /// Returns the cluster to which the servers at these addresses belong. Does not connect.
    pub(super) fn new(addresses: Vec<Address>, login: &Login) -> Self {
        let seed = |address| Arc::new(RedisServer::at(address, login.clone()));
        let seeds = addresses.into_iter().map(seed).collect();
        let (map, reading) = (ArcSwap::default(), Mutex::new(None));
        Cluster { login: login.clone(), seeds, map, reading }
    }

    /// Returns the server of a slot, after reading the map if it is not known.
    ///
    /// # Errors
    /// If no server returns the map, or none serves the slot.
    pub(super) async fn serving(&self, slot: u16) -> RedisResult<Arc<RedisServer>> {
        if let Some(server) = self.map.load().serving(slot) {
            return Ok(Arc::clone(server));
        }
        self.refresh().await?;
        self.map.load().serving(slot).map(Arc::clone).ok_or_else(|| {
            RedisError::from((ErrorKind::ClusterConnectionNotFound, "no server serves the slot"))
        })
    }

    /// Returns the server at an address to which another server redirected.
    pub(super) fn at(&self, address: Address) -> Arc<RedisServer> {
        match self.map.load().servers.get(&address) {
            Some(server) => Arc::clone(server),
            None => Arc::new(RedisServer::at(address, self.login.clone())),
        }
    }

    /// Returns a hash tag for each primary, in one of its slots.
    pub(super) fn tags(&self) -> Vec<String> {
        let map = self.map.load();
        let mut widest: HashMap<&Address, (u16, u16)> = HashMap::new();
        for (last, (first, server)) in &map.ranges {
            if let Some(address) = server.address() {
                let range = widest.entry(address).or_insert((*first, *last));
                if last - first > range.1 - range.0 {
                    *range = (*first, *last);
                }
            }
        }
        let tag = |(first, last): (u16, u16)| {
            (0u32..)
                .map(|n| n.to_string())
                .find(|tag| (first..=last).contains(&slot(tag.as_bytes())))
        };
        widest.into_values().filter_map(tag).collect()
    }

    /// Reads the map again, unless it was read just now.
    ///
    /// # Errors
    /// If no server returns the map.
    pub(super) async fn refresh(&self) -> RedisResult<()> {
        let mut last = self.reading.lock().await;
        if let Some((at, error)) = &*last
            && at.elapsed() < REFRESH
        {
            return error.clone().map_or(Ok(()), Err);
        }
        let read = self.read().await;
        *last = Some((Instant::now(), read.as_ref().err().cloned()));
        self.map.store(Arc::new(read?));
        Ok(())
    }

    /// Reads the map from the first known server that replies.
    async fn read(&self) -> RedisResult<Map> {
        let known = self.map.load_full();
        let mut replies = JoinSet::new();
        for server in known.servers.values().chain(&self.seeds) {
            let server = Arc::clone(server);
            replies.spawn(timeout(TIMEOUT, async move {
                let mut query = redis::pipe();
                query.cmd("CLUSTER").arg("SLOTS").ignore_errors();
                let slots: Value = server.query(&query, Instant::now() + TIMEOUT).await?;
                Ok((server, slots))
            }));
        }
        let mut problem = RedisError::from((ErrorKind::Io, "no server of the cluster responds"));
        while let Some(reply) = replies.join_next().await {
            match reply {
                Ok(Ok(Ok((server, slots)))) => match self.map_of(&slots, &server, &known) {
                    Some(map) => return Ok(map),
                    None => problem = (ErrorKind::Parse, "no map of the cluster").into(),
                },
                Ok(Ok(Err(error))) => problem = error,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(problem)
    }

    /// Parses the reply of `own` to `CLUSTER SLOTS`: ranges of slots, each with its primary first.
    /// Known servers keep their connections.
    fn map_of(&self, slots: &Value, own: &RedisServer, known: &Map) -> Option<Map> {
        let mut map = Map::default();
        for range in slots.as_sequence()? {
            let [first, last, primary, ..] = range.as_sequence()? else { return None };
            let [host, port, ..] = primary.as_sequence()? else { return None };
            let host = match host {
                Value::BulkString(host) if !host.is_empty() && host != b"?" => {
                    String::from_utf8(host.clone()).ok()?
                }
                // A server that does not know its own name has the name by which it was reached.
                _ => own.address()?.host.clone(),
            };
            let address = Address { host, port: integer(port)? };
            let server = map.servers.entry(address.clone()).or_insert_with(|| {
                let known = known.servers.get(&address).map(Arc::clone);
                known.unwrap_or_else(|| Arc::new(RedisServer::at(address, self.login.clone())))
            });
            let (first, last) = (integer(first)?, integer(last)?);
            if first > last || last >= SLOTS {
                return None;
            }
            map.ranges.insert(last, (first, Arc::clone(server)));
        }
        (!map.ranges.is_empty()).then_some(map)
    }
}

fn integer(value: &Value) -> Option<u16> {
    match value {
        Value::Int(number) => u16::try_from(*number).ok(),
        _ => None,
    }
}
