//! The dialects: which one a body is in, and where the values of a position are.

use std::borrow::Cow;

use super::counters::Dialect;
use super::fix::Raw;
use super::members::{
    ACCURACY, DEVICE, Encoded, Json, Key, LATITUDE, LONGITUDE, Members, Pair, TIME, Value as _,
};

/// The body of a successful response. Some apps take everything else for a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// No body.
    Empty,
    /// An empty JSON array.
    Array,
    /// A JSON object with the result `ok`.
    Ok,
}

/// The parts of a request, besides its body, that may name the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'o> {
    /// Query of the target.
    pub query: &'o str,
    /// The field X-Limit-U: the user of `OwnTracks`.
    pub limit_u: &'o str,
    /// The field X-Limit-D: the device of `OwnTracks`.
    pub limit_d: &'o str,
    /// User of a Basic login.
    pub user: &'o [u8],
}

/// The content of a body.
pub enum Content<'b> {
    /// Nothing that can be used.
    Nothing(Dialect, Reply),
    /// One position.
    Position(Dialect, Reply, Raw<'b>),
    /// The elements of a JSON array, which is a part of the body.
    List(List<'b>),
}

/// Positions in a JSON array.
pub struct List<'b> {
    /// Form of the elements.
    pub kind: Kind,
    /// Response once all are stored.
    pub reply: Reply,
    /// The array.
    pub array: &'b [u8],
    /// The device, for elements that do not name one.
    pub device: Option<Cow<'b, [u8]>>,
    /// An element outside of the array.
    pub current: Option<Json<'b>>,
}

/// The form of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Features of Overland.
    Features,
    /// The values of `location` in the JSON of Traccar Client.
    Locations,
    /// Objects of any dialect but Overland's.
    Objects,
}

impl Origin<'_> {
    /// Returns the device that the query, the fields of `OwnTracks`, or the login name.
    #[must_use]
    pub fn device(&self) -> Option<Cow<'_, [u8]>> {
        let query = Members::of_form(self.query.as_bytes());
        let joined = |user: &[u8], device: &[u8]| -> Option<Cow<'_, [u8]>> {
            match (user, device) {
                ([], []) => None,
                ([], one) | (one, []) => Some(Cow::Owned(one.to_vec())),
                (user, device) => Some(Cow::Owned([user, b"/", device].concat())),
            }
        };
        let of_query = || {
            let text = |key| query.text(&[key]).unwrap_or_default();
            joined(&text(Key::U), &text(Key::D))
        };
        let named = query.text(DEVICE).map(|device| Cow::Owned(device.into_owned()));
        named
            .or_else(|| joined(self.limit_u.as_bytes(), self.limit_d.as_bytes()))
            .or_else(of_query)
            .or_else(|| joined(self.user, b""))
    }
}

impl<'b> Content<'b> {
    /// Finds out the dialect of a body, or of the query if there is no body.
    #[must_use]
    pub fn of(body: &'b [u8], query: &'b [u8]) -> Self {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
        match body.first() {
            None => {
                let query = Members::of_form(query);
                if has_place(&query) {
                    return of_form(&query, &Members::default());
                }
                // A heartbeat, or nothing at all.
                let is_known = query.has(DEVICE);
                let dialect = if is_known { Dialect::Osmand } else { Dialect::Unknown };
                Self::Nothing(dialect, Reply::Array)
            }
            Some(b'{') => of_object(body),
            Some(b'[') => match serde_json::from_slice::<Json<'b>>(body) {
                Ok(array) => Self::List(List {
                    kind: Kind::Objects,
                    reply: Reply::Array,
                    array: array.get().as_bytes(),
                    device: None,
                    current: None,
                }),
                Err(_) => Self::Nothing(Dialect::Unknown, Reply::Array),
            },
            Some(_) => of_form(&Members::of_form(body), &Members::of_form(query)),
        }
    }
}

