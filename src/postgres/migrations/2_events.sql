-- Events. `state`: 0 pending, 1 delivering, 2 delivered, 3 dead, 4 refused, 5 failed. Times without
-- a time zone are those of the gateways, in milliseconds since 1970; leases are by this clock.
CREATE SEQUENCE sealgate.event_sequence;

CREATE TABLE sealgate.event (
    id bytea PRIMARY KEY,
    -- The order of acceptance of events with the same `order_key`.
    sequence bigint NOT NULL DEFAULT nextval('sealgate.event_sequence'),
    -- Changes with every change except the renewal of a lease.
    version bigint NOT NULL DEFAULT 0,
    route text NOT NULL,
    state smallint NOT NULL,
    -- Digests, by which events are found.
    record bytea,
    event_id bytea,
    order_key bytea,
    received bigint NOT NULL,
    -- When the state was last changed.
    since bigint NOT NULL,
    next_attempt bigint,
    expires bigint NOT NULL,
    attempts integer NOT NULL,
    possible_duplicate boolean NOT NULL,
    redelivery boolean NOT NULL,
    -- An operator asked for another attempt during one.
    again boolean NOT NULL DEFAULT false,
    token bigint,
    lease_ends timestamptz,
    has_request boolean NOT NULL,
    bytes bigint NOT NULL,
    -- The rest, which may be encrypted.
    entry bytea NOT NULL
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.1
);

-- Requests are never changed, only replaced and removed.
CREATE TABLE sealgate.event_request (
    id bytea PRIMARY KEY,
    request bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Compression would cost more than it saves, and encrypted requests cannot be compressed.
ALTER TABLE sealgate.event_request ALTER COLUMN request SET STORAGE EXTERNAL;

CREATE UNIQUE INDEX event_record ON sealgate.event (record) WHERE record IS NOT NULL;
CREATE INDEX event_event_id ON sealgate.event (event_id) WHERE event_id IS NOT NULL;
-- What is due, whatever the number of events that are not.
CREATE INDEX event_due ON sealgate.event (route, next_attempt) WHERE state = 0;
CREATE INDEX event_leased ON sealgate.event (route, lease_ends) WHERE state = 1;
CREATE INDEX event_order ON sealgate.event (order_key, sequence)
    WHERE order_key IS NOT NULL AND state < 2;
-- What retention removes.
CREATE INDEX event_kept ON sealgate.event (state, since) WHERE state >= 2;

-- The only row: the digest of the key with which events are encrypted (empty without a key), and
-- how much is stored.
CREATE TABLE sealgate.event_store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    key_digest bytea NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT to_timestamp(0),
    bytes bigint NOT NULL DEFAULT 0
);

CREATE FUNCTION sealgate.lock_order(_order bytea) RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT pg_advisory_xact_lock(1936023916, hashtext(encode(_order, 'hex')));
END;

-- Returns whether the attempt of an event may begin as far as its order is concerned: no other
-- event of the order is in flight, and no earlier one is unsettled.
CREATE FUNCTION sealgate.has_turn(_id bytea, _order bytea, _sequence bigint) RETURNS boolean
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT NOT EXISTS (
        SELECT FROM sealgate.event
        WHERE order_key = _order AND state < 2 AND id <> _id
            AND (sequence < _sequence OR state = 1));
END;

-- Stores an event, unless one with the same replay record is stored. `_state` 1 asks for the first
-- attempt to begin at once. Results: 'pending' and 'begun' for the stored event, 'revived', 'known'
-- (nothing changed), and 'replace' if the event must take the new request (nothing changed).
CREATE FUNCTION sealgate.event_accept(
    _id bytea, _route text, _record bytea, _event_id bytea, _order bytea, _state smallint,
    _received bigint, _next bigint, _expires bigint, _attempts integer, _duplicate boolean,
    _entry bytea, _request bytea, _token bigint, _lease bigint,
    OUT result text, OUT stored_id bytea
)
LANGUAGE plpgsql AS $$
DECLARE
    _begins boolean;
    _found sealgate.event;
