-- Payloads that are kept outside of the rows, and what is kept for how long.

-- Stored pieces, by what is in them. The number is part of the key under which a piece is stored, so that no key is
-- used twice.
CREATE TABLE segment (
    id {identity},
    -- SHA-256 in hex.
    digest TEXT NOT NULL CONSTRAINT segment_digest_unique UNIQUE,
    size BIGINT NOT NULL,
    -- Whether it is known to be stored, and not only about to be.
    stored BIGINT NOT NULL,
    -- When it was last needed.
    touched_at BIGINT NOT NULL
);

-- Pieces that nobody needs and that are being removed from where they are stored.
CREATE TABLE doomed_segment (
    id BIGINT PRIMARY KEY,
    digest TEXT NOT NULL
);

-- Uploads, whole or not.
CREATE TABLE object (
    id {identity},
    uuid TEXT NOT NULL CONSTRAINT object_uuid_unique UNIQUE,
    -- `uploading` or `complete`.
    state TEXT NOT NULL CHECK (state IN ('uploading', 'complete')),
    -- How much of it is there.
    size BIGINT NOT NULL,
    -- The state of the SHA-256 over what is there, in hex; null once complete.
    hash_state TEXT,
    -- SHA-256 of the whole in hex, and `plain`, `sealed`, `vantage6_envelope` or `malformed`; null until complete.
    digest TEXT,
    form TEXT,
    -- Who uploads: `user`, `node` or `run`, and their id; and for which organization.
    uploader_kind TEXT NOT NULL,
    uploader_id BIGINT NOT NULL,
    organization_id BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    touched_at BIGINT NOT NULL
);
CREATE INDEX object_by_organization ON object (organization_id);

CREATE TABLE object_segment (
    object_id BIGINT NOT NULL REFERENCES object (id) ON DELETE CASCADE,
    -- Where in the object the segment begins.
    start BIGINT NOT NULL,
    segment_id BIGINT NOT NULL REFERENCES segment (id),
    PRIMARY KEY (object_id, start)
);
CREATE INDEX object_segment_by_segment ON object_segment (segment_id);

-- Where these are set, `input` and `result` hold the object's UUID.
ALTER TABLE run ADD COLUMN input_object BIGINT REFERENCES object (id);
ALTER TABLE run ADD COLUMN result_object BIGINT REFERENCES object (id);
CREATE INDEX run_by_input_object ON run (input_object) WHERE input_object IS NOT NULL;
CREATE INDEX run_by_result_object ON run (result_object) WHERE result_object IS NOT NULL;

-- What has an age at which it is removed.
CREATE INDEX run_with_input ON run (finished_at) WHERE finished_at IS NOT NULL AND input IS NOT NULL;
CREATE INDEX run_with_result ON run (finished_at) WHERE finished_at IS NOT NULL AND result IS NOT NULL;
CREATE INDEX run_with_log ON run (finished_at) WHERE finished_at IS NOT NULL AND log IS NOT NULL;

-- When something that one of several coordinators does for all is to be done next.
CREATE TABLE chore (
    name TEXT PRIMARY KEY,
    due_at BIGINT NOT NULL
);
INSERT INTO chore (name, due_at) VALUES ('tidy', 0);
