use ReplicationState as S;

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn lag(ms: i64) -> Interval {
    Interval::new(ms * 1_000_000 - 500_000, ms * 1_000_000, ms * 1_000_000 + 500_000).unwrap()
}

fn unseen(known_for_ms: u64) -> Unseen {
    Unseen { sequence: 42, beats: 1, known_for: ms(known_for_ms) }
}

fn streaming(receipt_age_ms: u64) -> Receiver {
    Receiver::Present { status: "streaming".to_owned(), receipt_age: Some(ms(receipt_age_ms)) }
}

/// A healthy physical standby, 40 ms behind.
fn healthy() -> Evidence {
    Evidence {
        interval: ms(1_000),
        lag_enter: ms(10_000),
        lag_exit: ms(5_000),
        previous: S::Ok,
        node_trouble: None,
        watched: ms(60_000),
        poll_age: Some(ms(80)),
        writer: Writer { heard_age: Some(ms(20)), beat_age: Some(ms(400)), unplanned: false },
        arrived_age: Some(ms(360)),
        unseen: None,
        lag: Some((lag(40), Basis::Mesh)),
        lag_falling: false,
        other_log: None,
        standby: Some(Standby {
            receiver: streaming(400),
            paused: Some(false),
            apply_delay: Some(Duration::ZERO),
            conflicts: false,
            received_unseen: None,
            receiving: Some(true),
            replaying: Some(true),
            unreplayed_bytes: Some(0),
        }),
        subscriber: None,
        lost_slot: None,
    }
}

fn changed(change: impl FnOnce(&mut Evidence)) -> Evidence {
    let mut evidence = healthy();
    change(&mut evidence);
    evidence
}

fn on_standby(change: impl FnOnce(&mut Evidence, &mut Standby)) -> Evidence {
    let mut evidence = healthy();
    let mut standby = evidence.standby.take().unwrap();
    change(&mut evidence, &mut standby);
    evidence.standby = Some(standby);
    evidence
}

fn frozen(known_for_ms: u64) -> Evidence {
    on_standby(|e, standby| {
        e.arrived_age = Some(ms(known_for_ms + 1_000));
        e.unseen = Some(unseen(known_for_ms));
        standby.receiver = streaming(known_for_ms + 1_000);
        (standby.received_unseen, standby.receiving, standby.replaying) = (Some(false), Some(false), Some(false));
    })
}

fn subscriber(change: impl FnOnce(&mut Evidence)) -> Evidence {
    changed(|e| {
        e.standby = None;
        e.subscriber = Some(Subscriber { carries_beats: true, fails: false });
        change(e);
    })
}

fn check(table: &[(&str, Evidence, S)]) {
    for (name, evidence, expected) in table {
        let (state, why) = decide(evidence);
        assert_eq!(state, *expected, "{name}: {why}");
        assert!(!why.is_empty() && !why.ends_with('.'), "{name}: {why:?}");
    }
}

/// What forbids any statement about replication is never taken for a fault of replication.
#[test]
fn our_own_trouble_accuses_nobody() {
    check(&[
        ("healthy", healthy(), S::Ok),
        ("node is unreachable", changed(|e| e.node_trouble = Some("connection refused".to_owned())), S::Unknown),
        ("never polled", changed(|e| e.poll_age = None), S::Unknown),
        (
            "our host slept",
            changed(|e| (e.poll_age, e.arrived_age, e.unseen) = (Some(ms(2_500)), Some(ms(2_900)), Some(unseen(2_400)))),
            S::Unknown,
        ),
        ("a poll that is merely late is no sleep", changed(|e| e.poll_age = Some(ms(1_400))), S::Ok),
    ]);
}

/// A lost slot is named where it is why nothing comes, and only there: the receiver may not have noticed, or get the log from an archive.
#[test]
fn a_lost_slot_is_named_where_nothing_comes() {
    let lost = |mut evidence: Evidence| {
        evidence.lost_slot = Some("east-db says that slot west_db, through which this node gets its log, is lost".to_owned());
        evidence
    };
    let gone = || on_standby(|_, standby| standby.receiver = Receiver::Missing);
    check(&[
        ("no receiver", gone(), S::Disconnected),
        ("no receiver, slot lost", lost(gone()), S::SlotLost),
        ("nothing arrives, slot lost", lost(frozen(4_000)), S::SlotLost),
        ("beats arrive all the same", lost(healthy()), S::Ok),
        (
            "a subscriber's slot",
            lost(subscriber(|e| (e.arrived_age, e.unseen) = (Some(ms(9_000)), Some(unseen(8_000))))),
            S::SlotLost,
        ),
        (
            "a writer that is down is another thing",
            lost(changed(|e| (e.arrived_age, e.writer.beat_age) = (Some(ms(9_000)), Some(ms(9_000))))),
            S::WriterDown,
        ),
        ("nobody can be asked", lost(changed(|e| e.node_trouble = Some("connection refused".to_owned()))), S::Unknown),
    ]);
}

