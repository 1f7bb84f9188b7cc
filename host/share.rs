//! What one client holds of what all clients share: requests in progress, and room for bodies and whole answers. A client is a gateway
//! key or, where there are none, an address; no one of them may hold so much that nothing is left for the others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What one client holds.
#[derive(Debug, Default)]
pub struct ClientShare {
    held: [AtomicUsize; 3],
}

/// What can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Requests in progress.
    Requests,
    /// Bytes of bodies.
    Bodies,
    /// Bytes of whole answers.
    Answers,
}

/// A part of a share, until it is dropped.
#[derive(Debug)]
#[must_use = "what is dropped is given back"]
pub struct Part {
    share: Arc<ClientShare>,
    resource: Resource,
    amount: usize,
}

impl ClientShare {
    /// How much of a resource this client holds.
    pub fn held(&self, resource: Resource) -> usize {
        self.held[resource as usize].load(Ordering::Relaxed)
    }

    /// Nothing yet, to be added to.
    pub fn part(self: &Arc<Self>, resource: Resource) -> Part {
        Part {
            share: self.clone(),
            resource,
            amount: 0,
        }
    }
}

impl Part {
    /// Takes so much more, if the client then holds no more than `most`.
    #[must_use]
    pub fn grow(&mut self, more: usize, most: usize) -> bool {
        let grown = take(&self.share.held[self.resource as usize], more, most);
        self.amount += if grown { more } else { 0 };
        grown
    }

    /// Gives so much back.
    pub fn shrink(&mut self, less: usize) {
        let less = less.min(self.amount);
        self.amount -= less;
        self.share.held[self.resource as usize].fetch_sub(less, Ordering::Relaxed);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.shrink(self.amount);
    }
}

/// Adds to a counter, unless it would become larger than `most`.
pub fn take(counter: &AtomicUsize, more: usize, most: usize) -> bool {
    let grown = |held: usize| held.checked_add(more).filter(|held| *held <= most);
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown)
        .is_ok()
}

/// The shares of clients that are known by their addresses. They are looked up once for each connection.
#[derive(Debug, Default)]
pub struct Addresses {
    shares: Mutex<Shares>,
}

#[derive(Debug, Default)]
struct Shares {
    by_address: HashMap<IpAddr, Weak<ClientShare>>,
    /// At this size those that nobody holds any more are removed.
    sweep_at: usize,
}

impl Addresses {
    /// The share of an address, which all of its connections have together.
    pub fn share(&self, address: IpAddr) -> Arc<ClientShare> {
        let address = owned_by_one(address);
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.by_address.get(&address).and_then(Weak::upgrade) {
            return share;
        }
        if shares.by_address.len() >= shares.sweep_at {
            shares.by_address.retain(|_, share| share.strong_count() > 0);
            shares.sweep_at = (2 * shares.by_address.len()).max(1024);
        }
        let share = Arc::new(ClientShare::default());
        shares.by_address.insert(address, Arc::downgrade(&share));
        share
    }
}

/// The address that stands for all that one client can choose from: with IPv6 that is a network of 64 bits.
fn owned_by_one(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_holds_no_more_than_its_share_and_gives_it_back() {
        let share = Arc::new(ClientShare::default());
        let (mut first, mut second) = (share.part(Resource::Bodies), share.part(Resource::Bodies));
        assert!(first.grow(6, 10) && !second.grow(5, 10) && second.grow(4, 10));
        assert!(!first.grow(usize::MAX, usize::MAX), "no sum is too large");
        assert_eq!((share.held(Resource::Bodies), share.held(Resource::Requests)), (10, 0));
        first.shrink(2);
        assert!(second.grow(2, 10));
        drop((first, second));
        assert_eq!(share.held(Resource::Bodies), 0);
    }

    #[test]
    fn connections_of_one_client_have_one_share() {
        let addresses = Addresses::default();
        let share = |address: &str| addresses.share(address.parse().unwrap());
        let kept = share("192.0.2.1");
        assert!(Arc::ptr_eq(&kept, &share("192.0.2.1")) && Arc::ptr_eq(&kept, &share("::ffff:192.0.2.1")));
        assert!(!Arc::ptr_eq(&kept, &share("192.0.2.2")));
        let kept = share("2001:db8:0:1::1");
        assert!(Arc::ptr_eq(&kept, &share("2001:db8:0:1:ffff::2")));
        assert!(!Arc::ptr_eq(&kept, &share("2001:db8:0:2::1")));
    }

    #[test]
    fn addresses_that_are_gone_are_forgotten() {
        let addresses = Addresses::default();
        let kept = addresses.share("192.0.2.1".parse().unwrap());
        for number in 0..10_000u32 {
            addresses.share(IpAddr::V4(number.into()));
        }
        assert!(addresses.shares.lock().unwrap().by_address.len() <= 1024);
        assert!(Arc::ptr_eq(&kept, &addresses.share("192.0.2.1".parse().unwrap())));
    }
}