fn of_object(body: &[u8]) -> Content<'_> {
    let Ok(object) = Members::of_json(body) else {
        // Overland sends everything again unless the result is `ok`.
        let is_overland = memchr::memmem::find(body, b"\"locations\"").is_some();
        return if is_overland {
            Content::Nothing(Dialect::Overland, Reply::Ok)
        } else {
            Content::Nothing(Dialect::Unknown, Reply::Array)
        };
    };
    let array = |key| object.get(key).filter(|json: &Json<'_>| json.get().starts_with('['));
    if object.get(Key::UnderscoreType).is_none()
        && let Some(locations) = array(Key::Locations)
    {
        return Content::List(List {
            kind: Kind::Features,
            reply: Reply::Ok,
            array: locations.get().as_bytes(),
            device: object.text(DEVICE),
            current: object.get(Key::Current),
        });
    }
    if let Some(locations) = array(Key::Location) {
        return Content::List(List {
            kind: Kind::Locations,
            reply: Reply::Empty,
            array: locations.get().as_bytes(),
            device: object.text(DEVICE),
            current: None,
        });
    }
    match of_members(&object) {
        (Dialect::Traccar, Some(raw)) => Content::Position(Dialect::Traccar, Reply::Empty, raw),
        (Dialect::Traccar, None) => Content::Nothing(Dialect::Traccar, Reply::Empty),
        (dialect, Some(raw)) => Content::Position(dialect, Reply::Array, raw),
        (dialect, None) => Content::Nothing(dialect, Reply::Array),
    }
}

/// Reads an element of an array. Returns its dialect and, unless it is a message without a position,
/// its values.
#[must_use]
pub fn of_element(kind: Kind, element: Json<'_>) -> (Dialect, Option<Raw<'_>>) {
    let json = element.get().as_bytes();
    let unreadable = |dialect| (dialect, Some(Raw::default()));
    match (kind, Members::of_json(json)) {
        (Kind::Features, Ok(feature)) => (Dialect::Overland, of_feature(&feature)),
        (Kind::Features, Err(_)) => unreadable(Dialect::Overland),
        (Kind::Locations, Ok(location)) => {
            (Dialect::Traccar, of_location(&location, &Members::default()))
        }
        (Kind::Locations, Err(_)) => unreadable(Dialect::Traccar),
        (Kind::Objects, Ok(object)) => of_members(&object),
        (Kind::Objects, Err(_)) => unreadable(Dialect::Template),
    }
}

/// Reads an object of any dialect but Overland's.
fn of_members<'b>(object: &Members<Json<'b>>) -> (Dialect, Option<Raw<'b>>) {
    if let Some(kind) = object.get(Key::UnderscoreType) {
        let is_location = kind.text().is_some_and(|kind| *kind == b"location"[..]);
        return (Dialect::Owntracks, is_location.then(|| of_owntracks(object)));
    }
    if let Some(location) = object.object(Key::Location) {
        return (Dialect::Traccar, of_location(&location, object));
    }
    if object.has(LATITUDE) || object.has(LONGITUDE) {
        return (Dialect::Template, Some(Raw { device: object.text(DEVICE), ..flat(object) }));
    }
    (Dialect::Unknown, None)
}

/// The values of an object that contains them directly.
fn flat<'b>(object: &Members<Json<'b>>) -> Raw<'b> {
    Raw {
        device: None,
        label: object.text(&[Key::Tid]),
        latitude: object.text(LATITUDE),
        longitude: object.text(LONGITUDE),
        time: time(object),
        accuracy: object.text(ACCURACY),
        may_be_apple_time: false,
    }
}

/// Returns the time of a fix. A value that is neither text nor number is not a time, and must not
/// become the time of arrival.
fn time<'b>(object: &Members<Json<'b>>) -> Option<Cow<'b, [u8]>> {
    let text = object.text(TIME);
    if text.is_none()
        && TIME.iter().any(|&key| object.get(key).is_some_and(|it| it.get() != "\"\""))
    {
        return Some(Cow::Borrowed(b"?"));
    }
    text
}

/// A message of `OwnTracks` of the type `location`.
fn of_owntracks<'b>(object: &Members<Json<'b>>) -> Raw<'b> {
    let topic = object.text(&[Key::Topic]);
    let parts = topic.as_deref().map_or(0, |topic| topic.split(|&byte| byte == b'/').count());
    // Overland's OwnTracks mode; see `fix`.
    let may_be_apple_time = parts <= 2 && object.text(&[Key::Tid, Key::UnderscoreId]).is_none();
    let device = topic.map(|topic| match topic {
        Cow::Borrowed(topic) => Cow::Borrowed(device_of_topic(topic)),
        Cow::Owned(topic) => Cow::Owned(device_of_topic(&topic).to_vec()),
    });
    Raw { device, may_be_apple_time, ..flat(object) }
}

/// Returns the part of a topic that names the device: without the base, which is its first part, and
/// without the suffix for other messages than locations.
fn device_of_topic(topic: &[u8]) -> &[u8] {
    const SUFFIXES: [&[u8]; 9] = [
        b"event",
        b"status",
        b"waypoint",
        b"waypoints",
        b"cmd",
        b"dump",
        b"step",
        b"info",
        b"request",
    ];
    let topic = topic.strip_prefix(b"/").unwrap_or(topic);
    let topic = topic.strip_suffix(b"/").unwrap_or(topic);
    let Some(base) = memchr::memchr(b'/', topic) else { return topic };
    let device = &topic[base + 1..];
    match memchr::memrchr(b'/', device) {
        // A device may have such a name itself.
        Some(at) if SUFFIXES.contains(&&device[at + 1..]) && device[..at].contains(&b'/') => {
            &device[..at]
        }
        _ => device,
    }
}

