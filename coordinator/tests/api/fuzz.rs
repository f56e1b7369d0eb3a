//! Every target of `fuzz/`, on its seeds and on thousands of mutations of them: the same ones each time.

#[expect(unreachable_pub, reason = "it is the library of `fuzz/`, too")]
#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// Mutations of each target: some seconds for all of them together.
const MUTATIONS: usize = 3000;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Changes, takes away, doubles or adds something.
fn mutate(random: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut data = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..=data.len());
        match random.random_range(0..6) {
            0 => data.truncate(at),
            1 => data.insert(at, random.random()),
            2 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
            3 if at < data.len() => data[at] = *b"\"{}[]:,%&=\0\xff09-eE.".get(random.random_range(0..18)).unwrap(),
            4 if at < data.len() => {
                let end = random.random_range(at..data.len().min(at + 64));
                let piece = data[at..end].to_vec();
                data.splice(at..at, piece);
            }
            _ => {
                let other = &seeds[random.random_range(0..seeds.len())];
                data.extend_from_slice(&other[random.random_range(0..=other.len())..]);
            }
        }
    }
    data
}

#[test]
fn whatever_comes_in_every_decoder_answers() {
    for (index, (name, target)) in targets::TARGETS.iter().enumerate() {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has seeds");
        seeds.iter().for_each(|seed| target(seed));
        let mut random = StdRng::seed_from_u64(index as u64);
        for round in 0..MUTATIONS {
            let data = mutate(&mut random, &seeds);
            let done = std::panic::catch_unwind(|| target(&data));
            assert!(done.is_ok(), "{name}, mutation {round}: {:?}", String::from_utf8_lossy(&data));
        }
        let mut noise = vec![0; 256];
        random.fill_bytes(&mut noise);
        target(&noise);
    }
}
