//! The compared proxies: their configurations, and how they are started and stopped.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use data_encoding::BASE64;

use crate::{
    events::{PATH, SECRET},
    procs,
};

/// Core of the peers. Senders and upstream run on the next one.
pub(crate) const CORE: &str = "0";

/// Proxy that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Sealgate,
    Bare,
    BareHash,
    Nginx,
    Haproxy,
    NginxLua,
    HaproxySmall,
    HaproxyLarge,
}

impl Kind {
    pub(crate) const ALL: [Kind; 8] = [
        Kind::Sealgate,
        Kind::Bare,
        Kind::BareHash,
        Kind::Nginx,
        Kind::Haproxy,
        Kind::NginxLua,
        Kind::HaproxySmall,
        Kind::HaproxyLarge,
    ];

    /// Returns its name on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Sealgate => "sealgate",
            Kind::Bare => "bare",
            Kind::BareHash => "bare+sha256",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::NginxLua => "nginx+lua",
            Kind::HaproxySmall => "haproxy+verify",
            Kind::HaproxyLarge => "haproxy+verify-128k",
        }
    }

    /// Returns its name in a sentence.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Sealgate => "sealgate",
            Kind::Bare => "a bare proxy of the same crates",
            Kind::BareHash => "a bare proxy that hashes the body",
            Kind::Nginx => "nginx without verification",
            Kind::Haproxy => "HAProxy without verification",
            Kind::NginxLua => "nginx with verification in Lua",
            Kind::HaproxySmall | Kind::HaproxyLarge => "HAProxy with verification rules",
        }
    }

    /// Returns its label in a table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::Sealgate => "**sealgate**: verification, replay guard",
            Kind::Bare => "bare hyper + rustls: no verification",
            Kind::BareHash => "bare hyper + rustls: SHA-256 of the body",
            Kind::Nginx => "nginx: no verification",
            Kind::Haproxy => "HAProxy: no verification",
            Kind::NginxLua => "nginx + Lua: verification, replay table",
            Kind::HaproxySmall => "HAProxy: verification, stick table, 16 KiB buffers",
            Kind::HaproxyLarge => "HAProxy: verification, stick table, 128 KiB buffers",
        }
    }

    /// Returns whether it rejects requests that are not authentic.
    pub(crate) fn verifies(self) -> bool {
        match self {
            Kind::Sealgate | Kind::NginxLua | Kind::HaproxySmall | Kind::HaproxyLarge => true,
            Kind::Bare | Kind::BareHash | Kind::Nginx | Kind::Haproxy => false,
        }
    }

    /// Returns the packages that are not installed, if any.
    pub(crate) fn missing(self) -> Option<&'static str> {
        let there = |paths: &[&str]| paths.iter().all(|path| Path::new(path).exists());
        match self {
            Kind::Sealgate | Kind::Bare | Kind::BareHash => None,
            Kind::Nginx => (!there(&[NGINX])).then_some("nginx"),
            Kind::NginxLua => {
                (!there(&[NGINX, LUA_MODULE])).then_some("nginx, libnginx-mod-http-lua")
            }
            Kind::Haproxy | Kind::HaproxySmall | Kind::HaproxyLarge => {
                (!there(&[HAPROXY])).then_some("haproxy")
            }
        }
    }
}

const NGINX: &str = "/usr/sbin/nginx";
const HAPROXY: &str = "/usr/sbin/haproxy";
const LUA_MODULE: &str = "/usr/lib/nginx/modules/ngx_http_lua_module.so";
const NDK_MODULE: &str = "/usr/lib/nginx/modules/ndk_http_module.so";

const NGINX_CONF: &str = include_str!("../conf/nginx.conf");
const VERIFY_LUA: &str = include_str!("../conf/verify.lua");
const HAPROXY_CONF: &str = include_str!("../conf/haproxy.cfg");
const HAPROXY_VERIFY: &str = include_str!("../conf/haproxy-verify.cfg");

/// Settings that all peers share.
#[derive(Clone)]
pub(crate) struct Setting {
    /// Directory of this run's files.
    pub(crate) dir: PathBuf,
    /// The sealgate binary.
    pub(crate) sealgate: PathBuf,
    pub(crate) upstream: SocketAddr,
}

/// Delivery mode of sealgate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Sync,
    /// With a history of metadata.
    Fallback,
    Async,
}

