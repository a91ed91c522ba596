use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::reject::Shed;

const KIB: u64 = 1 << 10;

fn capacity(connections: usize, requests: usize, memory: u64) -> Capacity {
    let options = CapacityOptions { connections, requests, memory, address_share: 25 };
    Capacity::new(options, &Metrics::new().expect("constants"))
}

fn address(number: u8) -> IpAddr {
    IpAddr::from(Ipv4Addr::new(192, 0, 2, number))
}

/// Returns what is used: connections, bytes.
fn used(capacity: &Capacity) -> (u64, u64) {
    (capacity.connections.open(), capacity.memory.used())
}

#[test]
fn ipv6_addresses_of_one_56_are_one_client() {
    let capacity = capacity(100, 100, 1024 * KIB);
    let network = |text: &str| capacity.account(text.parse().expect("an address")).network();
    assert_eq!(network("2001:db8:1:100::1"), network("2001:db8:1:1ff:2::2"));
    assert_ne!(network("2001:db8:1:100::1"), network("2001:db8:1:200::1"));
    assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
}

#[test]
fn a_network_over_its_share_loses_its_oldest_connection() {
    let capacity = capacity(100, 100, 1024 * KIB);
    let connect = |number| capacity.connect(capacity.account(address(number)), false);
    let mut first: Vec<_> = (0..25).map(|_| connect(1).expect("within the share")).collect();
    let other = connect(2).expect("another network");
    first.push(connect(1).expect("the oldest was evicted"));
    assert_eq!(used(&capacity).0, 26);
    // What has shown an authentic request stays.
    first.iter().for_each(ConnectionSlot::note_authentic);
    assert!(connect(1).is_none(), "there is nothing left to evict");
    drop((first, other));
    assert_eq!(used(&capacity).0, 0);
}

#[test]
fn the_oldest_unproven_connection_goes_when_all_are_used_and_known_networks_have_a_reserve() {
    let capacity = capacity(100, 100, 1024 * KIB);
    let connect = |number| capacity.connect(capacity.account(address(number)), false);
    let slots: Vec<_> = (0..75).map(|n| connect(n).expect("within the limit")).collect();
    slots[0].note_authentic();
    let more = connect(200).expect("one was evicted");
    assert_eq!(used(&capacity).0, 75, "the reserve is not for unknown networks");
    assert!(!slots[1].is_counted() && slots[0].is_counted() && slots[2].is_counted());
    capacity.account(address(201)).note_authentic();
    let known = connect(201).expect("of the reserve");
    assert_eq!(used(&capacity).0, 76);
    // Known networks are evicted for each other, when no unknown ones are left.
    drop(slots);
    let all_known: Vec<_> = (0..98u8)
        .map(|n| {
            capacity.account(address(n)).note_authentic();
            connect(n).expect("within the limit")
        })
        .collect();
    assert_eq!(used(&capacity).0, 100);
    capacity.account(address(202)).note_authentic();
    let first = connect(202).expect("the unknown one was evicted");
    let second = connect(202).expect("the oldest known one was evicted");
    assert!(!more.is_counted() && !known.is_counted() && all_known[0].is_counted());
    assert!(connect(203).is_none(), "unknown networks evict no known ones");
    drop((more, known, all_known, first, second));
    assert_eq!(used(&capacity).0, 0);
}

#[test]
fn a_proxy_is_not_limited_and_its_clients_are() {
    let capacity = capacity(100, 100, 1024 * KIB);
    let proxy = || capacity.connect(capacity.account(address(1)), true).expect("a proxy");
    let proxied: Vec<_> = (0..50).map(|_| proxy()).collect();
    let client = capacity.account(address(2));
    let slots: Vec<_> = proxied.iter().map(|slot| slot.transfer(client.clone())).collect();
    assert!(slots.iter().all(Option::is_some));
    assert_eq!(used(&capacity).0, 25, "the client's oldest were evicted");
}

#[tokio::test]
async fn unfinished_bodies_are_evicted_for_others() {
    let capacity = capacity(100, 100, 1024 * KIB);
    let (one, two) = (capacity.account(address(1)), capacity.account(address(2)));
    let receive = |account: &Account| capacity.receive(account, 256 * KIB).expect("memory");
    let mut oldest = receive(&one);
    oldest.grow(256 * KIB).expect("within the share");
    assert!(futures_pending(oldest.evicted()).await, "nobody needs its memory");
    let mut second = receive(&one);
    oldest.evicted().await;
    assert_eq!(
        oldest.grow(1),
        Err(Reject::Overloaded(Shed::Memory)),
        "its network's share is used"
    );
    second.grow(100 * KIB).expect("within the share");
    receive(&two).grow(256 * KIB).expect("another network's share");
    drop((oldest, second));
    assert_eq!(used(&capacity).1, 0);
}

#[tokio::test]
async fn open_streams_count_before_their_bodies_come() {
    let capacity = capacity(100, 100, 1024 * KIB);
    let account = capacity.account(address(1));
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut stream = capacity.receive(&account, 64 * KIB).expect("an older one is evicted");
        futures_pending(stream.evicted()).await;
        open.push(stream);
    }
    assert_eq!(used(&capacity).1, 256 * KIB, "a quarter");
}

/// Polls a future once, and returns whether it is pending.
async fn futures_pending(future: impl Future<Output = ()>) -> bool {
    tokio::select! {
        biased;
        () = future => false,
        () = std::future::ready(()) => true,
    }
}

