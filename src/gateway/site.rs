//! The part of a configuration that a reload replaces as a whole.

use crate::{
    events::Events,
    gate::Site,
    metrics::Metrics,
    rejections::Rejections,
    replay::Replay,
    route::{RouteOptions, Routes},
    server::ServerOptions,
};

/// Builds what the gate needs of a configuration.
pub(super) fn site(
    routes: Vec<RouteOptions>,
    acknowledge_replays: bool,
    server: &ServerOptions,
    events: Option<Events>,
    metrics: &Metrics,
) -> Site {
    let routes = Routes::new(routes, metrics);
    Site {
        rejections: Rejections::start(
            routes.iter(),
            server.capture_rejected.clone(),
            events,
            metrics.diagnoses.clone(),
        ),
        routes,
        acknowledge_replays,
        health_path: server.health_path.clone(),
        trusted_proxies: server.trusted_proxies.clone(),
        challenges: None,
    }
}

/// Divides the replay guard among the routes and keys of a site.
pub(super) fn assign_shares(replay: &Replay, site: &Site) {
    replay.assign_shares(site.routes.iter().map(|route| (&*route.name, route.verifier.keys())));
}
