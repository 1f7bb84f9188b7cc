//! A request's place among those in progress: of all that the gateway takes on, and of its client's share of them.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::activity::Busy;
use crate::ballast::Full;
use crate::share::{ClientShare, Part, Resource};

/// The places of the whole gateway.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    most_for_one: usize,
}

/// A request's place, held until its answer has gone out. See the module.
pub struct Place {
    permit: Option<OwnedSemaphorePermit>,
    part: Option<Part>,
    client: Arc<ClientShare>,
    most_for_one: usize,
    _busy: Busy,
}

impl Places {
    /// So many places, of which one client may take so many.
    pub fn new(all: usize, most_for_one: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            most_for_one,
        }
    }

    /// A request that has come over a connection of this client's: it has a place if there is one left.
    pub fn enter(&self, client: Arc<ClientShare>, busy: Busy) -> Place {
        Place {
            permit: self.all.clone().try_acquire_owned().ok(),
            part: None,
            client,
            most_for_one: self.most_for_one,
            _busy: busy,
        }
    }
}

impl Place {
    /// Whether the gateway had a place left.
    pub fn is_taken(&self) -> bool {
        self.permit.is_some()
    }

    /// Counts the request to the share of its client: of its key, or of the address that it comes from.
    pub fn charge(&mut self, key: Option<&Arc<ClientShare>>) -> Result<(), Full> {
        if let Some(key) = key {
            self.client = key.clone();
        }
        let mut part = self.client.part(Resource::Requests);
        if !part.grow(1, self.most_for_one) {
            return Err(Full::Client);
        }
        self.part = Some(part);
        Ok(())
    }

    /// What the client holds, to which its body and its answer count too.
    pub fn client(&self) -> &Arc<ClientShare> {
        &self.client
    }

    /// Frees the place of a request that is refused. Its connection is still busy.
    pub fn leave(&mut self) {
        self.permit = None;
        self.part = None;
    }
}
