-- Clients: the tenants, each with keys, limits and a bill.
--
-- An older `clients` is completed in place if its primary key is `id uuid` and it holds raw keys in
-- `api_key text`: columns that are missing are added, everything in it stays. Whatever else bears
-- the name is refused before any change, with all reasons at once.
BEGIN;

-- The lock the binary holds while it migrates: psql waits for it, and it for psql.
DO $$ BEGIN PERFORM pg_advisory_xact_lock(122472946102121); END $$;
CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    bigint      PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text,
    applied_at timestamptz NOT NULL DEFAULT now()
);
DO $$
DECLARE
    older    regclass := to_regclass('clients');
    problems text[]   := '{}';
    one      record;
    bad_rows bigint;
BEGIN
    IF EXISTS (SELECT FROM octroi_migrations WHERE version = 1) THEN
        RAISE EXCEPTION 'migration 1 is applied already; nothing was changed';
    ELSIF older IS NULL THEN
        RETURN;
    END IF;

    SELECT INTO one relkind = 'r' AND NOT relispartition AS ordinary, relnamespace::regnamespace::text AS home
    FROM pg_class WHERE oid = older;
    IF NOT one.ordinary THEN
        problems := problems || 'it is no ordinary table: rename it'::text;
    ELSIF one.home <> quote_ident(current_schema()) THEN
        problems := problems || format('it is in the schema %s, and new tables would go to %s: set search_path to one '
                                       'of them', one.home, quote_ident(current_schema()));
    END IF;

    FOR one IN
        SELECT wanted.name, wanted.type, wanted.required, format_type(a.atttypid, NULL) AS present,
               coalesce(a.attgenerated <> '', false) AS generated
        FROM (VALUES (1, 'id', 'uuid', true), (2, 'api_key', 'text', true), (3, 'name', 'text', false),
                     (4, 'status', 'text', false), (5, 'api_key_hash', 'text', false),
                     (6, 'api_key_pepper_version', 'integer', false), (7, 'rate', 'text', false),
                     (8, 'burst', 'bigint', false), (9, 'plan_id', 'uuid', false), (10, 'metadata', 'jsonb', false),
                     (11, 'created_at', 'timestamp with time zone', false),
                     (12, 'updated_at', 'timestamp with time zone', false)
             ) AS wanted (place, name, type, required)
        LEFT JOIN pg_attribute a
            ON a.attrelid = older AND a.attname = wanted.name AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY wanted.place
    LOOP
        IF one.present IS NULL THEN
            IF one.required THEN
                problems := problems || format(
                    'column "%s" is missing: only a table with the primary key "id" uuid and raw keys in "api_key" '
                    'text can be completed', one.name);
            END IF;
        ELSIF one.present <> one.type THEN
            problems := problems || format(
                'column "%s" is %s and must be %s: %s', one.name, one.present, one.type,
                CASE
                    WHEN one.name = 'id' THEN 'give the clients uuids first'
                    WHEN one.present LIKE 'character%' AND one.type = 'text'
                        OR one.present = 'integer' AND one.type = 'bigint'
                        OR one.present = 'smallint' AND one.type IN ('bigint', 'integer')
                        THEN format('ALTER TABLE clients ALTER COLUMN %I TYPE %s', one.name, one.type)
                    WHEN one.present = 'json' AND one.type = 'jsonb'
                        THEN format('ALTER TABLE clients ALTER COLUMN %I TYPE jsonb USING %1$I::jsonb', one.name)
                    WHEN one.present = 'timestamp without time zone'
                        THEN format('ALTER TABLE clients ALTER COLUMN %I TYPE timestamptz USING %1$I AT TIME ZONE '
                                    '''UTC''', one.name)
                    ELSE format('ALTER TABLE clients RENAME COLUMN %I TO %I', one.name, 'former_' || one.name)
                END);
        ELSIF one.generated THEN
            problems := problems || format(
                'column "%s" is generated and must be written: ALTER TABLE clients ALTER COLUMN %1$I DROP EXPRESSION',
                one.name);
        END IF;
    END LOOP;

    IF problems = '{}' AND NOT EXISTS (
        SELECT FROM pg_constraint p JOIN pg_attribute a ON a.attrelid = p.conrelid AND p.conkey = ARRAY[a.attnum]
        WHERE p.conrelid = older AND p.contype = 'p' AND a.attname = 'id')
    THEN
        problems := problems || 'column "id" is not the primary key: ALTER TABLE clients ADD PRIMARY KEY (id)'::text;
    END IF;
    FOR one IN
        SELECT tgname AS name FROM pg_trigger
        WHERE tgrelid = older
          AND tgname IN ('clients_inserted', 'clients_updated', 'clients_deleted', 'clients_truncated')
    LOOP
        problems := problems || format(
            'trigger "%s" has the name of one of ours: ALTER TRIGGER %1$I ON clients RENAME TO %I', one.name,
            'former_' || one.name);
    END LOOP;

    IF problems = '{}' THEN
        -- Who waits for this lock holds up everybody behind: better to fail and be run again.
        PERFORM set_config('lock_timeout', '10s', true);
        LOCK TABLE clients IN ACCESS EXCLUSIVE MODE;
        FOR one IN
            SELECT checked.* FROM (VALUES
                ('status', $c$ status NOT IN ('active', 'suspended') $c$, 'must be ''active'' or ''suspended'''),
                ('api_key_hash', $c$ api_key_hash !~ '^[0-9a-f]{64}$' $c$, 'must be 64 lower-case hex digits'),
                ('api_key_hash', $c$ api_key_hash IN (
                    SELECT api_key_hash FROM clients GROUP BY api_key_hash HAVING count(*) > 1) $c$, 'must be unique'),
                ('rate', $c$ rate !~ '^[1-9][0-9]*/[smhd]$' $c$, 'must be like ''100/s'''),
                ('burst', $c$ burst NOT BETWEEN 1 AND 4294967295 $c$, 'must be at least 1'),
                ('metadata', $c$ jsonb_typeof(metadata) <> 'object' $c$, 'must be a JSON object'),
                ('created_at', $c$ NOT isfinite(created_at) $c$, 'must be a time'),
                ('updated_at', $c$ NOT isfinite(updated_at) $c$, 'must be a time')
            ) AS checked (name, condition, rule)
            JOIN pg_attribute a ON a.attrelid = older AND a.attname = checked.name AND NOT a.attisdropped
        LOOP
            EXECUTE 'SELECT count(*) FROM clients WHERE ' || one.condition INTO bad_rows;
            IF bad_rows > 0 THEN
                problems := problems || format(
                    'column "%s" %s, and is not in %s rows: mend them, or ALTER TABLE clients RENAME COLUMN %1$I TO %4$I',
                    one.name, one.rule, bad_rows, 'former_' || one.name);
            END IF;
        END LOOP;
    END IF;

    IF problems <> '{}' THEN
        RAISE EXCEPTION 'a table "clients" that Octroi did not make is in the way and cannot be completed; nothing was '
                        'changed; %', array_to_string(problems, '; ')
            USING HINT = 'Mend what is named and run this again. Else: Rename it, or give Octroi a database or schema '
                         'of its own.';
    END IF;
