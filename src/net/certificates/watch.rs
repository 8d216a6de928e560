//! The expiry of the certificates in use. Nothing is read again: the dates are known.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Dates, Phase};
use crate::protocol::time::SECOND;
use crate::time::{Instant, Now, Wall};

/// Longest time between two comparisons of the dates with the wall clock, which may be set, and runs
/// on while a machine sleeps.
const RECHECK: Duration = Duration::from_hours(1);

/// The certificate files in use.
#[derive(Default)]
pub struct Watch {
    files: Vec<Watched>,
    /// The time of the next comparison.
    check_at: Option<Instant>,
}

struct Watched {
    /// The files that are read together with it.
    set: &'static str,
    dates: Dates,
    /// The phases that have been reported.
    reported: Vec<Phase>,
}

impl Watch {
    /// Replaces the files of `set`. Those that have not changed are not reported again.
    pub fn replace(&mut self, set: &'static str, dates: Vec<Dates>) {
        let (old, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.files).into_iter().partition(|file| file.set == set);
        self.files = others;
        self.files.extend(dates.into_iter().map(|dates| {
            let known = old.iter().find(|file| file.dates == dates);
            let reported = known.map(|file| file.reported.clone()).unwrap_or_default();
            Watched { set, dates, reported }
        }));
        self.check_at = (!self.files.is_empty()).then_some(Instant::START);
    }

    /// The next time to call [`Watch::handle_timeout`].
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.check_at
    }

    /// Compares the dates with the clock if that is due. Returns a warning for each file that has
    /// entered a phase since the last call, once for each phase.
    pub fn handle_timeout(&mut self, now: &Now) -> Vec<String> {
        if self.check_at.is_none_or(|at| at > now.instant) {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for Watched { dates, reported, .. } in &mut self.files {
            let phase = dates.phase(now.wall);
            if !reported.contains(&phase) {
                reported.push(phase);
                warnings.extend(dates.describe(now.wall));
            }
        }
        let next = self.files.iter().filter_map(|file| file.dates.next_change(now.wall)).min();
        let until = next.map(|second| {
            let nanos = (i128::from(second) * SECOND).saturating_sub(now.wall.nanos());
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
        });
        self.check_at = Some(now.instant + until.map_or(RECHECK, |until| until.min(RECHECK)));
        warnings
    }

    /// Describes the files that have expired, or will soon.
    pub fn problems(&self, now: Wall) -> impl Iterator<Item = String> {
        self.files.iter().filter_map(move |file| file.dates.describe(now))
    }

    /// The second in which the first certificate of each file expires, since the Unix epoch.
    #[must_use]
    pub fn expiries(&self) -> BTreeMap<String, i64> {
        let mut expiries = BTreeMap::new();
        for Watched { dates, .. } in &self.files {
            let expiry = expiries.entry(dates.path.display().to_string()).or_insert(i64::MAX);
            *expiry = dates.expiry().min(*expiry);
        }
        expiries
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Purpose, Validity};
    use super::*;

    const DAY: i64 = 86_400;

    fn dates(path: &str, not_after: &[i64]) -> Dates {
        let each = not_after.iter().map(|&not_after| Validity { not_before: 100 * DAY, not_after });
        let (path, each) = (path.into(), each.collect());
        Dates { setting: "tls", path, purpose: Purpose::Identity, each }
    }

    fn at(seconds: i64) -> Now {
        let wall = Wall(i128::from(seconds) * SECOND);
        Now { instant: Instant::at(Duration::from_secs(seconds as u64)), wall }
    }

    /// Lets the clock run from `from` to `to`, and returns the times and texts of the warnings.
    fn run(watch: &mut Watch, from: i64, to: i64) -> Vec<(i64, String)> {
        let (mut now, mut warnings) = (from, Vec::new());
        while now <= to {
            warnings.extend(watch.handle_timeout(&at(now)).into_iter().map(|text| (now, text)));
            let next = watch.poll_timeout().unwrap().uptime();
            assert!(next > at(now).instant.uptime(), "the loop would spin");
            assert_eq!(next.subsec_nanos(), 0);
            now = next.as_secs() as i64;
        }
        warnings
    }

    #[test]
    fn each_phase_is_reported_once_when_it_begins() {
        let mut watch = Watch::default();
        assert_eq!(watch.poll_timeout(), None, "without certificates there is no timer");
        watch.replace("links", vec![dates("a", &[200 * DAY, 190 * DAY])]);
        let warnings = run(&mut watch, 99 * DAY, 230 * DAY);
        let times: Vec<i64> = warnings.iter().map(|(time, _)| *time).collect();
        assert_eq!(times, [99 * DAY, 176 * DAY, 190 * DAY + 1]);
        for ((_, text), part) in warnings.iter().zip([
            "tls a: certificate 1 of 2 is not valid before 1970-04-11 00:00:00 UTC",
            "tls a: certificate 2 of 2 expires on 1970-07-10 00:00:00 UTC, in 14 days; renew it",
            "tls a: certificate 2 of 2 expired on 1970-07-10 00:00:00 UTC; renew it",
        ]) {
            assert!(text.starts_with(part), "{text}");
        }
    }

    /// A clock that is set back and forth does not repeat a warning.
    #[test]
    fn a_file_that_has_not_changed_is_not_reported_again() {
        let mut watch = Watch::default();
        watch.replace("links", vec![dates("a", &[200 * DAY])]);
        watch.replace("provider", vec![dates("b", &[200 * DAY])]);
        assert_eq!(run(&mut watch, 190 * DAY, 190 * DAY).len(), 2);
        watch.replace("links", vec![dates("a", &[200 * DAY])]);
        assert!(run(&mut watch, 191 * DAY, 192 * DAY).is_empty());
        watch.replace("links", vec![dates("a", &[201 * DAY])]);
        assert_eq!(run(&mut watch, 192 * DAY, 192 * DAY).len(), 1, "it is another certificate");
        assert_eq!(run(&mut watch, 202 * DAY, 202 * DAY).len(), 2);
        watch.replace("links", Vec::new());
        watch.handle_timeout(&at(193 * DAY));
        assert!(run(&mut watch, 203 * DAY, 204 * DAY).is_empty());
        assert_eq!(watch.problems(Wall(i128::from(203 * DAY) * SECOND)).count(), 1);
    }

    #[test]
    fn a_file_that_two_settings_name_has_one_expiry() {
        let mut watch = Watch::default();
        watch.replace("links", vec![dates("a", &[7, 5]), dates("b", &[9])]);
        watch.replace("provider", vec![dates("b", &[8]), dates("a", &[6])]);
        let expiries: Vec<_> = watch.expiries().into_iter().collect();
        assert_eq!(expiries, [("a".to_owned(), 5), ("b".to_owned(), 8)]);
    }
}
