-- The record of each event. `state`: 0 claimed, 1 failed, 2 done, 3 forgotten by an
-- operator and not claimed since.
CREATE TABLE sealgate.replay (
    key bytea PRIMARY KEY,
    pin bytea NOT NULL,
    state smallint NOT NULL,
    -- No attempt precedes the lease: the record is no older than it.
    first boolean NOT NULL DEFAULT false,
    -- An attempt may have reached the upstream.
    unknown boolean NOT NULL DEFAULT false,
    status integer NOT NULL DEFAULT 0,
    token bytea,
    lease_ends timestamptz,
    expires timestamptz NOT NULL,
    -- `expires` in hours since 1970. The index is on this column and not on `expires`, so that the
    -- outcome of a claim rarely changes an index.
    expiry_hour integer NOT NULL,
    -- The requests whose 2xx was written out, 16 bytes each, newest first.
    answered bytea NOT NULL DEFAULT ''
) WITH (
    fillfactor = 60,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.1
);

CREATE INDEX replay_expiry_hour ON sealgate.replay (expiry_hour);

CREATE FUNCTION sealgate.hour_of(_time timestamptz) RETURNS integer
LANGUAGE sql STABLE
RETURN floor(extract(epoch FROM _time) / 3600)::integer;

CREATE FUNCTION sealgate.after(_milliseconds bigint) RETURNS timestamptz
LANGUAGE sql VOLATILE
RETURN clock_timestamp() + _milliseconds * interval '1 millisecond';

-- Claims the lease of an event. A claim under the same token gets the same reply.
CREATE FUNCTION sealgate.replay_claim(
    _key bytea, _token bytea, _pin bytea, _stale boolean, _lease bigint, _record bigint,
    OUT reply text, OUT unknown boolean, OUT status integer, OUT lasts bigint, OUT answered bytea
)
LANGUAGE plpgsql AS $$
DECLARE
    _expires timestamptz := sealgate.after(_record);
    _row sealgate.replay;
    _known boolean;
BEGIN
    unknown := false;
    LOOP
        IF NOT _stale THEN
            INSERT INTO sealgate.replay
                (key, pin, state, first, token, lease_ends, expires, expiry_hour)
            VALUES (_key, _pin, 0, true, _token, sealgate.after(_lease), _expires,
                sealgate.hour_of(_expires))
            ON CONFLICT (key) DO NOTHING;
            IF FOUND THEN
                reply := 'won';
                RETURN;
            END IF;
        END IF;
        SELECT * INTO _row FROM sealgate.replay WHERE key = _key;
        IF NOT FOUND THEN
            IF _stale THEN
                reply := 'stale';
                RETURN;
            END IF;
            CONTINUE;
        END IF;
        _known := _row.state <> 3 AND _row.expires > clock_timestamp();
        IF NOT _known AND _stale THEN
            reply := 'stale';
            RETURN;
        ELSIF _known AND _row.pin <> _pin THEN
            reply := 'mismatch';
            RETURN;
        ELSIF _known AND _row.state = 2 THEN
            reply := 'done';
            status := _row.status;
            lasts := 1000 * extract(epoch FROM _row.expires - clock_timestamp());
            answered := _row.answered;
            RETURN;
        ELSIF _known AND _row.state = 0 AND _row.token <> _token
            AND _row.lease_ends > clock_timestamp() THEN
            reply := 'busy';
            RETURN;
        END IF;
        -- The previous holder, if any, recorded no outcome.
        unknown := _known AND (_row.unknown OR (_row.state = 0 AND _row.token <> _token));
        UPDATE sealgate.replay r
        SET pin = _pin, state = 0, token = _token, lease_ends = sealgate.after(_lease),
            first = NOT _known OR (_row.first AND _row.token = _token),
            unknown = replay_claim.unknown, status = 0, answered = '',
            expires = _expires, expiry_hour = sealgate.hour_of(_expires)
        WHERE r.key = _key AND r.state = _row.state AND r.token IS NOT DISTINCT FROM _row.token
            AND r.unknown = _row.unknown AND r.lease_ends IS NOT DISTINCT FROM _row.lease_ends
            AND r.expires = _row.expires;
        IF FOUND THEN
            reply := 'won';
            RETURN;
        END IF;
        -- Another process changed the record meanwhile.
    END LOOP;
END
$$;

