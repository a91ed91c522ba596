//! The results of requests.

/// The result of a request, as counted in `sealgate_requests_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The request was forwarded, and its sender got the upstream's response.
    Forwarded,
    /// A retry of a done event: acknowledged, not forwarded.
    Duplicate,
    /// A replay: the same request again, not forwarded.
    Replay,
    /// A copy that arrived while another one was in flight, and got its outcome.
    Joined,
    /// The event was stored, and its delivery follows.
    Queued,
    /// A challenge, to which the gateway responded.
    Challenge,
    /// Not admitted, or not accepted as authentic.
    Rejected,
    /// Cannot be verified or handled now; the sender should retry.
    Unavailable,
    /// Anything else: malformed HTTP, a limit, no route, a failed upstream.
    Error,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Outcome; 9] = [
        Outcome::Forwarded,
        Outcome::Duplicate,
        Outcome::Replay,
        Outcome::Joined,
        Outcome::Queued,
        Outcome::Challenge,
        Outcome::Rejected,
        Outcome::Unavailable,
        Outcome::Error,
    ];

    /// Returns the metric label, which is also the word in the log and in `Sealgate-Answer`.
    pub const fn label(self) -> &'static str {
        match self {
            Outcome::Forwarded => "forwarded",
            Outcome::Duplicate => "duplicate",
            Outcome::Replay => "replay",
            Outcome::Joined => "joined",
            Outcome::Queued => "queued",
            Outcome::Challenge => "handshake",
            Outcome::Rejected => "rejected",
            Outcome::Unavailable => "unavailable",
            Outcome::Error => "error",
        }
    }
}