/// A writer that stopped is told from a link that broke; silence of both is neither.
#[test]
fn writer_and_link_stay_apart() {
    let no_beats = |e: &mut Evidence| {
        e.arrived_age = Some(ms(3_600));
        e.writer.beat_age = Some(ms(3_500));
    };
    check(&[
        ("heard, no beats", changed(no_beats), S::WriterDown),
        (
            "heard, two intervals are not enough",
            changed(|e| (e.arrived_age, e.writer.beat_age) = (Some(ms(2_100)), Some(ms(2_200)))),
            S::Ok,
        ),
        ("heard, never told of any", changed(|e| (e.writer.beat_age, e.arrived_age) = (None, None)), S::WriterDown),
        (
            "just started to listen",
            changed(|e| (e.writer.beat_age, e.arrived_age, e.watched, e.lag) = (None, None, ms(900), None)),
            S::Unknown,
        ),
        ("old beats still come in", changed(|e| (e.writer.beat_age, e.arrived_age) = (Some(ms(9_000)), Some(ms(300)))), S::Ok),
        (
            "writer down wins over the receiver that it took along",
            on_standby(|e, standby| {
                no_beats(e);
                standby.receiver = Receiver::Missing;
            }),
            S::WriterDown,
        ),
        (
            "nobody speaks",
            changed(|e| {
                no_beats(e);
                e.writer.heard_age = Some(ms(4_000));
            }),
            S::Unknown,
        ),
        (
            "nobody speaks and the receiver is gone",
            on_standby(|e, standby| {
                no_beats(e);
                e.writer.heard_age = None;
                standby.receiver = Receiver::Missing;
            }),
            S::Disconnected,
        ),
        (
            "nobody speaks and the line has been dead for long",
            on_standby(|e, standby| {
                no_beats(e);
                e.writer.heard_age = None;
                standby.receiver = streaming(46_000);
            }),
            S::Silent,
        ),
        ("beats arrive, the mesh is blocked", changed(|e| e.writer = Writer::default()), S::Ok),
        (
            "beats arrive, the mesh is blocked and nothing tells their age",
            changed(|e| (e.writer, e.lag) = (Writer::default(), None)),
            S::Unknown,
        ),
    ]);
}

/// A frozen receiver on an idle link is found from one confirmed beat, although it calls itself streaming and received = replayed.
#[test]
fn frozen_receiver() {
    check(&[
        ("a natural wait", frozen(300), S::Ok),
        ("just before", frozen(1_490), S::Ok),
        ("1.5 intervals", frozen(1_500), S::Silent),
        (
            "beats of a slow line still arrive",
            changed(|e| {
                e.unseen = Some(unseen(1_600));
                e.arrived_age = Some(ms(700));
            }),
            S::Ok,
        ),
        (
            "log still comes in",
            on_standby(|e, standby| {
                (e.unseen, e.arrived_age) = (Some(unseen(3_000)), Some(ms(4_000)));
                (standby.received_unseen, standby.receiving) = (Some(false), Some(true));
            }),
            S::Ok,
        ),
        (
            "a subscriber shows no positions",
            subscriber(|e| (e.unseen, e.arrived_age) = (Some(unseen(1_600)), Some(ms(2_600)))),
            S::Silent,
        ),
        ("a subscriber in time", subscriber(|e| (e.unseen, e.arrived_age) = (Some(unseen(1_400)), Some(ms(2_400)))), S::Ok),
        (
            "a standby whose positions may still come is given three intervals",
            changed(|e| (e.unseen, e.arrived_age) = (Some(unseen(2_900)), Some(ms(3_900)))),
            S::Ok,
        ),
    ]);
    let why = decide(&frozen(2_000)).1;
    assert!(why.contains("beat 42") && why.contains("2.0 s") && why.contains("streaming") && why.contains("3.0 s"), "{why}");
}

/// Log that was received and not replayed is told by what holds it.
#[test]
fn replay_stands_for_a_reason() {
    let held = |change: fn(&mut Standby)| {
        on_standby(|e, standby| {
            (e.unseen, e.arrived_age) = (Some(unseen(4_000)), Some(ms(5_000)));
            (standby.received_unseen, standby.replaying, standby.unreplayed_bytes) = (Some(true), Some(false), Some(4_096));
            change(standby);
        })
    };
    check(&[
        ("nobody says why", held(|_| ()), S::Stalled),
        ("paused", held(|standby| standby.paused = Some(true)), S::Paused),
        ("paused and idle", on_standby(|_, standby| standby.paused = Some(true)), S::Paused),
        ("delayed", held(|standby| standby.apply_delay = Some(ms(5_000))), S::DelayedOnPurpose),
        ("conflicts", held(|standby| standby.conflicts = true), S::Conflict),
        (
            "frozen while paused: nothing comes in, which is worse",
            {
                let mut e = frozen(4_000);
                e.standby.as_mut().unwrap().paused = Some(true);
                e
            },
            S::Silent,
        ),
        ("replay moves", held(|standby| standby.replaying = Some(true)), S::Ok),
    ]);
    let mut beyond = held(|standby| standby.apply_delay = Some(ms(5_000)));
    beyond.unseen = Some(unseen(16_000));
    assert_eq!(decide(&beyond).0, S::Stalled, "a delay does not excuse more than itself and the limit");
}

