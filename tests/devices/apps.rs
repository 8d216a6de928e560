//! The requests of each app, as it sends them.

use crate::common::{DEADLINE, eventually};
use crate::fleet::{FLEET, Fleet, TLS, TOKENS, VAN1, iso, now};
use crate::phone::{form, get, post, post_chunked};

const JSON: &str = "Content-Type: application/json";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded; charset=UTF-8";

/// What an app sends.
struct Case {
    app: &'static str,
    request: Vec<u8>,
    /// The body of the response.
    reply: &'static str,
    /// Location and time of the record.
    expected: String,
}

/// A request of each app with `token`, the second in which each fix was made is `time` and following.
fn cases(token: &str, time: i64) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut at = time;
    let mut add = |app, reply, make: &dyn Fn(i64) -> (Vec<u8>, String)| {
        at += 1;
        let (request, expected) = make(at);
        cases.push(Case { app, request, reply, expected });
    };
    add("Traccar Client 10", "", &|at| {
        let fields = [FORM, "Accept: */*", "User-Agent: ktor-client"];
        let body = format!(
            "id=48241179&lat=48.8584&lon=2.2945&timestamp={at}&accuracy=12.5&altitude=71.0&\
             speed=3.11&bearing=184.0&batt=83&charge=false"
        );
        (post(&format!("/t/{token}"), &fields, &body), format!("+48.8584+2.2945 {at}"))
    });
    add("Traccar Client 8", "", &|at| {
        let target = format!(
            "/t/{token}/?id=48241179&timestamp={at}&lat=48.858401&lon=2.294501&speed=3.1&bearing=1.0&\
             altitude=71.0&accuracy=12.5&batt=83.0&charge=true"
        );
        (post(&target, &[], ""), format!("+48.858401+2.294501 {at}"))
    });
    add("OsmAnd", "", &|at| {
        let target = format!(
            "/t/{token}?id=van1&lat=48.8585&lon=2.2946&timestamp={at}125&hdop=4.5&altitude=71.0&\
             speed=3.0&bearing=184.0"
        );
        (get(&target, &["User-Agent: OsmAnd"]), format!("+48.8585+2.2946 {at}.125"))
    });
    add("OsmAnd at Greenwich", "", &|at| {
        let target = format!("/t/{token}?id=van1&lat=51.5&lon=-1.0E-4&timestamp={at}000&hdop=4.5");
        (get(&target, &[]), format!("+51.5-0.00010 {at}.000"))
    });
    add("Traccar Client 9", "", &|at| {
        let time = iso(at);
        let body = format!(
            "{{\"location\":{{\"timestamp\":\"{time}.125Z\",\"coords\":{{\"latitude\":48.8586,\
             \"longitude\":2.2947,\"accuracy\":12.5,\"speed\":-1,\"heading\":-1,\"altitude\":71}},\
             \"is_moving\":true,\"odometer\":1042.7,\"event\":\"motionchange\",\"battery\":\
             {{\"level\":0.83,\"is_charging\":false}},\"activity\":{{\"type\":\"walking\"}},\
             \"extras\":{{}},\"_\":\"&id=48241179&lat=0&lon=0\"}},\"device_id\":\"48241179\"}}"
        );
        (post(&format!("/t/{token}/"), &[JSON], &body), format!("+48.8586+2.2947 {at}.125"))
    });
    add("OwnTracks for Android", "[]", &|at| {
        let body = format!(
            "{{\"_type\":\"location\",\"tid\":\"jp\",\"lat\":48.8587,\"lon\":2.2948,\"tst\":{at},\
             \"acc\":12,\"alt\":71,\"vel\":11,\"cog\":184,\"vac\":3,\"batt\":83,\"bs\":1,\"conn\":\"m\",\
             \"t\":\"u\",\"m\":1,\"topic\":\"owntracks/fleet/van1\",\"inregions\":[\"Home\"],\
             \"created_at\":{at},\"_id\":\"3c8f8628\"}}"
        );
        let fields = [
            "Content-Type: application/json; charset=utf-8",
            "X-Limit-U: fleet",
            "X-Limit-D: van1",
            "User-Agent: Owntracks-Android/gms/420500000",
        ];
        let request = post(&format!("/t/{token}/pub?u=fleet&d=van1"), &fields, &body);
        (request, format!("+48.8587+2.2948 {at}"))
    });
    add("OwnTracks for iOS, with a login", "[]", &|at| {
        let body = format!(
            "{{\"_type\":\"location\",\"tid\":\"jp\",\"lat\":48.858800,\"lon\":2.294900,\"tst\":{at},\
             \"acc\":12,\"batt\":83,\"topic\":\"owntracks/user/device\"}}"
        );
        let login = format!("Authorization: Basic {}", base64(&format!("user:{token}")));
        let fields = [JSON, &login, "X-Limit-U: user", "X-Limit-D: device"];
        (post("/pub", &fields, &body), format!("+48.858800+2.294900 {at}"))
    });
    add("Overland", "{\"result\":\"ok\"}", &|at| {
        let feature = |time: i64, lat: &str| {
            let time = iso(time);
            format!(
                "{{\"type\":\"Feature\",\"geometry\":{{\"type\":\"Point\",\"coordinates\":\
                 [2.2945000,{lat}]}},\"properties\":{{\"timestamp\":\"{time}Z\",\"altitude\":71,\
                 \"speed\":3,\"course\":184,\"horizontal_accuracy\":12,\"vertical_accuracy\":4,\
                 \"speed_accuracy\":0.5,\"course_accuracy\":-1,\"motion\":[\"driving\"],\
                 \"battery_state\":\"unplugged\",\"battery_level\":0.83,\"wifi\":\"\",\
                 \"device_id\":\"van1\"}}}}"
            )
        };
        // Not in the order of time.
        let (last, first) = (feature(at, "48.8589000"), feature(at - 1, "10.0"));
        let body = format!("{{\"locations\":[{last},{first}],\"current\":{{}},\"trip\":{{}}}}");
        let bearer = format!("Authorization: Bearer {token}");
        (post("/overland", &[JSON, &bearer], &body), format!("+48.8589000+2.2945000 {at}"))
    });
    add("Overland in its OwnTracks mode", "[]", &|at| {
        let tst = at - 978_307_200;
        let body = format!(
            "{{\"_type\":\"location\",\"lat\":48.859,\"lon\":2.295,\"tst\":{tst},\"acc\":12,\
             \"batt\":83,\"topic\":\"owntracks/van1\"}}"
        );
        (post(&format!("/t/{token}"), &[JSON], &body), format!("+48.859+2.295 {at}"))
    });
    add("GPSLogger", "", &|at| {
        let body = format!(
            "id=van1&lat=48.8591&lon=2.2951&timestamp={at}&accuracy=0.0&altitude=71.0&bearing=0.0&\
             batt=83.0&speed_ms=3.0"
        );
        (post(&format!("/log?token={token}"), &[FORM], &body), format!("+48.8591+2.2951 {at}"))
    });
    add("GPSLogger as it is shipped", "", &|at| {
        let time = iso(at).replace(':', "%3A");
        let target = format!(
            "/log?lat=48.8592&longitude=2.2952&time={time}.125Z&s=3.0&id=van1&token={token}"
        );
        (get(&target, &[]), format!("+48.8592+2.2952 {at}.125"))
    });
    add("Colota, in chunks", "", &|at| {
        let time = iso(at);
        let body = format!(
            "{{\"device_id\":\"van1\",\"location\":{{\"timestamp\":\"{time}Z\",\"coords\":\
             {{\"latitude\":48.8593,\"longitude\":2.2953,\"accuracy\":12}}}}}}"
        );
        let request = post_chunked(&format!("/t/{token}"), &[JSON], &body);
        (request, format!("+48.8593+2.2953 {at}"))
    });
    add("Dawarich", "", &|at| {
        let time = iso(at);
        let body = format!(
            "{{\"device_id\":\"van1\",\"location\":{{\"timestamp\":\"{time}Z\",\"latitude\":48.8594,\
             \"longitude\":2.2954}},\"battery\":{{\"level\":0.5}}}}"
        );
        (post(&format!("/t/{token}"), &[JSON], &body), format!("+48.8594+2.2954 {at}"))
    });
    add("a template", "[]", &|at| {
        let body =
            format!("{{\"id\":\"van1\",\"lat\":48.8595,\"lon\":\"2.2955\",\"timestamp\":{at}}}");
        (post(&format!("/t/{token}"), &[], &body), format!("+48.8595+2.2955 {at}"))
    });
    add("a list", "[]", &|at| {
        let body = format!(
            "[{{\"id\":\"van1\",\"lat\":48.8596,\"lon\":2.2956,\"timestamp\":{at}}},\
             {{\"id\":\"van1\",\"lat\":1.5,\"lon\":2.5,\"timestamp\":{}}}]",
            at - 1
        );
        (post(&format!("/t/{token}"), &[JSON], &body), format!("+48.8596+2.2956 {at}"))
    });
    cases
}

