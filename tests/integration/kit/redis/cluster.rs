//! A cluster of three servers.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use super::{Redis, run};
use crate::kit::{Authority, free_at, tool, until};

const SLOTS: u16 = 16_384;

/// The servers, each with a third of the slots.
pub(crate) struct RedisCluster {
    servers: Vec<Redis>,
    ids: Vec<String>,
}

impl RedisCluster {
    /// Starts the servers, with TLS or without, and waits until each of them serves.
    pub(crate) async fn start(tls: bool) -> Option<Self> {
        tool("redis-server")?;
        let authority = tls.then(Authority::new);
        let mut servers = Vec::new();
        for _ in 0..3 {
            servers.push(start_server(authority.as_ref()).await);
        }
        let mut ids = Vec::new();
        for (number, server) in (0u16..).zip(&servers) {
            let (first, last) = (number * SLOTS / 3, (number + 1) * SLOTS / 3 - 1);
            let epoch = (number + 1).to_string();
            let _: String = server.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]).await;
            let (first, last) = (first.to_string(), last.to_string());
            let _: String = server.command(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            ids.push(server.command(&["CLUSTER", "MYID"]).await);
        }
        for server in &servers[1..] {
            let bus: Vec<String> = server.command(&["CONFIG", "GET", "cluster-port"]).await;
            let (ip, port) = (server.address.ip().to_string(), server.address.port().to_string());
            let _: String = servers[0].command(&["CLUSTER", "MEET", &ip, &port, &bus[1]]).await;
        }
        let cluster = RedisCluster { servers, ids };
        until("the cluster serves", || async {
            let mut serves = true;
            for server in &cluster.servers {
                let info: String = server.command(&["CLUSTER", "INFO"]).await;
                serves &= info.contains("cluster_state:ok")
                    && info.contains("cluster_known_nodes:3")
                    && info.contains("cluster_slots_ok:16384");
            }
            serves
        })
        .await;
        Some(cluster)
    }

    /// The section `[replay]` of a gateway, with the addresses of two of the servers.
    pub(crate) fn section(&self) -> String {
        let urls = format!("\"{}\", \"{}\"", self.servers[0].url(), self.servers[1].url());
        let ca = self.servers[0].ca_line();
        format!("[replay]\nstore = \"redis\"\nurl = [{urls}]\n{ca}cluster = true")
    }

    /// How many events are on record as done, in all servers.
    pub(crate) async fn successes(&self) -> usize {
        let mut sum = 0;
        for server in &self.servers {
            sum += server.successes().await;
        }
        sum
    }

    /// Moves slots from the first server to the second, as `redis-cli --cluster reshard` does, but
    /// with all of them migrating at the same time; `halfway` runs when half of them are moved.
    pub(crate) async fn migrate(
        &self,
        slots: RangeInclusive<u16>,
        halfway: impl Future<Output = ()>,
    ) {
        let (source, target) = (&self.servers[0], &self.servers[1]);
        let (ip, port) = (target.address.ip().to_string(), target.address.port().to_string());
        set_slots(target, &slots, "IMPORTING", &self.ids[0]).await;
        set_slots(source, &slots, "MIGRATING", &self.ids[1]).await;
        let middle = slots.start() + (slots.end() - slots.start()) / 2;
        move_keys(source, *slots.start()..=middle, &ip, &port).await;
        halfway.await;
        move_keys(source, middle + 1..=*slots.end(), &ip, &port).await;
        for server in [target, source, &self.servers[2]] {
            set_slots(server, &slots, "NODE", &self.ids[1]).await;
        }
    }
}

async fn move_keys(source: &Redis, slots: RangeInclusive<u16>, ip: &str, port: &str) {
    let mut connection = source.connect().await.expect("the server responds");
    for slot in slots {
        let slot = slot.to_string();
        loop {
            let query = ["CLUSTER", "GETKEYSINSLOT", &slot, "100"];
            let keys: Vec<String> = run(&mut connection, &query).await;
            if keys.is_empty() {
                break;
            }
            let mut migrate = vec!["MIGRATE", ip, port, "", "0", "5000", "KEYS"];
            migrate.extend(keys.iter().map(String::as_str));
            let _: String = run(&mut connection, &migrate).await;
        }
    }
}

async fn set_slots(server: &Redis, slots: &RangeInclusive<u16>, what: &str, id: &str) {
    let mut commands = redis::pipe();
    for slot in slots.clone() {
        commands.cmd("CLUSTER").arg("SETSLOT").arg(slot).arg(what).arg(id).ignore();
    }
    let mut connection = server.connect().await.expect("the server responds");
    commands.query_async::<()>(&mut connection).await.expect("set");
}

async fn start_server(authority: Option<&Authority>) -> Redis {
    let options = |address: SocketAddr| {
        let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
        let bus = free_at(ip).port().to_string();
        // The source address of a connection on loopback is 127.0.0.1, so it announces its own.
        let ip = ip.to_string();
        let mut options = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
        options.extend(["--cluster-announce-ip", &ip]);
        if authority.is_some() {
            options.extend(["--tls-cluster", "yes", "--cluster-announce-hostname", "localhost"]);
            options.extend(["--cluster-preferred-endpoint-type", "hostname"]);
        }
        options.into_iter().map(str::to_owned).collect()
    };
    Redis::start_with("redis-server", authority, None, options).await
}
