//! The database, for somebody at the machine: one process at a time where it is embedded, beside the coordinators where
//! it is a server.

use anyhow::Context as _;
use twinmesh_protocol::time::Time;

use crate::authn::lockout::Lockout;
use crate::authn::password::{Cost, Hasher};
use crate::clock::Clock;
use crate::config::Config;
use crate::files::{self, FileError, Lock};
use crate::store::{self, Location, Store};

/// An open database.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) store: Store,
    pub(crate) hasher: Hasher,
    pub(crate) now: Time,
    pub(crate) lockout: Lockout,
    /// The first user's password, if the database was new and none was given.
    pub(crate) new_root_password: Option<String>,
    _lock: Option<Lock>,
}

impl House {
    /// Opens the database that is there.
    ///
    /// # Errors
    /// When there is none, or a coordinator has it for itself.
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        let path = crate::sqlite_file(&config.data_dir);
        anyhow::ensure!(
            config.database.url()?.is_some() || path.exists(),
            "there is no database in `{}`\nhint: name the coordinator's directory with --data-dir, or its configuration \
             with --config",
            config.data_dir.display()
        );
        Self::open_or_make(config).await
    }

    /// Opens the database, or makes it as the first start of a coordinator would.
    ///
    /// # Errors
    /// When a coordinator has it for itself, or it cannot be had.
    pub(crate) async fn open_or_make(config: &Config) -> anyhow::Result<Self> {
        let (location, lock) = match config.database.url()? {
            Some(url) => (Location::Url(url), None),
            None => {
                let lock = match files::take(&config.data_dir) {
                    Err(FileError::InUse { path }) => anyhow::bail!(
                        "a coordinator runs on `{}`, and an embedded database is one process's at a time\nhint: stop the \
                         coordinator first; with PostgreSQL this works beside it",
                        path.display()
                    ),
                    lock => lock?,
                };
                let path = crate::sqlite_file(&config.data_dir);
                files::make_private(&path)?;
                (Location::File(path), Some(lock))
            }
        };
        let store = Store::open(&location, config.database.synchronous, 1).await.context("cannot open the database")?;
        store::setup::built_in_roles(&store).await?;
        let hasher = Hasher::new(Cost::Standard)?;
        let new_root_password = crate::make_root(&store, &hasher, config).await?;
        let lockout = Lockout {
            max_failed: config.password.max_failed_attempts.into(),
            locked_for: config.password.locked_for.0,
        };
        Ok(Self { store, hasher, now: Clock::system().now(), lockout, new_root_password, _lock: lock })
    }

    /// Lets go of the database.
    pub(crate) async fn close(self) {
        self.store.close().await;
    }
}
