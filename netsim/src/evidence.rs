//! Looks for plaintext where none may be.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use camino::{Utf8Path, Utf8PathBuf};
use memchr::memmem;
use serde::Serialize;

/// Something that was planted in inputs, data or keys and must not come to light elsewhere.
#[derive(Debug, Clone)]
pub struct Marker {
    /// What it is, for people.
    pub name: String,
    /// Its bytes; at least eight, so that it is not found by chance.
    pub bytes: Vec<u8>,
}

/// A marker that came to light.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was found.
    pub marker: String,
    /// In which form.
    pub form: &'static str,
    /// Where.
    pub file: Utf8PathBuf,
}

/// What was searched and what was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Search {
    /// How many markers were looked for.
    pub markers: usize,
    /// How many files were read.
    pub files: usize,
    /// How many bytes they hold.
    pub bytes: u64,
    /// The markers that came to light.
    pub findings: Vec<Finding>,
}

/// Searches all files below a directory for markers: as they are, in hexadecimal, and in base64 wherever they may begin
/// within its groups of three bytes.
///
/// # Errors
/// When a file or directory cannot be read.
pub fn search(directory: &Utf8Path, markers: &[Marker]) -> std::io::Result<Search> {
    let needles: Vec<Needle<'_>> = markers.iter().flat_map(forms).collect();
    let mut result = Search { markers: markers.len(), ..Search::default() };
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir_utf8()? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path().to_owned());
            }
            if !kind.is_file() {
                continue;
            }
            result.look_into(entry.path(), &needles)?;
        }
    }
    Ok(result)
}

/// The same for one file.
///
/// # Errors
/// When it cannot be read.
pub fn search_file(file: &Utf8Path, markers: &[Marker]) -> std::io::Result<Search> {
    let needles: Vec<Needle<'_>> = markers.iter().flat_map(forms).collect();
    let mut result = Search { markers: markers.len(), ..Search::default() };
    result.look_into(file, &needles)?;
    Ok(result)
}

/// A marker in one of its forms.
type Needle<'a> = (&'a Marker, &'static str, Vec<u8>);

impl Search {
    /// This search and another one for the same markers as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.files += other.files;
        self.bytes += other.bytes;
        self.findings.extend(other.findings);
        self
    }

    fn look_into(&mut self, file: &Utf8Path, needles: &[Needle<'_>]) -> std::io::Result<()> {
        let content = std::fs::read(file)?;
        self.files += 1;
        self.bytes += content.len() as u64;
        for (marker, form, needle) in needles {
            if memmem::find(&content, needle).is_some() {
                self.findings.push(Finding { marker: marker.name.clone(), form, file: file.to_owned() });
            }
        }
        Ok(())
    }
}

fn forms(marker: &Marker) -> Vec<Needle<'_>> {
    let hex: String = marker.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        (marker, "plain", marker.bytes.clone()),
        (marker, "hexadecimal", hex.to_uppercase().into_bytes()),
        (marker, "hexadecimal", hex.into_bytes()),
    ];
    for before in 0..3 {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(&marker.bytes);
        let text = STANDARD_NO_PAD.encode(&bytes);
        // The first and last characters also depend on the marker's neighbours.
        let from = [0, 2, 3][before];
        let to = text.len() - usize::from(!bytes.len().is_multiple_of(3));
        forms.push((marker, "base64", text.as_bytes()[from..to].to_vec()));
    }
    forms
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn a_marker_is_found_in_every_form_and_place() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        std::fs::create_dir(root.join("below")).unwrap();
        let marker = Marker { name: "secret".into(), bytes: b"planted-123".to_vec() };
        let find = |content: &[u8]| {
            std::fs::write(root.join("below/file"), content).unwrap();
            search(root, std::slice::from_ref(&marker)).unwrap().findings.into_iter().map(|found| found.form).next()
        };
        assert_eq!(find(b"nothing here, only planted-12"), None);
        assert_eq!(find(b"xx planted-123 yy"), Some("plain"));
        assert_eq!(find(b"..706c616e7465642d313233.."), Some("hexadecimal"));
        for before in ["", "a", "ab", "abc", "abcd"] {
            for after in ["", "z", "zy", "zyx"] {
                let text = STANDARD.encode(format!("{before}planted-123{after}"));
                assert_eq!(find(text.as_bytes()), Some("base64"), "`{before}` `{after}`");
            }
        }
    }
}
