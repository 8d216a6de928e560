//! The destination of questions, and the messages for its failures.
//!
//! Every message contains the cause, the place, and the remedy. Text from outside is quoted on one
//! line, cut, and without the API key.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::failure::{Blame, Failure, ProviderError, RequestError, TransportError};
use super::key::ApiKey;
use super::provider::Provider;
use crate::endpoint::Url;
use crate::places::document::Status;
use crate::places::http::{HttpError, Response};
use crate::places::limits::MAX_ERROR_MESSAGE_BYTES;

/// The minimum pause after a 429 from Overpass, which its operators ask for
/// (<https://github.com/drolbr/Overpass-API/issues/791>).
const OVERPASS_PAUSE: Duration = Duration::from_secs(30);

/// The provider, its address, the API key and the time limit.
#[derive(Clone, Copy, Debug)]
pub(in crate::places) struct Target<'a> {
    pub(in crate::places) provider: Provider,
    pub(in crate::places) url: &'a Url,
    pub(in crate::places) key: Option<&'a ApiKey>,
    pub(in crate::places) deadline: Duration,
}

impl Target<'_> {
    /// The failure of a question whose response reports an error. `explanation` is the provider's
    /// own.
    pub(in crate::places) fn rejected(
        self,
        response: &Response,
        error: ProviderError,
        explanation: &str,
    ) -> Failure {
        let explanation = self.quoted(explanation);
        let comma = if explanation.is_empty() { "" } else { ", " };
        let code = format!("HTTP {}{comma}{explanation}", response.status);
        let overpass = self.provider == Provider::Overpass;
        let (status, words) = match error {
            ProviderError::Unauthorized if overpass => (
                Status::RequestDenied,
                format!(
                    "does not serve this node ({code}); read the usage policy of the Overpass \
                     server, or choose another with places.url"
                ),
            ),
            ProviderError::Unauthorized => (
                Status::RequestDenied,
                format!(
                    "rejects the API key ({code}); check that the key is right, that {} is \
                     enabled in its project, that its restrictions admit this machine, and that \
                     billing is on",
                    self.provider.api()
                ),
            ),
            ProviderError::InvalidQuestion => (
                Status::RequestDenied,
                format!(
                    "does not accept this question ({code}); ask with another radius, and check \
                     places.url if it accepts none"
                ),
            ),
            ProviderError::RateLimited if overpass => (
                Status::OverQueryLimit,
                format!(
                    "limits the request rate ({code}); wait, raise places.cache_ttl_s, or run an \
                     Overpass server of your own"
                ),
            ),
            ProviderError::RateLimited => (
                Status::OverQueryLimit,
                format!(
                    "accepts no more requests with this API key ({code}); wait, or raise the quota \
                     in the Google Cloud console"
                ),
            ),
            ProviderError::Unavailable => (Status::UnknownError, self.unavailable(response, &code)),
        };
        let retry_after = response.retry_after.filter(|pause| !pause.is_zero());
        let blame = match error {
            ProviderError::InvalidQuestion => Blame::Question,
            ProviderError::RateLimited if overpass => {
                Blame::Provider { retry_after: retry_after.max(Some(OVERPASS_PAUSE)) }
            }
            _ => Blame::Provider { retry_after },
        };
        Failure { status, message: format!("{} {words}", self.url.authority()), blame }
    }

    fn unavailable(self, response: &Response, code: &str) -> String {
        match response.status {
            300..=399 => {
                let location = self.quoted(response.location.as_deref().unwrap_or("nowhere"));
                // The query may repeat that of the request; the path is enough.
                let location = location.split('?').next().unwrap_or_default();
                format!(
                    "redirects to {location} ({code}), which is not followed; set places.url to \
                     the final address"
                )
            }
            404 | 405 => format!("does not provide this service ({code}); check places.url"),
            200 | 408 | 500..=599 => format!("failed ({code}); try again later"),
            _ => format!("sent an unexpected response ({code}); check places.url"),
        }
    }

    /// The failure of a question whose response has status 200, but not the documented body.
    pub(in crate::places) fn unexpected_document(self) -> Failure {
        self.failed(format_args!(
            "did not send the document of {}; check places.url and any proxy in between",
            self.provider.api()
        ))
    }

    /// The failure of a question that the provider aborted.
    pub(in crate::places) fn aborted(self, explanation: &str) -> Failure {
        self.failed(format_args!(
            "aborted the query ({}); ask for a smaller radius or try again later",
            self.quoted(explanation)
        ))
    }

    /// The failure of a question without a response.
    pub(in crate::places) fn no_response(self, error: RequestError<'_>) -> Failure {
        let deadline = self.deadline.as_millis();
        match error {
            RequestError::Transport(error) => self.transport_failed(error),
            RequestError::Http(HttpError::NotHttp) => {
                self.failed("does not speak HTTP/1.1; check the scheme and the port of places.url")
            }
            RequestError::Http(error) => {
                self.failed(format_args!("sent an invalid response: {error}; try again"))
            }
            RequestError::Unsolicited => {
                self.failed("sent data before a request; check places.url")
            }
            // Either bad luck, or plain text sent to a TLS port or the other way around.
            RequestError::ClosedEarly => self.failed(
                "closed the connection before the end of its response; try again, and check \
                 places.url if this continues",
            ),
            RequestError::ResolveTimeout => {
                self.failed("cannot be resolved in time; check places.url and the name servers")
            }
            RequestError::ConnectTimeout => self.failed(
                "cannot be reached in time; check places.url, the network and the firewall",
            ),
            RequestError::ResponseTimeout => self.failed(format_args!(
                "did not respond within {deadline} ms; try again later, or raise \
                 places.deadline_ms"
            )),
            RequestError::QueueTimeout => Failure {
                blame: Blame::Node,
                ..self.failed(format_args!(
                    "was busy with other questions for {deadline} ms; send fewer at a time, or \
                     raise places.pool_size or places.deadline_ms"
                ))
            },
        }
    }

    fn transport_failed(self, error: &TransportError) -> Failure {
        let (what, why, advice) = match error {
            TransportError::Resolve(why) => {
                ("cannot be resolved", why, "check places.url and the name servers")
            }
            TransportError::Connect(why) => {
                ("cannot be reached", why, "check places.url, the network and the firewall")
            }
            TransportError::Tls(why) => (
                "cannot be reached over TLS",
                why,
                "check places.url, places.ca_file and the clock",
            ),
            TransportError::Io(why) => ("closed the connection", why, "try again"),
        };
        self.failed(format_args!("{what} ({}); {advice}", self.quoted(why)))
    }

    /// A failure of the provider, or of the network path to it, with `UNKNOWN_ERROR`.
    fn failed(self, words: impl Display) -> Failure {
        Failure {
            status: Status::UnknownError,
            message: format!("{} {words}", self.url.authority()),
            blame: Blame::Provider { retry_after: None },
        }
    }

    fn quoted(self, text: &str) -> String {
        quoted(self.key, text)
    }
}