BEGIN
    LOOP
        _begins := _state = 1;
        IF _order IS NOT NULL THEN
            -- The order of acceptance is the order in which the transactions end.
            PERFORM sealgate.lock_order(_order);
            _begins := _begins AND NOT EXISTS (
                SELECT FROM sealgate.event WHERE order_key = _order AND state < 2);
        END IF;
        INSERT INTO sealgate.event
            (id, route, state, record, event_id, order_key, received, since, next_attempt, expires,
             attempts, possible_duplicate, redelivery, token, lease_ends, has_request, bytes, entry)
        VALUES
            (_id, _route, CASE WHEN _begins THEN 1 ELSE 0 END, _record, _event_id, _order,
             _received, _received, CASE WHEN _begins THEN NULL ELSE COALESCE(_next, _received) END,
             _expires, CASE WHEN _state = 1 AND NOT _begins THEN _attempts - 1 ELSE _attempts END,
             _duplicate, false, _token, CASE WHEN _begins THEN sealgate.after(_lease) END, true,
             length(_entry) + length(_request) + 500, _entry)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            INSERT INTO sealgate.event_request VALUES (_id, _request);
            result := CASE WHEN _begins THEN 'begun' ELSE 'pending' END;
            stored_id := _id;
            IF NOT _begins THEN
                PERFORM pg_notify('sealgate_events', '');
            END IF;
            RETURN;
        END IF;
        -- The statement may be a repetition of one whose reply was lost.
        SELECT * INTO _found FROM sealgate.event WHERE id = _id;
        IF FOUND THEN
            result := CASE WHEN _found.state = 1 AND _found.token = _token
                THEN 'begun' ELSE 'pending' END;
            stored_id := _id;
            RETURN;
        END IF;
        SELECT * INTO _found FROM sealgate.event WHERE record = _record;
        IF FOUND THEN
            stored_id := _found.id;
            IF _found.state = 5 OR (_found.state = 2 AND _duplicate) THEN
                result := 'replace';
                RETURN;
            ELSIF _found.state <> 3 THEN
                result := 'known';
                RETURN;
            ELSIF sealgate.event_revive(_record, COALESCE(_next, _received), _expires) THEN
                result := 'revived';
                RETURN;
            END IF;
        END IF;
    END LOOP;
END
$$;

-- Makes a dead event pending again; returns whether there was one.
CREATE FUNCTION sealgate.event_revive(_record bytea, _next bigint, _expires bigint)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sealgate.event
    SET state = 0, next_attempt = _next, expires = _expires, redelivery = false,
        version = version + 1
    WHERE record = _record AND state = 3;
    IF FOUND THEN
        PERFORM pg_notify('sealgate_events', '');
    END IF;
    RETURN FOUND;
END
$$;

-- Begins an attempt of each event that is due, at most `_limit`, with ascending tokens. An event
-- whose lease has expired is due: its outcome is unknown. Returns the events after that, because
-- the calling statement would see them as they were before.
CREATE FUNCTION sealgate.event_take(
    _route text, _now bigint, _limit integer, _token bigint, _lease bigint
)
RETURNS TABLE (taken sealgate.event, request bytea)
LANGUAGE plpgsql AS $$
DECLARE
    _candidate bytea;
    _row sealgate.event;
    _count integer := 0;
