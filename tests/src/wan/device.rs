//! The one network device of a host, made in the network namespace of the calling thread.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::tap::{Direction, Tap};

/// Its name, the same in every host.
pub const NAME: &str = "wan0";
/// How many packets wait for the router; what comes beyond that is dropped without a word, so it is many.
const WAITING: u32 = 10_000;

/// What a host is called on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// 10.77.H.1.
    pub v4: Ipv4Addr,
    /// `fd77::H`.
    pub v6: Ipv6Addr,
}

/// What the router needs of a host.
pub struct Ends {
    /// The far end of the host's device.
    pub device: SyncDevice,
    /// What tells when packets left the host.
    pub tap: Tap,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The device cannot say more.
        formatter.debug_struct("Ends").field("device", &NAME).field("tap", &self.tap).finish()
    }
}

impl Addresses {
    /// The addresses of the host with this index, [0, 249].
    pub fn of(index: u8) -> Addresses {
        let number = index.saturating_add(1);
        Addresses { v4: Ipv4Addr::new(10, 77, number, 1), v6: Ipv6Addr::new(0xFD77, 0, 0, 0, 0, 0, 0, number.into()) }
    }
}

/// Makes the device, gives it its addresses and default routes, and listens on it.
///
/// # Errors
/// If the system refuses.
pub fn make(addresses: Addresses, mtu_bytes: u16) -> Result<Ends> {
    let builder = DeviceBuilder::new().name(NAME).layer(Layer::L3).enable(false);
    let device = builder.build_sync().context("make a TUN device")?;
    device.set_nonblocking(true).context("use the TUN device without waiting")?;
    // Nobody answers router solicitations here, and duplicate address detection would hold addresses back for a second.
    for (setting, value) in [("accept_ra", "0"), ("accept_dad", "0"), ("router_solicitations", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{NAME}/{setting}");
        std::fs::write(&path, value).with_context(|| format!("write {path}"))?;
    }
    let Addresses { v4, v6 } = addresses;
    ip(&format!(
        "link set lo up\n\
         link set {NAME} addrgenmode none\n\
         link set {NAME} mtu {mtu_bytes} txqueuelen {WAITING} up\n\
         addr add {v4}/32 dev {NAME}\n\
         addr add {v6}/128 dev {NAME} nodad\n\
         route add 0.0.0.0/0 dev {NAME} src {v4}\n\
         route add ::/0 dev {NAME} src {v6}\n"
    ))?;
    let index = if_nametoindex(NAME).context("find the TUN device")?;
    Ok(Ends { device, tap: Tap::open(index, Direction::Leaving)? })
}

fn ip(batch: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start ip (part of iproute2)")?;
    let mut input = child.stdin.take().context("ip has an input")?;
    input.write_all(batch.as_bytes()).context("tell ip what to do")?;
    drop(input);
    let output = child.wait_with_output().context("wait for ip")?;
    ensure!(output.status.success(), "ip failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