/// Base64 with padding (RFC 4648).
fn base64(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |chunk: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | usize::from(*chunk.get(at).unwrap_or(&0)));
        let digit = |at: usize| {
            let digit = char::from(ALPHABET[bits >> (18 - 6 * at) & 63]);
            if at <= chunk.len() { digit } else { '=' }
        };
        (0..4).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(encode).collect()
}

/// Every app puts `van1` on every node, over TLS, on a connection of its own and on one that is kept
/// open.
#[test]
fn every_app_puts_its_client_on_every_node() {
    let nodes: [(&str, &[&str]); 2] = [("Left", &["Right"]), ("Right", &[])];
    let mut fleet = Fleet::new(&nodes, TLS, "");
    fleet.start("Left");
    fleet.start("Right");
    fleet.herd.wait_until_connected(&fleet.herd.names());
    let mut kept = fleet.phone_tls("Left");
    for (round, start) in [now() - 2_000, now() - 1_000].into_iter().enumerate() {
        for case in cases(VAN1, start) {
            let app = case.app;
            let response = if round == 0 {
                fleet.phone_tls("Left").ask(&case.request)
            } else {
                kept.ask(&case.request)
            };
            assert_eq!((response.status, response.body.trim_end()), (200, case.reply), "{app}");
            if !case.reply.is_empty() {
                assert!(response.head.contains("content-type: application/json"), "{app}");
            }
            assert_eq!(fleet.held("Left", "van1").as_ref(), Some(&case.expected), "{app}");
            fleet.wait_for("Right", "van1", &case.expected);
        }
    }
    let feature = fleet.get("Right", "/api/clients/van1");
    assert!(feature.contains("48.8596"), "{feature}");
    let count = cases(VAN1, 0).len() as u64;
    assert!(fleet.metric("Left", "device_requests_total", "result=\"taken\"") >= 2 * count);
    assert!(fleet.metric("Left", "device_positions_total", "result=\"stored\"") >= 2 * count);
}

