-- Operations on many events in one transaction.

-- Stores events, each with its replay record if `_keys` has a key for it: the claim and the success
-- of the event are then part of the same transaction. The arrays have one element per event.
--
-- `reply` is that of `replay_claim`, 'won' for an event without a key. If it is not 'won', nothing
-- changed for that event. Otherwise, `result` and `stored_id` are those of `event_accept`, and the
-- replay record says that the event is done; with 'replace', it is only claimed.
--
-- The statement may be a repetition of one whose reply was lost: an event with the same ID is
-- stored already then.
CREATE FUNCTION sealgate.events_accept(
    _ids bytea[], _routes text[], _records bytea[], _event_ids bytea[], _orders bytea[],
    _states smallint[], _received bigint[], _next bigint[], _expires bigint[], _attempts integer[],
    _duplicates boolean[], _entries bytea[], _requests bytea[], _tokens bigint[], _lease bigint,
    _keys bytea[], _claims bytea[], _pins bytea[], _stale boolean[], _lifetimes bigint[],
    _claim_lease bigint
)
RETURNS TABLE (
    place integer, reply text, result text, stored_id bytea, unknown boolean, status integer,
    lasts bigint, answered bytea
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    _stored bytea[];
    _recorded bytea[];
    _new record;
    _claim record;
BEGIN
    -- In the same sequence in every process, so that none waits for another in a circle. Records
    -- come first, and nothing waits for one under the lock of an order.
    WITH new AS (
        SELECT * FROM unnest(
            _ids, _routes, _records, _event_ids, _orders, _states, _received, _next, _expires,
            _attempts, _duplicates, _entries, _requests, _tokens, _keys, _pins, _stale, _lifetimes
        ) AS n(
            id, route, record, event_id, order_key, state, received, next_attempt, expires,
            attempts, duplicate, entry, request, token, key, pin, stale, lifetime)
    ), recorded AS (
        INSERT INTO sealgate.replay (key, pin, state, status, expires, expiry_hour)
        SELECT n.key, n.pin, 2, 200, sealgate.after(n.lifetime),
            sealgate.hour_of(sealgate.after(n.lifetime))
        FROM new n WHERE n.key IS NOT NULL AND NOT n.stale ORDER BY n.key
        ON CONFLICT (key) DO NOTHING RETURNING replay.key
    ), stored AS (
        INSERT INTO sealgate.event
            (id, route, state, record, event_id, received, since, next_attempt, expires, attempts,
             possible_duplicate, redelivery, token, lease_ends, has_request, bytes, entry)
        SELECT n.id, n.route, n.state, n.record, n.event_id, n.received, n.received,
            CASE WHEN n.state = 1 THEN NULL ELSE COALESCE(n.next_attempt, n.received) END,
            n.expires, n.attempts, n.duplicate, false, n.token,
            CASE WHEN n.state = 1 THEN sealgate.after(_lease) END, true,
            length(n.entry) + length(n.request) + 500, n.entry
        FROM new n
        WHERE n.order_key IS NULL
            AND (n.key IS NULL OR n.key IN (SELECT r.key FROM recorded r))
        ORDER BY n.record
        ON CONFLICT DO NOTHING RETURNING event.id
    ), requests AS (
        INSERT INTO sealgate.event_request
        SELECT n.id, n.request FROM new n JOIN stored s ON s.id = n.id
    )
    SELECT COALESCE((SELECT array_agg(s.id) FROM stored s), '{}'),
        COALESCE((SELECT array_agg(r.key) FROM recorded r), '{}')
    INTO _stored, _recorded;

    RETURN QUERY SELECT n.place::integer, 'won', CASE n.state WHEN 1 THEN 'begun' ELSE 'pending' END,
        n.id, false, NULL::integer, NULL::bigint, NULL::bytea
    FROM unnest(_ids, _states) WITH ORDINALITY AS n(id, state, place) WHERE n.id = ANY (_stored);
    IF EXISTS (SELECT FROM unnest(_ids, _states) AS n(id, state)
               WHERE n.state = 0 AND n.id = ANY (_stored)) THEN
        PERFORM pg_notify('sealgate_events', '');
    END IF;
    IF cardinality(_stored) = cardinality(_ids) THEN
        RETURN;
    END IF;

    PERFORM sealgate.lock_order(o.order_key) FROM (
        SELECT DISTINCT u.order_key, hashtext(encode(u.order_key, 'hex')) AS hash
        FROM unnest(_orders) AS u(order_key) WHERE u.order_key IS NOT NULL ORDER BY hash
    ) o;
    FOR _new IN
        SELECT * FROM unnest(
            _ids, _routes, _records, _event_ids, _orders, _states, _received, _next, _expires,
            _attempts, _duplicates, _entries, _requests, _tokens, _keys, _claims, _pins, _stale,
            _lifetimes
        ) WITH ORDINALITY AS n(
            id, route, record, event_id, order_key, state, received, next_attempt, expires,
            attempts, duplicate, entry, request, token, key, claim, pin, stale, lifetime, place)
        WHERE n.id <> ALL (_stored) ORDER BY n.place
    LOOP
        place := _new.place;
        reply := 'won';
        result := NULL;
        stored_id := NULL;
        unknown := false;
        status := NULL;
        lasts := NULL;
        answered := NULL;
        IF _new.key IS NOT NULL AND _new.key <> ALL (_recorded)
            AND NOT EXISTS (SELECT FROM sealgate.event e WHERE e.id = _new.id)
        THEN
            SELECT * INTO _claim FROM sealgate.replay_claim(
                _new.key, _new.claim, _new.pin, _new.stale, _claim_lease, _new.lifetime);
            reply := _claim.reply;
            unknown := _claim.unknown;
            status := _claim.status;
            lasts := _claim.lasts;
            answered := _claim.answered;
        END IF;
        IF reply = 'won' THEN
            SELECT a.result, a.stored_id INTO result, stored_id FROM sealgate.event_accept(
                _new.id, _new.route, _new.record, _new.event_id, _new.order_key, _new.state,
                _new.received, _new.next_attempt, _new.expires, _new.attempts,
                _new.duplicate OR unknown, _new.entry, _new.request, _new.token, _lease) a;
            IF _new.key IS NULL THEN
                NULL;
            ELSIF result <> 'replace' THEN
                PERFORM sealgate.replay_done(_new.key, _new.pin, 200, _new.lifetime, '');
            ELSIF _new.key = ANY (_recorded) THEN
                UPDATE sealgate.replay r
                SET state = 0, status = 0, first = true, token = _new.claim,
                    lease_ends = sealgate.after(_claim_lease)
                WHERE r.key = _new.key;
            END IF;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Notes for done events that the 2xx was written out for more requests; returns the events that are
-- done. If a crash of the database loses this, a replay counts as a retry.
CREATE FUNCTION sealgate.replay_answered(_keys bytea[], _answered bytea[]) RETURNS SETOF bytea
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    RETURN QUERY UPDATE sealgate.replay r
        SET answered = CASE WHEN r.answered = '' THEN a.answered
            ELSE sealgate.merged(r.answered, a.answered) END
        FROM (
            -- No other statement that changes several records waits for one.
            SELECT l.key, n.answered FROM unnest(_keys, _answered) AS n(key, answered)
            JOIN sealgate.replay l ON l.key = n.key
            WHERE l.state = 2 AND l.expires > clock_timestamp()
            FOR UPDATE OF l SKIP LOCKED
        ) a
        WHERE r.key = a.key RETURNING r.key;
END
$$;
