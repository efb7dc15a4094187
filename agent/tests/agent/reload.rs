//! An agent that is told to read its fleet file again.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::program::{Agent, Home, free_port, wait_for};

/// Regions with an agent each, at these ports, and a node in each.
fn fleet(regions: &[(&str, u16)], mesh: &str) -> String {
    let mut text = format!("name = \"test\"\n[mesh]\nflows = 4\ndeadline = \"200ms\"\ngive_up = \"500ms\"\n{mesh}\n");
    for (name, port) in regions {
        write!(text, "[[region]]\nname = \"{name}\"\n[[region.agent]]\nmesh = \"127.0.0.1:{port}\"\n").unwrap();
    }
    text.push_str("[[cluster]]\nname = \"orders\"\n");
    for (name, _) in regions {
        let database = "host=127.0.0.1 port=1 dbname=orders user=lagmesh_agent";
        write!(text, "[[cluster.node]]\nname = \"db-{name}\"\nregion = \"{name}\"\ndsn = \"{database}\"\n").unwrap();
    }
    text
}

/// What is counted of a peer, looked at again and again: nothing of it may go back or vanish.
struct Counted<'a> {
    agent: &'a Agent,
    peer: &'static str,
    newest: BTreeMap<String, f64>,
}

impl<'a> Counted<'a> {
    fn new(agent: &'a Agent, peer: &'static str) -> Counted<'a> {
        Counted { agent, peer, newest: BTreeMap::new() }
    }

    fn look(&mut self) {
        let mut now = self.agent.metrics(&[&format!("peer=\"{}\"", self.peer)]);
        now.retain(|series, _| ["_total{", "_count{", "_bucket{"].iter().any(|end| series.contains(end)));
        for (series, before) in &self.newest {
            let value = now.get(series);
            assert!(value.is_some_and(|value| value >= before), "{series}: {before} became {value:?}");
        }
        self.newest = now;
    }

    fn answered(&self) -> f64 {
        let answered = |series: &&String| ["probes_total", "stamp", "in-time"].iter().all(|part| series.contains(part));
        self.newest.keys().find(answered).map_or(0.0, |series| self.newest[series])
    }

    /// Waits until so many more probes are answered.
    fn go_on(&mut self, more: f64) {
        self.look();
        let wanted = self.answered() + more;
        wait_for(self.peer, || {
            self.look();
            (self.answered() >= wanted).then_some(())
        });
    }
}

/// Sends the signal and waits for what is said about it.
fn reload(agent: &Agent, said: &str) -> String {
    let before = agent.log().matches(said).count();
    agent.hang_up();
    wait_for(said, || {
        let log = agent.log();
        (log.matches(said).count() > before).then(|| log.lines().rfind(|line| line.contains(said)).unwrap_or_default().to_owned())
    })
}

/// By another fleet file a peer comes and answers, another goes with all of its series, and of the one that stays nothing that is counted
/// ever goes back; a file that is broken, or in which something else is different, changes nothing at all.
#[test]
fn peers_come_and_go() {
    let [dublin, tokyo, kyoto, osaka] = ["dublin", "tokyo", "kyoto", "osaka"].map(|name| (name, free_port()));
    let quick = "interval = \"100ms\"";
    let (before, after) = (fleet(&[dublin, tokyo, kyoto], quick), fleet(&[osaka, dublin, tokyo], quick));
    let (home, [tokyo_home, osaka_home]) = (Home::new(&before), [(); 2].map(|()| Home::new(&after)));
    let agent = home.start(&[]);
    let _others = [tokyo_home.start_in("tokyo", &[]), osaka_home.start_in("osaka", &[])];
    let mut stays = Counted::new(&agent, "tokyo");
    stays.go_on(40.0);
    wait_for("probes of who will go", || (!agent.metrics(&["kyoto"]).is_empty()).then_some(()));
    assert!(agent.metrics(&["osaka"]).is_empty());

    home.write_fleet(&after);
    let line = reload(&agent, "fleet file taken over");
    assert!(line.contains("added=osaka/osaka") && line.contains("removed=kyoto/kyoto") && line.contains("moved=-"), "{line}");
    wait_for("the series of who is gone to end", || {
        stays.look();
        agent.metrics(&["kyoto"]).is_empty().then_some(())
    });
    let mut comes = Counted::new(&agent, "osaka");
    comes.go_on(40.0);
    stays.go_on(40.0);
    let links = agent.status().links;
    assert_eq!(links.iter().map(|link| link.peer.as_str()).collect::<Vec<_>>(), ["osaka", "tokyo"]);
    assert!(agent.metrics(&["kyoto"]).is_empty());

    let slower = fleet(&[dublin, tokyo, kyoto], "interval = \"300ms\"");
    for (text, why) in [("name = ", "syntax"), (slower.as_str(), "mesh.interval")] {
        home.write_fleet(text);
        let line = reload(&agent, "fleet file refused, the old one stays in force");
        assert!(line.contains(why), "{line}");
        comes.go_on(40.0);
        stays.go_on(40.0);
        assert!(agent.metrics(&["kyoto"]).is_empty());
    }
    assert_eq!(agent.terminate().code(), Some(0));
}
