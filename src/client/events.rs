//! The stream of events, as the API sends it: `text/event-stream` of the HTML standard, section
//! "Server-sent events", as far as the API uses it.

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_util::task::AbortOnDropHandle;

use super::{ANSWER_TIMEOUT, Client, ClientError, Problem, Url, within};

/// The stream's path.
const PATH: &str = "/api/v1/events";
/// Longest event, in bytes: the status of a large fleet has room in it many times over.
const EVENT_BYTES_MAX: usize = 16 << 20;
/// Longest refusal that is read, in bytes.
const REFUSAL_BYTES_MAX: usize = 1 << 20;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    /// Its number, from which a stream can be taken up again.
    pub(crate) id: i64,
    /// What it is about.
    pub(crate) kind: String,
    /// How that stands now.
    pub(crate) data: Value,
}

/// A stream under way.
#[derive(Debug)]
pub(crate) struct Events {
    url: Url,
    body: Incoming,
    parser: Parser,
    ready: std::vec::IntoIter<Event>,
    _connection: AbortOnDropHandle<()>,
}

impl Events {
    /// The next event; `None` when the content control manager ends the stream, as it does now and
    /// then.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(event) = self.ready.next() {
                return Ok(Some(event));
            }
            let lost = |source| ClientError::Lost { url: self.url.clone(), source };
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let Ok(bytes) = frame.map_err(|source| lost(source.into()))?.into_data() else { continue };
            self.ready = self.parser.read(&bytes).map_err(|source| lost(source.into()))?.into_iter();
        }
    }
}

impl Client {
    /// Follows what happens, from the event after this one or from now on.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn events(&self, after: Option<i64>) -> Result<Events, ClientError> {
        let following = async {
            let lost = |source: hyper::Error| ClientError::Lost { url: self.url.clone(), source: source.into() };
            let stream = self.connect().await?;
            let mut request = Request::builder()
                .method(Method::GET)
                .uri(PATH)
                .header(HOST, self.url.authority())
                .header(AUTHORIZATION, self.authorization.clone())
                .header(ACCEPT, "text/event-stream");
            if let Some(after) = after {
                request = request.header("last-event-id", after);
            }
            let request = request.body(Full::<Bytes>::default()).expect("our own paths are well-formed");
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
            let connection = AbortOnDropHandle::new(tokio::spawn(async move {
                // What went wrong on it shows where its body is read.
                connection.await.ok();
            }));
            let response = sender.send_request(request).await.map_err(lost)?;
            let status = response.status();
            if !status.is_success() {
                let body = http_body_util::Limited::new(response.into_body(), REFUSAL_BYTES_MAX).collect().await;
                let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let problem = Box::new(Problem::read(status, &body));
                return Err(ClientError::Refused { status: status.as_u16(), problem });
            }
            let (url, body) = (self.url.clone(), response.into_body());
            Ok(Events { url, body, parser: Parser::default(), ready: Vec::new().into_iter(), _connection: connection })
        };
        within(&self.url, ANSWER_TIMEOUT, following).await
    }
}

/// Why a stream cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum StreamError {
    /// Longer than [`EVENT_BYTES_MAX`].
    #[error("an event is too long")]
    TooLong,
    /// Not what the API promises.
    #[error("an event cannot be read")]
    Malformed,
}

/// Makes events of bytes, however they are cut.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    id: Option<i64>,
    kind: String,
    data: String,
}

impl Parser {
    fn read(&mut self, bytes: &[u8]) -> Result<Vec<Event>, StreamError> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() + self.data.len() >= EVENT_BYTES_MAX {
                    return Err(StreamError::TooLong);
                }
                self.line.push(*byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = std::str::from_utf8(&line).map_err(|_| StreamError::Malformed)?;
            events.extend(self.line(line.trim_end_matches('\r'))?);
        }
        Ok(events)
    }

    /// A line; an empty one ends an event, one that begins with a colon keeps the connection alive.
    fn line(&mut self, line: &str) -> Result<Option<Event>, StreamError> {
        if line.is_empty() {
            let Some(id) = self.id.take() else { return Ok(None) };
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            let data = serde_json::from_str(&data).map_err(|_| StreamError::Malformed)?;
            return Ok(Some(Event { id, kind, data }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.parse().map_err(|_| StreamError::Malformed)?),
            "event" => value.clone_into(&mut self.kind),
            "data" => self.data.push_str(value),
            // Comments, and what a later release may say.
            _ => (),
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": a comment\n\nid: 7\nevent: run\ndata: {\"run\":3,\ndata: \"state\":\"done\"}\n\n\
                          id:8\r\nevent:fleet\r\nretry: 10\r\ndata:{}\r\n\r\n";

    #[test]
    fn events_are_the_same_however_the_stream_is_cut() {
        let expected = vec![
            Event { id: 7, kind: "run".into(), data: serde_json::json!({"run": 3, "state": "done"}) },
            Event { id: 8, kind: "fleet".into(), data: serde_json::json!({}) },
        ];
        for size in 1..=STREAM.len() {
            let mut parser = Parser::default();
            let chunks = STREAM.as_bytes().chunks(size);
            let events: Vec<Event> = chunks.flat_map(|chunk| parser.read(chunk).expect("a good stream")).collect();
            assert_eq!(events, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_stream_of_events_is_refused() {
        for bad in ["id: x\n", "id: 1\ndata: {\n\n", "\u{ff}\n"] {
            let bytes: Vec<u8> = bad.chars().map(|c| u8::try_from(c).expect("Latin-1")).collect();
            assert_eq!(Parser::default().read(&bytes), Err(StreamError::Malformed), "{bad:?}");
        }
        let long = vec![b'x'; EVENT_BYTES_MAX + 1];
        assert_eq!(Parser::default().read(&long), Err(StreamError::TooLong));
    }
}
