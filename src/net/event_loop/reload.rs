//! Files that have been read again after SIGHUP come into use.

use super::EventLoop;
use crate::net::fences;
use crate::net::reload::Fresh;
use crate::time::{Now, Wall};

impl EventLoop {
    /// Brings files that have been read into use, and logs what is wrong with files.
    pub(super) fn handle_reloads(&mut self, now: &Now) {
        while let Some((name, result)) = self.reload.poll(now.instant) {
            let counters = &mut self.telemetry.counters;
            match result {
                Ok(fresh) => {
                    counters.reloads += 1;
                    log::info!("reloaded {name}");
                    self.install(fresh, now.wall);
                }
                Err(why) => {
                    counters.reloads_failed += 1;
                    log::warn!("cannot reload {name}: {why}; the previous files remain in use");
                }
            }
        }
        for warning in self.reload.handle_timeout(now) {
            log::warn!("{warning}");
        }
    }

    /// Uses `fresh` for everything that begins from now on. Links and connections that exist keep what
    /// they began with.
    fn install(&mut self, fresh: Fresh, now: Wall) {
        match fresh {
            Fresh::Links(tls) => self.peer_tls = Some(*tls),
            Fresh::Provider(tls) => {
                if let Some(upstream) = &mut self.upstream {
                    upstream.set_tls(tls);
                }
            }
            Fresh::Fences(set) => {
                for warning in fences::warnings(&set) {
                    log::warn!("{warning}");
                }
                self.node.herd.directory.install_fences(set, now);
            }
            Fresh::Feed(tls) => {
                if let Some(driver) = &mut self.feed {
                    driver.set_tls(tls);
                }
            }
            Fresh::Tokens(tokens) => {
                if let Some(devices) = &mut self.devices {
                    devices.shared.set_tokens(Some(*tokens));
                }
            }
            Fresh::Devices(tls) => {
                if let Some(devices) = &mut self.devices {
                    devices.tls = Some(*tls);
                }
            }
        }
    }
}