/// Makes text from outside fit to be shown: without the key, on one line, of bounded length.
fn quoted(key: Option<&ApiKey>, text: &str) -> String {
    let text = key.map_or(text.into(), |key| key.scrub(text));
    let mut shown = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        if word.is_empty() {
            continue;
        }
        if shown.len() + word.len() > MAX_ERROR_MESSAGE_BYTES {
            shown.push('…');
            break;
        }
        let space = if shown.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = write!(shown, "{space}{word}");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::providers::read_response;
    use crate::places::providers::tests::{ALL, CANARY, UCLA, at, read, response};

    #[test]
    fn error_statuses_become_messages_with_advice() {
        for provider in ALL {
            for (code, status, words) in [
                (301, Status::UnknownError, "redirects to https://b.example/x (HTTP 301)"),
                (308, Status::UnknownError, "places.url"),
                (400, Status::UnknownError, "check places.url"),
                (401, Status::RequestDenied, "HTTP 401"),
                (403, Status::RequestDenied, "HTTP 403"),
                (404, Status::UnknownError, "places.url"),
                (418, Status::UnknownError, "HTTP 418"),
                (429, Status::OverQueryLimit, "wait"),
                (500, Status::UnknownError, "try again later"),
                (503, Status::UnknownError, "try again later"),
                (504, Status::UnknownError, "try again later"),
            ] {
                for body in ["", "<html>no</html>", "{}", "[]", "\"\\u0000\"", "{\"error\":7}"] {
                    let failure = read(provider, code, body).unwrap_err();
                    assert_eq!(failure.status, status, "{provider} {code}");
                    assert!(failure.message.contains(words), "{}", failure.message);
                    assert!(matches!(failure.blame, Blame::Provider { .. }), "{provider} {code}");
                }
            }
        }
    }

    /// Web servers and proxies answer 400 for reasons of their own.
    #[test]
    fn only_a_400_of_the_provider_itself_blames_the_question() {
        let overpass = "<html><head><title>OSM3S Response</title></head><body>\n\
            <p><strong style=\"color:#FF0000\">Error</strong>: line 1: parse error: ';' expected </p>\n\
            </body></html>";
        let nginx = "<html>\r\n<head><title>400 The plain HTTP request was sent to HTTPS port</title>\
            </head>\r\n<body>\r\n<center><h1>400 Bad Request</h1></center>\r\n</body>\r\n</html>\r\n";
        for (provider, own) in [
            (
                Provider::Google,
                r#"{"error":{"code":400,"message":"Invalid radius","status":"INVALID_ARGUMENT"}}"#,
            ),
            (Provider::GoogleLegacy, r#"{"results":[],"status":"INVALID_REQUEST"}"#),
            (Provider::Overpass, overpass),
        ] {
            let failure = read(provider, 400, own).unwrap_err();
            assert_eq!((failure.status, failure.blame), (Status::RequestDenied, Blame::Question));
            assert!(failure.message.contains("does not accept this question (HTTP 400"));
            assert!(failure.message.contains("ask with another radius"), "{}", failure.message);
            for foreign in [nginx, "{\"message\":\"no Route matched\"}"] {
                let failure = read(provider, 400, foreign).unwrap_err();
                assert_eq!(failure.status, Status::UnknownError, "{provider}");
                assert_eq!(failure.blame, Blame::Provider { retry_after: None }, "{provider}");
                assert!(failure.message.contains("check places.url"), "{}", failure.message);
            }
        }
    }

    #[test]
    fn no_encoding_of_the_key_is_passed_on() {
        let encoded = CANARY.replace('/', "%2F");
        let escaped = CANARY.replace('/', "\\/").replace('c', "\\u0063");
        for provider in ALL {
            for echo in
                [CANARY, &encoded, &encoded.replace("2F", "2f"), &escaped, &CANARY.repeat(100)]
            {
                for code in [200, 301, 400, 401, 403, 404, 429, 500] {
                    for body in [
                        format!(
                            "{{\"error\":{{\"message\":\"bad {echo}!\",\"status\":\"{echo}\",\"details\":[{{\"reason\":\"{echo}\"}}]}}}}"
                        ),
                        format!(
                            "{{\"status\":\"REQUEST_DENIED\",\"error_message\":\"bad {echo}\"}}"
                        ),
                        format!("{{\"status\":\"{echo}\",\"error_message\":\"bad {echo}\"}}"),
                        format!(
                            "{{\"status\":\"OK\",\"x\":\"{echo}\",\"results\":[{{\"name\":\"{echo}\",\"{echo}\":[\"a {echo} b\"]}}]}}"
                        ),
                        format!(
                            "{{\"places\":[{{\"displayName\":{{\"text\":\"{echo}\"}},\"types\":[\"{echo}\"],\"id\":\"{echo}\"}}]}}"
                        ),
                        format!("{{\"remark\":\"runtime error: {echo}\",\"elements\":[]}}"),
                        format!("<strong>Error</strong>: {echo} <p>"),
                    ] {
                        let mut out = Vec::new();
                        match read(provider, code, &body) {
                            Ok(listing) => listing.write(20, &mut out),
                            Err(failure) => {
                                failure.write(&mut out);
                                out.extend(format!("{failure:?}").bytes());
                            }
                        }
                        let shown = String::from_utf8(out).unwrap();
                        // Overpass has no key that could leak.
                        let leaked = shown.contains("Key-0123") || shown.contains("u0063anary");
                        assert!(
                            !leaked || provider == Provider::Overpass,
                            "{provider} {code} {body}: {shown}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn transport_errors_are_distinguished_and_scrubbed() {
        let why = || format!("no such thing as {CANARY}\nsecond line");
        for (error, words) in [
            (TransportError::Resolve(why()), "cannot be resolved"),
            (TransportError::Connect(why()), "cannot be reached"),
            (TransportError::Tls(why()), "places.ca_file"),
            (TransportError::Io(why()), "closed the connection"),
        ] {
            let failure = at(Provider::Google, "https://a.example:8443/p", |target| {
                target.no_response(RequestError::Transport(&error))
            });
            assert!(failure.message.contains(words) && failure.message.contains("a.example:8443"));
            assert!(
                failure.message.contains("no such thing as [api key] second line"),
                "{}",
                failure.message
            );
        }
    }

    #[test]
    fn a_provider_may_ask_for_a_pause() {
        let mut waits = response(429, "");
        waits.retry_after = Some(Duration::from_secs(7));
        let pause = |provider, response: &Response| {
            let read =
                at(provider, "https://a.example", |target| read_response(target, &UCLA, response));
            read.unwrap_err().blame
        };
        let secs = |secs| Blame::Provider { retry_after: Some(Duration::from_secs(secs)) };
        assert_eq!(pause(Provider::Google, &waits), secs(7));
        assert_eq!(pause(Provider::Overpass, &waits), secs(30));
        assert_eq!(pause(Provider::Overpass, &response(429, "")), secs(30));
        assert_eq!(
            pause(Provider::Google, &response(429, "")),
            Blame::Provider { retry_after: None }
        );
        waits.retry_after = Some(Duration::ZERO);
        assert_eq!(pause(Provider::Google, &waits), Blame::Provider { retry_after: None });
    }

    #[test]
    fn text_of_providers_is_cut_to_one_line() {
        let shown = quoted(None, &format!("a\r\n b\u{1b}c\t{}", "d ".repeat(1000)));
        assert!(shown.starts_with("a b c d d") && shown.ends_with('…'), "{shown}");
        assert!(shown.len() < 2 * MAX_ERROR_MESSAGE_BYTES);
        assert_eq!(quoted(None, &"x".repeat(10_000)), "…");
        assert_eq!(quoted(None, " \n "), "");
    }
}