BEGIN
    FOR _candidate IN
        (SELECT id FROM sealgate.event
         WHERE route = _route AND state = 1 AND lease_ends <= clock_timestamp()
         ORDER BY lease_ends LIMIT _limit)
        UNION ALL
        (SELECT id FROM sealgate.event
         WHERE route = _route AND state = 0 AND next_attempt <= _now
            AND (order_key IS NULL OR sealgate.has_turn(id, order_key, sequence))
         ORDER BY next_attempt LIMIT 2 * _limit)
    LOOP
        EXIT WHEN _count = _limit;
        SELECT * INTO _row FROM sealgate.event
        WHERE id = _candidate AND ((state = 0 AND next_attempt <= _now)
            OR (state = 1 AND lease_ends <= clock_timestamp()))
        FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        IF _row.order_key IS NOT NULL THEN
            -- The next statement sees what other transactions did under the lock.
            CONTINUE WHEN NOT pg_try_advisory_xact_lock(
                1936023916, hashtext(encode(_row.order_key, 'hex')));
            CONTINUE WHEN NOT sealgate.has_turn(_row.id, _row.order_key, _row.sequence);
        END IF;
        UPDATE sealgate.event
        SET state = 1, attempts = attempts + 1, next_attempt = NULL, again = false,
            possible_duplicate = possible_duplicate OR _row.state = 1,
            token = _token + _count, lease_ends = sealgate.after(_lease), version = version + 1
        WHERE id = _candidate RETURNING * INTO taken;
        SELECT r.request INTO request FROM sealgate.event_request r WHERE r.id = _candidate;
        _count := _count + 1;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Begins a new attempt, at once or after the one in flight. Results: 'started', 'unknown' and
-- 'not kept'.
CREATE FUNCTION sealgate.event_redeliver(_id bytea, _now bigint, _expires bigint) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE sealgate.event
    SET redelivery = true, expires = _expires, again = again OR state = 1,
        next_attempt = CASE WHEN state = 1 THEN NULL ELSE _now END,
        state = CASE WHEN state = 1 THEN 1 ELSE 0 END, version = version + 1
    WHERE id = _id AND has_request;
    IF FOUND THEN
        PERFORM pg_notify('sealgate_events', '');
        RETURN 'started';
    END IF;
    PERFORM FROM sealgate.event WHERE id = _id;
    RETURN CASE WHEN FOUND THEN 'not kept' ELSE 'unknown' END;
END
$$;

-- Forgets the replay record of an event, and removes it if it is pending or dead.
CREATE FUNCTION sealgate.event_forget(_id bytea) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM sealgate.event WHERE id = _id AND state IN (0, 3);
    IF FOUND THEN
        DELETE FROM sealgate.event_request WHERE id = _id;
    ELSE
        UPDATE sealgate.event SET record = NULL, version = version + 1 WHERE id = _id;
    END IF;
END
$$;

-- Removes at most `_limit` events in a state that were last changed before `_before`, the oldest
-- first; returns their number and bytes.
CREATE FUNCTION sealgate.event_remove(
    _state smallint, _before bigint, _limit bigint, OUT removed bigint, OUT bytes bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    _ids bytea[];
BEGIN
    SELECT array_agg(e.id), count(*), COALESCE(sum(e.bytes), 0) INTO _ids, removed, bytes
    FROM (
        SELECT id, event.bytes FROM sealgate.event
        WHERE state = _state AND state >= 2 AND since < _before
        ORDER BY since LIMIT _limit FOR UPDATE SKIP LOCKED
    ) e;
    DELETE FROM sealgate.event WHERE id = ANY (_ids);
    DELETE FROM sealgate.event_request WHERE id = ANY (_ids);
END
$$;

-- Returns how much is stored; measured once a minute for all processes.
CREATE FUNCTION sealgate.event_bytes() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    _sum bigint;
BEGIN
    PERFORM FROM sealgate.event_store
    WHERE measured_at < clock_timestamp() - interval '55 seconds' FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        SELECT COALESCE(sum(bytes), 0) INTO _sum FROM sealgate.event;
        UPDATE sealgate.event_store SET bytes = _sum, measured_at = clock_timestamp();
        RETURN _sum;
    END IF;
    SELECT bytes INTO _sum FROM sealgate.event_store;
    RETURN COALESCE(_sum, 0);
END
$$;
