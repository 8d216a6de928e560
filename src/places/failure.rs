//! What becomes of a question when something fails: a status, and words for the operator that say
//! what happened, where, and what to do.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::answer::{Fault, Refusal};
use super::document::Status;
use super::http::{Broken, Response};
use super::key::ApiKey;
use super::limits::MAX_ERROR_MESSAGE_BYTES;
use super::target::{Provider, Target};

/// What kept a connection from coming about or made it end, as the shell saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The host's name did not resolve.
    Resolve(String),
    /// No address of the host took a TCP connection.
    Connect(String),
    /// The TLS handshake failed, or the TLS stream did later.
    Tls(String),
    /// The connection was reset, or could not be read or written.
    Io(String),
}

/// The kinds of "no" that responses carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// The key or the operator is not let in.
    Key,
    /// This question is not accepted, others may be.
    Question,
    /// Too many requests.
    OverLimit,
    /// The provider, or something before it, failed.
    Failure,
}

/// What keeps a question from getting a response.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mishap<'a> {
    /// The response is broken.
    Broken(Broken),
    /// Bytes came without a request.
    Unsolicited,
    /// The connection ended before the response did.
    ClosedEarly,
    /// The host's name took too long to resolve.
    ResolveTimeout,
    /// The connection took too long to come about.
    ConnectTimeout,
    /// The response took too long.
    NoAnswer,
    /// Others were served until it was too late.
    QueueTooSlow,
    /// The shell has told.
    Trouble(&'a Trouble),
}

/// Overpass's operators ask for half a minute of silence after a 429
/// (<https://github.com/drolbr/Overpass-API/issues/791>).
const OVERPASS_PAUSE: Duration = Duration::from_secs(30);

