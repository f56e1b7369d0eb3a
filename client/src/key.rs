//! Files that hold an organization's private key.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use twinmesh_protocol::id::OrganizationId;
use twinmesh_protocol::key::{KeyError, OrganizationKey, PrivateKey, PublicKey};
use twinmesh_protocol::time::Time;

use crate::api::{Api, ApiError};
use crate::file;
use crate::pins::{PinError, PinStore, shown_key};

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is none.
    #[error("there is no key file `{path}`")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read the key file `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write the key file `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error("`{path}` holds no private key")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// It holds a key that does not sign.
    #[error(
        "`{path}` holds an RSA key, which serves as it is, but where signatures are needed only an Ed25519 key does"
    )]
    Rsa {
        /// The file.
        path: PathBuf,
    },
}

/// What became of the wish for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyCreation {
    /// A new key was written.
    Created,
    /// The file held a key, which stays.
    Reused,
    /// A new key was written in place of another. What was sealed to the old one cannot be opened any more.
    Replaced,
}

/// Makes an organization's key in this file, as PKCS#8 PEM that only its owner may read. A key that is there is
/// reused, or with `force` replaced.
///
/// # Errors
/// When the file holds something else than a key (and `force` is not given), or cannot be read or written.
pub fn create_organization_key(path: &Path, force: bool) -> Result<(OrganizationKey, KeyCreation), KeyFileError> {
    let write = |source| KeyFileError::Write { path: path.into(), source };
    let key = OrganizationKey::generate();
    if force {
        let existed = path.try_exists().map_err(write)?;
        file::replace_private(path, key.to_pem().as_bytes()).map_err(write)?;
        return Ok((key, if existed { KeyCreation::Replaced } else { KeyCreation::Created }));
    }
    match file::create_private(path, key.to_pem().as_bytes()) {
        Ok(()) => Ok((key, KeyCreation::Created)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            read_organization_key(path).map(|key| (key, KeyCreation::Reused))
        }
        Err(error) => Err(write(error)),
    }
}

/// Reads an organization's Ed25519 key. Logs a warning when others than the owner may read the file.
///
/// # Errors
/// When there is no such file, it cannot be read, or holds something else.
pub fn read_organization_key(path: &Path) -> Result<OrganizationKey, KeyFileError> {
    match read_private_key(path)? {
        PrivateKey::Ed25519(key) => Ok(key),
        PrivateKey::Rsa(_) => Err(KeyFileError::Rsa { path: path.into() }),
    }
}

/// Reads an organization's key of either kind. Logs a warning when others than the owner may read the file.
///
/// # Errors
/// When there is no such file, it cannot be read, or holds something else.
pub fn read_private_key(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let text = fs::read_to_string(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing { path: path.into() },
        _ => KeyFileError::Read { path: path.into(), source },
    })?;
    let key = PrivateKey::from_pem(&text).map_err(|source| KeyFileError::Malformed { path: path.into(), source })?;
    if matches!(file::is_open_to_others(path), Ok(true)) {
        tracing::warn!("others may read the key file `{0}`: close it with `chmod 600 {0}`", path.display());
    }
    Ok(key)
}

/// Why a key was not brought to the coordinator.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The coordinator.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The pin.
    #[error(transparent)]
    Pin(#[from] PinError),
}

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upload {
    /// The coordinator had this key.
    Same,
    /// It had none.
    Added,
    /// It had another one.
    Replaced,
}

/// Makes sure that the coordinator shows this key for its organization, and pins it. A text that differs counts as another
/// key, because stock clients compare texts.
///
/// # Errors
/// When the coordinator refuses, or the pin cannot be written.
pub async fn upload_organization_key(
    api: &Api,
    organization: OrganizationId,
    key: &PublicKey,
    pins: &mut PinStore,
    now: Time,
) -> Result<Upload, UploadError> {
    let shown = api.organization_get(organization).await?;
    let upload = match shown_key(&shown) {
        Ok(current) if current.to_pem() == key.to_pem() => Upload::Same,
        Err(PinError::NoKey { .. }) => Upload::Added,
        Ok(_) | Err(_) => Upload::Replaced,
    };
    if upload != Upload::Same {
        api.organization_key_update(organization, key).await?;
    }
    if pins.key(organization).as_ref() != Some(key) {
        pins.set(organization, &shown.name, key.clone(), now)?;
    }
    Ok(upload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_replaced_only_on_demand() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("private_key.pem");
        let (first, creation) = create_organization_key(&path, false).unwrap();
        assert_eq!(creation, KeyCreation::Created);
        assert!(!file::is_open_to_others(&path).unwrap());
        let (again, creation) = create_organization_key(&path, false).unwrap();
        assert_eq!((again.public(), creation), (first.public(), KeyCreation::Reused));
        let (other, creation) = create_organization_key(&path, true).unwrap();
        assert_eq!(creation, KeyCreation::Replaced);
        assert_ne!(other.public(), first.public());
        assert_eq!(read_organization_key(&path).unwrap().public(), other.public());
    }

    #[test]
    fn what_is_no_key_is_neither_read_nor_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("private_key.pem");
        assert!(matches!(read_organization_key(&path), Err(KeyFileError::Missing { .. })));
        fs::write(&path, "my thesis").unwrap();
        assert!(matches!(create_organization_key(&path, false), Err(KeyFileError::Malformed { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "my thesis");
    }
}
