//! What was signed for the tasks made here.
//!
//! A coordinator tells which task a number stands for, and could show an older one of ours, with its results, in place
//! of a newer one. So the digest of what was signed is kept for each task made here, and another is refused.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::{CollaborationId, TaskId};

use crate::file;

/// The version of the file's form.
const VERSION: u32 = 1;

/// How many tasks are kept, the latest ones: as many as a researcher makes in years, in a file of about 1 MB.
const KEPT: usize = 10_000;

/// Why the tasks made here cannot be kept or compared with.
#[derive(Debug, thiserror::Error)]
pub enum MadeError {
    /// The coordinator gave a number twice.
    #[error(
        "the coordinator answered with task {task}, which is another one made here before{}", remedy(.path.as_deref())
    )]
    Reused {
        /// The task.
        task: TaskId,
        /// The file that remembers the other one.
        path: Option<PathBuf>,
    },
    /// The file cannot be read.
    #[error("cannot read the tasks made here in `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the tasks made here to `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("`{path}` does not hold the tasks made here: {problem}; restore it from a backup, or remove it")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, at which place.
        problem: String,
    },
}

fn remedy(path: Option<&Path>) -> String {
    path.map_or_else(String::new, |path| {
        format!("; if it was set up anew since, remove `{}` and the pinned keys beside it", path.display())
    })
}

/// A task made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Made {
    pub(crate) task_id: TaskId,
    pub(crate) collaboration_id: Option<CollaborationId>,
    /// The digest of its manifest; none for what was sent in the open.
    pub(crate) manifest: Option<Digest>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    tasks: VecDeque<Made>,
}

/// The tasks made here, the latest last; in a file or only in memory.
#[derive(Debug, Default)]
pub(crate) struct MadeTasks {
    path: Option<PathBuf>,
    tasks: VecDeque<Made>,
}

impl MadeTasks {
    /// The tasks in the file beside one of pinned keys, or in memory.
    pub(crate) fn beside(pins: Option<&Path>) -> Self {
        Self { path: pins.map(|path| path.with_extension("tasks.json")), tasks: VecDeque::new() }
    }

    /// What is known of a task, by this process or another one.
    pub(crate) fn get(&mut self, task: TaskId) -> Result<Option<Made>, MadeError> {
        if let Some(made) = self.find(task) {
            return Ok(Some(made));
        }
        self.reload()?;
        Ok(self.find(task))
    }

    /// Remembers a task. What cannot be written is known to this process at least.
    pub(crate) fn add(&mut self, made: Made) -> Result<(), MadeError> {
        let lock = match &self.path {
            Some(path) => file::lock(path).map(Some).map_err(|source| MadeError::Write { path: path.clone(), source }),
            None => Ok(None),
        };
        let reloaded = self.reload();
        match self.find(made.task_id) {
            Some(known) if known == made => return Ok(()),
            Some(_) => return Err(MadeError::Reused { task: made.task_id, path: self.path.clone() }),
            None => self.tasks.push_back(made),
        }
        while self.tasks.len() > KEPT {
            self.tasks.pop_front();
        }
        reloaded?;
        let _lock = lock?;
        self.save()
    }

    fn find(&self, task: TaskId) -> Option<Made> {
        self.tasks.iter().rev().find(|made| made.task_id == task).copied()
    }

    /// Takes over what the file holds, and keeps what could not be written to it.
    fn reload(&mut self) -> Result<(), MadeError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(MadeError::Read { path: path.clone(), source }),
        };
        let malformed = |problem: String| MadeError::Malformed { path: path.clone(), problem };
        let content: Content = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        if content.version != VERSION {
            return Err(malformed(format!("it has version {}, known is {VERSION}", content.version)));
        }
        let mut tasks = content.tasks;
        let known: std::collections::BTreeSet<TaskId> = tasks.iter().map(|made| made.task_id).collect();
        tasks.extend(self.tasks.iter().filter(|made| !known.contains(&made.task_id)));
        self.tasks = tasks;
        Ok(())
    }

    fn save(&self) -> Result<(), MadeError> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        let write = |source| MadeError::Write { path: path.clone(), source };
        let content = Content { version: VERSION, tasks: self.tasks.clone() };
        let bytes = serde_json::to_vec(&content).map_err(|error| write(error.into()))?;
        file::replace_private(path, &bytes).map_err(write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(task: i64, text: &str) -> Made {
        Made {
            task_id: TaskId::new(task),
            collaboration_id: Some(CollaborationId::new(1)),
            manifest: Some(Digest::of(text.as_bytes())),
        }
    }

    #[test]
    fn another_process_knows_what_was_signed_and_nobody_else_may_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("pins-here.json");
        let mut one = MadeTasks::beside(Some(&pins));
        let mut two = MadeTasks::beside(Some(&pins));
        one.add(made(1, "one")).unwrap();
        two.add(made(2, "two")).unwrap();
        assert_eq!(one.get(TaskId::new(2)).unwrap(), Some(made(2, "two")));
        assert_eq!(two.get(TaskId::new(1)).unwrap(), Some(made(1, "one")));
        assert_eq!(two.get(TaskId::new(3)).unwrap(), None);
        assert!(!file::is_open_to_others(&directory.path().join("pins-here.tasks.json")).unwrap());
    }

    #[test]
    fn a_number_stands_for_one_task_for_ever() {
        let mut tasks = MadeTasks::beside(None);
        tasks.add(made(1, "one")).unwrap();
        tasks.add(made(1, "one")).unwrap();
        assert!(matches!(tasks.add(made(1, "two")), Err(MadeError::Reused { .. })));
        assert_eq!(tasks.get(TaskId::new(1)).unwrap(), Some(made(1, "one")));
    }

    #[test]
    fn a_damaged_file_is_reported_and_left_alone_while_this_process_still_knows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pins.tasks.json");
        for text in ["", "[]", "{\"version\": 2, \"tasks\": []}"] {
            fs::write(&path, text).unwrap();
            let mut tasks = MadeTasks::beside(Some(&directory.path().join("pins.json")));
            let error = tasks.add(made(1, "one")).unwrap_err().to_string();
            assert!(error.contains("pins.tasks.json"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(tasks.get(TaskId::new(1)).unwrap(), Some(made(1, "one")));
        }
    }

    proptest! {
        #[test]
        fn the_latest_are_kept_and_the_file_is_bounded(extra in 0..50_usize) {
            let mut tasks = MadeTasks::beside(None);
            tasks.tasks = (1..=KEPT as i64).map(|task| made(task, "old")).collect();
            for task in 0..extra as i64 {
                tasks.add(made(-1 - task, "new")).unwrap();
            }
            prop_assert_eq!(tasks.tasks.len(), KEPT);
            for task in 0..extra as i64 {
                prop_assert_eq!(tasks.find(TaskId::new(-1 - task)), Some(made(-1 - task, "new")));
                prop_assert_eq!(tasks.find(TaskId::new(1 + task)), None);
            }
        }
    }
}
