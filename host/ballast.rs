//! Ballast: the bodies of all requests in progress, and their whole answers, which must fit into memory together. Each may be large, and all
//! are held for long in an outage, or where a client is slow. Room is taken as bytes come, whatever was announced.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::share::{self, ClientShare, Part, Resource};

/// How much there is room for. One for the whole gateway.
#[derive(Debug)]
pub struct Hold {
    resource: Resource,
    most: usize,
    most_for_one: usize,
    loaded: AtomicUsize,
}

/// Room that was taken, until it is dropped.
#[derive(Debug)]
pub struct Load {
    hold: Arc<Hold>,
    part: Part,
    bytes: usize,
}

/// Where room for one client is taken.
#[derive(Debug, Clone)]
pub struct Room {
    hold: Arc<Hold>,
    client: Arc<ClientShare>,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// All clients together have taken it.
    Gateway,
    /// This client has taken its share.
    Client,
}

/// Bytes of a body that need no room of their own: as many as the requests in progress are bounded anyway, they fit in.
pub const LIGHT: usize = 16 << 10;

impl Hold {
    /// Room for so many bytes of a resource, of which one client may take so many.
    pub fn new(resource: Resource, most: usize, most_for_one: usize) -> Self {
        Self {
            resource,
            most,
            most_for_one,
            loaded: AtomicUsize::new(0),
        }
    }

    /// Bytes that are held.
    pub fn loaded(&self) -> usize {
        self.loaded.load(Ordering::Relaxed)
    }

    /// Nothing yet of a client's, to be added to.
    pub fn empty(self: &Arc<Self>, client: &Arc<ClientShare>) -> Load {
        Load {
            hold: self.clone(),
            part: client.part(self.resource),
            bytes: 0,
        }
    }
}

impl Room {
    /// Room that one client takes of what there is.
    pub fn new(hold: Arc<Hold>, client: Arc<ClientShare>) -> Self {
        Self { hold, client }
    }

    /// Nothing yet, to be added to.
    pub fn empty(&self) -> Load {
        self.hold.empty(&self.client)
    }
}

