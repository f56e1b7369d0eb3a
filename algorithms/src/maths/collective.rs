//! Sums of vectors over twins.
//!
//! [`all_reduce`] leaves on every twin the element-wise sum over all twins, added in the order of ranks, so every twin
//! holds the same bits, whatever the sizes, timing or path. Short vectors go to everyone at once. Long ones are cut into
//! blocks of one segment per twin: a twin gets all contributions to its segment, adds them, and sends the sum to all
//! (reduce-scatter, then all-gather). As in a ring each twin sends and receives `2(K-1)/K` of the vector; unlike in a ring
//! a block crosses only two links, and rounding does not depend on the segment. Blocks are pipelined: while the sums
//! of one travel, contributions to the next ones are under way.

use bytes::Bytes;

/// Vectors up to this size are sent whole to every twin: latency counts, not volume.
const SMALL_BYTES: usize = 16 * 1024;

/// How large one message of a long vector is: large against the cost of a message, small against the cache.
const CHUNK_BYTES: usize = 256 * 1024;

/// How many blocks contributions run ahead of sums: 4 MiB on each link, so that a tenth of a second of latency does not
/// hold up a fast one. It also bounds what waits at a twin that is slower than the others.
const LAG: usize = 16;

/// Ordered, reliable messages between the members of a group.
///
/// Sending must not wait for the receiver to call [`Links::receive`].
pub trait Links {
    /// Why a message could not be sent or received.
    type Error;

    /// This member's place in the group, from 0.
    fn rank(&self) -> usize;

    /// How many members the group has.
    fn size(&self) -> usize;

    /// Sends a message to another member.
    ///
    /// # Errors
    ///
    /// The member is lost for good.
    fn send(&mut self, to: usize, message: Bytes) -> Result<(), Self::Error>;

    /// Waits for the next message of another member.
    ///
    /// # Errors
    ///
    /// The member is lost for good.
    fn receive(&mut self, from: usize) -> Result<Bytes, Self::Error>;
}

/// A reason for not completing a collective operation.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError<E> {
    /// A message could not be sent or received.
    #[error(transparent)]
    Link(#[from] E),
    /// A twin sent something that does not fit.
    #[error(
        "the twin of rank {rank} sent {actual} bytes where {expected} were expected; do all twins run the same function with the same arguments?"
    )]
    Length {
        /// Who sent it.
        rank: usize,
        /// How much it should be.
        expected: usize,
        /// How much it was.
        actual: usize,
    },
}

/// A number that can be summed over twins; eight bytes, little endian, on the wire.
pub trait Element: Copy + Default + private::Sealed {
    /// The sum; integers wrap around.
    #[must_use]
    fn plus(self, other: Self) -> Self;
    /// The bytes on the wire.
    fn to_bytes(self) -> [u8; WIDTH];
    /// The inverse of [`Element::to_bytes`].
    fn from_bytes(bytes: [u8; WIDTH]) -> Self;
}

const WIDTH: usize = 8;

