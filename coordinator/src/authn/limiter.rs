//! One limiter for everything that can be guessed: passwords, API keys, codes, recovery and refresh tokens.
//!
//! A try is charged before anything is looked up, to the address it comes from and to the account it is for; what
//! turns out right is given back. So guesses are bounded, also those made at the same time, while whoever knows their
//! secret may use it as often as they like.
//!
//! Instances on one database tell each other of tries that were wrong, so that whoever guesses at several of them at a
//! time is bounded as at one. What was right is told to nobody.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::time::Duration;

use data_encoding::HEXLOWER;
use twinmesh_protocol::time::Time;

/// How many keys are remembered. About 8 MiB; what is nearest to being forgiven is forgotten first.
const MAX_KEYS: usize = 100_000;
/// The network that one customer of a provider has at least (RFC 6177): whoever has one address of it has all.
const IPV6_CUSTOMER: u128 = u128::MAX << 64;

/// How many wrong tries are borne; all come back, one after another, within the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) tries: u32,
    pub(crate) within: Duration,
}

impl Allowance {
    /// How long it takes until one try comes back.
    fn one(self) -> Duration {
        self.within / self.tries.max(1)
    }
}

/// To whom a try is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// To where it comes from.
    Address(IpAddr),
    /// To the account it is for, whether or not there is one: part of a hash of its name.
    Account([u8; 16]),
}

impl Key {
    /// The key of an address: IPv6 counts by the network that one customer has.
    pub(crate) fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & IPV6_CUSTOMER)),
        })
    }

    /// The key of an account, by whatever name it is asked for. Mail addresses are looked up in either case, so case
    /// makes no other account.
    pub(crate) fn account(name: &str) -> Self {
        let mut key = [0; 16];
        key.copy_from_slice(&super::secret::digest(&name.to_lowercase())[..16]);
        Self::Account(key)
    }
}

/// As other instances are told it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "address={address}"),
            Self::Account(key) => write!(f, "account={}", HEXLOWER.encode(key)),
        }
    }
}

impl FromStr for Key {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once('=') {
            Some(("address", address)) => address.parse().map(Self::Address).map_err(drop),
            Some(("account", key)) => {
                let key = HEXLOWER.decode(key.as_bytes()).map_err(drop)?;
                key.try_into().map(Self::Account).map_err(drop)
            }
            Some(_) | None => Err(()),
        }
    }
}

/// What is remembered of tries that were not right.
#[derive(Debug)]
pub(crate) struct Limiter {
    per_address: Allowance,
    per_account: Allowance,
    /// When each will have all its tries back (the generic cell rate algorithm's arrival time, ITU-T I.371 annex A).
    settled: BTreeMap<Key, Time>,
}

impl Limiter {
    pub(crate) fn new(per_address: Allowance, per_account: Allowance) -> Self {
        Self { per_address, per_account, settled: BTreeMap::new() }
    }

    /// Charges a try to all of these, or to none.
    ///
    /// # Errors
    /// How long to wait until each of them may try again.
    pub(crate) fn charge(&mut self, keys: &[Key], now: Time) -> Result<(), Duration> {
        let after: Vec<Time> = keys.iter().map(|key| self.after(*key, now)).collect();
        let waits = keys.iter().zip(&after).map(|(key, after)| after.since(now).saturating_sub(self.of(*key).within));
        match waits.max() {
            Some(wait) if !wait.is_zero() => Err(wait),
            Some(_) | None => {
                for (key, after) in keys.iter().zip(after) {
                    self.settle(*key, after, now);
                }
                Ok(())
            }
        }
    }

    /// Takes in a try that was wrong elsewhere, whether or not it would have been borne here.
    pub(crate) fn take_in(&mut self, keys: &[Key], now: Time) {
        for key in keys {
            let after = self.after(*key, now);
            self.settle(*key, after, now);
        }
    }

    fn settle(&mut self, key: Key, after: Time, now: Time) {
        self.make_room(key, now);
        self.settled.insert(key, after);
    }

    /// Gives a try back that was right.
    pub(crate) fn forgive(&mut self, keys: &[Key], now: Time) {
        for key in keys {
            let one = self.of(*key).one();
            let Some(settled) = self.settled.get_mut(key) else { continue };
            if settled.since(now) <= one {
                self.settled.remove(key);
            } else {
                *settled = now.plus(settled.since(now).saturating_sub(one));
            }
        }
    }

    /// When the key will be settled if it is charged once more. A clock that was set back holds nobody up for longer
    /// than the allowance says.
    fn after(&self, key: Key, now: Time) -> Time {
        let allowance = self.of(key);
        let debt = self.settled.get(&key).map_or(Duration::ZERO, |settled| settled.since(now));
        now.plus(debt.min(allowance.within)).plus(allowance.one())
    }

    fn of(&self, key: Key) -> Allowance {
        match key {
            Key::Address(_) => self.per_address,
            Key::Account(_) => self.per_account,
        }
    }

