use proptest::prelude::*;

use super::*;

const S: u64 = 1_000_000_000;

/// What a segment may say: version, generation, as of [ns], void after [ns], bound [ns], drift [ppb], status.
#[derive(Debug, Clone, Copy)]
struct Said {
    version: u16,
    generation: u16,
    as_of_ns: i64,
    void_after_ns: i64,
    bound_ns: i64,
    drift_ppb: u32,
    status: u32,
}

const SAID: Said = Said {
    version: 2,
    generation: 2,
    as_of_ns: 5_000_000_001,
    void_after_ns: 1_005_000_000_001,
    bound_ns: 250_000,
    drift_ppb: 50_000,
    status: 1,
};

fn segment(said: &Said) -> Vec<u8> {
    let (length, drift_at, status_at) = if said.version == 1 { (72, 56, 64) } else { (80, 64, 68) };
    let mut octets = vec![0; length];
    let mut put = |at: usize, number: &[u8]| octets[at..at + number.len()].copy_from_slice(number);
    put(0, &0x414D_5A4E_u32.to_ne_bytes());
    put(4, &0x4342_0200_u32.to_ne_bytes());
    put(8, &u32::try_from(length).unwrap().to_ne_bytes());
    put(12, &said.version.to_ne_bytes());
    put(14, &said.generation.to_ne_bytes());
    for (at, ns) in [(16, said.as_of_ns), (32, said.void_after_ns)] {
        put(at, &ns.div_euclid(NS_PER_S).to_ne_bytes());
        put(at + 8, &ns.rem_euclid(NS_PER_S).to_ne_bytes());
    }
    put(48, &said.bound_ns.to_ne_bytes());
    put(drift_at, &said.drift_ppb.to_ne_bytes());
    put(status_at, &said.status.to_ne_bytes());
    octets
}

/// Both versions are understood, and each status is told apart from the others.
#[test]
fn words() {
    for version in [1, 2] {
        for (status, word) in [
            (0, Word::Nothing),
            (1, Word::Bound { error_ns: 250_000 + 50_000 }),
            (2, Word::FreeRunning),
            (3, Word::Nothing),
            (77, Word::Nothing),
        ] {
            let said = Said { version, status, ..SAID };
            assert_eq!(read(&segment(&said), 6 * S + 1), Some(word), "version {version}, status {status}");
        }
    }
}

/// What is void, from the future, of another version or no segment at all is as if no daemon were there.
#[test]
fn dead_words() {
    let now = 6 * S;
    assert!(read(&segment(&SAID), now).is_some());
    for (case, said, now) in [
        ("void", SAID, 1005 * S + 1),
        ("from the future", SAID, 5 * S),
        ("another version", Said { version: 3, ..SAID }, now),
        ("a bound below zero", Said { bound_ns: -1, ..SAID }, now),
    ] {
        assert_eq!(read(&segment(&said), now), None, "{case}");
    }
    let mut other = segment(&SAID);
    other[0] ^= 1;
    assert_eq!(read(&other, now), None, "another magic");
    let mut small = segment(&SAID);
    small[8..12].copy_from_slice(&72_u32.to_ne_bytes());
    assert_eq!(read(&small, now), None, "a size that its layout does not fit in");
}

/// What was written to while it was read is not believed: neither a half-written segment nor one that nobody has written yet.
#[test]
fn torn_segments() {
    let of = |generation| segment(&Said { generation, ..SAID });
    assert!(is_whole(&of(2), &of(2)));
    assert!(!is_whole(&of(2), &of(4)));
    assert!(!is_whole(&of(3), &of(3)));
    assert!(!is_whole(&of(0), &of(0)));
    assert!(!is_whole(&of(2)[..15], &of(2)[..15]));
    assert!(!is_whole(&of(2), &segment(&Said { bound_ns: 9, ..SAID })));
}

/// A file is read as it stands; one that is missing or empty says nothing.
#[test]
fn files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shm0");
    std::fs::write(&path, segment(&SAID)).unwrap();
    let open = || File::open(&path).unwrap();
    assert_eq!(whole(&open()), Some(segment(&SAID)));
    std::fs::write(&path, segment(&Said { version: 1, ..SAID })).unwrap();
    assert_eq!(read(&whole(&open()).unwrap(), 6 * S), Some(Word::Bound { error_ns: 300_000 }));
    std::fs::write(&path, "").unwrap();
    assert_eq!(whole(&open()), None);
}

proptest! {
    /// A clock that was within the bound at the moment of the claim and gains no more than the drift since is within the error that is
    /// told; the error is never more than a nanosecond beyond that.
    #[test]
    fn the_error_grows_with_age(bound_ns in 0..1_i64 << 40, drift_ppb: u32, age_ns in 0..1000 * NS_PER_S, version in 1..=2_u16) {
        let said = Said { version, bound_ns, drift_ppb, ..SAID };
        let now = u64::try_from(SAID.as_of_ns + age_ns).unwrap();
        let Some(Word::Bound { error_ns }) = read(&segment(&said), now) else { return Err(TestCaseError::fail("no bound")) };
        let most = f64::from(drift_ppb) * age_ns as f64 / 1e9 + bound_ns as f64;
        prop_assert!((error_ns as f64 - most).abs() <= 1.0 + most * 1e-12, "{} {}", error_ns, most);
        prop_assert!(error_ns >= bound_ns.cast_unsigned());
    }

    /// Any octets, also behind a good head, are read without a panic.
    #[test]
    fn any_octets(octets in proptest::collection::vec(any::<u8>(), 0..100), kept in 0..=80_usize, version in 1..=2_u16, now: u64) {
        read(&octets, now);
        let mut damaged = segment(&Said { version, ..SAID });
        let kept = kept.min(damaged.len());
        for (octet, other) in damaged[kept..].iter_mut().zip(octets) {
            *octet = other;
        }
        read(&damaged, now);
        read(&damaged[..kept], now);
    }
}
