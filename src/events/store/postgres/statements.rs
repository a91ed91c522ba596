//! The statements of the store, and the columns that they return.

/// The columns of an event, in the order in which `StoredRow` reads them.
macro_rules! columns {
    () => {
        "e.id, e.version, e.state, e.attempts, e.next_attempt, e.expires, e.possible_duplicate, \
         e.redelivery, e.has_request, e.record IS NULL, e.token, e.entry"
    };
}

pub(super) const ACCEPT: &str = "SELECT place, reply, result, stored_id, unknown, status, lasts, \
     answered FROM sealgate.events_accept($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, \
     $14, $15, $16, $17, $18, $19, $20, $21)";

/// Records that an event is done.
pub(super) const REPLAY_DONE: &str = "SELECT sealgate.replay_done($1, $2, 200, $3, '')";

pub(super) const BY_ID: &str =
    concat!("SELECT ", columns!(), " FROM sealgate.event e WHERE id = $1");

pub(super) const BY_RECORD: &str =
    concat!("SELECT ", columns!(), " FROM sealgate.event e WHERE record = $1");

pub(super) const REQUEST: &str = "SELECT request FROM sealgate.event_request WHERE id = $1";

pub(super) const REVIVE: &str = "SELECT sealgate.event_revive($1, $2, $3)";

pub(super) const TAKE: &str = concat!(
    "SELECT ",
    columns!(),
    ", e.request FROM (SELECT (taken).*, request \
     FROM sealgate.event_take($1, $2, $3, $4, $5) AS t(taken, request)) e"
);

/// Ends attempts. Columns: token, state, next attempt, possible duplicate, redelivery.
pub(super) const SETTLE: &str = "UPDATE sealgate.event e SET \
         state = CASE WHEN e.again THEN 0 ELSE s.state END, \
         next_attempt = CASE WHEN e.again THEN s.ended ELSE s.next_attempt END, \
         possible_duplicate = s.state <> 2 AND (e.possible_duplicate OR s.possible_duplicate), \
         redelivery = e.redelivery AND (e.again OR s.state = 0), \
         again = false, lease_ends = NULL, since = s.ended, entry = s.entry, \
         version = e.version + 1 \
     FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) AS s(id, token, version, state, next_attempt, \
         possible_duplicate, ended, entry) \
     WHERE e.id = s.id AND e.token = s.token AND e.version = s.version AND e.state = 1 \
     RETURNING e.token, e.state, e.next_attempt, e.possible_duplicate, e.redelivery";

/// Makes pending events whose time is over dead; they are given with their marks.
pub(super) const GIVE_UP: &str = "UPDATE sealgate.event e SET state = 3, next_attempt = NULL, \
         redelivery = false, possible_duplicate = e.possible_duplicate OR overdue.mark, \
         since = $3, version = version + 1 \
     FROM unnest($1, $2) AS overdue(id, mark) \
     WHERE e.id = overdue.id AND e.state = 0 AND e.expires <= $3 RETURNING e.id";

/// Replaces everything about an event that another copy of it changes, and its request unless the
/// new one is empty.
pub(super) const REPLACE: &str = "WITH replaced AS (UPDATE sealgate.event SET \
         state = $3, since = $4, next_attempt = $5, expires = $6, attempts = $7, \
         possible_duplicate = $8, redelivery = $9, has_request = $10, entry = $11, bytes = $12, \
         order_key = $13, token = $14, lease_ends = CASE WHEN $3 = 1 THEN sealgate.after($15) END, \
         sequence = CASE WHEN $16 THEN nextval('sealgate.event_sequence') ELSE sequence END, \
         version = version + 1 WHERE id = $1 AND version = $2 RETURNING id), \
     request AS (INSERT INTO sealgate.event_request SELECT id, $17 FROM replaced WHERE $17 <> '' \
         ON CONFLICT (id) DO UPDATE SET request = EXCLUDED.request) \
     SELECT CASE WHEN $18 IS NOT NULL THEN sealgate.replay_done($18, $19, 200, $20, '') END \
     FROM replaced";

