//! Paths to related objects (contract A.1.2), from the host's root.

use twinmesh_protocol::wire::Link;

use super::AppState;

const ENTITY: &[&str] = &["GET", "PATCH", "DELETE"];

impl AppState {
    /// A path of the API, from the host's root.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.api_path())
    }

    /// To one related object of a noun whose verbs are GET, PATCH and DELETE.
    pub(crate) fn link(&self, noun: &str, id: impl Into<i64>) -> Link {
        self.link_with(noun, id, ENTITY)
    }

    /// To one related task.
    pub(crate) fn task_link(&self, id: impl Into<i64>) -> Link {
        self.link_with("task", id, &["GET", "DELETE"])
    }

    /// To one related run or result.
    pub(crate) fn run_link(&self, noun: &str, id: impl Into<i64>) -> Link {
        self.link_with(noun, id, &["GET", "PATCH"])
    }

    /// To many: `/api/run?task_id=1`.
    pub(crate) fn many(&self, noun: &str, by: &str, id: impl Into<i64>) -> String {
        format!("{}/{noun}?{by}={}", self.api_path(), id.into())
    }

    fn link_with(&self, noun: &str, id: impl Into<i64>, methods: &[&str]) -> Link {
        let id = id.into();
        Link {
            id,
            link: format!("{}/{noun}/{id}", self.api_path()),
            methods: methods.iter().map(ToString::to_string).collect(),
        }
    }
}
