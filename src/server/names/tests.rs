use tokio::net::{TcpListener, TcpSocket};

use super::*;
use crate::model::clock::SystemClock;
use crate::server::testing::{Told, in_time};
use crate::tasks::Tasks;

fn told<const N: usize>(addresses: [&str; N]) -> (Told, Arc<Name>) {
    let told = Told::default();
    told.tell(addresses);
    (told.clone(), Name::new("orders.internal", Box::new(told)))
}

fn all(name: &Name) -> Vec<String> {
    name.known().all().map(|ip| ip.to_string()).collect()
}

/// A task that keeps a name up for as long as it lives.
struct Kept(CancellationToken);

impl Kept {
    fn up(name: &Arc<Name>, interval: Duration) -> Self {
        let stop = CancellationToken::new();
        Tasks::spawn_here(Arc::clone(name).keep_up(interval, stop.clone()));
        Self(stop)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[tokio::test]
async fn what_is_known_changes_by_answers_and_by_nothing_else() {
    let (told, name) = told(["10.0.0.2", "::1", "10.0.0.1", "10.0.0.2"]);
    assert!(all(&name).is_empty());
    name.refresh().await.unwrap();
    assert_eq!(all(&name), ["10.0.0.1", "10.0.0.2", "::1"]);
    told.fail();
    assert!(name.refresh().await.is_err());
    assert_eq!(all(&name), ["10.0.0.1", "10.0.0.2", "::1"], "a look-up that fails says nothing");
    told.tell([]);
    assert!(name.refresh().await.is_err());
    assert_eq!(all(&name), ["10.0.0.1", "10.0.0.2", "::1"], "nor does an empty answer");
    told.tell(["10.0.0.3"]);
    name.refresh().await.unwrap();
    assert_eq!(all(&name), ["10.0.0.3"]);
}

#[test]
fn of_very_many_addresses_the_same_ones_are_used_in_whatever_order_they_come() {
    let many: Vec<IpAddr> = (0..200).map(|number| IpAddr::from([10, 0, 1, number])).collect();
    let mut turned = many.clone();
    turned.rotate_left(77);
    let (some, same) = (Addresses::of(many), Addresses::of(turned));
    assert_eq!(some.count(), ADDRESSES_MOST);
    assert!(some.all().eq(same.all()));
}

#[tokio::test]
async fn addresses_take_turns_but_for_those_that_stand_back() {
    let (told, name) = told(["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(name.next(), None, "nothing is known yet");
    name.refresh().await.unwrap();
    let turns = |name: &Name| (0..300).filter_map(|_| name.next()).map(|ip| ip.to_string()).collect::<Vec<_>>();
    let count = |turns: &[String], ip: &str| turns.iter().filter(|turn| *turn == ip).count();
    let fair = turns(&name);
    for ip in all(&name) {
        assert_eq!(count(&fair, &ip), 100, "{ip}");
    }
    name.doubt("10.0.0.2".parse().unwrap());
    let without = turns(&name);
    assert_eq!((without.len(), count(&without, "10.0.0.2")), (300, 0));
    told.tell(["10.0.0.2", "10.0.0.4"]);
    name.refresh().await.unwrap();
    assert_eq!(count(&turns(&name), "10.0.0.2"), 0, "a new answer is no reason to trust it again");
    told.tell(["10.0.0.2"]);
    name.refresh().await.unwrap();
    assert_eq!(name.next(), None, "with one address there is no choice");
}

#[tokio::test]
async fn a_name_is_looked_up_by_itself_and_at_once_when_an_address_is_doubted() {
    let (told, name) = told(["127.0.0.1"]);
    let kept = Kept::up(&name, Duration::from_millis(20));
    in_time(async {
        while told.asked() < 5 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    drop(kept);
    let (told, name) = self::told(["10.0.0.1", "127.0.0.1"]);
    let _kept = Kept::up(&name, Duration::from_mins(10));
    in_time(async {
        while told.asked() < 1 {
            sleep(Duration::from_millis(5)).await;
        }
        told.tell(["127.0.0.2"]);
        name.doubt("10.0.0.1".parse().unwrap());
        while all(&name) != ["127.0.0.2"] {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_cannot_go_on_without_looks_it_up_once_for_all() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, name) = told(["127.0.0.1"]);
    let (first, second) = tokio::join!(name.connect(port, None), name.connect(port, None));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(told.asked(), 1);
    let (told, name) = self::told([]);
    told.fail();
    assert!(name.connect(port, None).await.unwrap_err().to_string().contains("no resolver today"));
}

#[tokio::test]
async fn an_address_that_refuses_is_passed_over_and_stands_back_until_the_next_look_up() {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (there, away): (IpAddr, IpAddr) = ("127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap());
    let (_, name) = told(["127.0.0.1", "127.0.0.2"]);
    let (_, address) = name.connect(port, Some(away)).await.unwrap();
    assert_eq!(address, there);
    assert!((0..10).all(|_| name.next() == Some(there)));
    // Whatever stands back is still tried, last.
    drop(listener);
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    assert_eq!(name.connect(port, None).await.unwrap().1, away);
    drop(listener);
    assert_eq!(name.connect(port, None).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let _kept = Kept::up(&name, Duration::from_mins(10));
    in_time(async {
        while name.known().in_use().count() < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_address_that_says_nothing_has_a_head_start_and_no_more() {
    // Its queue is full: further callers hear nothing.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let silent = socket.listen(0).unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut queue = Vec::new();
    while let Ok(stream) = timeout(HEAD_START / 2, TcpStream::connect(("127.0.0.1", port))).await {
        queue.push(stream.unwrap());
    }
    let _answering = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let (_, name) = told(["127.0.0.1", "127.0.0.2"]);
    let clock = SystemClock::shared();
    let begun = clock.monotonic();
    let (_, address) = in_time(name.connect(port, Some("127.0.0.1".parse().unwrap()))).await.unwrap();
    assert_eq!(address.to_string(), "127.0.0.2");
    assert!(clock.monotonic().since(begun) >= HEAD_START);
    assert_eq!(name.known().in_use().collect::<Vec<_>>(), [address]);
}