/// Renews leases, and returns the number of those that were lost. It waits for no other statement:
/// a lease that one is about to end needs no renewal.
pub(super) const RENEW: &str = "WITH lease AS (SELECT * FROM unnest($1, $2) AS l(id, token)), \
     held AS (SELECT e.id FROM sealgate.event e JOIN lease l ON e.id = l.id AND e.token = l.token \
         WHERE e.state = 1 FOR UPDATE OF e SKIP LOCKED), \
     renewed AS (UPDATE sealgate.event e SET lease_ends = sealgate.after($3) \
         FROM held WHERE e.id = held.id) \
     SELECT count(*) FROM lease l WHERE NOT EXISTS (SELECT FROM sealgate.event e \
         WHERE e.id = l.id AND e.token = l.token AND e.state = 1)";

/// Stores entries, with their requests unless those are empty. If a crash of the database loses
/// them, only history is lost.
pub(super) const RECORD: &str = "WITH stored AS (INSERT INTO sealgate.event \
         (id, route, state, record, event_id, received, since, expires, attempts, \
          possible_duplicate, redelivery, has_request, bytes, entry) \
         SELECT n.id, n.route, n.state, n.record, n.event_id, n.received, n.since, n.expires, \
             n.attempts, n.possible_duplicate, false, n.request <> '', \
             length(n.entry) + length(n.request) + 500, n.entry \
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
             AS n(id, route, state, record, event_id, received, since, expires, attempts, \
                 possible_duplicate, entry, request), \
             (SELECT set_config('synchronous_commit', 'off', true)) AS s \
         ON CONFLICT DO NOTHING RETURNING id), \
     request AS (INSERT INTO sealgate.event_request SELECT n.id, n.request \
         FROM unnest($1, $12) AS n(id, request) JOIN stored USING (id) WHERE n.request <> '') \
     SELECT id FROM stored";

pub(super) const REDELIVER: &str = "SELECT sealgate.event_redeliver($1, $2, $3)";

pub(super) const FORGET: &str = "SELECT sealgate.event_forget($1)";

pub(super) const BACKLOGS: &str = "SELECT route, \
         count(*) FILTER (WHERE state = 0), count(*) FILTER (WHERE state = 1), \
         count(*) FILTER (WHERE state = 3), min(received) FILTER (WHERE state < 2) \
     FROM sealgate.event WHERE state IN (0, 1) OR state = 3 GROUP BY route";

pub(super) const USAGE: &str = "SELECT sealgate.event_bytes(), \
     (SELECT count(*) FROM sealgate.event WHERE state IN (0, 1))";

pub(super) const REMOVE: &str = "SELECT removed, bytes FROM sealgate.event_remove($1, $2, $3)";

/// The time of receipt of the newest rejected request beyond the number that is kept.
pub(super) const EXCESS_REFUSED: &str = "SELECT since FROM sealgate.event \
     WHERE state = 4 AND state >= 2 ORDER BY since DESC OFFSET $1 LIMIT 1";

/// Returns the digest of the key with which the events are encrypted, storing it if it is the
/// first.
pub(super) const KEY: &str = "WITH added AS (INSERT INTO sealgate.event_store (key_digest) \
     VALUES ($1) ON CONFLICT DO NOTHING RETURNING key_digest) \
     SELECT key_digest FROM added UNION ALL SELECT key_digest FROM sealgate.event_store LIMIT 1";

/// Returns the statement of a page, newest first. Parameters: route, state, event ID, the first ID
/// at or after `since`, the first ID that is too new, and the number of events.
pub(super) const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM sealgate.event e WHERE ($1::text IS NULL OR route = $1) \
     AND ($2::smallint IS NULL OR state = $2) AND ($3::bytea IS NULL OR event_id = $3) \
     AND id >= $4 AND id < $5 ORDER BY id DESC LIMIT $6"
);
