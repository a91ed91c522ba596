//! Memory for request bodies.
//!
//! Bytes are charged when they have arrived, not when `Content-Length` announces them. Each request
//! whose body is incomplete is charged at least [`OVERHEAD`], so that open streams without a body
//! count too. A body that has to be waited for can be evicted; its request gets 503.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    account::Account,
    eviction::{EvictionQueue, Ticket},
    permits::{Part, Pool, RouteShare},
};
use crate::reject::{Reject, Shed};

/// What a request costs while its body is incomplete, however short that is.
const OVERHEAD: u64 = 8 << 10;

/// The memory for the bodies of all requests.
#[derive(Debug)]
pub(super) struct Memory {
    limit: u64,
    /// What only known networks may use for bodies that are being received.
    reserve: u64,
    /// What one network may hold, unless its longest body is longer.
    share: u64,
    receiving: AtomicU64,
    held: AtomicU64,
    /// Three quarters of the memory, for the bodies of authentic requests.
    pool: Pool,
    waiting: EvictionQueue<Arc<WaitingBody>>,
}

/// A body that is being waited for.
#[derive(Debug)]
struct WaitingBody {
    account: Account,
    charged: AtomicU64,
    evicted: AtomicBool,
    wake: Notify,
}

/// The memory that one request holds, released when dropped.
#[derive(Debug)]
pub struct Reservation {
    memory: Arc<Memory>,
    account: Account,
    /// The most that this request may need.
    most: u64,
    length: u64,
    stage: ChargeStage,
}

#[derive(Debug)]
enum ChargeStage {
    /// What is charged for a body that has not been waited for.
    Receiving(u64),
    Waiting(Arc<WaitingBody>, Ticket),
    /// The part of the pool that an authentic request holds.
    Held(Arc<RouteShare>, Part),
}

/// Bytes that hold the memory that they are charged to.
struct ChargedBytes {
    bytes: Bytes,
    _memory: Reservation,
}

impl AsRef<[u8]> for ChargedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

enum MemoryExceeded {
    Share,
    Limit,
}

impl Memory {
    pub(super) fn new(limit: u64, share: u64) -> Arc<Self> {
        Arc::new(Memory {
            limit,
            reserve: limit / 8,
            share,
            receiving: AtomicU64::new(0),
            held: AtomicU64::new(0),
            pool: Pool::new(limit - limit / 4),
            waiting: EvictionQueue::new(),
        })
    }

    pub(super) fn receive(
        this: &Arc<Self>,
        account: &Account,
        longest: u64,
    ) -> Result<Reservation, Reject> {
        let most = longest.max(OVERHEAD);
        this.charge(account, OVERHEAD, most)?;
        Ok(Reservation {
            memory: Arc::clone(this),
            account: account.clone(),
            most,
            length: 0,
            stage: ChargeStage::Receiving(OVERHEAD),
        })
    }

    /// Charges bytes that are being received, and evicts others if necessary.
    fn charge(&self, account: &Account, bytes: u64, most: u64) -> Result<(), Reject> {
        while let Err(exceeded) = self.try_charge(account, bytes, most) {
            let evicted = match exceeded {
                MemoryExceeded::Share => self.waiting.pop_oldest_of(account.network()),
                MemoryExceeded::Limit => self.waiting.pop_oldest(account.is_known()),
            };
            self.evict(evicted)?;
        }
        Ok(())
    }

    /// Releases the memory of a body that is being waited for, and wakes its request.
    fn evict(&self, waiting: Option<Arc<WaitingBody>>) -> Result<(), Reject> {
        let evicted = waiting.ok_or(Reject::Overloaded(Shed::Memory))?;
        evicted.evicted.store(true, Ordering::SeqCst);
        self.release(&evicted);
        evicted.wake.notify_one();
        Ok(())
    }

    fn try_charge(&self, account: &Account, bytes: u64, most: u64) -> Result<(), MemoryExceeded> {
        let own = account.bytes().fetch_add(bytes, Ordering::Relaxed) + bytes;
        let receiving = self.receiving.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all = receiving + self.held.load(Ordering::Relaxed);
        // One body of the greatest length always fits if there is no other.
        let limit = self.limit.max(OVERHEAD);
        let reserve = self.reserve.min(limit.saturating_sub(most));
        let exceeded = if own > self.share.max(most) {
            MemoryExceeded::Share
        } else if all > limit || (all > limit - reserve && !account.is_known()) {
            MemoryExceeded::Limit
        } else {
            return Ok(());
        };
        self.discharge(account, bytes);
        Err(exceeded)
    }

    fn discharge(&self, account: &Account, bytes: u64) {
        account.bytes().fetch_sub(bytes, Ordering::Relaxed);
        self.receiving.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Releases what a body that was waited for was charged.
    fn release(&self, waiting: &WaitingBody) {
        self.discharge(&waiting.account, waiting.charged.swap(0, Ordering::SeqCst));
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.receiving.load(Ordering::Relaxed) + self.held.load(Ordering::Relaxed)
    }
}

impl Reservation {
    /// Charges bytes that have arrived.
    ///
    /// # Errors
    /// [`Reject::Overloaded`] if there is no memory left, or if the body was evicted.
    pub fn grow(&mut self, more: u64) -> Result<(), Reject> {
        let before = self.length.max(OVERHEAD);
        self.length += more;
        let bytes = self.length.max(OVERHEAD) - before;
        if bytes > 0 {
            self.memory.charge(&self.account, bytes, self.most)?;
            match &mut self.stage {
                ChargeStage::Receiving(charged) => *charged += bytes,
                ChargeStage::Waiting(waiting, _) => {
                    waiting.charged.fetch_add(bytes, Ordering::SeqCst);
                }
                ChargeStage::Held(..) => {}
            }
        }
        match &self.stage {
            ChargeStage::Waiting(waiting, _) if waiting.evicted.load(Ordering::SeqCst) => {
                Err(Reject::Overloaded(Shed::Memory))
            }
            ChargeStage::Waiting(..) | ChargeStage::Receiving(_) | ChargeStage::Held(..) => Ok(()),
        }
    }