    fn make_room(&mut self, key: Key, now: Time) {
        if self.settled.len() < MAX_KEYS || self.settled.contains_key(&key) {
            return;
        }
        self.settled.retain(|_, settled| *settled > now);
        if self.settled.len() >= MAX_KEYS {
            let mut times: Vec<Time> = self.settled.values().copied().collect();
            let (_, median, _) = times.select_nth_unstable(MAX_KEYS / 2);
            let median = *median;
            self.settled.retain(|_, settled| *settled > median);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Time = Time::from_micros(1_700_000_000_000_000);
    const PER_ADDRESS: Allowance = Allowance { tries: 10, within: Duration::from_secs(100) };
    const PER_ACCOUNT: Allowance = Allowance { tries: 3, within: Duration::from_secs(30) };

    fn limiter() -> Limiter {
        Limiter::new(PER_ADDRESS, PER_ACCOUNT)
    }

    fn address(text: &str) -> Key {
        Key::address(text.parse().unwrap())
    }

    #[test]
    fn wrong_tries_are_bounded_for_each_account_and_address() {
        let (mut limiter, here) = (limiter(), address("192.0.2.1"));
        for _ in 0..3 {
            limiter.charge(&[here, Key::account("ada")], START).unwrap();
        }
        assert_eq!(limiter.charge(&[here, Key::account("ada")], START), Err(Duration::from_secs(10)));
        // What was refused is charged to nobody.
        for _ in 0..7 {
            limiter.charge(&[here], START).unwrap();
        }
        assert_eq!(limiter.charge(&[here], START), Err(Duration::from_secs(10)));
        limiter.charge(&[address("192.0.2.2")], START).unwrap();
        let later = START.plus(Duration::from_secs(10));
        limiter.charge(&[here, Key::account("ada")], later).unwrap();
        limiter.charge(&[here], later).unwrap_err();
    }

    #[test]
    fn what_was_right_is_given_back() {
        let (mut limiter, keys) = (limiter(), [address("192.0.2.1"), Key::account("ada")]);
        for _ in 0..1000 {
            limiter.charge(&keys, START).unwrap();
            limiter.forgive(&keys, START);
        }
        assert!(limiter.settled.is_empty());
    }

    #[test]
    fn an_account_is_the_same_in_upper_and_lower_case() {
        assert_eq!(Key::account("Ada@Example.org"), Key::account("ada@example.org"));
        assert_ne!(Key::account("ada"), Key::account("eve"));
    }

    #[test]
    fn one_customers_network_counts_as_one_address() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }

    #[test]
    fn what_was_wrong_elsewhere_counts_here_and_holds_nobody_up_for_longer() {
        let (mut limiter, keys) = (limiter(), [address("192.0.2.1"), Key::account("ada")]);
        for _ in 0..100 {
            let told: Vec<Key> = keys.iter().map(|key| key.to_string().parse().unwrap()).collect();
            limiter.take_in(&told, START);
        }
        let wait = limiter.charge(&keys, START).unwrap_err();
        assert!(wait <= PER_ADDRESS.one() * 2, "{wait:?}");
        let later = START.plus(PER_ADDRESS.within + PER_ADDRESS.one());
        limiter.charge(&keys, later).unwrap();
        assert!("address=nowhere".parse::<Key>().is_err() && "account=00".parse::<Key>().is_err());
    }

    #[test]
    fn a_clock_that_is_set_back_locks_nobody_out() {
        let (mut limiter, key) = (limiter(), [Key::account("ada")]);
        while limiter.charge(&key, START).is_ok() {}
        let before = Time::from_micros(START.micros() - 3_600_000_000);
        assert!(limiter.charge(&key, before).unwrap_err() <= PER_ACCOUNT.one());
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_remembered_longest() {
        let (mut limiter, worst) = (limiter(), [Key::account("worst")]);
        while limiter.charge(&worst, START).is_ok() {}
        for number in 0..u32::try_from(MAX_KEYS).unwrap() + 10 {
            limiter.charge(&[Key::Address(IpAddr::V4(number.into()))], START).unwrap();
        }
        assert!(limiter.settled.len() <= MAX_KEYS);
        limiter.charge(&worst, START).unwrap_err();
    }

    proptest! {
        #[test]
        fn never_more_than_the_allowance_within_its_time(steps in proptest::collection::vec((0_u64..20, any::<bool>()), 1..200)) {
            let (mut limiter, key) = (limiter(), [Key::account("ada")]);
            let mut now = START;
            let mut wrong: Vec<Time> = Vec::new();
            for (seconds, right) in steps {
                now = now.plus(Duration::from_secs(seconds));
                if limiter.charge(&key, now).is_ok() {
                    if right { limiter.forgive(&key, now) } else { wrong.push(now) }
                }
                // In any window the burst, and what came back meanwhile.
                let recent = wrong.iter().filter(|at| now.since(**at) < PER_ACCOUNT.within).count();
                prop_assert!(recent <= 2 * 3);
            }
        }
    }
}