#[test]
fn a_route_leaves_the_others_their_permits() {
    let capacity = capacity(100, 100, 1024 * KIB);
    let routes = [RouteShare::of(2), RouteShare::of(2)];
    let permit = |number: u8, route: usize, authentic| {
        capacity.permit(&capacity.account(address(number)), &routes[route], authentic)
    };
    let mut held: Vec<_> = (0..25).map(|_| permit(1, 0, true).expect("the share")).collect();
    assert_eq!(permit(1, 0, true).err(), Some(Reject::Overloaded(Shed::Requests)), "one network");
    held.extend(
        (2..4).flat_map(|n| (0..25).filter_map(|_| permit(n, 0, true).ok()).collect::<Vec<_>>()),
    );
    assert_eq!(held.len(), 75, "its guaranteed quarter and the common half");
    assert!(permit(4, 0, true).is_err());
    assert!(permit(4, 1, false).is_err(), "nothing guaranteed for what is not authentic");
    let other: Vec<_> = (0..25).map(|_| permit(5, 1, true).expect("guaranteed")).collect();
    assert!(permit(6, 1, true).is_err());
    drop((held, other));
    assert!(permit(6, 1, false).is_ok(), "all were given back");
}

#[test]
fn a_body_of_the_greatest_length_fits_into_a_small_memory() {
    let capacity = capacity(100, 100, 64 * KIB);
    let route = RouteShare::of(3);
    let account = capacity.account(address(1));
    let mut body = capacity.receive(&account, 64 * KIB).expect("memory");
    body.grow(64 * KIB).expect("nothing else is there");
    body.hold(&route, true).expect("nothing else is there");
    drop(body);
    assert_eq!(used(&capacity).1, 0);
}

#[test]
fn accounts_are_forgotten_unless_they_are_used_or_known() {
    let capacity = capacity(100, 100, 1024 * KIB);
    let used = capacity.account(address(1));
    capacity.account(address(2)).note_authentic();
    for number in 0..100_000u32 {
        capacity.account(IpAddr::from((0x0a00_0000 + number).to_be_bytes()));
    }
    assert!(capacity.accounts.len() <= 2 * account::SHARDS * 64, "{}", capacity.accounts.len());
    assert!(capacity.account(address(2)).is_known());
    used.note_authentic();
    assert!(capacity.account(address(1)).is_known(), "it is the same account");
}

/// What one client does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Connect,
    Prove(usize),
    Disconnect(usize),
    Receive,
    Grow(usize, u64),
    Hold(usize, bool),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Connect),
        any::<usize>().prop_map(Step::Prove),
        any::<usize>().prop_map(Step::Disconnect),
        Just(Step::Receive),
        (any::<usize>(), 0..100 * KIB).prop_map(|(which, bytes)| Step::Grow(which, bytes)),
        (any::<usize>(), any::<bool>()).prop_map(|(which, yes)| Step::Hold(which, yes)),
        any::<usize>().prop_map(Step::Drop),
    ]
}

proptest! {
    /// Whatever clients do, no limit is exceeded, and everything is given back in the end.
    #[test]
    fn limits_are_kept_and_everything_is_given_back(
        steps in prop::collection::vec((0..6u8, step()), 0..300),
    ) {
        let capacity = capacity(40, 20, 1024 * KIB);
        let routes = [RouteShare::of(2), RouteShare::of(2)];
        let (mut slots, mut bodies, mut permits) = (Vec::new(), Vec::new(), Vec::new());
        for (client, step) in steps {
            let account = capacity.account(address(client));
            let route = &routes[usize::from(client % 2)];
            match step {
                Step::Connect => slots.extend(capacity.connect(account, false)),
                Step::Prove(which) if !slots.is_empty() => {
                    slots[which % slots.len()].note_authentic();
                    account.note_authentic();
                }
                Step::Disconnect(which) if !slots.is_empty() => {
                    slots.swap_remove(which % slots.len());
                }
                Step::Receive => bodies.extend(capacity.receive(&account, 128 * KIB)),
                Step::Grow(which, bytes) if !bodies.is_empty() => {
                    let which = which % bodies.len();
                    let body: &mut Reservation = &mut bodies[which];
                    if !body.is_held() && body.grow(bytes).is_err() {
                        bodies.swap_remove(which);
                    }
                }
                Step::Hold(which, authentic) if !bodies.is_empty() => {
                    let which = which % bodies.len();
                    if bodies[which].hold(route, authentic).is_err() {
                        bodies.swap_remove(which);
                    }
                    permits.extend(capacity.permit(&account, route, authentic));
                }
                Step::Drop(which) if !bodies.is_empty() => {
                    bodies.swap_remove(which % bodies.len());
                    permits.pop();
                }
                Step::Prove(_) | Step::Disconnect(_) | Step::Grow(..) | Step::Hold(..) | Step::Drop(_) => {}
            }
            let (connections, bytes) = used(&capacity);
            prop_assert!(connections <= 40 && bytes <= 1024 * KIB && permits.len() <= 20);
        }
        drop((slots, bodies, permits));
        prop_assert_eq!(used(&capacity), (0, 0));
        for number in 0..6 {
            let account = capacity.account(address(number));
            let left = [account.connections(), account.bytes(), account.permits()];
            prop_assert!(left.iter().all(|n| n.load(std::sync::atomic::Ordering::Relaxed) == 0));
        }
        let all = |route: &Arc<RouteShare>| {
            (0..20u8).filter_map(|n| capacity.permit(&capacity.account(address(n)), route, true).ok())
                .collect::<Vec<_>>()
        };
        prop_assert_eq!(all(&routes[0]).len(), 15);
    }
}
