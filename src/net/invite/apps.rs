//! What to enter in each app: three lines.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Returns the settings of the apps for a device that reports to `url` with a token for `name`.
pub fn instructions(url: &str, name: &str) -> String {
    let (id, note) = match name.strip_suffix('*') {
        Some(prefix) => {
            let note = format!("a name of your own; van1 becomes the client {prefix}van1");
            ("van1", note)
        }
        None => ("phone", format!("any; with this token, the client is {name}")),
    };
    let encoded = utf8_percent_encode(url, NON_ALPHANUMERIC);
    format!(
        "\
Traccar Client (scan the code in its settings, or enter)
    Server URL:         {url}
    Device identifier:  {note}
    Frequency:          60 seconds or more spares the battery
OwnTracks (Preferences, Connection)
    Mode:               HTTP
    URL:                {url}
    Device ID:          {note}
Overland
    Receiver endpoint:  {url}
    Device ID:          {note}
    Or open this link:  overland://setup?url={encoded}&device_id={id}
GPSLogger (Logging details, Log to custom URL, POST)
    URL:                {url}
    HTTP body:          id={id}&lat=%LAT&lon=%LON&timestamp=%TIMESTAMP&accuracy=%ACC
    HTTP headers:       Content-Type: application/x-www-form-urlencoded
OsmAnd (Trip recording, Online tracking)
    Web address:        {url}?id={id}&lat={{0}}&lon={{1}}&timestamp={{2}}&hdop={{3}}
    id:                 {note}
    Logging interval:   30 seconds or more spares the battery
To try it
    curl -d 'id={id}&lat=34.07&lon=-118.45' '{url}'
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_app_gets_three_lines() {
        for (name, expected) in [
            ("van1", "with this token, the client is van1"),
            ("fleet/*", "van1 becomes the client fleet/van1"),
        ] {
            let text = instructions("https://h.example:5055/t/AbCdEfGhIjKlMnOp", name);
            assert!(text.contains(expected), "{text}");
            assert!(text.contains("url=https%3A%2F%2Fh%2Eexample%3A5055%2Ft%2FAbCd"), "{text}");
            let apps: Vec<&str> = text.split('\n').filter(|it| !it.starts_with(' ')).collect();
            assert_eq!(apps.len(), 5 + 2, "{apps:?}"); // and curl, and the end
            assert_eq!(text.lines().count(), 5 * 4 + 2);
        }
    }
}
