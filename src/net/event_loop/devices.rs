//! The listener for phones and trackers.

use std::io;
use std::net::SocketAddr;

use super::EventLoop;
use crate::devices::Devices;
use crate::net::device_tls::DeviceTlsConfig;
use crate::net::listener::{Listener, ListenerKind};
use crate::net::tls::Tls;
use crate::net::token::DEVICE_LISTENER;

/// State shared by the connections of devices.
pub struct DeviceSide {
    /// The core.
    pub shared: Devices,
    /// The certificate, if devices connect over HTTPS.
    pub tls: Option<DeviceTlsConfig>,
}

impl DeviceSide {
    /// The accepting side of TLS.
    pub(super) fn accept(&self) -> io::Result<Tls> {
        match &self.tls {
            Some(tls) => tls.accept(),
            None => Err(io::Error::other("the listener for devices has no certificate")),
        }
    }
}

impl EventLoop {
    /// Listens for devices on `address` as well.
    ///
    /// # Errors
    ///
    /// As [`EventLoop::new`].
    pub fn serve_devices(&mut self, address: SocketAddr, devices: DeviceSide) -> io::Result<()> {
        let registry = self.poll.registry();
        let listener = Listener::bind(address, &self.limits, registry, DEVICE_LISTENER)?;
        self.listeners.push((ListenerKind::Devices, listener));
        self.devices = Some(Box::new(devices));
        Ok(())
    }
}
