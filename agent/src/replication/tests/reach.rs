use super::*;

/// What would be lost with the writer is never less than what is known to be missing and reaches up to now; it comes down with the
/// next log that is on disk, whatever replay does. Time on the three stages grows where the log is held up, and only there.
#[test]
fn loss_and_time_by_stage() {
    let mut sim = healthy();
    let bounds = |known: &Known<status::Seconds>| known.current().map(|seconds| (seconds.lower_s, seconds.upper_s)).unwrap();
    let (lower, upper) = bounds(&sim.only().loss);
    assert!(lower == 0.0 && (0.5..1.7).contains(&upper), "at most what was written since the newest beat: {lower} {upper}");
    sim.paused = true;
    sim.run(10_000);
    let paused = sim.only();
    assert!(bounds(&paused.log.replayed.delay).0 > 8.0 && bounds(&paused.log.flushed.delay).1 < 2.1, "{:?}", paused.log);
    assert!(bounds(&paused.loss).1 < 2.2, "what is on disk is not lost: {:?}", paused.loss);
    sim.paused = false;
    sim.run(3_000);
    sim.network_works = false;
    sim.run(10_000);
    let cut = sim.only();
    for (_, reach) in cut.log.each() {
        let (lower, upper) = bounds(&reach.delay);
        assert!(lower > 7.5 && upper < 11.1, "{reach:?}");
    }
    let (lower, upper) = bounds(&cut.loss);
    assert!(lower > 7.5 && (9.0..11.2).contains(&upper), "{lower} {upper}");
    assert!(cut.catch_up_s.current().is_none());
}
