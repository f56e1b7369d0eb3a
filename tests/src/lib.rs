//! End-to-end stories of Twinmesh; see `e2e/`.
