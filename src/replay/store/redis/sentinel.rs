//! Sentinels, which report the address of the primary.

use std::{collections::HashMap, time::Duration};

use redis::{ErrorKind, RedisError, RedisResult};
use tokio::{task::JoinSet, time::timeout};

use super::login::{Address, Login};

/// The longest that one sentinel may take.
const TIMEOUT: Duration = Duration::from_millis(500);

/// The sentinels of one primary.
pub(super) struct Sentinels {
    name: String,
    addresses: Vec<Address>,
    /// With the store's credentials, then without: sentinels often have no password.
    logins: Vec<Login>,
}

impl Sentinels {
    /// Returns the sentinels at these addresses, which monitor the primary under this name.
    pub(super) fn new(name: &str, addresses: Vec<Address>, login: &Login) -> Self {
        let with = login.has_credentials().then(|| login.for_sentinel(true));
        let logins = with.into_iter().chain([login.for_sentinel(false)]).collect();
        Sentinels { name: name.to_owned(), addresses, logins }
    }

    /// Returns the address that most sentinels report. One that is cut off from the others may
    /// still report the old primary.
    ///
    /// # Errors
    /// If no sentinel responds, or none knows the name.
    pub(super) async fn primary(&self) -> RedisResult<Address> {
        let mut replies = JoinSet::new();
        for address in &self.addresses {
            let (name, address, logins) = (self.name.clone(), address.clone(), self.logins.clone());
            replies.spawn(timeout(TIMEOUT, async move { query(&name, &address, &logins).await }));
        }
        let mut votes: HashMap<Address, usize> = HashMap::new();
        let mut problem = RedisError::from((ErrorKind::Io, "no sentinel responds"));
        while let Some(reply) = replies.join_next().await {
            match reply {
                Ok(Ok(Ok(address))) => {
                    let count = votes.entry(address.clone()).or_default();
                    *count += 1;
                    if *count * 2 > self.addresses.len() {
                        return Ok(address);
                    }
                }
                Ok(Ok(Err(error))) => problem = error,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        votes.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address).ok_or(problem)
    }
}

/// Queries one sentinel.
async fn query(name: &str, address: &Address, logins: &[Login]) -> RedisResult<Address> {
    let mut rejected = None;
    for login in logins {
        let mut connection = match login.connect(address).await {
            Err(error) if error.kind() == ErrorKind::AuthenticationFailed => {
                rejected = Some(error);
                continue;
            }
            connection => connection?,
        };
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        return match command.query_async::<Option<(String, u16)>>(&mut connection).await? {
            Some((host, port)) => Ok(Address { host, port }),
            None => Err(RedisError::from((
                ErrorKind::InvalidClientConfig,
                "the sentinels do not know the primary's name",
                name.to_owned(),
            ))),
        };
    }
    Err(rejected.unwrap_or_else(|| RedisError::from((ErrorKind::Io, "no sentinel responds"))))
}