/// The same requests with a wrong token change nothing: ten get 401, the others 429.
#[test]
fn a_wrong_token_changes_nothing() {
    let fleet = Fleet::solo(TLS, "");
    for (number, case) in cases("canary-0123456789-wrong", now()).into_iter().enumerate() {
        let response = fleet.phone_tls("Solo").ask(&case.request);
        assert_eq!(response.status, if number < 10 { 401 } else { 429 }, "{}", case.app);
    }
    assert_eq!(fleet.held("Solo", "van1"), None);
    assert_eq!(fleet.metric("Solo", "device_requests_total", "unauthorized"), 10);
    assert_eq!(fleet.metric("Solo", "device_positions_total", ""), 0);
}

/// However a request is split into packets, it is the same request.
#[test]
fn requests_arrive_in_single_bytes() {
    let fleet = Fleet::solo(TOKENS, "");
    let mut phone = fleet.phone("Solo");
    for case in cases(VAN1, now() - 1_000) {
        for byte in &case.request {
            phone.send(&[*byte]);
        }
        assert_eq!(phone.response().status, 200, "{}", case.app);
        assert_eq!(fleet.held("Solo", "van1").as_ref(), Some(&case.expected), "{}", case.app);
    }
}

#[test]
fn without_tokens_a_device_is_the_client_that_it_says_it_is() {
    let fleet = Fleet::solo("listen: localhost", "");
    let mut phone = fleet.phone("Solo");
    let at = now();
    assert_eq!(phone.ask(&form("/", "van7", "1.5", "2.5", at)).status, 200);
    assert_eq!(fleet.held("Solo", "van7"), Some(format!("+1.5+2.5 {at}")));
}

