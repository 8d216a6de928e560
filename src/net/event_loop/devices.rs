//! The listener for phones and trackers.

use std::io;
use std::net::SocketAddr;

use super::EventLoop;
use crate::devices::Devices;
use crate::net::device_tls::DeviceTlsConfig;
use crate::net::listener::ListenerKind;
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
    /// As [`EventLoop::serve_lines`].
    pub fn serve_devices(&mut self, address: SocketAddr, devices: DeviceSide) -> io::Result<()> {
        self.devices = Some(Box::new(devices));
        self.listen(ListenerKind::Devices, DEVICE_LISTENER, address)
    }
}
