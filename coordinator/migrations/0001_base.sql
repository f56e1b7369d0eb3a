-- The entities of the v4 contract (section A.5) and what the coordinator keeps besides.
--
-- One text for SQLite and PostgreSQL: `{identity}` becomes the engine's own way to number rows, and
-- `{identity_from_8}` one that leaves the first seven to the program. Instants are microseconds since 1970 in UTC,
-- truth values are 0 or 1, everything else is text or a whole number.

-- Users and nodes share one sequence of ids.
CREATE TABLE authenticatable (
    id {identity},
    kind TEXT NOT NULL CHECK (kind IN ('user', 'node')),
    ip TEXT,
    last_seen BIGINT,
    status TEXT
);

CREATE TABLE organization (
    id {identity},
    name TEXT NOT NULL CONSTRAINT organization_name_unique UNIQUE,
    domain TEXT,
    address1 TEXT,
    address2 TEXT,
    zipcode TEXT,
    country TEXT,
    -- Base64 of the PEM text, byte for byte as it was uploaded.
    public_key TEXT
);

CREATE TABLE collaboration (
    id {identity},
    name TEXT NOT NULL CONSTRAINT collaboration_name_unique UNIQUE,
    encrypted BIGINT NOT NULL
);

CREATE TABLE collaboration_organization (
    collaboration_id BIGINT NOT NULL REFERENCES collaboration (id) ON DELETE CASCADE,
    organization_id BIGINT NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    PRIMARY KEY (collaboration_id, organization_id)
);
CREATE INDEX collaboration_organization_by_organization ON collaboration_organization (organization_id);

CREATE TABLE study (
    id {identity},
    name TEXT NOT NULL CONSTRAINT study_name_unique UNIQUE,
    collaboration_id BIGINT NOT NULL REFERENCES collaboration (id)
);
CREATE INDEX study_by_collaboration ON study (collaboration_id);

CREATE TABLE study_organization (
    study_id BIGINT NOT NULL REFERENCES study (id) ON DELETE CASCADE,
    organization_id BIGINT NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    PRIMARY KEY (study_id, organization_id)
);
CREATE INDEX study_organization_by_organization ON study_organization (organization_id);

CREATE TABLE node (
    id BIGINT PRIMARY KEY REFERENCES authenticatable (id),
    name TEXT NOT NULL CONSTRAINT node_name_unique UNIQUE,
    -- SHA-256 of the API key in hex; the key itself is random enough to need no slower hash.
    api_key_hash TEXT NOT NULL CONSTRAINT node_api_key_unique UNIQUE,
    organization_id BIGINT NOT NULL REFERENCES organization (id),
    collaboration_id BIGINT NOT NULL REFERENCES collaboration (id),
    CONSTRAINT node_pair_unique UNIQUE (organization_id, collaboration_id)
);
CREATE INDEX node_by_collaboration ON node (collaboration_id);

