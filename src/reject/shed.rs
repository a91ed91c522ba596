//! Why the gateway sheds load.

/// Why a request or a connection was shed, as counted in `sealgate_shed_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shed {
    /// `limits.connections` is reached: a connection was closed.
    Connections,
    /// `limits.memory` is used up by other bodies.
    Memory,
    /// `limits.requests` is reached.
    Requests,
    /// The request had waited for a busy worker for too long.
    Waited,
    /// The queue before the upstream is full, or the wait in it was too long.
    Upstream,
}

impl Shed {
    /// All causes.
    pub const ALL: [Shed; 5] =
        [Shed::Connections, Shed::Memory, Shed::Requests, Shed::Waited, Shed::Upstream];

    /// Returns the metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Shed::Connections => "connections",
            Shed::Memory => "memory",
            Shed::Requests => "requests",
            Shed::Waited => "waited",
            Shed::Upstream => "upstream",
        }
    }

    /// Returns what it means, for the log.
    pub const fn meaning(self) -> &'static str {
        match self {
            Shed::Connections => "no connection is left",
            Shed::Memory => "no memory is left for bodies",
            Shed::Requests => "too many concurrent requests",
            Shed::Waited => "the workers are too busy",
            Shed::Upstream => "too many requests wait for the upstream",
        }
    }
}
