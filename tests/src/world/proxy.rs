//! A port on this machine behind which a host of the emulated network answers, so that a browser can see what stands there.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::ports;

/// A listening port. Dropping it closes the port; connections that are open end with their clients.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    listener: JoinHandle<()>,
}

impl Proxy {
    /// Listens on `port` if it is free, else on another one, for what stands at `target` as seen from `inside`.
    ///
    /// # Errors
    /// If no port is free.
    pub(super) async fn start(port: u16, inside: Handle, target: SocketAddr) -> Result<Proxy> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::preferred_or_free(port)?));
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        let listener = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let inside = inside.clone();
                // A client whose target does not answer sees its connection closed, as it would without us.
                tokio::spawn(async move { forward(client, &inside, target).await.ok() });
            }
        });
        Ok(Proxy { address, listener })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn forward(mut client: TcpStream, inside: &Handle, target: SocketAddr) -> Result<()> {
    // A socket belongs to the network in which it was made, whoever uses it.
    let server = inside.spawn(async move { TcpStream::connect(target).await?.into_std() }).await??;
    let mut server = TcpStream::from_std(server)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
