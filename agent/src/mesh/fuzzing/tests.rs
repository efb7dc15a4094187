use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::seeds::{self, Seeds};
use super::*;

/// How many variants of each input an ordinary test runs.
const VARIANTS: u32 = 150;

fn corpus(target: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

fn targets() -> [(&'static str, Seeds); 3] {
    [("reflector", seeds::reflector()), ("peer", seeds::peer()), ("tlv", seeds::tlv())]
}

/// What stands in a corpus, by name.
fn read(target: &str) -> Seeds {
    let entries = fs::read_dir(corpus(target)).unwrap_or_else(|error| panic!("the corpus of {target}: {error}"));
    let mut inputs: Seeds = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

/// Octets that only look random: the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    /// A few changes of the kinds that parsers dislike.
    fn change(&mut self, input: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let place = self.below(input.len());
            match self.below(6) {
                _ if input.is_empty() => input.push(0),
                0 => input[place] ^= 1 << self.below(8),
                1 => input[place] = [0, 1, 0x7F, 0x80, 0xFF][self.below(5)],
                2 => input[place] = input[place].wrapping_add(1),
                3 => input.truncate(place),
                4 => input.extend_from_within(place..),
                _ => input[place..].rotate_left(1),
            }
        }
        input.truncate(4_000);
    }
}

/// Whatever comes, nothing panics and what must hold does: for each input of the corpus and for variants of it.
#[test]
fn the_corpus_and_variants_of_it() {
    let (mut reflectors, mut noise) = (Reflectors::default(), Noise(0x9E37_79B9_7F4A_7C15));
    for target in ["reflector", "peer", "tlv"] {
        let mut run = |input: &[u8]| match target {
            "reflector" => drop(reflectors.run(input)),
            "peer" => drop(answer(input)),
            _ => drop(values(input)),
        };
        for (_, input) in read(target) {
            run(&input);
            for _ in 0..VARIANTS {
                let mut variant = input.clone();
                noise.change(&mut variant);
                run(&variant);
            }
        }
    }
    assert!(reflectors.inputs > 10_000, "more sources and sessions than any table has room for");
}

/// The corpus begins where it should: good packets are taken in, and each of the others is refused.
#[test]
fn good_inputs_get_through() {
    let mut reflectors = Reflectors::default();
    let mut answered = |name: &str| reflectors.run(&fs::read(corpus("reflector").join(name)).unwrap());
    for name in ["agent-open", "agent-keyed", "stranger-open", "open-44", "keyed-112", "keyed-tlv-standard", "longest-keyed"] {
        assert!(answered(name) > 0, "{name}");
    }
    for name in ["wrong-key", "open-43", "keyed-111", "keyed-zeros", "length-1501", "open-where-keyed", "answer-of-ours"] {
        assert_eq!(answered(name), 0, "{name}");
    }
    let fate = |name: &str| answer(&fs::read(corpus("peer").join(name)).unwrap());
    for name in ["open-flow-0", "open-flow-1", "keyed-flow-0", "keyed-flow-1", "keyed-base-only", "keyed-unrecognized"] {
        assert_eq!(fate(name), (1, 0), "{name}");
    }
    for name in ["keyed-changed", "keyed-wrong-agent", "open-cut-in-base", "open-never-sent", "keyed-wrong-echo"] {
        assert_eq!(fate(name), (0, 1), "{name}");
    }
    assert_eq!(fate("keyed-route"), (0, 0), "an answer to no probe, but to a packet beside them");
    assert!(values(&fs::read(corpus("tlv").join("records")).unwrap()));
}

/// The committed corpus is the one that the wire format of today makes; what a fuzzer has found may stand beside it.
#[test]
fn the_corpus_is_up_to_date() {
    for (target, seeds) in targets() {
        let committed: BTreeSet<_> = read(target).into_iter().collect();
        for seed in seeds {
            assert!(committed.contains(&seed), "{target}/{} is another one: run the test write_the_corpus", seed.0);
        }
    }
}

/// Not a check: writes the corpus.
#[test]
#[ignore = "writes the corpus; run it after a change of the wire format: cargo test -p lagmesh-agent --lib write_the_corpus -- --ignored"]
fn write_the_corpus() {
    for (target, seeds) in targets() {
        fs::create_dir_all(corpus(target)).unwrap();
        for (name, input) in seeds {
            fs::write(corpus(target).join(name), input).unwrap();
        }
    }
}