impl Mode {
    pub(crate) const ALL: [Mode; 3] = [Mode::Sync, Mode::Fallback, Mode::Async];

    fn word(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Fallback => "fallback",
            Mode::Async => "async",
        }
    }
}

/// Variation of sealgate's configuration.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) workers: usize,
    /// The cores it may use.
    pub(crate) cores: &'static str,
    /// Number of routes in addition to the measured one.
    pub(crate) more_routes: usize,
    pub(crate) mode: Mode,
}

/// One core, one worker, one route.
pub(crate) const ONE: Shape = Shape { workers: 1, cores: CORE, more_routes: 0, mode: Mode::Sync };

/// Running proxy; stopped when dropped.
pub(crate) struct Peer {
    child: Child,
    pub(crate) address: SocketAddr,
    /// IDs of all its processes.
    pub(crate) pids: Vec<u32>,
    /// Time from its start until it accepted a connection.
    pub(crate) started_in: Duration,
}

impl Setting {
    /// Creates the directory and a self-signed P-256 certificate.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(self.path("tls.crt"), &cert)?;
        fs::write(self.path("tls.key"), &key)?;
        fs::write(self.path("tls.pem"), cert + &key)?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts a peer on a free port and waits until it accepts connections.
    pub(crate) fn start(&self, kind: Kind) -> anyhow::Result<Peer> {
        self.start_as(kind, ONE)
    }

    /// Same as [`start`](Self::start), with a variation of sealgate's configuration.
    pub(crate) fn start_as(&self, kind: Kind, shape: Shape) -> anyhow::Result<Peer> {
        if kind == Kind::Sealgate && shape.mode != Mode::Sync {
            // Each process begins with an empty store.
            let store = self.path("events");
            if store.exists() {
                fs::remove_dir_all(store)?;
            }
        }
        self.spawn(kind, shape)
    }

    /// Starts sealgate on the event store of the previous one.
    pub(crate) fn restart(&self, shape: Shape) -> anyhow::Result<Peer> {
        self.spawn(Kind::Sealgate, shape)
    }

