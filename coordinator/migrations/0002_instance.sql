-- What several coordinators on one database share.

-- The coordinators that are at work. Each adds to its `beat` now and then; one whose beat stands still is gone.
CREATE TABLE instance (
    id TEXT PRIMARY KEY,
    beat BIGINT NOT NULL
);

-- Which nodes follow the log, and where. A node is online while there is a row of it.
CREATE TABLE attendance (
    instance_id TEXT NOT NULL REFERENCES instance (id) ON DELETE CASCADE,
    node_id BIGINT NOT NULL REFERENCES node (id) ON DELETE CASCADE,
    PRIMARY KEY (instance_id, node_id)
);
CREATE INDEX attendance_by_node ON attendance (node_id);

-- Secrets that all of them need, in hex.
CREATE TABLE secret (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
