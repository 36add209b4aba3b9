//! The names of endpoints, and the addresses behind them.
//!
//! A name is looked up when the gateway starts and every few seconds from then on, on the control
//! runtime; requests take what is known. All its addresses are used, in turn; one that takes no
//! connection stands back until the next look-up. A look-up that fails changes nothing: addresses
//! that served a moment ago are a better guess than none.
//!
//! Refuses to own connections: whoever keeps some asks [`Name::known`] whether theirs still lead
//! to the name.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The most addresses of one name. Further ones are left out, always the same.
const ADDRESSES_MOST: usize = 64;

/// How long an address has for itself before the next one is tried beside it (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How soon a name may be looked up again because an address took no connection.
const DOUBT_PAUSE: Duration = Duration::from_secs(1);

/// A look-up under way.
pub type Answer<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// What knows the addresses of names.
pub trait Lookup: Send + Sync {
    /// The addresses of `host`.
    fn look_up<'a>(&'a self, host: &'a str) -> Answer<'a>;
}

/// The system's resolver, as every program here uses it: /etc/hosts, search domains and all.
#[derive(Debug)]
pub struct System;

impl Lookup for System {
    fn look_up<'a>(&'a self, host: &'a str) -> Answer<'a> {
        Box::pin(async move { Ok(lookup_host((host, 0)).await?.map(|address| address.ip()).collect()) })
    }
}

/// An address of a name.
#[derive(Debug)]
pub struct Address {
    ip: IpAddr,
    /// It took no connection since the last regular look-up.
    stands_back: AtomicBool,
}

/// The addresses of a name, sorted; none before the first look-up.
#[derive(Debug, Default)]
pub struct Addresses(Vec<Address>);

impl Addresses {
    fn of(mut found: Vec<IpAddr>) -> Self {
        found.sort_unstable();
        found.dedup();
        found.truncate(ADDRESSES_MOST);
        Self(found.into_iter().map(|ip| Address { ip, stands_back: AtomicBool::new(false) }).collect())
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|address| address.ip == ip)
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that do not stand back.
    pub fn in_use(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().filter(|address| !address.stands_back.load(Relaxed)).map(|address| address.ip)
    }

    fn all(&self) -> impl Iterator<Item = IpAddr> {
        self.0.iter().map(|address| address.ip)
    }

    /// All, in the order in which a connection is tried: beginning at `turn`, those that stand back last.
    fn in_order(&self, turn: usize) -> Vec<IpAddr> {
        let count = self.0.len().max(1);
        let mut ordered: Vec<_> = self.0.iter().cycle().skip(turn % count).take(self.0.len()).collect();
        ordered.sort_by_key(|address| address.stands_back.load(Relaxed));
        ordered.into_iter().map(|address| address.ip).collect()
    }
}

/// A name that is looked up.
pub struct Name {
    host: String,
    lookup: Box<dyn Lookup>,
    known: ArcSwap<Addresses>,
    turn: AtomicUsize,
    /// Held while somebody looks it up who cannot go on without.
    looking: Mutex<()>,
    doubted: Notify,
    is_failing: AtomicBool,
}

impl std::fmt::Debug for Name {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Name").field("host", &self.host).field("known", &self.known).finish_non_exhaustive()
    }
}

impl Name {
    /// A name of which no address is known yet.
    #[must_use]
    pub fn new(host: &str, lookup: Box<dyn Lookup>) -> Arc<Self> {
        Arc::new(Self {
            host: host.to_owned(),
            lookup,
            known: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            looking: Mutex::default(),
            doubted: Notify::new(),
            is_failing: AtomicBool::new(false),
        })
    }

    /// Its addresses, as far as they are known.
    #[must_use]
    pub fn known(&self) -> Guard<Arc<Addresses>> {
        self.known.load()
    }

    /// The address whose turn it is; none where there is no choice.
    #[must_use]
    pub fn next(&self) -> Option<IpAddr> {
        let known = self.known();
        let count = known.count();
        if count < 2 {
            return None;
        }
        let turn = self.turn.fetch_add(1, Relaxed);
        let mut in_turn = (0..count).map(|step| &known.0[(turn + step) % count]);
        in_turn.find(|address| !address.stands_back.load(Relaxed)).map(|address| address.ip)
    }

    /// Keeps its addresses up to date until a stop.
    pub async fn keep_up(self: Arc<Self>, interval: Duration, stop: CancellationToken) {
        stop.run_until_cancelled(self.follow(interval)).await;
    }