/// Lag has two thresholds, so that a value between them does not flap.
#[test]
fn lagging_has_hysteresis() {
    let behind = |lag_ms: i64, previous: S, falling: bool| {
        changed(|e| (e.lag, e.previous, e.lag_falling) = (Some((lag(lag_ms), Basis::Mesh)), previous, falling))
    };
    check(&[
        ("300 ms is natural", behind(300, S::Ok, false), S::Ok),
        ("below the limit", behind(9_900, S::Ok, false), S::Ok),
        ("from the limit on", behind(10_000, S::Ok, false), S::Lagging),
        ("stays", behind(5_100, S::Lagging, false), S::Lagging),
        ("falls", behind(8_000, S::Lagging, true), S::CatchingUp),
        ("after a stall", behind(6_000, S::Stalled, true), S::CatchingUp),
        ("is over", behind(4_900, S::CatchingUp, true), S::Ok),
        ("stays ok in between", behind(8_000, S::Ok, false), S::Ok),
        (
            "known only from the wait",
            subscriber(|e| (e.unseen, e.arrived_age) = (Some(unseen(11_000)), Some(ms(200)))),
            S::Lagging,
        ),
    ]);
}

/// A node on another timeline is called so only when it misses what the writer confirmed.
#[test]
fn diverged() {
    let other = || Some("the node follows timeline 1, the writer writes timeline 2".to_owned());
    check(&[
        ("on the way to the new timeline", changed(|e| e.other_log = other()), S::Ok),
        (
            "left behind",
            changed(|e| (e.other_log, e.unseen, e.arrived_age) = (other(), Some(unseen(2_000)), Some(ms(3_000)))),
            S::Diverged,
        ),
    ]);
}

/// A standby without a receiver is disconnected, whatever it still shows.
#[test]
fn no_receiver_row() {
    check(&[
        ("missing", on_standby(|_, standby| standby.receiver = Receiver::Missing), S::Disconnected),
        ("not visible to us is not missing", on_standby(|_, standby| standby.receiver = Receiver::Unknown), S::Ok),
    ]);
}

/// A subscriber that is not given the table, or cannot apply what it gets, is told apart from a silent one; and only where beats are
/// missing, for it may follow others whose beats come through.
#[test]
fn subscriptions() {
    let of = |carries_beats, fails, late| {
        subscriber(|e| {
            e.subscriber = Some(Subscriber { carries_beats, fails });
            if late {
                (e.arrived_age, e.unseen) = (Some(ms(60_000)), Some(unseen(50_000)));
            }
        })
    };
    check(&[
        ("not published", of(false, false, true), S::NotPublished),
        ("apply fails", of(true, true, true), S::ApplyError),
        ("silent", of(true, false, true), S::Silent),
        ("another subscription fails", of(true, true, false), S::Ok),
        ("not carried any more, and nothing missing yet", of(false, false, false), S::Ok),
    ]);
}

/// A writer that is not heard on the mesh is judged by what both hosts claim about their clocks, if they do, and the words say so.
#[test]
fn unheard_writers() {
    let unheard = |lag: Option<(Interval, Basis)>| {
        decide(&changed(|e| {
            e.writer = Writer::default();
            e.lag = lag;
        }))
    };
    let (state, why) = unheard(Some((lag(40), Basis::Claims)));
    assert!(state == S::Ok && why.contains("if the clocks of both hosts are as right as they claim"), "{why}");
    assert_eq!(unheard(Some((lag(20_000), Basis::Claims))).0, S::Lagging);
    assert_eq!(unheard(None).0, S::Unknown);
}

/// Where positions are hidden, replay that is paused is called that; what nobody holds back is silent.
#[test]
fn hidden_positions_do_not_turn_a_pause_into_silence() {
    let hidden = |paused| {
        on_standby(|e, standby| {
            (e.arrived_age, e.unseen) = (Some(ms(9_000)), Some(unseen(8_000)));
            standby.receiver = Receiver::Unknown;
            (standby.received_unseen, standby.receiving) = (None, None);
            (standby.paused, standby.replaying) = (Some(paused), Some(false));
        })
    };
    check(&[("paused", hidden(true), S::Paused), ("not paused", hidden(false), S::Silent)]);
}

/// Of a writer that the plan of the mesh keeps from being heard nothing is claimed but that: neither that beats are fresh, nor that
/// the writer or the path is at fault.
#[test]
fn unplanned_writers() {
    let unheard = |e: &mut Evidence| {
        e.writer = Writer { unplanned: true, ..Writer::default() };
        e.lag = None;
    };
    let arriving = decide(&changed(unheard));
    assert_eq!(arriving, (S::Unknown, format!("beats arrive, but how late they are is not known: {UNPLANNED}")));
    let (state, why) = decide(&changed(|e| {
        unheard(e);
        e.arrived_age = Some(ms(60_000));
    }));
    assert_eq!((state, why), (S::Unknown, format!("no beat has arrived for 60.0 s; {UNPLANNED}")));
}
