-- Second factors, lost credentials, and the mail about them.

-- The time step of the last code that was accepted (contract A.3); null until a first code proved that the
-- authenticator has the secret.
ALTER TABLE user_account ADD COLUMN otp_last_step BIGINT;
ALTER TABLE user_account ADD COLUMN last_email_recover_two_factor_sent BIGINT;

-- Finds whether any account still has a hash by bcrypt (`$2`).
CREATE INDEX user_by_hash_kind ON user_account (substr(password_hash, 1, 2));

-- Tokens that were mailed to who lost a credential; good for one use each. A user has one of each purpose at most.
CREATE TABLE recovery_token (
    -- SHA-256 of the token in hex.
    token_hash TEXT PRIMARY KEY,
    -- `password` or `two_factor`.
    purpose TEXT NOT NULL,
    user_id BIGINT NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL,
    CONSTRAINT recovery_token_once UNIQUE (user_id, purpose)
);
CREATE INDEX recovery_token_by_expiry ON recovery_token (expires_at);

-- Mail to be sent. It is written when it is sent, so no token lies here.
CREATE TABLE outbox (
    id {identity},
    -- `recover_password`, `recover_two_factor` or `failed_log_ins`.
    kind TEXT NOT NULL,
    -- To whom. Null is what a request for an account that is not there leaves, so that it takes as long as any other.
    user_id BIGINT REFERENCES user_account (id) ON DELETE CASCADE,
    made_at BIGINT NOT NULL,
    next_try_at BIGINT NOT NULL,
    tries BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX outbox_by_next_try ON outbox (next_try_at);
CREATE INDEX outbox_by_user ON outbox (user_id);