impl Element for f64 {
    fn plus(self, other: Self) -> Self {
        self + other
    }
    fn to_bytes(self) -> [u8; WIDTH] {
        self.to_le_bytes()
    }
    fn from_bytes(bytes: [u8; WIDTH]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

impl Element for u64 {
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    fn to_bytes(self) -> [u8; WIDTH] {
        self.to_le_bytes()
    }
    fn from_bytes(bytes: [u8; WIDTH]) -> Self {
        Self::from_le_bytes(bytes)
    }
}

mod private {
    pub trait Sealed {}
    impl Sealed for f64 {}
    impl Sealed for u64 {}
}

/// Replaces `values` by their element-wise sum over all members, the same bits everywhere.
///
/// All members must call it with vectors of one length.
///
/// # Errors
///
/// A member is lost, or sent something else.
pub fn all_reduce<E: Element, L: Links>(links: &mut L, values: &mut [E]) -> Result<(), CollectiveError<L::Error>> {
    if size_of_val(values) <= SMALL_BYTES {
        reduce_whole(links, values)
    } else {
        reduce_scattered(links, values, CHUNK_BYTES / WIDTH)
    }
}

/// Sends a message to all members and returns everyone's, by rank.
///
/// # Errors
///
/// A member is lost.
pub fn all_gather<L: Links>(links: &mut L, message: Bytes) -> Result<Vec<Bytes>, L::Error> {
    for peer in peers(links) {
        links.send(peer, message.clone())?;
    }
    let rank = links.rank();
    (0..links.size()).map(|peer| if peer == rank { Ok(message.clone()) } else { links.receive(peer) }).collect()
}

/// The numbers as they travel.
pub fn encode<E: Element>(values: &[E]) -> Bytes {
    let mut bytes = Vec::with_capacity(size_of_val(values));
    for value in values {
        bytes.extend_from_slice(&value.to_bytes());
    }
    bytes.into()
}

/// The numbers in a message, when it holds as many as expected.
///
/// # Errors
///
/// The message has another length.
pub fn decode<E: Element, X>(
    message: &[u8],
    rank: usize,
    count: usize,
) -> Result<impl Iterator<Item = E> + use<'_, E, X>, CollectiveError<X>> {
    let (chunks, rest) = message.as_chunks();
    if chunks.len() != count || !rest.is_empty() {
        return Err(CollectiveError::Length { rank, expected: count * WIDTH, actual: message.len() });
    }
    Ok(chunks.iter().map(|bytes| E::from_bytes(*bytes)))
}

/// The others, beginning with the next rank so that not all members send to the same one first.
fn peers<L: Links>(links: &L) -> impl Iterator<Item = usize> + use<L> {
    let (rank, size) = (links.rank(), links.size());
    (1..size).map(move |distance| (rank + distance) % size)
}

fn reduce_whole<E: Element, L: Links>(links: &mut L, values: &mut [E]) -> Result<(), CollectiveError<L::Error>> {
    let message = encode(values);
    for peer in peers(links) {
        links.send(peer, message.clone())?;
    }
    let mut scratch = Vec::new();
    add_by_rank(links, values, &mut scratch)
}

/// Adds the contributions of all members to one segment, in the order of ranks.
fn add_by_rank<E: Element, L: Links>(
    links: &mut L,
    own: &mut [E],
    sum: &mut Vec<E>,
) -> Result<(), CollectiveError<L::Error>> {
    let rank = links.rank();
    sum.clear();
    for peer in 0..links.size() {
        if peer == rank {
            if peer == 0 {
                sum.extend_from_slice(own);
            } else {
                sum.iter_mut().zip(&*own).for_each(|(sum, value)| *sum = sum.plus(*value));
            }
            continue;
        }
        let message = links.receive(peer)?;
        let values = decode::<E, _>(&message, peer, own.len())?;
        if peer == 0 {
            sum.extend(values);
        } else {
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.plus(value));
        }
    }
    own.copy_from_slice(sum);
    Ok(())
}