    async fn follow(&self, interval: Duration) {
        loop {
            // Who stood back gets another chance.
            self.known().0.iter().for_each(|address| address.stands_back.store(false, Relaxed));
            let _ = self.refresh().await;
            let _ = timeout(interval, self.follow_doubts()).await;
        }
    }

    async fn follow_doubts(&self) {
        loop {
            self.doubted.notified().await;
            let _ = self.refresh().await;
            sleep(DOUBT_PAUSE).await;
        }
    }

    /// A connection to `port` of one of its addresses, and which. `preferred` is tried first.
    ///
    /// # Errors
    /// The name has no address, or none of them took the connection.
    pub async fn connect(&self, port: u16, preferred: Option<IpAddr>) -> io::Result<(TcpStream, IpAddr)> {
        let mut addresses = self.addresses().await?.in_order(self.turn.fetch_add(1, Relaxed));
        if let Some(place) = addresses.iter().position(|address| Some(*address) == preferred) {
            addresses[..=place].rotate_right(1);
        }
        self.connect_to_one(addresses, port).await
    }

    async fn connect_to_one(&self, addresses: Vec<IpAddr>, port: u16) -> io::Result<(TcpStream, IpAddr)> {
        let mut addresses = addresses.into_iter();
        let mut trying = Vec::new();
        let mut fault = io::Error::from(io::ErrorKind::NotFound);
        loop {
            if let Some(ip) = addresses.next() {
                trying.push((ip, Box::pin(TcpStream::connect(SocketAddr::new(ip, port)))));
            } else if trying.is_empty() {
                return Err(fault);
            }
            let first = poll_fn(|context| {
                let ready = |(place, (_, connect)): (usize, &mut (IpAddr, Pin<Box<_>>))| match Future::poll(
                    Pin::as_mut(connect),
                    context,
                ) {
                    Poll::Pending => None,
                    Poll::Ready(connected) => Some((place, connected)),
                };
                trying.iter_mut().enumerate().find_map(ready).map_or(Poll::Pending, Poll::Ready)
            });
            let first = if addresses.len() == 0 { Ok(first.await) } else { timeout(HEAD_START, first).await };
            match first {
                Err(_) => {}
                Ok((place, connected)) => {
                    let (ip, _) = trying.remove(place);
                    match connected {
                        Ok(stream) => {
                            // Whoever began before it and is still silent.
                            trying[..place].iter().for_each(|(ip, _)| self.doubt(*ip));
                            return Ok((stream, ip));
                        }
                        Err(error) => {
                            self.doubt(ip);
                            fault = error;
                        }
                    }
                }
            }
        }
    }

    /// An address took no connection, or made nothing of it: others go first, and perhaps it is no longer the name's.
    pub(super) fn doubt(&self, ip: IpAddr) {
        if let Some(address) = self.known().0.iter().find(|address| address.ip == ip) {
            address.stands_back.store(true, Relaxed);
        }
        self.doubted.notify_one();
    }

    async fn addresses(&self) -> io::Result<Guard<Arc<Addresses>>> {
        if self.known().count() == 0 {
            let _turn = self.looking.lock().await;
            if self.known().count() == 0 {
                self.refresh().await?;
            }
        }
        Ok(self.known())
    }

    /// Looks it up.
    async fn refresh(&self) -> io::Result<()> {
        let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let found = self.lookup.look_up(&self.host).await;
        let found = found.and_then(|found| if found.is_empty() { Err(none()) } else { Ok(Addresses::of(found)) });
        let name = &self.host;
        match found {
            Err(error) => {
                if !self.is_failing.swap(true, Relaxed) {
                    let known = self.known().count();
                    tracing::warn!(name, known, %error, "a name cannot be looked up; what is known of it stays in use");
                }
                Err(error)
            }
            Ok(found) => {
                if self.is_failing.swap(false, Relaxed) {
                    tracing::info!(name, "a name can be looked up again");
                }
                self.publish(found);
                Ok(())
            }
        }
    }

    fn publish(&self, found: Addresses) {
        let known = self.known.load();
        if known.all().eq(found.all()) {
            return;
        }
        let (name, before, now) = (&self.host, known.count(), found.count());
        tracing::info!(name, before, now, "the addresses of a name have changed");
        for address in &found.0 {
            let stood_back = |old: &&Address| old.ip == address.ip && old.stands_back.load(Relaxed);
            address.stands_back.store(known.0.iter().any(|old| stood_back(&old)), Relaxed);
        }
        self.known.store(Arc::new(found));
    }
}

#[cfg(test)]
mod tests;