impl Target<'_> {
    /// A response that is a "no". `said` is the provider's own explanation.
    pub(super) fn denied(self, response: &Response, denial: Denial, said: &str) -> Refusal {
        let said = self.quoted(said);
        let comma = if said.is_empty() { "" } else { ", " };
        let code = format!("HTTP {}{comma}{said}", response.status);
        let overpass = self.provider == Provider::Overpass;
        let (status, words) = match denial {
            Denial::Key if overpass => (
                Status::RequestDenied,
                format!(
                    "does not serve this node ({code}); read the usage policy of the Overpass \
                     server, or choose another with places.url"
                ),
            ),
            Denial::Key => (
                Status::RequestDenied,
                format!(
                    "refuses the API key ({code}); check that the key is right, that {} is \
                     enabled in its project, that its restrictions admit this machine, and that \
                     billing is on",
                    self.provider.api()
                ),
            ),
            Denial::Question => (
                Status::RequestDenied,
                format!(
                    "does not accept this question ({code}); ask with another radius, and check \
                     places.url if it accepts none"
                ),
            ),
            Denial::OverLimit if overpass => (
                Status::OverQueryLimit,
                format!(
                    "is asked too often ({code}); wait, raise places.cache_ttl_s, or run an \
                     Overpass server of your own"
                ),
            ),
            Denial::OverLimit => (
                Status::OverQueryLimit,
                format!(
                    "takes no more requests with this API key ({code}); wait, or raise the quota \
                     in the Google Cloud console"
                ),
            ),
            Denial::Failure => (Status::UnknownError, self.failure(response, &code)),
        };
        let asked_for = response.retry_after.filter(|pause| !pause.is_zero());
        let fault = match denial {
            Denial::Question => Fault::Question,
            Denial::OverLimit if overpass => {
                Fault::Provider { pause: asked_for.max(Some(OVERPASS_PAUSE)) }
            }
            _ => Fault::Provider { pause: asked_for },
        };
        Refusal { status, message: format!("{} {words}", self.url.authority()), fault }
    }

    fn failure(self, response: &Response, code: &str) -> String {
        match response.status {
            300..=399 => {
                let to = self.quoted(response.location.as_deref().unwrap_or("nowhere"));
                // The query of our own request may come back in it; where it leads is enough.
                let to = to.split('?').next().unwrap_or_default();
                format!(
                    "redirects to {to} ({code}), which is not followed; put the final address \
                     into places.url"
                )
            }
            404 | 405 => format!("has no such service ({code}); check places.url"),
            200 | 408 | 500..=599 => format!("failed ({code}); try again later"),
            _ => format!("gave an answer that is not understood ({code}); check places.url"),
        }
    }

    /// A 200 whose body is not what the provider documents.
    pub(super) fn not_the_document(self) -> Refusal {
        self.failed(format_args!(
            "answered with something else than the document of {}; check places.url and what is \
             in between",
            self.provider.api()
        ))
    }

    /// A query that the provider began and gave up.
    pub(super) fn gave_up(self, said: &str) -> Refusal {
        self.failed(format_args!(
            "gave up on the question ({}); ask for a smaller radius or try again later",
            self.quoted(said)
        ))
    }

    /// What went wrong before there was a response.
    pub(super) fn failed_by(self, mishap: Mishap<'_>) -> Refusal {
        let deadline = self.deadline.as_millis();
        match mishap {
            Mishap::Broken(Broken::NotHttp) => {
                self.failed("does not speak HTTP/1.1; check scheme and port of places.url")
            }
            Mishap::Broken(broken) => {
                self.failed(format_args!("gave a broken response: {broken}; try again"))
            }
            Mishap::Unsolicited => self.failed("answered before it was asked; check places.url"),
            // Chance, or a server of TLS that is spoken to without, or the other way round.
            Mishap::ClosedEarly => self.failed(
                "closed the connection before its answer was whole; try again, and check \
                 places.url if it goes on",
            ),
            Mishap::ResolveTimeout => {
                self.failed("cannot be resolved in time; check places.url and the name servers")
            }
            Mishap::ConnectTimeout => self.failed(
                "cannot be reached in time; check places.url, the network and the firewall",
            ),
            Mishap::NoAnswer => self.failed(format_args!(
                "did not answer within {deadline} ms; try again later, or raise \
                 places.deadline_ms"
            )),
            Mishap::QueueTooSlow => Refusal {
                fault: Fault::Nobody,
                ..self.failed(format_args!(
                    "was busy with other questions for {deadline} ms; ask less at a time, or \
                     raise places.pool_size or places.deadline_ms"
                ))
            },
            Mishap::Trouble(trouble) => self.troubled(trouble),
        }
    }

    fn troubled(self, trouble: &Trouble) -> Refusal {
        let (what, why, advice) = match trouble {
            Trouble::Resolve(why) => {
                ("cannot be resolved", why, "check places.url and the name servers")
            }
            Trouble::Connect(why) => {
                ("cannot be reached", why, "check places.url, the network and the firewall")
            }
            Trouble::Tls(why) => (
                "cannot be spoken to over TLS",
                why,
                "check places.url, places.ca_file and the clock",
            ),
            Trouble::Io(why) => ("broke the connection", why, "try again"),
        };
        self.failed(format_args!("{what} ({}); {advice}", self.quoted(why)))
    }

    /// An `UNKNOWN_ERROR` for which the provider, or the way to it, is to blame.
    fn failed(self, words: impl Display) -> Refusal {
        Refusal {
            status: Status::UnknownError,
            message: format!("{} {words}", self.url.authority()),
            fault: Fault::Provider { pause: None },
        }
    }

    /// Somebody else's words, without the key.
    fn quoted(self, text: &str) -> String {
        quoted(self.key, text)
    }
}