    /// Waits until the body is evicted. To be called when the body has to be waited for.
    pub async fn evicted(&mut self) {
        if let ChargeStage::Receiving(charged) = self.stage {
            let waiting = Arc::new(WaitingBody {
                account: self.account.clone(),
                charged: AtomicU64::new(charged),
                evicted: AtomicBool::new(false),
                wake: Notify::new(),
            });
            let ticket = self.memory.waiting.push(&self.account, Arc::clone(&waiting));
            self.stage = ChargeStage::Waiting(waiting, ticket);
        }
        match &self.stage {
            ChargeStage::Waiting(waiting, _) => waiting.wake.notified().await,
            ChargeStage::Receiving(_) | ChargeStage::Held(..) => std::future::pending().await,
        }
    }

    /// Holds a body that is complete, as one of a route, until it has been forwarded. Only an
    /// authentic request may take what is guaranteed to its route.
    ///
    /// # Errors
    /// [`Reject::Overloaded`].
    pub fn hold(&mut self, route: &Arc<RouteShare>, authentic: bool) -> Result<(), Reject> {
        if matches!(self.stage, ChargeStage::Held(..)) {
            return Ok(());
        }
        let memory = &self.memory;
        // One body of the greatest length always fits if there is no other.
        let least = self.most.saturating_mul(2);
        let part = memory.pool.take((route, route.bytes()), self.length, least, authentic);
        let part = part.ok_or(Reject::Overloaded(Shed::Memory))?;
        self.release();
        memory.held.fetch_add(self.length, Ordering::Relaxed);
        self.account.bytes().fetch_add(self.length, Ordering::Relaxed);
        self.stage = ChargeStage::Held(Arc::clone(route), part);
        Ok(())
    }

    /// Returns empty memory for the response to a body that is held, charged to the same route.
    pub(crate) fn for_response(&self) -> Option<Reservation> {
        let ChargeStage::Held(route, _) = &self.stage else { return None };
        Some(Reservation {
            memory: Arc::clone(&self.memory),
            account: self.account.clone(),
            most: self.most,
            length: 0,
            stage: ChargeStage::Held(Arc::clone(route), Part::default()),
        })
    }

    /// Charges as many bytes of a response as are missing to `length`, and evicts bodies that are
    /// being waited for if necessary.
    ///
    /// # Errors
    /// [`Reject::Overloaded`].
    pub(crate) fn grow_to(&mut self, length: u64) -> Result<(), Reject> {
        let more = length.saturating_sub(self.length);
        let ChargeStage::Held(route, part) = &mut self.stage else { return self.grow(more) };
        let memory = &self.memory;
        let least = length.max(self.most).saturating_mul(2);
        let added = memory.pool.take((route, route.bytes()), more, least, true);
        part.add(added.ok_or(Reject::Overloaded(Shed::Memory))?);
        self.length += more;
        self.account.bytes().fetch_add(more, Ordering::Relaxed);
        let held = memory.held.fetch_add(more, Ordering::Relaxed) + more;
        while held + memory.receiving.load(Ordering::Relaxed) > memory.limit {
            memory.evict(memory.waiting.pop_oldest(true))?;
        }
        Ok(())
    }

    /// Returns `bytes` as bytes that hold this memory until the last handle to them is dropped.
    pub(crate) fn attach(self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        Bytes::from_owner(ChargedBytes { bytes, _memory: self })
    }

    /// Releases the memory of a body that is no longer needed.
    pub(crate) fn clear(&mut self) {
        self.release();
        self.length = 0;
        self.stage = match &self.stage {
            ChargeStage::Held(route, _) => ChargeStage::Held(Arc::clone(route), Part::default()),
            ChargeStage::Receiving(_) | ChargeStage::Waiting(..) => ChargeStage::Receiving(0),
        };
    }

    /// Reserves as much once more, for a copy; `None` if that would need an eviction.
    pub fn copy(&self) -> Option<Reservation> {
        self.memory.try_charge(&self.account, self.length, self.most).ok()?;
        Some(Reservation {
            memory: Arc::clone(&self.memory),
            account: self.account.clone(),
            most: self.most,
            length: self.length,
            stage: ChargeStage::Receiving(self.length),
        })
    }

    #[cfg(test)]
    pub(super) fn is_held(&self) -> bool {
        matches!(self.stage, ChargeStage::Held(..))
    }

    fn release(&self) {
        match &self.stage {
            ChargeStage::Receiving(charged) => self.memory.discharge(&self.account, *charged),
            ChargeStage::Waiting(waiting, ticket) => {
                self.memory.waiting.remove(*ticket);
                self.memory.release(waiting);
            }
            ChargeStage::Held(route, part) => {
                self.account.bytes().fetch_sub(self.length, Ordering::Relaxed);
                self.memory.held.fetch_sub(self.length, Ordering::Relaxed);
                self.memory.pool.give_back(route.bytes(), *part);
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.release();
    }
}