CREATE TABLE node_config (
    id {identity},
    node_id BIGINT NOT NULL REFERENCES node (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL
);
CREATE INDEX node_config_by_node ON node_config (node_id);

CREATE TABLE user_account (
    id BIGINT PRIMARY KEY REFERENCES authenticatable (id),
    username TEXT NOT NULL CONSTRAINT user_username_unique UNIQUE,
    password_hash TEXT NOT NULL,
    firstname TEXT,
    lastname TEXT,
    email TEXT CONSTRAINT user_email_unique UNIQUE,
    organization_id BIGINT NOT NULL REFERENCES organization (id),
    failed_login_attempts BIGINT NOT NULL DEFAULT 0,
    last_login_attempt BIGINT,
    otp_secret TEXT,
    last_email_failed_login_sent BIGINT,
    last_email_recover_password_sent BIGINT
);
CREATE INDEX user_by_organization ON user_account (organization_id);

-- The rules themselves (1 to 86) are part of the program; so are the built-in roles, which are written here at start.
CREATE TABLE role (
    id {identity_from_8},
    name TEXT NOT NULL,
    description TEXT,
    organization_id BIGINT REFERENCES organization (id),
    is_default_role BIGINT NOT NULL
);
CREATE INDEX role_by_organization ON role (organization_id);

CREATE TABLE role_rule (
    role_id BIGINT NOT NULL REFERENCES role (id) ON DELETE CASCADE,
    rule_id BIGINT NOT NULL,
    PRIMARY KEY (role_id, rule_id)
);

CREATE TABLE user_role (
    user_id BIGINT NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
    role_id BIGINT NOT NULL REFERENCES role (id) ON DELETE CASCADE,
    PRIMARY KEY (user_id, role_id)
);
CREATE INDEX user_role_by_role ON user_role (role_id);

CREATE TABLE user_rule (
    user_id BIGINT NOT NULL REFERENCES user_account (id) ON DELETE CASCADE,
    rule_id BIGINT NOT NULL,
    PRIMARY KEY (user_id, rule_id)
);

-- Written to when a log-in fails for an account that is not there or locked, so that it takes as long as any other.
CREATE TABLE decoy (
    id BIGINT PRIMARY KEY,
    touched_at BIGINT NOT NULL
);
INSERT INTO decoy (id, touched_at) VALUES (1, 0);

-- Refresh tokens that are good for one use. Tokens that follow from one log-in are a family, which ends as a whole
-- when one of them is used twice.
CREATE TABLE refresh_token (
    -- SHA-256 of the token's id in hex.
    token_hash TEXT PRIMARY KEY,
    family TEXT NOT NULL,
    owner_id BIGINT NOT NULL REFERENCES authenticatable (id) ON DELETE CASCADE,
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);
CREATE INDEX refresh_token_by_family ON refresh_token (family);
CREATE INDEX refresh_token_by_expiry ON refresh_token (expires_at);
CREATE INDEX refresh_token_by_owner ON refresh_token (owner_id);

CREATE TABLE algorithm_store (
    id {identity},
    name TEXT NOT NULL,
    url TEXT NOT NULL,
    collaboration_id BIGINT REFERENCES collaboration (id) ON DELETE CASCADE
);

-- A user's task with all its subtasks. Its ids are never given out twice.
CREATE TABLE job (
    id {identity},
    created_at BIGINT NOT NULL
);

CREATE TABLE task (
    id {identity},
    name TEXT,
    description TEXT,
    image TEXT NOT NULL,
    collaboration_id BIGINT NOT NULL REFERENCES collaboration (id),
    study_id BIGINT REFERENCES study (id),
    job_id BIGINT NOT NULL REFERENCES job (id),
    parent_id BIGINT REFERENCES task (id),
    init_org_id BIGINT NOT NULL REFERENCES organization (id),
    init_user_id BIGINT REFERENCES user_account (id),
    algorithm_store_id BIGINT REFERENCES algorithm_store (id),
    created_at BIGINT NOT NULL,
    -- The signed manifest as JSON, and the SHA-256 of what was signed in hex: one task for each manifest.
    manifest TEXT,
    manifest_digest TEXT CONSTRAINT task_manifest_unique UNIQUE
);
CREATE INDEX task_by_collaboration ON task (collaboration_id);
CREATE INDEX task_by_study ON task (study_id);
CREATE INDEX task_by_job ON task (job_id);
CREATE INDEX task_by_parent ON task (parent_id);
CREATE INDEX task_by_organization ON task (init_org_id);
CREATE INDEX task_by_user ON task (init_user_id);

CREATE TABLE task_database (
    id {identity},
    task_id BIGINT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    label TEXT NOT NULL,
    parameters TEXT NOT NULL
);
CREATE INDEX task_database_by_task ON task_database (task_id);

CREATE TABLE run (
    id {identity},
    task_id BIGINT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    organization_id BIGINT NOT NULL REFERENCES organization (id),
    status TEXT NOT NULL,
    assigned_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT,
    cleanup_at BIGINT,
    kill_requested_at BIGINT,
    blob_storage_used BIGINT NOT NULL DEFAULT 0,
    input TEXT,
    result TEXT,
    log TEXT,
    CONSTRAINT run_pair_unique UNIQUE (task_id, organization_id)
);
CREATE INDEX run_by_organization ON run (organization_id, status);

CREATE TABLE algorithm_port (
    id {identity},
    run_id BIGINT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    port BIGINT NOT NULL,
    label TEXT
);
CREATE INDEX algorithm_port_by_run ON algorithm_port (run_id);

-- What happened, in the order in which it was committed; written in the transaction of the change it reports.
CREATE TABLE event (
    sequence {identity},
    time BIGINT NOT NULL,
    kind TEXT NOT NULL,
    collaboration_id BIGINT,
    organization_id BIGINT,
    node_id BIGINT,
    task_id BIGINT,
    parent_id BIGINT,
    job_id BIGINT,
    run_id BIGINT,
    status TEXT
);
CREATE INDEX event_by_collaboration ON event (collaboration_id, sequence);

CREATE TABLE peer (
    node_id BIGINT PRIMARY KEY REFERENCES node (id) ON DELETE CASCADE,
    -- Both are JSON.
    certificate TEXT NOT NULL,
    addresses TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- What a caller asked for under a key of its own choice, so that asking again makes nothing twice.
CREATE TABLE idempotency_key (
    -- `user:3`, `node:4` or `run:5`.
    caller TEXT NOT NULL,
    key TEXT NOT NULL,
    task_id BIGINT NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_key_by_task ON idempotency_key (task_id);
