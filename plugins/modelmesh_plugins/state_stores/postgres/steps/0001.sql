-- Records, locks, large messages, and the books of limits.
-- {s} is the store's schema. Times are microseconds of the server's clock; all books are whole numbers of any size.

CREATE TABLE {s}.records (
    key text COLLATE "C" PRIMARY KEY,
    data bytea NOT NULL,
    version bigint NOT NULL,
    at numeric NOT NULL
);

CREATE TABLE {s}.locks (
    name text COLLATE "C" PRIMARY KEY,
    fence bigint NOT NULL,
    until numeric NOT NULL
);

CREATE SEQUENCE {s}.fences;

CREATE TABLE {s}.messages (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body bytea NOT NULL,
    at numeric NOT NULL
);

-- Accounts change in place, many times a second: half of each page is left free for that.
CREATE TABLE {s}.windows (
    account text COLLATE "C" PRIMARY KEY,
    spent numeric NOT NULL DEFAULT 0,
    reserved numeric NOT NULL DEFAULT 0,
    keep numeric NOT NULL DEFAULT 0,
    forget_at numeric NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE {s}.rates (
    account text COLLATE "C" PRIMARY KEY,
    debt numeric NOT NULL DEFAULT 0,
    at numeric NOT NULL DEFAULT 0,
    drain numeric NOT NULL DEFAULT 1,
    period numeric NOT NULL DEFAULT 1
) WITH (fillfactor = 50);

-- What is reserved on each account, in the order in which accounts are locked: windows, then rates, each by name. Of
-- windows burst is 0 and span how long they are kept, 0 for places; of rates span is their period, drained when their debt is.
CREATE TABLE {s}.reservations (
    id text COLLATE "C" PRIMARY KEY,
    ends_at numeric NOT NULL,
    dispatched boolean NOT NULL,
    accounts text[] NOT NULL,
    amounts numeric[] NOT NULL,
    limits numeric[] NOT NULL,
    spans numeric[] NOT NULL,
    bursts numeric[] NOT NULL,
    drained numeric[] NOT NULL
);

CREATE INDEX reservations_by_end ON {s}.reservations (ends_at, id);

CREATE FUNCTION {s}.now_us() RETURNS numeric LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000000)
$$;

CREATE FUNCTION {s}.lock(wanted text, lasts numeric) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    moment numeric;
    given bigint;
BEGIN
    -- One at a time for a name, so that whoever gets the lock later gets the higher number.
    PERFORM pg_advisory_xact_lock(hashtextextended('{s}.locks/' || wanted, 0));
    moment := {s}.now_us();
    IF EXISTS (SELECT FROM {s}.locks WHERE name = wanted AND until > moment) THEN
        RETURN NULL;
    END IF;
    given := nextval('{s}.fences');
    INSERT INTO {s}.locks VALUES (wanted, given, moment + lasts)
    ON CONFLICT (name) DO UPDATE SET fence = excluded.fence, until = excluded.until;
    RETURN given;
END $$;

-- What a rate owes at a moment, counted in another period if need be.
CREATE FUNCTION {s}.owed(debt numeric, at numeric, counted numeric, moment numeric, drain numeric, period numeric)
RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest(
        0,
        CASE WHEN counted = period THEN debt ELSE div(debt * period + counted - 1, counted) END
            - greatest(0, moment - at) * drain
    )
$$;

-- Whether leases have run out that nobody has ended yet. By the index, from its beginning: with many reservations open,
-- and statistics old or missing, a plan of the server's choice may read them all.
CREATE FUNCTION {s}.is_due(moment numeric) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM {s}.reservations WHERE ends_at <= moment ORDER BY ends_at, id LIMIT 1;
    RETURN FOUND;
END $$;

