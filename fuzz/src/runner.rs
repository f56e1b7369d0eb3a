//! Runs targets on their seeds and on thousands of mutations of them: the same ones each time. Each crate's tests have it
//! for their own targets.

use std::panic::catch_unwind;
use std::path::Path;

/// Mutations of each target, unless `TWINMESH_MUTATIONS` says another number: some seconds for all of a crate's.
const MUTATIONS: usize = 3000;

/// A target: its name, and what is thrown at.
pub type Target = (&'static str, fn(&[u8]));

/// Throws everything at every target.
///
/// # Panics
/// When a target does, with what was thrown.
pub fn run(targets: &[Target]) {
    let mutations = std::env::var("TWINMESH_MUTATIONS").map_or(MUTATIONS, |number| number.parse().unwrap());
    for (name, target) in targets {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has seeds");
        seeds.iter().for_each(|seed| target(seed));
        let mut random = Random(name.bytes().fold(0, |sum, byte| sum * 31 + u64::from(byte)));
        for round in 0..mutations {
            let data = mutate(&mut random, &seeds);
            let done = catch_unwind(|| target(&data));
            assert!(done.is_ok(), "{name}, mutation {round}: {:?} is {data:?}", String::from_utf8_lossy(&data));
        }
        let noise: Vec<u8> = (0..256).map(|_| random.byte()).collect();
        target(&noise);
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Changes, takes away, doubles or adds something.
fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(5) {
        let at = random.below(data.len() + 1);
        match random.below(6) {
            0 => data.truncate(at),
            1 => data.insert(at, random.byte()),
            2 if at < data.len() => data[at] ^= 1 << random.below(8),
            3 if at < data.len() => data[at] = b"\"{}[]:,%&=\0\xff09-eE."[random.below(18)],
            4 if at < data.len() => {
                let end = at + random.below((data.len() - at).min(64));
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => {
                let other = &seeds[random.below(seeds.len())];
                data.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
        }
    }
    data
}

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): no library for it in every crate's tests.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below this one, which is not zero.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}