    fn spawn(&self, kind: Kind, shape: Shape) -> anyhow::Result<Peer> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let listen = address.to_string();
        let command = match kind {
            Kind::Sealgate => self.sealgate(&listen, shape)?,
            Kind::Bare | Kind::BareHash => self.bare(&listen, kind, shape)?,
            Kind::Nginx | Kind::NginxLua => self.nginx(&listen, kind)?,
            Kind::Haproxy | Kind::HaproxySmall | Kind::HaproxyLarge => {
                self.haproxy(&listen, kind)?
            }
        };
        Peer::spawn(command, address, kind, shape.cores, &self.path("peers.log"))
    }

    fn fill(&self, template: &str, listen: &str) -> String {
        template
            .replace("@DIR@", &self.dir.display().to_string())
            .replace("@LISTEN@", listen)
            .replace("@UPSTREAM@", &self.upstream.to_string())
            .replace("@CERT@", &self.path("tls.crt").display().to_string())
            .replace("@KEY@", &self.path("tls.key").display().to_string())
            .replace("@PEM@", &self.path("tls.pem").display().to_string())
            .replace("@SECRET@", SECRET)
            .replace("@SECRET64@", &BASE64.encode(SECRET.as_bytes()))
    }

    fn sealgate(&self, listen: &str, shape: Shape) -> anyhow::Result<Vec<String>> {
        let mut text = format!(
            r#"[server]
listen = "{listen}"
workers = {}
health_path = "/healthz"
drain = "1s"
[[server.tls]]
cert = "tls.crt"
key = "tls.key"
[admin]
listen = "127.0.0.1:0"
[replay]
max_entries = 4_000_000
[limits]
connections = 20_000
"#,
            shape.workers
        );
        if shape.mode != Mode::Sync {
            text += "[events]\npath = \"events\"\n";
        }
        let mut route = |name: &str, path: &str| {
            text += &format!(
                "[[route]]\nname = \"{name}\"\npath = \"{path}\"\nscheme = \"vivoldi\"\n\
                 upstream = \"http://{}\"\nsecret = \"{SECRET}\"\ndelivery = \"{}\"\n",
                self.upstream,
                shape.mode.word()
            );
        };
        route("vivoldi", PATH);
        for number in 0..shape.more_routes {
            route(&format!("route-{number}"), &format!("/more/{number}"));
        }
        let file = self.path("sealgate.toml");
        fs::write(&file, text)?;
        let (binary, file) = (self.sealgate.display().to_string(), file.display().to_string());
        Ok([&binary, "run", "--config", &file, "--log-level", "error"].map(str::to_owned).into())
    }

    fn bare(&self, listen: &str, kind: Kind, shape: Shape) -> anyhow::Result<Vec<String>> {
        let own = std::env::current_exe()?.display().to_string();
        let (upstream, workers) = (self.upstream.to_string(), shape.workers.to_string());
        let cert = self.path("tls.crt").display().to_string();
        let key = self.path("tls.key").display().to_string();
        let hash = if kind == Kind::BareHash { "hash" } else { "stream" };
        let words = [&own, "bare", listen, &upstream, &cert, &key, hash, &workers];
        Ok(words.map(str::to_owned).into())
    }

    fn nginx(&self, listen: &str, kind: Kind) -> anyhow::Result<Vec<String>> {
        let lua = kind == Kind::NginxLua;
        let dir = self.dir.display();
        let pick = |text: String| if lua { text } else { String::new() };
        let modules = pick(format!("load_module {NDK_MODULE};\nload_module {LUA_MODULE};"));
        let http = pick(format!(
            "lua_shared_dict events 512m;\n    lua_package_path \"{dir}/?.lua;;\";\n    \
             init_by_lua_block {{ require \"verify\" }}"
        ));
        let location = pick(
            "access_by_lua_block { require(\"verify\").access() }\n            \
             log_by_lua_block { require(\"verify\").log() }"
                .to_owned(),
        );
        let text = self
            .fill(NGINX_CONF, listen)
            .replace("@MODULES@", &modules)
            .replace("@HTTP@", &http)
            .replace("@LOCATION@", &location)
            .replace("nginx.pid", &format!("{}.pid", kind.word()));
        fs::write(self.path("verify.lua"), self.fill(VERIFY_LUA, listen))?;
        let file = self.path(&format!("{}.conf", kind.word()));
        fs::write(&file, text)?;
        let (prefix, file) = (dir.to_string(), file.display().to_string());
        let errors = self.path("nginx.error").display().to_string();
        Ok([NGINX, "-p", &prefix, "-e", &errors, "-c", &file].map(str::to_owned).into())
    }

    fn haproxy(&self, listen: &str, kind: Kind) -> anyhow::Result<Vec<String>> {
        let size = if kind == Kind::HaproxyLarge { "131072" } else { "16384" };
        let verify = if kind == Kind::Haproxy { "" } else { HAPROXY_VERIFY };
        let text = HAPROXY_CONF.replace("@BUFSIZE@", size).replace("@FRONTEND@", verify);
        let file = self.path(&format!("{}.cfg", kind.word()));
        fs::write(&file, self.fill(&text, listen))?;
        let file = file.display().to_string();
        Ok([HAPROXY, "-db", "-f", &file].map(str::to_owned).into())
    }
}

impl Peer {
    /// Starts a peer on its core, under the profiler in `$PEERS_UNDER` if that is set. The kernel
    /// terminates the peer if this process dies.
    fn spawn(
        words: Vec<String>,
        address: SocketAddr,
        kind: Kind,
        cores: &str,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let started = Instant::now();
        let under = std::env::var("PEERS_UNDER").unwrap_or_default();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "taskset", "-c", cores])
            .args(under.split_whitespace())
            .args(words)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("setpriv and taskset (util-linux)")?;
        let mut peer = Peer { child, address, pids: Vec::new(), started_in: Duration::ZERO };
        while TcpStream::connect(address).is_err() {
            if let Some(status) = peer.child.try_wait()? {
                bail!("{} exited at start with {status}; see peers.log", kind.word());
            }
            if started.elapsed() > Duration::from_secs(10) {
                bail!("{} does not listen", kind.word());
            }
            thread::sleep(Duration::from_millis(1));
        }
        peer.started_in = started.elapsed();
        // nginx listens before its worker process exists.
        if matches!(kind, Kind::Nginx | Kind::NginxLua) {
            thread::sleep(Duration::from_millis(200));
        }
        peer.pids = procs::family(peer.child.id());
        Ok(peer)
    }

    /// Returns its memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        procs::memory(&self.pids)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // On SIGTERM, nginx stops its worker. A peer that ignores it is killed.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        for _ in 0..300 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
