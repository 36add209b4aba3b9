-- Issued tokens: whose key each came from, and that ending one is a change.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS octroi_migrations (
    version    INTEGER PRIMARY KEY NOT NULL,
    name       TEXT NOT NULL,
    checksum   TEXT,
    applied_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%f000Z', 'now'))
) STRICT;

-- What a family was granted: every token of it comes from this key and may do no more.
ALTER TABLE refresh_tokens ADD COLUMN api_key_id TEXT REFERENCES api_keys (id);
ALTER TABLE refresh_tokens ADD COLUMN scopes TEXT NOT NULL DEFAULT '[]';
-- The audiences, with spaces between; null: the gateway's own.
ALTER TABLE refresh_tokens ADD COLUMN audience TEXT;
CREATE INDEX refresh_tokens_expires_at ON refresh_tokens (expires_at);

-- The family of the refresh token that it was issued with.
ALTER TABLE verification_tokens ADD COLUMN family_id TEXT;
CREATE INDEX verification_tokens_family ON verification_tokens (family_id) WHERE family_id IS NOT NULL;
CREATE INDEX verification_tokens_expires_at ON verification_tokens (expires_at);

-- A token that ends early must be forgotten as a key is. One that only became old was never
-- remembered longer, so its row goes without a word.
CREATE TRIGGER verification_tokens_updated AFTER UPDATE ON verification_tokens
WHEN OLD.jti IS NOT NEW.jti OR OLD.client_id IS NOT NEW.client_id OR OLD.api_key_id IS NOT NEW.api_key_id
     OR OLD.subject IS NOT NEW.subject OR OLD.scopes IS NOT NEW.scopes
     OR OLD.expires_at IS NOT NEW.expires_at OR OLD.revoked_at IS NOT NEW.revoked_at
BEGIN
    INSERT INTO changes (kind, client_id) VALUES ('client', OLD.client_id);
END;
CREATE TRIGGER verification_tokens_deleted AFTER DELETE ON verification_tokens
WHEN replace(OLD.expires_at, ' ', 'T') > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
BEGIN
    INSERT INTO changes (kind, client_id) VALUES ('client', OLD.client_id);
END;

INSERT INTO octroi_migrations (version, name) VALUES (11, 'add_token_families');
COMMIT;