impl Load {
    /// Takes room for so many bytes, or gives back what is more.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Full> {
        let needed = if bytes <= LIGHT { 0 } else { bytes };
        if needed >= self.bytes {
            return self.grow_to(bytes);
        }
        self.part.shrink(self.bytes - needed);
        self.hold.loaded.fetch_sub(self.bytes - needed, Ordering::Relaxed);
        self.bytes = needed;
        Ok(())
    }

    /// Takes room for so many bytes, of which there may be some already.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        let more = bytes.saturating_sub(self.bytes);
        if bytes <= LIGHT || more == 0 {
            return Ok(());
        }
        if !share::take(&self.hold.loaded, more, self.hold.most) {
            return Err(Full::Gateway);
        }
        if !self.part.grow(more, self.hold.most_for_one) {
            self.hold.loaded.fetch_sub(more, Ordering::Relaxed);
            return Err(Full::Client);
        }
        self.bytes += more;
        Ok(())
    }

    /// Makes a buffer large enough for `more` bytes and takes the room. It grows to twice its size, but never beyond `most`.
    pub fn extend(&mut self, buffer: &mut Vec<u8>, more: usize, most: usize) -> Result<(), Full> {
        let needed = buffer.len() + more;
        if needed <= buffer.capacity() {
            return Ok(());
        }
        let capacity = (2 * buffer.capacity()).clamp(needed, most.max(needed));
        self.grow_to(capacity)?;
        buffer.reserve_exact(capacity - buffer.len());
        Ok(())
    }

    /// Bytes that give their room back when the last of them is dropped, wherever that is.
    pub fn of(self, body: Bytes) -> Bytes {
        struct Heavy {
            body: Bytes,
            _load: Load,
        }
        impl AsRef<[u8]> for Heavy {
            fn as_ref(&self) -> &[u8] {
                &self.body
            }
        }
        if self.bytes == 0 {
            return body;
        }
        Bytes::from_owner(Heavy { body, _load: self })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.hold.loaded.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold() -> Arc<Hold> {
        Arc::new(Hold::new(Resource::Bodies, 100 << 10, 70 << 10))
    }

    fn client() -> Arc<ClientShare> {
        Arc::default()
    }

    #[test]
    fn what_does_not_fit_has_no_room_until_something_goes() {
        let hold = hold();
        let mut first = hold.empty(&client());
        assert_eq!(first.grow_to(60 << 10), Ok(()));
        let mut second = hold.empty(&client());
        assert_eq!(second.grow_to(60 << 10), Err(Full::Gateway));
        drop(first);
        assert_eq!(second.grow_to(60 << 10), Ok(()));
        drop(second);
        assert_eq!(hold.loaded(), 0);
    }

    #[test]
    fn one_client_takes_no_more_than_its_share() {
        let (hold, greedy) = (hold(), client());
        let mut first = hold.empty(&greedy);
        assert_eq!(first.grow_to(50 << 10), Ok(()));
        let mut second = hold.empty(&greedy);
        assert_eq!(second.grow_to(30 << 10), Err(Full::Client));
        assert_eq!(hold.loaded(), 50 << 10);
        assert_eq!(hold.empty(&client()).grow_to(30 << 10), Ok(()));
        drop(first);
        assert_eq!(second.grow_to(30 << 10), Ok(()));
        assert_eq!(greedy.held(Resource::Bodies), 30 << 10);
    }

    #[test]
    fn a_body_that_grows_takes_what_it_grows_by() {
        let hold = hold();
        let mut load = hold.empty(&client());
        assert_eq!(load.grow_to(10 << 10), Ok(()));
        assert_eq!(hold.loaded(), 0, "light");
        assert_eq!((load.grow_to(20 << 10), load.grow_to(40 << 10)), (Ok(()), Ok(())));
        assert_eq!(hold.loaded(), 40 << 10);
        assert_eq!(load.grow_to(101 << 10), Err(Full::Gateway));
        assert_eq!(hold.loaded(), 40 << 10);
    }

    #[test]
    fn what_becomes_smaller_gives_room_back() {
        let (hold, client) = (hold(), client());
        let mut load = Room::new(hold.clone(), client.clone()).empty();
        for (bytes, held) in [
            (50 << 10, 50 << 10),
            (20 << 10, 20 << 10),
            (10 << 10, 0),
            (30 << 10, 30 << 10),
        ] {
            assert_eq!(load.resize(bytes), Ok(()));
            assert_eq!((hold.loaded(), client.held(Resource::Bodies)), (held, held));
        }
        drop(load);
        assert_eq!((hold.loaded(), client.held(Resource::Bodies)), (0, 0));
    }

    #[test]
    fn a_buffer_takes_room_for_what_it_allocates() {
        let hold = hold();
        let mut load = hold.empty(&client());
        let mut buffer = Vec::new();
        while buffer.len() < 60 << 10 {
            assert_eq!(load.extend(&mut buffer, 1 << 10, 60 << 10), Ok(()));
            buffer.extend_from_slice(&[0; 1 << 10]);
            assert!(buffer.capacity() <= LIGHT || buffer.capacity() == hold.loaded());
        }
        assert_eq!((buffer.capacity(), hold.loaded()), (60 << 10, 60 << 10));
    }

    #[test]
    fn room_is_given_back_with_the_last_of_a_body() {
        let hold = hold();
        let mut load = hold.empty(&client());
        assert_eq!(load.grow_to(20 << 10), Ok(()));
        let body = load.of(Bytes::from(vec![7; 20 << 10]));
        let part = body.slice(5..9);
        drop(body);
        assert_eq!((hold.loaded(), &part[..]), (20 << 10, &[7; 4][..]));
        drop(part);
        assert_eq!(hold.loaded(), 0);
    }

    #[test]
    fn no_sum_is_too_large() {
        let hold = hold();
        let mut load = hold.empty(&client());
        assert_eq!(load.grow_to(50 << 10), Ok(()));
        assert_eq!(hold.empty(&client()).grow_to(usize::MAX), Err(Full::Gateway));
    }
}
