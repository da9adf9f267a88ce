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

-- A line is [account, amount, limit, period, when its debt is drained]; of windows the last three are 0.
CREATE TABLE {s}.reservations (
    id text COLLATE "C" PRIMARY KEY,
    ends_at numeric NOT NULL,
    dispatched boolean NOT NULL,
    lines jsonb NOT NULL
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
RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF counted <> period THEN
        debt := div(debt * period + counted - 1, counted);
    END IF;
    IF moment > at THEN
        RETURN greatest(0, debt - (moment - at) * drain);
    END IF;
    RETURN debt;
END $$;

CREATE FUNCTION {s}.settle_line(line jsonb, spent_now numeric, moment numeric) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    named text := line ->> 0;
    amount numeric := (line ->> 1)::numeric;
    most numeric := (line ->> 2)::numeric;
    flows numeric := (line ->> 3)::numeric;
    rate {s}.rates;
    debt_now numeric;
    back numeric;
BEGIN
    IF most = 0 THEN
        UPDATE {s}.windows AS w
        SET reserved = w.reserved - amount, spent = w.spent + spent_now, forget_at = greatest(w.forget_at, moment + w.keep)
        WHERE w.account = named;
        RETURN;
    END IF;
    IF spent_now = amount THEN
        RETURN;
    END IF;
    SELECT * INTO rate FROM {s}.rates WHERE account = named FOR UPDATE;
    IF NOT FOUND OR rate.at = 0 THEN -- it was forgotten, and perhaps made anew to be locked
        rate := (named, 0, moment, most, flows);
    END IF;
    debt_now := {s}.owed(rate.debt, rate.at, rate.period, moment, rate.drain, rate.period);
    IF spent_now > amount THEN
        debt_now := debt_now + div((spent_now - amount) * flows * rate.period, flows);
    ELSE
        -- Only what still weighs on the account flows back: a rate does not save up.
        back := least((amount - spent_now) * flows, greatest(0, (line ->> 4)::numeric - moment) * most);
        debt_now := greatest(0, debt_now - div(back * rate.period + flows - 1, flows));
    END IF;
    INSERT INTO {s}.rates VALUES (named, debt_now, moment, rate.drain, rate.period)
    ON CONFLICT (account) DO UPDATE
    SET debt = excluded.debt, at = excluded.at, drain = excluded.drain, period = excluded.period;
END $$;

-- Close a reservation; at the end of its lease, as of that moment, or now at what is told: NULL settles at what was
-- reserved, no account named at all gives everything back.
CREATE FUNCTION {s}.close(held {s}.reservations, actual jsonb, moment numeric) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    line jsonb;
BEGIN
    DELETE FROM {s}.reservations WHERE id = held.id;
    FOR line IN SELECT * FROM jsonb_array_elements(held.lines) LOOP
        PERFORM {s}.settle_line(
            line,
            CASE WHEN actual IS NULL THEN 0 ELSE coalesce((actual ->> (line ->> 0))::numeric, (line ->> 1)::numeric) END,
            moment
        );
    END LOOP;
END $$;

CREATE FUNCTION {s}.end_lease(held {s}.reservations) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {s}.close(held, CASE WHEN held.dispatched THEN '{{}}'::jsonb END, held.ends_at);
END $$;

CREATE FUNCTION {s}.reserve(wanted text, lease numeric, sent boolean, claims jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment numeric := {s}.now_us();
    found_one {s}.reservations;
    claim jsonb;
    named text;
    amount numeric;
    most numeric;
    flows numeric;
    burst numeric;
    held numeric;
    excess numeric;
    helds numeric[] := '{{}}';
    lines jsonb := '[]';
    place int := 0;
    rate {s}.rates;
BEGIN
    SELECT * INTO found_one FROM {s}.reservations WHERE id = wanted;
    IF FOUND THEN
        IF found_one.ends_at > moment THEN
            RETURN 'true';
        END IF;
        PERFORM {s}.end_lease(found_one);
    END IF;
    FOR claim IN SELECT * FROM jsonb_array_elements(claims) LOOP
        named := claim ->> 1;
        amount := (claim ->> 2)::numeric;
        most := (claim ->> 3)::numeric;
        IF claim ->> 0 = 'w' THEN
            SELECT CASE WHEN w.forget_at <= moment AND w.reserved = 0 THEN 0 ELSE w.spent + w.reserved END INTO held
            FROM {s}.windows AS w WHERE w.account = named;
            IF held + amount > most THEN
                RETURN jsonb_build_array(named, greatest(0, most - held), NULL);
            END IF;
        ELSE
            flows := (claim ->> 4)::numeric;
            burst := (claim ->> 5)::numeric;
            SELECT * INTO rate FROM {s}.rates WHERE account = named;
            held := {s}.owed(rate.debt, rate.at, rate.period, moment, most, flows);
            IF rate.at > moment THEN
                -- The clock was put back: counting goes on from its new time.
                UPDATE {s}.rates SET at = moment WHERE account = named;
            END IF;
            excess := held + (amount - burst) * flows;
            IF excess > 0 THEN
                RETURN jsonb_build_array(
                    named,
                    div(greatest(0, burst * flows - held), flows),
                    CASE WHEN amount <= burst THEN div(excess + most - 1, most) END
                );
            END IF;
        END IF;
        helds := helds || held;
    END LOOP;
    FOR claim IN SELECT * FROM jsonb_array_elements(claims) LOOP
        place := place + 1;
        named := claim ->> 1;
        amount := (claim ->> 2)::numeric;
        most := (claim ->> 3)::numeric;
        flows := (claim ->> 4)::numeric;
        IF claim ->> 0 = 'w' THEN
            UPDATE {s}.windows AS w
            SET spent = CASE WHEN helds[place] = 0 THEN 0 ELSE w.spent END,
                reserved = w.reserved + amount,
                keep = flows,
                forget_at = greatest(w.forget_at, moment + flows)
            WHERE w.account = named;
            lines := lines || jsonb_build_array(jsonb_build_array(named, amount, 0, 0, 0));
        ELSE
            held := helds[place] + amount * flows;
            UPDATE {s}.rates SET debt = held, at = moment, drain = most, period = flows WHERE account = named;
            lines := lines || jsonb_build_array(
                jsonb_build_array(named, amount, most, flows, moment + div(held + most - 1, most))
            );
        END IF;
    END LOOP;
    INSERT INTO {s}.reservations VALUES (wanted, moment + lease, sent, lines);
    RETURN 'true';
END $$;

CREATE FUNCTION {s}.settle(wanted text, actual jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    moment numeric := {s}.now_us();
    held {s}.reservations;
BEGIN
    SELECT * INTO held FROM {s}.reservations WHERE id = wanted FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'false';
    END IF;
    IF held.ends_at <= moment THEN
        PERFORM {s}.end_lease(held);
        RETURN 'false';
    END IF;
    PERFORM {s}.close(held, actual, moment);
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
    IF EXISTS (SELECT FROM {s}.reservations WHERE ends_at <= moment) THEN
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
            SELECT line ->> 0 AS name, (line ->> 2)::numeric = 0 AS is_window
            FROM (
                SELECT jsonb_array_elements(e.lines) AS line FROM unnest(ended) AS e
                UNION ALL
                SELECT jsonb_array_elements(r.lines) FROM {s}.reservations AS r WHERE r.id = ANY (closing)
            ) AS all_lines
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
                    operation ->> 1, (operation ->> 2)::numeric, (operation ->> 3)::boolean, operation -> 4
                );
            WHEN 'settle' THEN
                answer := {s}.settle(operation ->> 1, operation -> 2);
            WHEN 'release' THEN
                answer := {s}.settle(operation ->> 1, NULL);
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