/// Somebody else's words, fit to be shown: without the key, on one line, of bounded length.
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
        // Writing to a String does not fail.
        let _ = write!(shown, "{space}{word}");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::provider::tests::{ALL, CANARY, UCLA, at, read, response};

    #[test]
    fn statuses_become_refusals_that_say_what_to_do() {
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
                    let refusal = read(provider, code, body).unwrap_err();
                    assert_eq!(refusal.status, status, "{provider} {code}");
                    assert!(refusal.message.contains(words), "{}", refusal.message);
                    assert!(matches!(refusal.fault, Fault::Provider { .. }), "{provider} {code}");
                }
            }
        }
    }

    /// A 400 is about the question only where it is the provider's own.
    #[test]
    fn a_question_is_to_blame_only_if_the_provider_says_so() {
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
            let refusal = read(provider, 400, own).unwrap_err();
            assert_eq!((refusal.status, refusal.fault), (Status::RequestDenied, Fault::Question));
            assert!(refusal.message.contains("does not accept this question (HTTP 400"));
            assert!(refusal.message.contains("ask with another radius"), "{}", refusal.message);
            for alien in [nginx, "{\"message\":\"no Route matched\"}"] {
                let refusal = read(provider, 400, alien).unwrap_err();
                assert_eq!(refusal.status, Status::UnknownError, "{provider}");
                assert_eq!(refusal.fault, Fault::Provider { pause: None }, "{provider}");
                assert!(refusal.message.contains("check places.url"), "{}", refusal.message);
            }
        }
    }

    #[test]
    fn the_key_comes_back_in_no_spelling() {
        let encoded = CANARY.replace('/', "%2F");
        let escaped = CANARY.replace('/', "\\/").replace('c', "\\u0063");
        for provider in ALL {
            for said in
                [CANARY, &encoded, &encoded.replace("2F", "2f"), &escaped, &CANARY.repeat(100)]
            {
                for code in [200, 301, 400, 401, 403, 404, 429, 500] {
                    for body in [
                        format!(
                            "{{\"error\":{{\"message\":\"bad {said}!\",\"status\":\"{said}\",\"details\":[{{\"reason\":\"{said}\"}}]}}}}"
                        ),
                        format!(
                            "{{\"status\":\"REQUEST_DENIED\",\"error_message\":\"bad {said}\"}}"
                        ),
                        format!("{{\"status\":\"{said}\",\"error_message\":\"bad {said}\"}}"),
                        format!(
                            "{{\"status\":\"OK\",\"x\":\"{said}\",\"results\":[{{\"name\":\"{said}\",\"{said}\":[\"a {said} b\"]}}]}}"
                        ),
                        format!(
                            "{{\"places\":[{{\"displayName\":{{\"text\":\"{said}\"}},\"types\":[\"{said}\"],\"id\":\"{said}\"}}]}}"
                        ),
                        format!("{{\"remark\":\"runtime error: {said}\",\"elements\":[]}}"),
                        format!("<strong>Error</strong>: {said} <p>"),
                    ] {
                        let mut out = Vec::new();
                        match read(provider, code, &body) {
                            Ok(listing) => listing.write(20, &mut out),
                            Err(refusal) => {
                                refusal.write(&mut out);
                                out.extend(format!("{refusal:?}").bytes());
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
    fn troubles_are_told_apart_and_scrubbed() {
        let why = || format!("no such thing as {CANARY}\nsecond line");
        for (it, words) in [
            (Trouble::Resolve(why()), "cannot be resolved"),
            (Trouble::Connect(why()), "cannot be reached"),
            (Trouble::Tls(why()), "places.ca_file"),
            (Trouble::Io(why()), "broke the connection"),
        ] {
            let refusal = at(Provider::Google, "https://a.example:8443/p", |target| {
                target.failed_by(Mishap::Trouble(&it))
            });
            assert!(refusal.message.contains(words) && refusal.message.contains("a.example:8443"));
            assert!(
                refusal.message.contains("no such thing as [api key] second line"),
                "{}",
                refusal.message
            );
        }
    }

    #[test]
    fn a_provider_may_ask_to_be_left_alone() {
        let mut waits = response(429, "");
        waits.retry_after = Some(Duration::from_secs(7));
        let pause = |provider, response: &Response| {
            let read = at(provider, "https://a.example", |target| target.read(&UCLA, response));
            read.unwrap_err().fault
        };
        let secs = |secs| Fault::Provider { pause: Some(Duration::from_secs(secs)) };
        assert_eq!(pause(Provider::Google, &waits), secs(7));
        assert_eq!(pause(Provider::Overpass, &waits), secs(30));
        assert_eq!(pause(Provider::Overpass, &response(429, "")), secs(30));
        assert_eq!(pause(Provider::Google, &response(429, "")), Fault::Provider { pause: None });
        waits.retry_after = Some(Duration::ZERO);
        assert_eq!(pause(Provider::Google, &waits), Fault::Provider { pause: None });
    }

    #[test]
    fn what_providers_say_is_cut_to_a_line() {
        let shown = quoted(None, &format!("a\r\n b\u{1b}c\t{}", "d ".repeat(1000)));
        assert!(shown.starts_with("a b c d d") && shown.ends_with('…'), "{shown}");
        assert!(shown.len() < 2 * MAX_ERROR_MESSAGE_BYTES);
        assert_eq!(quoted(None, &"x".repeat(10_000)), "…");
        assert_eq!(quoted(None, " \n "), "");
    }
}
