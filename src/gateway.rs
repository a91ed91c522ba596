//! Assembly: turns a valid configuration into a running gateway, and reloads it.

mod keys;
mod logs;
mod site;

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use tokio::{task::JoinSet, time::Instant};

use self::{
    keys::{export_key_sets, fetch_keys, key_sets, named_keys},
    logs::{log_omitted, log_trust, warn_of_invalid},
    site::{assign_shares, site},
};
use crate::{
    capacity::{Capacity, CapacityOptions},
    config::{Changes, Config, Inventory},
    events::{Events, EventsError},
    gate::{Gate, Site},
    metrics::Metrics,
    replay::{Clock, OpenError, Replay},
    server::{self, Addresses, Handshake, Liveness, Server, TlsListener},
    tls::{self, Acme, AcmeOptions, Certificates, ClientAuthority, Validity},
    traces::{SpanExport, Traces},
};

/// The reason why a gateway cannot start or reload.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The metrics registry rejected a metric.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The replay store cannot be opened.
    #[error("replay store: {0}")]
    Replay(#[from] OpenError),
    /// The event store cannot be opened.
    #[error("event store: {0}")]
    Events(#[from] EventsError),
    /// A certificate cannot be used.
    #[error("certificate: {0}")]
    Certificate(#[from] tls::TlsError),
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Spans cannot be exported.
    #[error("traces: {0}")]
    Traces(String),
    /// A listener or a thread cannot be created.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl StartError {
    /// Returns whether the configuration has to be changed: another start with it fails too.
    pub fn is_configuration(&self) -> bool {
        matches!(self, StartError::Events(EventsError::Mismatch(_)))
    }
}

/// A running gateway.
pub struct Gateway {
    server: Server,
    addresses: Addresses,
    gate: Arc<Gate>,
    replay: Replay,
    events: Option<Events>,
    metrics: Arc<Metrics>,
    certificates: Option<Arc<Certificates>>,
    /// The ACME client, if certificates are obtained automatically.
    acme: Mutex<Option<Acme>>,
    /// The TLS listeners as configured; `handshakes` has one entry for each.
    listen: Mutex<Vec<TlsListener>>,
    handshakes: Vec<Handshake>,
    /// The tasks that keep the key sets fresh; a reload replaces them.
    fetching: Mutex<JoinSet<()>>,
    /// The parts of the running configuration.
    inventory: Mutex<Inventory>,
    /// The export of spans, if requests are traced.
    spans: Option<SpanExport>,
    drain: Duration,
}

impl Gateway {
    /// Starts a gateway. Call this within a Tokio runtime, which must live as long as the gateway.
    ///
    /// # Errors
    /// A certificate, a listener, the replay store or a thread that is not available.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new()?);
        let options = &config.server;
        let certificates = match options.listen.as_slice() {
            [] => None,
            _ => Some(Arc::new(Certificates::load(&options.tls)?)),
        };
        let mut inventory = config.inventory;
        // Self-signed certificates have just been created.
        inventory.sources.note_created();
        let handshakes = handshakes(certificates.as_ref(), &options.listen)?;
        let handshakes: Vec<Handshake> =
            handshakes.into_iter().map(ArcSwap::from_pointee).map(Arc::new).collect();
        let bound = server::bind(options, &config.admin.listen)?;
        let addresses = bound.addresses()?;
        let records = config.replay.store.clone();
        let replay = Replay::open(config.replay, Clock::system(), &metrics)?;
        let started = config.traces.map(|options| Traces::start(options, metrics.spans.clone()));
        let (traces, spans) = started.transpose().map_err(StartError::Traces)?.unzip();
        let open =
            |options| Events::open(options, &records, Clock::system(), (&metrics, traces.clone()));
        let events = config.events.map(open).transpose()?;
        let acme = start_acme(options.acme.as_ref(), certificates.as_ref(), &metrics)?;
        let mut site = site(
            config.routes,
            config.acknowledge_replays,
            &config.server,
            events.clone(),
            &metrics,
        );
        site.challenges = acme.as_ref().map(|acme| acme.challenges().clone());
        assign_shares(&replay, &site);
        log_trust(&site);
        export_key_sets(&site, &metrics);
        let fetching = fetch_keys(&site);
        if let Some(events) = &events {
            events.serve(site.routes.iter().map(|route| Arc::clone(&route.delivery)));
        }
        let capacity = Capacity::new(
            CapacityOptions {
                connections: options.limits.connections,
                requests: options.limits.requests,
                memory: config.memory,
                address_share: options.limits.address_share,
            },
            &metrics,
        );
        let observed = (&*metrics, traces);
        let gate =
            Arc::new(Gate::new(site, replay.clone(), events.clone(), capacity.clone(), observed));
        let server = Server::start(
            bound,
            options,
            &config.admin,
            (Arc::clone(&gate), capacity),
            Arc::clone(&metrics),
            &handshakes,
        )?;
        gate.set_unverified_lines(config.log.unverified_lines);
        tokio::spawn(log_omitted(Arc::downgrade(&gate)));
        if let Some(certificates) = &certificates {
            tokio::spawn(warn_of_invalid(Arc::downgrade(certificates)));
        }
        let gateway = Gateway {
            server,
            addresses,
            gate,
            replay,
            events,
            metrics,
            certificates,
            acme: Mutex::new(acme),
            listen: Mutex::new(options.listen.clone()),
            handshakes,
            fetching: Mutex::new(fetching),
            inventory: Mutex::new(inventory),
            spans,
            drain: options.drain,
        };
        gateway.export_validities();
        gateway.metrics.configuration_taken(unix_seconds());
        Ok(gateway)
    }

    /// Returns the addresses on which the gateway listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Returns the number of routes.
    pub fn routes(&self) -> usize {
        self.gate.site.load().routes.iter().count()
    }

    /// Returns a check of whether the workers run.
    pub fn liveness(&self) -> Liveness {
        self.server.liveness()
    }

    /// Replaces routes, secrets, certificates and key sets, all or none, and returns the changes by
    /// name. Requests in flight keep the old values, and records of events stay. Listeners, their
    /// limits and the replay store change only at a restart.
    ///
    /// # Errors
    /// A certificate that cannot be used; in that case nothing changes.
    pub async fn reload(&self, config: Config) -> Result<Changes, StartError> {
        if self.events.is_none() && config.events.is_some() {
            return Err(EventsError::Unusable("it needs a restart".to_owned()).into());
        }
        let mut site = site(
            config.routes,
            config.acknowledge_replays,
            &config.server,
            self.events.clone(),
            &self.metrics,
        );
        // Load the key sets before the new routes start, so that they reject no token meanwhile.
        let running = self.gate.site.load_full();
        let mut loading = JoinSet::new();
        for keys in named_keys(&site) {
            named_keys(&running).into_iter().for_each(|known| keys.inherit(known));
        }
        for set in key_sets(&site) {
            key_sets(&running).into_iter().for_each(|known| set.inherit(known));
            let set = Arc::clone(set);
            loading.spawn(async move { set.load().await });
        }
        while let Some(loaded) = loading.join_next().await {
            if let Ok(Err(error)) = loaded {
                tracing::warn!(%error, "cannot fetch a key set");
            }
        }
        let expiring: Vec<_> = self.validities().into_iter().map(|(name, _)| name).collect();
        let prepared = match &self.certificates {
            Some(certificates) => Some((certificates, certificates.prepare(&config.server.tls)?)),
            None => None,
        };
        let handshakes = self.other_handshakes(&config.server.listen)?;
        self.reload_acme(config.server.acme.as_ref(), &mut site)?;
        // Nothing can fail after this point.
        self.gate.set_unverified_lines(config.log.unverified_lines);
        if let Some((certificates, prepared)) = prepared {
            certificates.replace(prepared);
        }
        for (handshake, other) in handshakes {
            handshake.store(Arc::new(other));
        }
        assign_shares(&self.replay, &site);
        log_trust(&site);
        let names: Vec<_> = key_sets(&site).into_iter().map(|set| set.name()).collect();
        for old in key_sets(&running).into_iter().map(|set| set.name()) {
            if !names.contains(&old) {
                self.metrics.forget_key_set(&old);
            }
        }
        export_key_sets(&site, &self.metrics);
        let fetching = fetch_keys(&site);
        if let Some(events) = &self.events {
            events.serve(site.routes.iter().map(|route| Arc::clone(&route.delivery)));
        }
        self.server.set_admin_access(&config.admin);
        self.gate.site.store(Arc::new(site));
        *self.fetching.lock().unwrap_or_else(PoisonError::into_inner) = fetching;
        let changes = {
            let mut inventory = self.inventory.lock().unwrap_or_else(PoisonError::into_inner);
            let changes = inventory.changes(&config.inventory);
            inventory.take(config.inventory);
            changes
        };
        changes.routes_removed.iter().for_each(|name| self.metrics.forget_route(name));
        expiring.iter().for_each(|name| self.metrics.forget_certificate(name));
        self.export_validities();
        self.metrics.configuration_taken(unix_seconds());
        Ok(changes)
    }

    /// Returns the current metrics in the Prometheus text format.
    ///
    /// # Errors
    /// None in practice: see [`Metrics::encode`].
    pub fn metrics(&self) -> Result<String, prometheus::Error> {
        self.replay.expire();
        self.metrics.encode()
    }

    /// Counts a reload by its result.
    pub fn count_reload(&self, took_effect: bool) {
        self.metrics.count_reload(took_effect);
    }

    /// Stops accepting, finishes the requests and attempts in flight, and flushes the stores.
    pub async fn drain(self) {
        if let Some(events) = &self.events {
            events.stop();
        }
        self.server.drain().await;
        let until = Instant::now() + self.drain;
        if let Some(events) = &self.events {
            events.drain(until).await;
        }
        self.replay.flush(until).await;
        if let Some(spans) = self.spans {
            spans.drain().await;
        }
    }

    /// Returns the TLS configurations that a reload replaces: those of listeners that require, or
    /// required, client certificates. The others stay, because a new configuration loses its TLS
    /// sessions. All stay if the addresses changed: listeners change only at a restart.
    fn other_handshakes(
        &self,
        listen: &[TlsListener],
    ) -> Result<Vec<(&Handshake, rustls::ServerConfig)>, StartError> {
        let mut known = self.listen.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs = || known.iter().zip(listen);
        if known.len() != listen.len() || pairs().any(|(old, new)| old.address != new.address) {
            return Ok(Vec::new());
        }
        let asks = |listener: &TlsListener| listener.client_ca.is_some();
        let changed: Vec<bool> = pairs().map(|(old, new)| asks(old) || asks(new)).collect();
        let new = handshakes(self.certificates.as_ref(), listen)?;
        *known = listen.to_vec();
        let all = self.handshakes.iter().zip(new).zip(changed);
        Ok(all.filter(|(_, changed)| *changed).map(|(pair, _)| pair).collect())
    }

    /// Replaces the ACME client if its options have changed, and passes its challenges to `site`.
    fn reload_acme(
        &self,
        options: Option<&AcmeOptions>,
        site: &mut Site,
    ) -> Result<(), StartError> {
        let mut acme = self.acme.lock().unwrap_or_else(PoisonError::into_inner);
        if acme.as_ref().map(Acme::options) != options {
            *acme = start_acme(options, self.certificates.as_ref(), &self.metrics)?;
        }
        site.challenges = acme.as_ref().map(|acme| acme.challenges().clone());
        Ok(())
    }

    fn export_validities(&self) {
        for (name, validity) in self.validities() {
            self.metrics.certificate(&name, validity.into());
        }
    }

    /// Returns each certificate's name and validity.
    fn validities(&self) -> Vec<(String, Validity)> {
        let own = self.certificates.iter().flat_map(|certificates| certificates.validities());
        let site = self.gate.site.load();
        let shown = site.routes.iter().filter_map(|route| route.upstream.certificate().cloned());
        own.chain(shown).collect()
    }
}

/// Starts the ACME client for the TLS listeners, if it is configured and there are any.
fn start_acme(
    options: Option<&AcmeOptions>,
    certificates: Option<&Arc<Certificates>>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Acme>, StartError> {
    let Some(certificates) = certificates else { return Ok(None) };
    let Some(options) = options else {
        certificates.clear_acme();
        return Ok(None);
    };
    Ok(Some(Acme::start(options.clone(), Arc::clone(certificates), Arc::clone(metrics))?))
}

/// Builds the TLS configuration of each listener.
fn handshakes(
    certificates: Option<&Arc<Certificates>>,
    listen: &[TlsListener],
) -> Result<Vec<rustls::ServerConfig>, StartError> {
    let Some(certificates) = certificates else { return Ok(Vec::new()) };
    let handshake = |listener: &TlsListener| {
        let clients = listener.client_ca.as_deref().map(ClientAuthority::load).transpose()?;
        Ok(tls::server_config(Arc::clone(certificates), clients)?)
    };
    listen.iter().map(handshake).collect()
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
