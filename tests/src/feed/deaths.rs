//! A collector that dies again and again while agents deliver: what it acknowledged is never lost, and nothing counts twice.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::bed::{client, post};
use super::{CollectorBed, Content, Feed, Posted, fleet_text, values_shown};
use crate::clocks::compile;
use crate::wan::random::Random;

/// The program that throws away what was not synced.
const POWER: &str = concat!(include_str!("../../disk/files.c"), include_str!("../../disk/power.c"));
/// Agents that deliver at once, and the links of each.
const SENDERS: usize = 4;
const PEERS: usize = 3;
const CONTENT: Content = Content { gauges: true, buckets: 5 };
/// An agent starts anew after so many deaths of the collector: its boots are retired in the end.
const DEATHS_PER_BOOT: u64 = 7;
/// The longest that a collector lives before it is killed.
const LIFE_MAX: Duration = Duration::from_millis(120);
/// The most writes to its disk before the power goes.
const WRITES_MAX: u64 = 600;
/// How long a collector may live whose power is to go.
const POWERED_MAX: Duration = Duration::from_secs(20);

/// How a collector dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// `kill -9`: the system keeps what was written.
    Killed,
    /// The power goes: what was not synced is lost, all of it or some.
    PowerLost,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Survived {
    /// How often it died.
    pub deaths: u64,
    /// Batches that were acknowledged.
    pub batches: u64,
    /// Batches that were on their way when it died, and were sent again.
    pub in_doubt: u64,
    /// After how many deaths the collector showed less than it had acknowledged, or more than was sent.
    pub misfits: u64,
}

/// One agent, with the batch that nobody has acknowledged yet.
#[derive(Debug)]
struct Sender {
    number: usize,
    feed: Feed,
    pending: Option<Vec<u8>>,
    /// The values of earlier boots.
    before: u64,
    /// Of this boot: the values that are acknowledged.
    acknowledged: u64,
    batches: u64,
    in_doubt: u64,
}

impl Sender {
    fn new(number: usize, boot: u64) -> Result<Sender> {
        let feed = Feed::new(number, boot, peers(number), CONTENT)?;
        Ok(Sender { number, feed, pending: None, before: 0, acknowledged: 0, batches: 0, in_doubt: 0 })
    }

    /// Delivers until nobody answers, or until `batches` are acknowledged.
    async fn deliver(mut self, url: String, batches: u64) -> Result<Sender> {
        let client = client()?;
        let until = self.batches.saturating_add(batches);
        while self.batches < until {
            let body = match self.pending.take() {
                Some(body) => body,
                None => self.feed.next_body()?,
            };
            match post(&client, &url, body.clone()).await {
                Posted::Acknowledged => {
                    self.acknowledged = self.feed.values();
                    self.batches += 1;
                }
                Posted::Later => {
                    self.pending = Some(body);
                    self.in_doubt += 1;
                    break;
                }
                Posted::Refused(status) => bail!("a batch was refused with {status}"),
            }
        }
        Ok(self)
    }

    /// Starts anew, as an agent does whose host was restarted; its last batch is delivered.
    fn boot(&mut self, boot: u64) -> Result<()> {
        self.before += self.feed.values();
        self.feed = Feed::new(self.number, boot, peers(self.number), CONTENT)?;
        self.acknowledged = 0;
        Ok(())
    }
}

fn peers(number: usize) -> impl Iterator<Item = usize> {
    (0..=PEERS).filter(move |peer| *peer != number)
}

/// Lets a collector die `deaths` times, and looks each time whether it comes back with what it acknowledged and nothing twice.
///
/// # Errors
/// If it does not come back, or cannot be run.
pub async fn survive(folder: &Path, deaths: u64, seed: u64, death: Death) -> Result<Survived> {
    let (mut random, mut survived) = (Random::new(seed), Survived::default());
    let mut bed = CollectorBed::start(folder, &fleet_text(SENDERS, SENDERS)).await?;
    let library = if death == Death::PowerLost { Some(install(folder)?) } else { None };
    let mut senders = (0..SENDERS).map(|number| Sender::new(number, 1)).collect::<Result<Vec<_>>>()?;
    for number in 1..=deaths {
        if let Some(library) = &library {
            bed.kill().await?;
            bed.start_with(&power(library, &bed.state_folder(), &mut random)).await?;
        }
        let url = bed.otlp_url();
        let delivering = deliver_all(std::mem::take(&mut senders), &url, u64::MAX);
        senders = match death {
            Death::Killed => {
                let life = LIFE_MAX.mul_f64(random.unit());
                let dying = async {
                    sleep(life).await;
                    bed.kill().await
                };
                let (delivered, dead) = tokio::join!(delivering, dying);
                dead?;
                delivered?
            }
            Death::PowerLost => {
                let delivered = tokio::time::timeout(POWERED_MAX, delivering).await.context("its power did not go")??;
                bed.died().await?;
                delivered
            }
        };
        bed.start_again().await?;
        survived.deaths = number;
        survived.look(&bed, &senders).await?;
        if number % DEATHS_PER_BOOT == 0 {
            senders = deliver_all(senders, &bed.otlp_url(), 1).await?;
            senders.iter_mut().try_for_each(|sender| sender.boot(number + 1))?;
        }
    }
    senders = deliver_all(senders, &bed.otlp_url(), 1).await?;
    survived.look(&bed, &senders).await?;
    survived.batches = senders.iter().map(|sender| sender.batches).sum();
    survived.in_doubt = senders.iter().map(|sender| sender.in_doubt).sum();
    Ok(survived)
}

async fn deliver_all(senders: Vec<Sender>, url: &str, batches: u64) -> Result<Vec<Sender>> {
    let mut delivering = JoinSet::new();
    for sender in senders {
        delivering.spawn(sender.deliver(url.to_owned(), batches));
    }
    let mut all = Vec::new();
    while let Some(sender) = delivering.join_next().await {
        all.push(sender??);
    }
    Ok(all)
}

impl Survived {
    /// Everything that was acknowledged is shown, and nothing beyond what was sent.
    async fn look(&mut self, bed: &CollectorBed, senders: &[Sender]) -> Result<()> {
        let shown = values_shown(&bed.get("metrics").await?)?;
        let least: u64 = senders.iter().map(|sender| sender.before + sender.acknowledged).sum();
        let most: u64 = senders.iter().map(|sender| sender.before + sender.feed.values()).sum();
        if !(least..=most).contains(&shown) {
            self.misfits += 1;
            eprintln!("after {} deaths: {shown} values are shown, {least} were acknowledged, {most} were sent", self.deaths);
        }
        Ok(())
    }
}

fn install(folder: &Path) -> Result<PathBuf> {
    let library = folder.join("power.so");
    std::fs::write(&library, compile(POWER, &["-shared", "-fPIC"])?).context("write the library of the disk")?;
    Ok(library)
}

fn power(library: &Path, state: &Path, random: &mut Random) -> Vec<(String, String)> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of writes")]
    let writes = 1 + (random.unit() * WRITES_MAX as f64) as u64;
    let mut env = vec![
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        ("LAGMESH_POWER_FOLDER".to_owned(), state.display().to_string()),
        ("LAGMESH_POWER_WRITES".to_owned(), writes.to_string()),
    ];
    // Half of the time some of it survives.
    if random.unit() < 0.5 {
        env.push(("LAGMESH_POWER_SEED".to_owned(), (writes * 2_654_435_761 + 1).to_string()));
    }
    env
}