END $$;

CREATE TABLE IF NOT EXISTS clients (
    id                     uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name                   text        NOT NULL CHECK (name <> ''),
    status                 text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    -- A hash from before `api_keys`; look-ups accept it as that client's credential.
    -- 64 lower-case hex digits, or no look-up would ever find it.
    api_key_hash           text        UNIQUE CHECK (api_key_hash ~ '^[0-9a-f]{64}$'),
    api_key_pepper_version integer,
    rate                   text,
    burst                  bigint      CHECK (burst > 0),
    plan_id                uuid,
    metadata               jsonb       NOT NULL DEFAULT '{}',
    created_at             timestamptz NOT NULL DEFAULT now(),
    updated_at             timestamptz NOT NULL DEFAULT now()
);

-- Completes an older table; one of ours has no `api_key`.
DO $$
DECLARE
    named_by text;
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'clients'::regclass AND attname = 'api_key' AND NOT attisdropped)
    THEN
        RETURN;
    END IF;

    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'clients'::regclass AND attname = 'name' AND NOT attisdropped)
    THEN
        SELECT string_agg(format('nullif(btrim(%I), ''''), ', attname), '' ORDER BY attname) INTO named_by
        FROM pg_attribute
        WHERE attrelid = 'clients'::regclass AND attnum > 0 AND NOT attisdropped
          AND attname IN ('client_name', 'company', 'company_name', 'display_name')
          AND atttypid IN ('text'::regtype, 'character varying'::regtype);
        ALTER TABLE clients ADD COLUMN name text;
        -- Not an UPDATE: triggers of the older application are none of this business.
        EXECUTE format('ALTER TABLE clients ALTER COLUMN name TYPE text USING left(coalesce(%s ''client '' || id), 200)',
                       coalesce(named_by, ''));
    END IF;
    ALTER TABLE clients
        ADD COLUMN IF NOT EXISTS status                 text        DEFAULT 'active',
        ADD COLUMN IF NOT EXISTS api_key_hash           text,
        ADD COLUMN IF NOT EXISTS api_key_pepper_version integer,
        ADD COLUMN IF NOT EXISTS rate                   text,
        ADD COLUMN IF NOT EXISTS burst                  bigint,
        ADD COLUMN IF NOT EXISTS plan_id                uuid,
        ADD COLUMN IF NOT EXISTS metadata               jsonb       DEFAULT '{}',
        ADD COLUMN IF NOT EXISTS created_at             timestamptz DEFAULT now(),
        ADD COLUMN IF NOT EXISTS updated_at             timestamptz DEFAULT now();
    UPDATE clients
    SET name = coalesce(nullif(name, ''), 'client ' || id), status = coalesce(status, 'active'),
        metadata = coalesce(metadata, '{}'), created_at = coalesce(created_at, updated_at, now()),
        updated_at = coalesce(updated_at, created_at, now())
    WHERE coalesce(name, '') = '' OR num_nulls(status, metadata, created_at, updated_at) > 0;
    SET CONSTRAINTS ALL IMMEDIATE;

    ALTER TABLE clients
        ALTER COLUMN name SET NOT NULL,
        ALTER COLUMN status SET NOT NULL,
        ALTER COLUMN status SET DEFAULT 'active',
        ALTER COLUMN metadata SET NOT NULL,
        ALTER COLUMN metadata SET DEFAULT '{}',
        ALTER COLUMN created_at SET NOT NULL,
        ALTER COLUMN created_at SET DEFAULT now(),
        ALTER COLUMN updated_at SET NOT NULL,
        ALTER COLUMN updated_at SET DEFAULT now(),
        -- What an inserter owes is a name: these may stay empty.
        ALTER COLUMN api_key DROP NOT NULL,
        ALTER COLUMN api_key_hash DROP NOT NULL,
        ALTER COLUMN api_key_pepper_version DROP NOT NULL,
        ALTER COLUMN rate DROP NOT NULL,
        ALTER COLUMN burst DROP NOT NULL,
        ALTER COLUMN plan_id DROP NOT NULL,
        ADD CHECK (name <> ''),
        ADD CHECK (status IN ('active', 'suspended')),
        ADD CHECK (api_key_hash ~ '^[0-9a-f]{64}$'),
        ADD CHECK (burst > 0);
    IF NOT EXISTS (
        SELECT FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
        WHERE d.adrelid = 'clients'::regclass AND a.attname = 'id')
    THEN
        ALTER TABLE clients ALTER COLUMN id SET DEFAULT gen_random_uuid();
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND i.indkey::text = a.attnum::text
        WHERE i.indrelid = 'clients'::regclass AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
          AND a.attname = 'api_key_hash')
    THEN
        ALTER TABLE clients ADD UNIQUE (api_key_hash);
    END IF;
END $$;
CREATE INDEX IF NOT EXISTS clients_name ON clients (name);
CREATE INDEX IF NOT EXISTS clients_listing ON clients (created_at, id);

INSERT INTO octroi_migrations (version, name) VALUES (1, 'create_clients');
COMMIT;