/// The client of a token with a prefix is the prefix and the device's own name, in which bytes that a
/// name cannot contain are encoded.
#[test]
fn a_prefix_is_followed_by_the_name_of_the_device() {
    let fleet = Fleet::solo(TOKENS, "");
    let mut phone = fleet.phone("Solo");
    let (target, at) = (format!("/t/{FLEET}"), now());
    for (id, client) in [("van2", "fleet/van2"), ("my+van", "fleet/my%20van")] {
        assert_eq!(phone.ask(&form(&target, id, "1.5", "2.5", at)).status, 200);
        assert_eq!(fleet.held("Solo", client), Some(format!("+1.5+2.5 {at}")), "{client}");
    }
}

/// They are confirmed, or the phone would send them forever.
#[test]
fn positions_that_are_of_no_use_are_confirmed_and_counted() {
    let devices = format!("{TOKENS}, max_accuracy_m: 100");
    let fleet = Fleet::solo(&devices, "");
    let mut phone = fleet.phone("Solo");
    let (target, at) = (format!("/t/{VAN1}"), now());
    let send = |text: String| post(&target, &[FORM], &text);
    for (body, result) in [
        (format!("id=van1&lat=0.0&lon=0&timestamp={at}"), "null_island"),
        (format!("id=van1&lat=1.5&lon=2.5&timestamp={at}&accuracy=100.1"), "inaccurate"),
        (format!("id=van1&lat=NaN&lon=2.5&timestamp={at}"), "unusable"),
        (format!("id=van1&lat=91&lon=2.5&timestamp={at}"), "unusable"),
        ("id=van1&lat=1.5&lon=2.5&timestamp=0".to_owned(), "old"),
    ] {
        let label = format!("result=\"{result}\"");
        let before = fleet.metric("Solo", "device_positions_total", &label);
        assert_eq!(phone.ask(&send(body.clone())).status, 200, "{body}");
        let after = fleet.metric("Solo", "device_positions_total", &label);
        assert_eq!(after, before + 1, "{body}");
    }
    // Heartbeats have no position at all.
    assert_eq!(phone.ask(&send(format!("id=van1&timestamp={at}&batt=82"))).status, 200);
    assert_eq!(fleet.held("Solo", "van1"), None);
    let exact = format!("id=van1&lat=1.5&lon=2.5&timestamp={at}&accuracy=100");
    assert_eq!(phone.ask(&send(exact)).status, 200);
    assert_eq!(fleet.held("Solo", "van1"), Some(format!("+1.5+2.5 {at}")));
}

#[test]
fn null_island_is_a_position_if_it_is_to_be_kept() {
    let fleet = Fleet::solo(&format!("{TOKENS}, null_island: keep"), "");
    let at = now();
    let request = post(&format!("/t/{VAN1}"), &[FORM], &format!("lat=0&lon=0&timestamp={at}&id=x"));
    assert_eq!(fleet.phone("Solo").ask(&request).status, 200);
    assert_eq!(fleet.held("Solo", "van1"), Some(format!("+0+0 {at}")));
}

/// The line in the log is that of an IAMAT.
#[test]
fn a_position_is_logged_like_an_iamat() {
    let fleet = Fleet::solo(TOKENS, "");
    let at = now();
    fleet.phone("Solo").ask(&form(&format!("/t/{VAN1}"), "x", "1.5", "2.5", at));
    let expected = format!(" van1 +1.5+2.5 {at}");
    eventually("the position is logged", DEADLINE, || {
        fleet.herd.log_lines("Solo").iter().any(|line| line.contains(&expected)).then_some(())
    });
}