-- Returns the requests of both lists, the new ones first, at most 64.
CREATE FUNCTION sealgate.merged(_known bytea, _new bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    _all bytea := '';
    _one bytea;
BEGIN
    FOR _at IN 0 .. length(_new) / 16 - 1 LOOP
        _one := substr(_new, 16 * _at + 1, 16);
        IF NOT EXISTS (
            SELECT FROM generate_series(0, length(_known) / 16 - 1) AS place
            WHERE substr(_known, 16 * place + 1, 16) = _one
        ) THEN
            _all := _all || _one;
        END IF;
    END LOOP;
    RETURN substr(_all || _known, 1, 16 * 64);
END
$$;

-- Records a success under any token, or adds answered requests to the record of one.
CREATE FUNCTION sealgate.replay_done(
    _key bytea, _pin bytea, _status integer, _record bigint, _answered bytea
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    _expires timestamptz := sealgate.after(_record);
BEGIN
    LOOP
        UPDATE sealgate.replay
        SET pin = _pin, state = 2, status = _status, unknown = false, first = false, token = NULL,
            lease_ends = NULL, expires = _expires, expiry_hour = sealgate.hour_of(_expires),
            answered = _answered
        WHERE key = _key AND (state < 2 OR expires <= clock_timestamp());
        IF FOUND THEN
            RETURN;
        END IF;
        INSERT INTO sealgate.replay (key, pin, state, status, expires, expiry_hour, answered)
        VALUES (_key, _pin, 2, _status, _expires, sealgate.hour_of(_expires), _answered)
        ON CONFLICT (key) DO NOTHING;
        IF FOUND THEN
            RETURN;
        END IF;
        IF _answered <> '' THEN
            -- If a crash of the database loses this, a replay counts as a retry.
            PERFORM set_config('synchronous_commit', 'off', true);
            UPDATE sealgate.replay SET answered = sealgate.merged(answered, _answered)
            WHERE key = _key AND state = 2;
        END IF;
        PERFORM FROM sealgate.replay WHERE key = _key AND state >= 2;
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;
END
$$;

-- Ends a lease. The pin and the mark of an attempt are recorded even if the lease is not held.
-- `_attempt`: 0 none was made, 1 it failed, 2 its outcome is unknown.
CREATE FUNCTION sealgate.replay_failed(
    _key bytea, _token bytea, _pin bytea, _attempt smallint, _status integer, _record bigint
) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    _expires timestamptz := sealgate.after(_record);
BEGIN
    IF _attempt = 0 THEN
        DELETE FROM sealgate.replay
        WHERE key = _key AND state = 0 AND token = _token AND first;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    LOOP
        UPDATE sealgate.replay
        SET state = 1, status = _status, unknown = unknown OR _attempt = 2, first = false,
            token = NULL, lease_ends = NULL, expires = _expires,
            expiry_hour = sealgate.hour_of(_expires)
        WHERE key = _key AND state = 0 AND token = _token;
        IF FOUND OR _attempt = 0 THEN
            RETURN;
        END IF;
        IF _attempt = 2 THEN
            UPDATE sealgate.replay SET unknown = true
            WHERE key = _key AND state < 2 AND expires > clock_timestamp();
            IF FOUND THEN
                RETURN;
            END IF;
        END IF;
        -- A record that has expired does not count.
        DELETE FROM sealgate.replay WHERE key = _key AND expires <= clock_timestamp();
        INSERT INTO sealgate.replay
            (key, pin, state, unknown, status, expires, expiry_hour)
        VALUES (_key, _pin, 1, _attempt = 2, _status, _expires, sealgate.hour_of(_expires))
        ON CONFLICT (key) DO NOTHING;
        IF FOUND THEN
            RETURN;
        END IF;
        PERFORM FROM sealgate.replay WHERE key = _key AND (_attempt = 1 OR state >= 2);
        IF FOUND THEN
            RETURN;
        END IF;
    END LOOP;
END
$$;

-- Forgets an event that no lease holds; returns false if one does. The mark remains as long as the
-- record would have, or for `_lifetime` if there is none.
CREATE FUNCTION sealgate.replay_forget(_key bytea, _lifetime bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    _expires timestamptz := sealgate.after(_lifetime);
BEGIN
    LOOP
        INSERT INTO sealgate.replay (key, pin, state, expires, expiry_hour)
        VALUES (_key, '', 3, _expires, sealgate.hour_of(_expires))
        ON CONFLICT (key) DO NOTHING;
        IF FOUND THEN
            RETURN true;
        END IF;
        UPDATE sealgate.replay
        SET state = 3, first = false, unknown = false, status = 0, token = NULL,
            lease_ends = NULL, answered = '',
            expires = CASE WHEN expires > clock_timestamp() THEN expires ELSE _expires END,
            expiry_hour = CASE WHEN expires > clock_timestamp() THEN expiry_hour
                ELSE sealgate.hour_of(_expires) END
        WHERE key = _key
            AND NOT (state = 0 AND lease_ends > clock_timestamp() AND expires > clock_timestamp());
        IF FOUND THEN
            RETURN true;
        END IF;
        PERFORM FROM sealgate.replay WHERE key = _key;
        IF FOUND THEN
            RETURN false;
        END IF;
    END LOOP;
END
$$;

-- Shows that the database accepts writes, and returns the version of the schema.
CREATE FUNCTION sealgate.probe(OUT version integer, OUT oldest integer)
LANGUAGE plpgsql AS $$
DECLARE
    _key bytea := uuid_send(gen_random_uuid());
BEGIN
    INSERT INTO sealgate.replay (key, pin, state, expires, expiry_hour)
    VALUES (_key, _key, 1, clock_timestamp(), 0);
    DELETE FROM sealgate.replay WHERE key = _key;
    SELECT m.version, m.oldest INTO version, oldest
    FROM sealgate.migration m ORDER BY m.version DESC LIMIT 1;
END
$$;
