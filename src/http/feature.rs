//! A client as a GeoJSON feature (RFC 7946, section 3.2).

use crate::geo::push_degrees;
use crate::protocol::record::Record;
use crate::protocol::time::push_seconds;
use crate::text::digits::push_digits;
use crate::text::json::{push_string, push_text};
use crate::text::percent::decode;
pub use crate::text::percent::push_id;
use crate::time::Wall;

/// Returns the name of the client with this id. Other encodings than that of [`push_id`] are valid.
#[must_use]
pub fn name_of_id(id: &str) -> Option<Vec<u8>> {
    decode(id).map(|name| without_guard(name.into_owned()))
}

/// Removes the space that [`push_id`] appends.
#[must_use]
pub fn without_guard(mut name: Vec<u8>) -> Vec<u8> {
    if matches!(name.as_slice(), b". " | b".. ") {
        name.pop();
    }
    name
}

/// Appends `record` as a feature. Its `age` is relative to `now`.
pub fn push_feature(out: &mut Vec<u8>, record: &Record<'_>, now: Wall) {
    push_properties(out, record, now);
    out.extend_from_slice(b"}}");
}

/// Appends `record` as a feature with its distance in meters.
pub fn push_feature_at(out: &mut Vec<u8>, record: &Record<'_>, now: Wall, distance_m: f64) {
    push_properties(out, record, now);
    out.extend_from_slice(b",\"distance\":");
    // The cast saturates; no two points are 20,100 km apart.
    let millimeters = (distance_m * 1000.0).round() as u64;
    push_digits(out, millimeters / 1000, 1);
    out.push(b'.');
    push_digits(out, millimeters % 1000, 3);
    out.extend_from_slice(b"}}");
}

/// Appends `record` as a feature with the fence that the client is in or has entered.
pub fn push_feature_in(out: &mut Vec<u8>, record: &Record<'_>, now: Wall, fence: &str) {
    push_properties(out, record, now);
    out.extend_from_slice(b",\"fence\":");
    push_string(out, fence);
    out.extend_from_slice(b"}}");
}

/// Appends `record` as a feature with the fence that the client has left and the reason.
pub fn push_feature_left(
    out: &mut Vec<u8>,
    record: &Record<'_>,
    now: Wall,
    fence: &str,
    reason: &str,
) {
    push_properties(out, record, now);
    out.extend_from_slice(b",\"fence\":");
    push_string(out, fence);
    out.extend_from_slice(b",\"reason\":");
    push_string(out, reason);
    out.extend_from_slice(b"}}");
}

/// Appends a feature without its last two braces.
fn push_properties(out: &mut Vec<u8>, record: &Record<'_>, now: Wall) {
    out.extend_from_slice(b"{\"type\":\"Feature\",\"id\":\"");
    push_id(out, record.client);
    out.extend_from_slice(b"\",\"geometry\":");
    if let Some((latitude, longitude)) = record.degrees() {
        out.extend_from_slice(b"{\"type\":\"Point\",\"coordinates\":[");
        push_degrees(out, longitude);
        out.push(b',');
        push_degrees(out, latitude);
        out.extend_from_slice(b"]}");
    } else {
        out.extend_from_slice(b"null"); // unreachable: every stored record has a location
    }
    out.extend_from_slice(b",\"properties\":{\"client\":");
    push_text(out, record.client);
    out.extend_from_slice(b",\"server\":");
    push_text(out, record.server);
    out.extend_from_slice(b",\"time\":");
    push_seconds(out, record.time, 9);
    out.extend_from_slice(b",\"received\":");
    push_seconds(out, record.received, 9);
    out.extend_from_slice(b",\"age\":");
    push_seconds(out, now.nanos() - record.received, 3);
    out.extend_from_slice(b",\"line\":");
    push_text(out, record.line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn feature(line: &[u8], now: Wall) -> Value {
        let mut out = Vec::new();
        push_feature(&mut out, &Record::parse(line).unwrap(), now);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_feature_has_all_fields_of_the_record() {
        let line = "AT Clark +0.263873386 kiwi.cs.ucla.edu +34.068930-118.445127 1621464827.5";
        let received = 1_621_464_827_763_873_386;
        assert_eq!(
            feature(line.as_bytes(), Wall(received + 1_500 * 1_000_000)),
            json!({
                "type": "Feature",
                "id": "kiwi.cs.ucla.edu",
                "geometry": {"type": "Point", "coordinates": [-118.445_127, 34.068_93]},
                "properties": {
                    "client": "kiwi.cs.ucla.edu",
                    "server": "Clark",
                    "time": 1_621_464_827.5,
                    "received": 1_621_464_827.763_873_4,
                    "age": 1.5,
                    "line": line,
                },
            })
        );
    }

    #[test]
    fn an_id_leads_back_to_the_name_and_is_not_a_dot_segment() {
        for (name, id) in [
            (&b"."[..], ".%20"),
            (b"..", "..%20"),
            (b"...", "..."),
            (b".a", ".a"),
            (b"a\xff/", "a%FF%2F"),
        ] {
            let mut out = Vec::new();
            push_id(&mut out, name);
            assert_eq!(String::from_utf8(out).unwrap(), id);
            assert_eq!(name_of_id(id).as_deref(), Some(name));
        }
        assert_eq!(name_of_id("%2E%2e").as_deref(), Some(&b".."[..]));
        assert_eq!(name_of_id("a%20").as_deref(), Some(&b"a "[..]));
        assert_eq!(name_of_id("%2").as_deref(), None);
    }

    #[test]
    fn names_may_be_binary_and_times_may_be_before_the_epoch() {
        let feature = feature(b"AT A -0.500000000 a\xff\"/ +1-1 -1", Wall(0));
        assert_eq!(feature["id"], "a%FF%22%2F");
        assert_eq!(feature["properties"]["client"], "a\u{fffd}\"/");
        assert_eq!(feature["properties"]["time"], -1.0);
        assert_eq!(feature["properties"]["age"], 1.5);
    }
}