-- Give back to a rate what was not used, or take what was used beyond; as of a moment, or now, read under the lock.
CREATE FUNCTION {s}.settle_rate(
    named text, amount numeric, spent_now numeric, most numeric, flows numeric, drained_at numeric, moment numeric
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    rate {s}.rates;
    debt_now numeric;
    back numeric;
BEGIN
    LOOP
        SELECT * INTO rate FROM {s}.rates WHERE account = named FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO {s}.rates (account) VALUES (named) ON CONFLICT DO NOTHING;
    END LOOP;
    moment := coalesce(moment, {s}.now_us());
    IF rate.at = 0 THEN -- it was forgotten, and made anew to be locked
        rate := (named, 0, moment, most, flows);
    END IF;
    debt_now := {s}.owed(rate.debt, rate.at, rate.period, moment, rate.drain, rate.period);
    IF spent_now > amount THEN
        debt_now := debt_now + div((spent_now - amount) * flows * rate.period, flows);
    ELSE
        -- Only what still weighs on the account flows back: a rate does not save up.
        back := least((amount - spent_now) * flows, greatest(0, drained_at - moment) * most);
        debt_now := greatest(0, debt_now - div(back * rate.period + flows - 1, flows));
    END IF;
    UPDATE {s}.rates SET debt = debt_now, at = moment, drain = rate.drain, period = rate.period WHERE account = named;
END $$;

-- Book what was spent in place of what a closed reservation held; at the end of its lease as of that moment, or now
-- (ended_at is NULL) at what is told: NULL returns everything, an account not named at all counts as reserved.
CREATE FUNCTION {s}.book(held {s}.reservations, actual jsonb, ended_at numeric) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    moment numeric := coalesce(ended_at, {s}.now_us());
    spent_now numeric;
BEGIN
    FOR i IN 1 .. cardinality(held.accounts) LOOP
        spent_now := CASE WHEN actual IS NULL THEN 0
            ELSE coalesce((actual ->> held.accounts[i])::numeric, held.amounts[i]) END;
        IF held.bursts[i] = 0 THEN
            UPDATE {s}.windows AS w
            SET reserved = w.reserved - held.amounts[i],
                -- A place returns with its lease.
                spent = w.spent + CASE WHEN ended_at IS NOT NULL AND w.keep = 0 THEN 0 ELSE spent_now END,
                forget_at = greatest(w.forget_at, moment + w.keep)
            WHERE w.account = held.accounts[i];
        ELSIF spent_now <> held.amounts[i] THEN
            PERFORM {s}.settle_rate(
                held.accounts[i], held.amounts[i], spent_now, held.limits[i], held.spans[i], held.drained[i], ended_at
            );
        END IF;
    END LOOP;
END $$;

CREATE FUNCTION {s}.end_lease(held {s}.reservations) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {s}.reservations WHERE id = held.id;
    PERFORM {s}.book(held, CASE WHEN held.dispatched THEN '{{}}'::jsonb END, held.ends_at);
END $$;

-- Take what is claimed, account by account, until one refuses: then it returns false, and its caller undoes the rest.
-- Each account is locked, looked at and changed in one statement. is_locked says that all were locked before the moment
-- was read; otherwise an account that others changed after it refuses.
CREATE FUNCTION {s}.take(
    wanted text, lease numeric, sent boolean, accounts text[], amounts numeric[], limits numeric[], spans numeric[],
    bursts numeric[], moment numeric, is_locked boolean
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    drained numeric[] := '{{}}';
    drained_at numeric;
BEGIN
    FOR i IN 1 .. cardinality(accounts) LOOP
        IF bursts[i] = 0 THEN
            UPDATE {s}.windows AS w
            SET spent = CASE WHEN w.forget_at <= moment AND w.reserved = 0 THEN 0 ELSE w.spent END,
                reserved = w.reserved + amounts[i],
                keep = spans[i],
                forget_at = greatest(w.forget_at, moment + spans[i])
            WHERE w.account = accounts[i]
                AND CASE WHEN w.forget_at <= moment AND w.reserved = 0 THEN 0 ELSE w.spent + w.reserved END + amounts[i]
                    <= limits[i];
        ELSE
            UPDATE {s}.rates AS r
            SET debt = {s}.owed(r.debt, r.at, r.period, moment, limits[i], spans[i]) + amounts[i] * spans[i],
                at = moment,
                drain = limits[i],
                period = spans[i]
            WHERE r.account = accounts[i]
                AND {s}.owed(r.debt, r.at, r.period, moment, limits[i], spans[i]) <= (bursts[i] - amounts[i]) * spans[i]
                AND (is_locked OR r.at <= moment)
            RETURNING moment + div(r.debt + r.drain - 1, r.drain) INTO drained_at;
            drained[i] := drained_at;
        END IF;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
    END LOOP;
    INSERT INTO {s}.reservations VALUES (
        wanted, moment + lease, sent, accounts, amounts, limits, spans, bursts, drained
    );
    RETURN true;
END $$;

-- The first claim that is refused, in the order of places: its account, what it could grant, and when it could grant
-- the claim; NULL if all are granted. The accounts are there, and locked.
CREATE FUNCTION {s}.refusal(
    accounts text[], amounts numeric[], limits numeric[], spans numeric[], bursts numeric[], places int[], moment numeric
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    i int;
    held numeric;
    excess numeric;
    rate {s}.rates;
BEGIN
    FOREACH i IN ARRAY places LOOP
        IF bursts[i] = 0 THEN
            SELECT CASE WHEN w.forget_at <= moment AND w.reserved = 0 THEN 0 ELSE w.spent + w.reserved END INTO held
            FROM {s}.windows AS w WHERE w.account = accounts[i];
            IF held + amounts[i] > limits[i] THEN
                RETURN jsonb_build_array(accounts[i], greatest(0, limits[i] - held), NULL);
            END IF;
        ELSE
            SELECT * INTO rate FROM {s}.rates WHERE account = accounts[i];
            held := {s}.owed(rate.debt, rate.at, rate.period, moment, limits[i], spans[i]);
            IF rate.at > moment THEN
                -- The clock was put back: counting goes on from its new time.
                UPDATE {s}.rates SET at = moment WHERE account = accounts[i];
            END IF;
            excess := held + (amounts[i] - bursts[i]) * spans[i];
            IF excess > 0 THEN
                RETURN jsonb_build_array(
                    accounts[i],
                    div(greatest(0, bursts[i] * spans[i] - held), spans[i]),
                    CASE WHEN amounts[i] <= bursts[i] THEN div(excess + limits[i] - 1, limits[i]) END
                );
            END IF;
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- Reserve where all accounts are locked.
CREATE FUNCTION {s}.reserve(
    wanted text, lease numeric, sent boolean, accounts text[], amounts numeric[], limits numeric[], spans numeric[],
    bursts numeric[], places int[]
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment numeric := {s}.now_us();
    found_one {s}.reservations;
    refused jsonb;
BEGIN
    SELECT * INTO found_one FROM {s}.reservations WHERE id = wanted;
    IF FOUND THEN
        IF found_one.ends_at > moment THEN
            RETURN 'true';
        END IF;
        PERFORM {s}.end_lease(found_one);
    END IF;
    refused := {s}.refusal(accounts, amounts, limits, spans, bursts, places, moment);
    IF refused IS NULL THEN
        PERFORM {s}.take(wanted, lease, sent, accounts, amounts, limits, spans, bursts, moment, true);
    END IF;
    RETURN coalesce(refused, 'true');
END $$;

-- Settle, or release (actual is NULL), a reservation whose lease runs at this moment.
CREATE FUNCTION {s}.settle(wanted text, actual jsonb, moment numeric) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    held {s}.reservations;
BEGIN
    DELETE FROM {s}.reservations WHERE id = wanted RETURNING * INTO held;
    IF NOT FOUND THEN
        RETURN 'false';
    END IF;
    IF held.ends_at <= moment THEN
        PERFORM {s}.book(held, CASE WHEN held.dispatched THEN '{{}}'::jsonb END, held.ends_at);
        RETURN 'false';
    END IF;
    PERFORM {s}.book(held, actual, NULL);
    RETURN 'true';
END $$;

-- Make the accounts there are not yet, and lock all, in one order for everybody, so that nobody waits in a circle.
CREATE FUNCTION {s}.hold(wanted_windows text[], wanted_rates text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    held bigint;
BEGIN
    WHILE cardinality(wanted_windows) > 0 LOOP
        SELECT count(*) INTO held FROM (
            SELECT FROM {s}.windows WHERE account = ANY (wanted_windows) ORDER BY account FOR UPDATE
        ) AS each;
        EXIT WHEN held = cardinality(wanted_windows);
        INSERT INTO {s}.windows (account) SELECT name FROM unnest(wanted_windows) AS name ORDER BY name COLLATE "C"
        ON CONFLICT DO NOTHING;
    END LOOP;
    WHILE cardinality(wanted_rates) > 0 LOOP
        SELECT count(*) INTO held FROM (
            SELECT FROM {s}.rates WHERE account = ANY (wanted_rates) ORDER BY account FOR UPDATE
        ) AS each;
        EXIT WHEN held = cardinality(wanted_rates);
        INSERT INTO {s}.rates (account) SELECT name FROM unnest(wanted_rates) AS name ORDER BY name COLLATE "C"
        ON CONFLICT DO NOTHING;
    END LOOP;
END $$;

-- Carry out many operations on the books as one step; return the answer to each.
-- wanted_windows and wanted_rates name each account of the claims once, closing the reservations to settle or release.
CREATE FUNCTION {s}.ledger(operations jsonb, wanted_windows text[], wanted_rates text[], closing text[])
RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment numeric := {s}.now_us();
    ended {s}.reservations[] := '{{}}';
    held {s}.reservations;
    operation jsonb;
    answers jsonb := '[]';
    answer jsonb;
BEGIN
    IF cardinality(closing) > 0 THEN
        PERFORM 1 FROM {s}.reservations WHERE id = ANY (closing) ORDER BY id FOR UPDATE;
    END IF;
    IF {s}.is_due(moment) THEN
        -- Those that others are ending now are theirs; until they have, they count as reserved.
        ended := ARRAY(
            SELECT r FROM {s}.reservations AS r WHERE r.ends_at <= moment ORDER BY r.ends_at, r.id LIMIT 200
            FOR UPDATE SKIP LOCKED
        );
    END IF;
    IF cardinality(closing) > 0 OR cardinality(ended) > 0 THEN
        SELECT
            wanted_windows || coalesce(array_agg(DISTINCT name) FILTER (WHERE is_window AND name <> ALL (wanted_windows)), '{{}}'),
            wanted_rates || coalesce(array_agg(DISTINCT name) FILTER (WHERE NOT is_window AND name <> ALL (wanted_rates)), '{{}}')
        INTO wanted_windows, wanted_rates
        FROM (
            SELECT line.name, line.burst = 0 AS is_window
            FROM (
                SELECT e.accounts, e.bursts FROM unnest(ended) AS e
                UNION ALL
                SELECT r.accounts, r.bursts FROM {s}.reservations AS r WHERE r.id = ANY (closing)
            ) AS each, unnest(each.accounts, each.bursts) AS line (name, burst)
        ) AS named;
    END IF;
    PERFORM {s}.hold(wanted_windows, wanted_rates);
    FOREACH held IN ARRAY ended LOOP
        PERFORM {s}.end_lease(held);
    END LOOP;
    FOR operation IN SELECT * FROM jsonb_array_elements(operations) LOOP
        CASE operation ->> 0
            WHEN 'reserve' THEN
                answer := {s}.reserve(
                    operation ->> 1, (operation ->> 2)::numeric, (operation ->> 3)::boolean,
                    (operation ->> 4)::text[], (operation ->> 5)::numeric[], (operation ->> 6)::numeric[],
                    (operation ->> 7)::numeric[], (operation ->> 8)::numeric[], (operation ->> 9)::int[]
                );
            WHEN 'settle' THEN
                answer := {s}.settle(operation ->> 1, operation -> 2, {s}.now_us());
            WHEN 'release' THEN
                answer := {s}.settle(operation ->> 1, NULL, {s}.now_us());
            ELSE
                moment := {s}.now_us();
                SELECT coalesce(jsonb_object_agg(w.account, jsonb_build_array(w.spent, w.reserved)), '{{}}') INTO answer
                FROM {s}.windows AS w
                WHERE w.account IN (SELECT jsonb_array_elements_text(operation -> 1))
                    AND NOT (w.forget_at <= moment AND w.reserved = 0);
        END CASE;
        answers := answers || jsonb_build_array(answer);
    END LOOP;
    RETURN answers;
END $$;

-- One reservation alone. Most are granted: it is tried as if, and only if it is not, the accounts are locked first.
CREATE FUNCTION {s}.reserve_alone(
    wanted text, lease numeric, sent boolean, accounts text[], amounts numeric[], limits numeric[], spans numeric[],
    bursts numeric[], places int[]
) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment numeric := {s}.now_us();
BEGIN
    IF NOT {s}.is_due(moment) THEN
        BEGIN
            IF {s}.take(wanted, lease, sent, accounts, amounts, limits, spans, bursts, moment, false) THEN
                RETURN 'true';
            END IF;
            RAISE no_data_found;
        EXCEPTION WHEN no_data_found OR unique_violation THEN
            -- An account is new, refuses, or was changed after the moment; or the reservation is there already.
        END;
    END IF;
    RETURN {s}.ledger(
        jsonb_build_array(jsonb_build_array(
            'reserve', wanted, lease, sent, accounts::text, amounts::text, limits::text, spans::text, bursts::text,
            places::text
        )),
        ARRAY(SELECT name FROM unnest(accounts, bursts) AS line (name, burst) WHERE burst = 0),
        ARRAY(SELECT name FROM unnest(accounts, bursts) AS line (name, burst) WHERE burst > 0),
        '{{}}'
    ) -> 0;
END $$;

-- One settlement alone, or release (actual is NULL).
CREATE FUNCTION {s}.settle_alone(wanted text, actual jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment numeric := {s}.now_us();
BEGIN
    IF NOT {s}.is_due(moment) THEN
        RETURN {s}.settle(wanted, actual, moment);
    END IF;
    RETURN {s}.ledger(
        jsonb_build_array(jsonb_build_array(CASE WHEN actual IS NULL THEN 'release' ELSE 'settle' END, wanted, actual)),
        '{{}}', '{{}}', ARRAY[wanted]
    ) -> 0;
END $$;

-- Forget what nobody needs any more; what is in use is left for the next time.
CREATE FUNCTION {s}.sweep() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    moment numeric := {s}.now_us();
BEGIN
    DELETE FROM {s}.windows WHERE account IN (
        SELECT account FROM {s}.windows WHERE reserved = 0 AND forget_at <= moment LIMIT 1000 FOR UPDATE SKIP LOCKED
    );
    DELETE FROM {s}.rates WHERE account IN (
        SELECT account FROM {s}.rates WHERE debt <= (moment - at) * drain LIMIT 1000 FOR UPDATE SKIP LOCKED
    );
    DELETE FROM {s}.locks WHERE name IN (
        SELECT name FROM {s}.locks WHERE until <= moment LIMIT 1000 FOR UPDATE SKIP LOCKED
    );
    DELETE FROM {s}.messages WHERE id IN (
        SELECT id FROM {s}.messages WHERE at <= moment - 60000000 LIMIT 1000 FOR UPDATE SKIP LOCKED
    );
END $$;
