//! Sums in which no twin sees another's term.
//!
//! Additive secret sharing over the integers modulo 2⁶⁴ (as in Bogdanov, Laur and Willemson, "Sharemind", 2008): a
//! twin splits each term into random shares that add up to it, one for each twin. Whoever adds up the shares it got
//! learns nothing from them; the total of these partial sums is the total of the terms. It stays secret against all
//! other twins together, as long as they follow the protocol and the links keep their messages apart.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use sha2::{Digest, Sha256};

use super::collective::{CollectiveError, Links, all_gather, decode, encode};

/// A seed from which shares are drawn; whoever knows it can undo the sharing.
#[derive(Clone)]
pub struct Seed(pub [u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed([redacted])")
    }
}

impl Seed {
    /// The generator for one purpose: the same seed and context always give the same numbers.
    #[must_use]
    pub fn generator(&self, context: &str) -> ChaCha20Rng {
        let mut hash = Sha256::new();
        hash.update(b"twinmesh secret sharing\0");
        hash.update(self.0);
        hash.update(context.as_bytes());
        ChaCha20Rng::from_seed(hash.finalize().into())
    }
}

/// Splits terms into `count` lists of shares, of which any `count - 1` are independent and uniform.
///
/// The remainder of the terms goes into list `own`.
pub fn split(terms: &[i64], count: usize, own: usize, generator: &mut impl Rng) -> Vec<Vec<u64>> {
    let mut rest: Vec<u64> = terms.iter().map(|term| term.cast_unsigned()).collect();
    let mut shares = Vec::with_capacity(count);
    for rank in 0..count {
        if rank == own {
            shares.push(Vec::new());
            continue;
        }
        let list: Vec<u64> = terms.iter().map(|_| generator.next_u64()).collect();
        rest.iter_mut().zip(&list).for_each(|(rest, share)| *rest = rest.wrapping_sub(*share));
        shares.push(list);
    }
    if let Some(list) = shares.get_mut(own) {
        *list = rest;
    }
    shares
}

/// The outcome of a secure sum; the same at every twin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecureSum {
    /// The total of each term, exact when it fits into 64 bits with sign.
    pub totals: Vec<i64>,
    /// What each twin published: the sums of the shares it got, by rank.
    pub partials: Vec<Vec<u64>>,
}

/// Adds up the terms of all members without showing any member's terms to another.
///
/// `context` must name the run, so that no two sums draw the same shares; the same run draws the same ones when it
/// starts over.
///
/// # Errors
///
/// A member is lost, or sent something else.
pub fn secure_sum<L: Links>(
    links: &mut L,
    seed: &Seed,
    context: &str,
    terms: &[i64],
) -> Result<SecureSum, CollectiveError<L::Error>> {
    let (rank, size) = (links.rank(), links.size());
    let shares = split(terms, size, rank, &mut seed.generator(context));
    for (peer, list) in shares.iter().enumerate().filter(|(peer, _)| *peer != rank) {
        links.send(peer, encode(list))?;
    }
    let mut own = shares.into_iter().nth(rank).unwrap_or_default();
    for peer in (0..size).filter(|peer| *peer != rank) {
        let message = links.receive(peer)?;
        let list = decode::<u64, _>(&message, peer, terms.len())?;
        own.iter_mut().zip(list).for_each(|(sum, share)| *sum = sum.wrapping_add(share));
    }
    let messages = all_gather(links, encode(&own))?;
    let mut sum = SecureSum { totals: vec![0; terms.len()], partials: Vec::with_capacity(size) };
    for (peer, message) in messages.iter().enumerate() {
        let partial: Vec<u64> = decode::<u64, _>(message, peer, terms.len())?.collect();
        sum.totals.iter_mut().zip(&partial).for_each(|(sum, part)| *sum = sum.wrapping_add(part.cast_signed()));
        sum.partials.push(partial);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::maths::collective::memory;

    fn seed(rank: usize) -> Seed {
        Seed([rank as u8 + 1; 32])
    }

    proptest! {
        #[test]
        fn the_total_is_exact_at_every_twin(terms in proptest::collection::vec(any::<i32>(), 1..=7)) {
            let terms: Vec<i64> = terms.into_iter().map(|term| i64::from(term) << 20).collect();
            let sums = memory::run(terms.len(), |mut links| {
                let rank = links.rank();
                secure_sum(&mut links, &seed(rank), "task 1", &[terms[rank], -terms[rank]]).unwrap()
            });
            let total: i64 = terms.iter().sum();
            for sum in &sums {
                prop_assert_eq!(&sum.totals, &[total, -total]);
                prop_assert_eq!(&sum.partials, &sums[0].partials);
            }
        }

        #[test]
        fn all_shares_but_one_say_nothing_about_the_term(
            terms in (any::<i64>(), any::<i64>()),
            count in 2..7_usize,
            own in 0..7_usize,
        ) {
            let own = own % count;
            let draw = |term| split(&[term], count, own, &mut seed(3).generator("task 1"));
            let (one, other) = (draw(terms.0), draw(terms.1));
            for rank in (0..count).filter(|rank| *rank != own) {
                prop_assert_eq!(&one[rank], &other[rank]);
            }
            let total = one.iter().fold(0_u64, |sum, share| sum.wrapping_add(share[0]));
            prop_assert_eq!(total.cast_signed(), terms.0);
        }
    }

    /// Each bit of each share is set in about half of the draws, also in the one that holds the remainder.
    #[test]
    fn shares_of_one_term_look_uniform() {
        let draws = 4000;
        let mut set = vec![[0_u32; 64]; 3];
        let mut generator = seed(0).generator("uniform");
        for _ in 0..draws {
            for (share, set) in split(&[42], 3, 2, &mut generator).iter().zip(&mut set) {
                (0..64).for_each(|bit| set[bit] += (share[0] >> bit & 1) as u32);
            }
        }
        // Five standard deviations around the mean.
        let spread = 5.0 * (f64::from(draws) / 4.0).sqrt();
        for count in set.iter().flatten() {
            assert!((f64::from(*count) - f64::from(draws) / 2.0).abs() < spread, "{count}");
        }
    }

    #[test]
    fn a_run_that_starts_over_draws_the_same_shares() {
        let draw = |seed: &Seed, context| split(&[7], 3, 0, &mut seed.generator(context));
        assert_eq!(draw(&seed(1), "task 1"), draw(&seed(1), "task 1"));
        assert_ne!(draw(&seed(1), "task 1"), draw(&seed(1), "task 2"));
        assert_ne!(draw(&seed(1), "task 1"), draw(&seed(2), "task 1"));
        assert_eq!(format!("{:?}", seed(1)), "Seed([redacted])");
    }
}
