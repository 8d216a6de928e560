//! The settings of the whole herd that nodes announce in `limits.next`, for `--status`.

use super::escaped::escaped;
use crate::http::overview::Overview;
use crate::http::settings::Next;

/// Returns a sentence for each announcement of these nodes: what it changes and which nodes lack it, or
/// that it is in force.
pub fn announced(nodes: &[&Overview]) -> Vec<String> {
    let mut seen: Vec<&Next> = Vec::new();
    for next in nodes.iter().filter_map(|node| node.next.as_ref()) {
        if !seen.iter().any(|other| other.settings == next.settings) {
            seen.push(next);
        }
    }
    seen.into_iter().map(|next| sentence(next, nodes)).collect()
}

fn sentence(next: &Next, nodes: &[&Overview]) -> String {
    let (following, others): (Vec<&Overview>, Vec<_>) =
        nodes.iter().partition(|node| node.settings == next.settings);
    let Some(waiting) = others.first() else {
        return "limits.next is in force on all nodes that answered; move its values to their place in \
                the configuration"
            .to_owned();
    };
    let changes = waiting.settings.changes(&next.settings);
    if !following.is_empty() {
        let names = names(others.iter().map(|node| node.node.as_str()));
        return format!("limits.next ({changes}) is in force, but not on {names}");
    }
    let announcements = nodes.iter().filter_map(|node| node.next.as_ref());
    let mut missing = next.missing.clone();
    for other in announcements.filter(|other| other.settings == next.settings) {
        missing.retain(|name| other.missing.contains(name));
    }
    match missing.as_slice() {
        [] => format!("limits.next ({changes}) is announced by all nodes and about to be in force"),
        missing => {
            let names = names(missing.iter().map(String::as_str));
            format!("limits.next ({changes}) waits until these nodes announce it: {names}")
        }
    }
}

fn names<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(escaped).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::settings::Settings;

    fn node(name: &str, now: u32, next: Option<u32>, missing: &[&str]) -> Overview {
        let settings = |max_clients| Settings { max_clients, ..Settings::default() };
        let next = next.map(|next| Next {
            settings: settings(next),
            in_force: now == next,
            missing: missing.iter().map(|&name| name.to_owned()).collect(),
        });
        Overview { settings: settings(now), next, ..super::super::status::tests::overview(name) }
    }

    fn announced_by(nodes: &[Overview]) -> Vec<String> {
        announced(&nodes.iter().collect::<Vec<_>>())
    }

    #[test]
    fn the_progress_of_an_announcement_is_described() {
        assert!(announced_by(&[node("A", 1, None, &[]), node("B", 1, None, &[])]).is_empty());
        let a = node("A", 1, Some(2), &["B", "C"]);
        let b = node("B", 1, Some(2), &["C"]);
        assert_eq!(
            announced_by(&[a.clone(), b, node("C", 1, None, &[])]),
            ["limits.next (max_clients from 1 to 2) waits until these nodes announce it: C"]
        );
        assert_eq!(
            announced_by(&[a.clone(), node("B", 2, Some(2), &[])]),
            ["limits.next (max_clients from 1 to 2) is in force, but not on A"]
        );
        let [all] = &announced_by(&[node("A", 2, Some(2), &[]), node("B", 2, None, &[])])[..]
        else {
            panic!("one announcement")
        };
        assert!(all.starts_with("limits.next is in force on all nodes"), "{all}");
        let both = announced_by(&[a, node("B", 1, Some(3), &["A\u{1b}"])]);
        assert_eq!(both.len(), 2);
        assert!(both[1].ends_with("it: A\\u{1b}"), "{}", both[1]);
    }
}
