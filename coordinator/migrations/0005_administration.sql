-- The keys an organization has had, and what is known of links to algorithm stores.

-- The current key has no `replaced_at`; it stands in `organization` too. What was there before this table has no
-- `set_at` and no `set_by`.
CREATE TABLE organization_key (
    id {identity},
    organization_id BIGINT NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
    -- Base64 of the PEM text, byte for byte as it was uploaded.
    public_key TEXT NOT NULL,
    set_at BIGINT,
    -- `user:3`, `node:4`, or `operator` for somebody at the machine.
    set_by TEXT,
    replaced_at BIGINT
);
CREATE INDEX organization_key_by_organization ON organization_key (organization_id);
INSERT INTO organization_key (organization_id, public_key)
    SELECT id, public_key FROM organization WHERE public_key IS NOT NULL AND public_key <> '';

-- Under which address the store knows this coordinator.
ALTER TABLE algorithm_store ADD COLUMN server_url TEXT;
-- Whether somebody insisted on an address of this machine.
ALTER TABLE algorithm_store ADD COLUMN forced BIGINT NOT NULL DEFAULT 0;
CREATE INDEX algorithm_store_by_collaboration ON algorithm_store (collaboration_id);
CREATE INDEX task_by_algorithm_store ON task (algorithm_store_id);
