//! Which kinds of probes fail while others get through, and have done so for long enough. Pure.

use std::time::Duration;

use lagmesh_model::state::ProbeKind;

use crate::link::streak::Streak;

/// A kind fails when the failures since its last answer span so long: restarts and re-routings are over by then.
pub const STANDS: Duration = Duration::from_secs(20);
/// And when there are at least so many.
pub const FAILURES_MIN: u64 = 3;
/// It fails no longer after so many answers in a row: one alone may be luck.
pub const ANSWERS_MIN: u64 = 3;

/// What one kind has to say.
#[derive(Debug, Clone, Copy)]
pub struct Hearing {
    /// Which kind.
    pub kind: ProbeKind,
    /// Its newest fates.
    pub streak: Streak,
    /// Whether its newest fate is of the present.
    pub current: bool,
    /// Whether it was called failing before.
    pub failing: bool,
}

/// What is to be held of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It gets through.
    Works,
    /// It does not, although others do.
    Fails,
    /// Not measured, too early to tell, or no other kind gets through either.
    Unclear,
}

/// The verdict on every kind.
pub fn disagree(hearings: &[Hearing]) -> Vec<(ProbeKind, Verdict)> {
    let alone: Vec<(ProbeKind, Verdict)> = hearings.iter().map(|hearing| (hearing.kind, by_itself(hearing))).collect();
    let any_works = alone.iter().any(|(_, verdict)| *verdict == Verdict::Works);
    let with_others = |(kind, verdict)| match verdict {
        // Where nothing gets through all agree: that is what the state of the link is for.
        Verdict::Fails if !any_works => (kind, Verdict::Unclear),
        verdict => (kind, verdict),
    };
    alone.into_iter().map(with_others).collect()
}

fn by_itself(hearing: &Hearing) -> Verdict {
    let (failures, span) = hearing.streak.failures();
    let answers = hearing.streak.answers();
    match () {
        () if !hearing.current => Verdict::Unclear,
        () if failures >= FAILURES_MIN && span >= STANDS => Verdict::Fails,
        () if hearing.failing && (failures > 0 || answers < ANSWERS_MIN) => Verdict::Fails,
        () if failures == 0 && answers > 0 => Verdict::Works,
        () => Verdict::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use ProbeKind::{Icmp, Stamp, Tcp};
    use Verdict::{Fails, Unclear, Works};
    use lagmesh_model::time::RawNanos;

    use super::*;

    /// A kind, its fates, and how many seconds lie between them.
    type Fates<'f> = (ProbeKind, &'f str, u64);

    /// A kind whose fates are written as text, one every `every` seconds: `+` answered, `-` failed.
    fn hearing(kind: ProbeKind, fates: &str, every: u64) -> Hearing {
        let mut streak = Streak::default();
        for (at, fate) in fates.chars().enumerate() {
            streak.record(RawNanos((at as u64 + 1) * every * 1_000_000_000), fate == '+');
        }
        Hearing { kind, streak, current: true, failing: false }
    }

    fn verdicts(hearings: &[Hearing]) -> Vec<Verdict> {
        disagree(hearings).into_iter().map(|(_, verdict)| verdict).collect()
    }

    /// Failing takes three failures over twenty seconds beside another kind that works; whatever fails, it is named.
    #[test]
    fn enters() {
        let long = "-".repeat(21);
        let table: [(&[Fates<'_>], &[Verdict]); 8] = [
            (&[(Stamp, &long, 1), (Tcp, "+++", 1)], &[Fails, Works]),
            (&[(Stamp, "+++", 1), (Icmp, "+", 1), (Tcp, &long, 1)], &[Works, Works, Fails]),
            (&[(Stamp, &long, 1), (Icmp, &long, 1), (Tcp, "+", 1)], &[Fails, Fails, Works]),
            (&[(Stamp, &long[1..], 1), (Tcp, "+++", 1)], &[Unclear, Works]),
            (&[(Stamp, "+++", 1), (Tcp, "--", 30)], &[Works, Unclear]),
            (&[(Stamp, "+++", 1), (Tcp, "---", 10)], &[Works, Fails]),
            (&[(Stamp, &long, 1), (Tcp, &long, 1)], &[Unclear, Unclear]),
            (&[(Stamp, "-----------+----------", 1), (Tcp, "", 1)], &[Unclear, Unclear]),
        ];
        for (kinds, expected) in table {
            let hearings: Vec<Hearing> = kinds.iter().map(|(kind, fates, every)| hearing(*kind, fates, *every)).collect();
            assert_eq!(verdicts(&hearings), expected, "{kinds:?}");
        }
    }

    /// It ends with three answers in a row, and not with fewer; without new evidence nothing is held up.
    #[test]
    fn leaves() {
        let stamp = hearing(Stamp, "+++", 1);
        for (fates, expected) in [("-+", Fails), ("-++", Fails), ("-++-", Fails), ("-+++", Works)] {
            let tcp = Hearing { failing: true, ..hearing(Tcp, fates, 1) };
            assert_eq!(verdicts(&[stamp, tcp]), [Works, expected], "{fates}");
            assert_eq!(verdicts(&[stamp, Hearing { current: false, ..tcp }]), [Works, Unclear], "{fates}");
        }
    }
}
