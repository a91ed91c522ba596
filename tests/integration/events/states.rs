//! What happens to stored events: retries, death, reloads, drains and kills.

use super::{Handler, attempted, stored};
use crate::kit::{Answer, Event, TOKEN};

#[tokio::test]
async fn an_event_is_dead_after_its_time() {
    let mut handler = Handler::start().await;
    let mode = "delivery = \"async\"\n[route.retry]\nfirst = \"20ms\"\nfor = \"300ms\"";
    let gateway = handler.setup(mode).start();
    handler.stop().await;
    for _ in 0..3 {
        let reply = gateway.connect_plain().await.exchange(&Event::default().request()).await;
        assert_eq!(reply.status, 200);
    }
    stored(&gateway, "dead", 3.0).await;
    attempted(&gateway, "dead", 3.0).await;
    handler.resume().await;
    assert_eq!(
        gateway.metric("sealgate_events_oldest_pending_seconds{route=\"vivoldi\"}").await,
        0.0
    );
    assert!(handler.upstream.requests().is_empty());
}

#[tokio::test]
async fn events_behind_an_unreachable_handler_are_dead_after_their_time() {
    let mut handler = Handler::start().await;
    // A probe takes as long as the first backoff, so most events are not attempted in time.
    let mode = "delivery = \"async\"\n[route.retry]\nfirst = \"5s\"\nfor = \"300ms\"";
    let setup = handler.setup(mode);
    let toml = setup.toml().replacen("[admin]", &format!("[admin]\ntoken = \"{TOKEN}\""), 1);
    let config = crate::kit::parse(&toml, setup.dir.path());
    let gateway = setup.start_with(config);
    handler.stop().await;
    let events: Vec<_> = (0..20).map(|_| Event::default()).collect();
    for event in &events {
        let reply = gateway.connect_plain().await.exchange(&event.request()).await;
        assert_eq!(reply.status, 200);
    }
    stored(&gateway, "dead", 20.0).await;
    attempted(&gateway, "dead", 20.0).await;
    let dead = gateway.operator().events("?state=dead").await;
    assert!(dead.iter().any(|event| event["attempts"] == 0), "{dead:?}");
    assert!(dead.iter().all(|event| event["next_attempt"].is_null()), "{dead:?}");
    // The sender's retry counts as for any other dead event.
    handler.resume().await;
    let reply = gateway.connect_plain().await.exchange(&events[7].retried().request()).await;
    assert_eq!((reply.status, reply.header("sealgate-answer")), (200, Some("duplicate")));
    attempted(&gateway, "delivered", 1.0).await;
    assert_eq!(handler.upstream.only().header("x-vivoldi-event-id"), Some(&*events[7].id));
}

#[tokio::test]
async fn events_of_a_removed_route_stay_pending() {
    let mut handler = Handler::start().await;
    let setup =
        handler.setup("delivery = \"async\"\n[route.retry]\nfirst = \"50ms\"\nmax = \"50ms\"");
    let toml = setup.toml();
    let gateway = setup.start();
    handler.stop().await;
    gateway.connect_plain().await.exchange(&Event::default().request()).await;
    stored(&gateway, "pending", 1.0).await;
    let reload = async |text: &str| {
        let config = crate::kit::parse(text, gateway.dir.path());
        gateway.running().reload(config).await.expect("valid")
    };
    let other = toml.replace("name = \"vivoldi\"", "name = \"other\"");
    assert_eq!(reload(&other).await.routes_removed, ["vivoldi"]);
    handler.resume().await;
    gateway.connect_plain().await.exchange(&Event::default().request()).await;
    handler.upstream.seen(1).await;
    reload(&toml).await;
    attempted(&gateway, "delivered", 1.0).await;
    assert_eq!(handler.upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_drain_finishes_the_attempt_in_flight() {
    let handler = Handler::start().await;
    let setup = handler.setup("delivery = \"async\"");
    let toml = setup.toml();
    let mut gateway = setup.start();
    handler.upstream.answer([Answer::Held]);
    gateway.connect_plain().await.exchange(&Event::default().request()).await;
    handler.upstream.seen(1).await;
    let ((), ()) = tokio::join!(gateway.drain(), async { handler.upstream.release() });
    let gateway = gateway.restarted(&toml).await;
    stored(&gateway, "delivering", 0.0).await;
    stored(&gateway, "pending", 0.0).await;
    assert_eq!(handler.upstream.requests().len(), 1);
}