/// A `location` of Traccar Client, in `object`. Heartbeats have no coordinates.
fn of_location<'b>(location: &Members<Json<'b>>, object: &Members<Json<'b>>) -> Option<Raw<'b>> {
    let coords = location.object(Key::Coords);
    let place = coords.as_ref().unwrap_or(location);
    if !place.has(LATITUDE) && !place.has(LONGITUDE) {
        return None;
    }
    Some(Raw {
        device: object.text(DEVICE).or_else(|| location.text(DEVICE)),
        time: time(location).or_else(|| time(place)).or_else(|| time(object)),
        ..flat(place)
    })
}

/// A Feature of Overland. Features about events and trips have the time of writing with an older
/// place.
fn of_feature<'b>(feature: &Members<Json<'b>>) -> Option<Raw<'b>> {
    let properties = feature.object(Key::Properties).unwrap_or_default();
    let is_trip = properties.text(&[Key::Type]).is_some_and(|kind| *kind == b"trip"[..]);
    if properties.text(&[Key::Action]).is_some() || is_trip {
        return None;
    }
    let geometry = feature.object(Key::Geometry)?;
    let coordinates = geometry.get(Key::Coordinates);
    let pair = coordinates.and_then(|json| serde_json::from_str::<Pair<'b>>(json.get()).ok());
    let (longitude, latitude) = pair.map_or((None, None), |Pair(x, y)| (x.text(), y.text()));
    Some(Raw {
        device: properties.text(&[Key::DeviceUnderscoreId]),
        label: properties.text(&[Key::UniqueId]),
        latitude,
        longitude,
        // Without a time there is no order, and the time of arrival is that of the whole batch.
        time: time(&properties).or(Some(Cow::Borrowed(b"?"))),
        accuracy: properties.text(ACCURACY),
        may_be_apple_time: false,
    })
}

fn has_place(form: &Members<Encoded<'_>>) -> bool {
    form.has(LATITUDE) || form.has(&[Key::Location])
}

/// A form, or a query. `rest` is the query that follows a form.
fn of_form<'b>(form: &Members<Encoded<'b>>, rest: &Members<Encoded<'b>>) -> Content<'b> {
    let text = |keys: &[Key]| form.text(keys).or_else(|| rest.text(keys));
    if !has_place(form) && !has_place(rest) {
        let is_known = form.has(DEVICE) || rest.has(DEVICE);
        let dialect = if is_known { Dialect::Osmand } else { Dialect::Unknown };
        return Content::Nothing(dialect, Reply::Empty);
    }
    let (mut latitude, mut longitude) = (text(LATITUDE), text(LONGITUDE));
    if latitude.is_none()
        && let Some(location) = text(&[Key::Location])
    {
        let mut parts = location.splitn(2, |&byte| byte == b',').map(<[u8]>::to_vec);
        latitude = parts.next().map(Cow::Owned);
        longitude = parts.next().map(Cow::Owned);
    }
    let raw = Raw {
        device: text(DEVICE),
        label: text(&[Key::Tid]),
        latitude,
        longitude,
        time: text(TIME),
        accuracy: text(ACCURACY),
        may_be_apple_time: false,
    };
    Content::Position(Dialect::Osmand, Reply::Empty, raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_names_a_device() {
        for (topic, expected) in [
            ("owntracks/fleet/van1", "fleet/van1"),
            ("owntracks/fleet/van1/event", "fleet/van1"),
            ("owntracks/van1", "van1"),
            ("/owntracks/fleet/van1/", "fleet/van1"),
            ("van1", "van1"),
            ("owntracks/event", "event"),
            ("owntracks/fleet/event", "fleet/event"),
            ("", ""),
        ] {
            assert_eq!(device_of_topic(topic.as_bytes()), expected.as_bytes(), "{topic}");
        }
    }

    #[test]
    fn a_request_names_its_device_in_order() {
        let mut origin = Origin {
            query: "u=jane&d=phone&id=van+1",
            limit_u: "user",
            limit_d: "device",
            user: b"login",
        };
        let name = |origin: &Origin<'_>| {
            origin.device().map(|name| String::from_utf8(name.into_owned()).unwrap())
        };
        assert_eq!(name(&origin).as_deref(), Some("van 1"));
        origin.query = "u=jane&d=phone";
        assert_eq!(name(&origin).as_deref(), Some("user/device"));
        origin.limit_u = "";
        assert_eq!(name(&origin).as_deref(), Some("device"));
        origin.limit_d = "";
        assert_eq!(name(&origin).as_deref(), Some("jane/phone"));
        origin.query = "d=phone";
        assert_eq!(name(&origin).as_deref(), Some("phone"));
        origin.query = "";
        assert_eq!(name(&origin).as_deref(), Some("login"));
        origin.user = b"";
        assert_eq!(name(&origin), None);
    }
}