/// Each member sends in step `t` its contributions to block `t` and then its sums of block `t - LAG`, and takes what the
/// others sent in their step `t - LAG`, in the same order.
fn reduce_scattered<E: Element, L: Links>(
    links: &mut L,
    values: &mut [E],
    chunk: usize,
) -> Result<(), CollectiveError<L::Error>> {
    let (rank, size, length) = (links.rank(), links.size(), values.len());
    if size == 1 {
        return Ok(());
    }
    let blocks = length.div_ceil(size * chunk);
    let segment = |block: usize, owner: usize| {
        let start = block * size * chunk;
        let end = length.min(start + size * chunk);
        let share = (end - start).div_ceil(size);
        end.min(start + owner * share)..end.min(start + (owner + 1) * share)
    };
    let mut scratch = Vec::with_capacity(chunk);
    for step in 0..blocks + 2 * LAG {
        if step < blocks {
            for peer in peers(links) {
                let part = segment(step, peer);
                if !part.is_empty() {
                    links.send(peer, encode(&values[part]))?;
                }
            }
        }
        if let Some(block) = step.checked_sub(LAG).filter(|block| *block < blocks) {
            let own = segment(block, rank);
            if !own.is_empty() {
                add_by_rank(links, &mut values[own.clone()], &mut scratch)?;
                let sums = encode(&values[own]);
                for peer in peers(links) {
                    links.send(peer, sums.clone())?;
                }
            }
        }
        if let Some(block) = step.checked_sub(2 * LAG) {
            for peer in peers(links) {
                let part = segment(block, peer);
                if !part.is_empty() {
                    let message = links.receive(peer)?;
                    let sums = decode::<E, _>(&message, peer, part.len())?;
                    values[part].iter_mut().zip(sums).for_each(|(value, sum)| *value = sum);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod memory {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Links within one process.
    pub(crate) struct Memory {
        rank: usize,
        to: Vec<Sender<Bytes>>,
        from: Vec<Receiver<Bytes>>,
    }

    impl Links for Memory {
        type Error = String;

        fn rank(&self) -> usize {
            self.rank
        }
        fn size(&self) -> usize {
            self.to.len()
        }
        fn send(&mut self, to: usize, message: Bytes) -> Result<(), String> {
            self.to[to].send(message).map_err(|error| error.to_string())
        }
        fn receive(&mut self, from: usize) -> Result<Bytes, String> {
            self.from[from].recv().map_err(|error| error.to_string())
        }
    }

    /// Runs one member per rank, each in a thread of its own, and returns what they return.
    pub(crate) fn run<T: Send>(size: usize, member: impl Fn(Memory) -> T + Sync) -> Vec<T> {
        let mut to: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
        let mut from: Vec<Vec<_>> = (0..size).map(|_| Vec::new()).collect();
        for sender in &mut to {
            for receiver in &mut from {
                let (send, receive) = channel();
                sender.push(send);
                receiver.push(receive);
            }
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = to
                .into_iter()
                .zip(from)
                .enumerate()
                .map(|(rank, (to, from))| {
                    let member = &member;
                    scope.spawn(move || member(Memory { rank, to, from }))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum_by_rank(terms: &[Vec<f64>]) -> Vec<u64> {
        let mut sum = terms[0].clone();
        for term in &terms[1..] {
            sum.iter_mut().zip(term).for_each(|(sum, value)| *sum += value);
        }
        sum.into_iter().map(f64::to_bits).collect()
    }

    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn every_twin_holds_the_bits_of_the_sum_by_rank(
            size in 1..=7_usize,
            length in 0..400_usize,
            chunk in 1..40_usize,
            seed in any::<u64>(),
        ) {
            let terms: Vec<Vec<f64>> = (0..size)
                .map(|rank| (0..length).map(|i| term(seed, rank, i)).collect())
                .collect();
            let expected = sum_by_rank(&terms);
            let scattered = memory::run(size, |mut links| {
                let mut values = terms[links.rank()].clone();
                reduce_scattered(&mut links, &mut values, chunk).unwrap();
                bits(&values)
            });
            let whole = memory::run(size, |mut links| {
                let mut values = terms[links.rank()].clone();
                reduce_whole(&mut links, &mut values).unwrap();
                bits(&values)
            });
            for result in scattered.iter().chain(&whole) {
                prop_assert_eq!(result, &expected);
            }
        }
    }

    /// Numbers of very different size, so that another order of addition would show.
    fn term(seed: u64, rank: usize, index: usize) -> f64 {
        let mixed = (seed ^ ((rank as u64) << 32) ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 11) as f64 * 10_f64.powi((mixed % 40) as i32 - 20) * if mixed & 1024 == 0 { 1.0 } else { -1.0 }
    }

    #[test]
    fn long_vectors_are_summed_in_several_blocks() {
        let length = 3 * CHUNK_BYTES / WIDTH * 4 + 17;
        let results = memory::run(4, |mut links| {
            let mut values: Vec<u64> = (0..length as u64).map(|i| i * (links.rank() as u64 + 1)).collect();
            all_reduce(&mut links, &mut values).unwrap();
            values
        });
        let expected: Vec<u64> = (0..length as u64).map(|i| i * 10).collect();
        assert!(results.iter().all(|result| *result == expected));
    }

    #[test]
    fn vectors_of_different_length_are_noticed() {
        let results = memory::run(2, |mut links| {
            let mut values = vec![1.0; 3 + links.rank()];
            all_reduce(&mut links, &mut values).unwrap_err().to_string()
        });
        assert!(results[0].starts_with("the twin of rank 1 sent 32 bytes where 24 were expected"), "{}", results[0]);
    }

    #[test]
    fn everyone_gathers_everyones_message() {
        let results = memory::run(3, |mut links| {
            let own = Bytes::from(format!("from {}", links.rank()));
            all_gather(&mut links, own).unwrap()
        });
        assert!(results.iter().all(|result| *result == ["from 0", "from 1", "from 2"]));
    }
}
