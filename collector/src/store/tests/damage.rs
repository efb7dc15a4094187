//! Files that were cut or written over while nobody looked.

use std::fs;

use proptest::prelude::*;

use super::*;

/// Blocks are written over as disks do, not byte by byte [bytes].
const SECTOR: usize = 512;

/// What happens to a file: it is cut at a share of its length, or so many sectors from there on hold something else.
#[derive(Debug, Clone)]
enum Damage {
    Cut(f64),
    Over(f64, usize, u8),
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (0.0..1.0).prop_map(Damage::Cut),
        (0.0..1.0, 1_usize..12, any::<u8>()).prop_map(|(from, sectors, seed)| Damage::Over(from, sectors, seed)),
    ]
}

fn share(of: usize, share: f64) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the length of a small file")]
    let part = (of as f64 * share) as usize;
    part
}

fn damage(bytes: &mut Vec<u8>, how: &Damage) {
    match *how {
        Damage::Cut(at) => bytes.truncate(share(bytes.len(), at)),
        Damage::Over(from, sectors, seed) => {
            let from = share(bytes.len(), from) / SECTOR * SECTOR;
            let end = bytes.len().min(from + sectors * SECTOR);
            // Zeros, or noise.
            let noise = |place: usize| if seed < 64 { 0 } else { (place * 167 + usize::from(seed)).to_le_bytes()[0] };
            bytes[from..end].iter_mut().enumerate().for_each(|(place, byte)| *byte = noise(place));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However a file was damaged while the collector was away, it starts; what it then shows was delivered, what is missing is set aside
    /// or left out and counted, and each agent's next batch is taken and shows all that its run has counted.
    #[test]
    fn a_damaged_store_opens(how in damages(), in_log in any::<bool>()) {
        let folder = tempfile::tempdir().unwrap();
        let (mut store, _) = open(folder.path());
        let boots = 2 * BOOTS_MAX as u64;
        for boot in 1..=boots {
            keep(&mut store, boot, 1);
            keep(&mut store, boot, 3);
        }
        let (file, log) = (folder.path().join("collector.db"), folder.path().join("collector.db-wal"));
        // What a killed collector leaves: the file with its log. One that ended leaves the file alone.
        let left = [fs::read(&file).unwrap(), fs::read(&log).unwrap()];
        drop(store);
        if in_log {
            let [whole, mut log_left] = left;
            damage(&mut log_left, &how);
            fs::write(&file, whole).unwrap();
            fs::write(&log, log_left).unwrap();
        } else {
            let mut whole = fs::read(&file).unwrap();
            damage(&mut whole, &how);
            fs::write(&file, whole).unwrap();
        }

        let opened = Store::open(folder.path()).unwrap();
        let told = opened.set_aside || opened.restored.left_out > 0;
        drop(opened);
        let (mut store, view) = open(folder.path());
        let shown = probes(&view);
        prop_assert!(shown <= boots * 30, "{shown}");
        // A log that ends early is what a power loss leaves, and nobody can tell the two apart.
        prop_assert!(told || in_log || shown == boots * 30, "{shown} and not a word, {how:?}");
        store.write(vec![delivery(vec![batch(boots, 4)])], None).unwrap();
        drop(store);
        let again = probes(&open(folder.path()).1);
        prop_assert!((40.max(shown)..=boots * 30 + 10).contains(&again), "{again} after {shown}");
    }
}
